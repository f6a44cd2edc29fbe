"""OTB-form test sets read from official folders, pysot's JSON or TracKit's JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lib.benchmarks.box_text import read_boxes
from lib.benchmarks.otb_facts import FACTS, OTBFact, alias_key, canonical_name
from lib.benchmarks.records import Sequence, without_origin
from lib.boxes import Boxes
from lib.errors import UserError
from lib.files import read_json

ORIGIN = 1
"""Boxes of OTB files are 1-based, in all three forms."""

_HUGE = 1e300  # px; NaN is not below it either
_GROUND_TRUTH = re.compile(r"groundtruth_rect(?:\.(\d+))?\.txt")
_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp"})

Found = tuple[list[Sequence], list[str]]
"""Sequences, and notes for the reader of a score."""


def has_ground_truth(root: Path) -> bool:
    """Return whether some folder directly below `root` holds an OTB ground-truth file."""
    return root.is_dir() and any(True for _ in root.glob("*/groundtruth_rect*.txt"))


def read_folders(root: Path, names: tuple[str, ...] | None, *, images: bool) -> Found:
    """Return the sequences that lie as official folders below `root`, and notes; every folder when `names` is None.

    A folder holds `groundtruth_rect.txt`, or one `groundtruth_rect.<k>.txt` per target, and `img/`. With `images` a
    sequence without images is left out. Raises UserError for a sequence folder without ground truth.
    """
    sequences, notes = [], []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))):
        targets = _all_targets(folder) if names is None else _known_targets(folder, names)
        for name, path in targets.items():
            boxes = read_boxes(path, allow_nan=False)
            frames = _list_images(folder / "img") if images else []
            if images and not frames:
                notes.append(f"{name}: no images in {folder / 'img'}, left out")
                continue
            fact = None if names is None else FACTS[name]
            sequences.append(_sequence(str(path), name, boxes, frames, fact=fact))
            notes += _length_notes(name, len(boxes), fact)
    return sequences, notes


def _all_targets(folder: Path) -> dict[str, Path]:
    """Return the ground-truth file of each target of a sequence folder of any name, by the target's name."""
    files = _ground_truth_files(folder)
    if not files and (folder / "img").is_dir():
        raise _no_ground_truth(folder)
    return {folder.name if number is None else f"{folder.name}-{number}": path for number, path in files.items()}


