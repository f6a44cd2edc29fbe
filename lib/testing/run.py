"""Testing: one checkpoint over a test set, one result file per sequence.

    python tracking/test_ocean.py --arch Ocean --resume snapshot/checkpoint_e20.pth --dataset OTB2015 --align False
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Iterator, Sequence as ListOf
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lib.benchmarks import Benchmark, Sequence, load_benchmark, result_folder
from lib.checkpoint import params_beside
from lib.crops import Image
from lib.errors import UserError, did_you_mean
from lib.log import RunLog, duration
from lib.options import BenchmarkOptions, ModelOptions, TestOptions
from lib.testing.batched import Job, Lockstep, Track, Watcher
from lib.testing.opening import is_foreign, open_tracker, params_arch, resolved, weights_file
from lib.testing.results import ResultFolder, record_of
from lib.testing.video import SequenceVideos
from lib.tracker import Tracker, TrackState
from lib.tracker.params import TrackerParams, find_tracker_params, load_tracker_params

_log = logging.getLogger(__name__)
SHOWN_MISSING = 3  # names of sequences that are not there


@dataclass(frozen=True)
class Candidate:
    """A tracker under test and the folder its results go to."""

    tracker: Tracker
    folder: ResultFolder


def main(options: TestOptions) -> int:
    """Test one checkpoint as the options say; return 0. Raises UserError."""
    options = resolved(options)
    name = tracker_name(options.arch, options.resume, epoch_test=options.epoch_test, given=options.tracker_name)
    with RunLog(main=True):
        benchmark = load_benchmark(options.dataset, options.dataset_dir, images=True)
        say_what_is_there(benchmark)
        if options.list_missing:
            print("\n".join(benchmark.missing))
            return 0
        sequences = choose(benchmark, options.video)
        candidate = load_candidate(options.resume, options, name=name, benchmark=benchmark)
        run_candidate(candidate, sequences, batch=options.batch or 1, threads=options.threads or 0,
                      fresh=options.fresh, film=options.vis)
    return 0


def run_candidate(candidate: Candidate, sequences: ListOf[Sequence], *, batch: int = 1, threads: int = 0,
                  fresh: bool = False, film: bool = False) -> None:
    """Follow those of the sequences that have no result yet, with `fresh` all of them, and write their result files.

    batch: sequences that advance together. threads: that decode images; 0: as many as there are cores, 16 at most.
    film: also write a video of each. Raises UserError when the folder holds the results of another run.
    """
    folder = candidate.folder
    if thrown_away := folder.open(replace=fresh, replace_unknown=fresh):
        _log.info("%s", thrown_away)
    if outdated := folder.outdated(sequences):
        _log.warning("%s", outdated)
    if fresh:
        folder.discard(sequence.name for sequence in sequences)
    todo = [sequence for sequence in sequences if not folder.is_done(sequence)]
    if len(todo) < len(sequences):
        _log.info("%d of %d sequences are done already", len(sequences) - len(todo), len(sequences))
    videos = SequenceVideos(folder.path) if film else None
    bar = progress_bar(sum(map(len, todo)))

    def watch(job: Job, index: int, image: Image, states: dict[int, TrackState]) -> None:
        bar.set_postfix_str(job.sequence.name, refresh=False)
        bar.update()
        if videos is not None:
            videos.frame(job.sequence, index, image, states.get(0))

    frames, seconds = 0, 0.0
    with bar:
        for _, track in run_jobs([candidate], map(Job, todo), batch=batch, threads=threads, watcher=watch):
            name, count = track.job.sequence.name, len(track.boxes_xywh)
            if videos is not None:
                videos.close(name)
            frames, seconds = frames + count, seconds + track.seconds
            say_speed(folder.path.name, name, frames=count, seconds=track.seconds)
    if frames:
        _log.info("%d frames in %s, %.1f frames/s in all, reading the images included", frames, duration(seconds),
                  frames / max(seconds, 1e-9))
    _log.info("results in %s", folder.path)


def tracker_name(arch: str, checkpoint: Path | None, *, epoch_test: bool, given: str = "") -> str:
    """Return the name of the folder of results: as given, <arch>_checkpoint_eN for an epoch's test, or <arch>.

    A tracker of other people's has the name of its class in the place of <arch>.
    """
    if given:
        return plain_name(given)
    arch = arch.rpartition(":")[2]
    if not epoch_test:
        return arch
    if checkpoint is None or not re.fullmatch(r"checkpoint_e\d+", checkpoint.stem):
        raise UserError(f"--epoch_test True: {checkpoint and checkpoint.name} does not say its epoch; expected "
                        f"checkpoint_e<N>.pth, or name the folder by --tracker_name")
    return f"{arch}_{checkpoint.stem}"


def plain_name(given: str) -> str:
    """Return the name of a folder; UserError for one that leads elsewhere."""
    if Path(given).name != given or given.startswith("."):
        raise UserError(f"--tracker_name {given}: expected a plain folder name, without / and no dot in front")
    return given


def say_what_is_there(benchmark: Benchmark) -> None:
    """Log how much of a test set is there, which sequences are missing, and what is unusual."""
    _log.info("%s: %d of %d sequences, %d frames (%s)", benchmark.name, len(benchmark.sequences), benchmark.expected,
              benchmark.num_frames, benchmark.source)
    if benchmark.missing:
        all_names = "; test_ocean.py --list_missing names all" if len(benchmark.missing) > SHOWN_MISSING else ""
        _log.warning("%s%s", benchmark.missing_text(shown=SHOWN_MISSING), all_names)
    for note in benchmark.notes:
        _log.warning("%s", note)


def choose(benchmark: Benchmark, video: str) -> tuple[Sequence, ...]:
    """Return the sequences to test: all, or the one called `video`, else that in any case; UserError if it is none."""
    if not video:
        return benchmark.sequences
    chosen = tuple(sequence for sequence in benchmark.sequences if sequence.name == video) or tuple(
        sequence for sequence in benchmark.sequences if sequence.name.lower() == video.lower())
    if not chosen:
        where = "is missing from" if video in benchmark.missing else "is no sequence of"
        raise UserError(f"--video {video}: {where} {benchmark.name} in {benchmark.source}"
                        f"{did_you_mean(video, benchmark.names)}")
    return chosen


def load_candidate(checkpoint: Path | None, options: BenchmarkOptions, *, name: str, benchmark: Benchmark) -> Candidate:
    """Return a checkpoint as a tracker, with the hyper-parameters of the test set and the folder of its results."""
    tracker, params, source = open_with_params(options, checkpoint, benchmark.name, compiled=options.compile)
    _log.info("tracker %s%s", source, "" if is_foreign(options.arch) else f": {params}")
    record = record_of(weights_file(options.arch, checkpoint), model=getattr(tracker, "spec", {}), params=params,
                       params_source=source, dataset=benchmark.name, data_source=benchmark.source, amp=options.amp)
    return Candidate(tracker, ResultFolder(result_folder(options.result_dir, benchmark.name) / name, record))


def open_with_params(options: ModelOptions, checkpoint: Path | None, dataset: str, *, compiled: bool = False,
                     ) -> tuple[Any, TrackerParams, str]:
    """Return the tracker that the options name, its hyper-parameters for a test set, and where these come from."""
    params, source = params_for(options.params, dataset, arch=options.arch, checkpoint=checkpoint,
                                online=options.online)
    tracker = open_tracker(options.arch, checkpoint, params, align=options.align, online=options.online,
                           device=options.device, amp=options.amp, compiled=compiled)
    return tracker, params, source


def params_for(given: Path | None, dataset: str, *, arch: str, checkpoint: Path | None = None,
               online: bool = False) -> tuple[TrackerParams, str]:
    """Return the hyper-parameters given, else beside the checkpoint, else of the test set, and where they come from."""
    if is_foreign(arch):
        return TrackerParams(), arch
    if given is None and checkpoint is not None:
        given = params_beside(checkpoint)
    if given is not None:
        return load_tracker_params(given, dataset=dataset, online=online), str(given)
    return find_tracker_params(dataset, arch=params_arch(arch), online=online)


def run_jobs(candidates: ListOf[Candidate], jobs: Iterable[Job], *, batch: int = 1, threads: int = 0,
             watcher: Watcher | None = None) -> Iterator[tuple[Candidate, Track]]:
    """Return each track of `jobs` with its candidate, once its result is written; watcher: called after every frame."""
    loop = Lockstep([candidate.tracker for candidate in candidates], batch=batch, threads=threads, watcher=watcher)
    for track in loop.follow(iter(jobs)):
        candidate = candidates[track.tracker]
        candidate.folder.save(track.job.sequence, track.boxes_xywh, seconds=track.seconds, codes=track.codes,
                              presence=track.presence)
        yield candidate, track


def progress_bar(total: int, *, silent: bool = False) -> tqdm[Any]:
    """Return a bar of frames on standard error; in a file it moves rarely, so that the other lines can be read."""
    pause = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, unit="frame", smoothing=0.05, file=sys.stderr, dynamic_ncols=True, mininterval=pause,
                disable=silent)


def say_speed(folder: str, sequence: str, *, frames: int, seconds: float) -> None:
    """Log the speed on one sequence, reading its images included."""
    _log.info("%s %-16s %5d frames %7.1f frames/s", folder, sequence, frames, frames / max(seconds, 1e-9))
