"""Backbones by name: each builds the part of the tracker that turns crops into feature maps of stride 8."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from lib.models.modules import EXPANSION, Bottleneck, ResNet_plus2, Resnet_plus_MHSA, Resnet_plus_single

TABLE_SIDE = 31  # cells of a search map at 255 px, the training size
TEMPLATE_SIDE = 15


class ResNet50(nn.Module):
    """The ResNet trunk: (B, 3, H, H) BGR 0..255 to ([stem, layer1, layer2], layer3); 50 layers by default."""

    online_from = "layer3"  # what `layeronline` begins as

    def __init__(self, *, layers: Sequence[int] = (3, 4, 6, 3), width: int = 64, expansion: int = EXPANSION,
                 caffe: bool = False) -> None:
        super().__init__()
        if min(width, expansion, *layers) < 1:
            raise ValueError(f"width {width}, layers {list(layers)}, expansion {expansion}: expected numbers above 0")
        self.features = ResNet_plus2(Bottleneck, layers, used_layers=(3,), width=width, expansion=expansion,
                                     caffe=caffe)
        self.out_channels = self.features.out_channels

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the maps of the shallow stages and layer3's map, (B, 1024, 31, 31) for 255 px."""
        return self.features(x)

    def add_online(self) -> int:
        """Add `layeronline`, a second layer3, for the online branch; return its channels."""
        self.features.add_online()
        return self.out_channels

    def online(self, x: Tensor) -> Tensor:
        """Return layeronline's map of stride 16: 13 cells a side for 224 px, 17 for 288; cell i sees px 16 i + 15."""
        return self.features.online(x)

    def trunk_layers(self) -> dict[str, nn.Module]:
        """Return the layers that pretrained weights fill, by the names TRAINABLE_LAYER uses."""
        return {name: getattr(self.features, name) for name in ("conv1", "bn1", "layer1", "layer2", "layer3")}


