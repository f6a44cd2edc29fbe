"""VOT2015-2019 (short-term): videos with rotated ground truth, and the result files of the restart protocol.

Coordinates are taken as they stand in the files (origin 0, as in the pysot toolkit and the official one).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Sequence as Items
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.benchmarks.box_files import Rows, as_rows, read_rows
from lib.benchmarks.facts import VOT_ATTRIBUTES
from lib.benchmarks.records import Corners, VOTSequence
from lib.benchmarks.regions import rectangle_corners
from lib.boxes import Boxes, polygon_to_xywh
from lib.errors import UserError
from lib.files import read_text, write_whole
from lib.images import image_size

UNKNOWN, INIT, FAILURE, REGION = 0, 1, 2, 3
"""What a row of a result file says: a skipped frame, a (re)start, a failure (the numbers that stand in the file), or,
as a code of ours, that there is a box or polygon."""
SKIPPED = 5  # frames from a failure to the next start
_TAG_SUFFIXES = (".tag", ".label")


class Trajectory(NamedTuple):
    """A result of the restart protocol, one row per frame."""

    codes: NDArray[np.int8]  # (N,) UNKNOWN, INIT, FAILURE or REGION
    regions: Corners  # (N, 4, 2), NaN where there is none

    @property
    def failures(self) -> NDArray[np.intp]:
        """Return the frames at which the tracker had lost its target."""
        return np.flatnonzero(self.codes == FAILURE)


def corners_of(rows: Rows) -> Corners:
    """Return the corners (N, 4, 2) of the boxes and polygons of a ground truth."""
    upright = _upright(rows)
    corners = np.empty((len(rows), 4, 2))
    corners[upright] = rectangle_corners(rows[upright, :4])
    corners[~upright] = rows[~upright].reshape(-1, 4, 2)
    return corners


def _upright(rows: Rows) -> NDArray[np.bool_]:
    missing: NDArray[np.bool_] = np.isnan(rows[:, 4:])  # (N, 0) where all are boxes
    return np.asarray(missing.all(axis=1))


def vot_sequence(
    name: str, rows: Rows, frames: Items[Path], *, place: str, folder: Path, entry: Mapping[str, Any] | None
) -> tuple[VOTSequence, list[str]]:
    """Return the record of one video, and what is odd about it.

    Attributes and size are told by files in its `folder` or by the `entry` of pysot's JSON; else the first image of
    `frames` tells the size. An attribute list that is too short goes on with zeros, as it is known to be.
    """
    if not np.isfinite(rows[:, :4]).all():
        row = int(np.argmin(np.isfinite(rows[:, :4]).all(axis=1)))
        raise UserError(f"{place} line {row + 1}: no region; expected finite numbers in every frame of VOT")
    regions, upright = corners_of(rows), _upright(rows)
    boxes = polygon_to_xywh(regions.reshape(-1, 8))
    low, high = regions.min(axis=1), regions.max(axis=1)
    boxes[upright] = np.concatenate([low, high - low], axis=1)[upright]
    full, notes = {}, []
    for tag in VOT_ATTRIBUTES:
        values = _read_tag(folder, tag) if entry is None else _json_tag(place, tag, entry.get(tag, []))
        if not values:
            continue
        if len(values) != len(regions):
            notes.append(f"{name}: {tag} is told for {len(values)} of {len(regions)} frames; taken as 0 in the rest")
        full[tag] = np.zeros(len(regions), bool)
        full[tag][: len(values)] = values[: len(regions)]
    size = _declared_size(folder) if entry is None else None
    if size is None and frames:
        size = image_size(frames[0])
    return VOTSequence(name, tuple(frames), boxes, tuple(tag for tag in full if full[tag].any()), origin=0,
                       regions=regions, tags=full, image_wh=size), notes


def _json_tag(place: str, attribute: str, value: Any) -> list[int]:
    if not isinstance(value, list) or not all(item in (0, 1) for item in value):
        raise UserError(f"{place}: {attribute} is not a list of 0 and 1; expected one per frame")
    return [int(item) for item in value]


def _read_tag(folder: Path, attribute: str) -> list[int]:
    """Return the frames of an attribute (0 or 1 each) from its file, [] when there is none."""
    path = next((path for suffix in _TAG_SUFFIXES if (path := folder / f"{attribute}{suffix}").is_file()), None)
    tokens = read_text(path).split() if path else []
    if not all(token in ("0", "1") for token in tokens):
        raise UserError(f"{path}: expected one line per frame, 0 or 1")
    return [int(token) for token in tokens]


def _declared_size(folder: Path) -> tuple[int, int] | None:
    """Return the image size that the official toolkit's `sequence` file tells, None without one."""
    path = folder / "sequence"
    if not path.is_file():
        return None
    values = dict(re.findall(r"(?m)^\s*(width|height)\s*=\s*(\d{1,6})\s*$", read_text(path)))
    return (int(values["width"]), int(values["height"])) if len(values) == 2 else None


def trajectory_file(folder: Path, name: str) -> Path:
    """Return where a tracker's result on a video stands: <tracker>/baseline/<video>/<video>_001.txt."""
    return folder / "baseline" / name / f"{name}_001.txt"


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
        regions[codes == REGION] = corners_of(as_rows([row for row in rows if len(row) > 1]))
    return Trajectory(codes, regions)


def write_trajectory(path: Path, codes: NDArray[np.int8], boxes_xywh: Boxes) -> None:
    """Write a result of the restart protocol, whole or not at all: a code, or a box with four decimals, per frame."""
    assert boxes_xywh.shape == (len(codes), 4), (codes.shape, boxes_xywh.shape)
    assert np.isfinite(boxes_xywh[codes == REGION]).all(), "a tracker's box must be finite"
    lines = [",".join(f"{value:.4f}" for value in box) if code == REGION else str(code)
             for code, box in zip(codes.tolist(), boxes_xywh.tolist(), strict=True)]
    write_whole(path, "\n".join(lines) + "\n")
