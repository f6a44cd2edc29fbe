"""Folders of videos with one object each: GOT-10k, LaSOT, TrackingNet, and plain ones, as the benchmarks' readers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.benchmarks import readers
from lib.benchmarks.box_files import read_truth
from lib.boxes import xywh_to_xyxy
from lib.datasets.prepare import ABSENT, MISSING, Box, Frame, Video, find_below, safe_name
from lib.errors import UserError
from lib.files import read_text
from lib.images import list_images

_COVER_LEVELS = 8  # cover.label goes from 0, out of view, to 8, all visible
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoTask:
    """One video: its pictures, its ground truth and what else its data set tells about each frame."""

    root: Path
    name: str
    truth: Path
    pictures: Path
    origin: int = 0  # of the ground truth's coordinates
    first: int | None = None  # number of the first picture, if the data set fixes it
    absence: tuple[str, ...] = ()  # files with a 1 for each frame in which the object cannot be seen
    cover: str = ""  # file with the visible share in eighths

    def read(self) -> Video:
        """Return the frames.

        Absent is an object with a 1 in an absence file, a cover of 0, or a box of zeros or of NaN. Raises UserError
        naming file and line, or the counts if pictures and boxes do not match.
        """
        boxes = readers.truth_boxes(read_truth(self.truth))
        count = len(boxes)
        cover = self._flags(self.cover, count, missing=_COVER_LEVELS)
        absent = (cover == 0) | (boxes == 0).all(axis=1) | np.isnan(boxes).all(axis=1)
        for file in self.absence:
            absent |= self._flags(file, count, missing=0) != 0
        boxes[:, :2] -= self.origin
        frames, faults, dropped = [], [], Counter[str]()
        pictures = pictures_by_line(self.pictures, count, first=self.first)
        for line, (picture, (x1, y1, x2, y2)) in enumerate(zip(pictures, xywh_to_xyxy(boxes).tolist(), strict=True)):
            if picture is None:
                dropped[ABSENT if absent[line] else MISSING] += 1
                if not absent[line]:
                    faults.append(f"{self.name}: no picture for line {line + 1}")
                continue
            found = Box(0, (x1, y1, x2, y2), float(cover[line] / _COVER_LEVELS), absent=bool(absent[line]))
            frames.append(Frame(picture[1].relative_to(self.root).as_posix(), picture[0], (found,)))
        return Video(self.name, tuple(frames), dropped, tuple(faults))

    def _flags(self, file: str, count: int, *, missing: int) -> NDArray[np.float64]:
        """Return the numbers (count,) of a label file, all `missing` if there is none; UserError for another count."""
        flags = readers.frame_flags(self.truth.with_name(file)) if file else None
        if flags is not None and len(flags) != count:
            raise UserError(f"{self.truth.with_name(file)}: {len(flags)} labels for {count} boxes")
        return np.full(count, missing, np.float64) if flags is None else flags


def pictures_by_line(folder: Path, count: int, *, first: int | None = None) -> list[tuple[int, Path] | None]:
    """Return, for each of `count` lines of a ground truth, (frame number, picture), None where the picture is missing.

    The number is that of the file's name (`00000012.jpg` is 12), so that a gap in the files stays a gap in time; if a
    name is no number, or two are the same number, all are counted from 0 in their order. The numbers count from
    `first`, behind whose last line more pictures may follow (in LaSOT); if that is None from 0 where a picture has
    number 0 and from 1 where none has. Pictures numbered otherwise are taken in order if just as many, else UserError.
    """
    paths = list_images(folder)
    stems = [path.stem for path in paths]
    numbers = [int(s) for s in stems] if all(s.isascii() and s.isdecimal() and len(s) < 10 for s in stems) else []
    if len(set(numbers)) != len(paths):
        numbers = list(range(len(paths)))
    start = first if first is not None else 0 if 0 in numbers else 1
    if numbers and start <= min(numbers) and (first is not None or max(numbers) < start + count):
        found = dict(zip(numbers, paths, strict=True))
        return [(n, found[n]) if n in found else None for n in range(start, start + count)]
    if len(paths) != count:
        raise UserError(f"{folder}: {len(paths)} pictures for {count} boxes")
    return list(zip(numbers, paths, strict=True))


def got10k_tasks(root: Path, *, split: str = "") -> list[VideoTask]:
    """Return a task for each video of GOT-10k's `split` (default train) or the folder itself, or in `list.txt`."""
    videos = {video.name: video for video in readers.got10k(split or "train")(root)}
    if not videos:
        raise UserError(f"{root}: no folder with groundtruth.txt, nor in {split or 'train'}; expected one per video")
    base = next(iter(videos.values())).truth.parent.parent
    listing = base / "list.txt"
    names = _listed(listing, videos) if listing.is_file() else sorted(videos)
    return [VideoTask(root, name, videos[name].truth, videos[name].images, absence=("absence.label",),
                      cover="cover.label") for name in names]


