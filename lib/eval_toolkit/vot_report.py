"""What the scores of the restart protocol look like: tables, what must be said beside them, the JSON record, a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib.benchmarks import Benchmark
from lib.eval_toolkit.results import listed
from lib.eval_toolkit.tables import Cell, Table, as_csv, as_latex, as_markdown, as_text
from lib.eval_toolkit.vot import BURN_IN, TAGS
from lib.eval_toolkit.vot_results import VOTScores

_TITLES = {"camera_motion": "Camera motion", "illum_change": "Illumination", "motion_change": "Motion",
           "size_change": "Size", "occlusion": "Occlusion", "empty": "Empty (pysot)",
           "no_attribute": "No attribute"}  # fmt: skip
_CSV_COLUMNS = ("tracker", "scope", "name", "eao", "accuracy", "robustness", "lost_number", "videos", "expected",
                "frames", "overlap", "tuned_on")
_OVERLAPS = {"counted": "counted in pixels, as the pysot toolkit and TraX do", "exact": "exact areas (shapely)"}


def render(benchmark: Benchmark, scores: Sequence[VOTScores], *, form: str, by_sequence: bool = False) -> str:
    """Return the scores as "text", "markdown", "latex", "csv" or "json"; CSV and JSON always hold everything.

    Trackers come in descending order of EAO.
    """
    ranked = rank(scores)
    if form == "json":
        return json.dumps(to_json(benchmark, ranked), indent=1, allow_nan=False) + "\n"
    if form == "csv":
        return as_csv(_CSV_COLUMNS, _csv_rows(ranked))
    tables = [_summary(ranked), _by_attribute(ranked), *([_by_video(ranked)] if by_sequence else [])]
    return {"text": as_text, "markdown": as_markdown, "latex": as_latex}[form](tables, remarks(benchmark, ranked))


def rank(scores: Sequence[VOTScores]) -> list[VOTScores]:
    """Return the scores in descending order of EAO, then of accuracy, then by name."""
    return sorted(scores, key=lambda s: (-(s.eao["all"] or 0.0), -s.accuracy, s.tracker))


def remarks(benchmark: Benchmark, scores: Sequence[VOTScores]) -> list[str]:
    """Return what must be said beside the scores: source, definition, and everything missing or odd."""
    low, high = scores[0].interval
    said = [f"{benchmark.name}: {len(benchmark.sequences)}/{benchmark.expected} videos, {benchmark.num_frames} frames, "
            f"from {benchmark.source}",
            f"restart protocol as the pysot toolkit scores it: EAO over lengths {low} to {high}, burn-in {BURN_IN} "
            f"frames, overlap {_OVERLAPS[scores[0].overlap]}; Robustness (failures per 100 frames) and Lost: less is "
            "better",
            "Empty (pysot) is that toolkit's number, which weighs whole videos; No attribute is over such frames"]
    if benchmark.missing:
        said.append(f"missing in the data set: {listed(benchmark.missing)}")
    said += benchmark.notes
    for s in scores:
        lacking = [name for name in s.missing if name not in benchmark.missing]
        said += [f"{s.tracker}: no result of {listed(lacking)}"] if lacking else []
        said += [f"{s.tracker}: {m.sequence} has {m.found} rows for {m.expected} frames: {m.action}"
                 for m in s.mismatches]
        said += [f"{s.tracker}: {note}" for note in s.notes]
        if s.eao["all"] is None:
            said.append(f"{s.tracker}: no EAO, as no video is as long as {low} frames")
    if len({s.names for s in scores}) > 1:
        said.append("the trackers are scored on different videos: their scores cannot be compared")
    return said


def _summary(scores: Sequence[VOTScores]) -> Table:
    columns = ("Tracker", "EAO", "Accuracy", "Robustness", "Lost", "Videos", "Frames", "Runs", "Length differs")
    rows = tuple((s.label, s.eao["all"], _known(s.accuracy), f"{s.robustness:.3f}", f"{s.lost_number:.1f}",
                  f"{len(s.names)}/{s.expected}", sum(s.frames), s.repetitions, len(s.mismatches)) for s in scores)
    return Table("Scores", columns, rows, best_in="column")


def _by_attribute(scores: Sequence[VOTScores]) -> Table:
    rows = tuple((s.label, *(s.eao[tag] for tag in TAGS[1:])) for s in scores)
    return Table("EAO by attribute", ("Tracker", *(_TITLES[tag] for tag in TAGS[1:])), rows, best_in="column")


def _by_video(scores: Sequence[VOTScores]) -> Table:
    rows = []
    for name in dict.fromkeys(name for s in scores for name in s.names):
        cells: list[Cell] = [name]
        for s in scores:
            place = s.names.index(name) if name in s.names else None
            cells += [None, None] if place is None else [
                _known(float(s.sequence_accuracy[place])), f"{s.sequence_lost[place]:.1f}"]
        rows.append(tuple(cells))
    return Table("Scores by video",
                 ("Video", *(f"{s.label} {what}" for s in scores for what in ("accuracy", "lost"))), tuple(rows))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _csv_rows(scores: Sequence[VOTScores]) -> list[list[Cell]]:
    """Return one row per tracker for the whole benchmark, each attribute and each video."""
    rows: list[list[Cell]] = []
    for s in scores:
        rows.append([s.tracker, "all", "all", s.eao["all"], _known(s.accuracy), s.robustness, s.lost_number,
                     len(s.names), s.expected, sum(s.frames), s.overlap, s.tuned_on])
        rows += [[s.tracker, "attribute", tag, s.eao[tag], *[None] * 6, s.overlap, s.tuned_on] for tag in TAGS[1:]]
        for place, name in enumerate(s.names):
            lost = float(s.sequence_lost[place])
            rows.append([s.tracker, "video", name, None, _known(float(s.sequence_accuracy[place])),
                         100 * lost / s.frames[place], lost, 1, None, s.frames[place], s.overlap, s.tuned_on])
    return rows


def to_json(benchmark: Benchmark, scores: Sequence[VOTScores]) -> dict[str, Any]:
    """Return everything as plain values: scores, curves, attributes, videos and what was remarked."""
    return {
        "dataset": benchmark.name, "source": str(benchmark.source), "expected": benchmark.expected,
        "videos": len(benchmark.sequences), "missing": list(benchmark.missing), "notes": list(benchmark.notes),
        "interval": list(scores[0].interval), "burn_in": BURN_IN, "overlap": scores[0].overlap,
        "trackers": [_tracker_json(s) for s in scores],
    }  # fmt: skip


def _tracker_json(s: VOTScores) -> dict[str, Any]:
    return {
        "tracker": s.tracker, "tuned_on": s.tuned_on, "eao": s.eao["all"], "accuracy": _known(s.accuracy),
        "robustness": s.robustness, "lost_number": s.lost_number,
        "videos": len(s.names), "expected": s.expected, "missing": list(s.missing),
        "frames": sum(s.frames), "runs": s.repetitions, "length_mismatches": [m._asdict() for m in s.mismatches],
        "notes": list(s.notes), "eao_by_attribute": {tag: s.eao[tag] for tag in TAGS[1:]},
        "curve": [_known(float(value)) for value in s.curve],
        "by_video": {name: {"frames": s.frames[i], "accuracy": _known(float(s.sequence_accuracy[i])),
                            "lost_number": float(s.sequence_lost[i])} for i, name in enumerate(s.names)},
    }  # fmt: skip


def save_plots(folder: Path, scores: Sequence[VOTScores], *, dataset: str) -> list[Path]:
    """Return the files written to `folder`: the curves of expected average overlap, PNG and PDF."""
    # Imported here: matplotlib takes half a second that only plots need.
    from matplotlib.figure import Figure

    from lib.eval_toolkit.plots import finish, plain, save_figure, style

    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.add_subplot()
    for place, s in enumerate(rank(scores)):
        score = s.eao["all"]
        axes.plot(range(1, len(s.curve) + 1), s.curve, linewidth=2, **style(place),
                  label=f"[{'-' if score is None else f'{score:.3f}'}] {plain(s.label)}")
    low, high = scores[0].interval
    axes.axvspan(low, high, color="0.9", label=f"interval {low} to {high}")
    axes.set(title=plain(f"Expected average overlap on {dataset}"), xlabel="Length (frames)",
             ylabel="Expected average overlap", ylim=(0, 1), xlim=(1, max(len(s.curve) for s in scores)))
    finish(axes)
    return [save_figure(folder / f"eao.{suffix}", figure) for suffix in ("png", "pdf")]
