"""Files: written whole or not at all, and read with one clear line when they are not what they should be."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import yaml

from lib.errors import UserError

_LIB = Path(__file__).resolve().parent
# YAML files and weights that come along: in an installed package, or beside it in a checkout.
EXPERIMENTS = (_LIB if (_LIB / "experiments").is_dir() else _LIB.parent) / "experiments"
MAIN = _LIB / "__main__.py"  # `python MAIN NAME ...` is `oceankit NAME ...` anywhere, whatever else is called lib there


@contextlib.contextmanager
def atomic_write(path: str | Path, *, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing whose content appears at `path` only when the block ends without an error.

    The content goes to a hidden file in the same folder, which is made if need be, is flushed to the disk and renamed:
    a reader or a kill at any moment finds the old file or the new one. `mode` is "w" (UTF-8) or "wb".
    Raises UserError naming `path` when the system refuses (full disk, read-only folder); the old file then stays.
    """
    assert mode in ("w", "wb"), mode
    path = Path(path)
    start = f".{path.name[:100]}.{socket.gethostname()[:40]}-"
    temporary = path.with_name(f"{start}{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_replaceable(path)
        _clear_left_behind(path.parent, start)
        try:
            with temporary.open(mode, **text) as file:  # type: ignore[call-overload]
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); free some space or choose a folder "
                        f"that can be written; what stood there before is untouched") from error


def _clear_left_behind(folder: Path, start: str) -> None:
    """Remove the hidden files of such a name whose writers on this machine are dead: killed in the midst of a write."""
    for half in folder.glob(f"{glob.escape(start)}*.tmp") if os.name == "posix" else ():
        owner = half.name.removeprefix(start).partition(".")[0]
        try:
            os.kill(int(owner), 0)
        except ProcessLookupError:
            half.unlink(missing_ok=True)
        except (ValueError, OSError):  # no process number, or another user's process
            continue


def write_whole(path: str | Path, content: str | bytes | memoryview) -> None:
    """Write a file of this content as `atomic_write` does."""
    with atomic_write(path, mode="w" if isinstance(content, str) else "wb") as file:
        file.write(content)


def _check_replaceable(path: Path) -> None:
    """Raise OSError where something else than a regular file stands: root's rename would replace /dev/null itself."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, f"it is {'a folder' if path.is_dir() else 'a device or the like'}; expected a file")


def read_bytes(path: str | Path, *, hint: str = "check the path") -> bytes:
    """Return the bytes of a file; raise UserError with a hint where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror or error})"
        raise UserError(f"{path}: {why}; {hint}") from error


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file; raise UserError for anything else."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); expected a text file") from error


def read_json(path: str | Path, *, object_pairs_hook: Callable[[list[Any]], Any] | None = None) -> Any:
    """Return the value in a JSON file, `object_pairs_hook` as of json.loads; UserError with line and column."""
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON at line {error.lineno} column {error.colno} ({error.msg})") from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: not usable JSON ({error})") from error


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses doubled keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"the key '{key.value}' stands twice", key.start_mark)
            seen.add(key.value)
        return node


# YAML 1.1 wants a dot in 1.0e-5; everyone writes 1e-5 and gets a text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
# A folder may be called 000123 or 2026-11-27: no key means an octal number or a date.
_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    for first, pairs in _Loader.yaml_implicit_resolvers.items()
}
_Loader.yaml_implicit_resolvers["0"].insert(0, ("tag:yaml.org,2002:str", re.compile(r"^0[0-9]+$")))


def shipped(path: str | Path) -> Path:
    """Return the file of the package that a path such as experiments/train/Ocean.yaml names where it is not there."""
    path = Path(path)
    ours = EXPERIMENTS.parent / path
    return ours if path.parts[:1] == ("experiments",) and not path.exists() and ours.is_file() else path


def read_yaml(path: str | Path) -> Any:
    """Return the data of a YAML file, one of the package's included (`shipped`); UserError with line and column."""
    data = parse_yaml(read_text(shipped(path)), place=str(path))
    if data is None:
        raise UserError(f"{path}: empty; expected a YAML file with keys (see experiments/train/Ocean.yaml)")
    return data


def parse_yaml(text: str, *, place: str) -> Any:
    """Return the value of YAML text; `place` names it in an error."""
    try:
        return yaml.load(text, Loader=_Loader)  # _Loader is a SafeLoader: no object is ever constructed
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f" at line {mark.line + 1} column {mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"{place}: not usable YAML{where}: {problem}") from error
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise UserError(f"{place}: not usable YAML: {error}") from error


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits; raise UserError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    return digest.hexdigest()


def check_output(path: Path, *, flag: str, folder: bool = True) -> None:
    """Raise UserError where the folder (or file) of `flag` cannot be written, at a command's start; leave nothing."""
    place = path if folder else path.parent
    while not os.path.lexists(place):
        place = place.parent
    try:
        if not folder:
            _check_replaceable(path)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot be written ({error.strerror}); choose another place") from error
