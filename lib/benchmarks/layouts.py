"""Benchmarks beside OTB and VOT, one table entry each: where their files lie and what is special about them.

GOT-10k, LaSOT, TrackingNet, UAV123, NfS at 30 and 240 frames/s, TColor-128 and DTB70 in their official layouts, and any
folder of videos that have a ground-truth file. How each is read, and after which toolkit, `layout_forms` says.

Pixel origins, which no layout tells: 1 for the sets made with MATLAB (LaSOT and UAV123, of which the reference
implementation too takes 1 off before it tracks, TColor-128, DTB70), 0 for those made with Python or in a browser
(GOT-10k, TrackingNet, NfS).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lib.benchmarks import readers as forms
from lib.benchmarks.box_text import read_boxes
from lib.benchmarks.layout_facts import LASOT_NAMES, UAV123_NAMES
from lib.benchmarks.readers import Flags, Video
from lib.benchmarks.records import Benchmark, Sequence, without_origin
from lib.boxes import Boxes
from lib.errors import UserError

_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp"})


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
    shorter_counts: Callable[[int, int], bool] = lambda _boxes, _images: False
    """Whether so many boxes beside so many images are cut to the shorter of the two, and said; else they are an
    error."""
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
    elif frames and len(frames) != len(boxes) and layout.shorter_counts(len(boxes), len(frames)):
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


LAYOUTS: dict[str, Layout] = {layout.name.upper(): layout for layout in (
    Layout("GOT10K", 180, forms.got10k("test"), "test/GOT-10k_Test_000001/groundtruth.txt", scoring="server",
           folders=("GOT-10k", "got10k"), names=forms.numbered("GOT-10k_Test_")),
    Layout("GOT10K-val", 180, forms.got10k("val"), "val/GOT-10k_Val_000001/groundtruth.txt", scoring="got10k",
           folders=("GOT10K", "GOT-10k", "got10k"), names=forms.numbered("GOT-10k_Val_"), absent=forms.got10k_absent,
           size=forms.got10k_size),
    Layout("LASOT", 280, forms.lasot, "airplane/airplane-1/groundtruth.txt", origin=1, names=LASOT_NAMES,
           folders=("LaSOT", "LaSOTBenchmark", "LaSOTTesting", "lasot"), absent=forms.lasot_absent, convention="lasot",
           # Frames end where the ground truth does, as in pytracking: some copies of
           # airplane-15 and monkey-17 go on.
           shorter_counts=lambda boxes, images: images > boxes),
    Layout("TrackingNet", 511, forms.trackingnet, "TEST/anno/<name>.txt", scoring="server"),
    Layout("UAV123", 123, forms.uav123, "anno/UAV123/bike1.txt", origin=1, names=UAV123_NAMES),
    Layout("NFS30", 100, forms.nfs(30), "airboard_1/30/airboard_1.txt", read=forms.nfs_boxes,
           folders=("NFS", "Nfs", "NfS"), shorter_counts=forms.off_by_one),
    Layout("NFS240", 100, forms.nfs(240), "airboard_1/240/airboard_1.txt", read=forms.nfs_boxes,
           folders=("NFS", "Nfs", "NfS"), shorter_counts=forms.off_by_one),
    Layout("TC128", 128, forms.tcolor128, "Airport_ce/Airport_ce_gt.txt", origin=1,
           folders=("TColor128", "Temple-color-128")),
    Layout("DTB70", 70, forms.dtb70, "Animal1/groundtruth_rect.txt", origin=1),
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
    return Layout(dataset, 0, forms.plain, "<video>/groundtruth.txt", origin=1, read=forms.plain_boxes)
