"""Processor time per frame of several trackers on the same real frames, in turns, one thread each, as one JSON line.

    python perf/peers.py --dataset_dir ../shared/data/OTB_sample --videos Deer Man \
        --trackers opencv:Nano=../shared/data/peers/nanotrackv2 Ocean=OceanLite OceanONNX=export/fp32

A tracker is ARCH=PATH: what test_ocean.py takes as --arch (or --tracker) and --resume. All follow a video frame by
frame together, so a busy moment of the machine falls on none of them; the median over the frames counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.benchmarks import Sequence
from lib.images import read_image
from lib.testing.opening import open_tracker
from lib.testing.run import params_for
from lib.tools.measure import load_videos
from lib.tracker import Tracker


def follow(trackers: list[Tracker], video: Sequence) -> np.ndarray:
    """Return the processor's milliseconds (frames, trackers) of each frame after the first."""
    image = read_image(video.frames[0])
    states = [tracker.init(image, video.boxes_xywh[0]) for tracker in trackers]
    taken = np.zeros((len(video) - 1, len(trackers)))
    for index, path in enumerate(video.frames[1:]):
        image = read_image(path)
        for number, tracker in enumerate(trackers):
            start = time.process_time()
            states[number] = tracker.track(states[number], image)
            taken[index, number] = 1000 * (time.process_time() - start)
    return taken


def main() -> None:
    """Measure as the command line says and print one JSON line."""
    parser = argparse.ArgumentParser(description="Processor time per frame of several trackers.")
    parser.add_argument("--trackers", nargs="+", required=True, metavar="ARCH=PATH")
    parser.add_argument("--dataset", default="OTB2015")
    parser.add_argument("--dataset_dir", type=Path, default=Path("dataset"))
    parser.add_argument("--videos", nargs="+", default=[])
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    benchmark = load_videos(args.dataset, args.dataset_dir, only=args.videos)
    trackers: list[Tracker] = []
    for text in args.trackers:
        arch, _, path = text.partition("=")
        params, _ = params_for(None, benchmark.name, arch=arch, checkpoint=Path(path))
        trackers.append(open_tracker(arch, Path(path), params))
    taken = np.concatenate([follow(trackers, video) for video in benchmark.sequences])
    middle = np.median(taken, axis=0)
    print(json.dumps({
        "benchmark": "peers", "frames": len(taken), "torch": torch.__version__, "opencv": cv2.__version__,
        "milliseconds": dict(zip(args.trackers, middle.round(2).tolist(), strict=True)),
        "times the first": dict(zip(args.trackers, (middle / middle[0]).round(2).tolist(), strict=True))}))


if __name__ == "__main__":
    main()
