"""Named arrays in one file, mapped into memory: the processes of a machine share it, however many they are.

Layout: 8 magic bytes, the length of the header (uint64, little endian), the header (JSON: a note of the writer's, and
dtype, shape and offset of each array), then each array's bytes, aligned to 64. One file, unlike a folder of .npy files,
is whole or absent, and a set that was packed years ago opens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.files import atomic_write, open_regular

Arrays = dict[str, Any]  # of NDArray

_MAGIC = b"OKARRAY1"
_ALIGN = 64
_DTYPES = {np.dtype(kind).str for kind in "bBhHiIqQfd"}  # numpy would read a small language here
_MAX_HEADER = 2**20  # bytes


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


def read_arrays(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays, read-only and memory-mapped, and the note; raise ValueError or OSError if it is no such file.

    The bytes of an array are read from the disk when they are first looked at.
    """
    with open_regular(path) as file:
        start = file.read(len(_MAGIC) + 8)
        length = int.from_bytes(start[len(_MAGIC) :], "little")
        if not start.startswith(_MAGIC) or length > _MAX_HEADER:
            raise ValueError("not a file of arrays")
        header = file.read(length)
    mapped = np.asarray(np.memmap(path, np.uint8, mode="r"))  # plain arrays: a memmap's slices are slow to make
    try:
        tree = json.loads(header)
        data = mapped[len(start) + length :]
        return {name: _array(data, *entry) for name, entry in tree["arrays"].items()}, dict(tree["note"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"cut short or damaged ({error})") from error


def _array(data: NDArray[np.uint8], dtype: str, shape: list[int], offset: int) -> NDArray[Any]:
    """Return the array at `offset` bytes; raise ValueError or TypeError if it is not within `data`."""
    if dtype not in _DTYPES:
        raise ValueError(f"{dtype!r:.40} is no type of numbers")
    end = offset + math.prod(shape) * np.dtype(dtype).itemsize
    if min([offset, *shape]) < 0 or end > len(data):
        raise ValueError(f"{dtype} {shape} at {offset}")
    return data[offset:end].view(dtype).reshape(shape)
