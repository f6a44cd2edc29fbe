"""From the network's maps to one cell: grid, penalty, window and argmax (OCEAN section 5, steps 2 to 5). Pure numpy.

Everything has a leading B, as many sequences are scored at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lib.crops import grid_points
from lib.tracker.params import TrackerParams

Floats = NDArray[np.float64]


class NonFiniteOutput(ArithmeticError):
    """The network returned NaN or infinity in some `rows` of a batch: no box can be made of it, and none is made up."""

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__("the network returned NaN or infinity")
        self.rows = tuple(rows)


class Prediction(NamedTuple):
    """The network's answer for B search crops, on the host."""

    score: NDArray[np.float32]  # (B, S, S) in 0..1, the object-aware score mixed in
    ltrb: NDArray[np.float32]  # (B, 4, S, S) distances in crop px from a cell's point to the box's sides
    similarity: NDArray[np.float32] | None = None  # (B, S, S) cosine with the template, where the network tells
    second: NDArray[np.float32] | None = None  # (B, S, S) cosine with the second template
    likeness: NDArray[np.float32] | None = None  # (B, S, S) logit of the presence branch, where there is one
    features: Tensor | None = None  # (B, C, S + 6, S + 6) on the device, what the cosines are of


class Peak(NamedTuple):
    """The chosen cell of each of B score maps. Offsets and sizes in search-crop px."""

    offset_xy: Floats  # (B, 2) box centre from the crop's centre
    box_wh: Floats  # (B, 2)
    rate: Floats  # (B,) how far the size follows: penalty * score * lr
    score: Floats  # (B,) 0..1


@lru_cache(maxsize=16)
def cosine_window(side: int) -> Floats:
    """Return the outer product (S, S) of two Hanning windows: the bias towards where the target was."""
    window = np.outer(np.hanning(side), np.hanning(side))
    window.flags.writeable = False
    return window


def padded_side(width: Floats, height: Floats) -> Floats:
    """Return sqrt((w + p)(h + p)), p = (w + h) / 2: the size of a box as the scale penalty sees it."""
    padding = (width + height) / 2
    return np.asarray(np.sqrt((width + padding) * (height + padding)), np.float64)


def change(ratio: Floats) -> Floats:
    """Return max(r, 1 / r) >= 1: how much a ratio differs from 1, either way."""
    return np.maximum(ratio, 1.0 / ratio)


def shape_penalty(box_wh: Floats, target_wh: Floats, *, penalty_k: float) -> Floats:
    """Return the factor (B, S, S) in 0..1 for cells whose box changes scale or aspect (section 5, step 3).

    `box_wh` (B, 2, S, S) and `target_wh` (B, 2) in the same px. exp(-(r_c s_c - 1) penalty_k); an empty box has 0.
    """
    width, height = box_wh[:, 0], box_wh[:, 1]
    target_w, target_h = target_wh[:, 0, None, None], target_wh[:, 1, None, None]
    with np.errstate(divide="ignore", invalid="ignore"):  # exp() in the network can end in an exact 0
        scale_change = change(padded_side(width, height) / padded_side(target_w, target_h))
        aspect_change = change((target_w / target_h) / (width / height))
        penalty = np.exp(-(aspect_change * scale_change - 1.0) * penalty_k)
    return np.where((width > 0) & (height > 0), penalty, 0.0)


def find_peak(prediction: Prediction, target_wh: Floats, *, search_size: int, params: TrackerParams,
              blend: tuple[Floats, Floats] | None = None) -> Peak:
    """Return the best cell of each map (section 5, steps 3 to 5). `target_wh` (B, 2) in search-crop px.

    blend: maps (B, S, S) of the online branch, and their shares (B, 1, 1) in what the cell is chosen by; the rate is
    without them.
    The first in row-major order among equals. Raises NonFiniteOutput, as a NaN would win every argmax.
    """
    score, ltrb = prediction.score.astype(np.float64), prediction.ltrb.astype(np.float64)
    batch, side = score.shape[0], score.shape[-1]
    finite = np.isfinite(score).reshape(batch, -1).all(axis=1) & np.isfinite(ltrb).reshape(batch, -1).all(axis=1)
    if not finite.all():
        raise NonFiniteOutput(np.flatnonzero(~finite).tolist())
    assert score.shape == (batch, side, side), score.shape
    assert ltrb.shape == (batch, 4, side, side), ltrb.shape
    box_wh = ltrb[:, :2] + ltrb[:, 2:]  # (B, 2, S, S): l + r, t + b
    penalty = shape_penalty(box_wh, target_wh, penalty_k=params.penalty_k)
    weighted = penalty * score
    ranking = weighted * (1 - params.window_influence) + cosine_window(side) * params.window_influence
    if blend is not None:
        ranking = blend[1] * blend[0] + (1 - blend[1]) * ranking
    row, column = np.divmod(ranking.reshape(batch, -1).argmax(axis=1), side)
    each = np.arange(batch)
    at = ltrb[each, :, row, column]  # (B, 4)
    points = grid_points(search_size)
    point_xy = np.stack([points[column], points[row]], axis=1)
    return Peak(
        offset_xy=point_xy + (at[:, 2:] - at[:, :2]) / 2 - search_size // 2,
        box_wh=at[:, :2] + at[:, 2:],
        rate=weighted[each, row, column] * params.lr,
        score=score[each, row, column],
    )
