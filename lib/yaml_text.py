"""YAML as this project reads it: plain data only, 1e-5 is a number, a key that stands twice is refused."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from lib.errors import UserError
from lib.files import read_text

MAX_YAML_BYTES = 2**17  # the longest file here has 9,000; PyYAML reads some 100,000 a second
MAX_ALIASES = 64
MAX_DEPTH = 50  # of nesting; PyYAML takes time with the square of it


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses doubled keys and reads numbers as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                problem = f"the key '{key}' stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 wants a dot in 1.0e-5; everyone writes 1e-5 and gets a text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_yaml(path: str | Path) -> Any:
    """Return the data of a YAML file of at most 128 KiB, 64 aliases and 50 levels; UserError if it is anything else."""
    data = _parse(read_text(path, max_bytes=MAX_YAML_BYTES), place=str(path))
    if data is None:
        raise UserError(f"{path}: empty; expected a YAML file with keys (see experiments/train/Ocean.yaml)")
    return data


def parse_value(text: str, *, place: str) -> Any:
    """Return the value of a piece of YAML text given on the command line; `place` names it in an error."""
    return _parse(text, place=place)


_OPENING = (yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken, yaml.BlockSequenceStartToken,
            yaml.BlockMappingStartToken)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)


def _check_size(text: str, *, place: str) -> None:
    """Refuse what would take hours or all memory: an alias may repeat a large node again and again."""
    aliases = depth = 0
    for token in yaml.scan(text, Loader=_Loader):
        aliases += isinstance(token, yaml.AliasToken)
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if aliases > MAX_ALIASES:
            raise UserError(f"{place}: more than {MAX_ALIASES} aliases; write the values out")
        if depth > MAX_DEPTH:
            raise UserError(f"{place}: nested deeper than {MAX_DEPTH} levels; expected keys and plain values")


def _parse(text: str, *, place: str) -> Any:
    try:
        _check_size(text, place=place)
        return yaml.load(text, Loader=_Loader)  # _Loader is a SafeLoader: no object is ever constructed
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f" at line {mark.line + 1} column {mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"{place}: not usable YAML{where}: {problem}") from error
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise UserError(f"{place}: not usable YAML: {error}") from error
