"""Pictures on disk: which belong to a folder, in which order, and how one becomes BGR pixels, the same everywhere.

libjpeg-turbo through simplejpeg gives exactly the pixels of OpenCV, a little faster (`perf/loader.py` compares them),
and unlike OpenCV it reports damage; what it does not take (PNG and the like) goes through OpenCV. Both are imported
where they are used, since listing a folder needs neither and they are slow to load.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lib.errors import UserError
from lib.files import read_bytes

if TYPE_CHECKING:
    from lib.crops import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_FRAME, _RESTART_INTERVAL, _SCAN = 0xC0, 0xDD, 0xDA  # SOF0 (baseline), DRI, SOS
_OTHER_FRAMES = {*range(0xC1, 0xD0)} - {0xC4, 0xC8, 0xCC}  # progressive, lossless, arithmetic
_RESTARTS = [bytes((0xFF, 0xD0 + k)) for k in range(8)]  # RST0 .. RST7, in turns; data bytes never look like them
_MARGIN = 2  # px above and below: chroma is interpolated between rows
_log = logging.getLogger(__name__)


# ---- decoding


def read_image(path: Path) -> Image:
    """Return the image (H, W, 3) BGR uint8 in a file, as `decode` does; raise UserError naming the file."""
    try:
        return decode(read_bytes(path, hint="is the data set whole?"))
    except ValueError as error:
        raise _unreadable(path, error) from error


def decode(data: bytes, *, reduce: int = 1) -> Image:
    """Return the pixels uint8 (H, W, 3), BGR, of an encoded picture; raise ValueError saying what is wrong with it.

    `reduce` 2, 4 or 8 gives a picture of 1/2, 1/4 or 1/8 of the size (rounded up), scaled within the JPEG transform,
    which costs less time than decoding it whole. The picture is turned as its orientation mark (EXIF) says, as every
    viewer shows it. A JPEG that is cut short or damaged is an error, not a picture with a gray lower part; bytes behind
    its end do no harm. Gray pictures get three equal channels.
    """
    import cv2
    import simplejpeg

    if data[:3] == _JPEG_START:
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            # The library picks the smallest scale that keeps both minima.
            picture = simplejpeg.decode_jpeg(data, "BGR", min_height=-(-height // reduce),
                                             min_width=-(-width // reduce), min_factor=1)
            if not _may_be_turned(data):
                return np.asarray(picture, np.uint8)
        except ValueError as error:
            # Stray bytes between segments do no harm, and other kinds of JPEG are OpenCV's; damaged pixels are refused.
            damaged = "Corrupt JPEG" in str(error) and "extraneous bytes" not in str(error)
            if damaged or "Premature end" in str(error) or _JPEG_END not in data:
                raise ValueError(f"a JPEG that is cut short or damaged ({error})") from error
    flags = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
             8: cv2.IMREAD_REDUCED_COLOR_8}[reduce]
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # no data at all, or more px than OpenCV reads
        picture = None
    if picture is None:
        raise ValueError("not an image that can be decoded")
    return np.asarray(picture, np.uint8)


def _may_be_turned(data: bytes) -> bool:
    """Return whether a JPEG's header has a block of EXIF, whose orientation mark OpenCV knows."""
    return b"Exif\0\0" in data[: 2**16]


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of `read_image(path)`, for a JPEG from its header alone; raise UserError naming it."""
    import simplejpeg

    data = read_bytes(path, hint="is the data set whole?")
    try:
        turned = data[:3] != _JPEG_START or _may_be_turned(data)
        height, width, *_ = decode(data).shape if turned else simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise _unreadable(path, error) from error
    return width, height


def decode_ahead(paths: Sequence[Path], pool: ThreadPoolExecutor, *, ahead: int = 3) -> Iterator[Image]:
    """Return the images of `paths` in order, up to `ahead` decoded before; UserError when a bad one is asked for."""
    assert ahead >= 1, ahead
    rest = iter(paths)
    pending: deque[Future[Image]] = deque(pool.submit(read_image, path) for path in islice(rest, ahead))

    def images() -> Iterator[Image]:
        try:
            while pending:
                image = pending.popleft().result()
                if (path := next(rest, None)) is not None:
                    pending.append(pool.submit(read_image, path))
                yield image
        finally:
            for future in pending:  # left early: nobody will ask for these
                future.cancel()

    return images()


def _unreadable(path: Path, error: ValueError) -> UserError:
    return UserError(f"{path}: {error} ({path.stat().st_size} bytes); copy it again from the data set")


# ---- some rows of a JPEG without decoding the others
#
# A JPEG with a restart mark after each row of blocks (so `lib.datasets.prepare` writes its crops) can be cut between
# marks: a header with a smaller height, and some of the rows, are a JPEG again. A template's view needs a third
# of its crop, a search's about two thirds, and decoding is what a training sample mostly costs. Format: ITU-T T.81.


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


@functools.lru_cache(maxsize=64)
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


# ---- folders


def list_images(folder: Path) -> list[Path]:
    """Return the pictures in a folder in natural order; hidden files (macOS leaves `._0001.jpg`) are none.

    Where two orders are possible a warning says which was taken. Raises UserError when the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".")
                     and os.path.splitext(entry.name)[1].lower() in SUFFIXES and entry.is_file()]  # noqa: PTH122
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); expected a folder of pictures") from error
    ordered, note = natural_order(names)
    if note:
        _warn_once(f"{folder}: {note}")
    return [folder / name for name in ordered]


