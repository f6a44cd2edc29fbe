"""VOT2015-2019 (short-term): videos with rotated ground truth, result files of the restart protocol, and the overlap.

Coordinates are taken as they stand in the files (origin 0, as in the pysot toolkit and the official one).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence as Items
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from lib.benchmarks.box_files import Rows, as_rows, read_rows
from lib.benchmarks.facts import VOT_ATTRIBUTES, Corners, VOTSequence
from lib.boxes import Boxes, polygon_to_xywh
from lib.errors import UserError
from lib.files import read_text, write_whole
from lib.images import image_size

UNKNOWN, INIT, FAILURE, REGION = 0, 1, 2, 3
"""What a row of a result file says: a skipped frame, a (re)start, a failure (the numbers that stand in the file), or,
as a code of ours, that there is a box or polygon."""
SKIPPED = 5  # frames from a failure to the next start
_TAG_SUFFIXES = (".tag", ".label")
MIN_AREA_RATIO = 1e-10  # regions whose bounding boxes differ more in area have overlap 0 (a guard of region.c)
_ROWS_AT_ONCE = 100_000  # pixel rows handled together: bounds the memory to some 30 MB
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


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


# ---- overlap of a rotated ground truth with a result
#
# The scores of VOT2015-2019 were made with a rasterised overlap (region.c of the TraX library, which the MATLAB toolkit
# and the pysot toolkit share): both polygons are drawn on a pixel grid, inside the image, and whole pixels are counted.
# The exact area ratio differs by 0.008 per frame (0.001 less on average) and moves the third digit of a score, so the
# counted one is the default for scoring and the exact one (shapely) is there for comparison and for the test protocol,
# where only "zero or not" matters. Nothing is really drawn: a row of a quadrilateral is at most two spans of pixels, so
# the count of a row is arithmetic on span ends, and all rows of all frames are done at once.


def rectangle_corners(boxes_xywh: ArrayLike) -> Corners:
    """Return the corners (..., 4, 2) of boxes (..., 4), clockwise from the left top."""
    box = np.asarray(boxes_xywh, np.float64)
    left, top = box[..., 0], box[..., 1]
    right, bottom = left + box[..., 2], top + box[..., 3]
    corners = [left, top, right, top, right, bottom, left, bottom]
    return np.stack(corners, axis=-1).reshape(*box.shape[:-1], 4, 2)


def exact_overlap(corners_a: ArrayLike, corners_b: ArrayLike) -> Floats:
    """Return the area overlap (N,) in 0..1 of polygons (N, K, 2), made valid first; 0 where the union has no area."""
    a = shapely.make_valid(shapely.polygons(np.asarray(corners_a, np.float64)))
    b = shapely.make_valid(shapely.polygons(np.asarray(corners_b, np.float64)))
    inter = shapely.area(shapely.intersection(a, b))
    union = shapely.area(a) + shapely.area(b) - inter
    return np.divide(inter, union, out=np.zeros_like(union), where=union > 0)


def counted_overlap(corners_a: ArrayLike, corners_b: ArrayLike, *, bound_wh: tuple[float, float] | None) -> Floats:
    """Return the pixel-count overlap (N,) in 0..1 of quadrilaterals (N, 4, 2), as region.c computes it.

    `bound_wh` cuts both at 0..width and 0..height, None does not. Coordinates become float32 and are rounded to whole
    pixels (halves away from zero), borders are inclusive, so a box of w x h counts (w + 1)(h + 1) pixels. NaN where
    neither region has a pixel, as there.
    """
    a, b = np.asarray(corners_a, np.float32), np.asarray(corners_b, np.float32)
    assert a.shape == b.shape, (a.shape, b.shape)
    assert a.shape[1:] == (4, 2), a.shape
    overlap = np.zeros(len(a))
    grid = _grids(a, b, bound_wh)
    order = np.flatnonzero(grid.possible)
    # Pieces of about equal numbers of rows, so that one tall frame does not decide the memory of all.
    pieces = np.cumsum(grid.height[order]) // _ROWS_AT_ONCE
    for piece in np.unique(pieces):
        picked = order[pieces == piece]
        overlap[picked] = _count(a[picked], b[picked], _Grid(*(field[picked] for field in grid)))
    return overlap


class _Grid(NamedTuple):
    """The pixel grid of each of N pairs of regions: around the part of both that is inside the image."""

    low_xy: NDArray[np.float32]  # (N, 2) image px of the grid's first pixel
    width: Ints  # (N,)
    height: Ints  # (N,)
    possible: NDArray[np.bool_]  # (N,) whether the regions can overlap at all


def _grids(a: NDArray[np.float32], b: NDArray[np.float32], bound_wh: tuple[float, float] | None) -> _Grid:
    """Return the grids of N pairs; float32 throughout, as in region.c."""
    limit = np.array(bound_wh if bound_wh is not None else (np.inf, np.inf), np.float32)
    floor = np.float32(0 if bound_wh is not None else -np.inf)
    low_a, low_b = (np.maximum(np.floor(p.min(axis=1)), floor) for p in (a, b))
    high_a, high_b = (np.minimum(np.ceil(p.max(axis=1)), limit) for p in (a, b))
    low = np.minimum(low_a, low_b)
    size = np.trunc(np.maximum(high_a, high_b) - low).astype(np.int64) + 1  # (N, 2)
    area_a, area_b = (high_a - low_a).prod(axis=1), (high_b - low_b).prod(axis=1)
    common = (np.minimum(high_a, high_b) - np.maximum(low_a, low_b)).prod(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        unlike = (area_a / area_b < MIN_AREA_RATIO) | (area_b / area_a < MIN_AREA_RATIO)
        apart = np.maximum(common / (area_a + area_b - common), 0) == 0
    return _Grid(low, size[:, 0], size[:, 1], ~(unlike | apart) & (size > 0).all(axis=1))


def _count(a: NDArray[np.float32], b: NDArray[np.float32], grid: _Grid) -> Floats:
    """Return the overlap (N,) of N pairs from the spans of all rows of their grids."""
    owner = np.repeat(np.arange(len(a)), grid.height)  # (R,) the pair that each row belongs to
    row = np.arange(len(owner)) - np.repeat(np.cumsum(grid.height) - grid.height, grid.height)
    spans_a, spans_b = (_spans(_whole(p - grid.low_xy[:, None]), owner, row, grid.width) for p in (a, b))
    count = sum(_length(first, last).sum(axis=1) for first, last in (spans_a, spans_b))
    both = sum(
        _length(np.maximum(spans_a[0][:, i], spans_b[0][:, j]), np.minimum(spans_a[1][:, i], spans_b[1][:, j]))
        for i in range(2) for j in range(2)
    )
    inter = np.bincount(owner, weights=both, minlength=len(a))
    union = np.bincount(owner, weights=count, minlength=len(a)) - inter
    with np.errstate(invalid="ignore"):
        return inter / union


def _whole(corners: NDArray[np.float32]) -> Ints:
    """Return corners rounded to whole pixels, halves away from zero, as C's round() does."""
    return np.trunc(corners + np.copysign(np.float32(0.5), corners)).astype(np.int64)


