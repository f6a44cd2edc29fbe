"""Training: what is frozen, what is kept at the unfreezing epoch, what stops a run, what it leaves behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from train_helpers import CheapPairs, same, snapshot, tiny_yaml

import lib.training.loop
from lib import commands
from lib.checkpoint import load_model, read_checkpoint
from lib.config_file import load_config
from lib.datasets.dataset import Sample
from lib.distributed import World
from lib.errors import UserError
from lib.log import duration, run_folder, training_picture
from lib.models.models import build_model
from lib.training import checkpoints as resume
from lib.training.loader import DevicePrefetcher
from lib.training.monitor import first_bad_step
from lib.training.stage import Stage, build_stage
from lib.training.tasks import best_boxes
from lib.training.trainer import Trainer

Train = Callable[..., int]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """A function that trains the tiny model in this process: overrides in, exit code out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(*overrides: str, pairs: dict[str, Any] | None = None, **keys: Any) -> int:
        monkeypatch.setattr(lib.training.tasks, "build_dataset", lambda _: CheapPairs(**pairs or {}))
        return commands.call("train", ["--cfg", str(tiny_yaml(tmp_path, **keys)), *overrides])

    yield run
    torch.set_num_threads(threads)


def tiny_model() -> Any:
    torch.manual_seed(0)
    return build_model(backbone="ResNetSmall", backbone_options={"width": 2, "layers": [1, 1, 1], "expansion": 1},
                       channels=4, towernum=1)


def test_the_trunk_rests_until_the_unfreezing_epoch_and_its_stem_for_ever(train: Train, tmp_path: Path) -> None:
    assert train() == 0
    start, frozen, last = tiny_model().state_dict(), *(snapshot(tmp_path, f"checkpoint_e{n}.pth")["state_dict"]
                                                       for n in (2, 4))
    trunk = [name for name in start if name.startswith("features.") and start[name].is_floating_point()]
    assert all(torch.equal(start[name], frozen[name]) for name in trunk), "weights and BatchNorm statistics"
    assert not torch.equal(start["neck.downsample.0.weight"], frozen["neck.downsample.0.weight"])
    stem = [name for name in trunk if name.split(".")[2] in ("conv1", "bn1")]
    assert len(stem) == 5
    assert all(torch.equal(start[name], last[name]) for name in stem)
    assert all(not torch.equal(frozen[name], last[name]) for name in trunk if name not in stem)


def test_a_key_reproduces_the_references_drifting_statistics(train: Train, tmp_path: Path) -> None:
    assert train(FROZEN_BN_EVAL=False, END_EPOCH=2) == 0
    start, end = tiny_model().state_dict(), snapshot(tmp_path, "checkpoint_e2.pth")["state_dict"]
    assert not torch.equal(start["features.features.bn1.running_mean"], end["features.features.bn1.running_mean"])
    assert torch.equal(start["features.features.conv1.weight"], end["features.features.conv1.weight"])


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_unfreezing_keeps_the_momentum_of_what_trained_before(tmp_path: Path, optimizer: str) -> None:
    cfg = load_config(tiny_yaml(tmp_path, OPTIMIZER=optimizer)).TRAIN
    model = tiny_model()
    frozen = build_stage(model, cfg, epoch=0, world=World())
    assert build_stage(model, cfg, epoch=1, world=World(), before=frozen) is frozen
    for parameter in frozen.parameters():
        parameter.grad = torch.randn_like(parameter)
    frozen.optimizer.step()
    before = {name: frozen.optimizer.state[p] for name, p in zip(frozen.names, frozen.parameters(), strict=True)}
    thawed = build_stage(model, cfg, epoch=2, world=World(), before=frozen)
    assert set(before) < set(thawed.names)
    for name, parameter in zip(thawed.names, thawed.parameters(), strict=True):
        state = thawed.optimizer.state.get(parameter, {})
        assert state.keys() == before.get(name, {}).keys()
        assert all(torch.equal(torch.as_tensor(state[key]), torch.as_tensor(before[name][key])) for key in state)
    thawed.set_rate(0.004)
    assert thawed.rates() == {"backbone": pytest.approx(0.0004), "head": pytest.approx(0.004)}


