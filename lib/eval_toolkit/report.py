"""What scores look like: tables, what must be said beside them, CSV and JSON; the same for every protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lib.benchmarks import Benchmark
from lib.benchmarks.facts import attribute_code
from lib.errors import listed
from lib.eval_toolkit.bootstrap import METRICS, paired_differences
from lib.eval_toolkit.presence import BINS, LOST_BELOW, THRESHOLD, joined, judge, presence_scores, reliability
from lib.eval_toolkit.protocols import LESS_IS_BETTER, Part, ScoreSummary, ranked
from lib.eval_toolkit.tables import Cell, Table, as_csv, as_latex, as_markdown, as_text

FORMATS = {"text": "txt", "markdown": "md", "csv": "csv", "json": "json", "latex": "tex"}
"""Output formats and the suffixes of their files."""
PRESENCE_SHORT = ("auroc", "lost_precision", "lost_recall")
PRESENCE_TITLES = {"auroc": "AUROC", "lost_precision": "Lost prec.", "lost_recall": "Lost recall",
                   "calibration_error": "Calibr. error", "lt_f": "LT F", "lt_precision": "LT prec.",
                   "lt_recall": "LT recall", "tpr": "TPR", "tnr": "TNR", "max_gm": "MaxGM"}  # fmt: skip
_ODD = {"invalid_rows": "invalid", "broken_boxes": "broken", "repaired_boxes": "repaired"}
_VOT_TITLES = {"camera_motion": "Camera motion", "illum_change": "Illumination", "motion_change": "Motion",
               "size_change": "Size", "occlusion": "Occlusion", "empty": "Empty (pysot)",
               "no_attribute": "No attribute"}  # fmt: skip


def render(benchmark: Benchmark, scores: Sequence[ScoreSummary], *, form: str, by_sequence: bool = False) -> str:
    """Return the scores in one of `FORMATS`, the best first; CSV, JSON and `by_sequence` tell the sequences too."""
    scores = ranked(scores)
    if form == "json":
        return json.dumps(to_json(benchmark, scores), indent=1, allow_nan=False) + "\n"
    if form == "csv":
        scoring = scores[0].scoring
        columns = ("tracker", "scope", "name", *scoring.titles, f"{scoring.unit}s", "expected", "frames",
                   *_csv_counts(scores[0]), *filter(None, [scoring.setting]), "tuned_on")
        return as_csv(columns, [row for s in scores for row in _csv_rows(s)])
    tables = [summary_table(scores), *presence_tables(scores, by_sequence=by_sequence), *difference_tables(scores),
              *attribute_tables(scores)]
    tables += [sequence_table(scores)] if by_sequence else []
    return {"text": as_text, "markdown": as_markdown, "latex": as_latex}[form](tables, remarks(benchmark, scores))


def summary_table(scores: Sequence[ScoreSummary], *, speeds: Mapping[str, float] | None = None) -> Table:
    """Return one row per tracker: its scores, `speeds` (frames/s by tracker) if known, and what they stand on."""
    scoring = scores[0].scoring
    # Speeds as text: the fastest of several checkpoints of one network is no achievement to be marked.
    rows = tuple((
        s.label, *(_cell(name, s.values[name]) for name in scoring.titles),
        *([f"{speeds[s.tracker]:.1f}" if s.tracker in speeds else None] if speeds else []),
        f"{len(s.names)}/{s.expected}", sum(s.frames), *(s.counts[name] for name in scoring.counts)) for s in scores)
    columns = ("Tracker", *scoring.titles.values(), *(["Frames/s"] if speeds else []),
               f"{scoring.unit.capitalize()}s", "Frames", *scoring.counts.values())
    return Table("Scores", columns, rows, best_in="column")


def presence_tables(scores: Sequence[ScoreSummary], *, by_sequence: bool = False) -> list[Table]:
    """Return how well presence tells lost from held, also `by_sequence`; [] where no tracker has presence."""
    told = [s for s in scores if s.presence]
    if not told:
        return []
    values = {s.tracker: presence_scores(list(s.presence.values())) for s in told}
    names = [name for name in PRESENCE_TITLES if any(name in each for each in values.values())]
    whole = Table(f"Presence (lost: overlap below {LOST_BELOW:g} or absent; called lost below {THRESHOLD:g})",
                  ("Tracker", *(PRESENCE_TITLES[name] for name in names), "Lost", "Frames"),
                  tuple((s.label, *(values[s.tracker].get(name) for name in names), int(frames.lost.sum()),
                         len(frames.lost)) for s in told for frames in [joined(list(s.presence.values()))]))
    curve = Table("Reliability of presence: share of held frames (number of frames)",
                  ("Tracker", *(f"{place / BINS:g} to {(place + 1) / BINS:g}" for place in range(BINS))),
                  tuple((s.label, *(f"{share:.2f} ({count:.0f})" if count else None for _, share, count in
                                    zip(*reliability(joined(list(s.presence.values()))), strict=True))) for s in told))
    each = Table("Presence by sequence", (
        "Sequence", "Tracker", *(PRESENCE_TITLES[name] for name in PRESENCE_SHORT), "Lost", "Frames"), tuple(
        (name, s.label, *(judge(frames)[score] for score in PRESENCE_SHORT), int(frames.lost.sum()), len(frames.lost))
        for s in told for name, frames in s.presence.items()))
    return [whole, curve, *([each] if by_sequence else [])]


def _cell(name: str, value: float) -> Cell:
    # A table marks the highest number of a column, which must not be that of a score where less is better.
    return f"{value:.{LESS_IS_BETTER[name]}f}" if name in LESS_IS_BETTER else value


def difference_tables(scores: Sequence[ScoreSummary]) -> list[Table]:
    """Return a table of the best tracker's lead over each other one, with its interval; none where it is not known."""
    if len(scores) < 2:
        return []
    pairs = {(d.second, d.metric): d for metric in METRICS for d in paired_differences(scores, metric=metric)
             if d.first == scores[0].tracker}
    if not pairs:
        return []
    columns = ("Tracker", *(column for metric in METRICS for column in (metric.capitalize(), "95% interval")))
    rows = tuple((s.label, *(cell for metric in METRICS for d in [pairs[s.tracker, metric]]
                              for cell in (f"{d.value:+.3f}", d.interval))) for s in scores[1:])
    count = next(iter(pairs.values())).sequences
    return [Table(f"Lead of {scores[0].label} (paired bootstrap over {count} sequences)", columns, rows)]


