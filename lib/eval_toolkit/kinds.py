"""Which scores a benchmark has, one-pass evaluation or VOT's restart protocol: the one place that tells them apart."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.benchmarks import Benchmark, layout_of, protocol_of
from lib.errors import UserError
from lib.eval_toolkit import got10k, report, vot_report
from lib.eval_toolkit.ope import DEFAULT_CONVENTION
from lib.eval_toolkit.results import OPEScores, score_tracker
from lib.eval_toolkit.vot_results import VOTScores, score_vot


@dataclass(frozen=True)
class Kind:
    """How trackers are scored and how scores are shown. The scores of one kind are of one type."""

    options: frozenset[str]
    """Names of the scoring options that mean something here; another one that is given is a mistake."""
    score: Callable[[Benchmark, Path, Namespace, int | None], Any]
    """Scores of the results in a tracker's folder, with the command's options and the origin of its files."""
    render: Callable[..., str]
    remarks: Callable[[Benchmark, Sequence[Any]], list[str]]
    save_plots: Callable[..., list[Path]]


def _score_ope(benchmark: Benchmark, folder: Path, args: Namespace, origin: int | None) -> OPEScores:
    convention = args.convention or default_convention(benchmark.name)
    return score_tracker(benchmark, folder, convention=convention, length=args.length, origin=origin,
                         allow_missing=args.allow_missing)


def _score_vot(benchmark: Benchmark, folder: Path, args: Namespace, _origin: int | None) -> VOTScores:
    return score_vot(benchmark, folder, overlap=args.overlap or "counted", allow_missing=args.allow_missing)


def _score_got10k(benchmark: Benchmark, folder: Path, args: Namespace, origin: int | None) -> got10k.AOScores:
    return got10k.score_got10k(benchmark, folder, origin=origin, allow_missing=args.allow_missing)


def _save_ope_plots(folder: Path, scores: Sequence[OPEScores], *, dataset: str) -> list[Path]:
    # Imported here: matplotlib takes half a second that only plots need.
    from lib.eval_toolkit.plots import save_plots

    return save_plots(folder, scores, dataset=dataset)


ONE_PASS = Kind(frozenset({"convention", "length", "origin", "html", "embed"}), _score_ope, report.render,
                report.remarks, _save_ope_plots)
RESTART = Kind(frozenset({"overlap"}), _score_vot, vot_report.render, vot_report.remarks, vot_report.save_plots)


AVERAGE_OVERLAP = Kind(frozenset({"origin"}), _score_got10k, got10k.render, got10k.remarks, got10k.save_plots)


def kind_of(dataset: str) -> Kind:
    """Return how the benchmark of this name is scored."""
    return {"vot": RESTART, "got10k": AVERAGE_OVERLAP}.get(protocol_of(dataset), ONE_PASS)


def default_convention(dataset: str) -> str:
    """Return the convention of one-pass evaluation for a benchmark: its own toolkit's where that is known."""
    layout = layout_of(dataset)
    return DEFAULT_CONVENTION if layout is None else layout.convention


def check_options(dataset: str, args: Namespace) -> None:
    """Raise UserError for a scoring option that means nothing on this benchmark."""
    every = ONE_PASS.options | RESTART.options | AVERAGE_OVERLAP.options
    for name in sorted(every - kind_of(dataset).options):
        if getattr(args, name):
            raise UserError(f"--{name}: means nothing for {dataset}; leave it out "
                            f"(here: {', '.join(f'--{known}' for known in sorted(kind_of(dataset).options))})")
