"""Weights trained elsewhere, brought into the names, the pixel range and the kernels used here. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in 0..1, as torchvision's weights expect it
IMAGENET_STD = (0.229, 0.224, 0.225)
LAST_BLOCK = "features.features.layer3.5."  # ResNet-50's sixth block of layer3 in a whole Ocean
# torchvision's name of a backbone, of which it has weights trained on ImageNet.
TORCHVISION = {**dict.fromkeys(("ResNet50", "ResNet_single", "ResNet_MHSA"), "resnet50"),
               **dict.fromkeys(("ViT", "ViT_B16"), "vit_b_16")}
SINGLE_BLOCK = "features_single.features.layer."
POSITIONS = 31  # side of the transformer's position table: a search map at 255 px


def fold_normalisation(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Return (kernel for BGR 0..255, bias (out,) in float64) of an unpadded convolution of normalised RGB.

    kernel (out, 3, k, k). y = W ((rgb / 255 - mean) / std) = W' bgr + b, with W' = W / (255 std) in BGR order and
    b = -sum W mean / std.
    """
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    exact = kernel.double()
    bias = -(exact * mean / std).sum((1, 2, 3))
    return (exact / (255 * std)).flip(1).to(kernel.dtype), bias


def torchvision_resnet(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return torchvision's ResNet weights under the same names, made for this trunk and for BGR crops in 0..255.

    The strided or widened 1x1 downsample kernels go to the centre of the 3x3 ones. With stride 2 and no padding that
    centre is cell 2 k + 1, where the block's own unpadded 3x3 has its centre too: both branches see the same cell, as
    in torchvision, only that torchvision's lies at 2 k. So the map is torchvision's of an input moved by one cell.
    Normalisation is folded in exactly, since conv1 has no padding; bn1's running mean takes up the bias. Half precision
    is widened first: the folded kernel's numbers would be too small for it.
    """
    weights = {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in state_dict.items()}
    for name in ("layer2.0.downsample.0.weight", "layer3.0.downsample.0.weight"):
        if name in weights and weights[name].shape[-1] == 1:
            weights[name] = F.pad(weights[name], (1, 1, 1, 1))
    if "conv1.weight" in weights and "bn1.running_mean" in weights:
        weights["conv1.weight"], bias = fold_normalisation(weights["conv1.weight"])
        mean = weights["bn1.running_mean"]
        weights["bn1.running_mean"] = (mean.double() - bias).to(mean.dtype)
    return weights


def torchvision_vit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return torchvision's VisionTransformer weights under the names of `lib.models.vit.ViT`, for BGR crops in 0..255.

    Normalisation is folded into the patches' convolution, exactly: repeating the border's pixels commutes with it.
    The position table, 14 x 14 for 224 px, is interpolated (bicubic) to 31 x 31, and the class token's dropped.
    """
    weights = {}
    for name, tensor in state_dict.items():
        name = name.removeprefix("encoder.").replace("layers.encoder_layer_", "blocks.")
        weights[name.replace("mlp.linear_1.", "mlp.0.").replace("mlp.linear_2.", "mlp.3.")] = tensor
    if "conv_proj.weight" in weights and "conv_proj.bias" in weights:
        kernel, bias = fold_normalisation(weights["conv_proj.weight"])
        weights["conv_proj.weight"] = kernel
        weights["conv_proj.bias"] = (weights["conv_proj.bias"].double() + bias).to(kernel.dtype)
    table = weights.pop("pos_embedding")[:, 1:]  # (1, N, D); the first is the class token's
    side = round(table.shape[1] ** 0.5)
    grid = table.transpose(1, 2).unflatten(2, (side, side))
    weights["positions.table"] = F.interpolate(grid, size=(POSITIONS, POSITIONS), mode="bicubic", align_corners=False)
    return weights


def split_last_block(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of an Ocean on ResNet50 under the names of one on ResNet_single, which computes the same."""
    return {SINGLE_BLOCK + name.removeprefix(LAST_BLOCK) if name.startswith(LAST_BLOCK) else name: tensor
            for name, tensor in state_dict.items()}
