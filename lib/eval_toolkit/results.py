"""Trackers' result folders: found, read, brought to the ground truth's length, and scored into `OPEScores`."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.benchmarks import (
    Benchmark,
    Sequence,
    find_results,
    flat_trackers,
    read_result_rows,
    read_stamp,
    result_origin,
)
from lib.boxes import Boxes
from lib.errors import UserError
from lib.eval_toolkit.ope import (
    CONVENTIONS,
    PRECISION_AT,
    Convention,
    Curves,
    Floats,
    LengthRule,
    broken_rows,
    curves,
    frame_errors,
    leave_out,
    mean_curve,
    repair_boxes,
    unusual_rows,
)

SHOWN_NAMES = 5
"""How many names a message lists before it says how many more there are."""
ALIGNED = "aligned by leaving out the frames before the first tracked one"
"""What is done where result and ground truth differ by Tiger1's first five frames."""


class Mismatch(NamedTuple):
    """A result file whose number of rows is not the ground truth's, and what was done about it."""

    sequence: str
    expected: int
    found: int
    action: str


@dataclass(frozen=True, eq=False)
class OPEScores:
    """Scores of one tracker on S sequences of a benchmark under one convention. All scores are in 0..1."""

    tracker: str
    convention: Convention
    names: tuple[str, ...]
    """The S sequences that were scored."""
    attributes: tuple[tuple[str, ...], ...]
    frames: tuple[int, ...]
    """Scored frames of each sequence."""
    curves: Curves
    expected: int
    """Number of sequences of the whole benchmark."""
    missing: tuple[str, ...]
    """Sequences of the benchmark that are not scored: not in the data set, or without a result."""
    invalid_rows: int
    """Ground-truth rows with any of x, y, w, h <= 0 (1-based): each convention treats them in its own way."""
    broken_boxes: int
    """Predicted rows with a NaN or an empty or negative size, as they stand in the files."""
    repaired_boxes: int
    """Predicted rows that the convention replaced by the row before."""
    mismatches: tuple[Mismatch, ...]
    notes: tuple[str, ...]
    tuned_on: str = ""
    """The benchmark that the tracker's settings were tuned on, "" where its results do not tell."""

    @property
    def label(self) -> str:
        """Return the tracker's name as it stands beside its scores."""
        return stamped(self.tracker, self.tuned_on)

    @property
    def success(self) -> float:
        """Return the success score: the area under the mean success curve."""
        return float(mean_curve(self.curves.success, self.convention).mean())

    @property
    def precision(self) -> float:
        """Return the precision score: the mean precision curve at 20 px."""
        return float(mean_curve(self.curves.precision, self.convention)[PRECISION_AT])

    @property
    def norm_precision(self) -> float:
        """Return the normalised precision: the mean curve at 0.2 of the target's size."""
        return float(mean_curve(self.curves.norm_precision, self.convention)[PRECISION_AT])

    @property
    def sequence_success(self) -> Floats:
        """Return the success score of each sequence, (S,)."""
        return self.curves.success.mean(axis=1)

    @property
    def sequence_precision(self) -> Floats:
        """Return the precision at 20 px of each sequence, (S,)."""
        return self.curves.precision[:, PRECISION_AT]

    @property
    def sequence_norm_precision(self) -> Floats:
        """Return the normalised precision at 0.2 of each sequence, (S,)."""
        return self.curves.norm_precision[:, PRECISION_AT]

    def with_attribute(self, attribute: str) -> OPEScores | None:
        """Return the scores on the sequences that have an attribute, None when none has it."""
        picked = [index for index, own in enumerate(self.attributes) if attribute in own]
        if not picked:
            return None
        return replace(self, names=tuple(self.names[i] for i in picked),
                       attributes=tuple(self.attributes[i] for i in picked),
                       frames=tuple(self.frames[i] for i in picked), curves=Curves(*(c[picked] for c in self.curves)))


