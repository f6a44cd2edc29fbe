"""Where the files of each benchmark lie and how its ground truth reads: what the entries of `layouts` are made of.

A function that finds gets a folder that may be a data set's root and returns its videos, none where it is not. Layouts
follow the got10k toolkit, which reads the archives as their authors pack them, where a function says no other.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.benchmarks.box_files import Rows, as_rows, checked_rows, read_truth
from lib.benchmarks.facts import OTB_FACTS, UAV123_PARTS, alias_key
from lib.boxes import Boxes, polygon_to_xywh
from lib.errors import UserError
from lib.files import read_json, read_text
from lib.images import list_images

Flags = NDArray[np.bool_]
_GROUND_TRUTH = re.compile(r"groundtruth_rect(?:\.(\d+))?\.txt")
PLAIN_TRUTHS = ("groundtruth.txt", "groundtruth_rect.txt")
"""Ground-truth files of a folder of one's own; the first counts where it has both."""


class Video(NamedTuple):
    """Where one video of a data set lies."""

    name: str
    truth: Path  # its ground-truth file; one that does not exist is missing. Of a JSON that file
    images: Path  # the folder of its images
    span: tuple[int, int] | None = None  # numbers of its first and last image, where the folder holds more
    entry: Mapping[str, Any] | None = None  # what a JSON says of it


