"""The index of a training source: which tracks it has, on which frames, with which boxes.

The JSON {video: {track: {frame: [x1, y1, x2, y2]}}} is read once, checked, and stored beside itself as a file of
arrays. Later runs map that file into memory: hundreds of thousands of tracks open in a second, and all workers and
ranks of a machine share them instead of holding a copy each.

Layout of a file of arrays: 8 magic bytes, the length of the header (uint64, little endian), the header (JSON: a note of
the writer's, and dtype, shape and offset of each array), then each array's bytes, aligned to 64. One file, unlike a
folder of .npy files, is whole or absent, and a set that was packed years ago opens.
"""

from __future__ import annotations

import json
import logging
import math
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.errors import UserError, one_line
from lib.files import atomic_write, read_json

logger = logging.getLogger(__name__)

_FORMAT = 2  # of the arrays: raise it whenever they or the checks change
_MAX_NUMBER = 2**31 - 1
_EXPECTED = "expected {video: {track: {frame: [x1, y1, x2, y2]}}}"
_MAGIC, _ALIGN = b"OKARRAY1", 64


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], *, note: Mapping[str, Any]) -> None:
    """Write `arrays` with `note` (any JSON) to `path` atomically; raise UserError when it cannot be written."""
    entries: dict[str, tuple[str, tuple[int, ...], int]] = {}
    offset = 0
    for name, values in arrays.items():
        entries[name] = (values.dtype.str, values.shape, offset)
        offset += -(-values.nbytes // _ALIGN) * _ALIGN
    header = json.dumps({"note": dict(note), "arrays": entries}).encode()
    header += b" " * (-(len(_MAGIC) + 8 + len(header)) % _ALIGN)
    with atomic_write(path, mode="wb") as file:
        file.write(_MAGIC + len(header).to_bytes(8, "little") + header)
        for values in arrays.values():
            file.write(np.ascontiguousarray(values).data)
            file.write(bytes(-values.nbytes % _ALIGN))


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays, read-only and memory-mapped, and the note; ValueError or OSError if it is no such file."""
    mapped = np.asarray(np.memmap(path, np.uint8, mode="r"))  # plain arrays: a memmap's slices are slow to make
    if mapped[:8].tobytes() != _MAGIC:
        raise ValueError("not a file of arrays")
    begin = 16 + int.from_bytes(mapped[8:16].tobytes(), "little")
    arrays = {}
    try:
        tree = json.loads(mapped[16:begin].tobytes())
        for name, (dtype, shape, offset) in tree["arrays"].items():
            size = math.prod(shape) * np.dtype(dtype).itemsize
            arrays[name] = mapped[begin + offset : begin + offset + size].view(dtype).reshape(shape)
        return arrays, dict(tree["note"])
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, SyntaxError) as error:
        raise ValueError(f"cut short or damaged ({error})") from error


@dataclass(frozen=True)
class TrackIndex:
    """The tracks of a source. Track t owns the rows starts[t] .. starts[t + 1] of `frames` and `boxes_xyxy`."""

    name_bytes: NDArray[np.uint8]  # the video names, UTF-8, one after the other
    name_starts: NDArray[np.int64]  # (videos + 1,) where each begins
    video_of_track: NDArray[np.int32]  # (tracks,)
    track_numbers: NDArray[np.int32]  # (tracks,) the number of the track within its video
    starts: NDArray[np.int64]  # (tracks + 1,)
    frames: NDArray[np.int32]  # (rows,) frame numbers, rising within a track
    boxes_xyxy: NDArray[np.float32]  # (rows, 4) in px of the original image
    file: Path | None = None  # that the arrays are mapped from

    def __reduce__(self) -> tuple[Callable[..., TrackIndex], tuple[Any, ...]]:
        """Return how another process gets the index: it maps the file instead of copying the arrays."""
        return (_map, (self.file,)) if self.file else (TrackIndex, tuple(vars(self).values()))

    @property
    def num_tracks(self) -> int:
        return len(self.video_of_track)

    def video(self, track: int) -> str:
        """Return the name of a track's video, with `/` between folders."""
        video = int(self.video_of_track[track])
        return bytes(self.name_bytes[self.name_starts[video] : self.name_starts[video + 1]]).decode()

    def videos(self) -> list[str]:
        names = self.name_bytes.tobytes()
        return [names[first:end].decode() for first, end in pairwise(self.name_starts.tolist())]

    def rows(self, track: int) -> tuple[int, int]:
        return int(self.starts[track]), int(self.starts[track + 1])

    def track_of(self, row: int) -> int:
        return int(np.searchsorted(self.starts, row, side="right")) - 1

    def size_wh(self, row: int) -> NDArray[np.float64]:
        """Return the size (w, h) of the box in a row, px of the original image."""
        box = self.boxes_xyxy[row].astype(np.float64)
        return box[2:] - box[:2]

    def draw(self, track: int, rng: np.random.Generator, *, frame_range: int) -> tuple[int, int]:
        """Return the rows of a template frame and a search frame.

        The template is uniform over the track; the search is uniform over the track's frames whose *numbers* lie
        within `frame_range` of it, itself included, so a gap in the track never joins frames that are far apart.
        """
        first, end = self.rows(track)
        template = first + int(rng.integers(end - first))
        frames = self.frames[first:end]
        number = int(self.frames[template])
        low, high = np.searchsorted(frames, (number - frame_range, number + frame_range + 1))
        return template, first + int(rng.integers(low, high))

    def draw_clip(self, track: int, rng: np.random.Generator, *, frame_range: int) -> list[int]:
        """Return six rows: a base frame and two before it, then three after it, each drawn anew.

        Their *numbers* are within `frame_range` of the base's; where none is, the range grows by 5 until one is (DiMP's
        sampling, Bhat et al., ICCV 2019). A track of one frame has it six times, one of two its first and its second.
        """
        first, end = self.rows(track)
        frames = self.frames[first:end].astype(np.int64)
        base = int(rng.integers(1, len(frames) - 1)) if len(frames) > 2 else 0
        nearest = int(np.abs(frames[max(base - 1, 0) : base + 2] - frames[base]).max())
        reach = frame_range + 5 * max(0, -(-(nearest - frame_range) // 5))
        low, high = np.searchsorted(frames, (frames[base] - reach, frames[base] + reach + 1))
        before = rng.integers(low, max(base, 1), 2)
        after = rng.integers(min(base + 1, len(frames) - 1), high, 3)
        return [first + int(row) for row in (base, *before, *after)]


def _map(file: Path) -> TrackIndex:
    arrays, _ = read_arrays(file)
    return TrackIndex(**arrays, file=file)


def load_index(path: Path) -> TrackIndex:
    """Return the index of a JSON file, from the arrays beside it if they belong to it, else read, checked and cached.

    The arrays lie in `<name>.arrays` and belong to the JSON by its size and time of change. Where they cannot be
    written, a warning says so and the arrays stay in memory. Raises UserError naming file, video, track and frame.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected the index JSON of a source, as "
                        f"`python -m lib.datasets.prepare` writes it") from error
    file = path.with_name(path.name + ".arrays")
    note = {"format": _FORMAT, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    try:
        arrays, found = read_arrays(file)
        if found == note:
            _check_arrays(arrays)
            return TrackIndex(**arrays, file=file)
    except FileNotFoundError:
        pass
    except (ValueError, LookupError, TypeError, OSError) as error:
        logger.warning("%s is damaged (%s): made again", file, error)
    logger.info("reading %s (%.1f MB); the next start maps %s instead", path, status.st_size / 1e6, file.name)
    index = build_index(path)
    try:
        write_arrays(file, {field.name: getattr(index, field.name) for field in fields(index)[:-1]}, note=note)
    except UserError as error:
        logger.warning("%s: each start reads the JSON again", error)
        return index
    return _map(file)


def _check_arrays(arrays: dict[str, Any]) -> None:
    """Raise ValueError, LookupError or TypeError for arrays that are no index; the file may come from anywhere."""
    index = TrackIndex(**arrays)
    rows, tracks, videos = len(index.frames), index.num_tracks, len(index.name_starts) - 1
    ends = (len(index.starts), index.starts[-1], index.name_starts[-1]) == (tracks + 1, rows, len(index.name_bytes))
    rising = all(part[0] == 0 and (np.diff(part) > 0).all() for part in (index.starts, index.name_starts))
    numbers = [(index.track_numbers, tracks), (index.video_of_track, tracks), (index.frames, rows)]
    whole = all(part.shape == (length,) and part.dtype == np.int32 and part.min() >= 0 for part, length in numbers)
    boxes = index.boxes_xyxy.shape == (rows, 4) and index.boxes_xyxy.dtype == np.float32
    if not (ends and rising and whole and boxes and index.video_of_track.max() < videos):
        raise ValueError("its parts do not belong together")
    if not all(map(is_below, index.videos())):
        raise ValueError("a name leads out of the crop folder")


class _Track(NamedTuple):
    """A track of the JSON."""

    frames: array[int]  # rising
    boxes: array[float]  # four numbers a frame


def _packed(pairs: list[tuple[str, Any]]) -> _Track | tuple[tuple[str, Any], ...]:
    """Return a JSON object: packed if it is a track, which keeps the tree of a large file small, else its pairs."""
    try:
        numbers, boxes = [int(frame) for frame, _ in pairs], [box for _, box in pairs]
        rising = sorted(set(numbers))
        if set(map(len, boxes)) == {4} and rising[0] >= 0 and len(rising) == len(numbers):
            if rising != numbers:
                boxes = [box for _, box in sorted(zip(numbers, boxes, strict=True))]
            return _Track(array("i", rising), array("f", chain.from_iterable(boxes)))
    except (TypeError, ValueError, OverflowError):
        pass
    return tuple(pairs)


def build_index(path: Path) -> TrackIndex:
    """Return the checked index of a JSON file, in memory, without empty tracks; UserError names file, video, track."""
    names, name_starts = bytearray(), array("q", [0])
    videos, numbers, starts = array("i"), array("i"), array("q", [0])
    frames, boxes = array("i"), array("f")
    seen: set[str] = set()
    empty = 0
    for video, tracks in _pairs(read_json(path, object_pairs_hook=_packed), f"{path}", "videos"):
        place, in_video = f"{path}: video {video!r:.200}", set[int]()
        if not is_below(video):
            raise UserError(f"{place} is no relative path below the crop folder; rename it")
        if video in seen:
            raise UserError(f"{place} stands twice; merge its tracks")
        seen.add(video)
        for text, track in _pairs(tracks, place, "tracks"):
            if track == ():
                continue
            if not isinstance(track, _Track):
                raise UserError(f"{place} track '{text}' {_fault(track)}")
            if not _is_number(text):
                raise UserError(f"{place}: track {text!r:.60} is not a number of 0 to {_MAX_NUMBER}")
            if int(text) in in_video:
                raise UserError(f"{place}: track {text!r} stands twice; merge the two")
            in_video.add(int(text))
            numbers.append(int(text))
            videos.append(len(name_starts) - 1)
            frames.extend(track.frames)
            boxes.extend(track.boxes)
            starts.append(len(frames))
        empty += sum(track == () for _, track in tracks) if in_video else 1
        if in_video:
            names += video.encode()
            name_starts.append(len(names))
    if not numbers:
        raise UserError(f"{path}: holds no track; {_EXPECTED}")
    if empty:
        logger.warning("%s: %d videos or tracks without a frame are left out", path, empty)
    index = TrackIndex(
        np.frombuffer(bytes(names), np.uint8), np.asarray(name_starts, np.int64), np.asarray(videos, np.int32),
        np.asarray(numbers, np.int32), np.asarray(starts, np.int64), np.asarray(frames, np.int32),
        np.asarray(boxes, np.float32).reshape(-1, 4),
    )
    _check_boxes(path, index)
    return index


def is_below(name: str) -> bool:
    """Return whether `name` is a relative path, parts joined by `/`, that stays below its folder on every system."""
    parts = name.split("/")
    inside = all(part not in ("", ".", "..") for part in parts) and "\\" not in name and name[1:2] != ":"
    return inside and name.isprintable()


def _pairs(value: Any, place: str, what: str) -> tuple[tuple[str, Any], ...]:
    """Return the pairs of an object that does not hold boxes; raise UserError for anything else."""
    if type(value) is not tuple:
        found = "boxes" if isinstance(value, _Track) else f"{value!r:.60}"
        raise UserError(f"{place} holds {found}, not {what}; {_EXPECTED}")
    return value


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= _MAX_NUMBER


def _fault(track: Any) -> str:
    """Return what is wrong with a track, by its first bad frame."""
    if type(track) is not tuple:
        return f"holds {track!r:.60}, not frames; {_EXPECTED}"
    seen: dict[int, str] = {}
    for frame, box in track:
        if not _is_number(frame):
            return f"frame {frame!r:.60}: the frame is not a number of 0 to {_MAX_NUMBER}"
        if int(frame) in seen:
            return f"frame '{frame}': the same frame as '{seen[int(frame)]}'; keep one of them"
        seen[int(frame)] = frame
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
            return f"frame '{frame}': box {box!r:.80}; expected [x1, y1, x2, y2]"
    return "has a bad frame"


def _check_boxes(path: Path, index: TrackIndex) -> None:
    """Warn of boxes that are not finite or have no area, naming the first; UserError if there is no other."""
    boxes = index.boxes_xyxy
    good = np.isfinite(boxes).all(axis=1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if good.all():
        return
    row = int(np.argmin(good))
    track = index.track_of(row)
    fault = (f"{path}: video '{index.video(track)}' track '{index.track_numbers[track]:02d}' frame "
             f"'{index.frames[row]:06d}': box {boxes[row].tolist()} (and {(~good).sum() - 1} more such boxes); "
             f"expected finite x1 < x2 and y1 < y2; remove it from the index")
    if not good.any():
        raise UserError(fault)
    logger.warning("%s", one_line(fault))
