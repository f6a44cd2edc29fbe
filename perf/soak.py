"""A long run of each kind with memory and open files recorded: they must stay flat.

    python perf/soak.py [--steps 2000] [--frames 10000]

Trains a tiny network on noise crops, an epoch of 20 steps with its checkpoint, log and picture after the other, then
tests it on sequences of 200 frames; both through the commands' own mains, in this process. Prints a JSON line for each:
resident memory (MiB) and open files at 20 moments of equal distance, and how much the mean of the last fifth lies above
that of the second fifth (the first is for warming up). Leaves with 1 where that is more than --slack MiB or one file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import commands

POINTS = 20
EPOCH = 20  # steps
LENGTH = 200  # frames of a sequence


class Meter:
    """Memory and open files of this process, noted twice a second by a thread."""

    def __init__(self) -> None:
        self.notes: list[tuple[float, int]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Return a context in which notes are taken."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.5):
                pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
                files = sum(1 for _ in Path("/proc/self/fd").iterdir())
                self.notes.append((pages * os.sysconf("SC_PAGE_SIZE") / 2**20, files))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def found(self, slack: float) -> dict[str, Any]:
        """Return what was seen, in few numbers."""
        memory, files = (np.array(column, float) for column in zip(*self.notes, strict=True))
        fifth = max(1, len(memory) // 5)
        growth = float(memory[-fifth:].mean() - memory[fifth : 2 * fifth].mean())
        more = int(np.median(files[-fifth:]) - np.median(files[fifth : 2 * fifth]))
        at = np.linspace(0, len(memory) - 1, min(POINTS, len(memory))).astype(int)
        return {"rss_mib": memory[at].round(1).tolist(), "open_files": files[at].astype(int).tolist(),
                "growth_mib": round(growth, 2), "more_files": more, "flat": growth <= slack and more <= 1}


def write_crops(root: Path) -> None:
    """Write a crop511 source of a few tracks of noise."""
    rng = np.random.default_rng(0)
    tracks = {f"{track:02d}": {f"{frame:06d}": [10.0, 20.0, 60.0, 60.0] for frame in range(4)} for track in range(4)}
    (root / "crops" / "video").mkdir(parents=True)
    for track, frames in tracks.items():
        for frame in frames:
            noise = cv2.blur(rng.integers(0, 256, (511, 511, 3), dtype=np.uint8), (9, 9))
            cv2.imwrite(str(root / "crops" / "video" / f"{frame}.{track}.x.jpg"), noise)
    (root / "train.json").write_text(json.dumps({"video": tracks}), encoding="utf-8")


def train(root: Path, steps: int) -> int:
    """Return the steps trained, whole epochs of them, with everything that a training does."""
    write_crops(root)
    source = {"PATH": str(root / "crops"), "ANNOTATION": str(root / "train.json"), "USE": 2 * EPOCH, "RANGE": 5}
    settings: dict[str, Any] = {
        "END_EPOCH": -(-steps // EPOCH), "BATCH": 2, "UNFIX_EPOCH": 0, "WARMUP": {"IFNOT": False}, "KEEP_LAST": 2,
        "BACKBONE": "ResNetSmall", "BACKBONE_OPTIONS": {"width": 2, "layers": [1, 1, 1], "expansion": 1},
        "CHANNELS": 4, "TOWERNUM": 1, "WHICH_USE": ["NOISE"],
    }
    tree = {"PRINT_FREQ": 10, "WORKERS": 0, "OUTPUT_DIR": str(root / "logs"), "CHECKPOINT_DIR": str(root / "snapshot"),
            "TRAIN": settings, "DATASET": {"NOISE": source}}
    path = root / "soak.yaml"
    path.write_text(yaml.safe_dump({"OCEAN": tree}), encoding="utf-8")
    assert commands.call("train", ["--cfg", str(path)]) == 0
    return settings["END_EPOCH"] * EPOCH


def test(root: Path, frames: int) -> int:
    """Return the frames on which the checkpoint of `train` was tested."""
    checkpoint = max((root / "snapshot").glob("*.pth"), key=lambda path: path.stat().st_mtime_ns)
    rng = np.random.default_rng(1)
    pictures = root / "pictures"
    pictures.mkdir()
    for index in range(LENGTH):
        noise = cv2.blur(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8), (5, 5))
        cv2.imwrite(str(pictures / f"{index + 1:04d}.jpg"), noise)
    count = -(-frames // LENGTH)
    for number in range(count):
        folder = root / "set" / f"s{number:04d}"
        (folder / "img").mkdir(parents=True)
        for path in pictures.iterdir():
            os.link(path, folder / "img" / path.name)
        (folder / "groundtruth_rect.txt").write_text("60,40,30,30\n" * LENGTH, encoding="utf-8")
    assert commands.call("test", ["--resume", str(checkpoint), "--dataset", "set", "--dataset_dir", str(root / "set"),
                                  "--result_dir", str(root / "result")]) == 0
    return count * LENGTH


def main() -> int:
    """Return 0 when both are flat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--slack", type=float, default=16.0, help="MiB that may come on top")
    args = parser.parse_args()
    flat = True
    with tempfile.TemporaryDirectory() as folder:
        for part, amount in (("train", args.steps), ("test", args.frames)):
            meter, begin = Meter(), time.monotonic()
            with meter.running():
                done = (train if part == "train" else test)(Path(folder), amount)
            found = meter.found(args.slack)
            flat &= found["flat"]
            print(json.dumps({"benchmark": "soak", "part": part, "steps" if part == "train" else "frames": done,
                              "seconds": round(time.monotonic() - begin), **found, "torch": torch.__version__}),
                  flush=True)
    return int(not flat)


if __name__ == "__main__":
    sys.exit(main())
