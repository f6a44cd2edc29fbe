"""Crops in a few large files instead of millions of small ones: plain tar archives with a table of offsets.

`tar xf` gives the crops back; the table (`lib.datasets.arrayfile`, memory-mapped) says for each row of the index where
its crop lies and what its checksum is. Crops are read with `pread` and not through a mapping: on a network disk a
mapping answers a lost connection by killing the process, a read by an error that names the record.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Boxes
from lib.datasets.arrayfile import read_arrays
from lib.datasets.index import TrackIndex
from lib.datasets.pairs import Crop, UnreadableCrop, crop_name, decode_crop
from lib.errors import UserError
from lib.files import MAX_PICTURE_BYTES

TABLE = "crops.arrays"


def archive_name(number: int) -> str:
    """Return the name of an archive of a packed folder."""
    return f"crops-{number:05d}.tar"


def fingerprint(index: TrackIndex) -> int:
    """Return a checksum of which rows an index has: a table of offsets belongs to one index only."""
    starts = np.ascontiguousarray(index.starts)
    return zlib.crc32(np.ascontiguousarray(index.frames).data, zlib.crc32(starts.data))


class PackedCrops:
    """The crops of a packed folder."""

    def __init__(self, folder: Path, index: TrackIndex) -> None:
        """Open a folder for an index; raise UserError if a file is missing, cut short or of another index."""
        self.folder = folder
        path = folder / TABLE
        try:
            arrays, note = read_arrays(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: {error}; expected a folder that `python -m lib.datasets.prepare pack` made") \
                from error
        if note.get("fingerprint") != fingerprint(index):
            raise UserError(f"{path}: belongs to another index than ANNOTATION; give the train.json that was packed")
        rows, archives = (len(index.frames),), arrays.get("first_rows", np.empty(0)).shape
        shapes = {"offsets": rows, "sizes": rows, "crcs": rows, "first_rows": archives, "bytes": archives}
        if archives == (0,) or any(name not in arrays or arrays[name].shape != shapes[name]
                                   or arrays[name].dtype.kind not in "iu" for name in shapes):
            raise UserError(f"{path}: damaged, its parts do not belong together; pack the folder again")
        self._offsets: NDArray[Any] = arrays["offsets"]
        self._sizes: NDArray[Any] = arrays["sizes"]
        self._crcs: NDArray[Any] = arrays["crcs"]
        self._first_rows: list[int] = arrays["first_rows"].tolist()
        for number, size in enumerate(arrays["bytes"].tolist()):
            archive = folder / archive_name(number)
            if not archive.is_file() or archive.stat().st_size != size:
                raise UserError(f"{archive}: missing or not {size} bytes long; copy or pack it again")
        self._files: dict[int, int] = {}
        self.index = index

    def read(self, index: TrackIndex, track: int, row: int, view_xyxy: Boxes | None = None, /) -> Crop:
        """Return the crop of one row of a track; raise UnreadableCrop naming archive and record if it is damaged."""
        number = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        record = f"{index.video(track)}/{crop_name(int(index.frames[row]), int(index.track_numbers[track]))}"
        place = f"{self.folder / archive_name(number)}: {record}"
        size, offset = int(self._sizes[row]), int(self._offsets[row])
        try:
            if number < 0 or not 0 <= size <= MAX_PICTURE_BYTES or not 0 <= offset < 2**63:
                raise OSError(errno.EINVAL, f"{size} bytes at {offset} of archive {number} are no place")
            data = os.pread(self._file(number), size, offset)
        except OSError as error:
            raise UnreadableCrop(f"{place}: {error.strerror}") from error
        if zlib.crc32(data) != int(self._crcs[row]):
            raise UnreadableCrop(f"{place}: damaged, its checksum is not the one it was packed with")
        return decode_crop(data, index.size_wh(row), place=place, view_xyxy=view_xyxy)

    def _file(self, number: int) -> int:
        """Return the open archive; each process opens its own, though reads at an offset could share one."""
        if number not in self._files:
            self._files[number] = os.open(self.folder / archive_name(number), os.O_RDONLY)
        return self._files[number]

    def __reduce__(self) -> tuple[Callable[..., PackedCrops], tuple[Path, TrackIndex]]:
        """Return how another process opens the folder: open files do not travel."""
        return PackedCrops, (self.folder, self.index)
