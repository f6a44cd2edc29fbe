"""The run loop: many sequences at once, one network call for all of them, every image decoded once.

Each sequence keeps its own states, joins when a place is free and leaves when it ends. Several trackers (checkpoints)
may follow the same sequences side by side, sharing the images. A sequence is followed by one pass, or by the restart
protocol of VOT2015-2019 (Kristan et al., The VOT2015 challenge; the same in pysot's toolkit and in the reference
tracker's script): a frame whose box does not touch the rotated ground truth is a failure, the next four are skipped,
and on the fifth after it the tracker starts again from that frame's region.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence as ListOf
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.benchmarks import Sequence, VOTSequence
from lib.benchmarks.vot import FAILURE, INIT, REGION, SKIPPED, UNKNOWN, exact_overlap, rectangle_corners
from lib.boxes import Boxes
from lib.crops import Image
from lib.errors import UserError
from lib.images import decode_ahead
from lib.tracker import Tracker, TrackState, begin
from lib.tracker.scoring import NonFiniteOutput


@dataclass(frozen=True)
class Job:
    """A sequence to follow, and which of the trackers do; one of VOT by the restart protocol."""

    sequence: Sequence
    trackers: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Track:
    """A sequence that was followed to its end by one tracker."""

    job: Job
    tracker: int
    boxes_xywh: Boxes  # (N, 4), origin 0; one pass: the first is the given one; restart: NaN where no region was told
    scores: NDArray[np.float64]  # (N,) 0..1, NaN where the tracker was not asked
    presence: NDArray[np.float64]  # (N,) the same of its presence, and NaN where it has none
    seconds: float  # this track's share of the time, decoding included: the shares of all tracks add up to the whole
    codes: NDArray[np.int8] | None = None  # (N,) of the restart protocol: INIT, REGION, FAILURE, UNKNOWN


# Called after every frame: the job, its frame's index, the image, and the state of each tracker that has one.
Watcher = Callable[[Job, int, Image, dict[int, Any]], None]


@dataclass(eq=False)
class _Path:
    """What one tracker has said of a sequence so far."""

    sequence: Sequence
    boxes: Boxes
    scores: NDArray[np.float64]
    presence: NDArray[np.float64]
    codes: NDArray[np.int8] | None  # of the restart protocol
    state: TrackState | None = None  # None before the start, and after a failure
    start: int = 0  # frame of the next start

    @property
    def start_box(self) -> Boxes:
        return self.sequence.boxes_xywh[self.start]

    def note(self, index: int, state: TrackState) -> None:
        """Take in the tracker's state after a frame; with restarts a start, a region, or a failure."""
        self.state = state
        if self.codes is not None and isinstance(self.sequence, VOTSequence):
            if index == self.start:
                self.codes[index] = INIT
                return
            truth = self.sequence.regions[index]
            if not exact_overlap(rectangle_corners(state.box_xywh)[None], truth[None])[0] > 0:
                self.codes[index], self.state, self.start = FAILURE, None, index + SKIPPED
                return
            self.codes[index] = REGION
        self.boxes[index] = self.start_box if index == self.start else state.box_xywh
        self.scores[index] = state.score
        self.presence[index] = getattr(state, "presence", np.nan)


@dataclass(eq=False)
class _Run:
    """A sequence under way."""

    job: Job
    images: Iterator[Image]
    paths: dict[int, _Path]  # by tracker
    image: Image | None = None
    index: int = 0
    seconds: float = 0.0

    @property
    def place(self) -> str:
        name, frames = self.job.sequence.name, self.job.sequence.frames
        return f"{name}: frame {self.index + 1} of {len(frames)} ({frames[self.index].name})"


@dataclass(eq=False)
class _Lane:
    """Runs that advance together. While one lane waits for the GPU, the host works for another."""

    size: int
    runs: list[_Run] = field(default_factory=list)
    # Tracker, the runs whose next frame it was asked for, and what waits for its answer.
    calls: list[tuple[int, list[_Run], Callable[[], ListOf[TrackState]]]] = field(default_factory=list)