def stamped(tracker: str, tuned_on: str) -> str:
    """Return a tracker's name with what its settings were tuned on, so that no score of it stands without."""
    return f"{tracker} (tuned on {tuned_on})" if tuned_on else tracker


def find_trackers(result_dirs: Items[Path], patterns: Items[str], *, dataset: str) -> list[Path]:
    """Return the result folders that names or globs pick below `result_dirs`, in the order of the patterns.

    A result folder may also be the parent of a folder called as the data set, or the OTB toolkit's flat folder. A
    glob skips folders without result files and those whose name starts with "_" or "."; a name that is not there is
    a UserError with the nearest one, and so is a picked name that two of `result_dirs` hold.
    """
    folders: dict[str, list[Path]] = {}
    for result_dir in dict.fromkeys(result_dirs):
        for name, folder in _trackers_below(result_dir, dataset).items():
            folders.setdefault(name, []).append(folder)
    picked: dict[str, Path] = {}
    for pattern in patterns:
        names = [pattern] if pattern in folders else [
            name for name in fnmatch.filter(folders, pattern) if any(map(_has_results, folders[name]))]
        if not names:
            near = difflib.get_close_matches(pattern, folders, n=1) or list(folders)[:1]
            raise UserError(f"{', '.join(map(str, result_dirs))}: no results of {pattern!r}; there are "
                            f"{listed(list(folders))}; did you mean {near[0]!r}?")
        for name in names:
            if len(folders[name]) > 1:
                raise UserError(f"tracker {name!r} is both {folders[name][0]} and {folders[name][1]}: rename one of "
                                f"the folders, or leave it out of --trackers")
            picked[name] = folders[name][0]
    return list(picked.values())


def _trackers_below(result_dir: Path, dataset: str) -> dict[str, Path]:
    """Return the folder of every tracker in a folder of results, by name; UserError when there is none."""
    root = result_dir / dataset if (result_dir / dataset).is_dir() else result_dir
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; expected one folder of result files per tracker")
    folders = {path.name: path for path in sorted(root.iterdir())
               if path.is_dir() and not path.name.startswith((".", "_"))}
    # The OTB toolkit's layout has no folders: a name in it stands for the files <sequence>_<name>.mat.
    folders |= {name: root / name for name in flat_trackers(root) if name not in folders}
    if not folders:
        raise UserError(f"{root}: no tracker's folder in it; expected {root}/<tracker>/<Sequence>.txt")
    return folders


def _has_results(folder: Path) -> bool:
    return not folder.is_dir() or any(
        path.suffix in (".txt", ".mat") or path.name == "baseline" or (path / f"{path.name}_001.txt").is_file()
        for path in folder.iterdir())


def score_tracker(
    benchmark: Benchmark, folder: Path, *, convention: str, length: LengthRule | None = None,
    origin: int | None = None, allow_missing: bool = False,
) -> OPEScores:
    """Return the scores of the result files in a tracker's folder.

    `length` overrides the convention's rule for results of another length, `origin` (0 or 1) is that of the files when
    it is not the data set's. Raises UserError for missing sequences (unless `allow_missing`), broken files and
    whatever the convention refuses.
    """
    rules = rules_of(convention, length=length)
    rows = read_rows(benchmark, folder, rules, origin=origin, allow_missing=allow_missing)
    return score_rows(benchmark, folder, rows, rules)


def rules_of(convention: str, *, length: LengthRule | None = None) -> Convention:
    """Return a convention by name, with another rule for results of another length where one is given."""
    rules = CONVENTIONS[convention]
    return rules if length is None else replace(rules, length=length)


