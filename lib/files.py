"""Files: written whole or not at all, and read with one clear line when they are not what they should be."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lib.errors import UserError

MAX_TEXT_BYTES = 256 * 2**20


@contextlib.contextmanager
def atomic_write(path: str | Path, *, mode: str = "w") -> Iterator[IO[Any]]:
    """Return a file open for writing whose content appears at `path` only when the block ends without an error.

    The content goes to a temporary name in the same folder (which is made if need be), is flushed to the disk and
    renamed, so a reader or a kill at any moment finds the old file or the new one. `mode` is "w" (UTF-8) or "wb".
    Raises UserError naming `path` when the system refuses (full disk, read-only folder); the old file then stays.
    """
    assert mode in ("w", "wb"), mode
    path = Path(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); free some space or choose a folder "
                        f"that can be written; what stood there before is untouched") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Flush the folder's entry, without which a rename can be lost in a power cut. Not possible on every system."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_text(path: str | Path, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return the UTF-8 text of a regular file of at most `max_bytes`; raise UserError for anything else."""
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a regular file; expected a text file")
        if status.st_size > max_bytes:
            raise UserError(f"{path}: {status.st_size} bytes; at most {max_bytes} are expected of such a file")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); expected a text file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_json(path: str | Path, *, max_bytes: int = MAX_TEXT_BYTES) -> Any:
    """Return the value in a JSON file; raise UserError with line and column when it is not JSON."""
    text = read_text(path, max_bytes=max_bytes)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON at line {error.lineno} column {error.colno} ({error.msg})") from error
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: not usable JSON ({error})") from error


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits; raise UserError when it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def _digest(file: IO[bytes]) -> str:
    """Return what hashlib.file_digest returns; Python 3.10 lacks it."""
    digest = hashlib.sha256()
    while chunk := file.read(2**20):
        digest.update(chunk)
    return digest.hexdigest()
