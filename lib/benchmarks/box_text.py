"""Text files of boxes, one x, y, w, h per line: parsed fast when clean, and with a line number when not."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Boxes
from lib.errors import UserError
from lib.files import atomic_write, read_regular

MAX_BOX_BYTES = 32 * 2**20  # a million frames; the longest video of any test set here has 14,000
_SEPARATORS = re.compile(r"[,;\s]+")
_OF_NUMBERS = b"0123456789.+-eEnaNA"


def read_boxes(path: Path, *, allow_nan: bool) -> Boxes:
    """Return the rows (N, 4) of a text file, as they stand in it.

    Commas, tabs, semicolons and spaces separate; blank lines at the end are ignored. `allow_nan` lets NaN through (a
    tracker that lost its target), never infinity. Raises UserError with file and line for anything else.
    """
    data = _read_bytes(path)
    boxes = _parse_clean(data)
    if boxes is None:
        boxes = _parse_slowly(path, data)
    if not np.isfinite(boxes).all():
        _check_finite(path, boxes, allow_nan=allow_nan)
    return boxes


def write_boxes(path: Path, boxes_xywh: Boxes) -> None:
    """Write rows (N, 4) as `x,y,w,h` with four decimals, whole or not at all."""
    rows = np.asarray(boxes_xywh, np.float64)
    assert rows.ndim == 2, rows.shape
    assert rows.shape[1] == 4, rows.shape
    assert np.isfinite(rows).all(), "a tracker's box must be finite"
    with atomic_write(path) as file:
        file.write("".join(f"{x:.4f},{y:.4f},{w:.4f},{h:.4f}\n" for x, y, w, h in rows.tolist()))


def _read_bytes(path: Path) -> bytes:
    """Return the bytes of a file of boxes; UserError when it is missing, no file, or absurdly large."""
    try:
        return read_regular(path, max_bytes=MAX_BOX_BYTES)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected one line x,y,w,h per frame") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); expected one line x,y,w,h per frame"
                        ) from error


def _parse_clean(data: bytes) -> Boxes | None:
    """Return the rows (N, 4) when every line is four plain numbers with one kind of separator, else None.

    What is left when all that numbers are made of is deleted must be three commas per line: that is what makes one
    call of numpy's parser per file strict.
    """
    text = data.replace(b"\r\n", b"\n").rstrip(b"\n").replace(b"\t", b",") + b"\n"
    rows = text.count(b"\n")
    if text.translate(None, _OF_NUMBERS) != b",,,\n" * rows:
        return None
    values = _parse_decimals(text)
    if values is None:
        values = _numbers(text, np.float64)
    return values.reshape(-1, 4) if values.size == 4 * rows else None


def _parse_decimals(text: bytes) -> NDArray[np.float64] | None:
    """Return the numbers of a text in which all or none have a point and none an exponent, else None.

    Whole numbers are read four times as fast as others: the points are taken out, and a power of ten divides. With 15
    digits and a power up to 10^22 both are exact in float64, so the one division rounds as it should.
    """
    if text.translate(None, b"0123456789.-,\n"):
        return None
    chars = np.frombuffer(text, np.uint8)
    points, ends = np.flatnonzero(chars == ord(".")), np.flatnonzero((chars == ord(",")) | (chars == ord("\n")))
    starts = np.concatenate([[0], ends[:-1] + 1])
    negative = chars[starts] == ord("-")
    if text.count(b"-") != negative.sum() or (ends - starts - negative - bool(len(points))).min() < 1:
        return None  # a sign inside a number, or no digit beside sign and point
    decimals = np.zeros(len(ends), np.intp)
    if len(points):
        if len(points) != len(ends) or (points > ends).any() or (points[1:] < ends[:-1]).any():
            return None
        decimals = ends - points - 1
    whole = _numbers(text.replace(b".", b""), np.int64)
    if len(whole) != len(ends) or np.abs(whole).max() >= 10**15 or decimals.max() > 22:
        return None
    return np.asarray(whole / 10.0**decimals, np.float64)


def _numbers(text: bytes, dtype: type) -> NDArray[Any]:
    """Return the numbers of comma- or line-separated text up to the first thing that is none."""
    with warnings.catch_warnings():
        # numpy warns where it stops; that too few numbers came out says the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return np.fromstring(text.replace(b"\n", b",")[:-1], dtype, sep=",")
        except ValueError:
            return np.empty(0, dtype)


def _parse_slowly(path: Path, data: bytes) -> Boxes:
    """Return the rows (N, 4) read line by line; raise UserError with the line that is not four numbers."""
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} line {number}: not text; expected x,y,w,h") from error
    while lines and not lines[-1].strip():
        lines.pop()
    rows = np.empty((len(lines), 4))
    for index, line in enumerate(lines):
        rows[index] = _parse_line(path, index + 1, line)
    return rows


def _parse_line(path: Path, number: int, line: str) -> list[float]:
    tokens = [token for token in _SEPARATORS.split(line.strip()) if token]
    try:
        if len(tokens) != 4:
            raise ValueError
        return [_number(token) for token in tokens]
    except ValueError as error:
        shown = line.strip()[:60] or "an empty line"
        raise UserError(f"{path} line {number}: {shown!r} is not a box; expected four numbers x,y,w,h") from error


def _number(token: str) -> float:
    if "_" in token:
        raise ValueError(token)  # Python reads 1_0 as ten; nobody who wrote a box meant that
    return float(token)


def _check_finite(path: Path, boxes: Boxes, *, allow_nan: bool) -> None:
    """Raise UserError for an infinite value, or for NaN where it is not allowed."""
    bad = np.isinf(boxes) if allow_nan else ~np.isfinite(boxes)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UserError(f"{path} line {row + 1}: value {boxes[row, column]} is not a coordinate; "
                        "expected four finite numbers x,y,w,h")
