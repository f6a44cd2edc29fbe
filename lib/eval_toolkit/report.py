"""What a benchmark's scores look like: which tables there are, what must be said beside them, and the JSON record."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lib.benchmarks import Benchmark, attribute_code
from lib.eval_toolkit.bootstrap import METRICS, Difference, paired_differences
from lib.eval_toolkit.ope import (
    DISTANCE_THRESHOLDS,
    NORM_DISTANCE_THRESHOLDS,
    OVERLAP_THRESHOLDS,
    mean_curve,
)
from lib.eval_toolkit.results import OPEScores, listed
from lib.eval_toolkit.tables import Cell, Table, as_csv, as_latex, as_markdown, as_text

FORMATS = {"text": "txt", "markdown": "md", "csv": "csv", "json": "json", "latex": "tex"}
"""Output formats and the suffixes of their files."""

_CSV_COLUMNS = ("tracker", "scope", "name", "success", "precision", "norm_precision", "sequences", "expected", "frames",
                "invalid_rows", "broken_boxes", "repaired_boxes", "length_mismatches", "convention", "tuned_on")


def render(
    benchmark: Benchmark, scores: Sequence[OPEScores], *, form: str, by_sequence: bool = False
) -> str:
    """Return the scores in one of `FORMATS`: summary and attributes, with `by_sequence` the sequences too.

    CSV and JSON always hold everything. Trackers come in descending order of success.
    """
    ranked = rank(scores)
    if form == "json":
        return json.dumps(to_json(benchmark, ranked), indent=1, allow_nan=False) + "\n"
    if form == "csv":
        return as_csv(_CSV_COLUMNS, _csv_rows(ranked))
    tables = [summary_table(ranked), *difference_tables(ranked), *attribute_tables(ranked)]
    tables += [sequence_table(ranked)] if by_sequence else []
    return {"text": as_text, "markdown": as_markdown, "latex": as_latex}[form](tables, remarks(benchmark, ranked))


def rank(scores: Sequence[OPEScores]) -> list[OPEScores]:
    """Return the scores in descending order of success, then of precision, then by name."""
    return sorted(scores, key=lambda s: (-s.success, -s.precision, s.tracker))


def summary_table(scores: Sequence[OPEScores], *, speeds: Mapping[str, float] | None = None) -> Table:
    """Return one row per tracker: its scores and how much of the benchmark they stand on.

    `speeds`, frames per second by tracker, becomes a column where it is known.
    """
    columns: tuple[str, ...] = (
        "Tracker", "Success", "Precision", "Norm. prec.", "Sequences", "Frames", "Invalid rows", "Broken boxes",
        "Repaired", "Length differs")
    rows: tuple[tuple[Cell, ...], ...] = tuple((
        s.label, s.success, s.precision, s.norm_precision, f"{len(s.names)}/{s.expected}", sum(s.frames),
        s.invalid_rows, s.broken_boxes, s.repaired_boxes, len(s.mismatches)) for s in scores)
    if speeds:
        columns = (*columns[:4], "Frames/s", *columns[4:])
        # As text: the fastest of several checkpoints of one network is no achievement to be marked.
        rows = tuple((*row[:4], f"{speeds[s.tracker]:.1f}" if s.tracker in speeds else None, *row[4:])
                     for s, row in zip(scores, rows, strict=True))
    return Table("Scores", columns, rows, best_in="column")


def difference_tables(scores: Sequence[OPEScores]) -> list[Table]:
    """Return a table of the best tracker's lead over each other one, with its interval; none for a single tracker."""
    if len(scores) < 2:
        return []
    pairs = {(d.second, d.metric): d for metric in METRICS for d in paired_differences(scores, metric=metric)
             if d.first == scores[0].tracker}
    if not pairs:
        return []
    columns = ("Tracker", *(column for metric in METRICS for column in (metric.capitalize(), "95% interval")))
    rows = tuple((s.label, *(cell for metric in METRICS for cell in _difference_cells(pairs[s.tracker, metric])))
                 for s in scores[1:])
    count = next(iter(pairs.values())).sequences
    return [Table(f"Lead of {scores[0].label} (paired bootstrap over {count} sequences)", columns, rows)]


