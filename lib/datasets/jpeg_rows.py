"""Taking some rows out of a JPEG without decoding the others.

A JPEG with a restart mark after each row of blocks (as `lib.datasets.prepare` writes its crops) can be cut between the
marks: the header with a smaller height, followed by some of the rows, is a JPEG again. A template's view needs a third
of its crop, a search's about two thirds, and decoding is what a training sample mostly costs. Format: ITU-T T.81.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

_FRAME, _RESTART_INTERVAL, _SCAN = 0xC0, 0xDD, 0xDA  # SOF0 (baseline), DRI, SOS
_OTHER_FRAMES = {*range(0xC1, 0xD0)} - {0xC4, 0xC8, 0xCC}  # progressive, lossless, arithmetic
_RESTARTS = [bytes((0xFF, 0xD0 + k)) for k in range(8)]  # RST0 .. RST7, in turns; data bytes never look like them
_MARGIN = 2  # px above and below: chroma is interpolated between rows


class JpegRows(NamedTuple):
    """A JPEG that shows some rows of another, and how many of its px are left out."""

    data: bytes
    above: int = 0
    below: int = 0


class _BlockRows(NamedTuple):
    """What a JPEG's header says about its rows of blocks."""

    height: int
    height_at: int  # offset of the height in the header
    block: int  # px in a row of blocks
    rows: int


def cut_rows(data: bytes, top: int, bottom: int) -> JpegRows:
    """Return a JPEG that shows at least the px rows top .. bottom of `data`, with the same pixels there.

    It is `data` itself if that is no JPEG with a restart mark at the end of each row of blocks.
    """
    start = _scan_start(data)
    try:
        found = _block_rows(data[:start]) if start else None
    except (IndexError, ValueError, ZeroDivisionError):
        return JpegRows(data)  # a damaged header: the decoder says so
    if found is None:
        return JpegRows(data)
    first = max((top - _MARGIN) // found.block, 0)
    end = min((bottom + _MARGIN) // found.block + 1, found.rows)
    if (first == 0 and end == found.rows) or first >= end:
        return JpegRows(data)
    at, marks = start, []  # offsets behind the marks that end the rows
    for row in range(min(end, found.rows - 1)):
        at = data.find(_RESTARTS[row % 8], at) + 2
        if at < 2:
            return JpegRows(data)
        marks.append(at)
    begin = marks[first - 1] if first else start
    body = bytearray(data[begin : marks[-1]] if end < found.rows else data[begin:])
    for count, mark in enumerate(marks[first:]):  # the numbers of the marks begin anew
        body[mark - 1 - begin] = 0xD0 + count % 8
    if end < found.rows:
        body[-1] = 0xD9  # the last mark becomes the end of the picture
    above, below = first * found.block, max(found.height - end * found.block, 0)
    height, at = found.height - above - below, found.height_at
    return JpegRows(data[:at] + height.to_bytes(2, "big") + data[at + 2 : start] + body, above, below)


def _scan_start(data: bytes) -> int:
    """Return the offset of the first compressed byte, 0 if this is no JPEG with a scan."""
    at = 2
    while data[at : at + 1] == b"\xff":
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == _SCAN:
            return at + 2 + length
        at += 2 + length
    return 0


@lru_cache(maxsize=64)
def _block_rows(header: bytes) -> _BlockRows | None:
    """Return the rows of blocks of a baseline JPEG whose restart interval is one row of blocks, else None."""
    at, interval, frame = 2, 0, 0
    while at + 4 <= len(header):
        kind, length = header[at + 1], int.from_bytes(header[at + 2 : at + 4], "big")
        if kind == _RESTART_INTERVAL:
            interval = int.from_bytes(header[at + 4 : at + 6], "big")
        elif kind == _FRAME:
            frame = at
        elif kind in _OTHER_FRAMES:
            return None
        at += 2 + length
    if not frame or not interval:
        return None
    height, width = (int.from_bytes(header[frame + k : frame + k + 2], "big") for k in (5, 7))
    factors = [header[frame + 11 + 3 * k] for k in range(header[frame + 9])]
    across, down = 8 * max(f >> 4 for f in factors), 8 * max(f & 15 for f in factors)
    if interval != -(-width // across):
        return None
    return _BlockRows(height, frame + 5, down, -(-height // down))
