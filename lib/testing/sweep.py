"""Testing many checkpoints: workers on any number of devices and machines share the work of one folder of results.

    python tracking/test_epochs.py --arch Ocean --dataset OTB2015 --start_epoch 5 --end_epoch 20
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch

from lib.benchmarks import layout_of, load_benchmark
from lib.cli import as_argv
from lib.distributed import available_cpus, check_gpus, under_torchrun
from lib.errors import EXIT_USER_ERROR, UserError, die_with_parent
from lib.eval_toolkit.protocols import check_scored_here
from lib.files import MAIN
from lib.log import RunLog
from lib.options import SweepOptions
from lib.testing.batched import Job
from lib.testing.opening import EXPORTED, check_arch, pick_device, resolved
from lib.testing.results import WorkLocks
from lib.testing.run import Candidate, progress_bar, run_jobs, say_what_is_there
from lib.testing.sweep_plan import Sweep, missing_epochs
from lib.testing.sweep_scores import Scoreboard

GPU_BATCH = 16  # sequences that advance together on a GPU: enough to keep it busy, few enough for its memory
GPU_TOGETHER = 4  # checkpoints that share decoded images on a GPU
GRACE = 10.0  # seconds between asking a worker to end and killing it
POLL = 1.0  # seconds between two looks at what the other workers do
_log = logging.getLogger(__name__)


def main(options: SweepOptions) -> int:
    """Return 0 when every checkpoint is tested and scored, another exit code when workers failed."""
    if options.start_epoch and options.end_epoch and options.start_epoch > options.end_epoch:
        raise UserError(f"--start_epoch {options.start_epoch} comes after --end_epoch {options.end_epoch}")
    if options.watch and options.checkpoints:
        raise UserError("--watch follows the folder --snapshot; leave --checkpoints out")
    if options.arch in EXPORTED:
        raise UserError(f"--arch {options.arch}: an exported model has no epochs; use tracking/test_ocean.py")
    check_arch(options.arch)
    if options.tracker:
        resolved(options)
    elif options.resume is not None:
        raise UserError("--resume is the model of --tracker here; name checkpoints by --checkpoints or --snapshot")
    check_scored_here(options.dataset)
    speaks = not options.worker and os.environ.get("RANK", "0") == "0"
    with RunLog(main=speaks):
        return _run(options, speaks=speaks)


def _run(given: SweepOptions, *, speaks: bool) -> int:
    devices = _devices(given)
    gpu = devices[0].startswith("cuda")  # which is worth its price with many sequences at once only
    options = replace(given, device=devices[0], batch=given.batch or (GPU_BATCH if gpu else 1),
                      together=given.together or (GPU_TOGETHER if gpu else 1))
    benchmark = load_benchmark(options.dataset, options.dataset_dir, images=True)
    say_what_is_there(benchmark)
    sweep = Sweep(options, benchmark)
    sweep.refresh()
    if options.tracker and len(sweep.entries) == 1 and not options.watch:
        _log.info("no checkpoint of %s is tested with %s", options.snapshot, options.tracker)
    if missing := missing_epochs(options, sweep.entries):
        _log.warning("no checkpoint of epoch %s in %s", ", ".join(map(str, missing)), options.snapshot)
    if not sweep.entries and not options.watch:
        raise UserError(f"{options.snapshot}: no checkpoint_e<N>.pth of the epochs asked for; check --snapshot, "
                        f"--start_epoch and --end_epoch")
    if options.fresh and speaks:
        for entry in sweep.entries:
            sweep.folders[entry].discard(sequence.name for sequence in sweep.sequences)
    bar = progress_bar(0, silent=not speaks)
    scoreboard = Scoreboard(sweep, bar, convention=options.convention or layout_of(options.dataset).convention)
    with bar:
        if len(devices) > 1 and not sweep.is_finished():
            code = run_workers(given, devices, tick=scoreboard.look)
        else:
            code = _work_here(sweep, scoreboard, speaks=speaks)
    if speaks:
        scoreboard.look()
        print(scoreboard.text(), end="")
        _log.info("written to %s, .csv and .json", scoreboard.write())
        if options.html and (page := scoreboard.write_page()) is not None:
            _log.info("page: %s", page)
    return code


def _devices(options: SweepOptions) -> list[str]:
    """Return the devices to work on, one worker each; UserError for a GPU that is not there."""
    if options.worker:
        die_with_parent()
        return [str(pick_device(options.device))]
    if under_torchrun():
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if not torch.cuda.is_available() or options.device == "cpu":
            return ["cpu"]
        gpus = _gpu_numbers(options.gpus) or list(range(torch.cuda.device_count()))
        return [f"cuda:{gpus[local % len(gpus)]}"]
    if options.gpus:
        return [f"cuda:{gpu}" for gpu in _gpu_numbers(options.gpus)]
    return [str(pick_device(options.device))] * options.workers


def _gpu_numbers(text: str) -> list[int]:
    if not all(part.strip().isdigit() for part in text.split(",")):
        if text:
            raise UserError(f"--gpus {text}: expected device numbers separated by commas, e.g. 0,1,2")
        return []
    gpus = [int(part) for part in text.split(",")]
    check_gpus(gpus, place="--gpus", several="--workers N")
    return gpus


# A worker


def _work_here(sweep: Sweep, scoreboard: Scoreboard, *, speaks: bool) -> int:
    """Work here until every result is there, whoever made it, taking over what dead workers left; return 0."""

    tick = scoreboard.update if speaks else lambda: None
    with WorkLocks(stale_after=sweep.options.stale_after) as locks:
        while True:
            sweep.refresh()
            tick()
            group = sweep.next_group(locks, size=sweep.options.together or 1)
            if group:  # checkpoints that share the decoded images
                candidates = sweep.candidates(group)
                for candidate, track in run_jobs(candidates, _taken(sweep, locks, candidates),
                                                 batch=1 if group[0].tracker else sweep.options.batch or 1,
                                                 threads=sweep.options.threads or 0):
                    locks.release(candidate.folder.lock_path(track.job.sequence.name))
                    tick()
            elif sweep.is_finished():
                return 0
            else:
                time.sleep(POLL)


def _taken(sweep: Sweep, locks: WorkLocks, candidates: list[Candidate]) -> Iterator[Job]:
    """Return sequences that this worker has taken for as many checkpoints as lack them; each when it is asked for."""
    for sequence in sweep.sequences:
        mine = []
        for index, folder in enumerate(candidate.folder for candidate in candidates):
            path = folder.lock_path(sequence.name)
            if folder.is_done(sequence) or not locks.take(path):
                continue
            if folder.is_done(sequence):  # by another worker, between the look and the lock
                locks.release(path)
            else:
                mine.append(index)
        if mine:
            yield Job(sequence, tuple(mine))


# The workers of this machine


def run_workers(options: SweepOptions, devices: Sequence[str], *, tick: Callable[[], None], poll: float = 0.5) -> int:
    """Return 0 when the workers, one for each device, have done everything, else the exit code to end with.

    Each is this command with the same options. One that is killed is named and its work falls to the others; one that
    meets a user's mistake has told it, and all stop. `tick` is called while they work.
    """
    environment = {**os.environ}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, len(available_cpus()) // len(devices))))
    commands = [[sys.executable, str(MAIN), "sweep", *as_argv(replace(options, worker=True, device=device))]
                for device in devices]
    workers = {index: subprocess.Popen(command, env=environment) for index, command in enumerate(commands)}
    _log.info("%d workers: %s", len(workers),
              ", ".join(f"{devices[index]} (process {worker.pid})" for index, worker in workers.items()))
    try:
        return _watch(workers, tick=tick, poll=poll)
    finally:
        _stop(workers.values())


def _watch(workers: dict[int, subprocess.Popen[bytes]], *, tick: Callable[[], None], poll: float) -> int:
    running, finished = dict(workers), False
    while running:
        time.sleep(poll)
        for index, worker in list(running.items()):
            code = worker.poll()
            if code is None:
                continue
            del running[index]
            finished |= code == 0
            if code == EXIT_USER_ERROR:
                return code
            if code:
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                rest = f"the other {len(running)} take over its work" if running else "no worker is left"
                _log.warning("worker %d ended by %s; %s", index, how, rest if not finished else "its work is done")
        tick()
    return 0 if finished else 1


def _stop(workers: Iterable[subprocess.Popen[bytes]]) -> None:
    """Return when no worker is running any more."""
    alive = [worker for worker in workers if worker.poll() is None]
    for worker in alive:
        worker.terminate()
    deadline = time.monotonic() + GRACE
    for worker in alive:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
