"""Many sequences at once: one network call advances all of them by a frame, and every image is decoded once.

Each sequence keeps its own state, joins when a place is free and leaves when it ends; those of one search size share a
call. Several trackers (checkpoints) may follow the same sequences side by side, sharing the images.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lib.boxes import Boxes
from lib.crops import Image
from lib.errors import UserError
from lib.images import decode_ahead
from lib.tracker.ocean import OceanTracker, Pending, SearchCrop, TrackerState, as_bgr, search_crop
from lib.tracker.scoring import NonFiniteOutput


@dataclass(frozen=True)
class Job:
    """A sequence to follow."""

    name: str
    frames: tuple[Path, ...]
    box_xywh: Boxes  # (4,) of the first frame, origin 0
    trackers: tuple[int, ...] = (0,)  # which of the trackers follow it


@dataclass(frozen=True)
class Track:
    """A sequence that was followed to its end by one tracker."""

    job: Job
    tracker: int
    boxes_xywh: Boxes  # (N, 4), origin 0; the first is the given one
    scores: np.ndarray  # (N,) 0..1
    seconds: float  # this track's share of the time, decoding included: the shares of all tracks add up to the whole


# Called after every frame: the job, its frame's index, the image, and each tracker's state.
Watcher = Callable[[Job, int, Image, dict[int, TrackerState]], None]


@dataclass(eq=False)
class _Run:
    """A sequence under way."""

    job: Job
    images: Iterator[Image]
    states: dict[int, TrackerState] = field(default_factory=dict)
    boxes: dict[int, Boxes] = field(default_factory=dict)
    scores: dict[int, np.ndarray] = field(default_factory=dict)
    image: Image | None = None
    index: int = 0
    seconds: float = 0.0

    @property
    def place(self) -> str:
        return f"{self.job.name}: frame {self.index + 1} of {len(self.job.frames)} ({self.job.frames[self.index].name})"

    def note(self, tracker: int, state: TrackerState) -> None:
        self.states[tracker] = state
        self.boxes[tracker][self.index] = state.box_xywh if self.index else self.job.box_xywh
        self.scores[tracker][self.index] = state.score


@dataclass(eq=False)
class _Call:
    """One network call: the runs of one search size, for one tracker."""

    tracker: int
    runs: list[_Run]
    crops: list[SearchCrop]
    pending: Pending


@dataclass(eq=False)
class _Lane:
    """Runs that advance together. While one lane waits for the GPU, the host works for another."""

    size: int
    runs: list[_Run] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)


class Lockstep:
    """Follows sequences with one or several trackers on one device, up to `batch` of them at a time."""

    def __init__(
        self, trackers: Sequence[OceanTracker], *, batch: int = 1, threads: int = 0, watcher: Watcher | None = None
    ) -> None:
        assert batch >= 1, batch
        self.trackers = trackers
        self.watcher = watcher
        self.threads = threads or min(16, os.cpu_count() or 1)
        # Two lanes keep a GPU busy while the host cuts and scores; on a CPU there is nothing to overlap.
        overlapped = batch > 1 and any(tracker.device.type == "cuda" for tracker in trackers)
        sizes = [(batch + 1) // 2, batch // 2] if overlapped else [batch]
        self._lanes = [_Lane(size) for size in sizes]
        self._lap = 0.0

    def follow(self, jobs: Iterator[Job]) -> Iterator[Track]:
        """Return the tracks of all jobs, each as soon as it ends. A job is asked for only when a place is free.

        Raises UserError naming sequence and frame for an unreadable image and for a network that returns NaN.
        """
        with ThreadPoolExecutor(self.threads, thread_name_prefix="decode") as pool:
            self._lap = time.perf_counter()
            more = True
            while more or any(lane.runs for lane in self._lanes):
                for lane in self._lanes:
                    yield from self._finish(lane)
                    while more and len(lane.runs) < lane.size:
                        job = next(jobs, None)
                        more = job is not None
                        if job is not None:
                            lane.runs.append(self._start(job, pool))
                    yield from self._launch(lane)

    def _start(self, job: Job, pool: ThreadPoolExecutor) -> _Run:
        count = len(job.frames)
        assert count >= 1, job.name
        run = _Run(job, decode_ahead(job.frames, pool))
        run.boxes = {k: np.full((count, 4), np.nan) for k in job.trackers}
        run.scores = {k: np.full(count, np.nan) for k in job.trackers}
        image = self._next_image(run)
        try:
            for k in job.trackers:
                run.note(k, self.trackers[k].init(image, job.box_xywh))
        except UserError as error:
            raise UserError(f"{run.place}: {error}") from error
        self._after_frame(run)
        return run

    def _launch(self, lane: _Lane) -> Iterator[Track]:
        """Take the next image of each run and call the network; return the tracks of the runs that have none left."""
        yield from self._leave(lane)
        for run in lane.runs:
            self._next_image(run)
        for k, tracker in enumerate(self.trackers):
            mine = [run for run in lane.runs if k in run.states]
            for size in sorted({run.states[k].search_size for run in mine}):
                group = [run for run in mine if run.states[k].search_size == size]
                states = [run.states[k] for run in group]
                crops = [search_crop(state, _image(run)) for state, run in zip(states, group, strict=True)]
                lane.calls.append(_Call(k, group, crops, tracker.predict(states, crops)))

    def _finish(self, lane: _Lane) -> Iterator[Track]:
        """Take in the network's answers; return the tracks of the runs that have reached their end."""
        for call in lane.calls:
            states = [run.states[call.tracker] for run in call.runs]
            try:
                new = self.trackers[call.tracker].update(states, call.crops, call.pending.result())
            except NonFiniteOutput as error:
                place = call.runs[error.rows[0]].place
                raise UserError(f"{place}: {error}; the checkpoint has diverged, or fp16 is too narrow for it "
                                f"(try --amp none)") from error
            for run, state in zip(call.runs, new, strict=True):
                run.note(call.tracker, state)
        if lane.calls:
            for run in lane.runs:
                self._after_frame(run)
        lane.calls = []
        yield from self._leave(lane)

    def _leave(self, lane: _Lane) -> Iterator[Track]:
        self._share_time()
        ended = [run for run in lane.runs if run.index == len(run.job.frames)]
        lane.runs = [run for run in lane.runs if run.index < len(run.job.frames)]
        for run in ended:
            for k in run.job.trackers:
                yield Track(run.job, k, run.boxes[k], run.scores[k], run.seconds / len(run.job.trackers))

    def _next_image(self, run: _Run) -> Image:
        try:
            run.image = as_bgr(next(run.images))
        except UserError as error:
            raise UserError(f"{run.place}: {error}") from error
        return run.image

    def _after_frame(self, run: _Run) -> None:
        if self.watcher is not None:
            self.watcher(run.job, run.index, _image(run), run.states)
        run.index += 1

    def _share_time(self) -> None:
        """Give the time since the last call to the runs under way, in equal parts."""
        now = time.perf_counter()
        runs = [run for lane in self._lanes for run in lane.runs]
        for run in runs:
            run.seconds += (now - self._lap) / len(runs)
        self._lap = now


def _image(run: _Run) -> Image:
    assert run.image is not None
    return run.image
