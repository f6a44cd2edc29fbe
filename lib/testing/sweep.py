"""The command line of `tracking/test_epochs.py`.

    python tracking/test_epochs.py --arch Ocean --dataset OTB2015 --start_epoch 5 --end_epoch 20
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from lib.benchmarks import load_benchmark
from lib.distributed import check_gpus, die_with_parent, under_torchrun
from lib.errors import UserError
from lib.eval_toolkit.protocols import check_scored_here, default_convention
from lib.log import RunLog
from lib.options import SweepOptions
from lib.testing.locks import Claims
from lib.testing.opening import EXPORTED, check_arch, pick_device
from lib.testing.run import progress_bar, say_what_is_there
from lib.testing.sweep_launch import run_workers
from lib.testing.sweep_plan import Sweep, missing_epochs
from lib.testing.sweep_scores import Scoreboard
from lib.testing.sweep_work import work

GPU_BATCH = 16  # sequences that advance together on a GPU: enough to keep it busy, few enough for its memory
GPU_TOGETHER = 4  # checkpoints that share decoded images on a GPU
_log = logging.getLogger(__name__)


def main(options: SweepOptions) -> int:
    """Return 0 when every checkpoint is tested and scored, another exit code when workers failed."""
    if options.start_epoch and options.end_epoch and options.start_epoch > options.end_epoch:
        raise UserError(f"--start_epoch {options.start_epoch} comes after --end_epoch {options.end_epoch}")
    if options.watch and options.checkpoints:
        raise UserError("--watch follows the folder --snapshot; leave --checkpoints out")
    if options.arch in EXPORTED:
        raise UserError(f"--arch {options.arch}: an exported model has no epochs; use tracking/test_ocean.py")
    speaks = not options.worker and os.environ.get("RANK", "0") == "0"
    with RunLog(main=speaks):
        return _run(options, speaks=speaks)


def _run(given: SweepOptions, *, speaks: bool) -> int:
    check_arch(given.arch)
    check_scored_here(given.dataset)
    devices = _devices(given)
    options = _fill_in(given, device=devices[0])
    benchmark = load_benchmark(options.dataset, options.dataset_dir, images=True)
    say_what_is_there(benchmark)
    sweep = Sweep(options, benchmark)
    sweep.refresh()
    _check(sweep)
    if options.fresh and speaks:
        for entry in sweep.entries:
            sweep.folder(entry).discard(sweep.by_name)
    bar = progress_bar(0, silent=not speaks)
    convention = options.convention or default_convention(options.dataset)
    scoreboard = Scoreboard(sweep, bar, convention=convention, board_dir=options.log_dir)
    with bar:
        if len(devices) > 1 and not sweep.is_finished():
            code = run_workers(given, devices, tick=lambda: _look(sweep, scoreboard))
        else:
            code = _work_here(sweep, scoreboard, bar, speaks=speaks)
    if speaks:
        _look(sweep, scoreboard)
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


def _fill_in(options: SweepOptions, *, device: str) -> SweepOptions:
    """Return the options with what depends on the device: a GPU is worth its price with many sequences at once only."""
    gpu = device.startswith("cuda")
    return replace(options, device=device, batch=options.batch or (GPU_BATCH if gpu else 1),
                   together=options.together or (GPU_TOGETHER if gpu else 1))


def _check(sweep: Sweep) -> None:
    """Say which epochs are missing; UserError when there is no checkpoint at all and none to wait for."""
    options = sweep.options
    if missing := missing_epochs(options, sweep.entries):
        _log.warning("no checkpoint of epoch %s in %s", ", ".join(map(str, missing)), options.snapshot)
    if not sweep.entries and not options.watch:
        raise UserError(f"{options.snapshot}: no checkpoint_e<N>.pth of the epochs asked for; check --snapshot, "
                        f"--start_epoch and --end_epoch")


def _look(sweep: Sweep, scoreboard: Scoreboard) -> None:
    sweep.refresh()
    scoreboard.update()


def _work_here(sweep: Sweep, scoreboard: Scoreboard, bar: tqdm[Any], *, speaks: bool) -> int:
    """Do the work in this process, alone or beside others; return 0."""
    with Claims(stale_after=sweep.options.stale_after) as claims:
        work(sweep, claims, report=scoreboard.own, tick=scoreboard.update if speaks else lambda: None,
             watcher=lambda job, index, image, states: bar.set_postfix_str(job.name, refresh=False)
             or bar.update(len(states)))
    return 0