def attribute_tables(scores: Sequence[ScoreSummary]) -> list[Table]:
    """Return a table by attribute of each score that has some; none for a benchmark without attributes."""
    names, scoring = attributes_of(scores), scores[0].scoring
    if not names:
        return []
    counts = {name: max(s.by_attribute[name].sequences or 0 for s in scores if name in s.by_attribute)
              for name in names}
    head = ("Tracker", *(f"{attribute_title(name)}{f' ({counts[name]})' if counts[name] else ''}" for name in names))
    of = " (number of sequences)" if any(counts.values()) else ""
    return [Table(f"{scoring.titles[metric]} by attribute{of}", head,
                  tuple((s.label, *(s.by_attribute[name].values[metric] if name in s.by_attribute else None
                                    for name in names)) for s in scores), best_in="column")
            for metric in scoring.in_attribute_tables]


def attributes_of(scores: Sequence[ScoreSummary]) -> list[str]:
    """Return the attributes that some scored sequence has, in one-pass evaluation in alphabetical order."""
    names = list(dict.fromkeys(name for s in scores for name in s.by_attribute))
    return names if set(names) <= set(_VOT_TITLES) else sorted(names)


def attribute_title(name: str) -> str:
    """Return an attribute's short name, as it stands above a column."""
    return _VOT_TITLES.get(name) or attribute_code(name)


def sequence_table(scores: Sequence[ScoreSummary]) -> Table:
    """Return one row per sequence with the scores of every tracker."""
    scoring = scores[0].scoring
    places = [{name: index for index, name in enumerate(s.names)} for s in scores]
    rows = []
    for name in dict.fromkeys(name for s in scores for name in s.names):
        cells: list[Cell] = [name, max(s.frames[p[name]] for s, p in zip(scores, places, strict=True) if name in p)]
        for s, place in zip(scores, places, strict=True):
            cells += [_cell(metric, float(s.by_sequence[metric][place[name]])) if name in place else None
                      for metric in scoring.in_sequence_table]
        rows.append(tuple(cells))
    titles = [scoring.titles[metric] for metric in scoring.in_sequence_table]
    columns = (scoring.unit.capitalize(), "Frames",
               *(f"{s.label} {title if title[:2].isupper() else title.lower()}" for s in scores for title in titles))
    return Table(f"Scores by {scoring.unit}", columns, tuple(rows))


def remarks(benchmark: Benchmark, scores: Sequence[ScoreSummary]) -> list[str]:
    """Return what must be said beside the scores: source, rules, and everything missing, invalid or repaired."""
    return [*conditions(benchmark, scores), *warnings(benchmark, scores)]


def conditions(benchmark: Benchmark, scores: Sequence[ScoreSummary]) -> list[str]:
    """Return what the scores were made of and by which rules."""
    return [f"{benchmark.name}: {len(benchmark.sequences)}/{benchmark.expected} {scores[0].scoring.unit}s, "
            f"{benchmark.num_frames} frames, from {benchmark.source}", *scores[0].conditions]


