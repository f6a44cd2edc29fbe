"""Where the files of each benchmark lie and how its ground truth reads: what the entries of `layouts` are made of.

Layouts follow the got10k toolkit, which reads the archives as their authors pack them; each function says whose reading
it is where that is not obvious.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.benchmarks.box_text import read_boxes
from lib.benchmarks.layout_facts import UAV123_PARTS
from lib.boxes import Boxes, polygon_to_xywh
from lib.errors import UserError
from lib.files import read_text

Flags = NDArray[np.bool_]


class Video(NamedTuple):
    """Where one video of a data set lies."""

    name: str
    truth: Path
    """Its ground-truth file."""
    images: Path
    """The folder of its images."""
    span: tuple[int, int] | None = None
    """Numbers of its first and last image, where the folder holds more."""


def _folders(root: Path) -> Iterable[Path]:
    """Return the folders in a folder, sorted; none when it is not one."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))
                  ) if root.is_dir() else []


def _flags(path: Path) -> NDArray[np.float64] | None:
    """Return the numbers of a file with one per frame, in lines or separated by commas; None without the file."""
    if not path.is_file():
        return None
    try:
        return np.array([float(token) for token in re.split(r"[,\s]+", read_text(path).strip())])
    except ValueError as error:
        raise UserError(f"{path}: expected one number per frame") from error


# GOT-10k


def numbered(prefix: str) -> tuple[str, ...]:
    """Return the names of the 180 sequences of a subset."""
    return tuple(f"{prefix}{number:06d}" for number in range(1, 181))


def got10k(subset: str) -> Callable[[Path], list[Video]]:
    """Return what finds `<subset>/<name>/groundtruth.txt` with the images beside it."""
    def find(root: Path) -> list[Video]:
        for folder in (root / subset, root if root.name == subset else root / "full_data" / subset):
            if videos := [Video(path.name, path / "groundtruth.txt", path)
                          for path in _folders(folder) if (path / "groundtruth.txt").is_file()]:
                return videos
        return []
    return find


def got10k_absent(video: Video) -> Flags | None:
    """Return where the got10k toolkit does not score: the label `cover`, 0 to 8 eighths visible, is 0."""
    cover = _flags(video.truth.with_name("cover.label"))
    return None if cover is None else cover == 0


def got10k_size(video: Video) -> tuple[int, int] | None:
    """Return width and height of the images, at which the got10k toolkit cuts both boxes: `resolution: (w, h)`."""
    path = video.truth.with_name("meta_info.ini")
    match = re.search(r"resolution\s*[:=]\s*\((\d{1,6}),\s*(\d{1,6})\)", read_text(path)) if path.is_file() else None
    return (int(match[1]), int(match[2])) if match else None


# LaSOT


def lasot(root: Path) -> list[Video]:
    """Return the videos `<class>/<class>-<n>`, or the same without the folders of classes."""
    found = [path for folder in (*_folders(root), root) for path in _folders(folder)
             if (path / "groundtruth.txt").is_file() and re.fullmatch(r".+-\d+", path.name)]
    return [Video(path.name, path / "groundtruth.txt", path / "img") for path in found]


def lasot_absent(video: Video) -> Flags | None:
    """Return where the target is fully occluded or out of view: what the LaSOT toolkit's `annos/absent` holds.

    Its own files are not part of the data set; that either flag makes a frame absent is pytracking's reading.
    """
    parts = [_flags(video.truth.with_name(name)) for name in ("full_occlusion.txt", "out_of_view.txt")]
    known = [part for part in parts if part is not None]
    if len({len(part) for part in known}) > 1:
        raise UserError(f"{video.truth.parent}: full_occlusion.txt and out_of_view.txt differ in length; expected one "
                        "value per frame in each")
    return np.any([part > 0 for part in known], axis=0) if known else None


# TrackingNet, UAV123, NfS, TColor-128, DTB70


def trackingnet(root: Path) -> list[Video]:
    """Return the videos of `TEST/anno/<name>.txt`, one box each, and `TEST/frames/<name>/<n>.jpg` from n = 0 on.

    The form of the TrackingNet devkit; images are ordered by number, as in pytracking, not by name.
    """
    for folder in (root / "TEST", root):
        if videos := [Video(path.stem, path, folder / "frames" / path.stem)
                      for path in sorted((folder / "anno").glob("*.txt"))]:
            return videos
    return []