def sub_folders(root: Path) -> list[Path]:
    """Return the folders (or links to such) in a folder, sorted, no hidden ones; none when it is not one."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))
                  ) if root.is_dir() else []


def _texts(folder: Path, pattern: str) -> list[Path]:
    """Return the files that fit a pattern, sorted; hidden ones (macOS' `._a.txt`) are none."""
    return sorted(path for path in folder.glob(pattern) if path.name[0] != ".")


def image_folder(folder: Path) -> Path:
    """Return where the images of a video's folder lie: in `img`, `imgs` (TNL2K), `color` (VOT) ..., or in itself."""
    names = ("img", "imgs", "color", "images", "frames")
    return next((path for name in names if (path := folder / name).is_dir()), folder)


def _videos(folders: Iterable[Path], truth: str = "groundtruth.txt") -> list[Video]:
    return [Video(path.name, path / truth, image_folder(path)) for path in folders if (path / truth).is_file()]


def truth_boxes(rows: Rows) -> Boxes:
    """Return the boxes (N, 4) x, y, w, h of a ground truth; polygons give the upright box that stands for them."""
    boxes = rows[:, :4].copy()
    if rows.shape[1] == 8:
        polygons = np.isfinite(rows[:, 4:]).all(axis=1)
        boxes[polygons] = polygon_to_xywh(rows[polygons])
    return boxes


def frame_flags(path: Path) -> NDArray[np.float64] | None:
    """Return the numbers of a file with one per frame, in lines or separated by commas; None without the file."""
    if not path.is_file():
        return None
    try:
        return np.array([float(token) for token in re.split(r"[,\s]+", read_text(path).strip())])
    except ValueError as error:
        raise UserError(f"{path}: expected one number per frame") from error


# ---- JSON of pysot (`gt_rect`, `img_names` as Deer/img/0001.jpg, `attr`) and TracKit (`name`, `image_files`)


def json_videos(path: Path) -> list[Video]:
    """Return the videos of a JSON, `images` being the place of their key; UserError when it is none of the forms."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise UserError(f"{path}: expected an object of sequences, each with gt_rect and img_names or image_files")
    return [Video(key, path, path.parent / key, entry=entry) for key, entry in content.items()]


def json_truth(place: str, entry: Mapping[str, Any]) -> Rows:
    """Return `gt_rect`, as `read_truth` does; UserError with the row that is no box or polygon."""
    rows = entry.get("gt_rect")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{place}: no gt_rect; expected a list with one [x, y, w, h] per frame")
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        array = np.array(rows, np.float64)  # at once where all are boxes, or all polygons: LaSOT's has 685,000
        if array.ndim == 2 and array.shape[1] in (4, 8):
            return checked_rows(array, place=f"{place}: gt_rect row")
    for number, row in enumerate(rows, start=1):
        if not (isinstance(row, list) and len(row) in (4, 8) and all(isinstance(v, int | float) for v in row)
                and not any(abs(v) >= 1e300 for v in row)):
            raise UserError(f"{place}: gt_rect row {number}: {str(row)[:60]} is not a box; expected [x, y, w, h]")
    return checked_rows(as_rows(rows), place=f"{place}: gt_rect row")


def json_images(place: str, entry: Mapping[str, Any]) -> list[PurePosixPath]:
    """Return the paths of the images below the data set's folder; UserError for one that leads out of it."""
    files = entry.get("img_names")
    if files is None and isinstance(entry.get("image_files"), list):
        files = [f"{entry.get('name')}/img/{file}" for file in entry["image_files"]]
    if not isinstance(files, list) or not files or not all(isinstance(file, str) for file in files):
        raise UserError(f"{place}: no img_names or image_files; expected one file name per frame")
    relative = [PurePosixPath(file.replace("\\", "/")) for file in files]  # some are written on Windows
    for file in relative:
        if file.is_absolute() or ".." in file.parts or not file.name or len(str(file).encode("utf-8", "replace")) > 250:
            raise UserError(f"{place}: image name {str(file)!r} leads out of the data set; expected a name below it")
    return relative


# ---- images


def frames_of(
    video: Video, image_roots: list[Path], *, place: str, num_boxes: int | None
) -> tuple[list[Path], str]:
    """Return a video's images, those of its span or of its JSON only, and where there is none why.

    A JSON's folder may be called as OTB calls that of another target (Human4-2, Human4), or hold the images in a
    folder of its own, and its files may have another ending.
    """
    if video.entry is None:
        frames = images_in(video.images)
        if video.span is not None:
            frames = [path for path in frames if video.span[0] <= frame_number(path) <= video.span[1]]
        return frames, f"no images in {video.images}"
    files = json_images(place, video.entry)
    if len(files) != num_boxes:
        raise UserError(f"{place}: {num_boxes} boxes for {len(files)} images; expected one box per image")
    first, folder = files[0].parts[0], files[0].parent
    names = dict.fromkeys((first, video.name, OTB_FACTS[video.name].folder if video.name in OTB_FACTS else first))
    folders = [*(root / folder for root in image_roots),
               *(image_folder(root / name) for name in names for root in image_roots)]
    present = next((found for path in folders if (found := images_in(path))), [])
    if not present:
        there = next((path for path in folders if path.is_dir()), None)
        return [], f"no images in {there}" if there else f"no folder {folder}"
    by_name = {path.stem: path for path in present} | {path.name: path for path in present}
    lost = [file for file in files if file.parent != folder or not {file.name, file.stem} & by_name.keys()]
    if lost and len(lost) < len(files):
        raise UserError(f"{present[0].parent / lost[0].name}: no such frame; {len(files) - len(lost)} of {len(files)} "
                        "frames of this sequence are there; complete its folder or remove it")
    frames = [by_name.get(file.name) or by_name[file.stem] for file in files if file not in lost]
    return frames, f"no images in {present[0].parent}"


def images_in(folder: Path) -> list[Path]:
    """Return the images of a folder in their order, none where there is no such folder."""
    return list_images(folder) if folder.is_dir() else []


def frame_number(path: Path) -> int:
    """Return the last number in an image's name, -1 where it has none."""
    digits = re.findall(r"\d+", path.stem)
    return int(digits[-1]) if digits else -1


# ---- OTB, and folders of one's own


def otb(names: tuple[str, ...] | None) -> Callable[[Path], list[Video]]:
    """Return what finds `<Name>/groundtruth_rect.txt`, or `.<k>.txt` per target, and `<Name>/img`; None: any name."""
    def find(root: Path) -> list[Video]:
        found = []
        for folder in sub_folders(root):
            targets = _any_targets(folder) if names is None else _known_targets(folder, names)
            found += [Video(name, truth, image_folder(folder)) for name, truth in targets.items()]
        return found
    return find


def _any_targets(folder: Path) -> dict[str, Path]:
    files = _truth_files(folder)
    if not files and (folder / "img").is_dir():
        files = {None: folder / "groundtruth_rect.txt"}
    return {folder.name if number is None else f"{folder.name}-{number}": path for number, path in files.items()}


def _known_targets(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Return the ground-truth file of each wanted OTB target that `folder` is made for, by the target's name."""
    key = alias_key(folder.name)
    known = [name for name in names if key in (alias_key(OTB_FACTS[name].folder), alias_key(name))]
    files = _truth_files(folder)
    found = {}
    for name in known:
        # Human4's first target has an empty file; some copies of the data give the second one's the plain name.
        path = files.get(OTB_FACTS[name].target) or (files.get(None) if len(known) == 1 else None)
        if path is not None:
            found[name] = path
    return found or dict.fromkeys(known[:1], folder / "groundtruth_rect.txt")


def _truth_files(folder: Path) -> dict[int | None, Path]:
    """Return the ground-truth files of a folder that are not empty, by target number (None: the plain name)."""
    return {int(match[1]) if match[1] else None: path for path in sorted(folder.glob("groundtruth_rect*.txt"))
            if (match := _GROUND_TRUTH.fullmatch(path.name)) and path.is_file() and path.stat().st_size > 0}


def own(root: Path) -> list[Video]:
    """Return the videos in OTB's form or, where there is none, those with a `groundtruth.txt`."""
    found = otb(None)(root)
    return found if any(video.truth.is_file() for video in found) else _videos(sub_folders(root)) or found


def vot(names: tuple[str, ...]) -> Callable[[Path], list[Video]]:
    """Return what finds `<video>/groundtruth.txt` with images in `<video>/color` or `<video>`."""
    return lambda root: [Video(name, root / name / "groundtruth.txt", image_folder(root / name))
                         for name in names if (root / name).is_dir()]


# ---- GOT-10k


def got10k(subset: str) -> Callable[[Path], list[Video]]:
    """Return what finds `<subset>/<name>/groundtruth.txt` with the images beside it, or the same without `<subset>`."""
    def find(root: Path) -> list[Video]:
        folders = (root / subset, root / f"{subset}_data", root / "full_data" / subset, root)
        return next((videos for folder in folders if (videos := _videos(sub_folders(folder)))), [])
    return find


def got10k_size(video: Video) -> tuple[int, int] | None:
    """Return width and height of the images, at which the got10k toolkit cuts both boxes: `resolution: (w, h)`."""
    path = video.truth.with_name("meta_info.ini")
    match = re.search(r"resolution\s*[:=]\s*\((\d{1,6}),\s*(\d{1,6})\)", read_text(path)) if path.is_file() else None
    return (int(match[1]), int(match[2])) if match else None


# ---- LaSOT


def by_class(*, mark: str = "-", truth: str = "groundtruth.txt") -> Callable[[Path], list[Video]]:
    """Return what finds `<class>/<class><mark><n>/<truth>`, or the same without the folders of classes."""
    return lambda root: _videos((path for folder in (*sub_folders(root), root) for path in sub_folders(folder)
                                 if mark in path.name), truth)


# ---- TrackingNet, AVisT, VisDrone, UAV123, NfS, TColor-128


def paired(truths: str, images: str, *parts: str) -> Callable[[Path], list[Video]]:
    """Return what finds `<truths>/<name>.txt` and `<images>/<name>/`, in a folder of `parts` or in the root itself."""
    def find(root: Path) -> list[Video]:
        return next((videos for folder in (*(root / part for part in parts), root) if (videos := [
            Video(path.stem, path, folder / images / path.stem) for path in _texts(folder / truths, "*.txt")])), [])
    return find


def uav(name: str, *, images: str = "", step: int = 1) -> Callable[[Path], list[Video]]:
    """Return what finds `anno/<name>/<video>.txt` and `data_seq/<images>/<folder>`, by default `images` = `name`.

    Some videos are parts of one folder, by the frame ranges of the authors' `configSeqs.m`; `step`: every so many of
    those frames are there. NaN rows, frames without a target, are failures of success and hits of precision in pysot.
    """
    def find(root: Path) -> list[Video]:
        videos = []
        for path in _texts(root / "anno" / name, "*.txt"):
            first, last = UAV123_PARTS.get(path.stem, (0, 0))
            folder = path.stem.rpartition("_")[0] if last else path.stem
            span = ((first - 1) // step + 1, (last - 1) // step + 1) if last else None
            videos.append(Video(path.stem, path, root / "data_seq" / (images or name) / folder, span))
        return videos
    return find


def nfs(rate: int) -> Callable[[Path], list[Video]]:
    """Return what finds `<name>/<rate>/<name>.txt` with the images in `<name>/<rate>/<name>`, or it among these.

    At 30 frames/s also pytracking's form, `anno/nfs_<name>.txt` and `sequences/<name>`.
    """
    def find(root: Path) -> list[Video]:
        found = [Video(path.stem[4:], path, root / "sequences" / path.stem[4:])
                 for path in _texts(root / "anno", "nfs_*.txt")] if rate == 30 else []
        for path in sub_folders(root):
            folder = path / str(rate)
            found += [Video(path.name, truth, truth.with_suffix("")) for truth in _texts(folder, "*.txt")] or [
                Video(path.name, truth, truth.parent) for truth in _texts(folder, "*/*.txt")]
        return found
    return find


def nfs_boxes(video: Video, num_images: int) -> Boxes:
    """Return NfS's boxes: columns 1 to 4 are left, top, right, bottom; 240 boxes/s may stand beside 30 images/s.

    Then every eighth box counts, beginning with the first, as in the got10k toolkit: nothing is interpolated. That
    toolkit hands right and bottom on as width and height; that they are corners is what pytracking found, whose own
    30 frames/s boxes (lines of x, y, w, h) come from the authors' result files and may lie a frame beside these.
    """
    rows = [line.split() for line in read_text(video.truth).splitlines() if line.strip()]
    if rows and len(rows[0]) <= 4:
        return truth_boxes(read_truth(video.truth))
    try:
        corners = np.array([[float(token) for token in row[1:5]] for row in rows]).reshape(-1, 4)
    except ValueError as error:
        raise UserError(f"{video.truth}: expected lines `0 left top right bottom ...`") from error
    if num_images and len(corners) != num_images and abs(len(corners[::8]) - num_images) <= 1:
        corners = corners[::8]
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def tcolor128(root: Path) -> list[Video]:
    """Return the videos; `<name>_frames.txt` holds first and last image, both included, as the got10k toolkit reads."""
    videos = []
    for path in sub_folders(root):
        truth = path / f"{path.name}_gt.txt"
        if truth.is_file():
            span = frame_flags(path / f"{path.name}_frames.txt")
            videos.append(Video(path.name, truth, path / "img",
                                None if span is None or len(span) != 2 else (int(span[0]), int(span[1]))))
    return videos
