"""Processes of one job: torchrun's environment, the device of each, reductions, agreement on when to stop."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from lib.errors import EXIT_USER_ERROR, UserError, die_with_parent

EXIT_STOPPED = 75  # EX_TEMPFAIL: stopped on request with a checkpoint written; start again with RESUME auto
EXIT_FAILED = 1

T = TypeVar("T")
_store: dist.Store | None = None  # what the job's processes share, while the process group stands


@dataclass(frozen=True)
class World:
    """This process among those of the job."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Return whether this is the one process that speaks and writes."""
        return self.rank == 0


def under_torchrun() -> bool:
    """Return whether torchrun (or a launcher that sets the same variables) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def restart_count() -> int:
    """Return how often torchrun has started this job's processes again (0 in the first life)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def check_gpus(gpus: Sequence[int], *, place: str, several: str = "") -> None:
    """Raise UserError saying how many devices there are if one of `gpus` does not exist.

    place: where they were named. several: the command's flag for several processes on the CPU, if it has one.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    missing = [gpu for gpu in gpus if gpu >= count]
    if missing:
        has = f"{count} (0 to {count - 1})" if count else f"none: leave {place} out"
        more = f", or use {several} for several processes" if several and not count else ""
        raise UserError(f"{place}: no CUDA device {', '.join(map(str, missing))}; this machine has {has}{more}")


def join(gpus: Sequence[int], *, place: str) -> World:
    """Return this process's place in the job, on its device, with the process group ready when there are several.

    The device is `gpus[local rank]` where CUDA is there, else the CPU. NCCL carries GPU tensors and gloo those on the
    CPU. Raises UserError when a device is missing or torchrun started more processes than `gpus` has entries.
    """
    env = {name: int(os.environ.get(name, default)) for name, default in
           (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))}
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if env["LOCAL_WORLD_SIZE"] > len(gpus):
            raise UserError(f"{place}: torchrun started {env['LOCAL_WORLD_SIZE']} processes here but GPUS names "
                            f"{len(gpus)} device(s); name one for each")
        check_gpus([gpus[env["LOCAL_RANK"]]], place=place)
        device = torch.device("cuda", gpus[env["LOCAL_RANK"]])
        torch.cuda.set_device(device)
    if under_torchrun():
        global _store
        die_with_parent()
        store, rank, size = next(dist.rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        # torchrun may serve one store for all lives of the processes: the addresses of dead ones must not be found.
        # (Machines may count lives differently, so this holds for jobs on one machine only.)
        life = restart_count() if env["WORLD_SIZE"] == env["LOCAL_WORLD_SIZE"] else 0
        store = dist.PrefixStore(f"life_{life}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
        _store = dist.PrefixStore("oceankit", store)
    return World(env["RANK"], env["WORLD_SIZE"], env["LOCAL_RANK"], env["LOCAL_WORLD_SIZE"], device)


def leave() -> None:
    """Take the process group down if there is one."""
    global _store
    _store = None
    if dist.is_initialized():
        dist.destroy_process_group()


def reports_errors() -> bool:
    """Return whether this process tells of an error: the first of the job's to ask, so that it is told once."""
    if _store is None:  # before the process group stands: one process of each machine
        return os.environ.get("LOCAL_RANK", "0") == "0"
    try:
        return bool(_store.add("spoken", 1) == 1)
    except RuntimeError:  # the store's host is gone: better told twice than not at all
        return True


def gather(values: torch.Tensor, world: World) -> torch.Tensor:
    """Return every rank's `values` stacked in rank order, shape (size, *values.shape), on each rank."""
    if world.size == 1:
        return values[None]
    rows = [torch.empty_like(values) for _ in range(world.size)]
    dist.all_gather(rows, values.contiguous())
    return torch.stack(rows)


def gather_texts(texts: Sequence[str], world: World) -> list[str]:
    """Return every rank's texts in rank order, on each rank."""
    if world.size == 1:
        return list(texts)
    boxes: list[list[str]] = [[] for _ in range(world.size)]
    dist.all_gather_object(boxes, list(texts))
    return [text for box in boxes for text in box]


def from_main(value: Any, world: World) -> Any:
    """Return rank 0's `value` on every rank; waits for all of them."""
    if world.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def on_main(function: Callable[[], T], world: World) -> T:
    """Return on every rank what `function` returns on rank 0; a UserError there is raised on every rank."""
    if world.size == 1:
        return function()
    value, problem = None, ""
    if world.is_main:
        try:
            value = function()
        except UserError as error:
            problem = str(error)
    value, problem = from_main((value, problem), world)
    if problem:
        raise UserError(problem)
    return cast(T, value)


class StopRequest:
    """SIGTERM or SIGINT, noticed at the same step by every rank without waiting for the device."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal == signal.SIGINT and not under_torchrun():
            raise KeyboardInterrupt  # Ctrl-C twice: the user will not wait for the step
        self._signal = number

    @property
    def asked(self) -> bool:
        return bool(self._signal)

    def agreed(self) -> bool:
        """Return whether to stop after this step: the same answer in every rank; each must call once a step.

        The hosts meet on the CPU; the device goes on with the step.
        """
        flag = torch.tensor([float(self.asked)])
        if self._world.size > 1:
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag[0] > 0)


def launch(script: Path, arguments: Sequence[str], *, processes: int, max_restarts: int = 0) -> int:
    """Return the exit code of a job of `processes` processes of `script` on this machine, started by torchrun's agent.

    2 for a user's error (told by the process that met it), EXIT_STOPPED after SIGTERM or SIGINT, else the first
    failure's. `max_restarts` times a failed process brings all of them up again.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The agent tells of each failed process over ten lines; the processes tell their own errors in one.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    for name in ("agent.server.api", "agent.server.local_elastic_agent", "multiprocessing.api"):
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(available_cpus()) // processes)))
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=processes, rdzv_backend="c10d",
                          rdzv_endpoint="localhost:0", run_id=uuid.uuid4().hex, max_restarts=max_restarts,
                          monitor_interval=0.1, local_addr="localhost")
    try:
        elastic_launch(config, sys.executable)("-u", str(script), *arguments)
    except SignalException:
        return EXIT_STOPPED
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        return worker_exit_code(codes)
    return 0


def worker_exit_code(codes: dict[int, int]) -> int:
    """Return the job's exit code from those of its failed ranks; raise UserError when a signal ended them."""
    for code in (EXIT_USER_ERROR, EXIT_STOPPED):
        if code in codes.values():
            return code
    # SIGTERM is the agent's way to end the rest of the job.
    killed = {rank: -code for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM}
    if killed:
        names = ", ".join(f"rank {rank} by {signal.Signals(number).name}" for rank, number in sorted(killed.items()))
        raise UserError(f"the job ended because processes were killed ({names}); RESUME auto goes on from the last "
                        f"checkpoint, and --max-restarts N does so by itself")
    return EXIT_FAILED


def available_cpus() -> list[int]:
    """Return the numbers of the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
