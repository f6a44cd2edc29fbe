"""Weights trained elsewhere, brought into the names, the pixel range and the kernels used here. Pure functions."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.models.modules import resize_table


class Pixels(NamedTuple):
    """What a net was trained on: (pixel - mean) / std of pixels 0..255 in an order of channels, RGB or BGR."""

    order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Pixels("RGB", (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255))
CLIP = Pixels("RGB", (0.48145466 * 255, 0.4578275 * 255, 0.40821073 * 255),
              (0.26862954 * 255, 0.26130258 * 255, 0.27577711 * 255))
OURS = Pixels("BGR", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
LAST_BLOCK = "features.features.layer3.5."  # ResNet-50's sixth block of layer3 in a whole Ocean
# torchvision's name of a backbone, of which it has weights trained on ImageNet.
TORCHVISION = {**dict.fromkeys(("ResNet50", "ResNet_single", "ResNet_MHSA"), "resnet50"),
               **dict.fromkeys(("ViT", "ViT_B16"), "vit_b_16")}
SINGLE_BLOCK = "features_single.features.layer."
POSITIONS = 31  # side of the transformer's position table: a search map at 255 px


def fold_normalisation(kernel: Tensor, pixels: Pixels = IMAGENET) -> tuple[Tensor, Tensor]:
    """Return (kernel for BGR 0..255, bias (out,) in float64) of an unpadded convolution of normalised pixels.

    kernel (out, 3, k, k). y = W ((x - mean) / std) = W' x + b: W' = W / std, in BGR order, b = -sum W mean / std.
    """
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (pixels.mean, pixels.std))
    exact = kernel.double()
    bias = -(exact * mean / std).sum((1, 2, 3))
    folded = exact / std
    return (folded.flip(1) if pixels.order == "RGB" else folded).to(kernel.dtype), bias


def fold_stem(weights: Mapping[str, Tensor], pixels: Pixels) -> dict[str, Tensor]:
    """Return weights whose first convolution takes BGR 0..255; bn1's running mean, or its own bias, takes up the rest.

    The first convolution is `conv1` with `bn1` behind it (ResNet), or `conv_proj` with a bias (ViT), whatever stands
    in front of the names. Exact: conv1 has no padding, and repeating a border's pixels commutes with it.
    """
    folded = dict(weights)
    for name in weights:
        front, _, end = name.rpartition("conv1.weight")
        if not end and "layer" not in front and f"{front}bn1.running_mean" in weights:
            folded[name], bias = fold_normalisation(weights[name], pixels)
            mean = weights[f"{front}bn1.running_mean"]
            folded[f"{front}bn1.running_mean"] = (mean.double() - bias).to(mean.dtype)
        if name.endswith("conv_proj.weight") and (own := name.replace("weight", "bias")) in weights:
            folded[name], bias = fold_normalisation(weights[name], pixels)
            folded[own] = (weights[own].double() + bias).to(weights[own].dtype)
    return folded


def torchvision_resnet(state_dict: Mapping[str, Tensor], pixels: Pixels = IMAGENET) -> dict[str, Tensor]:
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
    return fold_stem(weights, pixels)


def torchvision_vit(state_dict: Mapping[str, Tensor], pixels: Pixels | None = None) -> dict[str, Tensor]:
    """Return torchvision's VisionTransformer weights under the names of `lib.models.vit.ViT`, for BGR crops in 0..255.

    Normalisation is folded into the patches' convolution, exactly: repeating the border's pixels commutes with it.
    The position table, 14 x 14 for 224 px, is interpolated (bicubic) to 31 x 31, and the class token's dropped. timm's
    VisionTransformers (MAE, DINO, DINOv2, CLIP) are known by their names too. pixels: by default ImageNet's, or CLIP's
    where there is a norm before the blocks.
    """
    pixels = pixels or (CLIP if "norm_pre.weight" in state_dict else IMAGENET)
    if "patch_embed.proj.weight" in state_dict:
        state_dict = _timm_vit(state_dict)
    weights = {}
    for name, tensor in state_dict.items():
        name = name.removeprefix("encoder.").replace("layers.encoder_layer_", "blocks.")
        weights[name.replace("mlp.linear_1.", "mlp.0.").replace("mlp.linear_2.", "mlp.3.")] = tensor
    weights = fold_stem(weights, pixels)
    table = weights.pop("pos_embedding")  # (1, N, D); the first may be those of class and register tokens
    side = math.isqrt(table.shape[1])
    grid = table[:, -side * side:].transpose(1, 2).unflatten(2, (side, side))
    weights["positions.table"] = F.interpolate(grid, size=(POSITIONS, POSITIONS), mode="bicubic", align_corners=False)
    return weights


_TIMM_VIT = (("patch_embed.proj.", "conv_proj."), ("pos_embed", "pos_embedding"), (".norm1.", ".ln_1."),
             (".norm2.", ".ln_2."), (".attn.qkv.", ".self_attention.in_proj_"), (".mlp.fc1.", ".mlp.0."),
             (".attn.proj.", ".self_attention.out_proj."), (".mlp.fc2.", ".mlp.3."))
_TIMM_VIT_STARTS = {"norm.": "ln.", "norm_pre.": "ln_pre.", "fc_norm.": "ln.", "head.": "heads.head.",
                    "cls_token": "class_token", "reg_token": "class_token.register", "mask_token": "class_token.mask"}


def _timm_vit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of timm's VisionTransformer under torchvision's names.

    DINOv2's scale of each branch goes into the branch's last layer, exactly; patches of another size than 16 px are
    resampled as FlexiViT does (timm's function).
    """
    weights = {}
    for name, tensor in state_dict.items():
        for theirs, ours in _TIMM_VIT:
            name = name.replace(theirs, ours)
        start = next((start for start in _TIMM_VIT_STARTS if name.startswith(start)), "")
        weights[_TIMM_VIT_STARTS.get(start, "") + name.removeprefix(start)] = tensor
    for name in [name for name in weights if name.endswith((".ls1.gamma", ".ls2.gamma"))]:
        scale = weights.pop(name)
        layer = name.replace("ls1.gamma", "self_attention.out_proj").replace("ls2.gamma", "mlp.3")
        weights[f"{layer}.weight"] = weights[f"{layer}.weight"] * scale[:, None]
        weights[f"{layer}.bias"] = weights[f"{layer}.bias"] * scale
    kernel = weights["conv_proj.weight"]
    weights.setdefault("conv_proj.bias", torch.zeros(len(kernel)))  # CLIP's has none
    if kernel.shape[-1] != 16:
        resample: Any = importlib.import_module("timm.layers").resample_patch_embed
        weights["conv_proj.weight"] = resample(kernel, [16, 16])
    return weights


def beside_low_rank(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return plain weights under the names that a model with LoRA (`own`) has for them, and the names of its additions.

    Both are unchanged and empty where the weights have such additions, or the model has none.
    """
    added = [name for name in own if name.endswith((".0.up", ".0.down")) and ".parametrizations." in name]
    if any(name in weights for name in added):
        return dict(weights), []
    plain = {name.replace("parametrizations.", "").removesuffix(".original"): name for name in own} if added else {}
    return {plain.get(name, name): tensor for name, tensor in weights.items()}, added


def split_last_block(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of an Ocean on ResNet50 under the names of one on ResNet_single, which computes the same."""
    return {SINGLE_BLOCK + name.removeprefix(LAST_BLOCK) if name.startswith(LAST_BLOCK) else name: tensor
            for name, tensor in state_dict.items()}


def fit_tables(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with each learned position table resampled to the size that it has in `own`."""
    fitted = dict(weights)
    for name, tensor in weights.items():
        if name.endswith((".rel_h", ".rel_w", "positions.table")) and name in own and tensor.dim() == own[name].dim():
            for dim in (2, 3):
                fitted[name] = resize_table(fitted[name], own[name].shape[dim], dim=dim)
    return fitted
