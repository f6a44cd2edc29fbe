"""Benchmarks beside OTB and VOT, one table entry each: where their files lie and what is special about them.

GOT-10k, LaSOT, TrackingNet, UAV123, NfS at 30 and 240 frames/s, TColor-128 and DTB70 in their official layouts, and any
folder of videos that have a ground-truth file. Layouts and readings follow the got10k toolkit unless an entry says
otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Boxes, polygon_to_xywh
from lib.datasets.benchmarks.box_text import read_boxes
from lib.datasets.benchmarks.layout_facts import LASOT_NAMES, UAV123_NAMES, UAV123_PARTS
from lib.datasets.benchmarks.records import Benchmark, Sequence, without_origin
from lib.errors import UserError
from lib.files import read_text

Flags = NDArray[np.bool_]
_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp"})


class Video(NamedTuple):
    """Where one video of a data set lies."""

    name: str
    truth: Path
    """Its ground-truth file."""
    images: Path
    """The folder of its images."""
    span: tuple[int, int] | None = None
    """Numbers of its first and last image, where the folder holds more."""


@dataclass(frozen=True)
class Layout:
    """A benchmark as its authors lay it out."""

    name: str
    expected: int
    """Number of sequences; 0: as many as there are."""
    find: Callable[[Path], list[Video]]
    """The videos below a folder that may be the data set's root; none where it is not."""
    example: str
    """A ground-truth file relative to the root, for messages."""
    origin: int = 0
    """Pixel origin of annotation and result files."""
    names: tuple[str, ...] = ()
    """The sequences of the benchmark, where the folder may hold more and where missing ones can be told by name."""
    folders: tuple[str, ...] = ()
    """Other names under which people keep it."""
    read: Callable[[Video, int], Boxes] | None = None
    """Reads the ground truth (N, 4), given the number of images (0: not there); None: lines of x, y, w, h."""
    absent: Callable[[Video], Flags | None] | None = None
    """Reads in which frames nothing of the target is to be seen; None where the files are not there."""
    size: Callable[[Video], tuple[int, int] | None] | None = None
    """Reads the size of the images."""
    scoring: Literal["one-pass", "got10k", "server"] = "one-pass"
    """How it is scored: success and precision; AO and SR of the got10k toolkit; by the authors' server alone, as only
    the first box is public."""
    convention: str = "pysot"
    """Convention of one-pass evaluation (`lib.eval_toolkit.ope`) where none is asked for."""


def load_layout(layout: Layout, folder: Path, *, images: bool) -> Benchmark:
    """Return the benchmark as far as it lies in `folder`, its own folder or the parent of that.

    With `images` a video without any is left out and said. Raises UserError when nothing is there or something is
    broken.
    """
    labels = [layout.name, *layout.folders]
    roots = [folder, *(folder / label for label in labels if (folder / label).is_dir())]
    root, videos = next(((root, videos) for root in roots if (videos := layout.find(root))), (folder, []))
    sequences, notes = {}, []
    for video in videos:
        if layout.names and video.name not in layout.names:
            continue
        # A folder of images is listed only where something hangs on it: LaSOT's hold 700,000.
        frames = _images(video) if images or layout.read or layout.scoring == "server" else []
        if images and not frames:
            notes.append(f"{video.name}: no images in {video.images}, left out")
            continue
        sequence, own = _sequence(layout, video, frames, images=images)
        sequences[video.name] = sequence
        notes += own
    if not sequences:
        why = f" ({notes[0]})" if notes else ""
        raise UserError(f"{folder}: no sequence of {layout.name} found{why}; expected e.g. {layout.example}")
    order = [name for name in layout.names if name in sequences] if layout.names else list(sequences)
    return Benchmark(layout.name, tuple(sequences[name] for name in order), layout.expected or len(order),
                     tuple(name for name in layout.names if name not in sequences), root, tuple(notes))


