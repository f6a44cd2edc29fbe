"""Presence: the probability that a tracker's box shows its target, from what a frame leaves behind; nothing is trained.

A score map is high wherever something looks like a target, on the wrong runner too. Better witnesses are how much the
features around the found box resemble the template's and a second template's (cosine over the neck's 7 x 7 map), how
much the colours in the box resemble those of the first box (Bhattacharyya's coefficient of two histograms) beside what
they did in the first frames; and whether the box lately went to where another thing, which also looked like the target,
had just been. A logistic model of these, fitted by perf/presence.py on videos with lost and absent targets, makes the
probability. A presence branch (`lib.models.presence`), where a checkpoint has one, is one more witness.

The second template follows a target that turns or is lit otherwise: a slow mean of what confident frames showed, of
which none counts that resembles the first template little, so that it does not follow the box to something else.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.boxes import iou_xywh
from lib.crops import STRIDE, TEMPLATE_SIZE, Image, context_side
from lib.tracker.scoring import Floats, Peak, Prediction

TrackerState = Any  # this and the next are those of lib.tracker.ocean, which builds on this file
SearchCrop = Any
CONFIDENT, RESEMBLES = 0.9, 0.3  # presence and cosine with the first template above which a frame counts for the second
SECOND = 0.2  # its share in that
FADES = 0.99  # what is left of a suspicion in the next frame
SLOW = 0.1  # share of a new frame in what is remembered of score and similarity
LEVEL_FRAMES = 5  # first frames, whose means are the levels that later frames are compared with
TRUSTED = 0.999  # the score's logit is cut at this score and at 1 minus it
VIEWS, GRID = 3, 0.6  # further places looked at in a frame while lost, and their distance in sides of a search crop
COEFFICIENTS = (-1.2184, 0.0945, 0.0278, 3.6418, -2.1439, 4.0994, 3.0107)
"""Bias, and weights of `Trace.evidence`; docs/EXPERIMENTS.md has the command that made them."""
WITHOUT_SIMILARITY = (1.4736, 0.1912, 0.1542, 3.9954, -2.6456)
"""The same without similarity, for a network whose features are out of reach: an exported or a joint one."""
WITH_BRANCH = (-0.5339, 0.0863, 0.0223, 3.8418, -2.1804, 3.5632, 2.5242, 0.1421, 0.1159)
"""The same as the first with the presence branch."""
MODELS = (COEFFICIENTS, WITHOUT_SIMILARITY, WITH_BRANCH)
COLOURS, INNER = 16, 0.9  # steps of each share in a histogram of colours, and the part of the box's sides it is of
APART = 0.1  # overlap below which two boxes show different things
SHARES, DARK = (0.1, 0.6), 16  # range of a share; added to each channel, as the colour of dark px is noise
FINGERPRINT = hashlib.sha256(repr((
    MODELS, CONFIDENT, RESEMBLES, SECOND, FADES, SLOW, LEVEL_FRAMES, TRUSTED, VIEWS, GRID, COLOURS, INNER, APART,
    SHARES, DARK)).encode()).hexdigest()[:12]
"""Of all these numbers: results made with others are told apart by it."""


class Trace(NamedTuple):
    """What speaks for the target in the newest frame, and what is remembered of the frames before."""

    score: float  # logit of the chosen cell's score
    scores: float  # its slow mean
    similarity: float  # mean cosine with both templates at the found box, -1..1; NaN where there are no features
    similarities: float  # its slow mean
    colour: float  # Bhattacharyya's coefficient of the box's colours and those of the first box, 0..1
    colour_level: float  # its mean over the first frames
    frames: int  # so many of them
    suspicion: float = 0.0  # score of the rival whose place the box took; it fades
    likeness: float = math.nan  # logit of the presence branch at the found box, NaN where the network has none
    likenesses: float = math.nan  # its slow mean

    @property
    def evidence(self) -> tuple[float, ...]:
        """Return what the logistic model weighs: scores, colour above its level, suspicion, and what else is known."""
        told = (self.score, self.scores, self.colour - self.colour_level, self.suspicion)
        more = (self.similarity, self.similarities, self.likeness, self.likenesses)
        return told + tuple(value for value in more if math.isfinite(value))

    @property
    def presence(self) -> float:
        """Return the probability that the box shows the target, 0..1."""
        told = self.evidence
        bias, *weights = {len(model): model for model in MODELS}[1 + len(told)]
        return 1 / (1 + math.exp(-bias - sum(weight * value for weight, value in zip(weights, told, strict=True))))

    @property
    def plain(self) -> float:
        """Return the presence as it would be if colours were as usual and all frames like this one."""
        return self._replace(colour=self.colour_level, scores=self.score, similarities=self.similarity,
                             likenesses=self.likeness).presence


class Rival(NamedTuple):
    """What looked most like the target in a frame, but for what was taken for it."""

    score: float  # 0..1
    centre_xy: Floats  # (2,) px of the image


def seen(score: float, similarity: float, colour: float, taken: float, before: Trace | None, *,
         likeness: float = math.nan, alone: bool = False) -> Trace:
    """Return the trace after a frame with this score, 0..1, and so on; before: None on the first tracked frame.

    taken: score of the rival whose place the box took in this frame, 0 where it took none. alone: judge the frame by
    itself, as if all before it had been like it, but for the suspicion.
    """
    score = min(max(score, 1 - TRUSTED), TRUSTED)
    logit = math.log(score / (1 - score))
    if before is None:
        return Trace(logit, logit, similarity, similarity, colour, colour, 1, 0.0, likeness, likeness)
    if alone:
        return before._replace(score=logit, scores=logit, similarity=similarity, similarities=similarity, colour=colour,
                               likeness=likeness, likenesses=likeness)
    rate = 1 / (before.frames + 1) if before.frames < LEVEL_FRAMES else 0.0
    return Trace(
        logit, before.scores + SLOW * (logit - before.scores),
        similarity, before.similarities + SLOW * (similarity - before.similarities),
        colour, before.colour_level + rate * (colour - before.colour_level), before.frames + 1,
        max(FADES * before.suspicion, taken), likeness, before.likenesses + SLOW * (likeness - before.likenesses))


def similarity_map(search: Tensor, *templates: Tensor) -> Tensor:
    """Return the cosines (B, K, S, S), float32, of K template maps (B, C, 7, 7) with each place of a map (B, C, n, n).

    S = n - 6 is the side of the score map: cells are the same places.
    """
    x, z = search.float(), torch.stack([template.float() for template in templates], dim=1)
    batch, side = len(z), z.shape[-1]
    product = F.conv2d(x.reshape(1, -1, *x.shape[2:]), z.flatten(0, 1), groups=batch)[0].unflatten(0, (batch, -1))
    length = F.avg_pool2d(x.square().sum(1, keepdim=True), side, 1).sqrt() * side
    return product / (length * z.flatten(2).norm(dim=2)[..., None, None]).clamp_min(1e-6)


def cell_at(offset_xy: Floats, *, side: int) -> tuple[int, int]:
    """Return row and column, of `side` each, of the cell nearest to an offset (2,) in search px from the centre."""
    column, row = np.clip(np.rint(offset_xy / STRIDE).astype(int) + side // 2, 0, side - 1).tolist()
    return row, column


def second_template(before: TrackerState, prediction: Prediction, cell: tuple[int, int], *, row: int) -> Tensor:
    """Return the second template (1, C, 7, 7) after a confident frame whose box was found at a cell."""
    features, kept = prediction.features, before.second
    assert features is not None
    y, x = cell
    side = features.shape[-1] + 1 - prediction.score.shape[-1]
    shown = features[row : row + 1, :, y : y + side, x : x + side].float()
    kept = before.template.zf.float() / before.template.zf.float().norm() if kept is None else kept
    return torch.lerp(kept, shown / shown.norm().clamp_min(1e-6), SECOND)


def colours_of(pixels: Image, centre_xy: Floats, size_wh: Floats) -> Floats:
    """Return the histogram (COLOURS ** 2,), sum 1, of the colours in a box, of its inner part; at least of one px.

    Of each px the shares of red and green in its sum count, not how bright it is: a light that goes on changes little.
    """
    last = np.array(pixels.shape[1::-1]) - 1
    low, high = (np.clip(np.rint(centre_xy + sign * INNER / 2 * size_wh), 0, last).astype(int) for sign in (-1, 1))
    inside = pixels[low[1] : high[1] + 1, low[0] : high[0] + 1].reshape(-1, 3).astype(np.float32) + DARK
    step = (inside[:, :0:-1] / inside.sum(1, keepdims=True) - SHARES[0]) / (SHARES[1] - SHARES[0]) * COLOURS
    counts = np.bincount(np.clip(step, 0, COLOURS - 1).astype(int) @ (COLOURS, 1), minlength=COLOURS**2)
    return np.asarray(counts / counts.sum(), np.float64)


def rival_of(prediction: Prediction, peak: Peak, *, row: int) -> tuple[float, Floats]:
    """Return the highest score of a box apart from the chosen one, 0 if there is none, and its offset as Peak's."""
    score, (left, top, right, bottom) = prediction.score[row], prediction.ltrb[row].astype(np.float64)
    at = (np.arange(len(score)) - len(score) // 2) * float(STRIDE)
    boxes_xywh = np.stack([at - left, at[:, None] - top, left + right, top + bottom], axis=-1).reshape(-1, 4)
    wh = peak.box_wh[row]
    apart = iou_xywh(boxes_xywh, np.concatenate([peak.offset_xy[row] - wh / 2, wh])[None]) < APART
    cell = int(np.where(apart, score.ravel(), 0.0).argmax())
    return float(apart[cell] * score.ravel()[cell]), boxes_xywh[cell, :2] + boxes_xywh[cell, 2:] / 2


def taken_over(before: TrackerState, centre_xy: Floats) -> float:
    """Return the score of the rival in whose place a box is now, 0 where it is none's.

    It is a rival's when the box has moved by more than half its side and is nearer to where that was than to its own.
    """
    moved = math.dist(centre_xy, before.centre_xy)
    if before.rival is None or before.away or moved < math.sqrt(before.size_wh.prod()) / 2:
        return 0.0
    return before.rival.score if math.dist(centre_xy, before.rival.centre_xy) < moved else 0.0


def judged(before: TrackerState, after: TrackerState, crop: SearchCrop, prediction: Prediction, peak: Peak, *, row: int
           ) -> TrackerState:
    """Return the state after a frame with its presence, from its search crop and row `row` of a batch's answer.

    While the target is lost each frame is judged by itself.
    """
    middle = np.array(crop.pixels.shape[1::-1]) // 2
    colours = colours_of(crop.pixels, peak.offset_xy[row] + middle, peak.box_wh[row])
    first_colours = colours if before.colours is None else before.colours
    cell = cell_at(peak.offset_xy[row], side=prediction.score.shape[-1])
    first, second, likeness = (math.nan if values is None else float(values[row][cell])
                               for values in (prediction.similarity, prediction.second, prediction.likeness))
    trace = seen(after.score, (first + second) / 2, float(np.sqrt(first_colours * colours).sum()),
                 taken_over(before, after.centre_xy), before.trace, likeness=likeness, alone=before.away > 0)
    score, offset_xy = rival_of(prediction, peak, row=row)
    rival = Rival(score, before.centre_xy + offset_xy / crop.scale)
    confident = trace.presence > CONFIDENT and first > RESEMBLES
    return replace(after, trace=trace, presence=trace.presence, colours=first_colours, rival=rival,
                   second=second_template(before, prediction, cell, row=row) if confident else before.second)


def views(state: TrackerState, image: Image) -> list[TrackerState]:
    """Return the places in which a target is looked for, as states: where it was, and while it is lost VIEWS others.

    They lie on a grid over the whole picture and are taken from near to far, further out with each frame, then anew.
    """
    if not state.away:
        return [state]
    side = context_side(state.size_wh) * state.search_size / TEMPLATE_SIZE * GRID
    axes = [np.linspace(0, length, 2 * math.ceil(length / side / 2) + 1)[1::2] if length > side else [length / 2]
            for length in (image.shape[1], image.shape[0])]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    far = grid[np.argsort(np.hypot(*(grid - state.centre_xy).T), kind="stable")]
    reach = min(len(far), VIEWS * state.away)
    picked = [far[(VIEWS * (state.away - 1) + place) % reach] for place in range(min(VIEWS, reach))]
    return [state, *(replace(state, centre_xy=centre_xy) for centre_xy in picked)]


def settled(before: TrackerState, found: Sequence[TrackerState], *, lost_below: float) -> TrackerState:
    """Return the state after a frame, given what was found in each of `views`: the most likely one, or none of them.

    While presence is below `lost_below` the box rests, unless only colours speak against it: a light may have gone on.
    A lost target counts as found elsewhere when presence is confident there, above the middle between `lost_below` and
    1, and higher than where the target was without the colours, too. Suspicion ends with that.
    """
    here = found[0]
    sure = (1 + lost_below) / 2
    if here.presence >= lost_below:
        return replace(here, away=0)
    elsewhere = [state for state in found[1:]
                 if state.presence >= max(sure, CONFIDENT) and state.trace.plain > here.trace.plain]
    if elsewhere:
        best = max(elsewhere, key=lambda state: state.presence)
        return replace(best, trace=best.trace._replace(suspicion=0.0), away=0)
    kept = here if here.trace.plain >= sure else replace(before, trace=here.trace, score=here.score)
    return replace(kept, presence=here.presence, away=before.away + 1)
