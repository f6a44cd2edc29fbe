"""VOT2015-2019 (short-term): videos with rotated ground truth, and the result files of the restart protocol.

Read from the official folders (`list.txt`, `<video>/groundtruth.txt`, `<video>/<attribute>.tag`, images in `<video>` or
`<video>/color`) or from pysot's JSON. Coordinates are taken as they stand in the files (origin 0, as in the pysot
toolkit and the official one).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.benchmarks.records import Benchmark, Sequence
from lib.benchmarks.regions import Corners, rectangle_corners
from lib.benchmarks.vot_facts import ATTRIBUTES, NAMES, SAME_VIDEOS
from lib.boxes import Boxes, polygon_to_xywh
from lib.errors import UserError
from lib.files import MAX_PICTURE_BYTES, atomic_write, read_json, read_regular, read_text

UNKNOWN, INIT, FAILURE, REGION = 0, 1, 2, 3
"""What a row of a result file says: a skipped frame, a (re)start, a failure (the numbers that stand in the file), or,
as a code of ours, that there is a box or polygon."""

_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_TAG_SUFFIXES = (".tag", ".label")


@dataclass(frozen=True, eq=False, kw_only=True)
class VOTSequence(Sequence):
    """A video of VOT. `boxes_xywh` are the axis-aligned boxes that stand for the regions (`polygon_to_xywh`)."""

    regions: Corners
    """(N, 4, 2) corners of the ground truth."""
    tags: Mapping[str, NDArray[np.bool_]]
    """Per attribute, the frames (N,) that have it; an attribute the data set does not tell is absent."""
    notes: tuple[str, ...] = ()
    """What is odd about the annotation."""


class Trajectory(NamedTuple):
    """A result of the restart protocol, one row per frame."""

    codes: NDArray[np.int8]  # (N,) UNKNOWN, INIT, FAILURE or REGION
    regions: Corners  # (N, 4, 2), NaN where there is none

    @property
    def failures(self) -> NDArray[np.intp]:
        """Return the frames at which the tracker had lost its target."""
        return np.flatnonzero(self.codes == FAILURE)


def is_vot(dataset: str) -> bool:
    """Return whether `dataset` is one of VOT2015-2019, in any case of letters."""
    return dataset.upper() in NAMES


def load_vot(dataset: str, folder: Path, *, images: bool) -> Benchmark:
    """Return VOT2015-2019 as far as it lies in `folder`, its own folder or the parent of that.

    A JSON of the data set in its folder is preferred to the folders, and these to a JSON beside. VOT2017 and VOT2018
    are the same videos and serve for each other. Raises UserError when nothing is there or something is broken.
    """
    dataset = dataset.upper()
    labels = [dataset, *([SAME_VIDEOS[dataset]] if dataset in SAME_VIDEOS else [])]
    roots = [folder, *(folder / label for label in labels if (folder / label).is_dir())]
    image_roots = [*roots, *(folder.parent / label for label in labels)]
    for source in [path for root in roots for path in (*(root / f"{label}.json" for label in labels), root)] + [
            folder.parent / f"{label}.json" for label in labels]:
        if source.suffix == ".json" and source.is_file():
            sequences = _from_json(source, NAMES[dataset], image_roots, images=images)
        elif source.is_dir() and any(True for _ in source.glob("*/groundtruth.txt")):
            sequences = _from_folders(source, NAMES[dataset], images=images)
        else:
            continue
        return _benchmark(dataset, source, sequences, images=images)
    raise UserError(f"{folder}: no ground truth of {dataset}; expected <video>/groundtruth.txt or {dataset}.json")


def _benchmark(dataset: str, source: Path, sequences: dict[str, VOTSequence], *, images: bool) -> Benchmark:
    if not sequences:
        what = "video with its images" if images else "video"
        raise UserError(f"{source}: no {what} of {dataset} found; expected e.g. {NAMES[dataset][0]}/groundtruth.txt"
                        f"{' and its images in ' + NAMES[dataset][0] + '/color' if images else ''}")
    found = tuple(sequences[name] for name in NAMES[dataset] if name in sequences)
    missing = tuple(name for name in NAMES[dataset] if name not in sequences)
    unknown = [sequence.name for sequence in found if sequence.image_wh is None]
    notes = [f"{len(unknown)} videos without images: their size is unknown, overlaps are not cut at the border"
             ] if unknown else []
    for sequence in found:
        notes += [f"{sequence.name}: {note}" for note in sequence.notes]
    return Benchmark(dataset, found, len(NAMES[dataset]), missing, source, tuple(notes))


def _from_folders(root: Path, names: Items[str], *, images: bool) -> dict[str, VOTSequence]:
    """Return the videos that lie as official folders below `root`; with `images` only those that have them."""
    sequences = {}
    for name in names:
        folder = root / name
        path = folder / "groundtruth.txt"
        if not path.is_file():
            if folder.is_dir():
                raise UserError(f"{root}: no groundtruth.txt in {name!r}; expected one line of 8 (or 4) numbers "
                                "per frame")
            continue
        regions, upright = _as_regions(path, read_rows(path, widths=(4, 8)))
        frames = _images_of([root], name)
        if images and not frames:
            continue
        if images and len(frames) != len(regions):
            raise UserError(f"{path}: {len(regions)} regions for {len(frames)} images in {frames[0].parent}; expected "
                            "one region per image")
        tags = {attribute: _read_tag(folder, attribute) for attribute in ATTRIBUTES}
        sequences[name] = _sequence(name, frames if images else (), regions, upright,
                                    tags, _declared_size(folder) or _size_of(frames))
    return sequences


def _from_json(path: Path, names: Items[str], image_roots: Items[Path], *, images: bool) -> dict[str, VOTSequence]:
    """Return the videos of pysot's JSON: gt_rect (N rows of 8 or 4), img_names, and a list of 0 and 1 per attribute."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise UserError(f"{path}: expected an object of videos, each with gt_rect and img_names")
    sequences = {}
    for name in names:
        if name not in content:
            continue
        entry, place = content[name], path / name
        regions, upright = _as_regions(place, _json_rows(place, entry.get("gt_rect")))
        listed = entry.get("img_names", [])
        if images and not isinstance(listed, list):
            raise UserError(f"{place}: img_names is {listed!r:.60}; expected a list of one name per frame")
        if images and len(listed) != len(regions):
            raise UserError(f"{place}: {len(regions)} rows of gt_rect for {len(listed)} img_names; expected as many")
        present = _images_of(image_roots, name)
        by_name = {image.name: image for image in present}
        frames = [by_name[Path(str(item)).name] for item in listed if Path(str(item)).name in by_name]
        if images and not present:
            continue
        if images and len(frames) != len(listed):
            lost = next(item for item in listed if Path(str(item)).name not in by_name)
            raise UserError(f"{place}: no image {lost} in {present[0].parent}; expected all {len(listed)} img_names")
        tags = {attribute: _json_tag(place, attribute, entry.get(attribute, [])) for attribute in ATTRIBUTES}
        sequences[name] = _sequence(name, frames if images else (), regions, upright, tags, _size_of(present))
    return sequences