@functools.lru_cache(maxsize=10_000)
def _warn_once(message: str) -> None:
    _log.warning("%s", message)


def natural_order(names: Sequence[str]) -> tuple[list[str], str]:
    """Return file names in the order of their number, and a note, '' unless the order could be another.

    `frame_2` stands before `frame_10`; `1583.25` is a time before `1583.5`. Of a name's numbers the first or the last
    decides, whichever counts up in even steps over the names, else the first of the two that tells all names apart,
    else all numbers from left to right.
    """
    stems = [os.path.splitext(name)[0] for name in names]  # noqa: PTH122
    numbers = [_NUMBER.findall(stem) for stem in stems]
    if not names or not all(numbers):
        ordered = _by(list(map(_pieces, stems)), names)
        return ordered, _order_note(ordered, sorted(names))
    readings = [_read_numbers([found[place] for found in numbers]) for place in (0, -1)]
    distinct = [values for values, _ in readings if len(set(values)) == len(values)]
    counters = [values for values in distinct if _counts_up(values)]
    keys = [*(counters or distinct or [list(map(_pieces, stems))]), *(other for _, other in readings if other)]
    ordered, *others = (_by(column, names) for column in keys)
    return ordered, next(filter(None, (_order_note(ordered, other) for other in others)), "")


def _by(keys: Sequence[Any], names: Sequence[str]) -> list[str]:
    return [name for _, name in sorted(zip(keys, names, strict=True))]


_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def _read_numbers(texts: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """Return the values of numbers in text, and the other reading where a dot may be a point or a separator.

    `1583.5` and `1583.25` are times; of `2.9` and `2.10` the second is surely a part and its index, as no fraction is
    written `.10` beside a shorter one.
    """
    values: list[Any] = [Decimal(text) for text in texts]
    pairs: list[Any] = [tuple(map(int, text.split("."))) for text in texts]
    places = range(len(texts))
    if sorted(places, key=values.__getitem__) == sorted(places, key=pairs.__getitem__):
        return values, []
    fractions = [text.partition(".")[2] for text in texts]
    is_index = any(f[1:] and f.endswith("0") for f in fractions) and not any(f[1:] and f[0] == "0" for f in fractions)
    return (pairs, []) if is_index else (values, pairs)


def _counts_up(column: Sequence[Any]) -> bool:
    """Return whether a column's numbers, sorted, go up in even steps."""
    ordered = sorted(column)
    return not isinstance(ordered[0], tuple) and len({b - a for a, b in pairwise(ordered)}) == 1


def _pieces(stem: str) -> list[tuple[int, int, str]]:
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in re.split(r"(\d+)", stem)
            if piece]


def _order_note(taken: Sequence[str], other: Sequence[str]) -> str:
    """Return '' for the same order twice, else a line that shows where they part."""
    for place, pair in enumerate(zip(taken, other, strict=True)):
        if pair[0] != pair[1]:
            here, there = (", ".join(names[max(place - 1, 0) : place + 2]) for names in (taken, other))
            return f"the names allow two orders: taken {here}, not {there}; name them 000001, 000002, ... to be sure"
    return ""