def _difference_cells(difference: Difference) -> tuple[str, str]:
    clear = "" if difference.is_clear else " (no clear difference)"
    return f"{difference.value:+.3f}", f"{difference.low:+.3f} .. {difference.high:+.3f}{clear}"


def attribute_tables(scores: Sequence[OPEScores]) -> list[Table]:
    """Return a table of success and one of precision by attribute; none for a benchmark without attributes."""
    present = attributes_of(scores)
    if not present:
        return []
    parts = {(s.tracker, name): s.with_attribute(name) for s in scores for name in present}
    counts = {name: max(len(part.names) for s in scores if (part := parts[s.tracker, name])) for name in present}
    head = ("Tracker", *(f"{attribute_code(name)} ({counts[name]})" for name in present))

    def table(title: str, value: Callable[[OPEScores], float]) -> Table:
        rows = tuple((s.label, *(None if (part := parts[s.tracker, name]) is None else value(part)
                                   for name in present)) for s in scores)
        return Table(f"{title} by attribute (number of sequences)", head, rows, best_in="column")

    return [table("Success", lambda s: s.success), table("Precision", lambda s: s.precision)]


def attributes_of(scores: Sequence[OPEScores]) -> list[str]:
    """Return the attributes that some scored sequence has, in alphabetical order."""
    return sorted({name for s in scores for own in s.attributes for name in own})


def sequence_table(scores: Sequence[OPEScores]) -> Table:
    """Return one row per sequence with success and precision of every tracker."""
    names = list(dict.fromkeys(name for s in scores for name in s.names))
    places = [{name: index for index, name in enumerate(s.names)} for s in scores]
    rows = []
    for name in names:
        cells: list[Cell] = [name, max(s.frames[p[name]] for s, p in zip(scores, places, strict=True) if name in p)]
        for s, place in zip(scores, places, strict=True):
            index = place.get(name)
            cells += [None, None] if index is None else [
                float(s.sequence_success[index]), float(s.sequence_precision[index])]
        rows.append(tuple(cells))
    columns = ("Sequence", "Frames", *(f"{s.label} {what}" for s in scores for what in ("success", "precision")))
    return Table("Scores by sequence", columns, tuple(rows))


def remarks(benchmark: Benchmark, scores: Sequence[OPEScores]) -> list[str]:
    """Return what must be said beside the scores: source, convention, and everything missing, invalid or repaired."""
    said = [*conditions(benchmark, scores), *_of_benchmark(benchmark)]
    for s in scores:
        said += [_counts(s, s.invalid_rows), *_of_tracker(benchmark, s)]
    return said + _of_all(scores)


def conditions(benchmark: Benchmark, scores: Sequence[OPEScores]) -> list[str]:
    """Return what the scores were made of and by which rules."""
    rules = scores[0].convention
    return [f"{benchmark.name}: {len(benchmark.sequences)}/{benchmark.expected} sequences, "
            f"{benchmark.num_frames} frames, from {benchmark.source}",
            f"convention {rules.name} ({rules.toolkit}); results of another length: {rules.length}"]


def warnings(benchmark: Benchmark, scores: Sequence[OPEScores]) -> list[str]:
    """Return the remarks without what is in order: only what is missing, invalid, repaired or not comparable."""
    said = _of_benchmark(benchmark)
    same = len({s.invalid_rows for s in scores}) == 1
    if same and (count := scores[0].invalid_rows):
        said.append(f"ground truth: {count} invalid rows, which count as the convention says")
    for s in scores:
        invalid = 0 if same else s.invalid_rows
        counts = (invalid, s.broken_boxes, s.repaired_boxes, len(s.mismatches))
        whole = len(s.names) == len(benchmark.sequences)
        said += [] if whole and not any(counts) else [_counts(s, invalid)]
        said += _of_tracker(benchmark, s)
    return said + _of_all(scores)


def _of_benchmark(benchmark: Benchmark) -> list[str]:
    missing = [f"missing in the data set: {listed(benchmark.missing)}"] if benchmark.missing else []
    return [*missing, *benchmark.notes]


