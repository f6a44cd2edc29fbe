"""Curves in Weights & Biases (offline) and in MLflow (its file store), by the calls that TensorBoard gets."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from train_helpers import tiny_yaml

from lib.checkpoint import save_checkpoint
from lib.commands import call
from lib.errors import UserError
from lib.log import LOGGERS, Board, check_logger
from lib.testing.sweep_plan import training_run


def write_run(folder: Path, logger: str, *, first_step: int = 0) -> None:
    """Write one of each kind of thing to a run."""
    board = Board(folder, first_step=first_step, logger=logger)
    board.text("config", "OCEAN:\n  BATCH: <8>", first_step)
    board.compare_by({"BACKBONE": "ResNet50", "pairs per step": 8 + first_step})
    board.scalars({"loss/total": 0.5, "rate/head": 0.01}, first_step + 10)
    board.picture("pairs", np.full((4, 6, 3), 200, np.uint8), first_step + 10)
    board.flush()
    board.close()
    board.scalars({"loss/total": 0.1}, 99)  # after the end nothing is written


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_a_missing_package_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: str
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == logger else real(name, *rest))
    with pytest.raises(UserError, match=f"LOGGER: {logger} needs a package: pip install {logger}"):
        call("train", ["--cfg", str(tiny_yaml(tmp_path)), f"LOGGER={logger}"])
    check_logger("tensorboard")
    with pytest.raises(UserError, match=r"OCEAN\.LOGGER is 'wandbb'; .* 'tensorboard', 'wandb' or 'mlflow'"):
        call("train", ["--cfg", str(tiny_yaml(tmp_path)), "LOGGER=wandbb"])


class FakeWandb(ModuleType):
    """What `Wandb` needs of the package, and a list of what it was given."""

    def __init__(self, *, refuses: bool = False) -> None:
        super().__init__("wandb")
        self.calls: list[Any] = []
        self.errors = SimpleNamespace(Error=RuntimeError)
        self.Html = self.Image = lambda value: value
        self.Settings = dict
        self.refuses = refuses

    def init(self, **keywords: Any) -> Any:
        if self.refuses:
            raise RuntimeError("no API key")
        self.calls.append(keywords)
        config = SimpleNamespace(update=lambda values, allow_val_change: self.calls.append(values))
        return SimpleNamespace(log=self.calls.append, config=config, finish=lambda: self.calls.append("end"),
                               define_metric=lambda name, step_metric: None)


def test_a_run_of_wandb_is_named_as_its_folder_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    write_run(tmp_path / "Ocean" / "Ocean_2026-01-01-00-00", "wandb", first_step=5)
    begin, text, settings, scalars, picture, end = fake.calls
    assert (begin["project"], begin["name"], begin["id"], begin["resume"]) == (
        "Ocean", "Ocean_2026-01-01-00-00", "Ocean_2026-01-01-00-00", "allow")
    assert text == {"config": "<pre>OCEAN:\n  BATCH: &lt;8&gt;</pre>", "step": 5}
    assert settings["pairs per step"] == 13
    assert scalars == {"loss/total": 0.5, "rate/head": 0.01, "step": 15}
    assert picture["pairs"].shape == (4, 6, 3)
    assert end == "end"
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(refuses=True))
    with pytest.raises(UserError, match="LOGGER: wandb: no API key; log in by `wandb login`, or set WANDB_MODE"):
        Board(tmp_path / "Ocean" / "run", logger="wandb")


def test_a_logger_that_fails_does_not_end_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(LOGGERS["tensorboard"], "scalars", broken)
    write_run(tmp_path / "Ocean" / "run", "tensorboard")
    assert caplog.messages == ["TensorBoard cannot be written any more (no space left); training goes on without it"]


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "Ocean" / "Ocean_2026-01-01-00-00"
    folder.mkdir(parents=True)
    write_run(folder, "wandb")
    wandb.teardown()  # as at a program's end: only then all is on the disk
    file, = folder.glob("wandb/offline-run-*/run-*.wandb")
    told = file.read_bytes()
    assert [text for text in (b"loss/total", b"pairs per step", folder.name.encode()) if text not in told] == []
    html, = folder.glob("wandb/offline-run-*/files/media/html/*.html")
    assert "BATCH: &lt;8&gt;" in html.read_text()


def test_mlflow_in_its_file_store_and_on_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "logs" / "Ocean" / "Ocean_2026-01-01-00-00"
    folder.mkdir(parents=True)
    write_run(folder, "mlflow")
    write_run(folder, "mlflow", first_step=20)  # the same run goes on
    client = MlflowClient((tmp_path / "logs" / "mlruns").as_uri())
    run, = client.search_runs([client.get_experiment_by_name("Ocean").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.tags["BACKBONE"]) == (folder.name, "FINISHED", "ResNet50")
    history = client.get_metric_history(run.info.run_id, "loss/total")
    assert [(metric.step, metric.value) for metric in history] == [(10, 0.5), (30, 0.5)]
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"config_0.txt", "config_20.txt", "pairs"}
    assert list(folder.glob("*.png")) == []


@pytest.mark.parametrize(("named", "used"), [("mlflow", "mlflow"), ("os.path", "tensorboard"), ([1], "tensorboard")])
def test_a_checkpoint_chooses_among_the_loggers_only(tmp_path: Path, named: object, used: str) -> None:
    config = {"OCEAN": {"OUTPUT_DIR": "logs", "LOGGER": named, "TRAIN": {"MODEL": "Ocean"}}}
    save_checkpoint(tmp_path / "a.pth", {"state_dict": {}, "config": config, "run": "Ocean_1"})
    assert training_run(tmp_path / "a.pth") == (Path("logs/Ocean/Ocean_1"), used)