class Lockstep:
    """Follows sequences with one or several trackers on one device, up to `batch` sequences at a time."""

    def __init__(
        self, trackers: ListOf[Tracker], *, batch: int = 1, threads: int = 0, watcher: Watcher | None = None
    ) -> None:
        assert batch >= 1, batch
        self.trackers = trackers
        self.watcher = watcher
        self.threads = threads or min(16, os.cpu_count() or 1)
        # Two lanes keep a GPU busy while the host cuts and scores; on a CPU there is nothing to overlap.
        on_gpu = any("cuda" in str(getattr(tracker, "device", "")) for tracker in trackers)
        sizes = [(batch + 1) // 2, batch // 2] if batch > 1 and on_gpu else [batch]
        self._lanes = [_Lane(size) for size in sizes]
        self._lap = 0.0

    def follow(self, jobs: Iterator[Job]) -> Iterator[Track]:
        """Yield each track as it ends, asking for a job when a place is free; UserError names sequence and frame."""
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
                            lane.runs.append(self._open(job, pool))
                    yield from self._leave(lane)
                    self._launch(lane)

    def _open(self, job: Job, pool: ThreadPoolExecutor) -> _Run:
        """Return a run whose first frame is done."""
        sequence, count = job.sequence, len(job.sequence.frames)
        assert count >= 1, sequence.name
        restarts = isinstance(sequence, VOTSequence)
        paths = {k: _Path(sequence, np.full((count, 4), np.nan), np.full(count, np.nan), np.full(count, np.nan),
                          np.full(count, UNKNOWN, np.int8) if restarts else None) for k in job.trackers}
        run = _Run(job, decode_ahead(sequence.frames, pool), paths)
        self._enter_frame(run)
        self._after_frame(run)
        return run

    def _enter_frame(self, run: _Run) -> None:
        """Take the next image, and start the trackers that start on it."""
        try:
            run.image = next(run.images)
            for k, path in run.paths.items():
                if path.start == run.index:
                    path.note(run.index, self.trackers[k].init(run.image, path.start_box))
        except UserError as error:
            raise UserError(f"{run.place}: {error}") from error

    def _launch(self, lane: _Lane) -> None:
        """Take the next image of each run and ask the trackers, without waiting for a GPU."""
        for run in lane.runs:
            self._enter_frame(run)
        for k, tracker in enumerate(self.trackers):
            # Those in which the tracker has a state, and did not just start.
            runs = [run for run in lane.runs if (path := run.paths.get(k)) is not None
                    and path.state is not None and path.start != run.index]
            if runs:
                states = [run.paths[k].state for run in runs]
                lane.calls.append((k, runs, begin(tracker, states, [run.image for run in runs])))

    def _finish(self, lane: _Lane) -> Iterator[Track]:
        """Take in the trackers' answers; return the tracks of the runs that have reached their end."""
        for tracker, runs, result in lane.calls:
            try:
                states = result()
            except NonFiniteOutput as error:
                raise UserError(f"{runs[error.rows[0]].place}: {error}; the checkpoint has diverged, or fp16 is too "
                                f"narrow for it (try --amp none)") from error
            for run, state in zip(runs, states, strict=True):
                run.paths[tracker].note(run.index, state)
        for run in lane.runs:
            self._after_frame(run)
        lane.calls = []
        yield from self._leave(lane)

    def _leave(self, lane: _Lane) -> Iterator[Track]:
        now = time.perf_counter()
        runs = [run for other in self._lanes for run in other.runs]
        for run in runs:  # those under way share the time since the last call in equal parts
            run.seconds += (now - self._lap) / len(runs)
        self._lap = now
        ended = [run for run in lane.runs if run.index == len(run.job.sequence.frames)]
        lane.runs = [run for run in lane.runs if run not in ended]
        for run in ended:
            for k, path in run.paths.items():
                yield Track(run.job, k, path.boxes, path.scores, path.presence, run.seconds / len(run.paths),
                            path.codes)

    def _after_frame(self, run: _Run) -> None:
        if self.watcher is not None:
            assert run.image is not None
            states = {k: path.state for k, path in run.paths.items() if path.state is not None}
            self.watcher(run.job, run.index, run.image, states)
        run.index += 1
