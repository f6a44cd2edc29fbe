"""Backbones by name: each builds the part of the tracker that turns crops into feature maps of stride 8."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from lib.models.modules import EXPANSION, Bottleneck, ResNet_plus2


class Backbone(NamedTuple):
    """What `Ocean` is made from: the trunk and the number of channels that come out of it."""

    features: nn.Module
    channels: int


class ResNet50(nn.Module):
    """The ResNet trunk: (B, 3, H, H) BGR 0..255 to ([stem, layer1, layer2], layer3); 50 layers by default."""

    def __init__(self, *, layers: Sequence[int] = (3, 4, 6, 3), width: int = 64, expansion: int = EXPANSION) -> None:
        super().__init__()
        self.features = ResNet_plus2(Bottleneck, layers, used_layers=(3,), width=width, expansion=expansion)
        self.out_channels = self.features.out_channels

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the maps of the shallow stages and layer3's map, (B, 1024, 31, 31) for 255 px."""
        return self.features(x)

    def trunk_layers(self) -> dict[str, nn.Module]:
        """Return the layers that pretrained weights fill, by the names TRAINABLE_LAYER uses."""
        return {name: getattr(self.features, name) for name in ("conv1", "bn1", "layer1", "layer2", "layer3")}


def _resnet50() -> Backbone:
    """Return the trunk of the paper, 1024 channels; no options."""
    trunk = ResNet50()
    return Backbone(trunk, trunk.out_channels)


def _resnet_small(*, width: int = 8, layers: Sequence[int] = (1, 2, 2), expansion: int = EXPANSION) -> Backbone:
    """Return a slim trunk of the same family and grids for a CPU. Options: width, layers (3 stages), expansion."""
    if len(layers) != 3 or min(width, expansion, *layers) < 1:
        raise ValueError(f"width {width}, layers {list(layers)}, expansion {expansion}: expected 3 layers, all above 0")
    trunk = ResNet50(layers=tuple(layers), width=width, expansion=expansion)
    return Backbone(trunk, trunk.out_channels)


BACKBONES: dict[str, Callable[..., Backbone]] = {
    "ResNet50": _resnet50,
    "ResNetSmall": _resnet_small,
}
