"""The workers of a sweep on one machine: started, watched, and stopped together; the death of one is survived."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from lib.cli import as_argv
from lib.distributed import available_cpus
from lib.errors import EXIT_USER_ERROR
from lib.options import SweepOptions

SCRIPT = Path(__file__).resolve().parents[2] / "tracking" / "test_epochs.py"
GRACE = 10.0  # seconds between asking a worker to end and killing it
_log = logging.getLogger(__name__)


def run_workers(options: SweepOptions, devices: Sequence[str], *, tick: Callable[[], None], poll: float = 0.5) -> int:
    """Return 0 when the workers, one for each device, have done everything, else the exit code to end with.

    Each is this command with the same options. One that is killed is named and its work falls to the others; one that
    meets a user's mistake has told it, and all stop. `tick` is called while they work.
    """
    environment = {**os.environ}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, len(available_cpus()) // len(devices))))
    # Threads that spin while they wait take the cores from other workers: measured 8 times slower on a busy machine.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    workers = {index: subprocess.Popen(
        [sys.executable, str(SCRIPT), *as_argv(replace(options, worker=True, device=device))], env=environment)
        for index, device in enumerate(devices)}
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