def _counts(s: OPEScores, invalid_rows: int) -> str:
    return (f"{s.tracker}: sequences {len(s.names)}/{s.expected}, invalid ground-truth rows {invalid_rows}, broken "
            f"boxes {s.broken_boxes}, repaired boxes {s.repaired_boxes}, length mismatches {len(s.mismatches)}")


def _of_tracker(benchmark: Benchmark, s: OPEScores) -> list[str]:
    lacking = [name for name in s.missing if name not in benchmark.missing]
    said = [f"{s.tracker}: no result of {listed(lacking)}"] if lacking else []
    said += [f"{s.tracker}: {m.sequence} has {m.found} rows for {m.expected} frames: {m.action}" for m in s.mismatches]
    return [*said, *s.notes]


def _of_all(scores: Sequence[OPEScores]) -> list[str]:
    if len({s.names for s in scores}) == 1:
        return []
    return ["the trackers are scored on different sequences: their scores cannot be compared"]


def _csv_rows(scores: Sequence[OPEScores]) -> list[list[Cell]]:
    """Return one row per tracker for the whole benchmark, each attribute and each sequence."""
    rows: list[list[Cell]] = []
    for s in scores:
        rows.append([s.tracker, "all", "all", s.success, s.precision, s.norm_precision, len(s.names), s.expected,
                     sum(s.frames), s.invalid_rows, s.broken_boxes, s.repaired_boxes, len(s.mismatches),
                     s.convention.name, s.tuned_on])
        rest: list[Cell] = [None] * 4
        for name in attributes_of([s]):
            if (part := s.with_attribute(name)) is not None:
                rows.append([s.tracker, "attribute", name, part.success, part.precision, part.norm_precision,
                             len(part.names), None, sum(part.frames), *rest, s.convention.name, s.tuned_on])
        for index, name in enumerate(s.names):
            rows.append([s.tracker, "sequence", name, float(s.sequence_success[index]),
                         float(s.sequence_precision[index]), float(s.sequence_norm_precision[index]), 1, None,
                         s.frames[index], *rest, s.convention.name, s.tuned_on])
    return rows


def to_json(benchmark: Benchmark, scores: Sequence[OPEScores]) -> dict[str, Any]:
    """Return everything as plain values: scores, curves, attributes, sequences and what was remarked."""
    rules = scores[0].convention
    return {
        "dataset": benchmark.name, "source": str(benchmark.source), "expected": benchmark.expected,
        "sequences": len(benchmark.sequences), "missing": list(benchmark.missing), "notes": list(benchmark.notes),
        "convention": rules.name, "toolkit": rules.toolkit, "length_rule": rules.length,
        "thresholds": {"overlap": OVERLAP_THRESHOLDS.tolist(), "distance_px": DISTANCE_THRESHOLDS.tolist(),
                       "norm_distance": NORM_DISTANCE_THRESHOLDS.tolist()},
        "trackers": [_tracker_json(s) for s in scores],
        "differences": [d._asdict() for metric in METRICS for d in paired_differences(scores, metric=metric)],
    }  # fmt: skip


def _tracker_json(s: OPEScores) -> dict[str, Any]:
    attributes = {name: part for name in attributes_of([s]) if (part := s.with_attribute(name)) is not None}
    return {
        "tracker": s.tracker, "tuned_on": s.tuned_on, "success": s.success, "precision": s.precision,
        "norm_precision": s.norm_precision,
        "sequences": len(s.names), "expected": s.expected, "missing": list(s.missing), "frames": sum(s.frames),
        "invalid_rows": s.invalid_rows, "broken_boxes": s.broken_boxes, "repaired_boxes": s.repaired_boxes,
        "length_mismatches": [m._asdict() for m in s.mismatches], "notes": list(s.notes),
        "curves": {name: mean_curve(curve, s.convention).tolist() for name, curve in s.curves._asdict().items()},
        "by_attribute": {name: {"sequences": len(part.names), "success": part.success, "precision": part.precision,
                                "norm_precision": part.norm_precision} for name, part in attributes.items()},
        "by_sequence": {name: {"frames": s.frames[i], "success": float(s.sequence_success[i]),
                               "precision": float(s.sequence_precision[i]),
                               "norm_precision": float(s.sequence_norm_precision[i])}
                        for i, name in enumerate(s.names)},
    }  # fmt: skip
