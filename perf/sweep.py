"""Frames per second of the sweep: batches of sequences against one by one as the reference tracks, in one run.

    python perf/sweep.py [--small] [--sequences 32] [--frames 30] [--device cuda] [--amp fp16] [--resume FILE]

Sequences of noise-textured JPEGs of 640 x 480 are written to a temporary folder and read from there. `reference`
decodes each image when it is needed, converts on the host and computes the template's side of every correlation again
in each frame. `together` is several checkpoints that share the images, at the largest batch; its frames count for each.
Prints one JSON line, with the largest difference in px between the boxes of the batches and of one by one. Beside
frames per second stand frames per second of processor time, which on a machine with other work says more.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.benchmarks import Sequence
from lib.checkpoint import load_model
from lib.images import read_image
from lib.models.models import Ocean, build_model
from lib.models.ocean import TemplateFeatures
from lib.testing.batched import Job, Lockstep
from lib.tracker.ocean import OceanTracker, search_crop
from lib.tracker.params import TrackerParams
from lib.tracker.scoring import Prediction

_SMALL: dict[str, Any] = {"backbone": "ResNetSmall", "channels": 64, "towernum": 2}
# The size stays as it is and the cosine window keeps the target near: a random network would wander to crops of any
# size, and the work would not be the same in every run.
STEADY = TrackerParams(lr=0.0, window_influence=0.9, small_sz=271, big_sz=271, tuned_on="")
Boxes = dict[str, np.ndarray]


def write_sequences(root: Path, *, count: int, frames: int) -> list[Sequence]:
    """Return `count` sequences of `frames` JPEGs each, a textured square moving over a textured ground."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (600, 800, 3), dtype=np.uint8)
    ground = cv2.GaussianBlur(noise, (0, 0), 3)
    videos = []
    for number in range(count):
        folder = root / f"s{number:03d}"
        folder.mkdir()
        for index in range(frames):
            image = ground[index : index + 480, number : number + 640].copy()
            x, y = 100 + 7 * (number % 32) + index, 150 + index
            image[y : y + 60, x : x + 80] = noise[:60, :80]
            cv2.imwrite(str(folder / f"{index:04d}.jpg"), image)
        paths = tuple(sorted(folder.glob("*.jpg")))
        videos.append(Sequence(folder.name, paths, np.array([[100.0 + 7 * (number % 32), 150.0, 80.0, 60.0]])))
    return videos


def reference_style(model: Ocean, videos: list[Sequence], params: TrackerParams, device: torch.device) -> Boxes:
    """Return the boxes of each sequence, tracked one frame after the other as the reference code does it."""
    tracker = OceanTracker(model, params, device=device, channels_last=False)
    boxes = {}
    for video in videos:
        state = tracker.init(read_image(video.frames[0]), video.boxes_xywh[0])
        zf, rows = state.template.zf, [video.boxes_xywh[0]]
        assert zf is not None
        for path in video.frames[1:]:
            crop = search_crop(state, read_image(path))
            with torch.inference_mode():
                x = torch.from_numpy(crop.pixels.transpose(2, 0, 1).astype(np.float32))[None].to(device)
                again = TemplateFeatures(zf, *model.connect_model.template(zf))
                output = model.track(x, again)
                prediction = Prediction(output.cls.sigmoid()[:, 0].cpu().numpy(), output.ltrb.cpu().numpy())
            state = tracker.update([state], [crop], prediction)[0]
            rows.append(state.box_xywh)
        boxes[video.name] = np.stack(rows)
    return boxes


def lockstep(trackers: list[OceanTracker], videos: list[Sequence], *, batch: int) -> Boxes:
    """Return the boxes of each sequence by the first tracker, `batch` sequences at a time."""
    shared = (Job(video, tuple(range(len(trackers)))) for video in videos)
    return {t.job.sequence.name: t.boxes_xywh for t in Lockstep(trackers, batch=batch).follow(shared) if t.tracker == 0}


class Run(NamedTuple):
    """One way of doing the work, and how fast it was."""

    way: str
    speed: float  # frames per second
    cpu_speed: float  # frames per second of processor time, all threads together
    boxes: Boxes


def timed(way: str, work: Callable[[], Boxes], *, frames: int) -> Run:
    """Return the speed at which `work` follows so many frames, and its boxes."""
    start, cpu = time.perf_counter(), time.process_time()
    boxes = work()
    return Run(way, frames / (time.perf_counter() - start), frames / (time.process_time() - cpu), boxes)


def measure(args: argparse.Namespace, videos: list[Sequence]) -> Iterator[Run]:
    """Return the runs of each way of doing the same work."""
    device = torch.device(args.device)
    torch.manual_seed(0)
    models = [load_model(args.resume) if args.resume else build_model(**(_SMALL if args.small else {}))
              for _ in range(args.together)]
    trackers = [OceanTracker(model, STEADY, device=device, amp=args.amp, compiled=args.compile) for model in models]
    frames = sum(len(video.frames) - 1 for video in videos)

    def batched(way: str, trackers: list[OceanTracker], batch: int) -> Run:
        # Kernels are chosen and memory is taken.
        lockstep(trackers, [short(video) for video in videos[:batch]], batch=batch)
        return timed(way, lambda: lockstep(trackers, videos, batch=batch), frames=frames * len(trackers))

    few = videos[: max(1, len(videos) // 8)]
    reference_style(models[0].to(memory_format=torch.contiguous_format), [short(few[0])], STEADY, device)
    yield timed("reference", lambda: reference_style(models[0], few, STEADY, device),
                frames=sum(len(video.frames) - 1 for video in few))
    models[0].to(memory_format=trackers[0].memory_format)
    for batch in args.batches:
        yield batched(f"batch_{batch}", trackers[:1], batch)
    if args.together > 1:
        yield batched(f"together_{args.together}", trackers, max(args.batches))


def short(video: Sequence) -> Sequence:
    """Return the first frames of a video, to warm up with."""
    return replace(video, frames=video.frames[:4])


def main() -> None:
    """Measure as the command line says and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--sequences", type=int, default=32)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--together", type=int, default=4, help="checkpoints that share the images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--amp", default="none", choices=("none", "bf16", "fp16"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--small", action="store_true", help="the demonstration's size instead of the full Ocean")
    parser.add_argument("--resume", type=Path, help="a checkpoint instead of random weights")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        videos = write_sequences(Path(folder), count=args.sequences, frames=args.frames)
        runs = list(measure(args, videos))
    alone = runs[0].boxes
    worst = max(float(np.abs(run.boxes[name] - alone[name]).max()) for run in runs for name in alone)
    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu"
    print(json.dumps({
        "benchmark": "sweep", "frames_per_second": {run.way: round(run.speed, 1) for run in runs},
        "frames_per_cpu_second": {run.way: round(run.cpu_speed, 1) for run in runs},
        "largest_difference_px": worst, "sequences": args.sequences, "frames": args.frames, "amp": args.amp,
        "compile": args.compile, "small": args.small, "device": name, "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }))


if __name__ == "__main__":
    main()
