"""Test sets and result files: the sole owner of their formats, names, frame ranges and pixel origins.

Everything is read into `Benchmark` and `Sequence`, with boxes of origin 0. torch is never imported here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.benchmarks.box_files import RUN_FILE, find_results, flat_trackers, read_result_rows, read_stamp, write_boxes
from lib.benchmarks.facts import Benchmark, Sequence, VOTSequence, alias_key, with_origin, without_origin
from lib.benchmarks.layouts import LAYOUTS, Layout, layout_of, load_benchmark
from lib.benchmarks.readers import frame_flags
from lib.boxes import Boxes
from lib.errors import UserError
from lib.files import atomic_write

__all__ = [
    "LAYOUTS", "RUN_FILE", "Benchmark", "Layout", "Sequence", "VOTSequence", "find_results",
    "flat_trackers", "layout_of", "load_benchmark", "presence_file", "read_presence", "read_result",
    "read_result_rows", "read_stamp", "result_file", "result_folder", "with_origin", "without_origin", "write_presence",
    "write_result",
]  # fmt: skip


def result_folder(results: str | Path, dataset: str) -> Path:
    """Return `<results>/<canonical name>`, else the folder there under another name of the data set (`OTB100`)."""
    layout, root = layout_of(dataset), Path(results)
    folder = root / layout.name
    if folder.is_dir() or not root.is_dir():
        return folder
    keys = {alias_key(name) for name in (layout.name, *layout.also, *layout.results)}
    return next((path for path in sorted(root.iterdir()) if path.is_dir() and alias_key(path.name) in keys), folder)


def write_result(path: str | Path, boxes_xywh: Boxes, *, dataset: str) -> None:
    """Write finite boxes (N, 4), origin 0, as the data set's result file, 1-based for OTB, whole or not at all."""
    write_boxes(Path(path), with_origin(boxes_xywh, layout_of(dataset).origin))


def read_result(path: str | Path, *, dataset: str, origin: int | None = None) -> Boxes:
    """Return the boxes (N, 4), origin 0, of a result file; NaN rows (a lost target) are kept.

    `origin` (0 or 1) is the file's where it is not the data set's own. UserError with the line that is no box.
    """
    return without_origin(read_result_rows(path), layout_of(dataset).origin if origin is None else origin)


def presence_file(folder: str | Path, sequence_name: str) -> Path:
    """Return where a tracker's folder holds the presence of a sequence's frames, apart from the files of boxes."""
    return Path(folder) / "presence" / f"{sequence_name}.txt"


def write_presence(path: str | Path, presence: NDArray[np.float64]) -> None:
    """Write a tracker's presence (N,), 0..1, a line per frame with four decimals; NaN where it was not asked."""
    with atomic_write(Path(path)) as file:
        file.writelines(f"{value:.4f}\n" for value in presence.tolist())


def read_presence(folder: str | Path, sequence_name: str, *, frames: int) -> NDArray[np.float64] | None:
    """Return the presence (N,) of a sequence's frames, None without a file; UserError for another number or range."""
    path = presence_file(folder, sequence_name)
    values = frame_flags(path)
    if values is None:
        return None
    if len(values) != frames:
        raise UserError(f"{path}: {len(values)} lines for {frames} frames; expected one presence per frame, so run the "
                        f"tracker on this sequence again")
    bad = ~((values >= 0) & (values <= 1))
    if bad.any():
        raise UserError(f"{path} line {int(bad.argmax()) + 1}: {values[bad][0]:g}; expected a probability, 0 to 1")
    return values


def result_file(folder: str | Path, sequence_name: str) -> Path:
    """Return a sequence's result file in a tracker's folder: the one there under any alias, else the one to write."""
    path = Path(folder) / f"{sequence_name}.txt"
    return path if path.is_file() else find_results(folder, (sequence_name,)).get(sequence_name, path)
