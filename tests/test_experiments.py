"""Every training file of the notes' models: two epochs on rendered video, test, score, resume, gradients everywhere.

In the suite each backbone stands in by its small kin with the same options. With OCEANKIT_FULL=1 in the environment the
files are run at their full size (minutes each on a CPU).
"""

import os
from pathlib import Path

import pytest
import torch

from lib import commands
from lib.benchmarks import load_benchmark
from lib.checkpoint import load_model, read_checkpoint
from lib.config import Config
from lib.config_file import load_config
from lib.datasets.synthetic import write_otb
from lib.distributed import World
from lib.models.losses import ocean_loss
from lib.models.models import build_model
from lib.training.stage import build_stage

TRAIN = Path(__file__).resolve().parents[1] / "experiments" / "train"
FULL = os.environ.get("OCEANKIT_FULL") == "1"
SMALL = {"ResNet50": ("ResNetSmall", {"width": 4, "layers": [1, 1, 1]}),
         "ResNet_single": ("ResNetSmall_single", {"width": 4, "layers": [1, 1, 2]}),
         "ResNet_MHSA": ("ResNetSmall_MHSA", {"width": 4, "layers": [1, 1, 2]}),
         "ViT": ("ViT_small", {"dim": 16, "depth": 3, "heads": 2})}
FILES = ["Ocean", "Ocean_align", "Ocean_single", "Ocean_MHSA", "Ocean_MHSA_templ", "Ocean_ViT"]


def overrides(name: str, folder: Path) -> list[str]:
    """Return what makes a file's training short: its data, its length and, in the suite, its size."""
    cfg = load_config(TRAIN / f"{name}.yaml").TRAIN
    short = [f"OUTPUT_DIR={folder / 'logs'}", f"CHECKPOINT_DIR={folder / 'snapshot'}", "WORKERS=0", "TRAIN.END_EPOCH=2",
             "TRAIN.BATCH=2", "TRAIN.UNFIX_EPOCH=1", "TRAIN.RANDOM_TRUNK=True", "TRAIN.WARMUP.EPOCH=1",
             "TRAIN.WHICH_USE=[SYN]",
             "DATASET.SYN={FORMAT: synthetic, RANGE: 20, USE: 4, OPTIONS: {difficulty: 0.2}}"]
    if FULL:
        return short
    backbone, options = SMALL[cfg.BACKBONE]
    return [*short, "TRAIN.CHANNELS=8", "TRAIN.TOWERNUM=1", f"TRAIN.BACKBONE={backbone}",
            f"TRAIN.BACKBONE_OPTIONS={ {**options, **cfg.BACKBONE_OPTIONS} }"]


def build(cfg: Config) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(**cfg.model_options())


@pytest.mark.parametrize("name", FILES)
def test_a_training_file_trains_tests_scores_and_resumes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["--cfg", str(TRAIN / f"{name}.yaml"), *overrides(name, tmp_path)]
    assert commands.call("train", command) == 0
    last = tmp_path / "snapshot" / "checkpoint_e2.pth"
    first_end = read_checkpoint(last)["state_dict"]

    last.unlink()  # as if the run had ended after the first epoch
    assert commands.call("train", [*command, "--resume", "auto"]) == 0
    second_end = read_checkpoint(last)["state_dict"]
    assert all(torch.equal(first_end[key], second_end[key]) for key in first_end)

    write_otb(tmp_path / "dataset", num=1, length=4, seed=5)
    align = "True" if "align" in name else "False"
    assert commands.call("test", ["--arch", "Ocean", "--resume", str(last), "--dataset", "SYN", "--align", align,
                         "--dataset_dir", str(tmp_path / "dataset"), "--tracker_name", name]) == 0
    assert len(load_benchmark("SYN", tmp_path / "dataset", images=False).sequences) == 1
    commands.call("eval", ["--dataset_dir", str(tmp_path / "dataset"), "--dataset", "SYN", "--tracker_result_dir",
                           "result/SYN", "--trackers", name])
    assert "1/1" in capsys.readouterr().out


NEW = {"Ocean_align": {"align_head"}, "Ocean_single": {"features_single"}, "Ocean_MHSA": {"features_mhsa"},
       "Ocean_MHSA_templ": {"features_mhsa"}}
STEM = ("features.features.conv1.", "features.features.bn1.", "features.conv_proj.")


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_every_parameter_that_should_train_gets_a_gradient_and_no_other(
    name: str, frozen: bool, tmp_path: Path
) -> None:
    cfg = load_config(TRAIN / f"{name}.yaml", overrides=overrides(name, tmp_path))
    model = build(cfg)
    stage = build_stage(model, cfg.TRAIN, epoch=0 if frozen else 1, world=World())
    stage.train_mode()
    target = torch.zeros(2, 25, 25)
    target[:, 11:14, 11:14] = 1
    output = stage.module(torch.rand(2, 3, 127, 127) * 255, torch.rand(2, 3, 255, 255) * 255)
    ltrb_target = torch.full((2, 4, 25, 25), 30.0)
    ocean_loss(output, cls_target=target, ltrb_target=ltrb_target, weight=target)["total"].backward()

    new = {"neck", "connect_model"} | NEW.get(name, set())
    should = {key for key, _ in model.named_parameters()
              if key.split(".")[0] in new or not (frozen or key.startswith(STEM))}
    assert set(stage.names) == should
    head = next(group for group in stage.optimizer.param_groups if group["name"] == "head")
    assert {id(p) for p in head["params"]} == {id(p) for key, p in model.named_parameters() if key.split(".")[0] in new}
    found = {key for key, p in model.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    # A bias of the key adds the same to a whole row of the energies, which softmax takes away: no output depends on it.
    blind = {key for key in should if key.endswith(".key.bias")}
    assert found | blind == should


def test_the_backbone_is_read_from_the_checkpoint(tmp_path: Path) -> None:
    cfg = load_config(TRAIN / "Ocean_MHSA_templ.yaml", overrides=overrides("Ocean_MHSA_templ", tmp_path))
    model = build(cfg)
    torch.save({"arch": "Ocean", "epoch": 1, "model": model.spec, "state_dict": model.state_dict()}, tmp_path / "a.pth")
    assert load_model(tmp_path / "a.pth").spec == model.spec
