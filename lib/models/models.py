"""Whole models by name: a backbone, a head, and the branch that looks into each predicted box."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lib.config import Config
from lib.errors import UserError, did_you_mean
from lib.models.backbones import BACKBONES, Backbone, ResNet50
from lib.models.connect import AdjustLayer, AlignHead, Head, box_tower
from lib.models.modules import EXPANSION, Bottleneck, Bottleneck_MHSA, init_convs
from lib.models.ocean import Ocean_
from lib.models.online import OnlineClassifier
from lib.models.presence import PresenceBranch
from lib.models.timm_trunk import TimmTrunk


class Ocean(Ocean_):
    """Ocean with a backbone and a head by name, each with its options; `build_model` has the defaults.

    channels: width of neck and head. align: with the object-aware branch. towernum (convolutions per tower) and
    box_bias (where the learned bias of the boxes begins) go to the heads that take them. online: with the online
    branch, `layeronline` and `classifier`; online_pixels: what it sees, "imagenet" for normalised RGB as in the
    reference, "raw" for BGR 0..255 as the rest of the trunk. presence: with the presence branch.
    """

    def __init__(self, *, backbone: str, backbone_options: Mapping[str, Any], head: str,
                 head_options: Mapping[str, Any], channels: int, towernum: int, align: bool, box_bias: float,
                 online: bool = False, online_pixels: str = "imagenet", presence: bool = False) -> None:
        super().__init__()
        self.spec: dict[str, Any] = {"arch": "Ocean", "backbone": backbone, "backbone_options": dict(backbone_options),
                                     "channels": channels, "towernum": towernum, "align": align}
        if head != "box_tower" or head_options:  # checkpoints with the paper's head are those of before
            self.spec |= {"head": head, "head_options": dict(head_options)}
        parts = build_trunk(backbone, backbone_options)
        self.features = parts.features
        self.features_single, self.features_mhsa, self.features_mhsa_z = parts.single, parts.mhsa, parts.mhsa_z
        self.templ, self.joint, self.new_block = parts.templ, parts.joint, parts.new_block
        self.load_report: Any = None  # what `lib.checkpoint.load_model` did
        self.params_file: Path | None = None  # tracking hyper-parameters that belong to the weights
        self.neck = AdjustLayer(in_channels=parts.channels, out_channels=channels)
        self.connect_model = _build(HEADS, head, head_options, what="head", channels=channels, towernum=towernum,
                                    box_bias=box_bias)
        self.align_head = AlignHead(channels, channels) if align else None
        self.classifier: OnlineClassifier | None = None
        if online:
            self._add_online(online_pixels)
        if presence and self.joint:
            raise UserError(f"backbone {backbone} with joint: has no presence branch, as its template is not known "
                            f"before the search; expected one without joint")
        self.presence = PresenceBranch(parts.channels) if presence else None
        self.spec |= {"presence": True} if presence else {}

    def _add_online(self, pixels: str) -> None:
        if not isinstance(self.features, ResNet50 | TimmTrunk):
            raise UserError(f"backbone {self.spec['backbone']} has no online branch; expected a ResNet or one of timm")
        known = ("imagenet", "raw") if isinstance(self.features, ResNet50) else ("raw",)  # timm's normalise themselves
        if pixels not in known:
            raise UserError(f"online_pixels {pixels!r}: expected {' or '.join(map(repr, known))}")
        self.spec |= {"online": True, "online_pixels": pixels}
        self.online_pixels = pixels
        try:
            self.classifier = OnlineClassifier(self.features.add_online())
        except ValueError as error:
            raise UserError(f"backbone {self.spec['backbone']}: {error}") from error

    def trunk_layers(self) -> dict[str, nn.Module]:
        """Return the layers that pretrained weights fill, by the names TRAINABLE_LAYER uses (conv1, bn1, layer1 ...).

        What is not in here is new: it starts from random weights and trains from epoch 1, also while the trunk is
        frozen. The block behind the trunk (`features_single`, `features_mhsa`) belongs to layer3, unless it is new.
        """
        layers: dict[str, nn.Module] = self.features.trunk_layers()  # type: ignore[operator]
        tails = [tail for tail in (self.features_single, self.features_mhsa, self.features_mhsa_z) if tail is not None]
        if tails and not self.new_block:
            layers["layer3"] = nn.ModuleList([layers["layer3"], *tails])
        return layers


def build_trunk(backbone: str, options: Mapping[str, Any]) -> Backbone:
    """Return the parts of a backbone by name; raise UserError for a name or option that does not exist."""
    parts: Backbone = _build(BACKBONES, backbone, options, what="backbone")
    return parts


def _box_tower(*, channels: int, towernum: int, box_bias: float) -> Head:
    """Return the head of the paper; no options."""
    return box_tower(channels, channels, towernum=towernum, box_bias=box_bias)


# A head's builder takes `channels`, of `towernum` and `box_bias` what it can use, and options with a default each.
HEADS: dict[str, Callable[..., Head]] = {"box_tower": _box_tower}
ARCHS: dict[str, Callable[..., Ocean]] = {"Ocean": Ocean}


def build_model(*, arch: str = "Ocean", **options: Any) -> Ocean:
    """Return a model with random weights: `arch` a name in ARCHS, `options` the keywords of that class.

    What is left out is as `lib.config` has it, the paper's. `build_model(**model.spec)` makes another of the same kind.
    Raises UserError for a name that does not exist.
    """
    return ARCHS[_known(arch, ARCHS, what="arch")](**{**_DEFAULTS, **options})


_DEFAULTS = Config().model_options()
_DEFAULTS.pop("arch")


def _build(table: Mapping[str, Callable[..., Any]], name: str, options: Mapping[str, Any], *, what: str,
           **offered: Any) -> Any:
    """Return what the builder `name` of a table makes of its options and of those `offered` arguments that it takes.

    Raises UserError for an unknown name, option or type of value.
    """
    builder = table[_known(name, table, what=what)]
    known = inspect.signature(builder).parameters
    defaults = {key: known[key].default for key in known if known[key].default is not inspect.Parameter.empty}
    for key, value in options.items():
        expected = type(defaults[_known(key, defaults, what=f"option of {what} {name}")])
        if not (isinstance(value, list | tuple) if expected is tuple else type(value) is expected):
            raise UserError(f"option {key} of {what} {name}: {value!r:.80} is not of type {expected.__name__}; "
                            f"the default is {defaults[key]!r}")
    try:
        return builder(**{key: value for key, value in offered.items() if key in known} | dict(options))
    except ValueError as error:
        raise UserError(f"{what} {name}: {error}") from error


def _known(name: str, names: Iterable[str], *, what: str) -> str:
    """Return `name` when it is one of `names`; raise UserError with the nearest otherwise."""
    if name not in names:
        raise UserError(f"{name!r:.80} is no {what}{did_you_mean(str(name), names)}")
    return name


# ---- image classifiers of the tracker's parts, whose training gives a tracker its base model; and BoTNet-50 itself
#
# Source of BoTNet: Bottleneck Transformers for Visual Recognition (Srinivas et al., CVPR 2021), table 1: ResNet-50 with
# a last stage that attends, 20.8 M parameters at 224 px. Positions are a learned table per map, not relative ones.


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
