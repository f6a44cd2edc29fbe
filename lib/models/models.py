"""Whole models by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lib.errors import UserError
from lib.models.backbones import BACKBONES, Backbone
from lib.models.connect import AdjustLayer, AlignHead, box_tower
from lib.models.ocean import Ocean_


class Ocean(Ocean_):
    """Ocean with a backbone by name; the defaults are the paper's.

    backbone, backbone_options: a name in BACKBONES and its options. channels: width of neck and head.
    towernum: convolutions per tower. align: with the object-aware branch. box_bias: where the learned bias of the boxes
    begins.
    """

    def __init__(self, *, backbone: str = "ResNet50", backbone_options: Mapping[str, Any] | None = None,
                 channels: int = 256, towernum: int = 4, align: bool = False, box_bias: float = 1.0) -> None:
        super().__init__()
        options = dict(backbone_options or {})
        self.spec: dict[str, Any] = {"arch": "Ocean", "backbone": backbone, "backbone_options": options,
                                     "channels": channels, "towernum": towernum, "align": align}
        parts = _build_backbone(backbone, options)
        self.features = parts.features
        self.features_single, self.features_mhsa, self.features_mhsa_z = parts.single, parts.mhsa, parts.mhsa_z
        self.templ, self.joint, self.new_single = parts.templ, parts.joint, parts.new_single
        self.load_report: Any = None  # what `lib.checkpoint.load_model` did
        self.params_file: Path | None = None  # tracking hyper-parameters that belong to the weights
        self.neck = AdjustLayer(in_channels=parts.channels, out_channels=channels)
        self.connect_model = box_tower(channels, channels, towernum=towernum, box_bias=box_bias)
        self.align_head = AlignHead(channels, channels) if align else None

    def trunk_layers(self) -> dict[str, nn.Module]:
        """Return the layers that pretrained weights fill, by the names TRAINABLE_LAYER uses (conv1, bn1, layer1 ...).

        What is not in here is new: it starts from random weights and trains from epoch 1, also while the trunk is
        frozen. `features_mhsa` is new; `features_single` is a block of the pretrained layer3, unless it is to be new.
        """
        layers: dict[str, nn.Module] = self.features.trunk_layers()  # type: ignore[operator]
        if self.features_single is not None and not self.new_single:
            layers["layer3"] = nn.ModuleList([layers["layer3"], self.features_single])
        return layers


_LARGEST = 8192  # of any number that describes a network here

ARCHS: dict[str, Callable[..., Ocean]] = {"Ocean": Ocean}


def build_model(*, arch: str = "Ocean", **options: Any) -> Ocean:
    """Return a model with random weights: `arch` a name in ARCHS, `options` the keywords of that class.

    `build_model(**model.spec)` makes another of the same kind. Raises UserError for a name that does not exist.
    """
    _check_sizes(options, place="")
    return ARCHS[_known(arch, ARCHS, what="arch")](**options)


def _check_sizes(value: Any, *, place: str) -> None:
    """Raise UserError for a number no network has: a stranger's checkpoint or YAML could ask for all memory."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_sizes(inner, place=f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_sizes(inner, place=place)
    elif isinstance(value, int) and not -_LARGEST <= value <= _LARGEST:
        raise UserError(f"{place} is {str(value)[:20]}; expected at most {_LARGEST}")


def _build_backbone(name: str, options: dict[str, Any]) -> Backbone:
    """Return the parts of the backbone `name`; raise UserError for an unknown name, option or type of value."""
    builder = BACKBONES[_known(name, BACKBONES, what="backbone")]
    known = inspect.signature(builder).parameters
    for key, value in options.items():
        _known(key, known, what=f"option of backbone {name}")
        expected = type(known[key].default)
        if not (isinstance(value, list | tuple) if expected is tuple else type(value) is expected):
            raise UserError(f"option {key} of backbone {name}: {value!r} is not of type {expected.__name__}; "
                            f"the default is {known[key].default!r}")
    try:
        return builder(**options)
    except ValueError as error:
        raise UserError(f"backbone {name}: {error}") from error


def _known(name: str, names: Mapping[str, Any], *, what: str) -> str:
    """Return `name` when it is one of `names`; raise UserError with the nearest otherwise."""
    if name in names:
        return name
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise UserError(f"{name!r} is no {what}; {hint}known: {', '.join(names) or 'none'}")
