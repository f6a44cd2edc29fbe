"""Kill each kind of work at random moments, let it go on, and compare its end with that of work left in peace.

    python tests/kill_harness.py --kills 25 [--work train-2 sweep-2 ...]

The chain is one small experiment: raw videos -> prepare -> pack -> train from the archives -> test -> sweep, in one
process and in two. A kill is SIGKILL after a random time, whatever the process does then; with two processes each may
be hit. Work that ends before it had its share of kills is begun anew in an empty folder. `elastic` is one job under
`--nproc 2 --max-restarts`, of which a random rank is killed each time. Prints a JSON line for each work, and leaves
with 1 if an end differs or something half-written was left behind.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from raw_trees import write_picture
from tracker_stubs import small_checkpoint, write_squares
from train_helpers import ROOT, environments, run_processes, snapshot, tiny_yaml

from lib import commands
from lib.errors import UserError

PARTS = ("state_dict", "optimizer", "scaler", "step", "samples")
Command = tuple[str, list[str]]  # which main, its arguments


@dataclass(frozen=True)
class Size:
    """How much there is to do."""

    videos: int = 40
    frames: int = 6
    epochs: int = 16
    save_every: int = 1
    sequences: int = 16
    length: int = 8
    checkpoints: int = 3


SHORT = Size(videos=6, frames=3, epochs=2, save_every=1, sequences=3, length=4, checkpoints=2)


@dataclass(frozen=True)
class Work:
    """One kind of work: what each of its processes runs in a folder, and what must be the same at the end."""

    processes: int
    command: Callable[[Path], Command]
    result: Callable[[Path], dict[str, Any]]


class Experiment:
    """The raw data and the products that the works begin with, in a folder of their own."""

    def __init__(self, root: Path, size: Size) -> None:
        self.root, self.size = root, size
        for video in range(size.videos):
            for frame in range(size.frames):
                write_picture(root / "raw" / f"v{video:03d}" / f"{frame + 1:08d}.jpg")
            (root / "raw" / f"v{video:03d}" / "groundtruth.txt").write_text(
                "".join(f"{30 + frame},20,40,30\n" for frame in range(size.frames)), encoding="utf-8")
        write_squares(root / "set", {f"s{k:02d}": size.length + k % 3 for k in range(size.sequences)})
        for epoch in range(1, size.checkpoints + 1):
            small_checkpoint(root / "snapshot" / f"checkpoint_e{epoch}.pth", seed=epoch)
        for name in ("prepare-1", "pack-1"):  # what the later links of the chain begin with
            codes = one_life(self.works()[name], root / "start", root / "log.txt", [])
            assert codes == [(0, "")], (name, codes, (root / "log.txt").read_text(encoding="utf-8"))

    def works(self) -> dict[str, Work]:
        """Return each work by name; the number says in how many processes."""
        return {
            "prepare-1": Work(1, lambda folder: self._prepare(folder, 1), prepared),
            "prepare-2": Work(1, lambda folder: self._prepare(folder, 2), prepared),  # its main process is killed
            "pack-1": Work(1, lambda folder: self._pack(folder, 1), packed),
            "pack-2": Work(1, lambda folder: self._pack(folder, 2), packed),
            "train-1": Work(1, lambda folder: self._train(folder, 1), self._trained),
            "train-2": Work(2, lambda folder: self._train(folder, 2), self._trained),
            "test-1": Work(1, self._test, results),
            "sweep-1": Work(1, self._sweep, results),
            "sweep-2": Work(2, self._sweep, results),
        }

    def _prepare(self, folder: Path, jobs: int) -> Command:
        raw, out = str(self.root / "raw"), str(folder / "data")
        return "prepare", ["GOT10K", "--root", raw, "--out", out, "--jobs", str(jobs)]

    def _pack(self, folder: Path, jobs: int) -> Command:
        data, out = str(self.root / "start" / "data"), str(folder / "packed")
        return "prepare", ["pack", data, "--out", out, "--jobs", str(jobs)]

    def yaml(self, folder: Path) -> Path:
        """Return the YAML of a training from the archives, saving in the midst of epochs."""
        folder.mkdir(parents=True, exist_ok=True)
        start = self.root / "start"
        source = {"PATH": str(start / "packed"), "ANNOTATION": str(start / "data" / "train.json"), "FORMAT": "packed",
                  "RANGE": 5, "USE": 12}
        return tiny_yaml(folder, top={"DATASET": {"SYN": source}}, END_EPOCH=self.size.epochs, KEEP_LAST=2,
                         SAVE_EVERY=self.size.save_every)

    def _train(self, folder: Path, ranks: int) -> Command:
        few = [f"TRAIN.BATCH={4 // ranks}"]
        return "train", ["--cfg", str(self.yaml(folder)), "--resume", "auto", *few]

    def _trained(self, folder: Path) -> dict[str, Any]:
        end = snapshot(folder, f"checkpoint_e{self.size.epochs}.pth")
        return {part: digest(end[part]) for part in PARTS}

    def _test(self, folder: Path) -> Command:
        checkpoint = self.root / "snapshot" / "checkpoint_e1.pth"
        return "test", ["--resume", str(checkpoint), *self._set(folder)]

    def _sweep(self, folder: Path) -> Command:
        return "sweep", ["--snapshot", str(self.root / "snapshot"), "--html", "False", *self._set(folder)]

    def _set(self, folder: Path) -> list[str]:
        return ["--dataset", "set", "--dataset_dir", str(self.root / "set"), "--result_dir", str(folder / "result"),
                "--device", "cpu"]


def enter(name: str, arguments: list[str], log: Path, environment: dict[str, str], queue: Any) -> None:
    """Run one of the mains in this process, all it says going to `log`; put exit code and error into the queue."""
    import lib.datasets.prepare.__main__ as prepare
    import lib.datasets.prepare.upkeep as upkeep

    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    upkeep.ROWS = 25  # many small archives, as a large data set has many large ones
    main = prepare.main if name == "prepare" else partial(commands.call, name)
    try:
        queue.put((main(arguments), ""))
    except UserError as error:
        queue.put((2, str(error)))


def digest(part: Any) -> str:
    """Return a digest of nested dicts (in whatever order), lists, tensors, plain values: equal only for the same bits.

    The order of an optimizer's state is that in which its parameters first trained in this life of the process.
    """
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.update(f"{value.dtype} {tuple(value.shape)}".encode() + value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                found.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for inner in value:
                add(inner)
        else:
            found.update(repr(value).encode())

    add(part)
    return found.hexdigest()


def files(folder: Path, *patterns: str) -> dict[str, Any]:
    """Return a digest of the bytes of each file that a pattern picks."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for pattern in patterns for path in folder.glob(pattern) if path.is_file()}


