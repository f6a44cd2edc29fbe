"""Export a checkpoint to ONNX in several number formats: checked on real crops, timed and scored beside PyTorch.

    python tracking/export.py snapshot/checkpoint_e20.pth --out export --precision fp32 int8 --dataset OTB2015
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lib.benchmarks import Benchmark
from lib.checkpoint import EXPORTED_PARAMS, find_weights, load_model, params_beside
from lib.errors import UserError
from lib.eval_toolkit.protocols import is_one_pass
from lib.files import atomic_write, sha256_of
from lib.log import RunLog
from lib.models.ocean import Ocean_
from lib.testing.opening import pick_device
from lib.testing.run import Parser, boolean, params_for, positive, progress_bar, say_what_is_there
from lib.tools.cost import Course, commit, load, machine, milliseconds
from lib.tools.export_check import Difference, Pair, as_input, largest_difference, real_pairs
from lib.tools.export_graph import write_graphs
from lib.tools.quantize import Feed, compute_in_fp16, quantise, store_as_bf16
from lib.tools.trial import Scores, follow, load_videos, score
from lib.tracker.ocean import OceanTracker
from lib.tracker.onnx import (
    CROP,
    GRAPHS,
    RECORD,
    SEARCH,
    ExportRecord,
    Layout,
    feature_names,
    features_layout,
    flat_features,
    load_onnx,
)

# Largest differences that pass: score, and px in the search crop. Eight bits move boxes visibly and are judged by the
# score on a test set; this bound only catches an export that has gone wrong.
TOLERANCE = {"fp32": Difference(1e-3, 0.05), "fp16": Difference(0.05, 2.0), "bf16": Difference(0.1, 4.0),
             "int8": Difference(0.6, 60.0)}
ROUNDS = 5  # the formats take turns when they are timed
OPSET = 19
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """What is known of one number format."""

    name: str
    megabytes: float
    difference: Difference | None  # None: it is the one the others are compared with
    median_ms: float
    scores: Scores | None


def main(argv: Sequence[str] | None = None) -> int:
    """Export as the command line says and print the table; return 0. Raises UserError."""
    options = _parse(argv)
    with RunLog(main=True):
        model = load_model(options.checkpoint, align=options.align)
        _log.info("%s", model.load_report)
        if not is_one_pass(options.dataset):
            raise UserError(f"--dataset {options.dataset}: has no success and precision to compare formats by; "
                            f"use OTB2015 or another one-pass test set")
        benchmark = load_videos(options.dataset, options.dataset_dir, only=options.videos)
        say_what_is_there(benchmark)
        pairs = real_pairs(benchmark, 2 * options.crops)
        # What is checked was not calibrated on.
        calibration, check = pairs[::2], pairs[1::2]
        with tempfile.TemporaryDirectory() as scratch:
            graphs = Graphs(model, Path(scratch), opset=options.opset)
            folders = {name: export(graphs, options, name, calibration, check) for name in options.precision}
        text = _report(model, options, benchmark, folders)
    print(text)
    with atomic_write(options.out / "export.md") as file:
        file.write(text + "\n")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("export.py", description="Export a checkpoint to ONNX and compare it with PyTorch.",
                    allow_abbrev=False)
    parser.add_argument("checkpoint", type=Path,
                        help="e.g. snapshot/checkpoint_e20.pth, or shipped weights by name: OceanSmall")
    parser.add_argument("--out", type=Path, required=True, help="each number format goes to DIR/<format>")
    parser.add_argument("--precision", nargs="+", choices=tuple(TOLERANCE), default=["fp32"], help="number formats")
    parser.add_argument("--align", type=boolean, metavar="True|False", help="default: as the checkpoint")
    parser.add_argument("--dataset", default="OTB2015", help="test set whose crops are compared and calibrated on")
    parser.add_argument("--dataset_dir", type=Path, default=Path("dataset"), help="its folder, or that folder's parent")
    parser.add_argument("--videos", nargs="*", default=[], metavar="NAME", help="only these of its sequences")
    parser.add_argument("--crops", type=positive, default=60, help="crops to compare, and as many to calibrate int8 on")
    parser.add_argument("--tolerance", nargs=2, type=float, metavar=("SCORE", "PX"),
                        help="largest differences that pass; default: by number format")
    parser.add_argument("--opset", type=positive, default=OPSET, help="ONNX operator set")
    parser.add_argument("--score", type=boolean, default=True, metavar="True|False",
                        help="False: do not track the whole test set with each format")
    parser.add_argument("--params", type=Path, help="tracking hyper-parameters; default: as test_ocean.py's")
    parser.add_argument("--frames", type=positive, default=50, help="frames timed for each format")
    parser.add_argument("--device", default="", help="where both run: cpu, cuda or cuda:N")
    options = parser.parse_args(argv)
    options.checkpoint = find_weights(options.checkpoint)
    return options


class Graphs:
    """The graphs of a model as the exporter gives them, in float32, made when first asked for."""

    def __init__(self, model: Ocean_, folder: Path, *, opset: int) -> None:
        self.model, self.folder, self.opset = model, folder, opset
        self._layout: Layout | None = None

    def copy_to(self, folder: Path) -> Layout:
        """Copy both graphs into a folder and return how the template features are laid out."""
        if self._layout is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._layout = write_graphs(self.model, self.folder, opset=self.opset)
        for graph in GRAPHS:
            shutil.copyfile(self.folder / f"{graph}.onnx", folder / f"{graph}.onnx")
        return self._layout


def export(graphs: Graphs, options: argparse.Namespace, precision: str, calibration: Sequence[Pair],
           check: Sequence[Pair]) -> Path:
    """Return the folder of the exported model in one number format, which appears only when the check has passed.

    Raises UserError when the largest difference from PyTorch is above the tolerance.
    """
    model, folder = graphs.model, options.out / precision
    part = folder.with_name(f".{precision}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        layout = graphs.copy_to(part)
        feeds = _feeds(model, calibration) if precision == "int8" else {}
        for graph in GRAPHS:
            if precision == "fp16":
                compute_in_fp16(part / f"{graph}.onnx")
            elif precision == "bf16":
                store_as_bf16(part / f"{graph}.onnx")
            elif precision == "int8":
                quantise(part / f"{graph}.onnx", feeds[graph])
        record: dict[str, Any] = {
            "checkpoint": str(options.checkpoint), "checkpoint_sha256": sha256_of(options.checkpoint),
            "model": model.spec, "precision": precision, "opset": options.opset, "features": layout,
            "graphs": {graph: sha256_of(part / f"{graph}.onnx") for graph in GRAPHS}, "made_by": _made_by()}
        _write_record(part, ExportRecord(**record, differences={}))
        found = largest_difference(model, load_onnx(part), check)
        _log.info("%s: largest difference from PyTorch on %d real crops: score %.2g, box %.2g px", precision,
                  len(check), found.score, found.box)
        _judge(found, options, precision)
        _write_record(part, ExportRecord(**record, differences=found._asdict()))
        if beside := params_beside(options.checkpoint):
            shutil.copyfile(beside, part / EXPORTED_PARAMS)
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _judge(found: Difference, options: argparse.Namespace, precision: str) -> None:
    limit = Difference(*options.tolerance) if options.tolerance else TOLERANCE[precision]
    for name, value, most in zip(Difference._fields, found, limit, strict=True):
        if not value <= most:
            raise UserError(f"{options.out / precision}: the {name} differs from PyTorch's by up to {value:.3g}, above "
                            f"the tolerance of {most:g}; nothing is kept; try another --precision, or --tolerance "
                            f"SCORE PX")


def _write_record(folder: Path, record: ExportRecord) -> None:
    with atomic_write(folder / RECORD) as file:
        json.dump(record.as_json(), file, indent=1)


def _made_by() -> str:
    import onnx

    return f"torch {torch.__version__}, onnx {onnx.__version__}, commit {commit()}"


def _feeds(model: Ocean_, pairs: Sequence[Pair]) -> dict[str, list[Feed]]:
    """Return the calls that each graph is calibrated on."""
    feeds: dict[str, list[Feed]] = {graph: [] for graph in GRAPHS}
    with torch.inference_mode():
        for pair in pairs:
            z, x = as_input(pair.template), as_input(pair.search)
            template = model.template(z)
            names = feature_names(features_layout(template))
            parts = {name: part.numpy() for name, part in zip(names, flat_features(template), strict=True)}
            feeds["template"].append({CROP: z.numpy()})
            feeds["search"].append({SEARCH: x.numpy(), **parts})
    return feeds


def _report(model: Ocean_, options: argparse.Namespace, benchmark: Benchmark, folders: dict[str, Path]) -> str:
    """Return the table of PyTorch and each exported format: size, differences, speed in turns, scores."""
    params, source = params_for(options.params, benchmark.name, arch="Ocean", checkpoint=options.checkpoint)
    device, busy = pick_device(options.device), load()
    exported = [load_onnx(folder, device=str(device), threads=torch.get_num_threads()) for folder in folders.values()]
    trackers = [OceanTracker(model, params, device=device), *(OceanTracker(other, params) for other in exported)]
    courses = [Course(tracker) for tracker in trackers]
    seconds: list[list[float]] = [[] for _ in courses]
    for _ in range(ROUNDS):
        for course, taken in zip(courses, seconds, strict=True):
            taken += course.seconds(max(1, options.frames // ROUNDS))
    scores = score_all(trackers, benchmark) if options.score else [None] * len(trackers)
    sizes = [options.checkpoint.stat().st_size, *(_size(folder) for folder in folders.values())]
    differences = [None, *(Difference(**other.record.differences) for other in exported)]
    names = ["PyTorch fp32", *(f"ONNX {name}" for name in folders)]
    rows = [Row(name, size / 2**20, gap, float(milliseconds(taken)[1]), result)
            for name, size, gap, taken, result in zip(names, sizes, differences, seconds, scores, strict=True)]
    notes = [f"{len(benchmark.sequences)} of {benchmark.expected} sequences", f"tracker settings {source}"]
    if params.tuned_on:
        notes.append(f"tuned on {params.tuned_on}")
    return table(rows, dataset=benchmark.name, notes=notes, where=f"{machine(device, busy=busy)}; commit {commit()}")


def score_all(trackers: Sequence[OceanTracker], benchmark: Benchmark) -> list[Scores | None]:
    """Return the scores of each tracker on a test set, all of them following each video side by side."""
    found: list[dict[str, Any]] = [{} for _ in trackers]
    with progress_bar(benchmark.num_frames * len(trackers)) as bar:
        for track in follow(trackers, benchmark.sequences, on_frames=bar.update):
            found[track.tracker][track.job.name] = track.boxes_xywh
    return [score(benchmark.sequences, [boxes[name] for name in benchmark.names]) for boxes in found]


def _size(folder: Path) -> int:
    return sum((folder / f"{graph}.onnx").stat().st_size for graph in GRAPHS)


def table(rows: Sequence[Row], *, dataset: str, notes: Sequence[str], where: str) -> str:
    """Return the Markdown table; the first row is what the others are compared with."""
    lines = [f"| model | MB | score differs by | box differs by | frames/s | times | {dataset} success | difference | "
             "precision@20 | difference |", "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"]
    first = rows[0]
    for row in rows:
        gap = ["", ""] if row.difference is None else [f"{row.difference.score:.2g}", f"{row.difference.box:.2g} px"]
        speed = [f"{1000 / row.median_ms:.1f}", f"{first.median_ms / row.median_ms:.2f}"]
        marks = ["", "", "", ""]
        if row.scores is not None and first.scores is not None:
            for place, (value, true) in enumerate(zip(row.scores, first.scores, strict=True)):
                marks[2 * place:2 * place + 2] = [f"{value:.3f}", "" if row is first else f"{value - true:+.3f}"]
        lines.append("| " + " | ".join([row.name, f"{row.megabytes:.1f}", *gap, *speed, *marks]) + " |")
    lines += ["", f"Differences: the largest over real crops of 255, 271 and 287 px. Speed: median of a whole frame, "
                  f"taken in turns, reading the image not counted. {'; '.join(notes)}. Measured on {where}."]
    return "\n".join(lines)
