"""The restart protocol of VOT2015-2019: follow a target until it is lost, start again five frames later.

The tracker starts on the box that stands for the first polygon. A frame whose box does not touch the rotated ground
truth (area overlap 0, by shapely) is a failure; the next four are skipped, and on the fifth after it the tracker starts
again from that frame's polygon. A start, a failure and skipped frames are codes in the result; the other frames have a
box. (Kristan et al., The VOT2015 challenge; the same in the pysot toolkit and in the reference tracker's script.)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lib.benchmarks import VOTSequence
from lib.benchmarks.regions import exact_overlap, rectangle_corners
from lib.benchmarks.vot import FAILURE, INIT, REGION, UNKNOWN
from lib.boxes import Boxes
from lib.crops import Image
from lib.errors import UserError
from lib.images import decode_ahead
from lib.testing.batched import Job, Track, Watcher
from lib.tracker.scoring import NonFiniteOutput

SKIPPED = 5
"""Frames from a failure to the next start."""


class Tracker(Protocol):
    """What the protocol asks of a tracker. A state tells its `box_xywh`, `score` and `search_size`."""

    def init(self, image: NDArray[Any], box_xywh: Any, /) -> Any: ...

    def track_batch(self, states: Sequence[Any], images: Sequence[NDArray[Any]], /) -> list[Any]: ...


@dataclass(frozen=True)
class RestartTrack(Track):
    """A video that was followed to its end, with a code per frame; frames that are no REGION have a NaN box."""

    codes: NDArray[np.int8]


@dataclass(eq=False)
class _Run:
    """One tracker on one video, under way."""

    job: Job
    tracker: int
    sequence: VOTSequence
    images: Iterator[Image]
    codes: NDArray[np.int8]
    boxes: Boxes
    scores: NDArray[np.float64]
    index: int = 0
    start: int = 0
    state: Any = None
    image: Image | None = None
    seconds: float = 0.0

    @property
    def place(self) -> str:
        return f"{self.job.name}: frame {self.index + 1} of {len(self.job.frames)} ({self.job.frames[self.index].name})"

    def judge(self, state: Any) -> None:
        """Take in the tracker's answer on this frame: a region, or a failure that sets the next start."""
        truth = self.sequence.regions[self.index]
        if exact_overlap(rectangle_corners(state.box_xywh)[None], truth[None])[0] > 0:
            self.codes[self.index] = REGION
            self.boxes[self.index] = state.box_xywh
            self.scores[self.index] = state.score
            self.state = state
        else:
            self.codes[self.index] = FAILURE
            self.start, self.state = self.index + SKIPPED, None


@dataclass(eq=False)
class RestartRuns:
    """Runs the protocol with one or several trackers, up to `batch` runs at a time. `sequences` are those by name."""

    trackers: Sequence[Tracker]
    sequences: Mapping[str, VOTSequence]
    batch: int = 1
    threads: int = 0
    watcher: Watcher | None = None
    _runs: list[_Run] = field(default_factory=list)

    def follow(self, jobs: Iterator[Job]) -> Iterator[RestartTrack]:
        """Return the track of every job and tracker, each as soon as it ends.

        Raises UserError naming video and frame for an unreadable image and for a network that returns NaN.
        """
        waiting = ((job, tracker) for job in jobs for tracker in job.trackers)
        with ThreadPoolExecutor(self.threads or None, thread_name_prefix="decode") as pool:
            more = True
            while more or self._runs:
                while more and len(self._runs) < self.batch:
                    pair = next(waiting, None)
                    more = pair is not None
                    if pair is not None:
                        self._runs.append(self._open(*pair, pool))
                yield from self._step()

    def _open(self, job: Job, tracker: int, pool: ThreadPoolExecutor) -> _Run:
        count = len(job.frames)
        return _Run(job, tracker, self.sequences[job.name], decode_ahead(job.frames, pool),
                    np.full(count, UNKNOWN, np.int8), np.full((count, 4), np.nan), np.zeros(count))

    def _step(self) -> Iterator[RestartTrack]:
        """Take every run by one frame; return the tracks of those that have none left."""
        began = time.perf_counter()
        tracking = [run for run in self._runs if self._begin_frame(run)]
        groups = {(run.tracker, run.state.search_size) for run in tracking}
        for tracker, size in sorted(groups):
            self._track(tracker, [run for run in tracking if (run.tracker, run.state.search_size) == (tracker, size)])
        for run in self._runs:
            if self.watcher is not None:
                assert run.image is not None
                self.watcher(run.job, run.index, run.image, {} if run.state is None else {run.tracker: run.state})
            run.index += 1
        elapsed = time.perf_counter() - began
        for run in self._runs:
            run.seconds += elapsed / len(self._runs)
        ended = [run for run in self._runs if run.index == len(run.job.frames)]
        self._runs = [run for run in self._runs if run.index < len(run.job.frames)]
        for run in ended:
            yield RestartTrack(run.job, run.tracker, run.boxes, run.scores, run.seconds, run.codes)

    def _begin_frame(self, run: _Run) -> bool:
        """Return whether the tracker has to answer on the run's next frame; a start is done here."""
        try:
            run.image = next(run.images)
            if run.index == run.start:
                run.state = self.trackers[run.tracker].init(run.image, run.sequence.boxes_xywh[run.index])
                run.codes[run.index] = INIT
        except UserError as error:
            raise UserError(f"{run.place}: {error}") from error
        return run.index > run.start

    def _track(self, tracker: int, runs: list[_Run]) -> None:
        try:
            images = [run.image for run in runs if run.image is not None]
            states = self.trackers[tracker].track_batch([run.state for run in runs], images)
        except NonFiniteOutput as error:
            raise UserError(f"{runs[error.rows[0]].place}: {error}; the checkpoint has diverged, or fp16 is too narrow "
                            "for it (try --amp none)") from error
        for run, state in zip(runs, states, strict=True):
            run.judge(state)


def run_restart(tracker: Tracker, sequence: VOTSequence) -> RestartTrack:
    """Return the result of the restart protocol with one tracker on one video (with its images)."""
    job = Job(sequence.name, sequence.frames, sequence.boxes_xywh[0])
    track, = RestartRuns([tracker], {sequence.name: sequence}).follow(iter([job]))
    return track
