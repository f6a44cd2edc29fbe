"""Where the crops of an index lie: single files, a few large archives, or the original pictures."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import ceil, floor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Boxes
from lib.crops import CROP_SIZE, TEMPLATE_SIZE, box_in_crop511, context_side, crop_square, mean_colour, transform_box
from lib.datasets import Crop, CropReader, FramePair, UnreadableCrop
from lib.datasets.index import TrackIndex, is_below, read_arrays
from lib.errors import UserError
from lib.files import read_json
from lib.images import SUFFIXES, JpegRows, cut_rows, decode

TABLE = "crops.arrays"  # of a packed folder: where in which archive each row's crop lies

_LARGEST_REDUCTION = 8  # of libjpeg's transform
_MAX_DIGITS = 12  # of a frame number in a file name


class CropStore(Protocol):
    """Where the crops of an index lie and how one is read."""

    def read(self, index: TrackIndex, row: int, view_xyxy: Boxes | None = None, /) -> Crop:
        """Return the crop of one row of an index, at least the view; raise UnreadableCrop if it cannot be used."""


@dataclass(frozen=True)
class IndexedSource:
    """The pairs of an index (a `lib.datasets.TrainingSource`): the same whatever form the crops have."""

    name: str
    index: TrackIndex
    store: CropStore
    frame_range: int

    @property
    def num_tracks(self) -> int:
        return self.index.num_tracks

    def pair(self, track: int, rng: np.random.Generator) -> FramePair:
        """Return a pair of frames of one track: the template uniform, the search within `frame_range` of it."""
        template, search = self.index.draw(track, rng, frame_range=self.frame_range)
        return FramePair(self.crop(template), self.crop(search))

    def clip(self, track: int, rng: np.random.Generator) -> list[CropReader]:
        """Return three frames to learn a track from and three later ones, see `TrackIndex.draw_clip`."""
        return [self.crop(row) for row in self.index.draw_clip(track, rng, frame_range=self.frame_range)]

    def crop(self, row: int) -> CropReader:
        """Return the crop of one row, not read yet."""
        return partial(self._read, row)

    def _read(self, row: int, view_xyxy: Boxes | None = None, /) -> Crop:
        box = self.index.boxes_xyxy[row]
        if not (box[2] - box[0] > 0 and box[3] - box[1] > 0 and np.isfinite(box).all()):
            track = self.index.track_of(row)
            raise UnreadableCrop(f"{self.name} {self.index.video(track)} {self.index.track_numbers[track]:02d} "
                                 f"{self.index.frames[row]:06d}: box {box.tolist()} of the index is no box")
        return self.store.read(self.index, row, view_xyxy)


def _read_picture(path: str) -> bytes:
    """Return the bytes of a picture, also of one with another suffix: an index may say .png where .jpg lies."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        stem, _, name = path.rpartition("/")
        for suffix in sorted(SUFFIXES) if "." in name else ():
            for other in (suffix, suffix.upper()):
                with contextlib.suppress(FileNotFoundError):
                    return Path(f"{stem}/{name.rpartition('.')[0]}{other}").read_bytes()
        raise


# ---- crops as files, and in archives


def crop_name(frame: int, track: int) -> str:
    """Return the file name of a crop within its video's folder."""
    return f"{frame:06d}.{track:02d}.x.jpg"


def crop_path(index: TrackIndex, row: int) -> str:
    """Return the path of a row's crop below the folder of crops, `<video>/<frame:06d>.<track:02d>.x.jpg`."""
    track = index.track_of(row)
    return f"{index.video(track)}/{crop_name(int(index.frames[row]), int(index.track_numbers[track]))}"


def decode_crop(
    data: bytes, size_wh: NDArray[np.float64], *, place: str, view_xyxy: Boxes | None = None
) -> Crop:
    """Return the crop that a file's bytes hold, at least the rows of `view_xyxy` (crop px, all if None).

    Raises UnreadableCrop with `place` if they are no 511 px picture.
    """
    try:
        rows = JpegRows(data) if view_xyxy is None else cut_rows(data, floor(view_xyxy[1]), ceil(view_xyxy[3]) + 3)
        image = decode(rows.data)
    except ValueError as error:
        raise UnreadableCrop(f"{place}: {error}") from error
    width, height = image.shape[1], rows.above + image.shape[0] + rows.below
    if (width, height) != (CROP_SIZE, CROP_SIZE):
        raise UnreadableCrop(f"{place}: {width} x {height} px, expected {CROP_SIZE} x {CROP_SIZE}")
    to_image = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, -rows.above]]) if rows.above else None
    return Crop(image, box_in_crop511(size_wh), to_image)