def prepared(folder: Path) -> dict[str, Any]:
    """Return index, table of pictures, manifest, preview and every crop."""
    return files(folder / "data", "*.json", "*.png", "crop511/**/*.jpg")


def packed(folder: Path) -> dict[str, Any]:
    """Return the archives and the table of offsets."""
    return files(folder / "packed", "*.tar", "*.arrays")


def results(folder: Path) -> dict[str, Any]:
    """Return every result file."""
    return files(folder / "result", "**/*.txt")


def one_life(work: Work, folder: Path, log: Path, kills: list[tuple[int, float]]) -> list[tuple[int, str]]:
    """Return (exit code, error) of each process of a work after some of them were killed after so many seconds."""
    command = work.command(folder)
    arguments = [(*command, log, environment) for environment in environments(work.processes)]
    return run_processes(enter, arguments, timeout=900, kills=kills)


def survive(experiment: Experiment, name: str, folder: Path, *, kills: int, rng: random.Random) -> dict[str, Any]:
    """Return what happened to a work that was killed at least `kills` times."""
    work = experiment.works()[name]
    log = folder / "log.txt"
    begin = time.monotonic()
    assert one_life(work, folder / "peaceful", log, []) == [(0, "")] * work.processes, log.read_text(encoding="utf-8")
    whole, length = work.result(folder / "peaceful"), time.monotonic() - begin
    assert whole
    hits = lives = rounds = 0
    different, left = [], set()
    while hits < kills:
        here = folder / f"round_{rounds}"
        done = False
        while not done:
            wishes = [(rank, rng.uniform(0.05, 1.0) * min(length, max(0.5, 2 * length / kills)))
                      for rank in range(work.processes) if hits < kills and (rank == 0 or rng.random() < 0.5)]
            if work.processes > 1 and len(wishes) == 1 and rng.random() < 0.5:
                wishes = [(1, wishes[0][1])]
            codes = [code for code, _ in one_life(work, here, log, wishes)]
            lives += 1
            hits += codes.count(-signal.SIGKILL)
            # A sweep's other worker does it all; of a training's ranks none ends well alone.
            done = 0 in codes
        rounds += 1
        end = work.result(here)
        different += [key for key in {*whole, *end} if whole.get(key) != end.get(key)]
        left |= {path.name for path in here.rglob("*.tmp")}
    return {"work": name, "kills": hits, "lives": lives, "rounds": rounds, "compared": len(whole),
            "different": different[:5], "left_behind": sorted(left)[:5], "seconds": round(time.monotonic() - begin)}


