"""One key: which parts run, with which flags, what is skipped, and the whole way on a tiny training."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tracker_stubs import write_squares
from train_helpers import run_processes, tiny_yaml

import lib.eval_toolkit.cli
import lib.testing.run
import lib.testing.sweep
import lib.tools.onekey as onekey
import lib.tools.tune
import lib.training.loop
from lib.commands import call
from lib.config_file import load_config
from lib.errors import UserError
from lib.options import OnekeyOptions
from lib.tracker.params import load_tracker_params
from lib.training.trainer import Trainer

PARTS = {"TRAIN": True, "TEST": True, "TUNE": True}


def cfg_of(folder: Path, *, epochs: int = 2, **parts: bool) -> Path:
    on = {**dict.fromkeys(PARTS, False), **parts}
    top = {"TEST": {"ISTRUE": on["TEST"], "DATA": "MINE", "THREADS": 1, "START_EPOCH": 1, "END_EPOCH": 50},
           "TUNE": {"ISTRUE": on["TUNE"], "DATA": "MINE"}}
    return tiny_yaml(folder, top=top, ISTRUE=on["TRAIN"], END_EPOCH=epochs, UNFIX_EPOCH=0)


def options_of(path: Path, **changes: Any) -> OnekeyOptions:
    return OnekeyOptions(**{"cfg": path, "dataset_dir": path.parent / "dataset", "result_dir": path.parent / "result",
                            "trials": 2, "overrides": ("TRAIN.SEED=3",), **changes})


# The parts


def test_each_part_gets_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cfg_of(tmp_path, **PARTS)
    cfg, options = load_config(path), options_of(path, nproc=2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    train = onekey.train_options(cfg, options, resume=True)
    assert (train.cfg, train.nproc, train.gpus, train.resume) == (path, 2, None, "auto")
    assert train.overrides == ("TRAIN.SEED=3",)
    assert onekey.train_options(cfg, options, resume=False).resume is None
    sweep = onekey.sweep_options(cfg, options)
    assert (sweep.dataset, sweep.start_epoch, sweep.end_epoch, sweep.workers) == ("MINE", 1, 2, 1)
    assert sweep.snapshot == tmp_path / "snapshot"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpus = load_config(path, overrides=["GPUS='0,1,2'"])
    assert onekey.train_options(gpus, options, resume=False).gpus == "0,1,2"
    assert onekey.sweep_options(gpus, options).gpus == "0,1,2"


def test_the_best_checkpoint_of_the_test_is_tuned(tmp_path: Path) -> None:
    cfg, options = load_config(cfg_of(tmp_path, **PARTS)), options_of(tmp_path / "tiny.yaml")
    with pytest.raises(UserError, match="no checkpoint to tune"):
        onekey.best_checkpoint(cfg, options)
    summary = tmp_path / "result" / "MINE" / "Ocean_epochs.json"
    summary.parent.mkdir(parents=True)
    entries = [{"name": f"Ocean_checkpoint_e{n}", "path": f"s/checkpoint_e{n}.pth", "epoch": n, "success": success}
               for n, success in ((1, 0.6), (2, 0.5), (9, 0.7), (None, 0.8))]  # two were tested by hand
    summary.write_text(json.dumps({"best": "Ocean_checkpoint_e9", "ranked_by": "success", "checkpoints": entries}))
    assert onekey.best_checkpoint(cfg, options) == Path("s/checkpoint_e1.pth")
    (summary.parent / "Ocean_checkpoint_e7").mkdir()  # of an earlier, wider test: no part of this report
    assert onekey.reported("MINE", cfg, options) == ["Ocean_checkpoint_e1", "Ocean_checkpoint_e2", "Ocean_tuned"]
    (tmp_path / "result" / "OTB100").mkdir()  # an older version's name for it, which the sweep goes on with
    (tmp_path / "result" / "OTB100" / summary.name).write_bytes(summary.read_bytes())
    older = load_config(tmp_path / "tiny.yaml", overrides=["TEST.DATA=OTB2015"])
    assert onekey.best_checkpoint(older, options) == Path("s/checkpoint_e1.pth")
    only = load_config(tmp_path / "tiny.yaml", overrides=["TUNE.ISTRUE=False"])
    assert onekey.reported("MINE", only, options) == ["Ocean_checkpoint_e1", "Ocean_checkpoint_e2"]


def test_tuned_results_are_replaced_when_the_tuning_has_gone_on(tmp_path: Path) -> None:
    path = cfg_of(tmp_path, **PARTS)
    cfg, options, checkpoint = load_config(path), options_of(path), tmp_path / "checkpoint_e1.pth"
    checkpoint.write_bytes(b"weights")
    best = tmp_path / "best.yaml"
    best.write_text("TEST:\n  lr: 0.5\n  tuned_on: MINE\n")
    untuned, tuned = onekey.tuned_tests(cfg, options, checkpoint, best)
    assert (untuned.tracker_name, untuned.params, untuned.fresh) == ("Ocean_checkpoint_e1", None, False)
    assert (tuned.tracker_name, tuned.params, tuned.fresh) == ("Ocean_tuned", best, False)
    settings = {"penalty_k": 0.062, "lr": 0.5, "window_influence": 0.38, "small_sz": 255, "big_sz": 255, "ratio": 0.94}
    record = tmp_path / "result" / "MINE" / "Ocean_tuned" / "run.json"
    record.parent.mkdir(parents=True)
    for lr, fresh in ((0.5, False), (0.4, True)):
        record.write_text(json.dumps({"identity": {"checkpoint_sha256": onekey.sha256_of(checkpoint),
                                                   "tracker": {**settings, "lr": lr}}}))
        assert onekey.tuned_tests(cfg, options, checkpoint, best)[1].fresh is fresh
    for folder, refused in ((tmp_path, False), (tmp_path / "of_another_training", True)):
        record.write_text(json.dumps({"identity": {"checkpoint_sha256": "x", "tracker": settings},
                                      "checkpoint": str(folder / "checkpoint_e9.pth")}))
        with pytest.raises(UserError, match=r"another training.*--result_dir") if refused else nullcontext():
            assert onekey.tuned_tests(cfg, options, checkpoint, best)[1].fresh


def test_a_default_first_epoch_gives_way_to_a_shorter_training(tmp_path: Path) -> None:
    path = cfg_of(tmp_path, **PARTS)
    tree = yaml.safe_load(path.read_text())
    del tree["OCEAN"]["TEST"]["START_EPOCH"]
    path.write_text(yaml.safe_dump(tree))
    sweep = onekey.sweep_options(load_config(path), options_of(path))
    assert (sweep.start_epoch, sweep.end_epoch) == (1, 2)
    long = onekey.sweep_options(load_config(path, overrides=["TRAIN.END_EPOCH=20"]), options_of(path))
    assert (long.start_epoch, long.end_epoch) == (10, 20)


@pytest.mark.parametrize(("parts", "changes", "message"), [
    ({}, [], "all False: nothing to do"),
    ({"TRAIN": True, "TEST": True}, ["TEST.START_EPOCH=3"], "START_EPOCH is 3, after the training's last epoch 2"),
    ({"TRAIN": True, "TEST": True}, ["TEST.DATA=GONE"], "GONE"),
    ({"TRAIN": True, "TEST": True}, ["TEST.DATA=TrackingNet"], "only its server knows"),
    ({"TRAIN": True, "TEST": True}, ["TEST.DATA=VOT-18"], "did you mean VOT2018"),
    ({"TRAIN": True, "TEST": True}, ["TEST.DATA=MINE", "--result_dir=/dev/null/x"], "--result_dir .*cannot be written"),
])
def test_what_would_stop_a_later_part_stops_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, bool], changes: list[str], message: str
) -> None:
    monkeypatch.setattr(lib.training.loop, "main", lambda _: pytest.fail("the training has begun"))
    write_squares(tmp_path / "dataset" / "MINE", {"A": 2})
    with pytest.raises(UserError, match=message):
        call("onekey", ["--cfg", str(cfg_of(tmp_path, **parts)), "--dataset_dir", str(tmp_path / "dataset"), *changes])


def test_a_part_that_stops_ends_it_with_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_squares(tmp_path / "dataset" / "MINE", {"A": 2})
    command = ["--cfg", str(cfg_of(tmp_path, TRAIN=True, TEST=True)), "--dataset_dir", str(tmp_path / "dataset")]
    monkeypatch.setattr(lib.training.loop, "main", lambda _: 75)
    monkeypatch.setattr(lib.testing.sweep, "main", lambda _: 1)
    assert call("onekey", command) == 75
    monkeypatch.setattr(lib.training.loop, "main", lambda _: 0)
    assert call("onekey", command) == 1


# The whole way


def _killed_in_the_sweep(count: int) -> Callable[..., Any]:
    """Return a stand-in for `save` of a sweep's results that is killed at its `count`-th call."""
    save = lib.testing.run.ResultFolder.save
    calls = []

    def save_or_die(*arguments: Any, **keywords: Any) -> None:
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        save(*arguments, **keywords)

    return save_or_die


