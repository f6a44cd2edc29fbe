"""Archives for the servers that score GOT-10k's and TrackingNet's test sets, whose ground truth is not public."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lib.benchmarks import Benchmark, Sequence, find_results, protocol_of, read_result
from lib.boxes import Boxes
from lib.errors import UserError
from lib.eval_toolkit.results import check_complete
from lib.files import atomic_write, read_json

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Date of every entry, so that the same results give the same archive."""


def is_submitted(dataset: str) -> bool:
    """Return whether a benchmark is scored by its authors' server alone."""
    return protocol_of(dataset) == "server"


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
            _check(files[sequence.name], sequence, boxes)
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


def _check(path: Path, sequence: Sequence, boxes_xywh: Boxes) -> None:
    """Raise UserError for rows that are no boxes, or not as many as the sequence has frames."""
    bad = ~np.isfinite(boxes_xywh).all(axis=1)
    if bad.any():
        raise UserError(f"{path} line {int(bad.argmax()) + 1}: not a finite box; the server takes no lost targets")
    if len(sequence) > 1 and len(boxes_xywh) != len(sequence):
        raise UserError(f"{path}: {len(boxes_xywh)} rows for {len(sequence)} images; run the tracker on the whole "
                        "sequence")


def _seconds_per_frame(folder: Path, name: str) -> float | None:
    """Return the mean time of a frame from the receipt that testing leaves beside a result, None without one."""
    path = folder / ".run" / f"{name}.json"
    if not path.is_file():
        return None
    receipt: Any = read_json(path)
    known = isinstance(receipt, dict) and receipt.get("frames") and receipt.get("seconds")
    return float(receipt["seconds"]) / int(receipt["frames"]) if known else None
