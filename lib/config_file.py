"""Reading the YAML file of a training, with errors that name file, key and nearest key."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lib.config import Config, DatasetConfig, SourceConfig
from lib.errors import UserError, did_you_mean
from lib.files import parse_yaml, read_yaml


def load_config(path: str | Path, *, overrides: Sequence[str] = (), kind: type[Config] = Config) -> Config:
    """Return the checked configuration of a YAML file, of that `kind`, with overrides such as OCEAN.TRAIN.BATCH=16.

    An override's key may leave the top-level name out; its value is read as YAML. Raises UserError naming file, key,
    value, what was expected and the nearest valid key.
    """
    data = read_yaml(path)
    if not isinstance(data, dict) or len(data) != 1 or not isinstance(next(iter(data.values())), dict):
        raise UserError(f"{path}: expected one top-level model name such as OCEAN with its keys below it")
    name, tree = next(iter(data.items()))
    for text in overrides:
        _override(tree, text, name=str(name))
    try:
        return kind.model_validate({**tree, "NAME": str(name)})
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error, str(name), kind)}") from error


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