def _child(folder: str, kill: str, queue: Any) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)
    if kill == "train":
        step = Trainer.take_step

        def step_or_die(trainer: Trainer, *batch: Any) -> Any:
            if trainer.progress.step == 4:  # in the second epoch
                os.kill(os.getpid(), signal.SIGKILL)
            return step(trainer, *batch)

        Trainer.take_step = step_or_die  # type: ignore[method-assign]
    if kill == "test":
        lib.testing.run.ResultFolder.save = _killed_in_the_sweep(3)  # type: ignore[method-assign]
    trained: list[int] = []
    main = lib.training.loop.main
    lib.training.loop.main = lambda options: trained.append(1) or main(options)  # type: ignore[func-returns-value]
    code = call("onekey", ["--cfg", "tiny.yaml", "--trials", "2"])
    queue.put((code, bool(trained)))


def test_it_goes_on_after_kills_and_does_nothing_twice(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="the extra 'tune' is not installed")
    cfg_of(tmp_path, **PARTS)
    tree = yaml.safe_load((tmp_path / "tiny.yaml").read_text())
    tree["OCEAN"]["TRAIN"]["BATCH"] = 4
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    write_squares(tmp_path / "dataset" / "MINE", {"A": 3, "B": 4})

    def run(kill: str = "") -> Any:
        return run_processes(_child, [(str(tmp_path), kill)], timeout=120)[0]

    assert run("train") == (-signal.SIGKILL, "")
    assert run("test") == (-signal.SIGKILL, "")
    assert sorted(path.name for path in (tmp_path / "snapshot").glob("*.pth")) == [
        "checkpoint_e1.pth", "checkpoint_e2.pth"]
    results = tmp_path / "result" / "MINE"
    assert len(list(results.glob("Ocean_checkpoint_e*/?.txt"))) == 2  # of four
    assert run() == (0, False)  # trained already
    folders = {"Ocean_checkpoint_e1", "Ocean_checkpoint_e2", "Ocean_tuned"}
    assert {path.parent.name for path in results.glob("*/?.txt")} == folders
    scores = json.loads((results / "_onekey" / "scores.json").read_text())
    (best,) = (tmp_path / "logs" / "tune").glob("*/best.yaml")
    assert {tracker["tracker"]: tracker["tuned_on"] for tracker in scores["trackers"]} == {
        **dict.fromkeys(folders, ""), "Ocean_tuned": load_tracker_params(best).tuned_on}
    assert (results / "_onekey" / "report.html").is_file()
    kept = [*tmp_path.rglob("*.pth"), *results.glob("*/?.txt"), *(results / "_onekey").iterdir()]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert run() == (0, False)
    assert {path: path.stat().st_mtime_ns for path in kept} == before


