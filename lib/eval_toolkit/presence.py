"""How well a tracker's presence tells frames in which its target is lost from those in which it is held.

Presence is the tracker's own probability that its box shows the target, one number per frame. A frame is lost where the
target is absent or the box overlaps it by less than `LOST_BELOW`. "Lost" is what is to be found: a frame whose presence
lies below the threshold is an alarm, precision is the share of alarms that are right, recall the share of lost frames
that are found. The first frame is given and counts nowhere. Where a data set labels absence there are also the
measures of the long-term benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence as Items
from typing import NamedTuple

import numpy as np

from lib.boxes import iou_xywh
from lib.eval_toolkit.ope import Flags, Floats, invalid_rows
from lib.eval_toolkit.results import Rows

LOST_BELOW = 0.1  # overlap below which a target counts as lost
THRESHOLD = 0.5  # presence below which a frame is called lost; fixed before anything was measured
BINS = 10
OXUVA_OVERLAP = 0.5


class Frames(NamedTuple):
    """What N frames are judged by."""

    presence: Floats  # (N,) 0..1
    overlap: Floats  # (N,) 0..1; 0 where the target is absent
    absent: Flags  # (N,)

    @property
    def lost(self) -> Flags:
        """Return which frames are lost, (N,)."""
        return self.absent | (self.overlap < LOST_BELOW)


def frames_of(rows: Rows) -> Frames | None:
    """Return the frames that can be judged, without the first and those with no annotation; None without presence."""
    if rows.presence is None:
        return None
    after = slice(rows.lead_in + 1, None)
    truth, boxes, absent = rows.truth[after], rows.boxes[after], rows.absent[after]
    known = absent | ~invalid_rows(truth, "size")
    overlap = np.where(absent, 0.0, np.nan_to_num(np.clip(iou_xywh(boxes, truth), 0, 1)))
    return Frames(rows.presence[1 : 1 + len(truth)][known], overlap[known], absent[known])


def joined(parts: Items[Frames]) -> Frames:
    """Return the frames of several sequences as one."""
    return Frames(*map(np.concatenate, zip(*parts, strict=True)))


def judge(frames: Frames) -> dict[str, float]:
    """Return "auroc", "lost_precision" and "lost_recall" at `THRESHOLD`, "calibration_error": 0..1, NaN of nothing.

    The calibration error is the mean distance of the reliability curve from the diagonal, by frames (Guo et al. 2017).
    """
    lost, alarm = frames.lost, frames.presence < THRESHOLD
    mean, held, count = reliability(frames)
    filled = count > 0
    gap = float((count * np.abs(mean - held))[filled].sum() / max(count.sum(), 1)) if filled.any() else np.nan
    return {"auroc": auroc(frames.presence, lost), "lost_precision": _share(lost & alarm, alarm),
            "lost_recall": _share(lost & alarm, lost), "calibration_error": gap}


def auroc(presence: Floats, lost: Flags) -> float:
    """Return the chance that a held frame has a higher presence than a lost one, ties one half; NaN without both."""
    held, others = presence[~lost], np.sort(presence[lost])
    if not len(held) or not len(others):
        return float("nan")
    wins = np.searchsorted(others, held, side="left") + np.searchsorted(others, held, side="right")
    return float(wins.sum() / (2 * len(held) * len(others)))


def reliability(frames: Frames) -> tuple[Floats, Floats, Floats]:
    """Return for each of BINS equal bins of presence: its mean, the share of held frames (NaN of none), the frames."""
    place = np.minimum((frames.presence * BINS).astype(int), BINS - 1)
    count = np.bincount(place, minlength=BINS).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return (np.bincount(place, frames.presence, BINS) / count, np.bincount(place, ~frames.lost, BINS) / count,
                count)


def long_term(parts: Items[Frames]) -> dict[str, float]:
    """Return VOT-LT's precision, recall and F-score, and OxUvA's TPR, TNR and MaxGM, of sequences of frames.

    VOT-LT (Lukezic et al. 2018, equations 1 to 3): precision is the mean overlap over frames whose presence reaches a
    threshold, recall the sum of the same over the number of frames with target, both the mean over sequences; the score
    is the highest F over the percentiles of presence as thresholds, and precision and recall are those at it. A
    sequence without such a frame has precision 1 and recall 0, as in the vot-toolkit. OxUvA (Valmadre et al. 2018), at
    `THRESHOLD`: TPR is the share of frames with target that are called held with an overlap of 0.5 or more, TNR that of
    absent ones called lost, MaxGM the highest geometric mean when answers are turned to "lost" at random with some
    chance p. NaN where nothing is absent, or nothing else.
    """
    best = (0.0, 0.0, 0.0)
    whole = joined(parts)
    for threshold in np.unique(np.quantile(whole.presence, np.linspace(0, 1, 101), method="nearest")):
        precision, recall = np.mean([_at(part, threshold) for part in parts], axis=0)
        best = max(best, (2 * precision * recall / max(precision + recall, 1e-12), precision, recall))
    called, there = whole.presence >= THRESHOLD, ~whole.absent
    true_positive = _share(called & there & (whole.overlap >= OXUVA_OVERLAP), there)
    true_negative = _share(~called & whole.absent, whole.absent)
    return {"lt_f": float(best[0]), "lt_precision": float(best[1]), "lt_recall": float(best[2]), "tpr": true_positive,
            "tnr": true_negative, "max_gm": max_geometric_mean(true_positive, true_negative)}


def _share(picked: Flags, of: Flags) -> float:
    """Return how many of some frames are picked, 0..1, NaN where there are none of them."""
    return float(picked.sum() / of.sum()) if of.any() else float("nan")


def _at(frames: Frames, threshold: float) -> tuple[float, float]:
    told = frames.presence >= threshold
    total = float(frames.overlap[told].sum())
    return total / told.sum() if told.any() else 1.0, total / max(int((~frames.absent).sum()), 1)


def max_geometric_mean(true_positive: float, true_negative: float) -> float:
    """Return the highest sqrt((1 - p) TPR ((1 - p) TNR + p)) over 0 <= p <= 1 (OxUvA, equation 2).

    With q = 1 - p that is sqrt(TPR (q - q^2 (1 - TNR))), whose top lies at q = 1 / (2 (1 - TNR)) where that is below 1.
    """
    kept = min(1.0, 0.5 / max(1 - true_negative, 1e-12))
    return float(np.sqrt(true_positive * (kept - kept**2 * (1 - true_negative))))


def presence_by_sequence(rows: Mapping[str, Rows]) -> dict[str, Frames]:
    """Return the frames of each sequence that has presence and frames to be judged, by its name."""
    judged = {name: frames_of(row) for name, row in rows.items()}
    return {name: frames for name, frames in judged.items() if frames is not None and len(frames.presence)}


def presence_scores(parts: Items[Frames]) -> dict[str, float]:
    """Return what `judge` says of sequences as one, and `long_term` where the target is absent in one of them."""
    whole = joined(parts)
    return judge(whole) | (long_term(parts) if whole.absent.any() else {})
