"""Weights for others: a checkpoint as ONNX in several number formats, or in half precision under a name of its own.

Each exported format is checked on real crops, timed and scored beside PyTorch.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lib.benchmarks import Benchmark
from lib.checkpoint import (
    EXPORTED_PARAMS,
    WEIGHTS_ROOT,
    find_weights,
    load_model,
    params_beside,
    read_checkpoint,
    save_checkpoint,
)
from lib.errors import UserError
from lib.eval_toolkit.protocols import check_scored_here
from lib.eval_toolkit.tables import Cell, Table, markdown_table
from lib.files import check_output, sha256_of, write_whole
from lib.log import RunLog
from lib.models.ocean import Ocean_
from lib.options import ExportOptions, ReleaseOptions
from lib.testing.opening import pick_device
from lib.testing.results import record_of
from lib.testing.run import params_for, progress_bar, say_what_is_there
from lib.tools import measure
from lib.tools.export_graph import (
    Check,
    Difference,
    Graphs,
    Pair,
    calibration_feeds,
    compute_in_fp16,
    largest_difference,
    quantize,
    real_pairs,
    store_as_bf16,
    write_graphs,
)
from lib.tracker.ocean import OceanTracker
from lib.tracker.onnx import GRAPHS, RECORD, ExportRecord, load_onnx

# Largest differences that pass: score, and px in the search crop. Eight bits move boxes visibly and are judged by the
# score on a test set; this bound only catches an export that has gone wrong.
TOLERANCE = {"fp32": Difference(1e-3, 0.05), "fp16": Difference(0.05, 2.0), "bf16": Difference(0.1, 4.0),
             "int8": Difference(0.6, 60.0)}
MOST_BYTES = 8_000_000  # of released weights: what a repository should carry
KEPT = ("arch", "epoch", "model", "config", "torch")  # plain values that say where released weights come from
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """What is known of one number format."""

    name: str
    megabytes: float
    difference: Difference | None  # None: it is the one the others are compared with
    speed: measure.Speed
    scores: measure.Values | None


def main(options: ExportOptions) -> int:
    """Export a checkpoint as the options say and print the table; return 0. Raises UserError."""
    options = replace(options, checkpoint=find_weights(options.checkpoint))
    if options.tolerance and len(options.tolerance) != 2:
        raise UserError(f"--tolerance {' '.join(map(str, options.tolerance))}: expected two numbers, SCORE PX")
    check_scored_here(options.dataset)
    check_output(options.out, flag="--out")
    with RunLog(main=True):
        model = load_model(options.checkpoint, align=options.align, online=False, presence=False)
        _log.info("%s", model.load_report)
        benchmark = measure.load_videos(options.dataset, options.dataset_dir, only=options.videos)
        say_what_is_there(benchmark)
        pairs = real_pairs(benchmark, 2 * options.crops)
        # What is checked was not calibrated on.
        calibration, check = pairs[::2], Check.of(model, pairs[1::2])
        with tempfile.TemporaryDirectory() as scratch:
            graphs = write_graphs(model, Path(scratch), opset=options.opset)
            folders: dict[str, Path] = {
                name: export(graphs, options, name, calibration, check) for name in options.precision}
        text = _report(model, options, benchmark, folders)
    print(text)
    write_whole(options.out / "export.md", text + "\n")
    return 0


def export(graphs: Graphs, options: ExportOptions, precision: str, calibration: Sequence[Pair],
           check: Check) -> Path:
    """Return the folder of the exported model in one number format, which appears only when the check has passed.

    Raises UserError when the largest difference from PyTorch is above the tolerance.
    """
    folder = options.out / precision
    part = folder.with_name(f".{precision}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        import onnx

        _write_format(graphs, part, precision, calibration)
        record = ExportRecord(
            checkpoint=str(options.checkpoint), checkpoint_sha256=sha256_of(options.checkpoint),
            model=graphs.model.spec, precision=precision, opset=options.opset, features=graphs.layout,
            graphs={graph: sha256_of(part / f"{graph}.onnx") for graph in GRAPHS}, differences={},
            made_by=f"torch {torch.__version__}, onnx {onnx.__version__}, commit {measure.commit()}")
        write_whole(part / RECORD, json.dumps(asdict(record), indent=1))
        found = largest_difference(check, load_onnx(part))
        _log.info("%s: largest difference from PyTorch on %d real crops: score %.2g, box %.2g px", precision,
                  len(check.pairs), found.score, found.box)
        _judge(found, options, precision)
        record = replace(record, differences=found._asdict())
        write_whole(part / RECORD, json.dumps(asdict(record), indent=1))
        if beside := params_beside(options.checkpoint):
            shutil.copyfile(beside, part / EXPORTED_PARAMS)
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _write_format(graphs: Graphs, folder: Path, precision: str, calibration: Sequence[Pair]) -> None:
    feeds = calibration_feeds(graphs.model, calibration) if precision == "int8" else {}
    for graph in GRAPHS:
        path = Path(shutil.copy(graphs.folder / f"{graph}.onnx", folder))
        if precision == "fp16":
            compute_in_fp16(path)
        elif precision == "bf16":
            store_as_bf16(path)
        elif precision == "int8":
            quantize(path, feeds[graph])


def _judge(found: Difference, options: ExportOptions, precision: str) -> None:
    limit = Difference(*options.tolerance) if options.tolerance else TOLERANCE[precision]
    for name, value, most in zip(Difference._fields, found, limit, strict=True):
        if not value <= most:
            raise UserError(f"{options.out / precision}: the {name} differs from PyTorch's by up to {value:.3g}, above "
                            f"the tolerance of {most:g}; nothing is kept; try another --precision, or --tolerance "
                            f"SCORE PX")


def _report(model: Ocean_, options: ExportOptions, benchmark: Benchmark, folders: Mapping[str, Path]) -> str:
    """Return the table of PyTorch and each exported format: size, differences, speed in turns, scores."""
    params, source = params_for(options.params, benchmark.name, arch="Ocean", checkpoint=options.checkpoint)
    device, busy = pick_device(options.device), measure.load()
    exported = [load_onnx(folder, device=str(device)) for folder in folders.values()]
    trackers = [OceanTracker(model, params, device=device), *(OceanTracker(other, params) for other in exported)]
    speeds = measure.time_in_turns([measure.FrameTimer(tracker).seconds for tracker in trackers], options.frames)
    scores: list[measure.Values] | list[None] = [None] * len(trackers)
    if options.score:
        record = record_of(options.checkpoint, model=model.spec, params=params, params_source=source,
                           dataset=benchmark.name, data_source=benchmark.source)
        with progress_bar(benchmark.num_frames * len(trackers)) as bar:
            (_, scores), = measure.follow_and_score(trackers, record, benchmark, [benchmark.sequences],
                                                    on_frames=bar.update)
    sizes = [options.checkpoint.stat().st_size, *(sum(path.stat().st_size for path in folder.glob("*.onnx"))
                                                  for folder in folders.values())]
    differences = [None, *(Difference(**other.record.differences) for other in exported)]
    names = ["PyTorch fp32", *(f"ONNX {name}" for name in folders)]
    rows = [Row(name, size / 2**20, gap, speed, result) for name, size, gap, speed, result
            in zip(names, sizes, differences, speeds, scores, strict=True)]
    notes = [f"{len(benchmark.sequences)} of {benchmark.expected} sequences", f"tracker settings {source}"]
    if params.tuned_on:
        notes.append(f"tuned on {params.tuned_on}")
    where = f"{measure.machine(device, busy=busy)}; commit {measure.commit()}"
    return table(rows, dataset=benchmark.name, notes=notes, where=where)


def table(rows: Sequence[Row], *, dataset: str, notes: Sequence[str], where: str) -> str:
    """Return the Markdown table; the first row is what the others are compared with."""
    first = rows[0]
    names = list(first.scores or {})[:2]  # such as success and precision
    lines: list[tuple[Cell, ...]] = []
    for row in rows:
        gap = ["", ""] if row.difference is None else [f"{row.difference.score:.2g}", f"{row.difference.box:.2g} px"]
        marks: list[Cell] = []
        for name in names:
            value, true = (row.scores or {})[name], (first.scores or {})[name]
            marks += [value, "" if row is first else f"{value - true:+.3f}"]
        lines.append((row.name, f"{row.megabytes:.1f}", *gap, f"{1000 / row.speed.median:.1f}",
                      f"{first.speed.median / row.speed.median:.2f}", *marks))
    columns = ["model", "MB", "score differs by", "box differs by", "frames/s", "times",
               *(text for name in names for text in (f"{dataset} {name}", "difference"))]
    note = (f"Differences: the largest over real crops of 255, 271 and 287 px. Speed: median of a whole frame, taken "
            f"in turns, reading the image not counted. {'; '.join(notes)}. Measured on {where}.")
    return f"{markdown_table(Table('', tuple(columns), tuple(lines)))}\n\n{note}"


def release(options: ReleaseOptions) -> int:
    """Write a checkpoint's weights for `--resume NAME`, check that they load, print where they are; return 0.

    A card and the tracking hyper-parameters belong beside them. Raises UserError.
    """
    path = (options.out or WEIGHTS_ROOT) / f"{options.name}.pth"
    checkpoint, part = find_weights(options.checkpoint), path.with_name(f".{options.name}.part.pth")
    save_checkpoint(part, slim(read_checkpoint(checkpoint)))
    try:
        size = part.stat().st_size
        if size > MOST_BYTES:
            raise UserError(f"{checkpoint}: {size / 1e6:.1f} MB in half precision, more than {MOST_BYTES / 1e6:.0f}; "
                            f"publish weights of this size elsewhere")
        load_model(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    print(f"{path}: {size / 1e6:.2f} MB, sha256 {sha256_of(path)}")
    return 0


def slim(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's weights in half precision with its plain values; counters and the optimizer are left out.

    Variances stay float32: they may be larger than half precision's 65504 (conv1's can, its input is 0 to 255).
    """
    weights = {name: tensor if name.endswith("running_var") else tensor.half()
               for name, tensor in checkpoint["state_dict"].items() if not name.endswith("num_batches_tracked")}
    return {key: checkpoint[key] for key in KEPT if key in checkpoint} | {"state_dict": weights}
