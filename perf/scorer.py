"""Speed of scoring: 16 trackers on a benchmark of OTB2015's size, against a plain loop, as one JSON line (CPU seconds).

Ground truth and result files are made up (OTB2015's 100 lengths, 59,035 frames), so it runs anywhere. The plain loop
reads numbers with float() and compares each threshold by itself, sequence by sequence, as the public toolkits do.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.benchmarks import Benchmark, Sequence, write_result
from lib.benchmarks.facts import OTB_FACTS as FACTS
from lib.eval_toolkit.protocols import score_results


def make_benchmark(rng: np.random.Generator) -> Benchmark:
    """Return a benchmark of OTB2015's names and lengths, each target on a random walk."""
    sequences = []
    for name, fact in FACTS.items():
        count = fact.num_frames
        corner = 150 + rng.normal(0, 2, (count, 2)).cumsum(axis=0)
        boxes = np.concatenate([np.abs(corner) + 5, rng.uniform(20, 80, 2) + rng.uniform(0, 3, (count, 2))], axis=1)
        sequences.append(Sequence(name, (), boxes.round(), fact.attributes))
    return Benchmark("OTB2015", tuple(sequences), len(sequences), (), Path("made-up"))


def write_tracker(folder: Path, benchmark: Benchmark, rng: np.random.Generator) -> None:
    """Write result files that drift off the ground truth."""
    for sequence in benchmark.sequences:
        drift = rng.normal(0, 1, (len(sequence), 2)).cumsum(axis=0) / 4
        boxes = sequence.boxes_xywh.copy()
        boxes[:, :2] += drift
        write_result(folder / f"{sequence.name}.txt", boxes, dataset=benchmark.name)


def plain_score(folder: Path, benchmark: Benchmark) -> tuple[float, float]:
    """Return success and precision the way the public toolkits compute them: file by file, threshold by threshold."""
    successes, precisions = [], []
    for sequence in benchmark.sequences:
        lines = (folder / f"{sequence.name}.txt").read_text(encoding="utf-8").splitlines()
        boxes = np.array([list(map(float, line.split(","))) for line in lines])
        truth = sequence.file_xywh
        low = np.maximum(boxes[:, :2], truth[:, :2])
        high = np.minimum(boxes[:, :2] + boxes[:, 2:], truth[:, :2] + truth[:, 2:])
        inter = np.prod(np.maximum(high - low, 0), axis=1)
        overlap = inter / (boxes[:, 2:].prod(axis=1) + truth[:, 2:].prod(axis=1) - inter)
        distance = np.sqrt((((boxes - truth)[:, :2] + (boxes - truth)[:, 2:] / 2) ** 2).sum(axis=1))
        successes.append([sum(value > t for value in overlap) / len(overlap) for t in np.arange(0, 1.05, 0.05)])
        precisions.append([sum(value <= t for value in distance) / len(distance) for t in range(51)])
    return float(np.mean(successes)), float(np.mean(precisions, axis=0)[20])


def main() -> None:
    """Print one JSON line: seconds for all trackers, and how many times faster than the plain loop that is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trackers", type=int, default=16)
    parser.add_argument("--plain", type=int, default=1, help="trackers that the plain loop scores, too")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    benchmark = make_benchmark(rng)
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / f"tracker{index:02d}" for index in range(args.trackers)]
        for folder in folders:
            write_tracker(folder, benchmark, rng)
        start = time.process_time()
        scores = [score_results(benchmark, folder, convention="pysot") for folder in folders]
        seconds = time.process_time() - start
        start = time.process_time()
        plain = [plain_score(folder, benchmark) for folder in folders[: args.plain]]
        plain_seconds = time.process_time() - start
    for score, (success, precision) in zip(scores, plain, strict=False):
        assert abs(score.values["success"] - success) < 1e-9, "the plain loop must agree"
        assert abs(score.values["precision"] - precision) < 1e-9, "the plain loop must agree"
    per_plain = plain_seconds / max(len(plain), 1)
    plain_seconds = per_plain * args.trackers
    print(json.dumps({
        "benchmark": "scorer", "trackers": args.trackers, "sequences": len(benchmark.sequences),
        "frames": benchmark.num_frames, "seconds": round(seconds, 3), "plain_seconds": round(plain_seconds, 2),
        "times_faster": round(plain_seconds / seconds, 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
