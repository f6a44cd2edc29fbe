"""The index of a training source: which tracks it has, on which frames, with which boxes. Kept in flat arrays.

The JSON {video: {track: {frame: [x1, y1, x2, y2]}}} is read once, checked, and laid down beside itself as a file of
arrays, which later runs map into memory: hundreds of thousands of tracks are there at once, and are shared by all
workers and ranks of a machine instead of being copied into each.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.datasets.arrayfile import read_arrays, write_arrays
from lib.datasets.index_json import iter_videos
from lib.errors import UserError, one_line

logger = logging.getLogger(__name__)

_FORMAT = 2  # of the cache: raise it whenever the arrays or the checks change
_MAX_NUMBER = 2**31 - 1


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

    @property
    def num_tracks(self) -> int:
        """Return the number of tracks."""
        return len(self.video_of_track)

    def video(self, track: int) -> str:
        """Return the name of a track's video, with `/` between folders."""
        video = int(self.video_of_track[track])
        return bytes(self.name_bytes[self.name_starts[video] : self.name_starts[video + 1]]).decode()

    def rows(self, track: int) -> tuple[int, int]:
        """Return the first row of a track and the one after its last."""
        return int(self.starts[track]), int(self.starts[track + 1])

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


@dataclass(frozen=True)
class _MappedIndex(TrackIndex):
    """A TrackIndex that lies in a file: a process that receives it maps the file instead of copying the arrays."""

    cache: Path

    def __reduce__(self) -> tuple[Callable[[Path], _MappedIndex], tuple[Path]]:
        return _open, (self.cache,)


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
    cache = path.with_name(path.name + ".arrays")
    note = {"format": _FORMAT, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    try:
        arrays, found = read_arrays(cache)
        if found == note:
            return _checked(_MappedIndex(**arrays, cache=cache))
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError, OSError) as error:
        logger.warning("%s is damaged (%s): made again", cache, error)
    logger.info("reading %s (%.1f MB); the next start maps %s instead", path, status.st_size / 1e6, cache.name)
    index = build_index(path)
    try:
        write_arrays(cache, {f.name: getattr(index, f.name) for f in fields(index)}, note=note)
    except UserError as error:
        logger.warning("%s: each start reads the JSON again", error)
        return index
    return _open(cache)


def _checked(index: _MappedIndex) -> _MappedIndex:
    """Return arrays from a file beside the JSON, which may be a stranger's as that is; raise ValueError if they lie."""
    frames, tracks, videos = len(index.frames), index.num_tracks, len(index.name_starts) - 1
    for starts, parts, total in ((index.starts, tracks, frames), (index.name_starts, videos, len(index.name_bytes))):
        if len(starts) != parts + 1 or starts[0] != 0 or starts[-1] != total or (np.diff(starts) <= 0).any():
            raise ValueError("its parts do not follow one another")
    numbers = (index.track_numbers, index.video_of_track, index.frames)
    if any(part.ndim != 1 or part.dtype != np.int32 or (part < 0).any() for part in numbers) or not tracks:
        raise ValueError("a number is none")
    if len(index.track_numbers) != tracks or (index.video_of_track >= videos).any() or (
            index.boxes_xyxy.shape != (frames, 4) or index.boxes_xyxy.dtype != np.float32):
        raise ValueError("its parts do not belong together")
    names = index.name_bytes.tobytes()
    for first, end in pairwise(index.name_starts.tolist()):
        if not is_below(names[first:end].decode()):
            raise ValueError(f"{names[first:end]!r:.100} is no name below the crop folder")
    return index


def _open(cache: Path) -> _MappedIndex:
    arrays, _ = read_arrays(cache)
    return _MappedIndex(**arrays, cache=cache)


