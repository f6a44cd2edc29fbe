"""The work on all cores: tasks go out to processes, records come back into the journal, a bar shows how long."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

import cv2
from tqdm import tqdm

from lib.datasets.prepare.cut import Cutter
from lib.datasets.prepare.journal import Journal
from lib.datasets.prepare.records import Task
from lib.errors import UserError

In = TypeVar("In")
Out = TypeVar("Out")

_AHEAD = 4  # tasks handed out per process, so that none waits for the next


def cut_all(tasks: Sequence[Task], cutter: Cutter, journal: Journal, *, jobs: int) -> None:
    """Cut all tasks that the journal does not hold, on `jobs` processes; the journal grows by one record for each.

    Raises UserError if a process is killed or the disk is full; what is done stays done.
    """
    todo = [task for task in tasks if task.name not in journal.places]
    bar = _bar("cutting", len(tasks), unit=" tasks", done=len(tasks) - len(todo))
    crops = size = 0
    with bar:
        for record in _results(cutter.cut, todo, jobs=jobs):
            journal.add(record)
            crops, size = crops + record["crops"], size + record["bytes"]
            bar.set_postfix_str(f"{crops} crops, {size / 1e6:.0f} MB", refresh=False)
            bar.update()


def on_all_cores(work: Callable[[In], Out], items: Sequence[In], *, jobs: int, title: str, unit: str) -> Iterator[Out]:
    """Return an iterator over work(item), in the order in which they are done, with a progress bar."""
    with _bar(title, len(items), unit=unit) as bar:
        for result in _results(work, items, jobs=jobs):
            yield result
            bar.update()


def _bar(title: str, total: int, *, unit: str, done: int = 0) -> Any:
    pace = 0.1 if sys.stderr.isatty() else 10.0  # s; a log file needs no bar ten times a second
    return tqdm(total=total, initial=done, unit=unit, smoothing=0.05, desc=title, mininterval=pace)


def _results(work: Callable[[In], Out], items: Sequence[In], *, jobs: int) -> Iterator[Out]:
    """Return an iterator over work(item), in the order in which they are done; a few items wait for each process."""
    if jobs == 1:
        yield from map(work, items)
        return
    pool = ProcessPoolExecutor(jobs, initializer=_start_process)
    waiting: set[Future[Out]] = set()
    rest = iter(items)
    try:
        while True:
            waiting |= {pool.submit(work, item) for item in islice(rest, jobs * _AHEAD - len(waiting))}
            if not waiting:
                break
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise UserError("a process was killed, most likely for want of memory; run the same command again, it goes on "
                        "where it stopped, with fewer --jobs if need be") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_process() -> None:
    """Prepare a process of the pool: one thread of OpenCV, and an end when the parent has been killed."""
    cv2.setNumThreads(0)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None, "a process of a pool has one, however it was started"
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def default_jobs() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
