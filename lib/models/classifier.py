"""Image classifiers of the tracker's parts, whose training gives a tracker its base model; and BoTNet-50 itself.

Source of BoTNet: Bottleneck Transformers for Visual Recognition (Srinivas et al., CVPR 2021), table 1: ResNet-50 whose
last stage attends, 20.8 M parameters at 224 px. Positions are a learned table per map here instead of relative ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lib.models.models import build_trunk
from lib.models.modules import EXPANSION, Bottleneck, Bottleneck_MHSA, init_convs


class Classifier(nn.Module):
    """A tracker's trunk with its last block, a mean over the cells, and one linear layer.

    From pictures (B, 3, H, H) BGR 0..255, float32, to logits (B, num_classes), under the tracker's names of the trunk.
    """

    def __init__(self, *, backbone: str, backbone_options: Mapping[str, Any], num_classes: int) -> None:
        super().__init__()
        self.spec = {"arch": "Classifier", "backbone": backbone, "backbone_options": dict(backbone_options),
                     "num_classes": num_classes}
        if backbone == "BoTNet50":
            self.features: nn.Module = BoTNet50(num_classes=num_classes, **backbone_options)
            return
        parts = build_trunk(backbone, backbone_options)
        self.features = parts.features
        self.features_single, self.features_mhsa = parts.single, parts.mhsa
        self.classifier = nn.Linear(parts.channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the classes."""
        if isinstance(self.features, BoTNet50):
            return self.features(x)
        _, deep = self.features(x)
        tail = self.features_single or self.features_mhsa
        return self.classifier((deep if tail is None else tail(deep)).mean((2, 3)))

    def trunk_layers(self) -> dict[str, nn.Module]:
        """Return nothing: all of a classifier is new and trains from the first epoch."""
        return {}


class BoTNet50(nn.Module):
    """Classifier: images (B, 3, H, H) to logits (B, num_classes); the position tables are made for `size` px."""

    def __init__(self, *, num_classes: int = 1000, size: int = 224, heads: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, 3, stride=1)
        self.layer2 = _stage(256, 128, 4, stride=2)
        self.layer3 = _stage(512, 256, 6, stride=2)
        self.layer4 = _attention_stage(1024, 512, 3, side=size // 16, heads=heads)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * EXPANSION, num_classes)
        init_convs(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the classes."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def _downsample(inplanes: int, planes: int, *, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inplanes, planes * EXPANSION, kernel_size=1, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(planes * EXPANSION))


def _stage(inplanes: int, planes: int, blocks: int, *, stride: int) -> nn.Sequential:
    """Return a stage of the plain ResNet: padded 3x3s, a 1x1 beside the first block."""
    beside = _downsample(inplanes, planes, stride=stride)
    first = Bottleneck(inplanes, planes, stride=stride, padding=1, downsample=beside)
    return nn.Sequential(first, *(Bottleneck(planes * EXPANSION, planes) for _ in range(1, blocks)))


def _attention_stage(inplanes: int, planes: int, blocks: int, *, side: int, heads: int) -> nn.Sequential:
    """Return the last stage: attention in every block, at `side` cells in the first, which then halves the map."""
    first = Bottleneck_MHSA(inplanes, planes, side=side, heads=heads, stride=2,
                            downsample=_downsample(inplanes, planes, stride=2))
    rest = (Bottleneck_MHSA(planes * EXPANSION, planes, side=side // 2, heads=heads) for _ in range(1, blocks))
    return nn.Sequential(first, *rest)
