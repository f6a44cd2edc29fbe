"""Weights by name: those that come along, those in the cache folder, and those that a checked table has addresses of.

The table is experiments/weights/table.yaml, or the file that OCEANKIT_TABLE names. Each file has an address and the
SHA-256 that it must have; settings of the same name come with the weights:

    OceanBig.pth: {url: "https://...", sha256: 6d1c...}
    OceanBig.yaml: {url: "https://...", sha256: 90ab...}

The cache folder is oceankit below XDG_CACHE_HOME, by default ~/.cache. What is in it is taken as it is.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from filelock import FileLock

from lib.errors import UserError
from lib.files import EXPERIMENTS, read_yaml, sha256_of

WEIGHTS_ROOT = EXPERIMENTS / "weights"
TRIES, TIMEOUT = 3, 30.0  # a broken connection is taken up again; seconds without a byte
_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder of fetched weights; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "oceankit"


def known_names() -> set[str]:
    """Return the names that `--resume` takes beside paths."""
    files = [*WEIGHTS_ROOT.glob("*.pth"), *cache_folder().glob("*.pth"), *map(Path, _table())]
    return {file.stem for file in files if file.suffix == ".pth"}


def fetched(name: str) -> Path | None:
    """Return the cached weights of a name, fetched if need be, None for an unknown one; UserError if that fails."""
    weights = cache_folder() / f"{name}.pth"
    if Path(name).name != name:
        return None
    if not weights.is_file():
        table = {file: entry for file, entry in _table().items() if Path(file).stem == name}
        if weights.name not in table:
            return None
        weights.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(weights.with_name(f".{name}.lock")):  # of several processes one fetches
            for file in sorted(table, key=lambda file: file == weights.name):  # the weights last: they say all is there
                if not weights.with_name(file).is_file():
                    _fetch(*table[file], weights.with_name(file))
    return weights


def _table() -> dict[str, tuple[str, str]]:
    """Return (address, SHA-256) of each file of the table; UserError for a table that is none."""
    path = Path(os.environ.get("OCEANKIT_TABLE") or WEIGHTS_ROOT / "table.yaml")
    content = read_yaml(path)
    try:
        table = {str(file): (str(entry["url"]), str(entry["sha256"])) for file, entry in content.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected FILE: {{url: ADDRESS, sha256: DIGEST}} for each file") from error
    for file, (url, sha256) in table.items():
        if not (re.fullmatch(r"\w[\w.-]*\.(pth|yaml)", file) and re.match("https?://", url)
                and re.fullmatch("[0-9a-f]{64}", sha256)):
            raise UserError(f"{path}: {file}: expected NAME.pth or NAME.yaml, an address with http and 64 hex digits")
    return table


def _fetch(url: str, sha256: str, path: Path) -> None:
    """Write what lies at an address to `path` if it has the SHA-256, from the byte on that an earlier try came to."""
    part = path.with_name(f".{path.name}.part")
    _log.info("fetching %s to %s", url, path.parent)
    for left in reversed(range(TRIES)):
        try:
            _go_on(url, part)
            break
        except (OSError, HTTPException) as error:
            if not left:
                raise UserError(f"{url}: cannot be fetched ({error}); the same command goes on from where this one "
                                f"stopped, and a file put to {path} by hand will do") from error
    if (found := sha256_of(part)) != sha256:
        part.unlink()
        raise UserError(f"{url}: refused, nothing of it is kept: its SHA-256 is {found}, not the table's {sha256}")
    part.replace(path)


def _go_on(url: str, part: Path) -> None:
    """Append to `part` what it lacks; raise OSError or HTTPException when the connection ends before that."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            with part.open("ab" if answer.status == 206 else "wb") as file:
                start = file.tell()
                shutil.copyfileobj(answer, file)
                got = file.tell() - start
            if got < int(answer.headers.get("Content-Length", got)):
                raise ConnectionError(f"it ended after {got} bytes")
    except HTTPError as error:
        if error.code != 416:  # there is nothing behind what we have
            raise
