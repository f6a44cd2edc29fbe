"""Testing: one checkpoint over a test set, one result file per sequence.

    python tracking/test_ocean.py --arch Ocean --resume snapshot/checkpoint_e20.pth --dataset OTB2015 --align False
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as ListOf
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from lib.benchmarks import Benchmark, Sequence, VOTSequence, load_benchmark
from lib.checkpoint import params_beside
from lib.crops import Image
from lib.errors import UserError, did_you_mean
from lib.log import RunLog, duration
from lib.options import BenchmarkOptions, TestOptions
from lib.testing.batched import Job, Lockstep, Track, Watcher
from lib.testing.opening import check_arch, open_tracker, params_arch, weights_file
from lib.testing.restart import RestartRuns, RestartTrack
from lib.testing.results import ResultFolder, record_of
from lib.testing.video import GREEN, YELLOW, BoxVideo
from lib.tracker.ocean import OceanTracker, TrackerState
from lib.tracker.params import TrackerParams, find_tracker_params, load_tracker_params

PARAMS_ROOT = Path(__file__).resolve().parents[2] / "experiments" / "test"
_log = logging.getLogger(__name__)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, as every other error of a user's."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; --help lists all flags")


def boolean(text: str) -> bool:
    """Return the truth of "True" or "False"; anything else is an error, so that `--align False` is False."""
    if text not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return text == "True"


def positive(text: str) -> int:
    """Return a whole number >= 1; anything else is an error."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def main(options: TestOptions) -> int:
    """Test one checkpoint as the options say; return 0. Raises UserError."""
    if options.online:
        raise UserError("--online True: the online branch is not part of this framework; use --online False")
    with RunLog(main=True):
        run_benchmark(options)
    return 0


def run_benchmark(options: TestOptions) -> Path:
    """Return the folder of results after testing one checkpoint on what is there of a test set."""
    check_arch(options.arch)
    name = tracker_name(options.arch, options.resume, epoch_test=options.epoch_test, given=options.tracker_name)
    benchmark = load_benchmark(options.dataset, options.dataset_dir, images=True)
    say_what_is_there(benchmark)
    sequences = choose(benchmark, options.video)
    candidate = load_candidate(options.resume, options, name=name, benchmark=benchmark)
    if thrown_away := candidate.folder.open(replace=options.fresh, replace_unknown=options.fresh):
        _log.info("%s", thrown_away)
    if outdated := candidate.folder.outdated(sequences):
        _log.warning("%s", outdated)
    if options.fresh:
        candidate.folder.discard(sequence.name for sequence in sequences)
    todo = [sequence for sequence in sequences if not candidate.folder.is_done(sequence)]
    if len(todo) < len(sequences):
        _log.info("%d of %d sequences are done already", len(sequences) - len(todo), len(sequences))
    _follow(candidate, todo, options)
    _log.info("results in %s", candidate.folder.path)
    return candidate.folder.path


def _follow(candidate: Candidate, todo: ListOf[Sequence], options: TestOptions) -> None:
    """Track the sequences with a progress bar, films if they are wanted, and the speed of each and in all."""
    videos = Videos(candidate.folder.path, todo) if options.vis else None
    bar = progress_bar(sum(map(len, todo)))

    def watch(job: Job, index: int, image: Image, states: dict[int, TrackerState]) -> None:
        bar.set_postfix_str(job.name, refresh=False)
        bar.update()
        if videos is not None:
            videos.frame(job, index, image, states)

    frames, seconds = 0, 0.0
    with bar:
        by_name = {sequence.name: sequence for sequence in todo}
        for _, track in run_jobs([candidate], by_name, map(job_of, todo), batch=options.batch or 1,
                                 threads=options.threads or 0, watcher=watch):
            if videos is not None:
                videos.close(track.job.name)
            count = len(track.boxes_xywh)
            frames, seconds = frames + count, seconds + track.seconds
            say_speed(candidate.folder.path.name, track.job.name, frames=count, seconds=track.seconds)
    if frames:
        _log.info("%d frames in %s, %.1f frames/s in all, reading the images included", frames, duration(seconds),
                  frames / max(seconds, 1e-9))


def tracker_name(arch: str, checkpoint: Path, *, epoch_test: bool, given: str = "") -> str:
    """Return the name of the folder of results: as given, <arch>_checkpoint_eN for an epoch's test, or <arch>."""
    if given:
        if Path(given).name != given or given.startswith("."):
            raise UserError(f"--tracker_name {given}: expected a plain folder name, without / and no dot in front")
        return given
    if not epoch_test:
        return arch
    if not re.fullmatch(r"checkpoint_e\d+", checkpoint.stem):
        raise UserError(f"--epoch_test True: {checkpoint.name} does not say its epoch; expected checkpoint_e<N>.pth, "
                        f"or name the folder by --tracker_name")
    return f"{arch}_{checkpoint.stem}"


def say_what_is_there(benchmark: Benchmark) -> None:
    """Log how much of a test set is there, which sequences are missing, and what is unusual."""
    _log.info("%s: %d of %d sequences, %d frames (%s)", benchmark.name, len(benchmark.sequences), benchmark.expected,
              benchmark.num_frames, benchmark.source)
    if benchmark.missing:
        _log.warning("missing: %s", ", ".join(benchmark.missing))
    for note in benchmark.notes:
        _log.warning("%s", note)


