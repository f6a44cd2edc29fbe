"""How far two trackers' scores differ, given that a benchmark is a sample of sequences: the paired bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lib.eval_toolkit.ope import PRECISION_AT, Floats
from lib.eval_toolkit.results import OPEScores

RESAMPLES = 10_000
LEVEL = 0.95
METRICS = ("success", "precision")


class Difference(NamedTuple):
    """Score of `first` minus score of `second`, with the bootstrap interval (percentiles) of that difference."""

    first: str
    second: str
    metric: str
    value: float
    low: float
    high: float
    sequences: int
    """Number of sequences that both were scored on, which the difference is taken over."""

    @property
    def is_clear(self) -> bool:
        """Return whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def paired_differences(
    scores: Sequence[OPEScores], *, metric: str, resamples: int = RESAMPLES, seed: int = 0
) -> list[Difference]:
    """Return the difference of every pair of trackers, in the order of `scores`, over the sequences all have in common.

    Sequences are drawn with replacement, the same ones for both trackers of a pair, and the scores recomputed on each
    draw; the interval holds the middle 95% of the differences. [] when no sequence is common to all.
    """
    values, kept = _common_values(scores, metric=metric)
    count = values.shape[1]
    if not count:
        return []
    weights = _draws(count, resamples, seed)
    # A convention that drops sequences that failed wholly takes its mean over the others, in each draw anew.
    drawn = _means(weights @ (values * kept).T, weights @ kept.T)  # (resamples, T)
    whole = _means((values * kept).sum(axis=1), kept.sum(axis=1))  # (T,)
    tail = (1 - LEVEL) / 2
    found = []
    for i, first in enumerate(scores):
        for j in range(i + 1, len(scores)):
            low, high = np.quantile(drawn[:, i] - drawn[:, j], [tail, 1 - tail])
            found.append(Difference(first.tracker, scores[j].tracker, metric, float(whole[i] - whole[j]), float(low),
                                    float(high), count))
    return found


def _common_values(scores: Sequence[OPEScores], *, metric: str) -> tuple[Floats, Floats]:
    """Return the score of each tracker on each sequence that all were scored on, and if it counts (1 or 0), (T, S)."""
    assert metric in METRICS, metric
    shared = set(scores[0].names).intersection(*(s.names for s in scores))
    common = [name for name in scores[0].names if name in shared]
    values, kept = np.empty((len(scores), len(common))), np.ones((len(scores), len(common)))
    for row, s in enumerate(scores):
        place = {name: index for index, name in enumerate(s.names)}
        curves = (s.curves.success if metric == "success" else s.curves.precision)[[place[name] for name in common]]
        values[row] = curves.mean(axis=1) if metric == "success" else curves[:, PRECISION_AT]
        if s.convention.drops_zero_curves:
            kept[row] = curves.sum(axis=1) > 0
    return values, kept


def _means(total: Floats, number: Floats) -> Floats:
    """Return total / number, 0 where nothing was counted."""
    return np.divide(total, number, out=np.zeros_like(total), where=number > 0)


@lru_cache(maxsize=4)
def _draws(count: int, resamples: int, seed: int) -> Floats:
    """Return how often each of `count` sequences is drawn in each resample, (resamples, count)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
