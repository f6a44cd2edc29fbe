"""Cost of the online branch: the first frame, the search of a frame, and an update by number of samples; JSON lines.

    python perf/online.py [--repeat 5] [--resume OceanLite_online] [--device cuda]

CPU seconds of this process (on a GPU: of the clock), so that other work on the machine counts less. Noise, and without
a checkpoint the full size with random weights: neither changes the work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.checkpoint import load_model
from lib.models.models import build_model
from lib.tracker.ocean import OceanTracker
from lib.tracker.online import Memory, OnlineTracker
from lib.tracker.params import load_tracker_params


def grown(memory: Memory, samples: int) -> Memory:
    """Return the memory with so many samples, those that are there again and again."""
    turns = -(-samples // len(memory.samples))
    return replace(memory, samples=(memory.samples * turns)[:samples],
                   boxes=np.tile(memory.boxes, (turns, 1))[:samples], weights=np.full(samples, 1 / samples),
                   iterations=3)


def main() -> None:
    """Measure as the command line says and print one JSON line for each part."""
    parser = argparse.ArgumentParser(description="Cost of the online branch.")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--resume", help="a checkpoint with the branch, or a name, instead of the full Ocean")
    args = parser.parse_args()
    model = load_model(args.resume, online=True) if args.resume else build_model(online=True)
    params = load_tracker_params(model.params_file, online=True)
    tracker = OnlineTracker(model, params, device=args.device)
    plain = OceanTracker(model, params, device=args.device)
    image, box = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8), [100, 120, 60, 80]
    state = tracker.init(image, box)
    clock = time.process_time if args.device == "cpu" else time.perf_counter

    def say(part: str, work: Callable[[], Any], **facts: Any) -> None:
        work()
        taken = []
        for _ in range(args.repeat):
            start = clock()
            work()
            if args.device != "cpu":
                torch.cuda.synchronize()
            taken.append(1e3 * (clock() - start))
        print(json.dumps({"part": part, "ms": round(statistics.median(taken), 1), **facts, "of": args.resume or "Ocean",
                          "threads": torch.get_num_threads(), "torch": torch.__version__}))

    say("a frame without the branch", lambda: plain.track(state, image))
    say("first frame without the branch", lambda: plain.init(image, box))
    say("first frame", lambda: tracker.init(image, box))
    say("search", lambda: tracker._look([state.memory], [image]))
    for samples in (30, 50, 100, 250):
        memory = grown(state.memory, samples)
        sample = state.memory.samples[0]
        say("update of 3 iterations", partial(tracker._solve, memory), samples=samples,
            state_mb=round(samples * sample.numel() * sample.element_size() / 1e6, 1))


if __name__ == "__main__":
    main()