def build_index(path: Path) -> TrackIndex:
    """Return the checked index of a JSON file, in memory; raise UserError naming file, video, track and frame."""
    names, name_starts = bytearray(), array("q", [0])
    videos, numbers, starts = array("i"), array("i"), array("q", [0])
    frames, boxes = array("i"), array("f")
    seen: set[str] = set()
    for video, tracks in iter_videos(path):
        _check_name(path, video, seen)
        for track, rows in _items(tracks, f"{path}: video '{video}'", "tracks"):
            place = f"{path}: video '{video}' track '{track}'"
            numbers.append(_number(track, place))
            videos.append(len(name_starts) - 1)
            _add_rows(rows, frames, boxes, place=place)
            starts.append(len(frames))
        names += video.encode()
        name_starts.append(len(names))
    if not numbers:
        raise UserError(f"{path}: holds no track; expected {{video: {{track: {{frame: [x1, y1, x2, y2]}}}}}}")
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


def _check_name(path: Path, video: str, seen: set[str]) -> None:
    """Refuse a video name that could lead out of the crop folder, or that stands twice."""
    if not is_below(video):
        raise UserError(f"{path}: video {video!r:.200} is no relative path below the crop folder; rename the video")
    if video in seen:
        raise UserError(f"{path}: video '{video}' stands twice; merge its tracks")
    seen.add(video)


def _items(value: Any, place: str, what: str) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"{place} holds {value!r:.60}, not {what}; expected {{track: {{frame: [x1, y1, x2, y2]}}}}")
    if not value:
        raise UserError(f"{place} has no {what}; remove it from the index")
    return value.items()


def _number(text: str, place: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 10 or int(text) > _MAX_NUMBER:
        raise UserError(f"{place}: {text!r:.60} is not a number of 0 to {_MAX_NUMBER}")
    return int(text)


def _add_rows(rows: Any, frames: array[int], boxes: array[float], *, place: str) -> None:
    """Append one track's frame numbers, in rising order, and its boxes."""
    items = _items(rows, place, "frames")
    try:
        numbers = list(map(int, rows))
        rising = sorted(set(numbers))
        if numbers != rising:
            items = sorted(items, key=lambda item: int(item[0]))
        values = [box for _, box in items]
        if set(map(len, values)) != {4} or rising[0] < 0 or len(rising) != len(values):
            raise ValueError
        frames.extend(rising)
        boxes.extend(chain.from_iterable(values))
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{place} {_fault(rows)}") from error


def _fault(rows: dict[str, Any]) -> str:
    """Return what is wrong with the first bad frame of a track."""
    seen: dict[int, str] = {}
    for frame, box in rows.items():
        if not (frame.isascii() and frame.isdecimal()) or len(frame) > 10 or int(frame) > _MAX_NUMBER:
            return f"frame {frame!r:.60}: the frame is not a number of 0 to {_MAX_NUMBER}"
        if int(frame) in seen:
            return f"frame '{frame}': the same frame as '{seen[int(frame)]}'; keep one of them"
        seen[int(frame)] = frame
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
            return f"frame '{frame}': box {box!r:.80}; expected [x1, y1, x2, y2]"
    return "has a bad frame"


def _check_boxes(path: Path, index: TrackIndex) -> None:
    """Warn of boxes that are not finite or have no area, naming the first: training counts them as unreadable crops.

    Raises UserError if there is no other.
    """
    boxes = index.boxes_xyxy
    good = np.isfinite(boxes).all(axis=1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if good.all():
        return
    row = int(np.argmin(good))
    track = int(np.searchsorted(index.starts, row, side="right")) - 1
    more = int(len(good) - good.sum()) - 1
    fault = (
        f"{path}: video '{index.video(track)}' track '{index.track_numbers[track]:02d}' frame "
        f"'{index.frames[row]:06d}': box {boxes[row].tolist()}; expected finite x1 < x2 and y1 < y2"
        + (f" (and {more} more such boxes)" if more else "") + "; remove it from the index"
    )
    if not good.any():
        raise UserError(fault)
    logger.warning("%s", one_line(fault))
