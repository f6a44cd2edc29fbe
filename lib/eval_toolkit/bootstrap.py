"""How far two trackers' scores differ, given that a benchmark is a sample of sequences: the paired bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lib.eval_toolkit.ope import Floats
from lib.eval_toolkit.protocols import ScoreSummary

RESAMPLES = 10_000
LEVEL = 0.95
METRICS = ("success", "precision")
FEWEST = 10
"""Sequences below which there is no interval: so few, drawn again and again, vary less than the benchmark does."""


class Difference(NamedTuple):
    """Score of `first` minus score of `second`, with the bootstrap interval (percentiles) of that difference."""

    first: str
    second: str
    metric: str
    value: float
    low: float | None  # None where the sequences are fewer than `FEWEST`, and so is `high`
    high: float | None
    sequences: int  # number of sequences that both were scored on, which the difference is taken over

    @property
    def is_clear(self) -> bool:
        """Return whether there is an interval and it leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def interval(self) -> str:
        """Return the interval in words."""
        if self.low is None:
            return f"too few sequences (under {FEWEST})"
        return f"{self.low:+.3f} .. {self.high:+.3f}{'' if self.is_clear else ' (no clear difference)'}"


def paired_differences(scores: Sequence[ScoreSummary], *, metric: str) -> list[Difference]:
    """Return the difference of every pair of trackers, in the order of `scores`, over the sequences all have in common.

    Sequences are drawn with replacement, the same ones for both trackers of a pair, and the scores recomputed on each
    draw; the interval holds the middle 95% of the differences. [] without a common sequence or without this score.
    """
    values, kept = _common_values(scores, metric=metric)
    count = values.shape[1]
    if not count:
        return []
    # A convention that drops sequences that failed wholly takes its mean over the others, in each draw anew.
    whole = _means((values * kept).sum(axis=1), kept.sum(axis=1))  # (T,)
    weights = _draws(count)
    drawn = _means(weights @ (values * kept).T, weights @ kept.T)  # (RESAMPLES, T)
    tail = (1 - LEVEL) / 2
    found = []
    for i, first in enumerate(scores):
        for j in range(i + 1, len(scores)):
            low, high = (None, None) if count < FEWEST else map(
                float, np.quantile(drawn[:, i] - drawn[:, j], [tail, 1 - tail]))
            found.append(Difference(first.tracker, scores[j].tracker, metric, float(whole[i] - whole[j]), low, high,
                                    count))
    return found


def _common_values(scores: Sequence[ScoreSummary], *, metric: str) -> tuple[Floats, Floats]:
    """Return the score of each tracker on each sequence that all were scored on, and if it counts (1 or 0), (T, S)."""
    assert metric in METRICS, metric
    shared = set.intersection(*(set(s.names) if metric in s.by_sequence else set() for s in scores))
    values, kept = np.empty((len(scores), len(shared))), np.ones((len(scores), len(shared)))
    for row, s in enumerate(scores):
        place = {name: index for index, name in enumerate(s.names)}
        picked = [place[name] for name in scores[0].names if name in shared]
        values[row] = s.by_sequence[metric][picked] if picked else []
        if s.dropped and picked:
            kept[row] = ~s.dropped[metric][picked]
    return values, kept


def _means(total: Floats, number: Floats) -> Floats:
    """Return total / number, 0 where nothing was counted."""
    return np.divide(total, number, out=np.zeros_like(total), where=number > 0)


@lru_cache(maxsize=4)
def _draws(count: int) -> Floats:
    """Return how often each of `count` sequences is drawn in each resample, (RESAMPLES, count)."""
    rng = np.random.default_rng(0)
    return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)