def _sequence(
    name: str, frames: Items[Path], regions: Corners, upright: NDArray[np.bool_], tags: Mapping[str, list[int]],
    image_wh: tuple[int, int] | None,
) -> VOTSequence:
    """Return the record of one video; an attribute list that is too short goes on with zeros, as it is known to be."""
    boxes = polygon_to_xywh(regions.reshape(-1, 8))
    low, high = regions.min(axis=1), regions.max(axis=1)
    boxes[upright] = np.concatenate([low, high - low], axis=1)[upright]
    full, notes = {}, []
    for attribute, values in tags.items():
        if not values:
            continue
        if len(values) != len(regions):
            notes.append(f"{attribute} is told for {len(values)} of {len(regions)} frames; taken as 0 in the rest")
        padded = np.zeros(len(regions), bool)
        padded[: len(values)] = values[: len(regions)]
        full[attribute] = padded
    owned = tuple(attribute for attribute in full if full[attribute].any())
    return VOTSequence(name, tuple(frames), boxes, owned, origin=0, regions=regions, tags=full, image_wh=image_wh,
                       notes=tuple(notes))


def _as_regions(place: Path, rows: Items[Items[float]]) -> tuple[Corners, NDArray[np.bool_]]:
    """Return the corners (N, 4, 2) of rows of 8 (corner points) or 4 numbers (x, y, w, h), and which were of 4."""
    if not rows:
        raise UserError(f"{place}: no regions; expected one of 8 (or 4) numbers per frame")
    upright = np.array([len(row) == 4 for row in rows])
    regions = np.empty((len(rows), 4, 2))
    for count, picked in ((4, upright), (8, ~upright)):
        if picked.any():
            values = np.array([row for row in rows if len(row) == count])
            regions[picked] = rectangle_corners(values) if count == 4 else values.reshape(-1, 4, 2)
    return regions, upright


def read_rows(path: Path, *, widths: tuple[int, ...]) -> list[list[float]]:
    """Return the rows of a text file of comma-separated numbers, each as long as one of `widths`.

    Raises UserError naming the line that is not.
    """
    rows = []
    lines = read_text(path).rstrip().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = [float(token) for token in line.split(",")]
        except ValueError:
            row = []
        if len(row) not in widths or not np.isfinite(row).all():
            expected = " or ".join(map(str, widths))
            raise UserError(f"{path} line {number}: {line.strip()[:60]!r}; expected {expected} finite numbers")
        rows.append(row)
    return rows


