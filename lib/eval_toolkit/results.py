"""Trackers' result folders: found, read, brought to the ground truth's length, and packed for a server."""

from __future__ import annotations

import difflib
import fnmatch
import glob
import zipfile
from collections.abc import Collection, Iterator, Sequence as Items
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib.benchmarks import Benchmark, Sequence, layout_of, read_presence, read_result, result_folder, with_origin
from lib.benchmarks.box_files import find_results, flat_trackers, read_result_rows
from lib.boxes import Boxes
from lib.errors import UserError, listed
from lib.eval_toolkit.ope import Convention, Flags, Floats, broken_rows, invalid_rows, repair_boxes
from lib.files import atomic_write, read_json

ALIGNED = "aligned by leaving out the frames before the first tracked one"
"""What is done where result and ground truth differ by Tiger1's first five frames."""
_EPOCH = (1980, 1, 1, 0, 0, 0)  # date of every entry of an archive, so that the same results give the same archive


class Mismatch(NamedTuple):
    """A result file whose number of rows is not the ground truth's, and what was done about it."""

    sequence: str
    expected: int
    found: int
    action: str


def find_trackers(result_dirs: Items[Path], patterns: Items[str], *, dataset: str) -> dict[str, Path]:
    """Return the result folders that names or globs pick below `result_dirs`, by tracker, in the patterns' order.

    A result folder may also be the parent of a folder called as the data set, or the OTB toolkit's flat folder. A
    glob skips folders without result files and those whose name starts with "_" or "."; a name that is not there is
    a UserError with the nearest one. A tracker in two of `result_dirs` is one if its files are the same, else both
    come under names that tell them apart.
    """
    folders: dict[str, list[Path]] = {}
    for result_dir in dict.fromkeys(result_dirs):
        for name, folder in _trackers_below(result_dir, dataset).items():
            folders.setdefault(name, []).append(folder)
    picked: dict[str, Path] = {}
    for pattern in patterns:
        names = [pattern] if pattern in folders else [
            name for name in fnmatch.filter(folders, pattern) if any(map(_has_results, folders[name]))]
        told = {own: folder for name, found in folders.items() if pattern.startswith(f"{name} (")
                for own, folder in _told_apart(name, found).items() if own == pattern}  # as a table calls it
        picked |= told
        if not names and not told:
            near = difflib.get_close_matches(pattern, folders, n=1) or list(folders)[:1]
            raise UserError(f"{', '.join(map(str, result_dirs))}: no results of {pattern!r}; there are "
                            f"{listed(list(folders))}; did you mean {near[0]!r}?")
        for name in names:
            picked |= _told_apart(name, folders[name])
    return picked


def _told_apart(name: str, folders: Items[Path]) -> dict[str, Path]:
    """Return folders of one tracker's name by names of their own, those that hold the same results once.

    What is added to the name is the first part of the paths in which all of them differ.
    """
    different = list({_content(folder): folder for folder in reversed(folders)}.values())[::-1]
    if len(different) == 1:
        return {name: different[0]}
    paths = [folder.absolute().parent.parts for folder in different]
    column = next((parts for parts in zip(*paths, strict=False) if len(set(parts)) == len(paths)),
                  tuple(str(folder.parent) for folder in different))
    return {f"{name} ({part})": folder for part, folder in zip(column, different, strict=True)}


def _content(folder: Path) -> frozenset[tuple[str, bytes]]:
    """Return the result files of a tracker's folder, or of its name in a flat one."""
    inside = folder.is_dir()
    files = folder.rglob("*") if inside else folder.parent.glob(f"*_{glob.escape(folder.name)}.*")
    base = folder if inside else folder.parent
    return frozenset((path.relative_to(base).as_posix(), path.read_bytes()) for path in files
                     if path.suffix in (".txt", ".mat"))


def _trackers_below(result_dir: Path, dataset: str) -> dict[str, Path]:
    """Return each tracker's folder of results, or that of the data set in it (OSTrack); UserError for none."""
    own = result_folder(result_dir, dataset)
    root = own if own.is_dir() else result_dir
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; expected one folder of result files per tracker")
    folders = {path.name: inner if (inner := result_folder(path, dataset)).is_dir() else path
               for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith((".", "_"))}
    # The OTB toolkit's layout has no folders: a name in it stands for the files <sequence>_<name>.mat.
    folders |= {name: root / name for name in flat_trackers(root) if name not in folders}
    if not folders:
        raise UserError(f"{root}: no tracker's folder in it; expected {root}/<tracker>/<Sequence>.txt")
    return folders


def _has_results(folder: Path) -> bool:
    return not folder.is_dir() or any(
        path.suffix in (".txt", ".mat") or path.name in ("baseline", "longterm")
        or any((path / f"{path.name}{end}.txt").is_file() for end in ("", "_001")) for path in folder.iterdir())