def choose(benchmark: Benchmark, video: str) -> tuple[Sequence, ...]:
    """Return the sequences to test: all, or the one called `video` in any case of letters; UserError if it is none."""
    if not video:
        return benchmark.sequences
    chosen = tuple(sequence for sequence in benchmark.sequences if sequence.name.lower() == video.lower())
    if not chosen:
        where = "is missing from" if video in benchmark.missing else "is no sequence of"
        raise UserError(f"--video {video}: {where} {benchmark.name} in {benchmark.source}"
                        f"{did_you_mean(video, benchmark.names)}")
    return chosen


@dataclass(frozen=True)
class Candidate:
    """A checkpoint under test and the folder its results go to."""

    tracker: OceanTracker
    folder: ResultFolder


def load_candidate(checkpoint: Path, options: BenchmarkOptions, *, name: str, benchmark: Benchmark) -> Candidate:
    """Return a checkpoint as a tracker, with the hyper-parameters of the test set and the folder of its results."""
    params, source = params_for(options.params, benchmark.name, arch=options.arch, checkpoint=checkpoint)
    tracker = open_tracker(options.arch, checkpoint, params, align=options.align, device=options.device,
                           amp=options.amp, compiled=options.compile)
    _log.info("tracker %s: %s", source, params)
    record = record_of(weights_file(options.arch, checkpoint), model=tracker.model.spec, params=params,
                       params_source=source, dataset=options.dataset, data_source=benchmark.source, amp=options.amp)
    return Candidate(tracker, ResultFolder(options.result_dir / options.dataset / name, record))


def params_for(given: Path | None, dataset: str, *, arch: str, checkpoint: Path | None = None,
               ) -> tuple[TrackerParams, str]:
    """Return the tracking hyper-parameters and where they come from.

    That is the given file, or the one beside the checkpoint, or that of the test set.
    """
    if given is None and checkpoint is not None:
        given = params_beside(checkpoint)
    if given is not None:
        return load_tracker_params(given), str(given)
    return find_tracker_params(dataset, root=PARAMS_ROOT, arch=params_arch(arch))


def job_of(sequence: Sequence, *, trackers: tuple[int, ...] = (0,)) -> Job:
    """Return the sequence as work for a tracker."""
    return Job(sequence.name, sequence.frames, sequence.boxes_xywh[0], trackers)


def run_jobs(candidates: ListOf[Candidate], sequences: Mapping[str, Sequence], jobs: Iterable[Job], *, batch: int = 1,
             threads: int = 0, watcher: Watcher | None = None) -> Iterator[tuple[Candidate, Track]]:
    """Return each track of `jobs` with its candidate, once its result is written.

    `sequences` are those that the jobs are of, by name; those of VOT are followed by the restart protocol. `watcher`
    is called after every frame.
    """
    trackers = [candidate.tracker for candidate in candidates]
    videos = {name: sequence for name, sequence in sequences.items() if isinstance(sequence, VOTSequence)}
    runs: RestartRuns | Lockstep
    if videos:
        runs = RestartRuns(trackers, videos, batch=batch, threads=threads, watcher=watcher)
    else:
        runs = Lockstep(trackers, batch=batch, threads=threads, watcher=watcher)
    for track in runs.follow(iter(jobs)):
        candidate = candidates[track.tracker]
        codes = track.codes if isinstance(track, RestartTrack) else None
        candidate.folder.save(sequences[track.job.name], track.boxes_xywh, seconds=track.seconds, codes=codes)
        yield candidate, track


def progress_bar(total: int, *, silent: bool = False) -> tqdm[Any]:
    """Return a bar of frames on standard error; in a file it moves rarely, so that the other lines can be read."""
    pause = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, unit="frame", smoothing=0.05, file=sys.stderr, dynamic_ncols=True, mininterval=pause,
                disable=silent)


def say_speed(folder: str, sequence: str, *, frames: int, seconds: float) -> None:
    """Log the speed on one sequence, reading its images included."""
    _log.info("%s %-16s %5d frames %7.1f frames/s", folder, sequence, frames, frames / max(seconds, 1e-9))


class Videos:
    """One video per sequence, `vis/<Sequence>.mp4` in the folder of results: tracker yellow, ground truth green."""

    def __init__(self, folder: Path, sequences: Iterable[Sequence]) -> None:
        self._folder = folder / "vis"
        self._truth = {sequence.name: sequence.boxes_xywh for sequence in sequences}
        self._open: dict[str, BoxVideo] = {}

    def frame(self, job: Job, index: int, image: Image, states: Mapping[int, TrackerState]) -> None:
        """Add a frame to the sequence's video."""
        video = self._open.setdefault(job.name, BoxVideo(self._folder / f"{job.name}.mp4"))
        state = next(iter(states.values()), None)  # none after a failure in the restart protocol
        boxes = {GREEN: self._truth[job.name][index]} | ({} if state is None else {YELLOW: state.box_xywh})
        said = "lost" if state is None else f"{state.score:.2f}"
        video.write(image, boxes, caption=f"{job.name} {index + 1}/{len(job.frames)}  {said}")

    def close(self, name: str) -> None:
        """Finish the sequence's video."""
        if (video := self._open.pop(name, None)) is not None:
            video.close()