def test_a_layer_that_the_backbone_lacks_is_named(tmp_path: Path) -> None:
    cfg = load_config(tiny_yaml(tmp_path, TRAINABLE_LAYER=["layr3"])).TRAIN
    with pytest.raises(UserError, match="no layer 'layr3'; did you mean layer3"):
        build_stage(tiny_model(), cfg, epoch=0, world=World())


def test_checkpoints_have_the_references_keys_and_load_as_a_model(train: Train, tmp_path: Path) -> None:
    assert train(KEEP_LAST=2) == 0
    assert {path.name for path in (tmp_path / "snapshot").glob("*.pth")} == {"checkpoint_e3.pth", "checkpoint_e4.pth"}
    saved = read_checkpoint(tmp_path / "snapshot" / "checkpoint_e4.pth")
    assert {"epoch", "arch", "state_dict", "optimizer"} <= set(saved)
    assert (saved["epoch"], saved["arch"], saved["step"], saved["samples"]) == (4, "Ocean", 12, 48)
    model = load_model(tmp_path / "snapshot" / "checkpoint_e4.pth")
    assert model.features.out_channels == 8


def test_log_and_tensorboard_hold_what_is_promised(train: Train, tmp_path: Path) -> None:
    assert train() == 0
    (folder,) = [path for path in (tmp_path / "logs" / "Ocean").iterdir() if path.is_dir()]
    text = folder.with_name(f"{folder.name}_train.log").read_text(encoding="utf-8")
    for part in ("1 process(es)", "epoch 1/4  step 2/3", "loss ", "cls ", "reg ", "pairs/s", "data ", "left 0:00:",
                 "saved ", "done: 4 epochs, 12 steps"):
        assert part in text, part
    board = EventAccumulator(str(folder), size_guidance={"images": 0})
    board.Reload()
    assert {"loss/cls", "loss/reg", "loss/total", "rate/head", "rate/backbone", "grad_norm", "pairs_per_second",
            "data_wait"} <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Images("pairs")] == [3, 6, 9, 12]
    assert (board.Images("pairs")[0].width, board.Images("pairs")[0].height) == (127 + 2 * 255, 4 * 255)
    assert "config/text_summary" in board.Tags()["tensors"]
    rates = [(event.step, event.value) for event in board.Scalars("rate/head")]
    assert rates[:2] == [(2, pytest.approx(0.001)), (3, pytest.approx(0.001))]
    assert rates[-1] == (12, pytest.approx(0.00001))


def test_a_loss_that_is_not_finite_stops_with_its_step_and_batch_and_is_not_saved(train: Train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"epoch 2 step 2: loss or gradient is not finite .*reg nan") as caught:
        train(pairs={"broken": [17]})
    assert not (tmp_path / "snapshot" / "checkpoint_e2.pth").exists()
    assert (tmp_path / "snapshot" / "checkpoint_e1.pth").exists()
    (dump,) = tmp_path.rglob("not_finite_*.npz")
    assert str(dump) in str(caught.value)
    with np.load(dump) as batch:
        assert batch["numbers"].tolist() == [16, 17, 18, 19]
        assert batch["search"].shape == (4, 3, 255, 255)
        assert np.isnan(batch["ltrb_target"][1]).all()


def test_a_key_skips_such_a_step_without_a_trace_and_counts_it(train: Train, tmp_path: Path) -> None:
    assert train(NONFINITE="skip", pairs={"broken": [17, 40]}, FROZEN_BN_EVAL=False) == 0
    text = next((tmp_path / "logs").rglob("*_train.log")).read_text(encoding="utf-8")
    assert "epoch 2 step 2: not finite" in text
    assert "2 of them skipped" in text
    assert len(list(tmp_path.rglob("not_finite_*.npz"))) == 2
    resume.check_finite(snapshot(tmp_path)["state_dict"], place="the end")


