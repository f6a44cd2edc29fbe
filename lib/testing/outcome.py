"""The scores of one checkpoint in the few numbers that a sweep compares, whatever the kind of the test set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.benchmarks import Benchmark
from lib.errors import UserError
from lib.eval_toolkit import got10k
from lib.eval_toolkit.kinds import AVERAGE_OVERLAP, ONE_PASS, kind_of
from lib.eval_toolkit.results import score_tracker
from lib.eval_toolkit.submission import is_submitted
from lib.eval_toolkit.vot_results import score_vot

LESS_IS_BETTER = frozenset({"robustness"})


@dataclass(frozen=True)
class Outcome:
    """Scores of a checkpoint's results."""

    scores: Any  # the scoring toolkit's own record
    values: dict[str, float]  # by name, those first by which the best is chosen
    sequences: int
    expected: int

    @property
    def rank(self) -> tuple[float, ...]:
        """Return what sorts outcomes, the best first."""
        known = {name: value for name, value in self.values.items() if not math.isnan(value)}
        return tuple(math.inf if name not in known else value if name in LESS_IS_BETTER else -value
                     for name, value in self.values.items())


def check_scored_here(dataset: str) -> None:
    """Return if the test set can be scored here; raise UserError if only its authors' server can."""
    if is_submitted(dataset):
        raise UserError(f"--dataset {dataset}: only its server knows the ground truth, so checkpoints cannot be "
                        f"compared on it; use its validation set, and test_ocean.py for the checkpoint to submit")


def score_folder(benchmark: Benchmark, folder: Path, *, convention: str) -> Outcome:
    """Return the scores of a folder of results by the rules of the test set's kind; UserError if it is broken."""
    allow = bool(benchmark.missing)
    values: dict[str, float]
    scores: Any
    if benchmark.protocol == "vot":
        scores = score_vot(benchmark, folder, overlap="counted", allow_missing=allow)
        values = {"eao": scores.eao["all"] or 0.0, "accuracy": scores.accuracy, "robustness": scores.robustness}
    elif kind_of(benchmark.name) is AVERAGE_OVERLAP:
        scores = got10k.score_got10k(benchmark, folder, allow_missing=allow)
        names = ("ao", *(f"sr{100 * threshold:.0f}" for threshold in got10k.SUCCESS_AT))
        values = dict(zip(names, got10k.averages(scores.all_overlaps), strict=True))
    else:
        scores = score_tracker(benchmark, folder, convention=convention, allow_missing=allow)
        values = {"success": scores.success, "precision": scores.precision, "norm_precision": scores.norm_precision}
    return Outcome(scores, values, len(scores.names), scores.expected)


def is_one_pass(dataset: str) -> bool:
    """Return whether the test set has success and precision curves, which leads and the page are made of."""
    return kind_of(dataset) is ONE_PASS
