"""Several processes on gloo: equal weights, averaged losses, one voice, and a job that survives the loss of a rank."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.nn.functional import all_reduce
from train_helpers import (
    ROOT,
    SLIM_MODELS,
    CheapPairs,
    call_in_ranks,
    same,
    snapshot,
    tiny_yaml,
    train_processes,
)

from lib import distributed
from lib.config_file import load_config
from lib.datasets.dataset import Sample
from lib.datasets.mixing import StreamSampler
from lib.distributed import EXIT_STOPPED, World, worker_exit_code
from lib.errors import UserError
from lib.models.models import build_model
from lib.tools.measure import calibrate_bn
from lib.training import checkpoints as resume
from lib.training.checkpoints import Progress
from lib.training.loader import _collate, worker_share
from lib.training.monitor import StepMonitor
from lib.training.tasks import Tracking
from lib.training.trainer import Trainer

AUTO = ("--resume", "auto")
TWO = ("TRAIN.BATCH=2",)  # two ranks of two pairs
THREE = ("TRAIN.BATCH=3", "TRAIN.END_EPOCH=8")  # eight steps of nine pairs: an epoch of twelve is no multiple of it


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of three ranks without interruption."""
    folder = tmp_path_factory.mktemp("three")
    assert train_processes(["--cfg", str(tiny_yaml(folder)), *THREE], ranks=3) == [(0, "")] * 3
    return folder


def test_three_ranks_end_with_the_same_weights_and_one_of_them_writes(three: Path) -> None:
    first, *others = (torch.load(three / "snapshot" / f"rank{rank}.pth", weights_only=True) for rank in range(3))
    parameters = [name for name in first if "running_" not in name]
    assert all(torch.equal(first[name], other[name]) for name in parameters for other in others)
    assert same(snapshot(three, "checkpoint_e8.pth")["state_dict"], first)
    assert len([path for path in (three / "logs" / "Ocean").iterdir() if path.is_dir()]) == 1


def test_a_signal_to_one_of_three_stops_all_at_the_same_step_and_resume_is_exact(three: Path, tmp_path: Path) -> None:
    arguments = ["--cfg", str(tiny_yaml(tmp_path)), *THREE, *AUTO]
    stopped = train_processes(arguments, ranks=3, signals=[{}, {4: signal.SIGTERM}])
    assert stopped == [(EXIT_STOPPED, "")] * 3
    assert 4 < resume.read_resumable(resume.newest_intact(tmp_path / "snapshot"))["step"] <= 6
    assert train_processes(arguments, ranks=3) == [(0, "")] * 3
    ends = [snapshot(folder, "checkpoint_e8.pth") for folder in (three, tmp_path)]
    assert same(ends[0]["state_dict"], ends[1]["state_dict"])


