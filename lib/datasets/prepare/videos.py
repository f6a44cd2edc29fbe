"""Folders of videos with one object each: GOT-10k, LaSOT, TrackingNet, and plain ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Boxes, polygon_to_xywh
from lib.datasets.prepare.folders import find_below, flags_of, one_object, pictures_by_line, rows_of, video_folders
from lib.datasets.prepare.records import Video, safe_name
from lib.errors import UserError
from lib.files import read_text

_PLAIN_TRUTHS = ("groundtruth.txt", "groundtruth_rect.txt")  # the first counts where a folder has both
_COVER_LEVELS = 8  # cover.label goes from 0, out of view, to 8, all visible


@dataclass(frozen=True)
class VideoTask:
    """One video: its pictures, its ground truth and what else its data set tells about each frame."""

    root: Path
    name: str
    truth: str  # below root, as all paths here
    pictures: str
    origin: int = 0  # of the ground truth's coordinates
    first: int | None = None  # number of the first picture, if the data set fixes it
    absence: tuple[str, ...] = ()  # files with a 1 for each frame in which the object cannot be seen
    cover: str = ""  # file with the visible share in eighths

    def read(self) -> Video:
        """Return the frames.

        Absent is an object with a 1 in an absence file, a cover of 0, or a box of zeros or of NaN. Raises UserError
        naming file and line, or the counts if pictures and boxes do not match.
        """
        boxes_xywh = self._boxes()
        count = len(boxes_xywh)
        cover = flags_of(self.root / self.cover, count, missing=_COVER_LEVELS) if self.cover else np.full(count, 8.0)
        absent = (cover == 0) | (boxes_xywh == 0).all(axis=1) | np.isnan(boxes_xywh).all(axis=1)
        for file in self.absence:
            absent |= flags_of(self.root / file, count) != 0
        boxes_xywh[:, :2] -= self.origin
        pictures = pictures_by_line(self.root / self.pictures, count, first=self.first)
        return one_object(self.name, pictures, boxes_xywh, absent=absent, visible=cover / _COVER_LEVELS, root=self.root)

    def _boxes(self) -> Boxes:
        """Return the boxes (n, 4) x, y, w, h as the file has them; polygons become upright boxes."""
        rows: NDArray[np.float64] = rows_of(self.root / self.truth, widths=(4, 8))
        return rows if rows.shape[1] == 4 else polygon_to_xywh(rows)


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _img(folder: Path) -> Path:
    return folder / "img" if (folder / "img").is_dir() else folder


def got10k_tasks(root: Path, *, split: str = "") -> list[VideoTask]:
    """Return a task for each video of a GOT-10k archive: of `split`, by default train, else of the folder itself."""
    base = root / split if split else root / "train" if (root / "train").is_dir() else root
    return [
        VideoTask(root, _below(base, folder), _below(root, folder / "groundtruth.txt"), _below(root, _img(folder)),
                  absence=(_below(root, folder / "absence.label"),), cover=_below(root, folder / "cover.label"))
        for folder in video_folders(base, truth="groundtruth.txt", listing=base / "list.txt")
    ]


def lasot_tasks(root: Path, *, split: str = "") -> list[VideoTask]:
    """Return a task for each video of LaSOT (`<class>/<class>-<n>`), coordinates from 1.

    `training_set.txt` at the root, or the file that `split` names, lists the videos; else `testing_set.txt` lists
    those left out. Raises UserError without either: the test videos are no training data.
    """
    folders = {folder.name: folder for folder in video_folders(root, truth="groundtruth.txt")}
    wanted, unwanted = root / (split or "training_set.txt"), root / "testing_set.txt"
    if wanted.is_file():
        names = _names(wanted)
        missing = [name for name in names if name not in folders]
        if missing:
            raise UserError(f"{root}: {len(missing)} videos of {wanted.name} are missing, the first: {missing[0]}")
    elif unwanted.is_file():
        left_out = set(_names(unwanted))
        names = [name for name in folders if name not in left_out]
    else:
        raise UserError(f"{root}: neither {wanted.name} nor {unwanted.name}; without them the test videos would be "
                        f"trained on: put LaSOT's lists there, one video a line")
    return [_lasot(root, folders[name]) for name in names]


def _lasot(root: Path, folder: Path) -> VideoTask:
    flags = (_below(root, folder / "full_occlusion.txt"), _below(root, folder / "out_of_view.txt"))
    return VideoTask(root, _below(root, folder), _below(root, folder / "groundtruth.txt"), _below(root, _img(folder)),
                     origin=1, first=1, absence=flags)


def _names(path: Path) -> list[str]:
    return [safe_name(line.strip(), place=str(path)) for line in read_text(path).splitlines() if line.strip()]


def trackingnet_tasks(root: Path, *, split: str = "") -> list[VideoTask]:
    """Return a task for each video of TrackingNet (`TRAIN_0` .. `TRAIN_11`, each with `anno` and `frames`).

    `split` names some of the parts, comma separated; all that begin with TRAIN_ otherwise. Raises UserError if the
    archives of the frames are not unpacked.
    """
    parts = split.split(",") if split else sorted(
        path.name for path in root.iterdir() if path.name.upper().startswith("TRAIN_") and (path / "anno").is_dir())
    truths = [path for part in parts for path in sorted((root / part / "anno").glob("*.txt"))]
    if not truths:
        raise UserError(f"{root}: no anno/*.txt in {', '.join(parts) or 'TRAIN_*'}; expected TrackingNet's parts, "
                        f"each with anno and frames")
    for part in parts:
        if not (root / part / "frames").is_dir():
            raise UserError(f"{root / part / 'frames'}: no such folder; unpack each archive of {part}/zips to a folder "
                            f"of its name in {part}/frames (the development kit's extract_frame.py does it)")
    return [VideoTask(root, f"{_below(root, path.parent.parent)}/{path.stem}", _below(root, path),
                      _below(root, path.parent.parent / "frames" / path.stem), first=0) for path in truths]


def plain_tasks(root: Path, *, split: str = "", origin: int = 0) -> list[VideoTask]:
    """Return a task for each folder that holds a `groundtruth.txt` or `groundtruth_rect.txt`, below `split` if given.

    Lines x, y, w, h or the eight numbers of a polygon, counted from `origin`; pictures in `img` or beside the file.
    """
    base = root / split if split else root
    found = find_below(base, *_PLAIN_TRUTHS, whole=True)
    if not found:
        raise UserError(f"{base}: no groundtruth.txt or groundtruth_rect.txt below it; expected a folder per video")
    return [VideoTask(root, _below(base, path.parent) if path.parent != base else base.name, _below(root, path),
                      _below(root, _img(path.parent)), origin=origin)
            for path in {path.parent: path for path in reversed(found)}.values()]