def lasot_tasks(root: Path, *, split: str = "") -> list[VideoTask]:
    """Return a task for each video of LaSOT (`<class>/<class>-<n>`), coordinates from 1.

    `training_set.txt` at the root, or the file that `split` names, lists the videos; else `testing_set.txt` lists
    those left out. Raises UserError without either: the test videos are no training data.
    """
    videos = {video.name: video for video in readers.by_class()(root)}
    wanted, unwanted = root / (split or "training_set.txt"), root / "testing_set.txt"
    if not videos:
        raise UserError(f"{root}: no folder <class>/<class>-<n> with groundtruth.txt; expected one per video")
    if wanted.is_file():
        names = _listed(wanted, videos)
    elif unwanted.is_file():
        names = sorted({*videos} - {*_names(unwanted)})
    else:
        raise UserError(f"{root}: neither {wanted.name} nor {unwanted.name}; without them the test videos would be "
                        f"trained on: put LaSOT's lists there, one video a line")
    return [VideoTask(root, _below(root, videos[name].truth.parent), videos[name].truth, videos[name].images, origin=1,
                      first=1, absence=("full_occlusion.txt", "out_of_view.txt")) for name in names]


def _listed(listing: Path, there: Iterable[str]) -> list[str]:
    """Return the videos of a list that are there, and say how many are not (yet downloaded); UserError if none is."""
    names, known = _names(listing), set(there)
    missing = [name for name in names if name not in known]
    if missing:
        text = (f"{listing} names {len(names)} videos, {len(missing)} of them are not there (or lack their "
                f"groundtruth.txt), the first: {missing[0]}")
        if len(missing) == len(names):
            raise UserError(f"{text}; unpack them beside it")
        _log.warning("%s; going on with the other %d", text, len(names) - len(missing))
    return [name for name in names if name in known]


def _names(path: Path) -> list[str]:
    return [safe_name(line.strip(), place=str(path)) for line in read_text(path).splitlines() if line.strip()]


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def trackingnet_tasks(root: Path, *, split: str = "") -> list[VideoTask]:
    """Return a task for each video of TrackingNet (`TRAIN_0` .. `TRAIN_11`, each with `anno` and `frames`).

    `split` names some of the parts, comma separated; else all TRAIN_*. UserError if the frames are not unpacked.
    """
    parts = split.split(",") if split else sorted(
        path.name for path in root.iterdir() if path.name.upper().startswith("TRAIN_") and (path / "anno").is_dir())
    videos = [(part, video) for part in parts
              for video in readers.paired("anno", "frames", safe_name(part, place="--split"))(root)]
    if not videos:
        raise UserError(f"{root}: no anno/*.txt in {', '.join(parts) or 'TRAIN_*'}; expected TrackingNet's parts, "
                        f"each with anno and frames")
    for part in parts:
        if not (root / part / "frames").is_dir():
            raise UserError(f"{root / part / 'frames'}: no such folder; unpack each archive of {part}/zips to a folder "
                            f"of its name in {part}/frames (the development kit's extract_frame.py does it)")
    return [VideoTask(root, f"{part}/{video.name}", video.truth, video.images, first=0) for part, video in videos]


def plain_tasks(root: Path, *, split: str = "", origin: int = 0) -> list[VideoTask]:
    """Return a task for each folder that holds a `groundtruth.txt` or `groundtruth_rect.txt`, below `split` if given.

    Lines x, y, w, h or the eight numbers of a polygon, counted from `origin`; pictures in `img` or beside the file.
    """
    base = root / split if split else root
    found = find_below(base, *readers.PLAIN_TRUTHS, whole=True)
    if not found:
        raise UserError(f"{base}: no groundtruth.txt or groundtruth_rect.txt below it; expected a folder per video")
    return [VideoTask(root, _below(base, path.parent) if path.parent != base else base.resolve().name, path,
                      readers.image_folder(path.parent), origin=origin)
            for path in {path.parent: path for path in reversed(found)}.values()]
