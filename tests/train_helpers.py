"""Small trainings for tests: a tiny model, cheap samples, and processes that may be killed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.utils.data import Dataset

import lib.training.loop
from lib import commands
from lib.datasets.dataset import Sample
from lib.distributed import World, join, leave
from lib.errors import UserError
from lib.training.trainer import Trainer

DISK_FULL = -1  # in place of a signal: the disk of the checkpoints is filled to the last byte
ROOT = Path(__file__).resolve().parents[1]
PAIRS = 12  # an epoch of the tiny training: 3 steps of 4 pairs
RESNET = {"width": 4, "layers": [1, 1, 2], "expansion": 1}
VIT = {"dim": 16, "depth": 2, "heads": 2}
# Every kind of model, slim.
SLIM_MODELS: dict[str, dict[str, Any]] = {
    "Ocean": {"backbone": "ResNetSmall", "backbone_options": RESNET},
    "align": {"backbone": "ResNetSmall", "backbone_options": RESNET, "align": True},
    "MHSA": {"backbone": "ResNetSmall_MHSA", "backbone_options": RESNET},
    "templ": {"backbone": "ResNetSmall_MHSA", "backbone_options": {**RESNET, "templ": True}},
    "single": {"backbone": "ResNetSmall_single", "backbone_options": RESNET},
    "ViT": {"backbone": "ViT_small", "backbone_options": VIT},
    "joint ViT": {"backbone": "ViT_small", "backbone_options": {**VIT, "joint": True}},
    "timm": {"backbone": "timm", "backbone_options": {"name": "test_efficientnet"}},
}


class CheapPairs(Dataset[Sample]):
    """Noise with targets, sample n a function of n; `broken` samples hold NaN, `unreadable` ones tell of a crop."""

    def __init__(self, *, broken: Sequence[int] = (), unreadable: Sequence[int] = (),
                 failing: Sequence[int] = ()) -> None:
        self.broken, self.unreadable, self.failing = set(broken), set(unreadable), set(failing)

    def __len__(self) -> int:
        return PAIRS

    def __getitem__(self, n: int) -> Sample:
        if n in self.failing:
            raise UserError(f"sample {n}: fails as the test wishes")
        rng = np.random.default_rng(n)
        z, x = (torch.from_numpy(rng.integers(0, 256, (3, side, side), np.uint8)) for side in (127, 255))
        cls = torch.zeros(25, 25)
        cls[n % 20 : n % 20 + 4, 12:15] = 1
        ltrb = torch.from_numpy(rng.uniform(4, 60, (4, 25, 25)).astype(np.float32))
        if n in self.broken:
            ltrb[:] = float("nan")
        texts = (f"crop_{n}.jpg: truncated",) if n in self.unreadable else ()
        return Sample(z, x, cls, ltrb, cls.clone(), torch.tensor([60.0, 60.0, 160.0, 140.0]), texts)


def tiny_yaml(folder: Path, *, top: dict[str, Any] | None = None, **train: Any) -> Path:
    """Return a YAML file in `folder` for 4 epochs of 3 steps, the trunk frozen for the first two."""
    settings = {"END_EPOCH": 4, "BATCH": 4, "UNFIX_EPOCH": 2, "RANDOM_TRUNK": True, "BACKBONE": "ResNetSmall",
                "CHANNELS": 4, "TOWERNUM": 1,
                "BACKBONE_OPTIONS": {"width": 2, "layers": [1, 1, 1], "expansion": 1}, "WARMUP": {"EPOCH": 1},
                "WHICH_USE": ["SYN"], **train}
    tree = {"PRINT_FREQ": 2, "WORKERS": 0, "OUTPUT_DIR": str(folder / "logs"),
            "CHECKPOINT_DIR": str(folder / "snapshot"), "TRAIN": settings,
            "DATASET": {"SYN": {"FORMAT": "synthetic", "USE": PAIRS, "RANGE": 5}}, **(top or {})}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({"OCEAN": tree}), encoding="utf-8")
    return path


def fill_disk(folder: Path) -> None:
    """Write to the disk of `folder` until it is full."""
    with (folder / "ballast").open("wb", buffering=0) as file:
        for size in (2**16, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


@contextlib.contextmanager
def small_disk(folder: Path, *, mib: int) -> Iterator[Path]:
    """A context with a file system of a few MiB of its own; skips the test where none may be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("mount") else None
    if done is None or done.returncode:
        pytest.skip("needs the right to mount a small file system (root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def repeatable() -> tuple[random.Random, str]:
    """Return random numbers and what to say of them: OCEANKIT_SEED=N in the environment gives the same ones again."""
    seed = int(os.environ.get("OCEANKIT_SEED", random.SystemRandom().randrange(10**6)))
    print(f"repeat with OCEANKIT_SEED={seed}")
    return random.Random(seed), f"OCEANKIT_SEED={seed}"


def snapshot(folder: Path, name: str = "checkpoint_e4.pth") -> dict[str, Any]:
    """Return a checkpoint of the tiny training in `folder`."""
    return torch.load(folder / "snapshot" / name, weights_only=True)


def same(one: Any, other: Any) -> bool:
    """Return whether two checkpoints' parts are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def _child(arguments: list[str], environment: dict[str, str], signals: dict[int, int], pairs: dict[str, Any] | None,
           queue: Any) -> None:
    """Train in this process; `signals` maps a step to the signal that the process sends itself in the midst of it."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    if pairs is not None:
        lib.training.tasks.build_dataset = lambda _: CheapPairs(**pairs)  # type: ignore[assignment]
    take_step = Trainer.take_step
    trainers: list[Trainer] = []

    def step_and_signal(trainer: Trainer, *batch: Any) -> Any:
        output = take_step(trainer, *batch)
        trainers[:] = [trainer]
        number = signals.get(trainer.progress.step)
        if number == DISK_FULL:
            fill_disk(Path(trainer.cfg.CHECKPOINT_DIR).parent)
        elif number:
            os.kill(os.getpid(), number)
        return output

    Trainer.take_step = step_and_signal  # type: ignore[method-assign]
    try:
        code = commands.call("train", arguments)
        if "RANK" in environment and trainers:
            folder = Path(trainers[0].cfg.CHECKPOINT_DIR)
            torch.save(trainers[0].model.state_dict(), folder / f"rank{environment['RANK']}.pth")
        queue.put((code, ""))
    except UserError as error:
        queue.put((2, str(error)))


def train_processes(arguments: Sequence[str], *, ranks: int = 1, signals: Sequence[dict[int, int]] = (),
                    pairs: dict[str, Any] | None = None, real: bool = False, timeout: float = 300,
                    ) -> list[tuple[int, str]]:
    """Return (exit code, error text) of each rank of a training in processes of their own; -9 for a killed one.

    signals: for each rank, step -> signal. real: with the YAML's data instead of CheapPairs(**pairs). The processes
    come from a fork server that has torch loaded already.
    """
    samples = None if real else pairs or {}
    extra = [(signals[rank] if rank < len(signals) else {}, samples) for rank in range(ranks)]
    return run_processes(_child, [(list(arguments), environment, *own) for environment, own in
                                  zip(environments(ranks), extra, strict=True)], timeout=timeout)


def call_in_ranks(function: Callable[[World], Any], *, ranks: int, timeout: float = 60) -> list[Any]:
    """Return what `function(world)` returns in each of `ranks` gloo processes."""
    return run_processes(_call, [(function, environment) for environment in environments(ranks)],
                         timeout=timeout)


def _call(function: Callable[[World], Any], environment: dict[str, str], queue: Any) -> None:
    os.environ.update(environment)
    queue.put(function(join([0], place="test")))
    leave()


def environments(ranks: int) -> list[dict[str, str]]:
    """Return what torchrun would set for each rank; nothing for one process."""
    if ranks == 1:
        return [{}]
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(ranks),
              "LOCAL_WORLD_SIZE": str(ranks)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def run_processes(function: Callable[..., None], arguments: list[tuple[Any, ...]], *, timeout: float,
                  kills: Sequence[tuple[int, float]] = ()) -> list[Any]:
    """Return what each process put into its queue; (-9, "") for one that was killed.

    kills: which of them to kill after how many seconds, whatever it does then.
    """
    context = _fork_server()
    started = []
    for own in arguments:
        queue = context.Queue()
        process = context.Process(target=function, args=(*own, queue))
        process.start()
        started.append((process, queue))
    begin = time.monotonic()
    for number, seconds in sorted(kills, key=lambda kill: kill[1]):
        started[number][0].join(max(0.0, begin + seconds - time.monotonic()))
        started[number][0].kill()
    results = []
    for process, queue in started:
        process.join(timeout)
        if process.is_alive():
            for other, _ in started:
                other.kill()
            process.join()
            raise AssertionError(f"the training did not end within {timeout} s")
        killed = process.exitcode == -signal.SIGKILL
        results.append((process.exitcode or 0, "") if killed else queue.get(timeout=5))
    return results


def _fork_server() -> Any:
    """Return a multiprocessing context whose server has loaded all that a training needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train_helpers", "torch.utils.tensorboard", "lib.testing.sweep", "lib.testing.run",
                                    "lib.datasets.prepare.__main__"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # the preload looks nowhere else
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    return context


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])
