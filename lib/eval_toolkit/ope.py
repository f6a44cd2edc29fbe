"""One-pass evaluation: success, precision and normalised precision, as four toolkits define them. Pure functions.

All toolkits share the curves: success over 21 overlap thresholds 0, 0.05 .. 1 with `IoU > t`, precision over 51 centre
distances 0 .. 50 px with `distance <= t`, normalised precision over 51 distances 0 .. 0.5 in units of the target's
size; per sequence first, then the mean over sequences. They part on broken rows, first frames and lengths, which is
what a `Convention` says. Boxes here carry the pixel origin of the annotation file, because that is what decides whether
a row is invalid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence as Items
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Boxes, centres_xywh, iou_xywh

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Written as pysot writes them (np.arange with step 0.05): linspace differs in the last bit at 0.15, 0.3, 0.35 ...
OVERLAP_THRESHOLDS: Floats = np.arange(21, dtype=np.float64) * 0.05
DISTANCE_THRESHOLDS: Floats = np.arange(51, dtype=np.float64)
NORM_DISTANCE_THRESHOLDS: Floats = np.arange(51, dtype=np.float64) / 100
THRESHOLDS: dict[str, Floats] = {"success": OVERLAP_THRESHOLDS, "precision": DISTANCE_THRESHOLDS,
                                 "norm_precision": NORM_DISTANCE_THRESHOLDS, "ao": np.linspace(0, 1, 101)}
"""Of the curves that each score is taken from."""
PRECISION_AT = 20  # index of the reported precision: 20 px, and 0.2 of the target's size for the normalised one

LengthRule = Literal["error", "surplus", "truncate", "fit"]


@dataclass(frozen=True)
class Convention:
    """The choices on which the toolkits part."""

    name: str
    toolkit: str
    invalid_overlap: Literal["any", "size", "never"]
    """A ground-truth row counts as a failure of success when: any value <= 0; width or height <= 0; never."""
    invalid_distance: Literal["any", "centre", "never"]
    """A ground-truth row has no distance when: any value <= 0; its centre <= 0; never."""
    invalid_is_hit: bool  # whether a row without distance counts as a hit of precision (distance -1) or as a miss
    repair: Literal["none", "empty", "nan_or_empty"]
    """Which predicted boxes are replaced by the box before them: none; width or height 0; NaN or size <= 0."""
    refuses_broken_boxes: bool  # whether a predicted NaN or negative size is an error
    first_is_truth: bool  # whether the first predicted box is set to the ground truth
    length: LengthRule
    """A result of another length is: an error; cut where it is longer, else an error; cut, with the ground truth, to
    the shorter; cut or padded with zeros."""
    scores_lead_in: bool  # whether Tiger1 counts with its first 5 frames (354) or without (349)
    drops_zero_curves: bool  # whether a sequence whose whole curve is 0 is left out of the mean


CONVENTIONS: dict[str, Convention] = {convention.name: convention for convention in (
    Convention("pysot", "pysot toolkit", invalid_overlap="size", invalid_distance="centre", invalid_is_hit=True,
               repair="none", refuses_broken_boxes=False, first_is_truth=False, length="error",
               scores_lead_in=False, drops_zero_curves=False),
    Convention("otb", "OTB MATLAB toolkit v1.0", invalid_overlap="any", invalid_distance="any", invalid_is_hit=True,
               repair="nan_or_empty", refuses_broken_boxes=False, first_is_truth=True, length="error",
               scores_lead_in=False, drops_zero_curves=True),
    # calc_seq_err_robust.m, eval_tracker.m and plot_draw_save.m; where the target is absent: see leave_out.
    Convention("lasot", "LaSOT MATLAB toolkit", invalid_overlap="any", invalid_distance="any", invalid_is_hit=True,
               repair="nan_or_empty", refuses_broken_boxes=False, first_is_truth=True, length="surplus",
               scores_lead_in=False, drops_zero_curves=True),
    Convention("got10k", "got10k toolkit", invalid_overlap="never", invalid_distance="never", invalid_is_hit=False,
               repair="none", refuses_broken_boxes=False, first_is_truth=True, length="truncate",
               scores_lead_in=True, drops_zero_curves=False),
    Convention("pytracking", "pytracking", invalid_overlap="any", invalid_distance="any", invalid_is_hit=False,
               repair="empty", refuses_broken_boxes=True, first_is_truth=True, length="fit",
               scores_lead_in=False, drops_zero_curves=False),
)}  # fmt: skip


class FrameErrors(NamedTuple):
    """What each of N frames is judged by; an invalid frame has the value that makes it count as the convention says."""

    overlap: Floats  # (N,) IoU in 0..1; -1 where the frame is a failure whatever was predicted
    distance: Floats  # (N,) px between centres; -1 a sure hit, infinite a sure miss
    norm_distance: Floats  # (N,) the same in units of the target's width and height


def invalid_rows(truth_xywh: Boxes, rule: Literal["any", "size", "centre", "never"]) -> Flags:
    """Return which ground-truth rows (N, 4), 1-based, are invalid by a rule of `Convention`."""
    # pysot's centre is that of inclusive pixels; the half pixel cancels in a distance, not here.
    values = {"any": truth_xywh, "size": truth_xywh[:, 2:], "centre": centres_xywh(truth_xywh) - 0.5,
              "never": truth_xywh[:, :0]}[rule]
    # Written so that NaN, a frame without annotation (UAV123), is not positive either, as in the toolkits.
    return np.asarray(~(values > 0).all(axis=1))


def broken_rows(boxes_xywh: Boxes) -> Flags:
    """Return which predicted rows (N, 4) are no box: a NaN, or a width or height <= 0."""
    return np.asarray(np.isnan(boxes_xywh).any(axis=1) | (boxes_xywh[:, 2:] <= 0).any(axis=1))


def repair_boxes(boxes_xywh: Boxes, convention: Convention) -> tuple[Boxes, int]:
    """Return predicted boxes (N, 4), broken rows but the first replaced by the row before, and how many were."""
    if convention.repair == "none" or not len(boxes_xywh):
        return boxes_xywh, 0
    broken = broken_rows(boxes_xywh) if convention.repair == "nan_or_empty" else (boxes_xywh[:, 2:] == 0).any(axis=1)
    broken[0] = False
    if not broken.any():
        return boxes_xywh, 0
    source = np.maximum.accumulate(np.where(broken, 0, np.arange(len(broken))))
    return boxes_xywh[source], int(broken.sum())


def frame_errors(truth_xywh: Boxes, boxes_xywh: Boxes, convention: Convention) -> FrameErrors:
    """Return what each frame is judged by, of true and predicted boxes (N, 4), 1-based; NaN is a failure and a miss."""
    assert truth_xywh.shape == boxes_xywh.shape, (truth_xywh.shape, boxes_xywh.shape)
    # A negative size gives a meaningless ratio, which every toolkit clips.
    overlap = np.clip(iou_xywh(boxes_xywh, truth_xywh), 0, 1)
    shift = centres_xywh(boxes_xywh) - centres_xywh(truth_xywh)
    with np.errstate(divide="ignore", invalid="ignore"):
        norm_distance = np.hypot(*(shift / truth_xywh[:, 2:]).T)
    distance = np.sqrt((shift**2).sum(axis=1))
    overlap[np.isnan(overlap)] = -1
    distance[np.isnan(distance)] = np.inf
    norm_distance[np.isnan(norm_distance)] = np.inf
    overlap[invalid_rows(truth_xywh, convention.invalid_overlap)] = -1
    invalid = invalid_rows(truth_xywh, convention.invalid_distance)
    distance[invalid] = norm_distance[invalid] = -1 if convention.invalid_is_hit else np.inf
    return FrameErrors(overlap, distance, norm_distance)


def leave_out(errors: FrameErrors, frames: Flags) -> FrameErrors:
    """Return the errors with some frames (N,) as neither success nor hit, whatever was predicted.

    So LaSOT's and pysot's toolkits treat hidden targets: out of the counts, not out of what these are divided by.
    """
    return FrameErrors(np.where(frames, -1, errors.overlap), np.where(frames, np.inf, errors.distance),
                       np.where(frames, np.inf, errors.norm_distance))


def curves(errors: FrameErrors, lengths: Items[int]) -> dict[str, Floats]:
    """Return the curves (S, T) by score, over `THRESHOLDS`, of S sequences that lie one after the other in `errors`.

    Each value is the share of a sequence's frames, 0..1; `lengths`: frames of each.
    """
    assert sum(lengths) == len(errors.overlap), "every frame belongs to one sequence"
    assert min(lengths) > 0, "a sequence without frames has no curve"
    ends = np.cumsum(lengths)[:-1]

    def curve(values: Floats, is_hit: Callable[[Floats], Flags]) -> Floats:
        return np.stack([is_hit(part[:, None]).mean(axis=0) for part in np.split(values, ends)])

    return {"success": curve(errors.overlap, lambda overlap: overlap > OVERLAP_THRESHOLDS),
            "precision": curve(errors.distance, lambda distance: distance <= DISTANCE_THRESHOLDS),
            "norm_precision": curve(errors.norm_distance, lambda distance: distance <= NORM_DISTANCE_THRESHOLDS)}


def mean_curve(per_sequence: Floats, convention: Convention) -> Floats:
    """Return the mean (T,) of curves (S, T) over sequences; zeros when the convention leaves none of them."""
    kept = per_sequence
    if convention.drops_zero_curves:
        kept = per_sequence[per_sequence.sum(axis=1) > np.finfo(float).eps]
    return kept.mean(axis=0) if len(kept) else np.zeros(per_sequence.shape[1])


def average_overlap(overlap: Floats) -> dict[str, float]:
    """Return GOT-10k's scores of overlaps (N,): their mean (AO) and the shares above 0.5 and 0.75 (SR); NaN of none."""
    if not len(overlap):
        return dict.fromkeys(("ao", "sr50", "sr75"), float("nan"))
    return {"ao": float(overlap.mean()), "sr50": float((overlap > 0.5).mean()), "sr75": float((overlap > 0.75).mean())}


def counted_overlaps(
    truth_xywh: Boxes, boxes_xywh: Boxes, *, image_wh: tuple[int, int] | None, absent: Flags | None
) -> Floats:
    """Return the overlaps of a sequence's frames that count for GOT-10k's scores, as the got10k toolkit does.

    The first frame and those without a visible part of the target (`absent`, (N,)) do not count; both boxes, (N, 4),
    are cut at the image's border where its size is known. A NaN in a prediction is an overlap of 0.
    """
    truth, boxes = truth_xywh[1:], boxes_xywh[1:]
    if image_wh is not None:
        truth, boxes = _cut(truth, image_wh), _cut(boxes, image_wh)
    overlap = np.nan_to_num(np.clip(iou_xywh(boxes, truth), 0, 1))
    return overlap if absent is None else overlap[~absent[1:]]


def _cut(boxes_xywh: Boxes, image_wh: tuple[int, int]) -> Boxes:
    """Return boxes cut at the border as the toolkit does: a corner left of the image is moved in, the width kept."""
    corner = np.clip(boxes_xywh[:, :2], 0, image_wh)
    return np.concatenate([corner, np.clip(boxes_xywh[:, 2:], 0, np.array(image_wh) - corner)], axis=1)
