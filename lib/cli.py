"""Command lines: a field of a dataclass is a flag, its type says what is read, and every complaint is one line."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from lib.errors import UserError, did_you_mean

T = TypeVar("T")


def flag(text: str, default: Any = dataclasses.MISSING, *, metavar: str | None = None, least: float | None = None,
         most: float | None = None, alone: Any = None, positional: bool = False, hidden: bool = False) -> Any:
    """Return a dataclass field that is a flag of the same name; without `default` it is required.

    text: its help. least, most: bounds of a number, both included. alone: what a number's `--name` means when no number
    follows. positional: given without `--name`. hidden: for processes that we start ourselves, not shown.
    """
    metadata = {"help": text, "metavar": metavar, "least": least, "most": most, "alone": alone,
                "positional": positional, "hidden": hidden}
    return dataclasses.field(default=default, metadata=metadata)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._negative_number_matcher = re.compile(r"-[0-9.]")  # also a box such as -10,5,30,40 is a value, no flag

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; --help lists all flags")


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        silent = action.default in (None, "", (), argparse.SUPPRESS) or "default" in (action.help or "")
        default = " ".join(action.default) if isinstance(action.default, tuple) else action.default
        return (action.help or "") if silent else f"{action.help} (default {default})"


def parse_options(kind: type[T], argv: Sequence[str], *, prog: str, about: str, examples: Sequence[str] = ()) -> T:
    """Return the options `kind` (a dataclass whose fields come from `flag`) of a command line.

    `-` and `_` in a flag's name are the same, `--name` alone is True for a truth value, and a value may begin with a
    minus sign. Raises UserError in one line, with the nearest flag for a misspelt one.
    """
    parser = _Parser(prog=prog, description=about, formatter_class=_Formatter, allow_abbrev=False,
                     epilog="\n".join(["examples:", *(f"  {line}" for line in examples)]) if examples else None)
    hints = get_type_hints(kind)
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    for field in fields:
        _add(parser, field, hints[field.name])
    alone = {field.name: "True" if _plain(hints[field.name])[0] is bool else field.metadata["alone"]
             for field in fields if not field.metadata["positional"]}
    loose = any(field.metadata["positional"] for field in fields)
    values = vars(parser.parse_intermixed_args(_normalise(argv, alone, loose=loose, prog=prog)))
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _plain(hint: Any) -> tuple[Any, bool]:
    """Return (type, whether there may be several) of an annotation: X | None is X, tuple[X, ...] is several X."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    return hint, False


def _add(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], hint: Any) -> None:
    kind, several = _plain(hint)
    meta, required = field.metadata, field.default is dataclasses.MISSING
    given: dict[str, Any] = {"help": argparse.SUPPRESS if meta["hidden"] else meta["help"], "metavar": meta["metavar"]}
    if get_origin(kind) is Literal:
        given |= {"choices": get_args(kind), "type": type(get_args(kind)[0])}
    elif kind is bool:
        given |= {"type": _boolean, "metavar": "True|False"}
    elif kind in (int, float):
        given["type"] = _number(kind, meta["least"], meta["most"])
    else:
        given["type"] = kind
    if not required:
        given["default"] = field.default
    if meta["positional"]:
        given["nargs"] = ("+" if required else "*") if several else (None if required else "?")
        parser.add_argument(field.name, **given)
    else:
        more: dict[str, Any] = {"nargs": "+", "action": _Several} if several else {}
        parser.add_argument(f"--{field.name}", required=required, **given, **more)


class _Several(argparse.Action):
    """Values of a flag that takes several, which may also be given several times."""

    def __call__(self, _parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is self.default else [*before, *values])


def _normalise(argv: Sequence[str], alone: Mapping[str, Any], *, loose: bool, prog: str) -> list[str]:
    """Return the words as argparse likes them: names with `_`, a value for each truth.

    alone: what each flag means without a value, None if it needs one. loose: there are words without a flag too.
    """
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*words, word, *rest]
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name == "--help":
            words.append(word)
            continue
        plain = name[2:].replace("-", "_")
        if plain not in alone:
            near = did_you_mean(plain, alone, prefix="--")
            raise UserError(f"{prog}: no flag {name}{near}; --help lists all flags")
        following = rest[0] if rest else ""
        if equals:
            words.append(f"--{plain}={value}")
        elif alone[plain] is not None:
            plausible = following in ("True", "False") or following.isdigit()
            given = plausible or bool(following and not loose and not following.startswith("-"))
            words.append(f"--{plain}={rest.pop(0) if given else alone[plain]}")
        else:
            words.append(f"--{plain}")
    return words


def _boolean(text: str) -> bool:
    """Return the truth of "True" or "False"; anything else is an error, so that `--align False` is False."""
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text == "True"


def _number(kind: type[int] | type[float], least: float | None, most: float | None) -> Any:
    """Return the reader of a number between two bounds, both included."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if (least is None or value >= least) and (most is None or value <= most):
                return value
        what = "a whole number" if kind is int else "a number"
        bounds = "" if least is None else f" of {least:g} or more" if most is None else f" from {least:g} to {most:g}"
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}{bounds}")

    return read


def as_argv(options: Any) -> list[str]:
    """Return the words that give these options again: what differs from the defaults, positional values after `--`."""
    words: list[str] = []
    last: list[str] = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value is None or value == field.default:
            continue
        texts = [str(item) for item in (value if isinstance(value, tuple) else (value,))]
        if field.metadata["positional"]:
            last += texts
        elif len(texts) == 1:
            words.append(f"--{field.name}={texts[0]}")
        else:
            words += [f"--{field.name}", *texts]
    return [*words, "--", *last] if last else words

