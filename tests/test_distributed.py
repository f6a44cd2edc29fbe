"""Several processes on gloo: equal weights, averaged losses, one voice, and a job that survives the loss of a rank."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from train_helpers import ROOT, call_in_ranks, same, snapshot, tiny_yaml, train_processes

from lib import distributed
from lib.distributed import EXIT_STOPPED, World, worker_exit_code
from lib.errors import UserError
from lib.training import checkpoints as resume
from lib.training.loader import worker_share
from lib.training.monitor import StepMonitor

AUTO = ("--resume", "auto")
TWO = ("TRAIN.BATCH=2",)  # two ranks of two pairs


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of two ranks without interruption."""
    folder = tmp_path_factory.mktemp("pair")
    assert train_processes(["--cfg", str(tiny_yaml(folder)), *TWO], ranks=2) == [(0, ""), (0, "")]
    return folder


def test_both_ranks_end_with_the_same_weights_and_one_of_them_writes(pair: Path) -> None:
    first, second = (torch.load(pair / "snapshot" / f"rank{rank}.pth", weights_only=True) for rank in (0, 1))
    parameters = [name for name in first if "running_" not in name]
    assert all(torch.equal(first[name], second[name]) for name in parameters)
    assert same(snapshot(pair)["state_dict"], first)
    assert len([path for path in (pair / "logs" / "Ocean").iterdir() if path.is_dir()]) == 1


def test_a_signal_to_one_rank_stops_both_at_the_same_step_and_resume_is_exact(pair: Path, tmp_path: Path) -> None:
    arguments = ["--cfg", str(tiny_yaml(tmp_path)), *TWO, *AUTO]
    stopped = train_processes(arguments, ranks=2, signals=[{}, {4: signal.SIGTERM}])
    assert stopped == [(EXIT_STOPPED, ""), (EXIT_STOPPED, "")]
    assert 4 < resume.read_resumable(resume.newest_intact(tmp_path / "snapshot"))["step"] <= 6
    assert train_processes(arguments, ranks=2) == [(0, ""), (0, "")]
    assert same(snapshot(pair)["state_dict"], snapshot(tmp_path)["state_dict"])


def test_accumulating_in_two_ranks_ends_in_the_same_weights_in_both(tmp_path: Path) -> None:
    path = tiny_yaml(tmp_path, END_EPOCH=1, WARMUP={"IFNOT": False}, ACCUMULATE=2, EMA=0.9, BATCH=1)
    assert train_processes(["--cfg", str(path)], ranks=2) == [(0, ""), (0, "")]
    first, second = (torch.load(tmp_path / "snapshot" / f"rank{rank}.pth", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first if "running_" not in name)
    assert same(snapshot(tmp_path, "checkpoint_e1.pth")["raw_state_dict"], first)


def test_a_killed_rank_ends_the_other_with_one_line(tmp_path: Path) -> None:
    arguments = ["--cfg", str(tiny_yaml(tmp_path)), *TWO]
    (left, (killed, _)) = train_processes(arguments, ranks=2, signals=[{}, {4: signal.SIGKILL}])
    assert killed == -signal.SIGKILL
    assert left[0] == 2
    assert "a process of the job is gone" in left[1]
    assert "\n" not in left[1]


def test_an_error_of_one_rank_is_told_once_and_ends_all(tmp_path: Path) -> None:
    # Samples 4 .. 7 are step 1; rank 1 takes the odd ones.
    arguments = ["--cfg", str(tiny_yaml(tmp_path)), *TWO]
    results = train_processes(arguments, ranks=2, pairs={"failing": [5]})
    assert [code for code, _ in results if code == 0] == []
    assert [text for _, text in results if text] == ["sample 5: fails as the test wishes"]


def _summarize_in_rank(world: World) -> tuple[dict[str, float], list[str]]:
    monitor = StepMonitor(world, max_unreadable=0.5, pairs_per_epoch=20, pairs_per_step=2)
    for step in range(2):
        monitor.add(step, {"total": torch.tensor(10.0 * world.rank + step), "grad_norm": torch.tensor(1.0)})
    monitor.add_unreadable([f"crop of rank {world.rank}"])
    found = monitor.summarize(waited=lambda: 0.0)
    assert found is not None
    return found.means, distributed.gather_texts([f"text {world.rank}"], world)


def test_losses_are_averaged_over_steps_and_ranks() -> None:
    means = {"total": (0 + 1 + 10 + 11) / 4, "grad_norm": 1.0}
    assert call_in_ranks(_summarize_in_rank, ranks=2) == [(means, ["text 0", "text 1"])] * 2


def _fail_on_main(world: World) -> str:
    def fail() -> None:
        raise UserError(f"told by rank {world.rank}")

    with pytest.raises(UserError) as caught:
        distributed.on_main(fail, world)
    return f"{caught.value}; reports: {distributed.reports_errors()}"


def test_what_fails_on_rank_0_fails_everywhere_and_one_speaks() -> None:
    texts = call_in_ranks(_fail_on_main, ranks=2)
    assert sorted(texts) == ["told by rank 0; reports: False", "told by rank 0; reports: True"]


def test_the_launcher_brings_a_killed_rank_back_from_the_last_checkpoint(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    few = ["TRAIN.UNFIX_EPOCH=1", *TWO]
    assert train_processes(["--cfg", str(tiny_yaml(whole)), *few], ranks=2, pairs=None, real=True) == [(0, ""), (0, "")]
    command = [sys.executable, str(ROOT / "tracking" / "train_ocean.py"), "--cfg", str(tiny_yaml(killed)), *few,
               "TRAIN.SAVE_EVERY=1", "--nproc", "2", "--max-restarts", "1"]
    job = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((killed / "snapshot").glob("checkpoint_e2*.pth")):
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(_children(job.pid)[-1], signal.SIGKILL)
    _, text = job.communicate(timeout=90)
    assert job.returncode == 0, text
    assert "going on from" in text, "the processes came back"
    assert same(snapshot(whole)["state_dict"], snapshot(killed)["state_dict"])


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_an_exit_code_tells_what_happened() -> None:
    assert worker_exit_code({0: 1, 1: 2}) == 2
    assert worker_exit_code({0: 1, 1: EXIT_STOPPED}) == EXIT_STOPPED
    assert worker_exit_code({0: 3, 1: -15}) == distributed.EXIT_FAILED
    with pytest.raises(UserError, match=r"rank 1 by SIGKILL.*RESUME auto"):
        worker_exit_code({0: 1, 1: -9})


def test_missing_devices_are_told_with_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    distributed.check_gpus([0, 1], place="--gpus")
    with pytest.raises(UserError, match=r"--gpus: no CUDA device 7; this machine has 2 \(0 to 1\)"):
        distributed.check_gpus([1, 7], place="--gpus")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"has none: leave --gpus out, or use --workers N"):
        distributed.check_gpus([0], place="--gpus", several="--workers N")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(UserError, match=r"torchrun started 3 processes here but GPUS names 2"):
        distributed.join([0, 1], place="x.yaml")


def test_loader_processes_are_shared_out_and_at_most_one_per_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.training.loader.available_cpus", lambda: list(range(8)))
    assert worker_share(32, world=World()) == 8
    assert worker_share(6, world=World(size=2, local_size=2)) == 3
    assert worker_share(32, world=World(size=6, local_size=3)) == 2
    assert worker_share(1, world=World(size=4, local_size=4)) == 1
    assert worker_share(0, world=World()) == 0
