"""Files: written whole or not at all, and read with one clear line when they are not what they should be."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import stat
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lib.errors import UserError

MAX_TEXT_BYTES = 256 * 2**20
MAX_PICTURE_BYTES = 256 * 2**20

_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_LEADS_OUT = "a link that leads out of its folder"


@contextlib.contextmanager
def atomic_write(path: str | Path, *, mode: str = "w") -> Iterator[IO[Any]]:
    """Return a file open for writing whose content appears at `path` only when the block ends without an error.

    The content goes to a file without a name (on Linux, else under a temporary name) in the same folder, which is made
    if need be, is flushed to the disk and renamed: a reader or a kill at any moment finds the old file or the new one,
    and nothing half-written is left behind. `mode` is "w" (UTF-8) or "wb".
    Raises UserError naming `path` when the system refuses (full disk, read-only folder); the old file then stays.
    """
    assert mode in ("w", "wb"), mode
    path = Path(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _open_temporary(path)
        with os.fdopen(handle, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
            if temporary is None:
                temporary = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}.tmp")
                _give_name(file.fileno(), temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); free some space or choose a folder "
                        f"that can be written; what stood there before is untouched") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _open_temporary(path: Path) -> tuple[int, Path | None]:
    """Return a file open for writing beside `path`, and its name; None for one that vanishes with the process."""
    if hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir():
        with contextlib.suppress(OSError):  # not on every file system: a network disk has none
            return os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666), None
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
    Path(name).chmod(0o666 & ~_umask())
    return handle, Path(name)


def _give_name(handle: int, path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:  # with a folder's handle Python asks for the file behind the link in /proc, without for the link
        os.link(f"/proc/self/fd/{handle}", path.name, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


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


def read_regular(path: str | Path, *, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Return the bytes of a regular file of at most `max_bytes`; raise OSError for anything else.

    Never waits (a named pipe) and never reads without end (a device), whatever a stranger's archive put there.
    """
    return _read(os.open(path, _READ), max_bytes=max_bytes)


def read_inside(root: str, path: str, *, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Return the bytes of a regular file that lies below the folder `root`, on whose path it begins.

    Links within the root are followed; raises OSError for one that leads out of it, and as `read_regular` does.
    """
    if not _folder_inside(root, os.path.dirname(path)):  # noqa: PTH120 - called for each crop
        raise OSError(errno.EXDEV, _LEADS_OUT)
    try:
        handle = os.open(path, _READ | _NO_LINK)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        if leads_out(path, root):
            raise OSError(errno.EXDEV, _LEADS_OUT) from error
        handle = os.open(path, _READ)
    return _read(handle, max_bytes=max_bytes)


@functools.lru_cache(maxsize=100_000)
def _folder_inside(root: str, folder: str) -> bool:
    return not leads_out(folder, root)


def leads_out(path: str | Path, root: str | Path) -> bool:
    """Return whether links (or `..`) lead `path` to a place that is not below `root`, itself free to be a link."""
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def open_regular(path: str | Path) -> IO[bytes]:
    """Return a regular file open for reading; raise OSError for anything else, without waiting for a named pipe."""
    return _regular(os.open(path, _READ))


def _regular(handle: int) -> IO[bytes]:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(handle, "rb")


def _read(handle: int, *, max_bytes: int) -> bytes:
    with _regular(handle) as file:
        status = os.fstat(handle)
        if status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"{status.st_size} bytes; at most {max_bytes} are expected of such a file")
        return file.read(status.st_size or min(max_bytes, 2**20))  # a file under /proc says 0 bytes and holds more


def read_text(path: str | Path, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return the UTF-8 text of a regular file of at most `max_bytes`; raise UserError for anything else."""
    path = Path(path)
    try:
        return read_regular(path, max_bytes=max_bytes).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); expected a text file") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


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
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def _digest(file: IO[bytes]) -> str:
    """Return what hashlib.file_digest returns; Python 3.10 lacks it."""
    digest = hashlib.sha256()
    while chunk := file.read(2**20):
        digest.update(chunk)
    return digest.hexdigest()
