"""Named arrays in one file: written whole or not at all, read by memory mapping.

A mapped file is shared by every process of the machine: loader workers and ranks add nothing to its size.
Layout: 8 magic bytes, the length of the header (uint64, little endian), the header (JSON: a note of the writer's, and
dtype, shape and offset of each array), then each array's bytes, aligned to 64.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.files import atomic_write, open_regular

_MAGIC = b"OKARRAY1"
_ALIGN = 64
_DTYPE = re.compile(r"[<>|]?[iuf][1248]")
_MOST_HEADER = 2**20  # bytes


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], *, note: Mapping[str, Any]) -> None:
    """Write `arrays` with `note` (any JSON) to `path` atomically; raise UserError when it cannot be written."""
    entries: dict[str, tuple[str, tuple[int, ...], int]] = {}
    offset = 0
    for name, array in arrays.items():
        entries[name] = (array.dtype.str, array.shape, offset)
        offset += -(-array.nbytes // _ALIGN) * _ALIGN
    header = json.dumps({"note": dict(note), "arrays": entries}).encode()
    header += b" " * (-(len(_MAGIC) + 8 + len(header)) % _ALIGN)
    with atomic_write(path, mode="wb") as file:
        file.write(_MAGIC + len(header).to_bytes(8, "little") + header)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data)
            file.write(bytes(-array.nbytes % _ALIGN))


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays, read-only and memory-mapped, and the note; raise ValueError or OSError if it is no such file.

    The bytes of an array are read from the disk when they are first looked at.
    """
    with open_regular(path) as file:
        start = file.read(len(_MAGIC) + 8)
        if start[: len(_MAGIC)] != _MAGIC:
            raise ValueError(f"{path}: not a file of arrays")
        length = int.from_bytes(start[len(_MAGIC) :], "little")
        if length > min(path.stat().st_size, _MOST_HEADER):
            raise ValueError(f"{path}: cut short")
        header = file.read(length)
    mapped = np.asarray(np.memmap(path, np.uint8, mode="r"))  # plain arrays: a memmap's slices are slow to make
    try:
        tree = json.loads(header)
        entries, note = dict(tree["arrays"]), dict(tree["note"])
        return {name: _array(mapped[len(start) + length :], *entry) for name, entry in entries.items()}, note
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: cut short or damaged ({error})") from error


def _array(mapped: NDArray[np.uint8], dtype: str, shape: list[int], offset: int) -> NDArray[Any]:
    """Return the array at `offset` bytes; raise ValueError or TypeError if it is not within what is mapped."""
    if not _DTYPE.fullmatch(dtype):  # numpy would read a small language here
        raise ValueError(f"{dtype!r:.40} is no type of numbers")
    kind, count = np.dtype(dtype), math.prod(shape)
    if min([offset, *shape]) < 0 or offset + count * kind.itemsize > len(mapped):
        raise ValueError(f"{dtype} {shape} at {offset}")
    return mapped[offset : offset + count * kind.itemsize].view(kind).reshape(shape)
