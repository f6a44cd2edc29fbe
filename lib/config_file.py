"""Reading the YAML file of a training, with errors that name file, key and nearest key."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lib.config import Config, DatasetConfig, SourceConfig
from lib.errors import UserError, did_you_mean
from lib.files import parse_yaml, read_yaml

# Where the keys of SOTS' Ocean.yaml stand here, by the longest beginning that fits; None: they have no effect here.
_SOTS: dict[str, str | None] = {
    "COMMON.": "", "COMMON.LOG_DIR": "OUTPUT_DIR", "TRAIN.WORKERS": "WORKERS", "TRAIN.PRINT_FREQ": "PRINT_FREQ",
    "MODEL.": None, "MODEL.NAME": "TRAIN.MODEL", "MODEL.HEAD.OUT_CHANNEL": "TRAIN.CHANNELS",
    "MODEL.HEAD.TOWERNUM": "TRAIN.TOWERNUM", "MODEL.HEAD.ALIGN": "TRAIN.ALIGN",
    "TRAIN.DDP.": None, "TRAIN.CLS_WEIGHT": None, "TRAIN.REG_WEIGHT": None,
    "TRAIN.WARMUP.WARM_POLICY": "TRAIN.WARM_POLICY", "TRAIN.DATASET.WHICH_USE": "TRAIN.WHICH_USE",
    "TRAIN.DATASET.AUG.EXEMPLAR.": "DATASET.", "TRAIN.DATASET.AUG.SEARCH.": "DATASET.",
    "TRAIN.DATASET.AUG.COMMON.": "DATASET.", "TRAIN.DATASET.AUG.COMMON.NEG": "DATASET.NEGATIVE",
    "TRAIN.DATASET.CONFIG.": "DATASET.", "TEST.EPOCH_TEST": None, "TEST.RESUME": None, "TEST.HYPERS.": None,
    "TUNE.RESUME": None, "TUNE.TRIAL_PER_GPU": None,
}
# What of it can be no other: its other models are not here, nor are weights of the losses.
_SOTS_ONLY = {"MODEL.NAME": "Ocean", "MODEL.BACKBONE.NAME": "ResNet50Dilated", "MODEL.NECK.NAME": "ShrinkChannel",
              "MODEL.HEAD.NAME": "FCOSOcean", "TRAIN.CLS_WEIGHT": 1, "TRAIN.REG_WEIGHT": 1}
_SOTS_CLIP_GRAD = 10.0  # the norm that CLIP_GRAD: True stands for


def load_config(path: str | Path, *, overrides: Sequence[str] = (), kind: type[Config] = Config) -> Config:
    """Return the checked configuration of a YAML file, of that `kind`, with overrides such as OCEAN.TRAIN.BATCH=16.

    A file of SOTS for its Ocean (COMMON, MODEL, TRAIN, TEST, TUNE) is read as if it had our keys. An override has ours,
    and may leave the top-level name out; its value is read as YAML. Raises UserError naming file, key, value, what was
    expected and the nearest valid key.
    """
    data = read_yaml(path)
    if isinstance(data, dict) and {"COMMON", "MODEL"} <= data.keys():
        try:
            data = {"OCEAN": _from_sots(data, path)}
        except RecursionError as error:
            raise UserError(f"{path}: an alias (*name) holds itself; expected keys and values") from error
    if not isinstance(data, dict) or len(data) != 1 or not isinstance(next(iter(data.values())), dict):
        raise UserError(f"{path}: expected one top-level model name such as OCEAN with its keys below it")
    name, tree = next(iter(data.items()))
    for text in overrides:
        _override(tree, text, name=str(name))
    try:
        return kind.model_validate({**tree, "NAME": str(name)})
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error, str(name), kind)}") from error


def _from_sots(data: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Return the tree of a SOTS file by the names that its keys have here."""
    tree: dict[str, Any] = {}
    for key, value in _leaves(data):
        if value != _SOTS_ONLY.get(key, value):
            raise UserError(f"{path}: {key} is {value!r:.80}; of SOTS' models Ocean alone can be read here, with "
                            f"{_SOTS_ONLY[key]!r}")
        front = max((front for front in _SOTS if key.startswith(front)), key=len, default="")
        moved = _SOTS.get(front, "")
        if moved is None:
            continue
        *sections, last = (moved + key.removeprefix(front)).split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise UserError(f"{path}: {key} and another key both stand for {moved}{section} here; keep one")
        node[last] = _SOTS_CLIP_GRAD * value if key == "TRAIN.CLIP_GRAD" and isinstance(value, bool) else value
    return tree


def _leaves(tree: Mapping[Any, Any], front: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value that is no mapping, with its place as A.B.C."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{front}{key}.")
        else:
            yield f"{front}{key}", value


def _override(tree: dict[str, Any], text: str, *, name: str) -> None:
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"'{text}': expected KEY=VALUE, such as {name}.TRAIN.BATCH=16")
    if parts[0] == name:
        parts = parts[1:]
    node = tree
    for part in parts[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise UserError(f"'{text}': {part} holds a value, not keys; expected KEY=VALUE with a key of the YAML")
        node[part] = dict(child)  # YAML's aliases and merged keys share what they name
        node = node[part]
    if not parts:
        raise UserError(f"'{text}': names no key below {name}")
    node[parts[-1]] = parse_yaml(value, place=f"'{text}'")


def _explain(error: ValidationError, name: str, kind: type[BaseModel]) -> str:
    """Return one line on the first fault: key, value, expectation, nearest key; and how many more there are."""
    faults = error.errors()
    first = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    location = [str(part) for part in first["loc"] if not str(part).startswith(("literal[", "constrained-", "str"))]
    key = ".".join([name, *location]).replace("DATASET.SOURCES.", "DATASET.")  # where YAML has the sources
    more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key{did_you_mean(location[-1], _keys_at(location[:-1], kind))}{more}"
    message = first["msg"].removeprefix("Value error, ")
    if not message[:2].isupper():
        message = message[0].lower() + message[1:]
    if first["type"] == "string_type":
        message += ", put a name of digits in quotes"
    value = ":" if isinstance(first["input"], dict) else f" is {reprlib.repr(first['input']):.80};"
    return f"{key}{value} {message}{more}"


def _keys_at(location: Sequence[str], model: type[BaseModel]) -> list[str]:
    """Return the valid keys below a place in the tree of a configuration."""
    for part in location:
        if part == "SOURCES":
            continue
        field = model.model_fields.get(part)
        inner = field.annotation if field is not None else SourceConfig
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
    keys = [key for key in model.model_fields if key not in ("NAME", "SOURCES")]
    return [*keys, *DatasetConfig().SOURCES] if model is DatasetConfig else keys