class ResNet_single(nn.Module):
    """The sixth block of layer3, applied to both branches after a trunk of five: together exactly ResNet50."""

    def __init__(self, planes: int = 256, *, expansion: int = EXPANSION) -> None:
        super().__init__()
        self.features = Resnet_plus_single(planes, expansion=expansion)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the shape of `x`."""
        return self.features(x)


class ResNet_MHSA(nn.Module):
    """The sixth block of layer3 with attention in place of its 3x3 convolution; side: cells of its position table."""

    def __init__(self, planes: int = 256, *, side: int = TABLE_SIDE, heads: int = 1,
                 expansion: int = EXPANSION) -> None:
        super().__init__()
        self.features = Resnet_plus_MHSA(planes, side=side, heads=heads, expansion=expansion)

    def forward(self, x: Tensor, templ: Tensor | None = None) -> Tensor:
        """Return a map of the shape of `x`, whose cells attend to each other and, when given, to those of `templ`."""
        return self.features(x, templ)


class Backbone(NamedTuple):
    """What `Ocean` is made from: a trunk, the channels that come out, and what follows the trunk, if anything.

    The trunk maps crops (B, 3, H, H) BGR 0..255 to (any list, map (B, channels, n, n)), n = 15 for H = 127, 31 for 255,
    33 for 271, 35 for 287; its `trunk_layers()` names the parts that TRAINABLE_LAYER can choose. A new backbone is a
    function that returns one of these, its keywords with a default each being its options, and an entry in BACKBONES.
    """

    features: nn.Module
    channels: int
    single: ResNet_single | None = None
    mhsa: ResNet_MHSA | None = None
    mhsa_z: ResNet_MHSA | None = None  # the template's own; None: `mhsa` serves both
    new_block: bool = False  # what follows the trunk is no part of the pretrained weights
    templ: bool = False  # the search attends to the template's cells too
    joint: bool = False  # template and search go through the trunk together


def _resnet(*, width: int = 64, layers: Sequence[int] = (3, 4, 6), expansion: int = EXPANSION,
            style: str = "pytorch") -> Backbone:
    """Return a ResNet trunk, by default that of the paper with 1024 channels.

    width: channels of conv1 and of layer1's 3x3 convolutions. layers: blocks of each of three stages.
    expansion: output channels of a block over those of its 3x3. style: where the net that the weights come from had the
    strides of layer2.0 and layer3.0: 'pytorch' (as torchvision) in their 3x3, 'caffe' (MSRA's original ResNets) in
    their first 1x1. No tensor tells the two apart.
    """
    if style not in ("pytorch", "caffe"):
        raise ValueError(f"style {style!r}: expected 'pytorch' or 'caffe'")
    trunk = ResNet50(layers=_three(layers), width=width, expansion=expansion, caffe=style == "caffe")
    return Backbone(trunk, trunk.out_channels)


def _resnet_single(*, width: int = 64, layers: Sequence[int] = (3, 4, 6), expansion: int = EXPANSION,
                   new_block: bool = False) -> Backbone:
    """Return a ResNet trunk with the last block of layer3 as `features_single`.

    new_block: that block takes no ImageNet weights and trains from epoch 1 at the head's rate, as an attending one
    does, to which it is the control; otherwise it is a part of layer3, filled and frozen with it.
    """
    trunk = ResNet50(layers=_three(layers, split=1), width=width, expansion=expansion)
    return Backbone(trunk, trunk.out_channels, single=ResNet_single(4 * width, expansion=expansion),
                    new_block=new_block)


def _resnet_mhsa(*, width: int = 64, layers: Sequence[int] = (3, 4, 6), expansion: int = EXPANSION, heads: int = 1,
                 positions: int = TABLE_SIDE, separate_template: bool = False, templ: bool = False,
                 new_block: bool = True) -> Backbone:
    """Return a ResNet trunk whose last block of layer3 attends: `features_mhsa`.

    heads: attention heads. positions: side of the learned position table. separate_template: the template has its own
    module, `features_mhsa_z`, with a table of side 15. templ: the search attends to the template's cells as well.
    new_block: False takes that block from a classifier that `tracking/pretrain.py` trained, and rests with the trunk.
    """
    if positions < 1:
        raise ValueError(f"positions {positions}: expected the side of a map, such as {TABLE_SIDE}")
    trunk = ResNet50(layers=_three(layers, split=1), width=width, expansion=expansion)
    tail = ResNet_MHSA(4 * width, side=positions, heads=heads, expansion=expansion)
    tail_z = None
    if separate_template:
        tail_z = ResNet_MHSA(4 * width, side=TEMPLATE_SIDE, heads=heads, expansion=expansion)
    return Backbone(trunk, trunk.out_channels, mhsa=tail, mhsa_z=tail_z, new_block=new_block, templ=templ)


def _three(layers: Sequence[int], *, split: int = 0) -> tuple[int, ...]:
    """Return the blocks of the trunk's three stages when the last `split` ones of the third stand by themselves."""
    if len(layers) != 3 or layers[2] <= split:
        raise ValueError(f"layers {list(layers)}: expected 3 numbers of blocks, the third above {split}")
    return layers[0], layers[1], layers[2] - split


def _vit(*, dim: int = 768, depth: int = 12, heads: int = 12, joint: bool = False, norm_pre: bool = False,
         lora: int = 0) -> Backbone:
    """Return a vision transformer, by default ViT-B/16: dim channels, depth blocks, heads.

    joint: template and search attend to each other in every block (one stream). norm_pre: of CLIP's nets.
    lora: a rank; the trunk then rests for good, and products of that rank beside its weights train from epoch 1.
    """
    from lib.models.vit import ViT  # here, as torchvision takes longer to import than all else and few models need it

    trunk = ViT(dim=dim, depth=depth, heads=heads, joint=joint, norm_pre=norm_pre, lora=lora)
    return Backbone(trunk, trunk.out_channels, joint=joint)


def _timm(*, name: str = "tf_efficientnet_lite0", strides: Sequence[int] = (8, 16), dilated: bool = False) -> Backbone:
    """Return a net of timm, its maps of these strides joined; dilated: that of stride 16 is computed at stride 8."""
    from lib.models.timm_trunk import TimmTrunk  # here, as few models need it

    trunk = TimmTrunk(name=name, strides=strides, dilated=dilated)
    return Backbone(trunk, trunk.out_channels)


_SLIM: dict[str, Any] = {"width": 8, "layers": (1, 2, 2)}  # of the same family and grids, for a CPU
BACKBONES: dict[str, Callable[..., Backbone]] = {
    "ResNet50": _resnet,
    "ResNet_single": _resnet_single,
    "ResNet_MHSA": _resnet_mhsa,
    "ViT": _vit,
    "ViT_B16": _vit,
    "timm": _timm,
    "ViT_small": partial(_vit, dim=128, depth=4, heads=4),
    "ResNetSmall": partial(_resnet, **_SLIM),
    "ResNetSmall_single": partial(_resnet_single, **_SLIM),
    "ResNetSmall_MHSA": partial(_resnet_mhsa, **_SLIM),
}