def _sequence(layout: Layout, video: Video, frames: list[Path], *, images: bool) -> tuple[Sequence, list[str]]:
    """Return the record of one video, and notes."""
    notes = []
    boxes = layout.read(video, len(frames)) if layout.read else read_boxes(video.truth, allow_nan=True)
    if not len(boxes) or not np.isfinite(boxes[0]).all() or not (boxes[0, 2:] > 0).all():
        raise UserError(f"{video.truth}: the first box has no size; no tracker can be initialised on it")
    boxes = without_origin(boxes, layout.origin)
    if layout.scoring == "server":
        if frames:
            boxes = np.concatenate([boxes[:1], np.full((len(frames) - 1, 4), np.nan)])
    elif frames and abs(len(frames) - len(boxes)) == 1 and layout.name.startswith("NFS"):
        notes.append(f"{video.name}: {len(boxes)} boxes for {len(frames)} images; cut to the shorter")
        frames, boxes = frames[: len(boxes)], boxes[: len(frames)]
    if frames and len(frames) != len(boxes):
        raise UserError(f"{video.truth}: {len(boxes)} boxes for {len(frames)} images in {video.images}; expected one "
                        "box per image")
    absent = layout.absent(video) if layout.absent else None
    if layout.absent and absent is None:
        notes.append(f"{video.name}: no file tells where the target is absent; every frame counts")
    if absent is not None and len(absent) != len(boxes):
        raise UserError(f"{video.truth.parent}: absence is told for {len(absent)} of {len(boxes)} frames of "
                        f"{video.name}; expected one value per frame")
    return Sequence(video.name, tuple(frames) if images else (), boxes, origin=layout.origin, absent=absent,
                    image_wh=layout.size(video) if layout.size else None), notes


def _images(video: Video) -> list[Path]:
    """Return a video's images in the order of their numbers, those of its span only; [] when there are none."""
    if not video.images.is_dir():
        return []
    found = sorted((path for path in video.images.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES),
                   key=lambda path: (_number(path), path.name))
    if video.span is None:
        return found
    first, last = video.span
    return [path for path in found if first <= _number(path) <= last]


def _number(path: Path) -> int:
    digits = re.findall(r"\d+", path.stem)
    return int(digits[-1]) if digits else -1


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


def _numbered(prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}{number:06d}" for number in range(1, 181))


def _got10k(subset: str) -> Callable[[Path], list[Video]]:
    def find(root: Path) -> list[Video]:
        for folder in (root / subset, root if root.name == subset else root / "full_data" / subset):
            if videos := [Video(path.name, path / "groundtruth.txt", path)
                          for path in _folders(folder) if (path / "groundtruth.txt").is_file()]:
                return videos
        return []
    return find


def _got10k_absent(video: Video) -> Flags | None:
    """Return where the toolkit does not score: the label `cover`, 0 to 8 eighths visible, is 0."""
    cover = _flags(video.truth.with_name("cover.label"))
    return None if cover is None else cover == 0


def _got10k_size(video: Video) -> tuple[int, int] | None:
    path = video.truth.with_name("meta_info.ini")
    match = re.search(r"resolution\s*[:=]\s*\((\d+),\s*(\d+)\)", read_text(path)) if path.is_file() else None
    return (int(match[1]), int(match[2])) if match else None


# LaSOT


def _lasot(root: Path) -> list[Video]:
    found = [path for folder in (*_folders(root), root) for path in _folders(folder)
             if (path / "groundtruth.txt").is_file() and re.fullmatch(r".+-\d+", path.name)]
    return [Video(path.name, path / "groundtruth.txt", path / "img") for path in found]


def _lasot_absent(video: Video) -> Flags | None:
    """Return where the target is fully occluded or out of view: the toolkit's `absent`."""
    parts = [_flags(video.truth.with_name(name)) for name in ("full_occlusion.txt", "out_of_view.txt")]
    known = [part for part in parts if part is not None]
    if len({len(part) for part in known}) > 1:
        raise UserError(f"{video.truth.parent}: full_occlusion.txt and out_of_view.txt differ in length; expected one "
                        "value per frame in each")
    return np.any([part > 0 for part in known], axis=0) if known else None


# TrackingNet, UAV123, NfS, TColor-128, DTB70


def _trackingnet(root: Path) -> list[Video]:
    for folder in (root / "TEST", root):
        if videos := [Video(path.stem, path, folder / "frames" / path.stem)
                      for path in sorted((folder / "anno").glob("*.txt"))]:
            return videos
    return []


def _uav123(root: Path) -> list[Video]:
    """Return the videos; NaN rows in their files are frames without a target, which pysot counts as failures."""
    videos = []
    for path in sorted((root / "anno" / "UAV123").glob("*.txt")):
        span = UAV123_PARTS.get(path.stem)
        folder = path.stem.rpartition("_")[0] if span else path.stem
        videos.append(Video(path.stem, path, root / "data_seq" / "UAV123" / folder, span))
    return videos


def _nfs(rate: int) -> Callable[[Path], list[Video]]:
    def find(root: Path) -> list[Video]:
        return [Video(path.name, truth, truth.with_suffix(""))
                for path in _folders(root) for truth in sorted((path / str(rate)).glob("*.txt"))]
    return find