def _known_targets(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Return the ground-truth file of each wanted OTB target that `folder` is made for, by the target's name."""
    key = alias_key(folder.name)
    known = [name for name in names if key in (alias_key(FACTS[name].folder), alias_key(name))]
    if not known:
        return {}
    files = _ground_truth_files(folder)
    found = {}
    for name in known:
        number = FACTS[name].target
        # Human4's first target has an empty file; some copies of the data give the second one's the plain name.
        path = files.get(number) or (files.get(None) if len(known) == 1 else None)
        if path is not None:
            found[name] = path
    if not found:
        raise _no_ground_truth(folder)
    return found


def _ground_truth_files(folder: Path) -> dict[int | None, Path]:
    """Return the ground-truth files of a folder that are not empty, by target number (None: the plain name)."""
    return {int(match[1]) if match[1] else None: path for path in sorted(folder.glob("groundtruth_rect*.txt"))
            if (match := _GROUND_TRUTH.fullmatch(path.name)) and path.is_file() and path.stat().st_size > 0}


def _no_ground_truth(folder: Path) -> UserError:
    return UserError(f"{folder.parent}: no groundtruth_rect.txt with boxes in {folder.name!r}; expected one line "
                     "x,y,w,h per frame (groundtruth_rect.1.txt, .2.txt for two targets)")


def _list_images(folder: Path) -> list[Path]:
    """Return the images of a folder in the order of their numbers, [] when there is no such folder."""
    if not folder.is_dir():
        return []
    images = [path for path in folder.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES]
    return sorted(images, key=lambda path: (_frame_number(path), path.name))


def _frame_number(path: Path) -> int:
    digits = re.findall(r"\d+", path.stem)
    return int(digits[-1]) if digits else -1


def _sequence(place: str, name: str, boxes: Boxes, images: list[Path], *, fact: OTBFact | None) -> Sequence:
    """Return the record of one target from its rows (1-based) and its images (none: not asked for).

    Where the number of rows is the official one, the official frame range picks the images (the folders of David and
    a few others hold more); otherwise rows and images must match one to one.
    """
    if not len(boxes):
        raise UserError(f"{place}: no boxes; expected one x,y,w,h per frame")
    lead_in = fact.lead_in if fact and len(boxes) == fact.num_frames + fact.lead_in else 0
    tracked = boxes[lead_in:]
    if fact and len(tracked) == fact.num_frames and len(images) != len(tracked):
        images = [path for path in images if fact.first <= _frame_number(path) <= fact.last]
    if images and len(images) != len(tracked):
        raise UserError(f"{place}: {len(tracked)} boxes for {len(images)} frames in {images[0].parent}; "
                        "expected one box per frame")
    if not (tracked[0, 2:] > 0).all():
        raise UserError(f"{place} row {lead_in + 1}: the first box has no size; no tracker can be initialised on it")
    shifted = without_origin(boxes, ORIGIN)
    return Sequence(name, tuple(images), shifted[lead_in:], fact.attributes if fact else (),
                    lead_in_xywh=shifted[:lead_in], num_lead_in=fact.lead_in if fact else 0)


def _length_notes(name: str, num_boxes: int, fact: OTBFact | None) -> list[str]:
    if fact is None or num_boxes in (fact.num_frames, fact.num_frames + fact.lead_in):
        return []
    return [f"{name}: {num_boxes} boxes, the official data set has {fact.num_frames}"]


def read_json_sequences(
    path: Path, names: tuple[str, ...] | None, *, image_roots: list[Path], images: bool
) -> Found:
    """Return the sequences of pysot's or TracKit's JSON of a data set, and notes; every sequence when `names` is None.

    Both hold `gt_rect` (N, 4) per sequence; pysot has `img_names` (`Basketball/img/0001.jpg`) and `attr`, TracKit has
    `name` (the folder) and `image_files`. With `images` the frames are looked for below `image_roots` and a sequence
    without its folder is left out. Raises UserError naming file and key for anything else.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise UserError(f"{path}: expected an object of sequences, each with gt_rect and img_names or image_files")
    sequences, notes = [], []
    for key, entry in content.items():
        name = key if names is None else canonical_name(key)
        if name is None or (names is not None and name not in names):
            continue
        place, fact = f"{path}: {key}", None if names is None else FACTS[name]
        boxes = _json_boxes(place, entry)
        frames: list[Path] = []
        if images:
            frames, note = _json_frames(place, entry, image_roots, num_boxes=len(boxes))
            if note:
                notes.append(f"{name}: {note}, left out")
                continue
        sequence = _sequence(place, name, boxes, frames, fact=fact)
        sequences.append(sequence if fact else _with_attributes(sequence, entry))
        notes += _length_notes(name, len(boxes), fact)
    return sequences, notes


def _json_boxes(place: str, entry: Mapping[str, Any]) -> Boxes:
    """Return `gt_rect` (N, 4); UserError with the row that is not four finite numbers."""
    rows = entry.get("gt_rect")
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{place}: no gt_rect; expected a list with one [x, y, w, h] per frame")
    try:
        boxes = np.array(rows, np.float64)
    except (TypeError, ValueError, OverflowError):
        boxes = np.empty(0)
    if boxes.shape == (len(rows), 4) and np.isfinite(boxes).all():
        return boxes
    for number, row in enumerate(rows, start=1):
        if not (isinstance(row, list) and len(row) == 4
                and all(isinstance(value, (int, float)) and abs(value) < _HUGE for value in row)):
            raise UserError(f"{place}: gt_rect row {number}: {str(row)[:60]} is not a box; expected [x, y, w, h]")
    raise UserError(f"{place}: gt_rect is not a list of boxes; expected one [x, y, w, h] per frame")


def _json_frames(
    place: str, entry: Mapping[str, Any], image_roots: list[Path], *, num_boxes: int
) -> tuple[list[Path], str]:
    """Return the image paths of a JSON entry, or what is missing when no image root has the sequence's folder."""
    files = entry.get("img_names")
    if files is None and isinstance(entry.get("image_files"), list):
        files = [f"{entry.get('name')}/img/{file}" for file in entry["image_files"]]
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise UserError(f"{place}: no img_names or image_files; expected one file name per frame")
    if len(files) != num_boxes:
        raise UserError(f"{place}: {num_boxes} boxes for {len(files)} frames; expected one box per frame")
    relative = [PurePosixPath(file) for file in files]
    for file in relative:
        if file.is_absolute() or ".." in file.parts or len(str(file)) > 250:
            raise UserError(f"{place}: image name {str(file)!r} leads out of the data set; expected a name below it")
    folder = relative[0].parent
    base = next((root for root in image_roots if (root / folder).is_dir()), None)
    if base is None:
        return [], f"no folder {folder}"
    present = {path.name for path in (base / folder).iterdir()}
    absent = [file for file in relative if file.name not in present or file.parent != folder]
    if len(absent) == len(relative):
        return [], f"no images in {base / folder}"
    if absent:
        raise UserError(f"{base / absent[0]}: no such frame; {len(relative) - len(absent)} of {len(relative)} frames "
                        "of this sequence are there; complete its folder or remove it")
    return [base / file for file in relative], ""


def _with_attributes(sequence: Sequence, entry: Mapping[str, Any]) -> Sequence:
    """Return the sequence with the attributes that pysot's JSON gives for data sets we have no table of."""
    attributes = entry.get("attr", [])
    names = tuple(str(name) for name in attributes) if isinstance(attributes, list) else ()
    return Sequence(sequence.name, sequence.frames, sequence.boxes_xywh, names)
