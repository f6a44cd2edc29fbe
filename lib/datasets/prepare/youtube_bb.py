"""YouTube-BoundingBoxes: a CSV of annotations at one frame a second, and the frames that could be downloaded.

`<split>.csv` beside `<split>/<class>/<youtube id>_<milliseconds>_<class>_<object>.jpg`, as the data set's download
utility leaves them. Many videos no longer exist: pictures that are missing are counted, not complained of.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lib.datasets.prepare.records import ABSENT, MISSING, Box, Frame, Video, safe_name
from lib.errors import UserError

_COLUMNS = ("youtube_id", "timestamp_ms", "class_id", "class_name", "object_id", "object_presence", "xmin", "xmax",
            "ymin", "ymax")


@dataclass(frozen=True)
class YoutubeTask:
    """The rows of one video and class: pieces (offset, bytes) of the CSV, which each process reads for itself."""

    root: Path
    split: str
    video: str  # class/youtube id
    pieces: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        """Return the video's name."""
        return f"{self.split}/{self.video}"

    def read(self) -> Video:
        """Return the frames at hand; frame numbers are whole seconds, so RANGE counts seconds."""
        frames, dropped, seen = [], Counter[str](), set[tuple[int, int]]()
        for place, row in self._rows():
            stem = f"{row['youtube_id']}_{row['timestamp_ms']}_{row['class_id']}_{row['object_id']}"
            picture = safe_name(f"{self.split}/{row['class_id']}/{stem}.jpg", place=place)
            try:
                x1, y1, x2, y2 = (float(row[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
                second, track = int(row["timestamp_ms"]) // 1000, int(row["object_id"])
            except ValueError as error:
                raise UserError(f"{place}: {error}; expected {', '.join(_COLUMNS)}") from error
            if (track, second) in seen:
                dropped["a second box in the same second"] += 1
                continue
            seen.add((track, second))
            absent = row["object_presence"] == "absent"
            if (self.root / picture).is_file():
                box = Box(track, (x1, y1, x2, y2), absent=absent)
                frames.append(Frame(picture, second, (box,), relative=True))
            else:
                dropped[ABSENT if absent else MISSING] += 1
        return Video(self.name, tuple(frames), dropped)

    def _rows(self) -> list[tuple[str, dict[str, str]]]:
        """Return (place for messages, row) of each line of the pieces."""
        path = self.root / f"{self.split}.csv"
        rows = []
        with path.open("rb") as file:
            for start, length in self.pieces:
                file.seek(start)
                for values in csv.reader(file.read(length).decode().splitlines()):
                    place = f"{path}: byte {start}: {','.join(values)[:80]}"
                    if len(values) != len(_COLUMNS):
                        raise UserError(f"{place}; expected {len(_COLUMNS)} columns, {', '.join(_COLUMNS)}")
                    rows.append((place, dict(zip(_COLUMNS, values, strict=True))))
        return rows


def tasks(root: Path, *, split: str = "") -> list[YoutubeTask]:
    """Return a task for each video and class of `<split>.csv` (split yt_bb_detection_train).

    Raises UserError if the file is missing, still packed, or a line has no class.
    """
    split = split or "yt_bb_detection_train"
    path = root / f"{split}.csv"
    if not path.is_file():
        packed = path.with_name(path.name + ".gz").is_file()
        raise UserError(f"{path}: no such file; {f'unpack it: gunzip {path}.gz' if packed else 'expected the CSV'}")
    pieces: dict[str, list[tuple[int, int]]] = {}
    at, last = 0, ""
    with path.open("rb") as file:
        for line in file:
            values = line.split(b",", 3)
            if len(values) < 4:
                raise UserError(f"{path}: byte {at}: {line[:80]!r}; expected {', '.join(_COLUMNS)}")
            video = safe_name(f"{values[2].decode()}/{values[0].decode()}", place=f"{path}: byte {at}")
            runs = pieces.setdefault(video, [])
            if video == last:
                runs[-1] = (runs[-1][0], runs[-1][1] + len(line))
            else:
                runs.append((at, len(line)))
            at, last = at + len(line), video
    return [YoutubeTask(root, split, video, tuple(runs)) for video, runs in pieces.items()]
