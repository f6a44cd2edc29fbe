"""Boxes as numpy arrays: formats, overlap, distance.

A box array is float64 (..., 4); its name carries its format. Origin 0: a box (x, y, w, h) covers x .. x + w, so
x2 = x1 + w. Pixel origins of file formats are the business of `lib.benchmarks` alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Boxes = NDArray[np.float64]


def xywh_to_xyxy(boxes_xywh: ArrayLike) -> Boxes:
    """Return boxes (..., 4) as left, top, right, bottom from left, top, width, height."""
    box = np.asarray(boxes_xywh, np.float64)
    return np.concatenate([box[..., :2], box[..., :2] + box[..., 2:]], axis=-1)


def xyxy_to_xywh(boxes_xyxy: ArrayLike) -> Boxes:
    """Return boxes (..., 4) as left, top, width, height from left, top, right, bottom."""
    box = np.asarray(boxes_xyxy, np.float64)
    return np.concatenate([box[..., :2], box[..., 2:] - box[..., :2]], axis=-1)


def centres_xywh(boxes_xywh: ArrayLike) -> Boxes:
    """Return the centres (..., 2) of boxes given as left, top, width, height."""
    box = np.asarray(boxes_xywh, np.float64)
    return box[..., :2] + box[..., 2:] / 2


def iou_xywh(boxes_a: ArrayLike, boxes_b: ArrayLike) -> NDArray[np.float64]:
    """Return the overlap (...,) in 0..1 of boxes (..., 4) given as left, top, width, height, with broadcasting.

    Intersection over union; 0 where the union is empty, NaN where a box holds one. Negative sizes have no meaning here.
    """
    a, b = np.asarray(boxes_a, np.float64), np.asarray(boxes_b, np.float64)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    side = np.maximum(high - low, 0)
    inter = side[..., 0] * side[..., 1]
    union = a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - inter
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(union == 0, 0.0, inter / union)


def polygon_to_xywh(polygons: ArrayLike) -> Boxes:
    """Return the axis-aligned boxes (..., 4) as left, top, width, height that stand for polygons (..., 2k), k >= 3.

    The box has the polygon's vertex mean as centre and the aspect of its bounding box, scaled by
    sqrt(|p1 p2| |p2 p3| / bounding area), so that a rotated rectangle keeps its area: the rule of the VOT challenge's
    baseline trackers and of the pysot toolkit. That rule adds 1 px to each side, for inclusive pixel coordinates.
    A polygon with an empty bounding box gives a box of 1 px.
    """
    points = np.asarray(polygons, np.float64)
    points = points.reshape(*points.shape[:-1], -1, 2)
    centre = points.mean(axis=-2)
    extent = points.max(axis=-2) - points.min(axis=-2)
    sides = np.linalg.norm(np.diff(points[..., :3, :], axis=-2), axis=-1)
    area = extent[..., 0] * extent[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(area > 0, np.sqrt(sides[..., 0] * sides[..., 1] / area), 0.0)
    size = extent * scale[..., None] + 1
    return np.concatenate([centre - size / 2, size], axis=-1)
