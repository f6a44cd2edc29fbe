"""Which file shows which frame: the table of a source's original pictures, in short and by video."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.datasets.arrayfile import read_arrays, write_arrays
from lib.datasets.index import TrackIndex, is_below
from lib.datasets.index_json import iter_videos
from lib.errors import UserError

logger = logging.getLogger(__name__)

_MOST_DIGITS = 12  # of a frame number in a file name


def pack_pictures(pictures: Mapping[int, str]) -> Any:
    """Return the paths of a video's pictures, by frame, in short.

    One path if all are the same (a still), [before, digits, behind] if the frame's number stands in the path in so
    many digits, else {frame: path}.
    """
    if not pictures:
        return {}
    number, path = next(iter(pictures.items()))
    if set(pictures.values()) == {path}:
        return path
    for digits in range(_MOST_DIGITS, 0, -1):
        before, found, behind = path.rpartition(f"{number:0{digits}d}")
        if found and all(p == f"{before}{n:0{digits}d}{behind}" for n, p in pictures.items()):
            return [before, digits, behind]
    return {str(n): p for n, p in pictures.items()}


def picture_path(packed: Any, frame: int) -> str:
    """Return the path of a frame's picture from the short form; raise LookupError or TypeError if it has none."""
    if isinstance(packed, str):
        return packed
    if isinstance(packed, list):
        before, digits, behind = packed
        return f"{before}{frame:0{digits}d}{behind}"
    return str(packed[str(frame)])


@dataclass(frozen=True)
class Pictures:
    """The table of pictures of an index, memory-mapped: the short form of each video as JSON, one after the other."""

    text: NDArray[np.uint8]
    starts: NDArray[np.int64]  # (videos + 1,)

    def path(self, index: TrackIndex, track: int, row: int) -> str:
        """Return the path, below the raw root, of the picture of one row of a track."""
        video = int(index.video_of_track[track])
        packed = json.loads(bytes(self.text[self.starts[video] : self.starts[video + 1]]))
        return picture_path(packed, int(index.frames[row]))


def load_pictures(path: Path, index: TrackIndex) -> Pictures:
    """Return the table in a `pictures.json`, which must list the videos of `index` in the same order.

    Cached beside the file as the index is. Raises UserError if it is missing, faulty or of another index.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); FORMAT raw needs the table of pictures that "
                        f"`python -m lib.datasets.prepare` writes beside the index") from error
    cache = path.with_name(path.name + ".arrays")
    note = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "tracks": index.num_tracks}
    try:
        arrays, found = read_arrays(cache)
        if found == note:
            return Pictures(arrays["text"], arrays["starts"])
    except (OSError, ValueError, KeyError):
        pass
    pictures = _read(path, index)
    try:
        write_arrays(cache, {"text": pictures.text, "starts": pictures.starts}, note=note)
    except UserError as error:
        logger.warning("%s: each start reads the JSON again", error)
        return pictures
    arrays, _ = read_arrays(cache)
    return Pictures(arrays["text"], arrays["starts"])


def _read(path: Path, index: TrackIndex) -> Pictures:
    names = [bytes(index.name_bytes[a:b]).decode() for a, b in
             zip(index.name_starts[:-1].tolist(), index.name_starts[1:].tolist(), strict=True)]
    text, starts = bytearray(), [0]
    for number, (video, packed) in enumerate(iter_videos(path)):
        if number >= len(names) or names[number] != video:
            raise UserError(f"{path}: video '{video}' is not the index's video {number}; prepare wrote both files "
                            f"together, use them together")
        paths = list(packed.values()) if isinstance(packed, dict) else [_example(packed)]
        if not paths or not all(isinstance(p, str) and is_below(p) for p in paths):
            raise UserError(f"{path}: video '{video}': {packed!r:.100} names no pictures below the raw folder")
        text += json.dumps(packed).encode()
        starts.append(len(text))
    if len(starts) <= len(names):
        raise UserError(f"{path}: lacks video '{names[len(starts) - 1]}' of the index")
    return Pictures(np.frombuffer(bytes(text), np.uint8), np.asarray(starts, np.int64))


def _example(packed: Any) -> Any:
    """Return the path that frame 0 would have, None if the short form is none."""
    whole = isinstance(packed, list) and len(packed) == 3 and type(packed[1]) is int
    if isinstance(packed, str) or (whole and 0 < packed[1] <= _MOST_DIGITS):
        return picture_path(packed, 0)
    return None
