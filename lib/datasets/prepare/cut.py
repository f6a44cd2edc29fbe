"""Cutting of one task's crops: read its annotation, decode each picture once, filter, crop, encode, write."""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from lib.crops import Image, crop511, mean_colour
from lib.datasets.prepare.records import MISSING, UNREADABLE, Box, Filters, Frame, Task, Video
from lib.datasets.stores import crop_name, pack_pictures
from lib.errors import UserError
from lib.files import MAX_PICTURE_BYTES, read_regular
from lib.images import decode

_BLOCK = 16  # px of a block with chroma at half the resolution, OpenCV's default


@dataclass(frozen=True)
class Cutter:
    """How tasks are cut; `out` None writes no crops (training from the raw pictures) but checks the pictures all the
    same, so that the index is the same."""

    root: Path
    out: Path | None
    filters: Filters
    quality: int

    def cut(self, task: Task) -> dict[str, Any]:
        """Return the journal's record of a task whose crops are now written.

        Keys: name; tracks {track: {frame: box}}; pictures, the frame's paths; crops and bytes, counts; crc, 8 hex
        digits of each crop's CRC-32 in the order of `tracks`; dropped {reason: boxes}; faults, pictures not usable.
        """
        try:
            video = task.read()
        except UserError as error:  # one broken annotation among thousands does not end the work
            video = Video(task.name, (), {}, (str(error),))
        dropped: Counter[str] = Counter(video.dropped)
        rows: list[tuple[int, int, list[float], int, str]] = []
        pictures: dict[int, str] = {}
        faults = list(video.faults)
        for frame in (self.filters.seen(frame, dropped) for frame in video.frames):
            if not frame.boxes:
                continue
            try:
                kept = self._frame(frame, video.name, dropped)
            except _BadPictureError as error:
                dropped[error.reason] += len(frame.boxes)
                faults.append(f"{frame.picture}: {error}")
                continue
            rows += kept
            if kept:
                pictures[frame.number] = frame.picture
        rows.sort(key=lambda row: row[:2])
        tracks: dict[str, dict[str, list[float]]] = {}
        for track, number, box, _, _ in rows:
            tracks.setdefault(f"{track:02d}", {})[f"{number:06d}"] = box
        return {
            "name": video.name, "tracks": tracks, "pictures": pack_pictures(pictures), "crops": len(rows),
            "bytes": sum(row[3] for row in rows), "crc": "".join(row[4] for row in rows), "dropped": dropped,
            "faults": faults,
        }

    def _frame(self, frame: Frame, video: str, dropped: Counter[str]) -> list[tuple[int, int, list[float], int, str]]:
        """Return (track, frame, box, bytes, crc) of each box of a frame that is kept, its crop written."""
        picture = self._picture(frame.picture)
        height, width = picture.shape[:2]
        kept: list[Box] = []
        for box in (_in_px(box, width, height) for box in frame.boxes) if frame.relative else frame.boxes:
            reason = self.filters.reason(box, width=width, height=height)
            if reason is None:
                kept.append(box)
            else:
                dropped[reason] += 1
        if not kept:
            return []
        rows = []
        fill = mean_colour(picture)
        for box in kept:
            size, crc = 0, ""
            rounded = [round(v, 2) for v in box.xyxy]
            if self.out is not None:
                path = self.out / video / crop_name(frame.number, box.track)
                data = encode(crop511(picture, rounded, fill=fill), quality=self.quality)
                write_whole(path, data)
                size, crc = len(data), f"{zlib.crc32(data):08x}"
            rows.append((box.track, frame.number, rounded, size, crc))
        return rows

    def _picture(self, name: str) -> Image:
        path = self.root / name
        try:
            return decode(read_regular(path, max_bytes=MAX_PICTURE_BYTES))
        except FileNotFoundError as error:
            raise _BadPictureError("no such file", reason=MISSING) from error
        except (OSError, ValueError) as error:
            raise _BadPictureError(str(error), reason=UNREADABLE) from error


class _BadPictureError(Exception):
    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def _in_px(box: Box, width: int, height: int) -> Box:
    x1, y1, x2, y2 = box.xyxy
    return box._replace(xyxy=(x1 * width, y1 * height, x2 * width, y2 * height))


def encode(image: Image, *, quality: int) -> bytes:
    """Return an image as the bytes of a JPEG with a restart mark after each row of blocks.

    The marks cost 0.3% of the size and let a reader decode the rows it needs alone (`lib.datasets.jpeg_rows`).
    """
    blocks = -(-image.shape[1] // _BLOCK)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, blocks]
    done, data = cv2.imencode(".jpg", image, options)
    assert done, image.shape
    return bytes(data)


def write_whole(path: Path, data: bytes) -> None:
    """Write a crop under a temporary name and rename it; raise UserError when the system refuses.

    Not flushed to the disk one by one: a million flushes take hours. The journal's checksums find what a power cut
    loses (`prepare check`).
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        try:
            temporary.write_bytes(data)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free some space and run the same command "
                        f"again: it goes on where it stopped") from error
