"""Targets of a search crop: which cells are the object's centre, and how far the box's sides are from each cell."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.crops import CLIP_SIZE, ONLINE_STRIDE, STRIDE, grid_points, score_side

RADIUS = 2  # cells: |dx| + |dy| up to this far from the centre cell is the object

Array = NDArray[np.float32]


class Targets(NamedTuple):
    """The targets of one search crop, all float32."""

    cls: Array  # (S, S), 0 or 1
    ltrb: Array  # (4, S, S), px
    weight: Array  # (S, S), 0 or 1


def box_targets(box_xyxy: ArrayLike, *, search_size: int, centre_cell: tuple[int, int] | None = None) -> Targets:
    """Return the targets for an object's box (x1, y1, x2, y2) in search px.

    cls is 1 on the diamond |dx| + |dy| <= 2 cells around `centre_cell` (column, row), by default the cell nearest to
    the box's centre. ltrb are the distances from each grid point to the left, top, right and bottom side, negative
    outside; weight is 1 where all four are > 0 (OCEAN section 4).
    """
    x1, y1, x2, y2 = (float(v) for v in np.asarray(box_xyxy, np.float64))
    points, side = grid_points(search_size).astype(np.float32), score_side(search_size)
    ltrb = np.empty((4, side, side), np.float32)
    ltrb[0] = points - x1
    ltrb[1] = (points - y1)[:, None]
    ltrb[2] = x2 - points
    ltrb[3] = (y2 - points)[:, None]
    inside_x, inside_y = (points > x1) & (points < x2), (points > y1) & (points < y2)
    weight = np.multiply.outer(inside_y, inside_x).astype(np.float32)
    column, row = nearest_cell(box_xyxy, search_size=search_size) if centre_cell is None else centre_cell
    cells = np.arange(side)
    distance = np.abs(cells - column) + np.abs(cells - row)[:, None]
    return Targets((distance <= RADIUS).astype(np.float32), ltrb, weight)


def empty_targets(search_size: int) -> Targets:
    """Return the targets of a search crop that does not show the object: no cell counts."""
    side = score_side(search_size)
    zeros = np.zeros((6, side, side), np.float32)
    return Targets(zeros[0], zeros[1:5], zeros[5])


def centre_label(box_xywh: ArrayLike) -> Array:
    """Return the online classifier's label (18, 18) for a box (x, y, w, h) in px of a crop of 288: a Gaussian.

    Its peak of 1 is at the box's centre / 16, where the classifier's optimiser takes the target to be; DiMP's own is
    half a cell from there for a map of 17 cells. Its deviation is 0.05 of these cells.
    """
    x, y, width, height = (float(v) for v in np.asarray(box_xywh, np.float64))
    side = CLIP_SIZE // ONLINE_STRIDE
    cells, sigma = np.arange(side), 0.05 * (side - 1)
    column, row = (np.exp(-0.5 * ((cells - centre / ONLINE_STRIDE) / sigma) ** 2)
                   for centre in (x + width / 2, y + height / 2))
    return np.outer(row, column).astype(np.float32)


def nearest_cell(box_xyxy: ArrayLike, *, search_size: int) -> tuple[int, int]:
    """Return (column, row) of the grid cell nearest to a box's centre; it may lie off the grid for a far object."""
    x1, y1, x2, y2 = (float(v) for v in np.asarray(box_xyxy, np.float64))
    middle = score_side(search_size) // 2
    offset_x, offset_y = (x1 + x2) / 2 - search_size // 2, (y1 + y2) / 2 - search_size // 2
    return middle + int(np.floor(offset_x / STRIDE + 0.5)), middle + int(np.floor(offset_y / STRIDE + 0.5))


def reference_cell(shift_xy: tuple[float, float], *, search_size: int) -> tuple[int, int]:
    """Return the (column, row) that the reference code takes for the centre: S // 2 + trunc(-shift / 8).

    `shift_xy` is how far the view was moved, in crop px. The view's scale is ignored, which puts the centre 7.9 px off
    on average; kept for comparisons (DATASET.CLS_TARGET: reference).
    """
    middle = score_side(search_size) // 2
    return middle + int(-shift_xy[0] / STRIDE), middle + int(-shift_xy[1] / STRIDE)
