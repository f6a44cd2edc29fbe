"""Test sets and result files: the sole owner of their formats, names, frame ranges and pixel origins.

Everything is read into `Benchmark` and `Sequence`, with boxes of origin 0. torch is never imported here.
"""

from __future__ import annotations

from pathlib import Path

from lib.benchmarks import otb
from lib.benchmarks.box_text import write_boxes
from lib.benchmarks.layouts import LAYOUTS, Layout, layout_of, load_layout, plain_layout
from lib.benchmarks.otb_facts import BENCHMARKS, alias_key, attribute_code
from lib.benchmarks.path_checks import check_places
from lib.benchmarks.records import Benchmark, Sequence, with_origin, without_origin
from lib.benchmarks.result_files import (
    RUN_FILE,
    find_results,
    flat_trackers,
    read_result_rows,
    read_stamp,
)
from lib.benchmarks.vot import is_vot, load_vot
from lib.benchmarks.vot_facts import NAMES as VOT_NAMES
from lib.boxes import Boxes
from lib.errors import UserError

__all__ = [
    "BENCHMARKS", "KNOWN_LAYOUTS", "RUN_FILE", "Benchmark", "Layout", "Sequence", "alias_key", "attribute_code",
    "find_results", "flat_trackers", "layout_of", "load_benchmark", "read_result", "read_result_rows", "read_stamp",
    "result_file", "result_origin", "write_result",
]  # fmt: skip

KNOWN_LAYOUTS = tuple(layout.name for layout in LAYOUTS.values())
"""Names of the benchmarks of `layouts`."""
_LABELS = (*BENCHMARKS, *VOT_NAMES, *(label for layout in LAYOUTS.values() for label in (layout.name, *layout.folders)))
"""What people call the folder of a data set."""


def load_benchmark(dataset: str, dataset_dir: str | Path, *, images: bool) -> Benchmark:
    """Return the test set called `dataset` as far as it lies in `dataset_dir`, its own folder or that folder's parent.

    OTB2015 (= OTB100), OTB50, OTB2013, VOT2015 to VOT2019 and those of `layouts` are known by name; any other name
    means folders in OTB's form or with a plain `groundtruth.txt`, or a JSON of that name in pysot's form, taken as they
    are. A JSON in the data set's folder is preferred to the
    folders, and these to a JSON beside. With `images` every sequence has its frames' paths, checked to exist.
    Sequences that are not there are listed in `missing`. Raises UserError when nothing is there, or something that is
    there is broken.
    """
    folder = Path(dataset_dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected the data set {dataset} or the folder it lies in")
    benchmark = _load(dataset, folder, images=images)
    check_places(benchmark, folder, {dataset, *_LABELS})
    return benchmark


def _load(dataset: str, folder: Path, *, images: bool) -> Benchmark:
    """Return what `load_benchmark` does, before names and places are checked."""
    if is_vot(dataset):
        return load_vot(dataset, folder, images=images)
    if (layout := layout_of(dataset)) is not None:
        return load_layout(layout, folder, images=images)
    names = _known_names(dataset)
    if names is None and _is_plain(folder, dataset):
        return load_layout(plain_layout(dataset), folder, images=images)
    source, (sequences, notes) = _read(dataset, folder, names, images=images)
    if not sequences:
        why = f" ({notes[0]})" if notes else ""
        what = "sequence with its images" if images else "sequence"
        raise UserError(f"{source}: no {what} of {dataset} found{why}; expected <Name>/groundtruth_rect.txt"
                        f"{' and <Name>/img' if images else ''}")
    found = {sequence.name: sequence for sequence in sequences}
    if names is None:
        return Benchmark(dataset, tuple(sequences), len(sequences), (), source, tuple(notes))
    return Benchmark(dataset, tuple(found[name] for name in names if name in found), len(names),
                     tuple(name for name in names if name not in found), source, tuple(notes))


def _known_names(dataset: str) -> tuple[str, ...] | None:
    """Return the names of a known benchmark in any case of letters, None when it is not known."""
    return {name.lower(): names for name, names in BENCHMARKS.items()}.get(dataset.lower())


def _read(dataset: str, folder: Path, names: tuple[str, ...] | None, *, images: bool) -> tuple[Path, otb.Found]:
    """Return where the data set was read from, and what was read."""
    # A sub-benchmark is often tested from the whole data set, whatever that folder is called.
    labels = [dataset] if names is None else [dataset, *(name for name in BENCHMARKS if name != dataset)]
    roots = [folder, *(folder / label for label in labels if (folder / label).is_dir())]
    image_roots = [*roots, *(folder.parent / label for label in labels)]
    for root in roots:
        for label in labels:
            if (path := root / f"{label}.json").is_file():
                return path, otb.read_json_sequences(path, names, image_roots=image_roots, images=images)
        if otb.has_ground_truth(root):
            return root, otb.read_folders(root, names, images=images)
    for label in labels:
        if (path := folder.parent / f"{label}.json").is_file():
            return path, otb.read_json_sequences(path, names, image_roots=image_roots, images=images)
    for root in roots:
        # Nothing has a ground truth: a sequence folder without one says so by name.
        otb.read_folders(root, names, images=images)
    raise UserError(f"{folder}: no ground truth of {dataset}; expected <Name>/groundtruth_rect.txt or {labels[0]}.json")


def _is_plain(folder: Path, dataset: str) -> bool:
    """Return whether a data set of no known name holds videos with `groundtruth.txt`, and none in OTB's form."""
    roots = [folder, folder / dataset]
    return not any(otb.has_ground_truth(root) for root in roots) and any(plain_layout(dataset).find(r) for r in roots)


def result_origin(dataset: str) -> int:
    """Return the pixel origin (0 or 1) of the result files of a data set; those of an unknown one are as OTB's, 1."""
    layout = layout_of(dataset)
    return otb.ORIGIN if layout is None else layout.origin


def write_result(path: str | Path, boxes_xywh: Boxes, *, dataset: str) -> None:
    """Write a tracker's boxes (N, 4), origin 0, as the data set's result file: `x,y,w,h` lines, 1-based for OTB.

    Four decimals; whole or not at all (UserError when the system refuses). Boxes must be finite.
    """
    write_boxes(Path(path), with_origin(boxes_xywh, result_origin(dataset)))


def read_result(path: str | Path, *, dataset: str, origin: int | None = None) -> Boxes:
    """Return the boxes (N, 4), origin 0, of a result file; NaN rows (a lost target) are kept.

    `origin` (0 or 1) is that of the file where it is not the data set's own. Raises UserError with the line that is
    not four numbers.
    """
    return without_origin(read_result_rows(path), result_origin(dataset) if origin is None else origin)


def result_file(folder: str | Path, sequence_name: str, *, dataset: str) -> Path:
    """Return a sequence's result file in a tracker's folder: the one there under any alias, else the one to write."""
    path = Path(folder) / f"{sequence_name}.txt"
    return path if path.is_file() else find_results(folder, (sequence_name,)).get(sequence_name, path)
