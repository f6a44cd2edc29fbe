"""Average overlap (AO) and success rates (SR) of GOT-10k's validation set, as the got10k toolkit computes them.

The first frame and frames without a visible part of the target (`cover` 0) do not count; both boxes are cut at the
image's border; frames of all sequences are pooled. SR at 0.5 and 0.75 are shares of frames with an overlap above these.
(On the test set the authors' server averages over classes; that needs their ground truth.)
"""

from __future__ import annotations

import json
from collections.abc import Sequence as Items
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.benchmarks import Benchmark, Sequence, read_stamp
from lib.boxes import Boxes, iou_xywh
from lib.eval_toolkit.ope import Floats
from lib.eval_toolkit.results import listed, read_rows, rules_of, stamped
from lib.eval_toolkit.tables import Cell, Table, as_csv, as_latex, as_markdown, as_text

SUCCESS_AT = (0.5, 0.75)
_CSV_COLUMNS = ("tracker", "scope", "name", "ao", "sr50", "sr75", "sequences", "expected", "frames", "tuned_on")


@dataclass(frozen=True, eq=False)
class AOScores:
    """Scores of one tracker on S sequences, all in 0..1."""

    tracker: str
    names: tuple[str, ...]
    overlaps: tuple[Floats, ...]
    """Per sequence, the overlaps of the frames that count."""
    expected: int
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    tuned_on: str = ""
    """The benchmark that the tracker's settings were tuned on."""

    @property
    def label(self) -> str:
        """Return the tracker's name as it stands beside its scores."""
        return stamped(self.tracker, self.tuned_on)

    @property
    def all_overlaps(self) -> Floats:
        """Return the overlaps of all frames that count, (N,)."""
        return np.concatenate(self.overlaps)


def averages(overlap: Floats) -> tuple[float, ...]:
    """Return AO and the SR at each of `SUCCESS_AT` of overlaps (N,); NaN without any."""
    if not len(overlap):
        return (float("nan"),) * (1 + len(SUCCESS_AT))
    return (float(overlap.mean()), *(float((overlap > threshold).mean()) for threshold in SUCCESS_AT))


def score_got10k(
    benchmark: Benchmark, folder: Path, *, origin: int | None = None, allow_missing: bool = False
) -> AOScores:
    """Return the scores of the result files in a tracker's folder, `<sequence>.txt` or `<sequence>/<sequence>_001.txt`.

    A result of another length than the ground truth is refused, as by the toolkit. Raises UserError.
    """
    rows = read_rows(benchmark, folder, rules_of("got10k", length="error"), origin=origin, allow_missing=allow_missing)
    scored = [sequence for sequence in benchmark.sequences if sequence.name in rows]
    without_size = [sequence.name for sequence in scored if sequence.image_wh is None]
    notes = (f"image size unknown, overlaps not cut at the border: {listed(without_size)}",) if without_size else ()
    return AOScores(
        folder.name, tuple(sequence.name for sequence in scored),
        tuple(_overlaps(sequence, rows[sequence.name].boxes) for sequence in scored), benchmark.expected,
        (*benchmark.missing, *(name for name in benchmark.names if name not in rows)), notes,
        read_stamp(folder))


def _overlaps(sequence: Sequence, boxes_xywh: Boxes) -> Floats:
    """Return the overlaps of the frames that count; a NaN in a prediction is an overlap of 0."""
    truth, boxes = sequence.file_xywh[1:], boxes_xywh[1:]
    if sequence.image_wh is not None:
        truth, boxes = (_cut(rows, sequence.image_wh) for rows in (truth, boxes))
    overlap = np.nan_to_num(np.clip(iou_xywh(boxes, truth), 0, 1))
    return overlap if sequence.absent is None else overlap[~sequence.absent[1:]]


def _cut(boxes_xywh: Boxes, image_wh: tuple[int, int]) -> Boxes:
    """Return boxes cut at the border as the toolkit does: a corner left of the image is moved in, the width kept."""
    corner = np.clip(boxes_xywh[:, :2], 0, image_wh)
    return np.concatenate([corner, np.clip(boxes_xywh[:, 2:], 0, np.array(image_wh) - corner)], axis=1)


def rank(scores: Items[AOScores]) -> list[AOScores]:
    """Return the scores in descending order of AO, then by name."""
    return sorted(scores, key=lambda s: (-averages(s.all_overlaps)[0], s.tracker))