def test_a_report_is_of_just_these_results_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cfg_of(tmp_path, TEST=True)
    cfg, options, results = load_config(path), options_of(path), tmp_path / "result" / "MINE"
    write_squares(tmp_path / "dataset" / "MINE", {"A": 2})
    (results / "Ocean_checkpoint_e1").mkdir(parents=True)
    (results / "Ocean_checkpoint_e1" / "A.txt").touch()
    (results / "Ocean_checkpoint_e1" / "run.json").write_text("{}")
    entry = {"name": "Ocean_checkpoint_e1", "path": "checkpoint_e1.pth", "epoch": 1}
    (results / "Ocean_epochs.json").write_text(json.dumps({"best": "Ocean_checkpoint_e1", "checkpoints": [entry]}))
    written: list[Path] = []
    monkeypatch.setattr(lib.eval_toolkit.cli, "main", lambda options: written.append(options.html))
    page, scores = results / "_onekey" / "report.html", results / "_onekey" / "scores.json"
    page.parent.mkdir()
    mine = "Ocean_checkpoint_e1"
    for name, has_page, count in ((mine, True, 0), (mine, False, 1), ("Other", True, 2)):
        scores.write_text(json.dumps({"trackers": [{"tracker": name}]}))
        page.touch() if has_page else page.unlink()
        onekey._report("MINE", cfg, options)
        assert written == [page] * count
    scores.write_text(json.dumps({"trackers": [{"tracker": "Ocean_checkpoint_e1"}]}))
    os.utime(scores, ns=(0, 0))  # older than the results
    onekey._report("MINE", cfg, options)
    assert len(written) == 3
