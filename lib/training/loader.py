"""Batches on the device: loader processes, pinned copies while the step runs, and how long the device waited."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from lib.device import Link
from lib.distributed import World, available_cpus
from lib.errors import UserError, die_with_parent

log = logging.getLogger(__name__)


def worker_share(workers: int, *, world: World) -> int:
    """Return this rank's number of loader processes: its share of `workers` and of the CPUs, at least 1; 0 of 0."""
    if workers == 0:
        return 0
    return max(1, min(workers, len(available_cpus())) // world.local_size)


def advice(workers: int, *, world: World, formats: Mapping[str, str]) -> str:
    """Return which key helps a run that waits for data.

    `workers`: the loader processes of this rank; `formats`: FORMAT of each source in use.
    """
    cpus = len(available_cpus())
    if workers < worker_share(cpus, world=world):
        return f"raise WORKERS (now {workers} per process; this machine has {cpus} CPUs)"
    for slow, better, why in (("raw", "crop511", "a crop costs less than its picture"),
                              ("crop511", "packed", "`prepare pack` spares the disk a file for each crop")):
        for name, form in formats.items():
            if form == slow:
                return f"all {cpus} CPUs load already: set DATASET.{name}.FORMAT to {better} ({why})"
    return f"all {cpus} CPUs load already: use a machine with more, or lower DATASET.COLOR, BLUR and ROTATION"


class DevicePrefetcher:
    """An iterator over batches on the device that measures the time the device spends waiting for them."""

    def __init__(self, dataset: Dataset[Any], batches: Iterable[list[int]], *, workers: int,
                 device: torch.device, timeout: int) -> None:
        """Start the loader processes; a batch that takes longer than `timeout` seconds is an error (0: never)."""
        loader: DataLoader[Any] = DataLoader(
            _ErrorsAsValues(dataset), batch_sampler=batches, num_workers=workers, collate_fn=_collate,
            pin_memory=device.type == "cuda", worker_init_fn=_start_worker, timeout=timeout if workers else 0,
            prefetch_factor=4 if workers else None)
        self.workers = workers
        self._timeout, self._link = timeout, Link(device)
        self._gaps: list[tuple[Any, Any]] = []  # events at the end of a step and at the arrival of the next batch
        self._waited = 0.0
        others = set(multiprocessing.active_children())
        self._iterator: Iterator[Any] = iter(loader)  # starts the loader processes
        self._processes = [child for child in multiprocessing.active_children() if child not in others]

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        start, before = time.perf_counter(), self._link.mark()
        batch = self._link.load(self._fetch())
        self._waited += time.perf_counter() - start
        if before is not None:
            self._gaps.append((before, self._link.mark()))
        return batch

    def _fetch(self) -> Any:
        """Return the loader's next batch; a dying or hanging worker becomes a UserError."""
        try:
            batch = next(self._iterator)
        except (EOFError, OSError) as error:  # a batch's memory is asked of its process, which may be gone by then
            end = time.monotonic() + 1  # granted to a process that is about to end
            for child in self._processes:
                child.join(max(0.0, end - time.monotonic()))
            dead = ", ".join(str(child.pid) for child in self._processes if not child.is_alive())
            if not dead:
                raise
            raise _worker_died(f"DataLoader worker (pid(s) {dead}) exited unexpectedly") from error
        except RuntimeError as error:
            text = str(error)
            if "timed out" in text:
                pids = ", ".join(str(child.pid) for child in self._processes)
                self._kill()
                raise UserError(f"data: no batch for {self._timeout} s; one of the loader processes {pids} hangs; "
                                f"look at its disk, or raise TRAIN.DATA_TIMEOUT") from error
            if "exited unexpectedly" in text or "is killed by signal" in text:
                raise _worker_died(text.splitlines()[0]) from error
            raise
        if isinstance(batch, UserError):
            raise batch
        return batch

    def waited(self) -> float:
        """Return the seconds the device waited for data since the last call; call it where the device is idle.

        On a GPU this is the time between a step's last kernel and its next batch; on the CPU the time in the loader.
        """
        if self._gaps:
            self._waited = sum(before.elapsed_time(ready) for before, ready in self._gaps) / 1000
            self._gaps.clear()
        waited, self._waited = self._waited, 0.0
        return waited

    def close(self) -> None:
        """End the loader processes, hanging ones too."""
        self._iterator = iter(())  # the last reference to torch's, which asks its processes to end
        self._kill()

    def _kill(self) -> None:
        for process in self._processes:
            # torch watches over its processes and raises in the midst of the wait for one that was killed.
            with contextlib.suppress(RuntimeError):
                if process.is_alive():
                    process.kill()
                    process.join()


def _worker_died(text: str) -> UserError:
    return UserError(f"data: {text}; out of memory? lower WORKERS, or start again with --resume auto")


def _collate(samples: Sequence[Any]) -> Any:
    """Return the samples as a batch, or the first error among them."""
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    # default_collate writes a worker's batch straight into memory that the trainer sees.
    columns: list[Any] = list(zip(*samples, strict=True))
    return type(samples[0])(*(default_collate(column) for column in columns[:-1]), sum(columns[-1], ()))


class _ErrorsAsValues(Dataset[Any]):
    """The data set with its UserErrors as values, so that a worker hands them on in one line and not as a traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitem__(self, number: int) -> Any:
        try:
            return self._dataset[number]
        except UserError as error:
            return error


def _start_worker(_number: int) -> None:
    """Prepare a loader process: one thread, it dies with the trainer, which alone reacts to Ctrl-C and SIGTERM."""
    die_with_parent(signal.SIGKILL)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