def _length(first: Ints, last: Ints) -> Ints:
    return np.maximum(last - first + 1, 0)


def _spans(corners: Ints, owner: Ints, row: Ints, width: Ints) -> tuple[Ints, Ints]:
    """Return first and last pixel (R, 2) of the at most two spans of each row; an empty span has last < first.

    `corners` (N, 4, 2) in grid px, `owner` (R,) the polygon of each row, `row` (R,) its y, `width` (N,) of the grids.
    """
    first = np.zeros((len(row), 2), np.int64)
    last = np.full((len(row), 2), -1, np.int64)
    low, high = corners.min(axis=1), corners.max(axis=1)
    # Each edge of an upright box lies along an axis: its rows are all the same span, without any crossing to find.
    same = corners == np.roll(corners, -1, axis=1)  # (N, 4, 2) edges that run down (x) or across (y)
    upright = (same.sum(axis=2) == 1).all(axis=1) & (same[:, 0, 0] == same[:, 2, 0]) & (high > low).all(axis=1)
    inside = (low[owner, 1] <= row) & (row <= high[owner, 1])
    simple = np.flatnonzero(inside & upright[owner])
    first[simple, 0] = np.maximum(low[owner[simple], 0], 0)
    last[simple, 0] = np.minimum(high[owner[simple], 0], width[owner[simple]] - 1)
    rest = np.flatnonzero(inside & ~upright[owner])
    first[rest], last[rest] = _crossed_spans(corners[owner[rest]], row[rest], width[owner[rest]])
    return first, last


def _crossed_spans(corners: Ints, row: Ints, width: Ints) -> tuple[Ints, Ints]:
    """Return the spans (R, 2) of rows of any quadrilaterals (R, 4, 2).

    An edge meets every row from its lower to its upper end, both included; horizontal edges meet none. The sorted
    crossings are filled pair by pair; of two equal ones the first is dropped.
    """
    end = np.roll(corners, 1, axis=1)
    rise, run = (end - corners)[..., 1], (end - corners)[..., 0]  # (R, 4)
    y, start_y, end_y = row[:, None], corners[..., 1], end[..., 1]
    met = (np.minimum(start_y, end_y) <= y) & (y <= np.maximum(start_y, end_y)) & (rise != 0)
    # Divided before multiplied, in this order, as in region.c: the last bit decides where a crossing is truncated.
    slope = np.divide(y - start_y, rise, out=np.zeros(rise.shape), where=met)
    at = np.trunc(corners[..., 0] + slope * run).astype(np.int64)
    crossing = np.sort(np.where(met, at, np.iinfo(np.int64).max), axis=1)
    number = met.sum(axis=1)
    first, last = np.zeros((len(row), 2), np.int64), np.full((len(row), 2), -1, np.int64)
    lines, position, filled = np.arange(len(row)), np.zeros(len(row), np.int64), np.zeros(len(row), np.int64)
    for _ in range(3):
        place = np.minimum(position, 2)
        left, right = crossing[lines, place], crossing[lines, place + 1]
        fill = (position < number - 1) & (left != right)
        visible = np.flatnonzero(fill & (left < width) & (right >= 0))
        first[visible, filled[visible]] = np.maximum(left[visible], 0)
        last[visible, filled[visible]] = np.minimum(right[visible], width[visible] - 1)
        filled[visible] += 1
        position += np.where(fill, 2, 1)
    # Two spans may share the pixel where they meet.
    first[:, 1] = np.maximum(first[:, 1], np.where(filled == 2, last[:, 0] + 1, 0))
    return first, last