def test_a_skipped_step_changes_nothing(train: Train, tmp_path: Path) -> None:
    assert train(NONFINITE="skip", END_EPOCH=2, pairs={"broken": range(12, 24)}) == 0
    first, second = (snapshot(tmp_path, f"checkpoint_e{n}.pth")["state_dict"] for n in (1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_detect_anomaly_names_the_layer(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(**_: Any) -> Any:
        model = tiny_model()
        with torch.no_grad():
            model.neck.downsample[0].weight[0, 0] = float("inf")
        return model

    monkeypatch.setattr(lib.training.tasks, "build_model", spoiled)
    try:
        with pytest.raises(UserError, match=r"output of layer 'neck.downsample.0' is not finite, the first"):
            train("--detect-anomaly")
    finally:
        torch.autograd.set_detect_anomaly(False)


@pytest.mark.parametrize("choice", ["stop", "continue"])
def test_a_checkpoint_that_cannot_be_written_stops_or_not_as_the_key_says(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    write = resume.save_checkpoint

    def full_at_epoch_2(path: Path, content: Any) -> None:
        if content["epoch"] == 2:
            raise UserError(f"{path}: cannot be written (No space left on device)")
        write(path, content)

    monkeypatch.setattr(resume, "save_checkpoint", full_at_epoch_2)
    if choice == "stop":
        with pytest.raises(UserError, match=r"checkpoint_e2.pth: cannot be written"):
            train()
    else:
        assert train(ON_SAVE_ERROR="continue") == 0
        text = next((tmp_path / "logs").rglob("*_train.log")).read_text(encoding="utf-8")
        assert "No space left on device); training goes on without this checkpoint" in text
        assert (tmp_path / "snapshot" / "checkpoint_e4.pth").exists()
    assert (tmp_path / "snapshot" / "checkpoint_e1.pth").exists()
    assert not list((tmp_path / "snapshot").glob("*.tmp"))


def test_precision_format_clipping_and_one_cycle_train_and_resume(train: Train, tmp_path: Path) -> None:
    keys = {"AMP": "bf16", "CHANNELS_LAST": True, "CLIP_GRAD": 0.01, "OPTIMIZER": "AdamW", "END_EPOCH": 2,
            "WARMUP": {"IFNOT": False}, "LR": {"TYPE": "onecycle", "KWARGS": {"start_lr": 0.001, "end_lr": 1e-5}}}
    assert train(**keys) == 0
    whole = snapshot(tmp_path, "checkpoint_e2.pth")["state_dict"]
    assert train("--resume", str(tmp_path / "snapshot" / "checkpoint_e1.pth"), **keys) == 0
    assert all(torch.equal(whole[name], value)
               for name, value in snapshot(tmp_path, "checkpoint_e2.pth")["state_dict"].items())
    assert (tmp_path / "snapshot" / "earlier_1" / "checkpoint_e2.pth").exists(), "the first run's is not lost"


def test_deterministic_runs_are_identical(train: Train, tmp_path: Path) -> None:
    ends = []
    for _ in range(2):
        assert train("--deterministic", END_EPOCH=2, UNFIX_EPOCH=1) == 0
        assert torch.are_deterministic_algorithms_enabled()
        ends.append(snapshot(tmp_path, "checkpoint_e2.pth")["state_dict"])
    torch.use_deterministic_algorithms(False)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_fp16_keeps_its_scale_in_the_checkpoint(train: Train, tmp_path: Path) -> None:
    assert train(AMP="fp16", END_EPOCH=2) == 0
    assert snapshot(tmp_path, "checkpoint_e2.pth")["scaler"]["scale"] > 0


@pytest.mark.parametrize("batches", [1, 2, 4])
def test_accumulated_batches_are_one_large_batch(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 batches: int) -> None:
    # Each pair has as many positive cells, so the mean over a batch's is that over all; BatchNorm alone looks further.
    monkeypatch.setattr(Stage, "train_mode", lambda stage: stage.module.eval())
    assert train(END_EPOCH=1, WARMUP={"IFNOT": False}) == 0
    whole = snapshot(tmp_path, "checkpoint_e1.pth")
    assert train(END_EPOCH=1, WARMUP={"IFNOT": False}, BATCH=4 // batches, ACCUMULATE=batches) == 0
    parts = snapshot(tmp_path, "checkpoint_e1.pth")
    assert (parts["step"], parts["pairs_per_step"], parts["samples"]) == (3, 4, 12)
    moved = (parts["state_dict"][name] - tiny_model().state_dict()[name] for name in ("neck.downsample.0.weight",))
    assert all(float(change.abs().max()) > 1e-5 for change in moved)
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(parts["state_dict"][name], value, rtol=1e-4, atol=1e-7)


def test_a_step_of_several_batches_tells_and_dumps_them_all(train: Train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"epoch 2 step 2: loss or gradient is not finite .*reg nan"):
        train(BATCH=2, ACCUMULATE=2, pairs={"broken": [17], "unreadable": []})
    (dump,) = tmp_path.rglob("not_finite_*.npz")
    with np.load(dump) as batch:
        assert batch["numbers"].tolist() == [16, 17, 18, 19]


def test_the_average_of_the_weights_is_what_testing_loads_and_resumes_exactly(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [tiny_model().state_dict()]
    take_step = Trainer.take_step

    def note(trainer: Trainer, batches: Any) -> Any:
        output = take_step(trainer, batches)
        states.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        return output

    monkeypatch.setattr(Trainer, "take_step", note)
    keys = {"EMA": 0.5, "FROZEN_BN_EVAL": False}
    assert train(**keys) == 0
    end = snapshot(tmp_path)
    name = "neck.downsample.0.weight"
    average = states[0][name]
    for step, state in enumerate(states[1:]):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * state[name]
    torch.testing.assert_close(end["state_dict"][name], average)
    assert same(end["raw_state_dict"], states[-1])
    assert not torch.equal(end["state_dict"][name], states[-1][name])
    counter = "neck.downsample.1.num_batches_tracked"
    assert end["state_dict"][counter] == states[-1][counter] == 2 * 12, "template and search of each step"
    loaded = load_model(tmp_path / "snapshot" / "checkpoint_e4.pth").state_dict()
    assert torch.equal(loaded[name], end["state_dict"][name])

    assert train("--resume", str(tmp_path / "snapshot" / "checkpoint_e2.pth"), **keys) == 0
    again = snapshot(tmp_path)
    assert all(same(end[part], again[part]) for part in ("state_dict", "raw_state_dict", "optimizer"))
    with pytest.raises(UserError, match=r"TRAIN\.EMA: 0\.5 -> 0\.0"):
        train("--resume", str(tmp_path / "snapshot" / "checkpoint_e2.pth"), FROZEN_BN_EVAL=False)


def test_unreadable_crops_are_told_counted_and_limited(train: Train, tmp_path: Path) -> None:
    assert train("DATASET.MAX_UNREADABLE=0.2", END_EPOCH=2, pairs={"unreadable": [3, 15]}) == 0
    text = next((tmp_path / "logs").rglob("*_train.log")).read_text(encoding="utf-8")
    assert text.count("unreadable crop replaced by another pair: crop_") == 2
    assert "2 unreadable pictures replaced" in text
    with pytest.raises(UserError, match=r"2 unreadable crop\(s\), 1 are tolerated: crop_3.jpg: truncated, crop_15.jpg"):
        train("DATASET.MAX_UNREADABLE=0.1", END_EPOCH=2, pairs={"unreadable": [3, 15]})


@pytest.mark.parametrize(("arguments", "message"), [
    (["--resume", "nowhere.pth"], "nowhere.pth: no such checkpoint"),
    (["TRAIN.PRETRAIN=resnet50.pth"], "TRAIN.PRETRAIN: neither resnet50.pth nor pretrain.resnet50.pth exists"),
    (["TRAIN.PRETRAIN=OceanSmall"], r"OceanSmall\.pth: weights of another architecture"),
    (["TRAIN.RANDOM_TRUNK=False"], r"random weights for 2 epochs; name .*PRETRAIN.*UNFIX_EPOCH=0.*RANDOM_TRUNK=True"),
    (["TRAIN.RANDOM_TRUNK=False", "TRAIN.BACKBONE=ResNet50", "TRAIN.BACKBONE_OPTIONS={}"],
     r"tv\.models\.resnet50\(.*'pretrain/(resnet50\.pth)'.* TRAIN\.PRETRAIN=\1.* TRAIN\.RANDOM_TRUNK=True"),
    (["--resume", "."], "TRAIN.RESUME: no checkpoint in .*'auto'"),
    (["TRAIN.BACKBONE=ResNet51"], "'ResNet51' is no backbone; did you mean ResNet50"),
    (["TRAIN.SYNC_BN=True"], "SYNC_BN: works on GPUs only"),
    (["--gpus", "0,x"], "GPUS is '0,x'"),
    (["--nproc", "two"], "--nproc: 'two' is not a whole number of 1 or more"),
    (["--workrs", "2"], "no flag --workrs; did you mean --workers"),
    (["OUTPUT_DIR=/dev/null/logs"], "/dev/null/logs.*cannot be written.*OUTPUT_DIR"),
    (["CHECKPOINT_DIR=/dev/null/here"], "/dev/null/here: cannot be written.*CHECKPOINT_DIR"),
])
def test_a_users_mistake_is_one_line(train: Train, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train(*arguments)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_told_before_anything_is_opened_or_made(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*overrides: str) -> None:
        keys = {"WHICH_USE": ["VID"], "BACKBONE": "ResNet50", "BACKBONE_OPTIONS": {}}
        monkeypatch.chdir(tmp_path)
        commands.call("train", ["--cfg", str(tiny_yaml(tmp_path, **keys)), *overrides])

    monkeypatch.setattr(lib.training.tasks, "build_model", lambda **_: pytest.fail("the model is built"))
    with pytest.raises(UserError, match=r"VID.*data/vid"):
        train()
    monkeypatch.setattr(lib.training.tasks, "build_dataset", lambda _: pytest.fail("the data are opened"))
    with pytest.raises(UserError, match=r"pretrain/resnet50\.pth.* TRAIN\.PRETRAIN=resnet50"):
        train("TRAIN.RANDOM_TRUNK=False")
    for overrides, message in ((["TRAIN.PRETRAIN=OceanSmal"], "OceanSmal"), (["--resume", "gone.pth"], "gone.pth")):
        with pytest.raises(UserError, match=message):
            train(*overrides)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_what_is_gone_on_with_needs_no_other_weights(train: Train, tmp_path: Path) -> None:
    assert train(END_EPOCH=3) == 0
    (tmp_path / "snapshot" / "checkpoint_e3.pth").unlink()
    assert train("TRAIN.RANDOM_TRUNK=False", "--resume", str(tmp_path / "snapshot"), END_EPOCH=3) == 0
    assert train("TRAIN.PRETRAIN=gone.pth", "--resume", "auto", END_EPOCH=3) == 0


def test_a_run_that_branches_off_leaves_the_curves_of_the_first_alone(train: Train, tmp_path: Path) -> None:
    def runs() -> dict[str, list[int]]:
        folders = [path for path in (tmp_path / "logs" / "Ocean").iterdir() if path.is_dir()]
        boards = {folder.name: EventAccumulator(str(folder)).Reload() for folder in folders}
        return {name: [event.step for event in board.Scalars("loss/total")] for name, board in boards.items()}

    assert train(END_EPOCH=2) == 0
    first = runs()
    assert len(first) == 1
    e1 = tmp_path / "snapshot" / "checkpoint_e1.pth"
    assert train("--resume", str(e1), f"CHECKPOINT_DIR={tmp_path / 'other'}", END_EPOCH=2) == 0
    assert train("--resume", str(e1), END_EPOCH=2) == 0, "again from the midst of the run"
    after = runs()
    assert len(after) == 3
    assert first.items() <= after.items()
    assert train("--resume", "auto", END_EPOCH=3) == 0
    assert len(runs()) == 3, "the newest goes on in its own"


def test_a_start_that_fails_moves_no_checkpoint_of_the_run_before(train: Train, tmp_path: Path) -> None:
    assert train(END_EPOCH=2) == 0
    with pytest.raises(UserError, match="no layer 'layr3'"):
        train(END_EPOCH=2, TRAINABLE_LAYER=["layr3"])
    assert (tmp_path / "snapshot" / "checkpoint_e2.pth").is_file()


class Misbehaving(CheapPairs):
    """Sample 2 does in its loader process what `deed` says."""

    def __init__(self, deed: str) -> None:
        super().__init__(failing=[2] if deed == "fail" else [])
        self.deed = deed

    def __getitem__(self, n: int) -> Sample:
        if n == 2 and self.deed == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if n == 2 and self.deed == "hang":
            time.sleep(60)
        return super().__getitem__(n)


@pytest.mark.parametrize(("deed", "message"), [
    ("fail", "^sample 2: fails as the test wishes$"),
    ("die", r"data: DataLoader worker \(pid\(?s?\)? \d+\) .*--resume auto"),
    ("hang", r"data: no batch for 1 s; one of the loader processes \d+ hangs"),
])
def test_a_failing_dying_or_hanging_loader_process_is_one_line(deed: str, message: str) -> None:
    feed = DevicePrefetcher(Misbehaving(deed), [[0], [1], [2]], workers=1, device=torch.device("cpu"), timeout=1)
    begin = time.monotonic()
    with pytest.raises(UserError, match=message) as caught:
        list(feed)
    feed.close()
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "reset")])
def test_a_loader_process_that_dies_while_it_gives_a_batch_is_named(error: Exception) -> None:
    def lost() -> Iterator[Sample]:
        raise error
        yield

    feed = DevicePrefetcher(CheapPairs(), [[0]], workers=1, device=torch.device("cpu"), timeout=30)
    (process,) = feed._processes
    feed._iterator, kept = lost(), feed._iterator
    with pytest.raises(type(error)):  # no process is gone, so it is something else
        feed._fetch()
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would tell of it too, at any line of this test
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    signal.signal(signal.SIGCHLD, handler)
    feed._iterator = lost()
    with pytest.raises(UserError, match=rf"DataLoader worker \(pid\(s\) {process.pid}\) exited .*--resume auto"):
        feed._fetch()
    feed._iterator = kept
    feed.close()


def test_batches_do_not_depend_on_the_number_of_loader_processes() -> None:
    batches = []
    for workers in (0, 2):
        feed = DevicePrefetcher(CheapPairs(unreadable=[1]), [[0, 1], [2, 3], [4, 5]], workers=workers,
                                device=torch.device("cpu"), timeout=30)
        batches.append(list(feed))
        assert feed.waited() > 0
        feed.close()
    for alone, together in zip(*batches, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(alone[:-1], together[:-1], strict=True))
        assert alone.unreadable == together.unreadable
    assert batches[0][0].unreadable == ("crop_1.jpg: truncated",)


def test_the_first_bad_step_and_rank_are_found_and_fp16_overflow_is_not_one() -> None:
    rows = np.ones((2, 5, 2))
    assert first_bad_step(rows, overflow_ok=False) is None
    rows[1, 3, 1] = np.inf
    assert first_bad_step(rows, overflow_ok=False) == (1, 3)
    assert first_bad_step(rows, overflow_ok=True) is None
    rows[0, 4, 0] = np.nan
    assert first_bad_step(rows, overflow_ok=True) == (0, 4)


def test_the_picture_shows_the_box_of_the_highest_score() -> None:
    score, ltrb = np.zeros((1, 25, 25)), np.full((1, 4, 25, 25), 10.0)
    score[0, 3, 20] = 0.9
    ltrb[0, :, 3, 20] = (1, 2, 3, 4)
    box = best_boxes(ltrb, score, 255)
    np.testing.assert_array_equal(box, [[(20 - 12) * 8 + 127 - 1, (3 - 12) * 8 + 127 - 2, 191 + 3, 55 + 4]])
    blank = np.zeros((1, 3, 255, 255), np.uint8)
    picture = training_picture(blank[:, :, :127, :127], blank, np.full((1, 4), np.nan), box, score)
    assert picture.shape == (255, 127 + 255 + 255, 3)
    assert picture[53, 127 + 192].tolist() == [255, 0, 0]
    assert not (picture[:, :382, 1] > 0).any(), "no true box where there is none"


def test_two_runs_in_one_minute_get_folders_of_their_own(tmp_path: Path) -> None:
    first, second = run_folder(tmp_path, "Ocean"), run_folder(tmp_path, "Ocean")
    assert first != second
    assert second.name.startswith("Ocean_2")
    assert (duration(59.6), duration(3725), duration(90061)) == ("0:01:00", "1:02:05", "1 d 1:01:01")


def test_tensorboard_sets_runs_apart_and_lays_the_curves_together(train: Train, tmp_path: Path) -> None:
    assert train("TRAIN.END_EPOCH=2") == 0
    (folder,) = [path for path in (tmp_path / "logs" / "Ocean").iterdir() if path.is_dir()]
    events = EventAccumulator(str(folder))
    events.Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"BACKBONE" in content
    assert b"ResNetSmall" in content
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"loss/.*" in layout
    assert b".*/success" in layout