def _json_rows(place: Path, value: Any) -> list[list[float]]:
    try:
        rows = [[float(number) for number in row] for row in value]
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{place}: gt_rect is not a list of rows of 8 (or 4) numbers") from error
    for index, row in enumerate(rows):
        if len(row) not in (4, 8) or not np.isfinite(row).all():
            raise UserError(f"{place}: gt_rect row {index} is {str(row)[:60]}; expected 8 (or 4) finite numbers")
    return rows


def _json_tag(place: Path, attribute: str, value: Any) -> list[int]:
    if not isinstance(value, list) or not all(item in (0, 1) for item in value):
        raise UserError(f"{place}: {attribute} is not a list of 0 and 1; expected one per frame")
    return [int(item) for item in value]


def _read_tag(folder: Path, attribute: str) -> list[int]:
    """Return the frames of an attribute (0 or 1 each) from its file, [] when there is none."""
    for suffix in _TAG_SUFFIXES:
        path = folder / f"{attribute}{suffix}"
        if path.is_file():
            tokens = read_text(path).split()
            if not all(token in ("0", "1") for token in tokens):
                raise UserError(f"{path}: expected one line per frame, 0 or 1")
            return [int(token) for token in tokens]
    return []


def _images_of(roots: Items[Path], name: str) -> list[Path]:
    """Return the images of a video in order of name, from the first folder that has any."""
    for folder in (path for root in roots for path in (root / name / "color", root / name)):
        if folder.is_dir() and (found := sorted(p for p in folder.iterdir() if p.suffix.lower() in _IMAGE_SUFFIXES)):
            return found
    return []


def _declared_size(folder: Path) -> tuple[int, int] | None:
    """Return the image size that the official toolkit's `sequence` file tells, None without one."""
    path = folder / "sequence"
    if not path.is_file():
        return None
    values = dict(re.findall(r"(?m)^\s*(width|height)\s*=\s*(\d{1,6})\s*$", read_text(path)))
    return (int(values["width"]), int(values["height"])) if len(values) == 2 else None


def _size_of(frames: Items[Path]) -> tuple[int, int] | None:
    """Return the size of the first image; UserError when it cannot be read, None without images."""
    if not frames:
        return None
    import cv2  # here, as most scoring needs no image and cv2 is slow to load

    try:
        data = read_regular(frames[0], max_bytes=MAX_PICTURE_BYTES)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except (OSError, cv2.error):
        image = None
    if image is None:
        raise UserError(f"{frames[0]}: not an image that can be read; delete it or copy it again")
    return image.shape[1], image.shape[0]


def trajectory_file(folder: Path, name: str, *, repetition: int = 1) -> Path:
    """Return where a tracker's result on a video stands: <tracker>/baseline/<video>/<video>_001.txt."""
    return folder / "baseline" / name / f"{name}_{repetition:03d}.txt"


def find_trajectories(folder: Path, name: str) -> list[Path]:
    """Return the results of all repetitions of a video in a tracker's folder, in order."""
    own = folder / "baseline" / name
    pattern = re.compile(re.escape(name) + r"_\d{3}\.txt")
    return sorted(path for path in own.iterdir() if pattern.fullmatch(path.name)) if own.is_dir() else []


def read_trajectory(path: Path) -> Trajectory:
    """Return a result of the restart protocol; UserError with the line that is no code, box or polygon."""
    rows = read_rows(path, widths=(1, 4, 8))
    if not rows:
        raise UserError(f"{path}: empty; expected a code or a region per frame")
    odd = [i for i, row in enumerate(rows) if len(row) == 1 and row[0] not in (UNKNOWN, INIT, FAILURE)]
    if odd:
        raise UserError(f"{path} line {odd[0] + 1}: code {rows[odd[0]][0]:g}; expected 0 (skipped), 1 (start), "
                        "2 (failure), or a region")
    codes = np.array([int(row[0]) if len(row) == 1 else REGION for row in rows], np.int8)
    regions = np.full((len(rows), 4, 2), np.nan)
    if (codes == REGION).any():
        regions[codes == REGION] = _as_regions(path, [row for row in rows if len(row) > 1])[0]
    return Trajectory(codes, regions)


def write_trajectory(path: Path, codes: NDArray[np.int8], boxes_xywh: Boxes) -> None:
    """Write a result of the restart protocol, whole or not at all: a code, or a box with four decimals, per frame."""
    assert boxes_xywh.shape == (len(codes), 4), (codes.shape, boxes_xywh.shape)
    assert np.isfinite(boxes_xywh[codes == REGION]).all(), "a tracker's box must be finite"
    lines = [",".join(f"{value:.4f}" for value in box) if code == REGION else str(code)
             for code, box in zip(codes.tolist(), boxes_xywh.tolist(), strict=True)]
    with atomic_write(path) as file:
        file.write("\n".join(lines) + "\n")
