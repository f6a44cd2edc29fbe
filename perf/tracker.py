"""Speed of the tracker: frames/s and the share of cropping, network and scoring, as one JSON line.

    python perf/tracker.py --search 255 --frames 20 [--batch 8] [--device cuda --amp fp16 --compile] [--small]

The images are noise of 640 x 480 and the weights random: neither changes the work. The target stays where it is, since
a random network would wander to crops of any size.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.checkpoint import load_model
from lib.models.models import build_model
from lib.tracker.ocean import OceanTracker, TrackerState, search_crop
from lib.tracker.params import TrackerParams

_SMALL: dict[str, Any] = {"backbone": "ResNetSmall", "channels": 64, "towernum": 2}


def measure(tracker: OceanTracker, states: list[TrackerState], image: np.ndarray, *, frames: int) -> dict[str, float]:
    """Return the seconds of each part over `frames` steps of all states."""
    spent = dict.fromkeys(("crop", "network", "scoring"), 0.0)
    for _ in range(frames):
        laps = [time.perf_counter()]
        crops = [search_crop(state, image) for state in states]
        laps.append(time.perf_counter())
        prediction = tracker.predict(states, crops)()
        laps.append(time.perf_counter())
        tracker.update(states, crops, prediction)
        laps.append(time.perf_counter())
        for part, (start, end) in zip(spent, itertools.pairwise(laps), strict=True):
            spent[part] += end - start
    return spent


def main() -> None:
    """Measure as the command line says and print one JSON line."""
    parser = argparse.ArgumentParser(description="Speed of the tracker.")
    parser.add_argument("--search", type=int, default=255, choices=(255, 271, 287))
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--amp", default="none", choices=("none", "bf16", "fp16"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--small", action="store_true", help="the demonstration's size instead of the full Ocean")
    parser.add_argument("--resume", type=Path, help="a checkpoint's model, or OceanSmall, instead")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (480, 640, 3), dtype=np.uint8)
    params = TrackerParams(small_sz=args.search, big_sz=args.search)
    model = load_model(args.resume) if args.resume else build_model(**(_SMALL if args.small else {}))
    tracker = OceanTracker(model, params, device=args.device, amp=args.amp, compiled=args.compile)
    states = [tracker.init(image, [100 + 10 * i % 300, 120, 60, 80]) for i in range(args.batch)]
    measure(tracker, states, image, frames=3)  # kernels are chosen, memory is taken, code is compiled
    spent = measure(tracker, states, image, frames=args.frames)
    whole = sum(spent.values())
    name = torch.cuda.get_device_name(tracker.device) if tracker.device.type == "cuda" else "cpu"
    print(json.dumps({
        "benchmark": "tracker", "frames_per_second": round(args.frames * args.batch / whole, 2),
        "share": {part: round(seconds / whole, 4) for part, seconds in spent.items()},
        "search": args.search, "batch": args.batch, "amp": args.amp, "compile": args.compile, "small": args.small,
        "resume": str(args.resume or ""),
        "device": name, "threads": torch.get_num_threads(), "torch": torch.__version__,
    }))


if __name__ == "__main__":
    main()
