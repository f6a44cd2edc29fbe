"""Result files of the OTB MATLAB toolkit: `results{1}.res` of a `.mat` file of format 5.

Read here and not by scipy, whose compiled reader a damaged file can crash, and with it the whole process. The format:
MathWorks, MAT-File Format (R2022a), chapter 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lib.boxes import Boxes
from lib.errors import UserError
from lib.files import read_regular

MAX_BYTES = 32 * 2**20  # of a file, and of what it unpacks to: a million frames
_HEADER = 128  # bytes before the first element
_MATRIX, _COMPRESSED = 14, 15  # types of an element
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CELL, _STRUCT, _CHAR, _NUMERIC = 1, 2, 4, range(6, 16)  # classes of an array
_DEEPEST = 8  # cells within structs within cells; a result has two


def read_mat_boxes(path: Path) -> Boxes:
    """Return the rows (N, 4) of a one-pass result of type "rect", as they stand in the file; NaN rows are kept.

    Raises UserError for a file that is not such a result, and for the toolkit's affine result types, which hold no
    boxes.
    """
    try:
        content = read_mat(read_regular(path, max_bytes=MAX_BYTES))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); expected a MATLAB 5 file") from error
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as a MATLAB 5 file ({error})") from error
    result = content.get("results")
    if isinstance(result, list) and result:
        result = result[0]  # one entry per start frame; one-pass evaluation has one
    if not isinstance(result, dict) or "res" not in result:
        raise UserError(f"{path}: no results{{1}}.res in it; expected a result of the OTB toolkit")
    kind = result.get("type", "rect")
    if not isinstance(kind, str) or kind != "rect":
        raise UserError(f"{path}: result of type {str(kind)!r:.60}; only 'rect' (x, y, w, h) can be scored")
    return _rows(path, result["res"])


def read_mat(data: bytes) -> dict[str, Any]:
    """Return the variables of a MATLAB 5 file by name: cells and arrays of structs as lists, structs as dicts, text as
    str, numbers as float64 arrays of their shape, and None for anything else. Raises ValueError for any other bytes.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:_HEADER])
    if order is None or data[124:126] not in (b"\x00\x01", b"\x01\x00"):
        raise ValueError("its header is another's; save with -v7, not -v7.3")
    try:
        return dict(_matrix(part, order, 0) for kind, part in _elements(data[_HEADER:], order) if kind == _MATRIX)
    except (struct.error, zlib.error, IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"cut short or damaged: {error}") from error


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Return an iterator over the type and the bytes of each element, compressed ones unpacked."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # a small element: type, size and four bytes in one tag
            kind, size, begin, following = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        else:
            begin = at + 8
            following = begin + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if begin + size > len(data):
            raise ValueError("cut short")
        part = data[begin : begin + size]
        if kind == _COMPRESSED:
            unpacked = zlib.decompressobj().decompress(part, MAX_BYTES)
            if len(unpacked) == MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes once unpacked")
            inner = next(_elements(unpacked, order), (0, b""))
            kind, part = (inner[0], inner[1]) if inner[0] != _COMPRESSED else (0, b"")
        yield kind, part
        at = following


def _matrix(data: bytes, order: str, depth: int) -> tuple[str, Any]:
    """Return name and value of an array from its elements: flags, dimensions, name, and what its class holds."""
    if depth > _DEEPEST:
        raise ValueError("nested too deep")
    if not data:
        return "", np.empty((0, 0))  # an empty field
    (_, flags), (_, dimensions), (_, name), *parts = _elements(data, order)
    kind = struct.unpack_from(f"{order}I", flags)[0] & 0xFF
    shape = struct.unpack(f"{order}{len(dimensions) // 4}i", dimensions)
    count = math.prod(shape)
    if min(shape) < 0 or count > MAX_BYTES:
        raise ValueError(f"an array of {shape}")
    value: Any = None
    if kind == _CELL:
        value = [_matrix(part, order, depth + 1)[1] for _, part in parts]
    elif kind == _STRUCT:
        value = _struct(parts, count, order, depth)
    elif kind == _CHAR and parts:
        letters = np.frombuffer(parts[0][1], order + _NUMBERS.get(parts[0][0], "u1"))
        value = "".join(map(chr, letters.clip(0, 0xFFFF).tolist()))
    elif kind in _NUMERIC and parts:
        numbers = np.frombuffer(parts[0][1], order + _NUMBERS[parts[0][0]])
        value = numbers.astype(np.float64).reshape(shape, order="F")
    return name.decode("ascii"), value


def _struct(parts: list[tuple[int, bytes]], count: int, order: str, depth: int) -> Any:
    """Return a struct's fields by name; a list of them where there are several."""
    length = struct.unpack(f"{order}i", parts[0][1])[0]
    names = [parts[1][1][at : at + length].split(b"\0")[0].decode("ascii") for at in range(0, len(parts[1][1]), length)]
    values = [_matrix(part, order, depth + 1)[1] for _, part in parts[2 : 2 + count * len(names)]]
    rows = [dict(zip(names, values[at : at + len(names)], strict=True)) for at in range(0, len(values), len(names))]
    return rows[0] if len(rows) == 1 else rows


def _rows(path: Path, value: Any) -> Boxes:
    """Return `res` as rows (N, 4)."""
    try:
        rows = np.atleast_2d(np.asarray(value, np.float64))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: results{{1}}.res is not numeric; expected rows x, y, w, h") from error
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise UserError(f"{path}: results{{1}}.res has shape {rows.shape}; expected rows x, y, w, h")
    if np.isinf(rows).any():
        raise UserError(f"{path}: results{{1}}.res row {int(np.isinf(rows).any(axis=1).argmax()) + 1} is infinite; "
                        "expected four finite numbers x, y, w, h")
    return rows