def warnings(benchmark: Benchmark, scores: Sequence[ScoreSummary]) -> list[str]:
    """Return what is missing, invalid, repaired or not comparable, each with the sequences it lies in."""
    said = [f"missing in the data set: {listed(benchmark.missing)}"] if benchmark.missing else []
    said += benchmark.notes
    found = [s.odd.get("invalid_rows", {}) for s in scores]
    same = all(each == found[0] for each in found)
    if same and any(found[0].values()):
        said.append(f"ground truth: {_where('invalid', 'row', found[0])}, which count as the convention says")
    for s in scores:
        lacking = [name for name in s.missing if name not in benchmark.missing]
        own = [f"no result of {listed(lacking)}"] if lacking else []
        own += [_where(word, "box" if "box" in name else "ground-truth row", s.odd[name])
                for name, word in _ODD.items() if any(s.odd.get(name, {}).values()) and not (same and "rows" in name)]
        own += [f"{m.sequence} has {m.found} rows for {m.expected} frames: {m.action}" for m in s.mismatches]
        said += [f"{s.name}: {text}" for text in (*own, *s.notes)]
    if len({s.names for s in scores}) > 1:
        said.append(f"the trackers are scored on different {scores[0].scoring.unit}s: their scores cannot be compared")
    return said


def _where(word: str, what: str, counts: Mapping[str, int]) -> str:
    """Return how many odd rows there are and in which sequences, most first."""
    there = sorted((name for name, count in counts.items() if count), key=lambda name: -counts[name])
    total = sum(counts.values())
    what = what if total == 1 else f"{what}es" if what == "box" else f"{what}s"
    return f"{total} {word} {what} ({listed([f'{name} {counts[name]}' for name in there])})"


def _csv_counts(s: ScoreSummary) -> list[str]:
    return list(s.scoring.counts) if s.scoring.counts_in_csv else []


def _csv_rows(s: ScoreSummary) -> list[list[Cell]]:
    """Return one row per tracker for the whole benchmark, each attribute and each sequence."""
    scoring = s.scoring
    end: list[Cell] = [*(s.facts[name] for name in filter(None, [scoring.setting])), s.tuned_on]

    def row(scope: str, name: str, part: Part, expected: int | None, counts: Sequence[int | None]) -> list[Cell]:
        return [s.tracker, scope, name, *(part.values.get(metric) for metric in scoring.titles), part.sequences,
                expected, part.frames, *counts, *end]

    none = [None] * len(_csv_counts(s))
    rows = [row("all", "all", Part(s.values, {}, len(s.names), sum(s.frames)), s.expected,
                [s.counts[name] for name in _csv_counts(s)])]
    rows += [row("attribute", name, s.by_attribute[name], None, none) for name in attributes_of([s])]
    return rows + [row(scoring.unit, name, Part(_of_sequence(s, i), {}, 1, s.frames[i]), None, none)
                   for i, name in enumerate(s.names)]


def _of_sequence(s: ScoreSummary, place: int) -> dict[str, float]:
    return {metric: float(values[place]) for metric, values in s.by_sequence.items()}


def to_json(benchmark: Benchmark, scores: Sequence[ScoreSummary]) -> dict[str, Any]:
    """Return everything as plain values: scores, curves, attributes, sequences and what was remarked."""
    record = {
        "dataset": benchmark.name, "source": str(benchmark.source), "expected": benchmark.expected,
        f"{scores[0].scoring.unit}s": len(benchmark.sequences), "missing": list(benchmark.missing),
        "notes": list(benchmark.notes), **scores[0].facts, "trackers": [_tracker_json(s) for s in scores],
    }  # fmt: skip
    differences = [d._asdict() for metric in METRICS for d in paired_differences(scores, metric=metric)]
    return record if scores[0].scoring.name != "OPE" else record | {"differences": differences}


def _tracker_json(s: ScoreSummary) -> dict[str, Any]:
    unit, eao = s.scoring.unit, "eao" in s.values
    curves = {name: [_known(value) for value in curve.tolist()] for name, curve in s.curves.items()}
    parts = {name: {f"{unit}s": part.sequences, **_all_known(part.values)} for name, part in s.by_attribute.items()}
    presence = {
        "presence": _all_known(presence_scores(list(s.presence.values()))),
        "presence_by_sequence": {name: _all_known(judge(frames)) for name, frames in s.presence.items()},
    } if s.presence else {}  # fmt: skip
    return {
        "tracker": s.tracker, "tuned_on": s.tuned_on, **presence, **_all_known(s.values), f"{unit}s": len(s.names),
        "expected": s.expected, "missing": list(s.missing), "frames": sum(s.frames), **s.counts,
        "length_mismatches": [m._asdict() for m in s.mismatches], "notes": list(s.notes),
        **({"curve": curves["eao"], "eao_by_attribute": {name: part["eao"] for name, part in parts.items()}} if eao
           else {"curves": curves, "by_attribute": parts}),
        f"by_{unit}": {name: {"frames": s.frames[i], **_all_known(_of_sequence(s, i))}
                       for i, name in enumerate(s.names)},
    }  # fmt: skip


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _all_known(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _known(value) for name, value in values.items()}
