"""The same answer everywhere: one sequence, one checkpoint, every way of computing, against the CPU in float32.

    python perf/conformance.py --resume snapshot/OceanDemo/checkpoint_e4.pth --video Deer \
        [--dataset OTB2015 --dataset_dir dataset] [--onnx FOLDER ...] [--markdown]

Prints one JSON line or, with --markdown, the table of the README. For each way: the largest difference of x, y, w or
h of a box, px, where each frame is given the reference's state of the frame before; the same over a whole run, in
which a tracker feeds its answer back into the next crop, so that a small difference may grow without bound where the
target is lost; the largest difference of a frame's score (0..1) in that run; and the difference of the sequence's
success and precision. What the machine lacks is called "not measured".
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.benchmarks import Benchmark, Sequence, load_benchmark
from lib.checkpoint import load_model
from lib.errors import UserError, run
from lib.eval_toolkit.ope import CONVENTIONS, PRECISION_AT, curves, frame_errors
from lib.images import read_image
from lib.testing.batched import Job, Lockstep
from lib.testing.run import choose, params_for
from lib.tracker.ocean import OceanTracker, TrackerState
from lib.tracker.onnx import load_onnx

BATCH = 4  # sequences that advance together in the row "batched"
CUDA: dict[str, dict[str, Any]] = {
    "CUDA, float32": {}, "CUDA, bf16": {"amp": "bf16"}, "CUDA, fp16": {"amp": "fp16"},
    "CUDA, float32, compiled": {"compiled": True},
}


class Answer(NamedTuple):
    """What a tracker says of a sequence."""

    boxes_xywh: NDArray[np.float64]  # (N, 4)
    scores: NDArray[np.float64]  # (N - 1,) of the tracked frames
    states: list[TrackerState]


def follow(tracker: OceanTracker, sequences: list[Sequence], *, batch: int = 1) -> Answer:
    """Return the answer on the first of the sequences, all of them followed `batch` at a time."""
    name = sequences[0].name
    seen: list[TrackerState] = []

    def note(job: Job, _index: int, _image: Any, states: dict[int, TrackerState]) -> None:
        if job.sequence.name == name:
            seen.append(states[0])

    boxes = {track.job.sequence.name: track.boxes_xywh
             for track in Lockstep([tracker], batch=batch, watcher=note).follow(map(Job, sequences))}
    return Answer(boxes[name], np.array([state.score for state in seen[1:]]), seen)


def one_by_one(tracker: OceanTracker, sequence: Sequence, states: list[TrackerState]) -> float:
    """Return the largest difference, px, from the boxes of `states`, each frame being given the state before it."""
    template = tracker.init(read_image(sequence.frames[0]), sequence.boxes_xywh[0]).template
    worst = 0.0
    for before, after, path in zip(states, states[1:], sequence.frames[1:], strict=False):
        box = tracker.track(replace(before, template=template), read_image(path)).box_xywh
        worst = max(worst, float(np.abs(box - after.box_xywh).max()))
    return worst


def judged(sequence: Sequence, answer: Answer) -> tuple[float, float]:
    """Return success and precision, by pysot's rules."""
    rules = CONVENTIONS["pysot"]
    found = curves(frame_errors(sequence.file_xywh, answer.boxes_xywh + np.array([1, 1, 0, 0]), rules), [len(sequence)])
    return float(found["success"].mean()), float(found["precision"][0, PRECISION_AT])


Way = tuple[Callable[[], OceanTracker], int]  # makes the tracker; how many sequences advance together


def ways(args: argparse.Namespace, benchmark: Benchmark) -> dict[str, Way | None]:
    """Return each way of computing the answer by its name in the table; None where the machine lacks it."""
    params, _ = params_for(None, benchmark.name, arch="Ocean")

    def torch_way(*, batch: int = 1, **options: Any) -> Way:
        return lambda: OceanTracker(load_model(args.resume), params, **options), batch

    def onnx_way(folder: Path) -> Way:
        return lambda: OceanTracker(load_onnx(folder), params), 1

    found: dict[str, Way | None] = {
        "CPU, float32": torch_way(),
        "CPU, float32, again": torch_way(),
        f"CPU, float32, {BATCH} sequences at a time": torch_way(batch=BATCH),
        "CPU, float32, channels last": torch_way(channels_last=True),
        "CPU, float32, compiled": torch_way(compiled=True),
        "CPU, bf16": torch_way(amp="bf16"),
    }
    for folder in args.onnx:
        found[f"ONNX Runtime, CPU, {folder.name}"] = onnx_way(folder)
    for name, options in CUDA.items():
        found[name] = torch_way(device="cuda", **options) if torch.cuda.is_available() else None
    return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the differences of each way from the first."""
    benchmark = load_benchmark(args.dataset, args.dataset_dir, images=True)
    (sequence,) = choose(benchmark, args.video)
    rows: dict[str, dict[str, float] | None] = {}
    reference, score = None, (0.0, 0.0)
    for name, way in ways(args, benchmark).items():
        if way is None:
            rows[name] = None
            continue
        tracker, batch = way[0](), way[1]
        others = [other for other in benchmark.sequences if other.name != sequence.name][: batch - 1]
        answer = follow(tracker, [sequence, *others], batch=batch)
        success, precision = judged(sequence, answer)
        if reference is None:
            reference, score = answer, (success, precision)
        rows[name] = {"one_frame_px": one_by_one(tracker, sequence, reference.states),
                      "box_px": float(np.abs(answer.boxes_xywh - reference.boxes_xywh).max()),
                      "score": float(np.abs(answer.scores - reference.scores).max()),
                      "success": success - score[0], "precision": precision - score[1]}
    return {"benchmark": "conformance", "sequence": sequence.name, "frames": len(sequence), "success": score[0],
            "precision": score[1], "ways": rows, "torch": torch.__version__, "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}


def table(found: dict[str, Any]) -> str:
    """Return the Markdown table of `measure`'s findings."""
    lines = ["| computed on | largest box difference in one frame, px | in the whole run, px | of a score | success | "
             "precision |", "|---|---|---|---|---|---|"]
    for name, row in found["ways"].items():
        if row is None:
            cells = ["not measured"] * 5
        else:
            cells = [f"{row['one_frame_px']:.2g}", f"{row['box_px']:.2g}", f"{row['score']:.2g}",
                     f"{row['success']:+.4f}", f"{row['precision']:+.4f}"]
        if name == next(iter(found["ways"])):
            cells = ["reference"] * 3 + [f"{found['success']:.4f}", f"{found['precision']:.4f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Measure as the command line says and print the findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resume", type=Path, required=True, help="a checkpoint")
    parser.add_argument("--dataset", default="OTB2015")
    parser.add_argument("--dataset_dir", type=Path, default=Path("dataset"))
    parser.add_argument("--video", required=True, help="the sequence")
    parser.add_argument("--onnx", type=Path, nargs="+", default=[], help="folders that tracking/export.py wrote of it")
    parser.add_argument("--markdown", action="store_true", help="print the table instead of the JSON line")
    args = parser.parse_args()
    if not args.video:
        raise UserError("--video: name one sequence")
    found = measure(args)
    print(table(found) if args.markdown else json.dumps(found))
    return 0


if __name__ == "__main__":
    run(main)