def _nfs_boxes(video: Video, num_images: int) -> Boxes:
    """Return NfS's boxes: columns 1 to 4 are left, top, right, bottom; 240 boxes/s may stand beside 30 images/s."""
    rows = [line.split() for line in read_text(video.truth).splitlines() if line.strip()]
    try:
        corners = np.array([[float(token) for token in row[1:5]] for row in rows]).reshape(-1, 4)
    except ValueError as error:
        raise UserError(f"{video.truth}: expected lines `0 left top right bottom ...`") from error
    if num_images and abs(len(corners) / num_images - 8) < 1:
        corners = corners[::8]
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _tcolor128(root: Path) -> list[Video]:
    videos = []
    for path in _folders(root):
        truth, spans = path / f"{path.name}_gt.txt", path / f"{path.name}_frames.txt"
        if truth.is_file():
            span = _flags(spans)
            videos.append(Video(path.name, truth, path / "img",
                                None if span is None or len(span) != 2 else (int(span[0]), int(span[1]))))
    return videos


def _dtb70(root: Path) -> list[Video]:
    return [Video(path.name, path / "groundtruth_rect.txt", path / "img")
            for path in _folders(root) if (path / "groundtruth_rect.txt").is_file()]


# Any folder of videos


def _plain(root: Path) -> list[Video]:
    return [Video(path.name, path / "groundtruth.txt",
                  next((path / name for name in ("img", "color") if (path / name).is_dir()), path))
            for path in _folders(root) if (path / "groundtruth.txt").is_file()]


def _plain_boxes(video: Video, _num_images: int) -> Boxes:
    """Return boxes of a file whose lines are x, y, w, h or the corners of a polygon."""
    first = re.split(r"[,;\s]+", read_text(video.truth).strip().split("\n")[0].strip())
    if len(first) == 4:
        return read_boxes(video.truth, allow_nan=True)
    from lib.datasets.benchmarks.vot import read_rows  # here, as VOT's module is larger than most need

    return polygon_to_xywh(np.array(read_rows(video.truth, widths=(8,))))


LAYOUTS: dict[str, Layout] = {layout.name.upper(): layout for layout in (
    Layout("GOT10K", 180, _got10k("test"), "test/GOT-10k_Test_000001/groundtruth.txt", scoring="server",
           folders=("GOT-10k", "got10k"), names=_numbered("GOT-10k_Test_")),
    Layout("GOT10K-val", 180, _got10k("val"), "val/GOT-10k_Val_000001/groundtruth.txt", scoring="got10k",
           folders=("GOT10K", "GOT-10k", "got10k"), names=_numbered("GOT-10k_Val_"), absent=_got10k_absent,
           size=_got10k_size),
    Layout("LASOT", 280, _lasot, "airplane/airplane-1/groundtruth.txt", origin=1, names=LASOT_NAMES,
           folders=("LaSOT", "LaSOTBenchmark", "LaSOTTesting", "lasot"), absent=_lasot_absent, convention="lasot"),
    Layout("TrackingNet", 511, _trackingnet, "TEST/anno/<name>.txt", scoring="server"),
    Layout("UAV123", 123, _uav123, "anno/UAV123/bike1.txt", origin=1, names=UAV123_NAMES),
    Layout("NFS30", 100, _nfs(30), "airboard_1/30/airboard_1.txt", read=_nfs_boxes, folders=("NFS", "Nfs", "NfS")),
    Layout("NFS240", 100, _nfs(240), "airboard_1/240/airboard_1.txt", read=_nfs_boxes, folders=("NFS", "Nfs", "NfS")),
    Layout("TC128", 128, _tcolor128, "Airport_ce/Airport_ce_gt.txt", origin=1,
           folders=("TColor128", "Temple-color-128")),
    Layout("DTB70", 70, _dtb70, "Animal1/groundtruth_rect.txt", origin=1),
)}  # fmt: skip
"""The benchmarks by name in upper case. A new one is a new entry."""

_ALIASES = {"GOT10KTEST": "GOT10K", "GOT10KVAL": "GOT10K-VAL", "TCOLOR128": "TC128"}


def layout_of(dataset: str) -> Layout | None:
    """Return the benchmark of this name in any case of letters, with or without dashes; None where it is not here."""
    key = re.sub(r"[-_ ]", "", dataset.upper())
    return LAYOUTS.get(_ALIASES.get(key, key))


def plain_layout(dataset: str) -> Layout:
    """Return the layout of any folder of videos `<video>/groundtruth.txt` with lines of x, y, w, h or of polygons.

    Images lie in `<video>/img`, `<video>/color` or `<video>` itself. Boxes are 1-based as in OTB's form, since the
    result files of a data set of no known name are.
    """
    return Layout(dataset, 0, _plain, "<video>/groundtruth.txt", origin=1, read=_plain_boxes)
