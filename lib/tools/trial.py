"""Trackers tried out on a test set in memory: followed side by side, scored without a file; for tuning and exports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.benchmarks import Benchmark, load_benchmark, with_origin
from lib.benchmarks import Sequence as Video
from lib.boxes import Boxes
from lib.crops import Image
from lib.errors import UserError
from lib.eval_toolkit.ope import CONVENTIONS, DEFAULT_CONVENTION, PRECISION_AT, curves, frame_errors, mean_curve
from lib.testing.batched import Job, Lockstep, Track
from lib.tracker.ocean import OceanTracker, TrackerState


class Scores(NamedTuple):
    """One-pass scores under the default convention, 0..1."""

    success: float
    precision: float  # at 20 px


def load_videos(dataset: str, dataset_dir: Path, *, only: Sequence[str] = ()) -> Benchmark:
    """Return a test set with its images, of which `only` the named sequences; UserError when one is not there."""
    benchmark = load_benchmark(dataset, dataset_dir, images=True)
    if not only:
        return benchmark
    unknown = [name for name in only if name not in benchmark.names]
    if unknown:
        raise UserError(f"{benchmark.source}: no sequence {unknown[0]!r}; there are {', '.join(benchmark.names)}")
    kept = tuple(video for video in benchmark.sequences if video.name in only)
    return replace(benchmark, sequences=kept)


def follow(trackers: Sequence[OceanTracker], videos: Iterable[Video], *, batch: int = 1, threads: int = 0,
           on_frames: Callable[[int], object] = int) -> Iterator[Track]:
    """Return the track of each video by each tracker, each as soon as it ends; every image is decoded once.

    `on_frames` is called with the number of frames just done, by all trackers together.
    """

    def watch(_job: Job, _index: int, _image: Image, states: dict[int, TrackerState]) -> None:
        on_frames(len(states))

    everyone = tuple(range(len(trackers)))
    jobs = (Job(video.name, video.frames, video.boxes_xywh[0], everyone) for video in videos)
    return Lockstep(trackers, batch=batch, threads=threads, watcher=watch).follow(jobs)


def score(videos: Sequence[Video], boxes_xywh: Sequence[Boxes]) -> Scores:
    """Return the scores of boxes (N, 4), origin 0, one array per video, as the result files of them would have."""
    convention = CONVENTIONS[DEFAULT_CONVENTION]
    truth = np.concatenate([video.file_xywh for video in videos])
    found = [with_origin(boxes, video.origin) for video, boxes in zip(videos, boxes_xywh, strict=True)]
    result = curves(frame_errors(truth, np.concatenate(found), convention), [len(video) for video in videos])
    return Scores(float(mean_curve(result.success, convention).mean()),
                  float(mean_curve(result.precision, convention)[PRECISION_AT]))