@dataclass(frozen=True)
class CropFiles:
    """Crops as single files below a folder."""

    root: Path

    def read(self, index: TrackIndex, row: int, view_xyxy: Boxes | None = None, /) -> Crop:
        """Return the crop of one row; raise UnreadableCrop if it is missing or no whole 511 px picture."""
        path = f"{self.root}/{crop_path(index, row)}"
        try:
            data = _read_picture(path)
        except OSError as error:
            raise UnreadableCrop(f"{path}: {error.strerror}") from error
        return decode_crop(data, index.size_wh(row), place=path, view_xyxy=view_xyxy)


def archive_name(number: int) -> str:
    """Return the name of an archive of a packed folder."""
    return f"crops-{number:05d}.tar"


def fingerprint(index: TrackIndex) -> int:
    """Return a checksum of which rows an index has: a table of offsets belongs to one index only."""
    starts = np.ascontiguousarray(index.starts)
    return zlib.crc32(np.ascontiguousarray(index.frames).data, zlib.crc32(starts.data))


class PackedCrops:
    """The crops of an index in a few large files instead of millions of small ones: tar archives and their table.

    `tar xf` gives the crops back; the table says for each row where its crop lies and what its checksum is. Crops are
    read with `pread` and not through a mapping: when a network disk is lost, a read ends in an error that names the
    record, a mapping kills the process.
    """

    def __init__(self, folder: Path, index: TrackIndex) -> None:
        """Open a folder for an index; raise UserError if a file is missing, cut short or of another index."""
        self.folder, self.index = folder, index
        path = folder / TABLE
        try:
            arrays, note = read_arrays(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: {error}; expected a folder of `python -m lib.datasets.prepare pack`") from error
        if note.get("fingerprint") != fingerprint(index):
            raise UserError(f"{path}: belongs to another index than ANNOTATION; give the train.json that was packed")
        rows, archives = (len(index.frames),), arrays.get("first_rows", np.empty(0)).shape
        shapes = {"offsets": rows, "sizes": rows, "crcs": rows, "first_rows": archives, "bytes": archives}
        if archives == (0,) or any(name not in arrays or arrays[name].shape != shapes[name]
                                   or arrays[name].dtype.kind not in "iu" for name in shapes):
            raise UserError(f"{path}: damaged, its parts do not belong together; pack the folder again")
        self._offsets, self._sizes, self._crcs = arrays["offsets"], arrays["sizes"], arrays["crcs"]
        self._first_rows: list[int] = arrays["first_rows"].tolist()
        for number, size in enumerate(arrays["bytes"].tolist()):
            archive = folder / archive_name(number)
            if not archive.is_file() or archive.stat().st_size != size:
                raise UserError(f"{archive}: missing or not {size} bytes long; copy or pack it again")
        self._files: dict[int, int] = {}  # open archives

    def __reduce__(self) -> tuple[type[PackedCrops], tuple[Path, TrackIndex]]:
        """Return how another process opens the folder: open files do not travel."""
        return PackedCrops, (self.folder, self.index)

    def read(self, index: TrackIndex, row: int, view_xyxy: Boxes | None = None, /) -> Crop:
        """Return the crop of one row; raise UnreadableCrop naming archive and record if it is damaged."""
        number = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        place = f"{self.folder / archive_name(number)}: {crop_path(index, row)}"
        size, offset = int(self._sizes[row]), int(self._offsets[row])
        try:
            if number < 0 or not 0 <= size < 2**31 or not 0 <= offset < 2**63:
                raise OSError(errno.EINVAL, f"{size} bytes at {offset} of archive {number} are no place")
            if number not in self._files:
                self._files[number] = os.open(self.folder / archive_name(number), os.O_RDONLY)
            data = os.pread(self._files[number], size, offset)
        except OSError as error:
            raise UnreadableCrop(f"{place}: {error.strerror}") from error
        if zlib.crc32(data) != int(self._crcs[row]):
            raise UnreadableCrop(f"{place}: damaged, its checksum is not the one it was packed with")
        return decode_crop(data, index.size_wh(row), place=place, view_xyxy=view_xyxy)


# ---- the original pictures: no crops on the disk, the view is cut when it is needed


@dataclass(frozen=True)
class RawPictures:
    """The original pictures below a folder, and which of them shows which frame: a short form for each video."""

    root: Path
    text: NDArray[np.uint8]  # the videos' short forms as JSON, one after the other
    starts: NDArray[np.int64]  # (videos + 1,) where each begins

    def path(self, index: TrackIndex, row: int) -> str:
        """Return the path of the picture of one row; raise UnreadableCrop if it has none."""
        video = int(index.video_of_track[index.track_of(row)])
        short = json.loads(bytes(self.text[self.starts[video] : self.starts[video + 1]]))
        try:
            name = picture_path(short, int(index.frames[row]))
        except LookupError as error:
            raise UnreadableCrop(f"{self.root}: pictures.json names no picture of frame {error}") from error
        return f"{self.root}/{name}"

    def read(self, index: TrackIndex, row: int, view_xyxy: Boxes | None = None, /) -> Crop:
        """Return the picture of one row and where the object's crop lies in it.

        A JPEG is decoded at 1/2, 1/4 or 1/8 of its size whenever the object is so large that its crop has fewer px
        than that. Raises UnreadableCrop naming the file.
        """
        path = self.path(index, row)
        box = index.boxes_xyxy[row].astype(np.float64)
        size = box[2:] - box[:2]
        reduce = reduction(context_side(size) / TEMPLATE_SIZE)
        try:
            image = decode(_read_picture(path), reduce=reduce)
        except OSError as error:
            raise UnreadableCrop(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise UnreadableCrop(f"{path}: {error}") from error
        height, width = image.shape[:2]
        if not (box[0] < width * reduce and box[1] < height * reduce and box[2] > 0 and box[3] > 0):
            raise UnreadableCrop(f"{path}: box {box.tolist()} lies outside the picture of {width * reduce} x "
                                 f"{height * reduce} px")
        square = crop_square(box)
        side = (square[2] - square[0]) / (CROP_SIZE - 1)  # image px of a crop px
        # Px centres: px i of a picture reduced k times shows the whole one's px k i .. k i + k - 1.
        matrix = np.array([[side, 0.0, square[0]], [0.0, side, square[1]]]) / reduce
        matrix[:, 2] += 0.5 / reduce - 0.5
        crop = Crop(image, box_in_crop511(size), matrix)
        if view_xyxy is not None:
            x1, y1, x2, y2 = transform_box(view_xyxy, matrix)
            if x1 >= 0 and y1 >= 0 and x2 <= width - 1 and y2 <= height - 1:
                return crop  # nothing outside the picture is shown
        blue, green, red = mean_colour(image).tolist()
        return crop._replace(fill=(blue, green, red))


def reduction(scale: float) -> int:
    """Return 1, 2, 4 or 8: by how much a picture with `scale` px to a crop px can be reduced without losing detail."""
    reduce = 1
    while reduce < _LARGEST_REDUCTION and 2 * reduce <= scale:
        reduce *= 2
    return reduce


def pack_pictures(pictures: Mapping[int, str]) -> Any:
    """Return the short form of the paths of a video's pictures, by frame.

    One path if all are the same (a still), [before, digits, behind] around the frame's number, else {frame: path}.
    """
    if not pictures:
        return {}
    number, path = next(iter(pictures.items()))
    if set(pictures.values()) == {path}:
        return path
    for digits in range(_MAX_DIGITS, 0, -1):
        before, found, behind = path.rpartition(f"{number:0{digits}d}")
        if found and all(p == f"{before}{n:0{digits}d}{behind}" for n, p in pictures.items()):
            return [before, digits, behind]
    return {str(n): p for n, p in pictures.items()}


def picture_path(short: Any, frame: int) -> str:
    """Return the path of a frame's picture from the short form; raise LookupError or TypeError if it has none."""
    if isinstance(short, str):
        return short
    if isinstance(short, list):
        before, digits, behind = short
        return f"{before}{frame:0{digits}d}{behind}"
    return str(short[str(frame)])


def load_pictures(root: Path, path: Path, index: TrackIndex) -> RawPictures:
    """Return the pictures below `root` that a `pictures.json` names for the videos of `index`.

    They lie in flat arrays, which loader processes share. UserError if the file is missing, faulty, or lacks a video.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; FORMAT raw needs the table of pictures that `python -m "
                        f"lib.datasets.prepare` writes beside the index")
    table = read_json(path)
    texts = [_checked_short_form(path, video, table) for video in index.videos()]
    return RawPictures(root, np.frombuffer(b"".join(texts), np.uint8), np.cumsum([0, *map(len, texts)]))


def _checked_short_form(path: Path, video: str, table: Any) -> bytes:
    """Return the short form of a video's pictures as JSON; raise UserError if it names none below the raw folder."""
    if not isinstance(table, dict) or video not in table:
        raise UserError(f"{path}: has no video '{video}' of the index; use the two that prepare wrote together")
    short = table[video]
    paths = list(short.values()) if isinstance(short, dict) else [short]
    if isinstance(short, list):
        whole = len(short) == 3 and type(short[1]) is int and 0 < short[1] <= _MAX_DIGITS
        paths = [picture_path(short, 0)] if whole else []
    if not paths or not all(isinstance(p, str) and is_below(p) for p in paths):
        raise UserError(f"{path}: video '{video}': {short!r:.100} names no pictures below the raw folder")
    return json.dumps(short).encode()
