"""A run that was interrupted ends in the same weights, bit for bit, and never goes on from what it should not."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from train_helpers import DISK_FULL, repeatable, same, small_disk, snapshot, tiny_yaml, train_processes

from lib.config_file import load_config
from lib.distributed import EXIT_STOPPED
from lib.errors import UserError
from lib.training import checkpoints as resume

EXACT = ("state_dict", "optimizer", "optimizer_names", "epoch", "step", "samples")
AUTO = ("--resume", "auto")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    assert train_processes(["--cfg", str(tiny_yaml(folder))]) == [(0, "")]
    return folder


def equal_end(one: Path, other: Path) -> bool:
    first, second = snapshot(one), snapshot(other)
    return all(same(first[key], second[key]) for key in EXACT)


def test_kill_at_a_random_step_and_resume_auto_ends_in_the_same_weights(whole: Path, tmp_path: Path) -> None:
    rng, seed = repeatable()
    step = rng.randrange(2, 12)  # from the first checkpoint on: before it there is no run to go on with
    arguments = ["--cfg", str(tiny_yaml(tmp_path, SAVE_EVERY=2)), *AUTO]
    assert train_processes(arguments, signals=[{step: signal.SIGKILL}])[0][0] == -signal.SIGKILL, step
    assert not (tmp_path / "snapshot" / "checkpoint_e4.pth").exists()
    assert train_processes(arguments) == [(0, "")]
    assert equal_end(whole, tmp_path), f"killed at step {step}, {seed}"
    folders = [path for path in (tmp_path / "logs" / "Ocean").iterdir() if path.is_dir()]
    assert len(folders) == 1, "the run goes on in the same TensorBoard folder"
    steps = [event.step for event in _events(folders[0])]
    assert steps == sorted(set(steps)), "no step is told twice"
    assert steps[-1] == 12


@pytest.mark.parametrize("choice", ["stop", "continue"])
def test_a_full_disk_keeps_the_checkpoints_and_says_so(tmp_path: Path, choice: str) -> None:
    with small_disk(tmp_path / "disk", mib=4) as disk:
        arguments = ["--cfg", str(tiny_yaml(tmp_path, ON_SAVE_ERROR=choice)), f"CHECKPOINT_DIR={disk / 'snapshot'}"]
        ((code, text),) = train_processes(arguments, signals=[{5: DISK_FULL}])
        if choice == "stop":
            assert code == 2
            assert "checkpoint_e2.pth: cannot be written (No space left on device)" in text
        else:
            assert (code, text) == (0, "")
        left = {path.name for path in (disk / "snapshot").iterdir()}
        assert left == {"checkpoint_e1.pth", ".training.lock", ".training.pid"}, "nothing half-written"
        assert resume.intact(disk / "snapshot" / "checkpoint_e1.pth")


def _events(folder: Path) -> list:
    board = EventAccumulator(str(folder), purge_orphaned_data=True)
    board.Reload()
    return board.Scalars("loss/total")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_and_saves(whole: Path, tmp_path: Path, number: int) -> None:
    arguments = ["--cfg", str(tiny_yaml(tmp_path)), *AUTO]
    assert train_processes(arguments, signals=[{7: number}]) == [(EXIT_STOPPED, "")]
    assert (tmp_path / "snapshot" / "checkpoint_e3_s8.pth").is_file()
    assert train_processes(arguments) == [(0, "")]
    assert equal_end(whole, tmp_path)


def test_a_damaged_newest_checkpoint_is_noticed_and_the_one_before_used(whole: Path, tmp_path: Path,
                                                                        caplog: pytest.LogCaptureFixture) -> None:
    arguments = ["--cfg", str(tiny_yaml(tmp_path)), *AUTO]
    assert train_processes(arguments, signals=[{10: signal.SIGKILL}])[0][0] == -signal.SIGKILL
    newest = tmp_path / "snapshot" / "checkpoint_e3.pth"
    content = bytearray(newest.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1000] = bytes(1000)  # a lost block; a single byte may hit the padding between two tensors
    newest.write_bytes(content)
    with caplog.at_level("WARNING", logger="lib"):
        assert resume.newest_intact(tmp_path / "snapshot") == tmp_path / "snapshot" / "checkpoint_e2.pth"
    assert "checkpoint_e3.pth: damaged" in caplog.text
    assert train_processes(arguments) == [(0, "")]
    assert equal_end(whole, tmp_path)


def test_a_changed_batch_seed_or_model_is_told_and_stops(whole: Path, tmp_path: Path) -> None:
    path = str(whole / "snapshot" / "checkpoint_e2.pth")
    changed = ["--resume", path, "TRAIN.BATCH=2", "TRAIN.SEED=5", "PRINT_FREQ=1"]
    ((code, text),) = train_processes(["--cfg", str(tiny_yaml(tmp_path)), *changed])
    assert code == 2
    assert "TRAIN.BATCH: 4 -> 2" in text
    assert "TRAIN.SEED: 0 -> 5" in text
    assert "PRINT_FREQ" not in text
    ((code, text),) = train_processes(["--cfg", str(tiny_yaml(tmp_path)), *changed, "TRAIN.RESUME_STRICT=False"])
    assert (code, text) == (0, "")
    done = snapshot(tmp_path)
    assert done["step"] == 4 * 6, "the epochs are kept, their steps are new"
    assert done["samples"] == 2 * 12 + 2 * 12


def test_weights_alone_are_no_place_to_go_on_from(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"epoch": 3, "arch": "Ocean", "state_dict": {}, "optimizer": {}}, path)
    with pytest.raises(UserError, match=r"no usable step.*TRAIN.PRETRAIN"):
        resume.read_resumable(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="damaged or truncated"):
        resume.read_resumable(path)
    with pytest.raises(UserError, match="no such checkpoint"):
        resume.read_resumable(tmp_path / "absent.pth")


def fill(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        torch.save({"a": 1}, folder / name)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.pth")}


def test_checkpoints_are_ordered_by_progress_and_others_are_left_alone(tmp_path: Path) -> None:
    fill(tmp_path, "checkpoint_e10.pth", "checkpoint_e9.pth", "checkpoint_e10_s95.pth", "checkpoint_best.pth")
    found = [saved.path.name for saved in resume.saved_checkpoints(tmp_path)]
    assert found == ["checkpoint_e9.pth", "checkpoint_e10_s95.pth", "checkpoint_e10.pth"]


def test_keep_last_keeps_the_last_epochs_and_one_to_go_back_to(tmp_path: Path) -> None:
    epochs = [f"checkpoint_e{n}.pth" for n in range(1, 6)]
    fill(tmp_path, *epochs, "checkpoint_e5_s48.pth", "checkpoint_e6_s53.pth", "checkpoint_e6_s56.pth", "mine.pth")
    resume.prune(tmp_path, keep_last=3)
    assert names_in(tmp_path) == {*epochs[-3:], "checkpoint_e6_s53.pth", "checkpoint_e6_s56.pth", "mine.pth"}
    (tmp_path / "checkpoint_e6_s56.pth").unlink()
    (tmp_path / "checkpoint_e6_s53.pth").unlink()
    resume.prune(tmp_path, keep_last=1)
    assert names_in(tmp_path) == {*epochs[-2:], "mine.pth"}, "the two furthest stay: one may prove damaged"
    resume.prune(tmp_path, keep_last=0)
    assert names_in(tmp_path) == {*epochs[-2:], "mine.pth"}


def test_checkpoints_of_an_earlier_run_are_moved_not_mixed_in_nor_lost(tmp_path: Path) -> None:
    fill(tmp_path, "checkpoint_e1.pth", "checkpoint_e2.pth", "checkpoint_e3_s9.pth")
    resume.set_aside(tmp_path, after=(1, 0))
    assert names_in(tmp_path) == {"checkpoint_e1.pth"}
    assert names_in(tmp_path / "earlier_1") == {"checkpoint_e2.pth", "checkpoint_e3_s9.pth"}
    resume.set_aside(tmp_path, after=(0, 0))
    assert names_in(tmp_path / "earlier_2") == {"checkpoint_e1.pth"}


def test_position_is_exact_for_the_same_steps_and_keeps_the_epoch_for_others() -> None:
    for there, steps, here in ((25, 10, 25), (25, 20, 50), (29, 3, 8)):
        progress = resume.Progress(steps_per_epoch=steps, pairs_per_step=4)
        progress.continue_from({"step": there, "steps_per_epoch": 10, "samples": there * 4 + 7})
        assert progress.step == here
        assert progress.samples == max(there * 4 + 7, here * 4)


def test_only_keys_that_decide_the_result_count_as_different(tmp_path: Path) -> None:
    path = tiny_yaml(tmp_path)
    stored = load_config(path).as_dict()
    harmless = ["WORKERS=3", "GPUS='1,2'", "TRAIN.KEEP_LAST=2", "TEST.THREADS=3", "DATASET.MAX_UNREADABLE=0.4",
                "DATASET.VID.USE=5", "TRAIN.RESUME=auto"]
    assert resume.differences(stored, load_config(path, overrides=harmless)) == {}
    changed = load_config(path, overrides=["DATASET.SYN.RANGE=9", "TRAIN.BACKBONE_OPTIONS.width=4"])
    assert resume.differences(stored, changed) == {"DATASET.SYN.RANGE": "5 -> 9",
                                                   "TRAIN.BACKBONE_OPTIONS.width": "2 -> 4"}


def test_weights_that_are_not_finite_are_never_written() -> None:
    resume.check_finite({"a": torch.ones(2), "n": torch.tensor(3)}, place="here")
    with pytest.raises(UserError, match=r"here: no checkpoint written.*not finite \(b\)"):
        resume.check_finite({"a": torch.ones(2), "b": torch.tensor([1.0, float("inf")])}, place="here")


def test_two_trainings_do_not_write_to_one_folder(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # holds the lock until the test has tried
        with resume.sole_writer(tmp_path):
            os.write(writer, b"x")
            time.sleep(30)
        os._exit(0)
    os.read(reader, 1)
    try:
        with pytest.raises(UserError, match=f"process {pid} on .* is training into it"), resume.sole_writer(tmp_path):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    (tmp_path / ".checkpoint_e3.pth.abc.tmp").touch()
    with resume.sole_writer(tmp_path):
        assert not list(tmp_path.glob("*.tmp")), "left by a kill in the midst of a save"
        owner = (tmp_path / ".training.pid").read_text()
        assert owner.startswith(f"{os.getpid()} on "), "the lock ends with its process"
