"""The command line of `tracking/test_epochs.py`.

    python tracking/test_epochs.py --arch Ocean --dataset OTB2015 --start_epoch 5 --end_epoch 20
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lib.benchmarks import load_benchmark
from lib.distributed import check_gpus, die_with_parent, under_torchrun
from lib.errors import UserError
from lib.eval_toolkit.kinds import default_convention
from lib.eval_toolkit.ope import CONVENTIONS
from lib.log import RunLog
from lib.testing.locks import STALE_AFTER, Claims
from lib.testing.opening import EXPORTED, check_arch, pick_device
from lib.testing.outcome import check_scored_here
from lib.testing.run import Parser, add_common_flags, boolean, positive, progress_bar, say_what_is_there
from lib.testing.sweep_launch import run_workers
from lib.testing.sweep_plan import Sweep, missing_epochs
from lib.testing.sweep_scores import Scoreboard
from lib.testing.sweep_work import work

GPU_BATCH = 16  # sequences that advance together on a GPU: enough to keep it busy, few enough for its memory
GPU_TOGETHER = 4  # checkpoints that share decoded images on a GPU
_log = logging.getLogger(__name__)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the flags of test_epochs.py; raise UserError for one that is wrong."""
    flag: dict[str, Any] = {"type": boolean, "metavar": "True|False"}
    parser = Parser("test_epochs.py", description="Test and score many checkpoints.", allow_abbrev=False)
    add_common_flags(parser)
    parser.set_defaults(batch=None)
    parser.add_argument("--start_epoch", type=positive, help="first epoch; default: the first there is")
    parser.add_argument("--end_epoch", type=positive, help="last epoch; default: the last there is")
    parser.add_argument("--snapshot", type=Path, default=Path("snapshot"), help="folder of checkpoint_e<N>.pth")
    parser.add_argument("--checkpoints", nargs="+", default=[], help="files or quoted patterns instead of epochs")
    parser.add_argument("--gpus", default="", help="devices, e.g. 0,1,2: a worker on each")
    parser.add_argument("--workers", type=positive, default=1, help="workers on the CPU")
    parser.add_argument("--together", type=positive, help="checkpoints a worker tests side by side, sharing the images")
    parser.add_argument("--watch", nargs="?", const=True, default=False, **flag,
                        help="test each checkpoint of a running training as it appears, until --end_epoch")
    parser.add_argument("--convention", choices=tuple(CONVENTIONS), help="rules of scoring; default: the set's own")
    parser.add_argument("--html", default=True, **flag, help="write the page with curves and a player at the end")
    parser.add_argument("--log_dir", type=Path, help="TensorBoard folder; default: that of the training run")
    parser.add_argument("--stale_after", type=float, default=STALE_AFTER, help=argparse.SUPPRESS)
    parser.add_argument("--worker", default=False, **flag, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.start_epoch and options.end_epoch and options.start_epoch > options.end_epoch:
        raise UserError(f"--start_epoch {options.start_epoch} comes after --end_epoch {options.end_epoch}")
    if options.watch and options.checkpoints:
        raise UserError("--watch follows the folder --snapshot; leave --checkpoints out")
    if options.arch in EXPORTED:
        raise UserError(f"--arch {options.arch}: an exported model has no epochs; use tracking/test_ocean.py")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 when every checkpoint is tested and scored, another exit code when workers failed."""
    given = list(sys.argv[1:] if argv is None else argv)
    options = parse(given)
    speaks = not options.worker and os.environ.get("RANK", "0") == "0"
    with RunLog(main=speaks):
        return _run(options, given, speaks=speaks)


def _run(options: argparse.Namespace, argv: list[str], *, speaks: bool) -> int:
    check_arch(options.arch)
    check_scored_here(options.dataset)
    devices = _devices(options)
    _fill_in(options, device=devices[0])
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
            code = run_workers(argv, devices, tick=lambda: _look(sweep, scoreboard))
        else:
            code = _work_here(sweep, scoreboard, bar, speaks=speaks)
    if speaks:
        _look(sweep, scoreboard)
        print(scoreboard.text(), end="")
        _log.info("written to %s, .csv and .json", scoreboard.write())
        if options.html and (page := scoreboard.write_page()) is not None:
            _log.info("page: %s", page)
    return code


def _devices(options: argparse.Namespace) -> list[str]:
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
    check_gpus(gpus, place="--gpus")
    return gpus


def _fill_in(options: argparse.Namespace, *, device: str) -> None:
    """Set what depends on the device: a GPU is worth its price with many sequences at once only."""
    gpu = device.startswith("cuda")
    options.device = device
    options.batch = options.batch or (GPU_BATCH if gpu else 1)
    options.together = options.together or (GPU_TOGETHER if gpu else 1)


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