def read_rows(
    benchmark: Benchmark, folder: Path, rules: Convention, *, origin: int | None = None, allow_missing: bool = False
) -> dict[str, Rows]:
    """Return the rows of each sequence with a result, by name; UserError for missing ones and what `rules` refuse."""
    files = find_results(folder, benchmark.names)
    check_complete(benchmark, folder, files, allow_missing=allow_missing)
    shift = 0 if origin is None else layout_of(benchmark.name).origin - origin
    return {sequence.name: _read(sequence, files[sequence.name], rules, shift=shift)._replace(
                presence=read_presence(folder, sequence.name, frames=len(sequence)))
            for sequence in benchmark.sequences if sequence.name in files}


def check_complete(
    benchmark: Benchmark, folder: Path, files: Collection[str], *, allow_missing: bool = False, example: str = "{0}.txt"
) -> None:
    """Raise UserError unless data set and results are whole, or `allow_missing` and there is some result."""
    absent = benchmark.expected - len(benchmark.sequences)
    if absent > 0 and not allow_missing:
        names = f" ({listed(benchmark.missing)})" if benchmark.missing else ""
        raise UserError(f"{benchmark.source}: {absent} of {benchmark.expected} sequences of {benchmark.name} are "
                        f"missing{names}; complete the data set, or score what is there with --allow-missing")
    if not files:
        raise UserError(f"{folder}: no result file of {benchmark.name} in it; expected "
                        f"{example.format(benchmark.names[0])} and so on, one line x,y,w,h per frame")
    lacking = [name for name in benchmark.names if name not in files]
    if lacking and not allow_missing:
        raise UserError(f"{folder}: no result of {len(lacking)} of {len(benchmark.names)} sequences "
                        f"({listed(lacking)}); run the tracker on them, or score the rest with --allow-missing")


class Rows(NamedTuple):
    """A sequence's ground truth and predictions as a convention scores them: of one length and one pixel origin."""

    truth: Boxes  # (N, 4) with the pixel origin of the annotation file
    boxes: Boxes  # (N, 4) with the same origin; NaN where nothing was predicted
    lead_in: int  # how many of the N rows lie before the first frame of the sequence
    absent: Flags  # (N,) rows in which the data set says that the target is not to be seen
    odd: dict[str, int]  # how many invalid (any of x, y, w, h <= 0), broken and repaired rows there are
    mismatch: Mismatch | None
    first_shift: Boxes  # (4,) first predicted box minus first true box, as in the files
    presence: Floats | None = None  # (N - lead_in,) probability that the box shows the target, where the folder tells


def _read(sequence: Sequence, path: Path, rules: Convention, *, shift: int) -> Rows:
    """Return a sequence's rows as a convention scores them; `shift` moves the file's pixel origin to the data set's."""
    boxes = read_result_rows(path)
    if shift:
        boxes = boxes + np.array([shift, shift, 0, 0])
    if not len(boxes):
        raise UserError(f"{path}: empty; expected {len(sequence)} lines x,y,w,h")
    bad = np.isnan(boxes).any(axis=1) | (boxes[:, 2:] < 0).any(axis=1)
    if rules.refuses_broken_boxes and bad.any():  # as pytracking does; an empty box it repairs
        first = int(bad.argmax())
        raise UserError(f"{path} line {first + 1}: {','.join(f'{value:g}' for value in boxes[first])} is no box "
                        f"({int(bad.sum())} of {len(boxes)} rows), which the {rules.name} convention refuses; "
                        "choose another --convention")
    truth, lead_in = sequence.file_xywh, 0
    if rules.scores_lead_in and len(sequence.lead_in_xywh):
        truth = np.concatenate([with_origin(sequence.lead_in_xywh, sequence.origin), truth])
        lead_in = len(sequence.lead_in_xywh)
    repaired, num_repaired = repair_boxes(boxes, rules)
    fitted_truth, fitted, mismatch = _fit(sequence, path, truth, repaired, rules)
    if mismatch is not None and mismatch.action == ALIGNED:
        lead_in = 0
    first_shift = fitted[0] - fitted_truth[0]
    if rules.first_is_truth:
        fitted = np.concatenate([fitted_truth[:1], fitted[1:]])
    absent = np.zeros(len(sequence), bool) if sequence.absent is None else sequence.absent
    absent = np.concatenate([np.zeros(lead_in, bool), absent])[: len(fitted_truth)]
    if sequence.sparse:
        counts = sequence.annotated[: len(fitted_truth)]
        fitted_truth, fitted, absent = fitted_truth[counts], fitted[counts], absent[counts]
    odd = {"invalid_rows": int(invalid_rows(fitted_truth, "any").sum()),
           "broken_boxes": int(broken_rows(boxes).sum()), "repaired_boxes": num_repaired}
    return Rows(fitted_truth, fitted, lead_in, absent, odd, mismatch, first_shift)


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
                        "run the tracker on all, or pass --length fit (missing frames are failures) or truncate")
    if found > expected:
        return truth, boxes[:expected], Mismatch(sequence.name, expected, found, "surplus rows left out")
    if rules.length == "truncate":
        return truth[:found], boxes, Mismatch(sequence.name, expected, found, "ground truth cut to the result")
    padded = np.concatenate([boxes, np.zeros((expected - found, 4))])
    return truth, padded, Mismatch(sequence.name, expected, found, "missing rows are failures")