def elastic(experiment: Experiment, folder: Path, *, kills: int, rng: random.Random) -> dict[str, Any]:
    """Return what happened to one job of two ranks under the launcher, a random one of which was killed each time."""
    begin = time.monotonic()
    peaceful = experiment.works()["train-2"]
    assert one_life(peaceful, folder / "peaceful", folder / "log.txt", []) == [(0, "")] * 2
    _, arguments = peaceful.command(folder / "killed")
    command = [sys.executable, str(ROOT / "tracking" / "train_ocean.py"), *arguments, "--nproc", "2", "--max-restarts",
               str(kills)]
    hits = 0
    with (folder / "log.txt").open("ab") as log:
        job = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
        before: set[int] = set()
        while job.poll() is None:
            ranks = {*children(job.pid)} - before
            if hits < kills and len(ranks) == 2 and list((folder / "killed" / "snapshot").glob("*.pth")):
                time.sleep(rng.uniform(0, 12))  # starting, reading the checkpoint, training, saving
                ranks &= {*children(job.pid)}
                if len(ranks) == 2 and job.poll() is None:
                    os.kill(rng.choice(sorted(ranks)), signal.SIGKILL)
                    hits, before = hits + 1, before | ranks
            time.sleep(0.05)
    ends = [experiment._trained(folder / name) if job.returncode == 0 else {} for name in ("peaceful", "killed")]
    left = sorted(path.name for path in (folder / "killed").rglob("*.tmp"))
    return {"work": "elastic", "kills": hits, "exit_code": job.returncode, "compared": len(PARTS),
            "different": [key for key in ends[0] if ends[0][key] != ends[1][key]] if ends[0] else ["no end"],
            "left_behind": left, "seconds": round(time.monotonic() - begin)}


def children(pid: int) -> list[int]:
    """Return a process's children."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]
    except OSError:
        return []


def main() -> int:
    """Return 0 when every end is that of the work left in peace."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, help="of each work")
    parser.add_argument("--work", nargs="+", default=[], help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment(Path(folder) / "experiment", Size())
        for name in arguments.work or [*experiment.works(), "elastic"]:
            rng, own = random.Random(f"{arguments.seed} {name}"), Path(folder) / name
            own.mkdir()
            if name == "elastic":
                found = elastic(experiment, own, kills=min(arguments.kills, 3), rng=rng)
            else:
                found = survive(experiment, name, own, kills=arguments.kills, rng=rng)
            print(json.dumps({"harness": "kill", **found, "seed": arguments.seed}), flush=True)
            failed |= bool(found["different"] or found["left_behind"])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
