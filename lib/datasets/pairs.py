"""Sources of frame pairs: what every source offers, and the source that draws pairs from an index."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil, floor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Boxes
from lib.crops import CROP_SIZE, Image, box_in_crop511
from lib.datasets.index import TrackIndex
from lib.datasets.jpeg_rows import Rows, cut_rows
from lib.files import MAX_PICTURE_BYTES, read_regular
from lib.images import decode


class UnreadableCrop(Exception):
    """A crop that is missing, cut short or not an image; the message is "path: reason"."""


class Crop(NamedTuple):
    """An object's training crop: the geometry is that of a 511 px crop with the object in its centre.

    `image` is usually that crop itself. A source that holds whole pictures gives the picture and `to_image` instead,
    the affine matrix (2, 3) from crop px to px of `image`, and the colour outside the picture.
    """

    image: Image  # uint8 (H, W, 3), BGR
    box_xyxy: Boxes  # float64 (4,), the object's box in crop px
    to_image: NDArray[np.float64] | None = None
    fill: tuple[float, float, float] | None = None  # BGR; None repeats the border's px


class CropReader(Protocol):
    """A frame's crop, not read yet."""

    def __call__(self, view_xyxy: Boxes | None = None, /) -> Crop:
        """Return the crop, of which at least `view_xyxy` (crop px, all of it if None) is right.

        Raises UnreadableCrop when the file behind it cannot be used.
        """
        ...


@dataclass(frozen=True)
class FramePair:
    """Two frames of one object. Nothing is read before `template()` or `search()` is called."""

    name: str  # for messages: source, video, track and the two frame numbers
    template: CropReader
    search: CropReader


class Source(Protocol):
    """Anything that pairs can be drawn from."""

    @property
    def name(self) -> str:
        """Return the source's key under DATASET."""
        ...

    @property
    def num_tracks(self) -> int:
        """Return the number of tracks (objects), at least 1."""
        ...

    def pair(self, track: int, rng: np.random.Generator) -> FramePair:
        """Return a pair of frames of one track, drawn with `rng` alone: the same state gives the same pair."""
        ...


class CropStore(Protocol):
    """Where the crops of an index lie and how one is read."""

    def read(self, index: TrackIndex, track: int, row: int, view_xyxy: Boxes | None = None, /) -> Crop:
        """Return the crop of one row of a track, at least the view; raise UnreadableCrop if it cannot be used."""
        ...


@dataclass(frozen=True)
class TrackSource:
    """The pairs of an index: the same pairs of frames whatever form the crops have."""

    name: str
    index: TrackIndex
    store: CropStore
    frame_range: int

    @property
    def num_tracks(self) -> int:
        """Return the number of tracks."""
        return self.index.num_tracks

    def pair(self, track: int, rng: np.random.Generator) -> FramePair:
        """Return a pair of frames of one track: the template uniform, the search within `frame_range` of it."""
        template, search = self.index.draw(track, rng, frame_range=self.frame_range)
        frames = self.index.frames
        return FramePair(
            f"{self.name} {self.index.video(track)} {self.index.track_numbers[track]:02d} "
            f"{frames[template]:06d} {frames[search]:06d}",
            template=self.crop(track, template),
            search=self.crop(track, search),
        )

    def crop(self, track: int, row: int) -> CropReader:
        """Return the crop of one row of a track, not read yet."""
        return partial(self._read, track, row)

    def _read(self, track: int, row: int, view_xyxy: Boxes | None = None, /) -> Crop:
        box = self.index.boxes_xyxy[row]
        if not (box[2] - box[0] > 0 and box[3] - box[1] > 0 and np.isfinite(box).all()):
            raise UnreadableCrop(f"{self.name} {self.index.video(track)} {self.index.track_numbers[track]:02d} "
                                 f"{self.index.frames[row]:06d}: box {box.tolist()} of the index is no box")
        return self.store.read(self.index, track, row, view_xyxy)


@dataclass(frozen=True)
class CropFiles:
    """Crops as single files, `<root>/<video>/<frame:06d>.<track:02d>.x.jpg`."""

    root: Path

    def read(self, index: TrackIndex, track: int, row: int, view_xyxy: Boxes | None = None, /) -> Crop:
        """Return the crop of one row of a track; raise UnreadableCrop if it is missing or no whole 511 px picture."""
        path = f"{self.root}/{index.video(track)}/{crop_name(int(index.frames[row]), int(index.track_numbers[track]))}"
        try:
            data = read_regular(path, max_bytes=MAX_PICTURE_BYTES)
        except OSError as error:
            raise UnreadableCrop(f"{path}: {error.strerror}") from error
        return decode_crop(data, index.size_wh(row), place=path, view_xyxy=view_xyxy)


def crop_name(frame: int, track: int) -> str:
    """Return the file name of a crop within its video's folder."""
    return f"{frame:06d}.{track:02d}.x.jpg"


def decode_crop(
    data: bytes, size_wh: NDArray[np.float64], *, place: str, view_xyxy: Boxes | None = None
) -> Crop:
    """Return the crop that a file's bytes hold, at least the rows of `view_xyxy` (crop px, all if None).

    Raises UnreadableCrop with `place` if they are no 511 px picture.
    """
    try:
        rows = Rows(data) if view_xyxy is None else cut_rows(data, floor(view_xyxy[1]), ceil(view_xyxy[3]) + 3)
        image = decode(rows.data)
    except ValueError as error:
        raise UnreadableCrop(f"{place}: {error}") from error
    width, height = image.shape[1], rows.above + image.shape[0] + rows.below
    if (width, height) != (CROP_SIZE, CROP_SIZE):
        raise UnreadableCrop(f"{place}: {width} x {height} px, expected {CROP_SIZE} x {CROP_SIZE}")
    to_image = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, -rows.above]]) if rows.above else None
    return Crop(image, box_in_crop511(size_wh), to_image)
