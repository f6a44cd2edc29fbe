"""Overlap of a rotated ground truth with a result, as the VOT toolkits count it: in whole pixels, inside the image.

The scores of VOT2015-2019 were made with a rasterised overlap (region.c of the TraX library, which the MATLAB toolkit
and the pysot toolkit share): both polygons are drawn on a pixel grid and pixels are counted. The exact area ratio
differs by 0.008 per frame (0.001 less on average) and moves the third digit of a score, so the counted one is the
default for scoring and the exact one (shapely) is there for comparison and for the test protocol, where only "zero or
not" matters.

Nothing is really drawn: a row of a quadrilateral is at most two spans of pixels, so the count of a row is arithmetic on
span ends, and all rows of all frames are done at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

Corners = NDArray[np.float64]  # corner points (..., 4, 2) of quadrilaterals, x and y in image px
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_AREA_RATIO = 1e-10  # regions whose bounding boxes differ more in area have overlap 0 (a guard of region.c)
_ROWS_AT_ONCE = 100_000  # pixel rows handled together: bounds the memory to some 30 MB


def rectangle_corners(boxes_xywh: ArrayLike) -> Corners:
    """Return the corners (..., 4, 2) of boxes (..., 4), clockwise from the left top."""
    box = np.asarray(boxes_xywh, np.float64)
    left, top = box[..., 0], box[..., 1]
    right, bottom = left + box[..., 2], top + box[..., 3]
    corners = [left, top, right, top, right, bottom, left, bottom]
    return np.stack(corners, axis=-1).reshape(*box.shape[:-1], 4, 2)


def exact_overlap(corners_a: ArrayLike, corners_b: ArrayLike) -> Floats:
    """Return the area overlap (N,) in 0..1 of polygons (N, K, 2), by shapely; 0 where the union has no area.

    A polygon that crosses itself is first made valid, which keeps its even-odd area.
    """
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

    `corners` (N, 4, 2) in grid px, `owner` (R,) the polygon each row belongs to, `row` (R,) its y, `width` (N,) of the
    grids.
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
