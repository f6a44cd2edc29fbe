"""Crop geometry: the context square, the sub-window a tracker looks at, the 511 px training crop, its views, the grid.

The one place that knows how image pixels become patch pixels, and score cells search pixels. Images are uint8
(H, W, 3), BGR.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lib.boxes import Boxes

Image = NDArray[np.uint8]

CONTEXT = 0.5  # share of (w + h) added to each side: SiamFC (Bertinetto et al. 2016), kept by every tracker after it
TEMPLATE_SIZE = 127  # px that the context square is scaled to
CROP_SIZE = 511  # side of a prepared training crop, px
STRIDE = 8  # search px from one cell of the score map to the next (OCEAN section 1)
CLIP_SIZE = 288  # side of a crop that the online classifier is trained on, px; it shows 5 sqrt(w h) of the target
CLIP_AREA = 5.0
ONLINE_STRIDE = 16  # px from one cell of the online classifier's maps to the next (ONLINE section 1)


def context_side(size_wh: ArrayLike) -> float:
    """Return s_z = sqrt((w + p)(h + p)) px, p = 0.5 (w + h): an object with its context (SiamFC; OCEAN section 1)."""
    width, height = (float(side) for side in np.asarray(size_wh, np.float64))
    padding = CONTEXT * (width + height)
    return math.sqrt((width + padding) * (height + padding))


def mean_colour(image: Image) -> NDArray[np.float64]:
    """Return the mean of each channel (3,), 0..255, of an image: the colour of everything outside the picture."""
    return np.asarray(cv2.mean(image)[:3], np.float64)


def subwindow(
    image: Image, centre_xy: ArrayLike, *, side: int, out_size: int, fill: ArrayLike
) -> NDArray[np.uint8]:
    """Return the square patch (out_size, out_size, 3) that shows `side` image px around a centre.

    With c = (side + 1) / 2 the patch starts at round(centre - c), halves to even; px outside the image take `fill`
    (3,) truncated to uint8; a patch of another size is resized bilinearly (OCEAN section 5, step 1). Only the part
    inside the image is copied. A patch wholly outside is all `fill`.
    """
    assert side >= 1, side
    height, width = image.shape[:2]
    # np.round takes halves to the even side; int(x + 0.5) would move every second patch by a pixel.
    left, top = (int(v) for v in np.round(np.asarray(centre_xy, np.float64) - (side + 1) / 2))
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
    if x1 == left and y1 == top and x2 == left + side and y2 == top + side:
        patch = image[y1:y2, x1:x2]
    else:
        patch = np.empty((side, side, 3), np.uint8)
        patch[:] = np.asarray(fill, np.float64).astype(np.uint8)
        if x2 > x1 and y2 > y1:
            patch[y1 - top : y2 - top, x1 - left : x2 - left] = image[y1:y2, x1:x2]
    if side != out_size:
        return np.asarray(cv2.resize(patch, (out_size, out_size)), np.uint8)
    return np.ascontiguousarray(patch)


def crop_square(box_xyxy: ArrayLike) -> Boxes:
    """Return the square (4,), image px, that a box's training crop shows: side s_z 511 / 127 (OCEAN section 4)."""
    box = np.asarray(box_xyxy, np.float64)
    centre = (box[:2] + box[2:]) / 2
    half = context_side(box[2:] - box[:2]) * (1 + (CROP_SIZE - TEMPLATE_SIZE) / TEMPLATE_SIZE) / 2
    return np.concatenate([centre - half, centre + half])


def crop511(image: Image, box_xyxy: ArrayLike, *, fill: ArrayLike) -> NDArray[np.uint8]:
    """Return the training crop (511, 511, 3) around a box in image px; px outside the image take `fill`."""
    matrix, colour = view_matrix(crop_square(box_xyxy), out_size=CROP_SIZE), np.asarray(fill, np.float64).tolist()
    crop = cv2.warpAffine(image, matrix, (CROP_SIZE, CROP_SIZE), borderMode=cv2.BORDER_CONSTANT, borderValue=colour)
    return np.asarray(crop, np.uint8)


def box_in_crop511(size_wh: ArrayLike) -> Boxes:
    """Return the box (x1, y1, x2, y2) of an object of (w, h) image px in its own crop, scaled by 127 / s_z."""
    width, height = (float(side) for side in np.asarray(size_wh, np.float64))
    middle, half = CROP_SIZE // 2, TEMPLATE_SIZE / context_side(size_wh) / 2
    return np.array([middle - width * half, middle - height * half, middle + width * half, middle + height * half])


def view_matrix(view_xyxy: ArrayLike, *, out_size: int) -> NDArray[np.float64]:
    """Return the affine matrix (2, 3) that maps a view's px to patch px.

    (out_size - 1) / (x2 - x1) per axis from the view's left edge: the left edge falls on px 0 and the right one on px
    out_size - 1 (OCEAN section 4; the reference's crop_hwc).
    """
    x1, y1, x2, y2 = (float(v) for v in np.asarray(view_xyxy, np.float64))
    a, b = (out_size - 1) / (x2 - x1), (out_size - 1) / (y2 - y1)
    return np.array([[a, 0.0, -a * x1], [0.0, b, -b * y1]])


def compose(outer: NDArray[Any], inner: NDArray[Any]) -> NDArray[np.float64]:
    """Return the affine matrices (..., 2, 3) that apply `inner` first and `outer` after it."""
    out = outer[..., :2] @ inner
    out[..., 2] += outer[..., 2]
    return np.asarray(out)


def transform_box(box_xyxy: ArrayLike, matrix: ArrayLike) -> Boxes:
    """Return the axis-aligned hull (x1, y1, x2, y2) of a box's corners under an affine matrix (2, 3)."""
    x1, y1, x2, y2 = (float(v) for v in np.asarray(box_xyxy, np.float64))
    (a, b, c), (d, e, f) = np.asarray(matrix, np.float64).tolist()
    # The extremes of a x and b y are each at one of two values: no need to map four corners.
    (ax, ax2), (by, by2) = sorted((a * x1, a * x2)), sorted((b * y1, b * y2))
    (dx, dx2), (ey, ey2) = sorted((d * x1, d * x2)), sorted((e * y1, e * y2))
    return np.array([ax + by + c, dx + ey + f, ax2 + by2 + c, dx2 + ey2 + f])


def score_side(search_size: int) -> int:
    """Return S, the side of the score map of a search crop: 25 for 255 px, 27 for 271, 29 for 287 (OCEAN section 1)."""
    return (search_size - TEMPLATE_SIZE) // STRIDE + 1 + 8


@lru_cache(maxsize=16)
def grid_points(search_size: int) -> NDArray[np.float64]:
    """Return the search px (S,) of the score map's cells, the same for x and y. Shared: not to be written to."""
    side = score_side(search_size)
    points = cells_to_px(np.arange(side, dtype=np.float64), side=side, search_size=search_size)
    points.flags.writeable = False
    return points


def cells_to_px(cells: Any, *, side: int, search_size: int) -> Any:
    """Return the search px of cell numbers (array or tensor) along an axis: (i - side // 2) * 8 + search_size // 2."""
    return (cells - side // 2) * STRIDE + search_size // 2