def score_rows(benchmark: Benchmark, folder: Path, rows: Mapping[str, Rows], rules: Convention) -> OPEScores:
    """Return the scores of the tracker in a folder from the rows of each of its sequences."""
    scored = [sequence for sequence in benchmark.sequences if sequence.name in rows]
    own = [rows[sequence.name] for sequence in scored]
    lengths = [len(row.truth) for row in own]
    truth = np.concatenate([row.truth for row in own])
    errors = frame_errors(truth, np.concatenate([row.boxes for row in own]), rules)
    errors = leave_out(errors, np.concatenate([_absent(*pair) for pair in zip(scored, own, strict=True)]))
    lacking = [name for name in benchmark.names if name not in rows]
    return OPEScores(
        folder.name, rules, tuple(s.name for s in scored), tuple(s.attributes for s in scored), tuple(lengths),
        curves(errors, lengths), benchmark.expected, (*benchmark.missing, *lacking),
        invalid_rows=int(unusual_rows(truth).sum()), broken_boxes=sum(row.broken for row in own),
        repaired_boxes=sum(row.repaired for row in own),
        mismatches=tuple(row.mismatch for row in own if row.mismatch is not None),
        notes=_origin_notes(folder.name, own), tuned_on=read_stamp(folder))


def read_rows(
    benchmark: Benchmark, folder: Path, rules: Convention, *, origin: int | None = None, allow_missing: bool = False
) -> dict[str, Rows]:
    """Return the rows of each sequence that a tracker's folder has results of, by the sequence's name.

    Raises UserError for missing sequences (unless `allow_missing`), broken files and whatever the convention refuses.
    """
    files = find_results(folder, benchmark.names)
    check_complete(benchmark, folder, files, allow_missing=allow_missing)
    shift = 0 if origin is None else result_origin(benchmark.name) - origin
    return {sequence.name: _read(sequence, files[sequence.name], rules, shift=shift)
            for sequence in benchmark.sequences if sequence.name in files}


def check_complete(
    benchmark: Benchmark, folder: Path, files: Mapping[str, Path], *, allow_missing: bool = False
) -> None:
    """Raise UserError unless data set and results are whole, or `allow_missing` and there is some result."""
    absent = benchmark.expected - len(benchmark.sequences)
    if absent > 0 and not allow_missing:
        names = f" ({listed(benchmark.missing)})" if benchmark.missing else ""
        raise UserError(f"{benchmark.source}: {absent} of {benchmark.expected} sequences of {benchmark.name} are "
                        f"missing{names}; complete the data set, or score what is there with --allow-missing")
    if not files:
        raise UserError(f"{folder}: no result file of {benchmark.name} in it; expected "
                        f"{benchmark.names[0]}.txt and so on, one line x,y,w,h per frame")
    lacking = [name for name in benchmark.names if name not in files]
    if lacking and not allow_missing:
        raise UserError(f"{folder}: no result of {len(lacking)} of {len(benchmark.names)} sequences "
                        f"({listed(lacking)}); run the tracker on them, or score the rest with --allow-missing")


class Rows(NamedTuple):
    """A sequence's ground truth and predictions as a convention scores them: of one length and one pixel origin."""

    truth: Boxes
    """(N, 4) with the pixel origin of the annotation file."""
    boxes: Boxes
    """(N, 4) with the same origin; NaN where nothing was predicted."""
    lead_in: int
    """How many of the N rows lie before the first frame of the sequence."""
    broken: int
    repaired: int
    mismatch: Mismatch | None
    first_shift: Boxes
    """(4,) first predicted box minus first true box, as in the files."""