def test_accumulating_in_two_ranks_ends_in_the_same_weights_in_both(tmp_path: Path) -> None:
    path = tiny_yaml(tmp_path, END_EPOCH=1, WARMUP={"IFNOT": False}, ACCUMULATE=2, EMA=0.9, BATCH=1)
    assert train_processes(["--cfg", str(path)], ranks=2) == [(0, ""), (0, "")]
    first, second = (torch.load(tmp_path / "snapshot" / f"rank{rank}.pth", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first if "running_" not in name)
    assert same(snapshot(tmp_path, "checkpoint_e1.pth")["raw_state_dict"], first)


def test_a_killed_rank_ends_the_two_others_with_one_line(tmp_path: Path) -> None:
    arguments = ["--cfg", str(tiny_yaml(tmp_path)), *THREE]
    *left, (killed, _) = train_processes(arguments, ranks=3, signals=[{}, {}, {4: signal.SIGKILL}])
    assert killed == -signal.SIGKILL
    told = [text for _, text in left if text]
    assert told, "one of them at least; both where the first to tell took the shared store along"
    assert {(code, bool(text)) for code, text in left} <= {(2, True), (distributed.EXIT_FAILED, False)}
    assert all("a process of the job is gone" in text and "\n" not in text for text in told)


def test_an_error_of_one_rank_is_told_once_and_ends_all(tmp_path: Path) -> None:
    # Samples 4 .. 7 are step 1; rank 1 takes the odd ones. Rank 0 holds the store in which they agree who tells, so a
    # third rank could come to ask when it is gone, and tell too.
    arguments = ["--cfg", str(tiny_yaml(tmp_path)), *TWO]
    results = train_processes(arguments, ranks=2, pairs={"failing": [5]})
    assert [code for code, _ in results if code == 0] == []
    assert [text for _, text in results if text] == ["sample 5: fails as the test wishes"]


# What ranks do together against one process with the whole batch. A check is a function of the rank's World; all share
# one start of the processes.

TRAIN = {"END_EPOCH": 1, "WARMUP": {"IFNOT": False}, "UNFIX_EPOCH": 0, "CLIP_GRAD": 10.0, "EMA": 0.5}


def _steps(world: World, name: str, *, parts: int, batches: list[list[Sample]], **keys: Any) -> tuple[Trainer, Any]:
    """Return a trainer after a step on each of the lists of batches, and its weights and their average.

    BatchNorm keeps its statistics where it is not synchronized, as those of ranks are of half the batch.
    """
    spec = {key.upper(): value for key, value in SLIM_MODELS[name].items()}
    with tempfile.TemporaryDirectory() as folder:
        cfg = load_config(tiny_yaml(Path(folder), **{**TRAIN, **spec, "ACCUMULATE": parts, **keys}))
        torch.manual_seed(0)
        task = Tracking(cfg, dataset=CheapPairs())
        ReferenceSyncBN.ranks = world.size
        model = calibrate_bn(task.build())
        trainer = Trainer(cfg, world, task, model, folder=Path(folder), progress=Progress(9, 4))
        trainer.begin_epoch()
        for layer in trainer.model.modules():
            if isinstance(layer, nn.BatchNorm2d) and not isinstance(layer, ReferenceSyncBN):
                layer.eval()
        for group in batches:
            trainer.stage.set_rate(1e-3)
            trainer.take_step(group)
            trainer.progress.step += 1
        trainer.close()
    return trainer, {**trainer.model.state_dict(), **{f"average {key}": value for key, value in trainer.ema.items()}}


def _batch(numbers: Sequence[int], **pairs: Any) -> Sample:
    return _collate([CheapPairs(**pairs)[number] for number in numbers])


def _furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the largest difference of two states over what the weights have moved by at most, about 0.01."""
    return max(float((one[key].double() - other[key].double()).abs().max()) for key in one)


def _as_one_process(world: World, names: Sequence[str]) -> dict[str, float]:
    """Return, by check, how far this rank ends from one process that had all of the pairs.

    What one process does rank 0 computes, with the very batches of the sampler.
    """
    pairs = 2 * world.size

    def batches(rank: int, ranks: int, **broken: Any) -> list[list[Sample]]:
        sampler = StreamSampler(pairs // ranks, rank=rank, world=ranks)
        sampler.set_position(0, 2)
        return [[_batch(numbers, **broken)] for numbers in sampler]

    def alone(name: str, *, parts: int, batches: list[list[Sample]], **keys: Any) -> Any:
        return distributed.on_main(lambda: _steps(World(), name, parts=parts, batches=batches, **keys)[1], world)

    found: dict[str, float] = {}
    own, whole = batches(world.rank, world.size), batches(0, 1)
    for name in names:
        _, ranks = _steps(world, name, parts=1, batches=own)
        found[name] = _furthest(ranks, alone(name, parts=1, batches=whole))
    _, ranks = _steps(world, "Ocean", parts=2, batches=[own[0] + own[1]])
    found["accumulated"] = _furthest(ranks, alone("Ocean", parts=2, batches=[whole[0] + whole[1]]))
    broken = batches(world.rank, world.size, broken=[pairs - 1])  # in the last rank's part of the first step
    trainer, ranks = _steps(world, "Ocean", parts=1, batches=[broken[0], own[1]], NONFINITE="skip")
    assert trainer.skipped == 1
    after = alone("Ocean", parts=1, batches=[whole[1]])
    found["skipped"] = _furthest({key: value for key, value in ranks.items() if "average" not in key}, after)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn, "BatchNorm2d", ReferenceSyncBN)
        _, ranks = _steps(world, "Ocean", parts=1, batches=own)
        after = alone("Ocean", parts=1, batches=whole)
        found["synchronized BatchNorm"] = _furthest(ranks, after)
        part = alone("Ocean", parts=1, batches=own)
    assert _furthest(part, after) > 1e-4, "a part of the pairs must make a difference, or nothing was shown"
    return found


class ReferenceSyncBN(nn.BatchNorm2d):
    """SyncBatchNorm's arithmetic where torch's own does not run: the statistics of all ranks' rows together.

    In one process it is the plain layer, so that ranks with it must do what one process does.
    """

    ranks = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.weight.requires_grad is False:
            return super().forward(x)
        moments = torch.stack([x.mean((0, 2, 3)), (x * x).mean((0, 2, 3))])
        if self.ranks > 1:
            moments = all_reduce(moments) / self.ranks
        mean, var = moments[0], moments[1] - moments[0] ** 2
        weight, bias = self.weight / (var + self.eps).sqrt(), self.bias
        return (x - mean[:, None, None]) * weight[:, None, None] + bias[:, None, None]


@pytest.mark.parametrize(("ranks", "names"), [(2, ["align"]), (3, [name for name in SLIM_MODELS if name != "timm"])])
def test_ranks_end_where_one_process_with_all_pairs_ends(ranks: int, names: Sequence[str]) -> None:
    """Every model, accumulated gradients, averaged weights, a step that all ranks skip, synchronized BatchNorm.

    In the second step DistributedDataParallel would tell of parameters that the first one left without a gradient.
    """
    found = call_in_ranks(partial(_as_one_process, names=names), ranks=ranks, timeout=600)
    assert len(found) == ranks
    for gaps in found:
        assert gaps.keys() == {*names, "accumulated", "skipped", "synchronized BatchNorm"}
        assert {name: gap for name, gap in gaps.items() if gap > 1e-5} == {}


def test_torchs_synchronized_layers_take_the_place_of_all_others() -> None:
    for name, spec in SLIM_MODELS.items():
        if name == "timm":
            continue
        model = build_model(**spec, channels=8, towernum=1)
        names = list(model.state_dict())
        done = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        assert list(done.state_dict()) == names
        assert not [layer for layer in done.modules() if isinstance(layer, nn.BatchNorm2d)]


def test_two_launchers_make_one_job_of_two_machines(tmp_path: Path) -> None:
    """Each launcher starts one process, as on a machine of its own; they meet on the loopback."""
    few = ["TRAIN.BATCH=2", "TRAIN.END_EPOCH=1", "TRAIN.UNFIX_EPOCH=0", "TRAIN.WARMUP.IFNOT=False"]
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    script = [str(ROOT / "tracking" / "train_ocean.py"), "--cfg", str(tiny_yaml(two)), *few]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1",
                "--master_addr", "localhost", "--master_port", str(port), "--node_rank"]
    jobs = [subprocess.Popen([*launcher, str(node), *script], env={**os.environ, "OMP_NUM_THREADS": "1"},
                             stderr=subprocess.PIPE, text=True) for node in range(2)]
    try:
        for job in jobs:
            _, text = job.communicate(timeout=300)
            assert job.returncode == 0, text
    finally:
        for job in jobs:
            job.kill()
    alone = train_processes(["--cfg", str(tiny_yaml(one)), *few], ranks=2, real=True, timeout=300)
    assert alone == [(0, ""), (0, "")]
    ends = [snapshot(folder, "checkpoint_e1.pth") for folder in (one, two)]
    assert same(ends[0]["state_dict"], ends[1]["state_dict"])
    assert len([path for path in (two / "logs" / "Ocean").iterdir() if path.is_dir()]) == 1


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