def first_box_notes(tracker: str, rows: Items[Rows]) -> tuple[str, ...]:
    """Return a warning when nearly every first box is the true one moved by exactly (-1, -1): a 0-based file."""
    off = np.array([row.first_shift for row in rows])
    share = float((off == np.array([-1, -1, 0, 0])).all(axis=1).mean())
    if share < 0.9:
        return ()
    return (f"first boxes lie 1 px left and above the ground truth in {share:.0%} of the sequences; "
            f"if its files are 0-based, pass --origin {tracker}=0",)


def pack_submission(
    benchmark: Benchmark, folder: Path, archive: Path, *, origin: int | None = None, allow_missing: bool = False
) -> list[str]:
    """Return what must be said after packing a tracker's results into the zip file `archive`.

    GOT-10k: `<sequence>/<sequence>_001.txt`, and `_time.txt` with the seconds of each frame where the results tell how
    long a sequence took (the got10k toolkit's form). TrackingNet: `<sequence>.txt`. Lines are x,y,w,h, 0-based.
    Raises UserError for missing results, and for one whose number of rows is not that of the images.
    """
    files = find_results(folder, benchmark.names)
    check_complete(benchmark, folder, files, allow_missing=allow_missing)
    unchecked, untimed = [], []
    with atomic_write(archive, mode="wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for sequence in benchmark.sequences:
            if sequence.name not in files:
                continue
            boxes = read_result(files[sequence.name], dataset=benchmark.name, origin=origin)
            _check_finite(files[sequence.name], sequence, boxes)
            unchecked += [sequence.name] if len(sequence) == 1 else []
            seconds = _seconds_per_frame(folder, sequence.name)
            untimed += [sequence.name] if seconds is None else []
            for name, text in _entries(benchmark.name, sequence.name, boxes, seconds):
                packed.writestr(zipfile.ZipInfo(name, _EPOCH), text, zipfile.ZIP_DEFLATED)
    said = [f"{benchmark.name}: {len(files)} of {benchmark.expected} sequences packed; upload the archive to the "
            "benchmark's server"]
    if unchecked:
        said.append(f"{len(unchecked)} sequences have no images here: their number of rows is unchecked")
    if untimed and benchmark.name.startswith("GOT10K"):
        said.append(f"{len(untimed)} results do not tell how long they took: no _time.txt for them")
    return said


def _entries(dataset: str, name: str, boxes_xywh: Boxes, seconds: float | None) -> Iterator[tuple[str, str]]:
    """Return the files of one sequence in the archive: path and text."""
    rows = "".join(f"{x:.4f},{y:.4f},{w:.4f},{h:.4f}\n" for x, y, w, h in boxes_xywh.tolist())
    if not dataset.startswith("GOT10K"):
        yield f"{name}.txt", rows
        return
    yield f"{name}/{name}_001.txt", rows
    if seconds is not None:
        yield f"{name}/{name}_time.txt", f"{seconds:.8f}\n" * len(boxes_xywh)


def _check_finite(path: Path, sequence: Sequence, boxes_xywh: Boxes) -> None:
    """Raise UserError for rows that are no boxes, or not as many as the sequence has frames."""
    bad = ~np.isfinite(boxes_xywh).all(axis=1)
    if bad.any():
        raise UserError(f"{path} line {int(bad.argmax()) + 1}: not a finite box; the server takes no lost targets")
    if len(sequence) > 1 and len(boxes_xywh) != len(sequence):
        raise UserError(f"{path}: {len(boxes_xywh)} rows for {len(sequence)} images; run the tracker on all")


def _seconds_per_frame(folder: Path, name: str) -> float | None:
    """Return the mean time of a frame from the receipt that testing leaves beside a result, None without one."""
    path = folder / ".run" / f"{name}.json"
    if not path.is_file():
        return None
    receipt: Any = read_json(path)
    known = isinstance(receipt, dict) and receipt.get("frames") and receipt.get("seconds")
    return float(receipt["seconds"]) / int(receipt["frames"]) if known else None