def uav123(root: Path) -> list[Video]:
    """Return the videos; some are parts of one folder, by the frame ranges of the authors' `configSeqs.m`.

    NaN rows in their files are frames without a target: pysot's reading counts them as failures of success and as hits
    of precision.
    """
    videos = []
    for path in sorted((root / "anno" / "UAV123").glob("*.txt")):
        span = UAV123_PARTS.get(path.stem)
        folder = path.stem.rpartition("_")[0] if span else path.stem
        videos.append(Video(path.stem, path, root / "data_seq" / "UAV123" / folder, span))
    return videos


def nfs(rate: int) -> Callable[[Path], list[Video]]:
    """Return what finds `<name>/<rate>/<name>.txt` with the images in `<name>/<rate>/<name>`, or it among these."""
    def find(root: Path) -> list[Video]:
        found = []
        for path in _folders(root):
            folder = path / str(rate)
            found += [Video(path.name, truth, truth.with_suffix("")) for truth in sorted(folder.glob("*.txt"))] or [
                Video(path.name, truth, truth.parent) for truth in sorted(folder.glob("*/*.txt"))]
        return found
    return find


def nfs_boxes(video: Video, num_images: int) -> Boxes:
    """Return NfS's boxes: columns 1 to 4 are left, top, right, bottom; 240 boxes/s may stand beside 30 images/s.

    Then every eighth box counts, beginning with the first, as in the got10k toolkit: nothing is interpolated. That
    toolkit hands right and bottom on as width and height; that they are corners is what pytracking found, whose own
    30 frames/s boxes were taken from the authors' result files instead and may lie a frame beside these.
    """
    rows = [line.split() for line in read_text(video.truth).splitlines() if line.strip()]
    try:
        corners = np.array([[float(token) for token in row[1:5]] for row in rows]).reshape(-1, 4)
    except ValueError as error:
        raise UserError(f"{video.truth}: expected lines `0 left top right bottom ...`") from error
    if len(corners) != num_images and abs(len(corners[::8]) - num_images) <= 1:
        corners = corners[::8]
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def off_by_one(boxes: int, images: int) -> bool:
    """Return whether NfS's boxes and images differ by the one frame that the got10k toolkit forgives."""
    return abs(boxes - images) == 1


def tcolor128(root: Path) -> list[Video]:
    """Return the videos; `<name>_frames.txt` holds first and last image, both included, as the got10k toolkit reads."""
    videos = []
    for path in _folders(root):
        truth, spans = path / f"{path.name}_gt.txt", path / f"{path.name}_frames.txt"
        if truth.is_file():
            span = _flags(spans)
            videos.append(Video(path.name, truth, path / "img",
                                None if span is None or len(span) != 2 else (int(span[0]), int(span[1]))))
    return videos


def dtb70(root: Path) -> list[Video]:
    """Return the videos in OTB's form."""
    return [Video(path.name, path / "groundtruth_rect.txt", path / "img")
            for path in _folders(root) if (path / "groundtruth_rect.txt").is_file()]


# Any folder of videos


def plain(root: Path) -> list[Video]:
    """Return the videos `<video>/groundtruth.txt` with images in `img`, `color` or the folder itself."""
    return [Video(path.name, path / "groundtruth.txt",
                  next((path / name for name in ("img", "color") if (path / name).is_dir()), path))
            for path in _folders(root) if (path / "groundtruth.txt").is_file()]


def plain_boxes(video: Video, _num_images: int) -> Boxes:
    """Return boxes of a file whose lines are x, y, w, h or the corners of a polygon."""
    first = re.split(r"[,;\s]+", read_text(video.truth).strip().split("\n")[0].strip())
    if len(first) == 4:
        return read_boxes(video.truth, allow_nan=True)
    from lib.benchmarks.vot import read_rows  # here, as VOT's module is larger than most need

    return polygon_to_xywh(np.array(read_rows(video.truth, widths=(8,))))