def render(benchmark: Benchmark, scores: Items[AOScores], *, form: str, by_sequence: bool = False) -> str:
    """Return the scores as "text", "markdown", "latex", "csv" or "json"; CSV and JSON always hold every sequence."""
    ranked = rank(scores)
    if form == "json":
        return json.dumps(_to_json(benchmark, ranked), indent=1, allow_nan=False) + "\n"
    if form == "csv":
        return as_csv(_CSV_COLUMNS, [row for s in ranked for row in _csv_rows(s)])
    rows: list[tuple[Cell, ...]] = [
        (s.label, *_known(s.all_overlaps), f"{len(s.names)}/{s.expected}", len(s.all_overlaps)) for s in ranked]
    columns = ("Tracker", "AO", "SR0.5", "SR0.75", "Sequences", "Frames")
    tables = [Table("Scores", columns, tuple(rows), best_in="column")]
    if by_sequence:
        rows = [(name, s.label, *_known(overlap))
                for s in ranked for name, overlap in zip(s.names, s.overlaps, strict=True)]
        tables.append(Table("Scores by sequence", ("Sequence", "Tracker", "AO", "SR0.5", "SR0.75"), tuple(rows)))
    return {"text": as_text, "markdown": as_markdown, "latex": as_latex}[form](tables, remarks(benchmark, ranked))


def _known(overlap: Floats) -> tuple[Cell, ...]:
    return averages(overlap) if len(overlap) else (None,) * (1 + len(SUCCESS_AT))


def remarks(benchmark: Benchmark, scores: Items[AOScores]) -> list[str]:
    """Return what must be said beside the scores."""
    said = [f"{benchmark.name}: {len(benchmark.sequences)}/{benchmark.expected} sequences, {benchmark.num_frames} "
            f"frames, from {benchmark.source}",
            "as the got10k toolkit: frames pooled, without the first ones and those in which the target is not visible",
            *benchmark.notes]
    for s in scores:
        said += [f"{s.tracker}: not scored: {listed(s.missing)}"] if s.missing else []
        said += [f"{s.tracker}: {note}" for note in s.notes]
    return said


def _csv_rows(s: AOScores) -> list[list[Cell]]:
    rows: list[list[Cell]] = [[s.tracker, "all", "all", *_known(s.all_overlaps), len(s.names), s.expected,
                               len(s.all_overlaps), s.tuned_on]]
    rows += [[s.tracker, "sequence", name, *_known(overlap), 1, None, len(overlap), s.tuned_on]
             for name, overlap in zip(s.names, s.overlaps, strict=True)]
    return rows


def _to_json(benchmark: Benchmark, scores: Items[AOScores]) -> dict[str, Any]:
    def record(overlap: Floats) -> dict[str, Any]:
        ao, sr50, sr75 = _known(overlap)
        return {"ao": ao, "sr50": sr50, "sr75": sr75, "frames": len(overlap)}

    return {
        "dataset": benchmark.name, "source": str(benchmark.source), "expected": benchmark.expected,
        "notes": list(benchmark.notes),
        "trackers": [{"tracker": s.tracker, "tuned_on": s.tuned_on, **record(s.all_overlaps),
                      "missing": list(s.missing), "notes": list(s.notes),
                      "by_sequence": {name: record(overlap)
                                      for name, overlap in zip(s.names, s.overlaps, strict=True)}} for s in scores],
    }  # fmt: skip


def save_plots(folder: Path, scores: Items[AOScores], *, dataset: str) -> list[Path]:
    """Return the files written to `folder`: success over 101 overlap thresholds, PNG and PDF."""
    # Imported here: matplotlib takes half a second that only plots need.
    from matplotlib.figure import Figure

    from lib.eval_toolkit.plots import finish, plain, save_figure, style

    thresholds = np.linspace(0, 1, 101)
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.add_subplot()
    for place, s in enumerate(rank(scores)):
        overlap = s.all_overlaps
        axes.plot(thresholds, (overlap[:, None] > thresholds).mean(axis=0), linewidth=2, **style(place),
                  label=f"[{averages(overlap)[0]:.3f}] {plain(s.label)}")
    axes.set(title=plain(f"Success plots on {dataset}"), xlabel="Overlap threshold", ylabel="Success rate",
             xlim=(0, 1), ylim=(0, 1))
    finish(axes)
    return [save_figure(folder / f"success.{suffix}", figure) for suffix in ("png", "pdf")]