def _read(sequence: Sequence, path: Path, rules: Convention, *, shift: int) -> Rows:
    """Return a sequence's rows as a convention scores them; `shift` moves the file's pixel origin to the data set's."""
    boxes = read_result_rows(path)
    if shift:
        boxes = boxes + np.array([shift, shift, 0, 0])
    if not len(boxes):
        raise UserError(f"{path}: empty; expected {len(sequence)} lines x,y,w,h")
    if rules.refuses_broken_boxes:
        _refuse_broken(path, boxes, rules)
    truth, lead_in = sequence.file_xywh, 0
    if rules.scores_lead_in and len(sequence.lead_in_xywh):
        truth, lead_in = np.concatenate([sequence.file_lead_in_xywh, truth]), len(sequence.lead_in_xywh)
    repaired, num_repaired = repair_boxes(boxes, rules)
    fitted_truth, fitted, mismatch = _fit(sequence, path, truth, repaired, rules)
    if mismatch is not None and mismatch.action == ALIGNED:
        lead_in = 0
    first_shift = fitted[0] - fitted_truth[0]
    if rules.first_is_truth:
        fitted = np.concatenate([fitted_truth[:1], fitted[1:]])
    return Rows(fitted_truth, fitted, lead_in, int(broken_rows(boxes).sum()), num_repaired, mismatch, first_shift)


def _absent(sequence: Sequence, row: Rows) -> NDArray[np.bool_]:
    """Return in which of a sequence's scored rows the data set says that the target is not to be seen."""
    known = np.zeros(len(sequence), bool) if sequence.absent is None else sequence.absent
    return np.concatenate([np.zeros(row.lead_in, bool), known])[: len(row.truth)]


def _refuse_broken(path: Path, boxes: Boxes, rules: Convention) -> None:
    """Raise UserError for a predicted NaN or negative size, as pytracking does; an empty box it repairs."""
    bad = np.isnan(boxes).any(axis=1) | (boxes[:, 2:] < 0).any(axis=1)
    if bad.any():
        raise UserError(f"{path} line {int(bad.argmax()) + 1}: {_shown(boxes[bad.argmax()])} is no box "
                        f"({int(bad.sum())} of {len(boxes)} rows), which the {rules.name} convention refuses; "
                        "choose another --convention")


def _shown(box: Boxes) -> str:
    return ",".join(f"{value:g}" for value in box)


def _fit(
    sequence: Sequence, path: Path, truth: Boxes, boxes: Boxes, rules: Convention
) -> tuple[Boxes, Boxes, Mismatch | None]:
    """Return ground truth and predictions of one length, and what was done to get there."""
    expected, found = len(truth), len(boxes)
    if expected == found:
        return truth, boxes, None
    if sequence.num_lead_in and abs(expected - found) == sequence.num_lead_in and {expected, found} == {
            len(sequence), len(sequence) + sequence.num_lead_in}:
        # One of the two holds Tiger1's first five frames: cutting at the end would compare different frames.
        common = min(expected, found)
        return truth[-common:], boxes[-common:], Mismatch(sequence.name, expected, found, ALIGNED)
    if rules.length == "error" or (rules.length == "surplus" and found < expected):
        raise UserError(f"{path}: {found} rows for {expected} frames, which the {rules.name} convention refuses; "
                        "run the tracker on the whole sequence, or pass --length fit (missing frames are failures) or "
                        "--length truncate")
    if found > expected:
        return truth, boxes[:expected], Mismatch(sequence.name, expected, found, "surplus rows left out")
    if rules.length == "truncate":
        return truth[:found], boxes, Mismatch(sequence.name, expected, found, "ground truth cut to the result")
    padded = np.concatenate([boxes, np.zeros((expected - found, 4))])
    return truth, padded, Mismatch(sequence.name, expected, found, "missing rows are failures")


def _origin_notes(tracker: str, rows: Items[Rows]) -> tuple[str, ...]:
    """Return a warning when nearly every first box is the true one moved by exactly (-1, -1): a 0-based file."""
    off = np.array([row.first_shift for row in rows])
    share = float((off == np.array([-1, -1, 0, 0])).all(axis=1).mean())
    if share < 0.9:
        return ()
    return (f"{tracker}: first boxes lie 1 px left and above the ground truth in {share:.0%} of the sequences; "
            f"if its files are 0-based, pass --origin {tracker}=0",)


def listed(names: Items[str]) -> str:
    """Return names as text, the first few in full and how many more there are."""
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
