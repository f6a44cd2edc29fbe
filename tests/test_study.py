"""An experiment of several arms and seeds, on a tiny net: what is run, what is not run again, and the table."""

from pathlib import Path

import pytest
import torch
import yaml
from test_pretrain import SLIM, pretrain_yaml, write_classes
from tracker_stubs import write_squares
from train_helpers import tiny_yaml

from lib import commands
from lib.errors import UserError

pytest.importorskip("timm", reason="the package timm is not here")
SINGLE = {"BACKBONE": "ResNetSmall_single", "BACKBONE_OPTIONS": SLIM, "END_EPOCH": 1, "UNFIX_EPOCH": 1,
          "WARMUP": {"IFNOT": False}}


def study_yaml(folder: Path) -> Path:
    (folder / "base").mkdir()
    write_classes(folder / "base" / "classes")
    base = pretrain_yaml(folder / "base", BACKBONE="ResNetSmall_single", BACKBONE_OPTIONS=SLIM, END_EPOCH=1)
    train = tiny_yaml(folder, **SINGLE)
    write_squares(folder / "squares", {"a": 3, "b": 4})
    tree = {"SEEDS": [0, 1], "SNAPSHOT": "snap", "TESTS": {"squares": "squares"},
            "RUNS": {"taught": {"PRETRAIN": [str(base)], "TRAIN": [str(train)]}, "random": {"TRAIN": [str(train)]},
                     "slow": {"PRETRAIN": [str(base)], "TRAIN": [str(train), "TRAIN.BASE_LR=0.0001"]}}}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"STUDY": tree}, sort_keys=False), encoding="utf-8")
    return path


def test_every_arm_and_seed_is_trained_tested_and_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    path = study_yaml(tmp_path)
    assert commands.call("study", ["--cfg", str(path)]) == 0
    text = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line.split("|") for line in text.splitlines() if line.startswith("|")}
    assert {"taught", "random"} < rows.keys()
    assert "too few sequences" in rows["random"][4]
    assert (tmp_path / "snap" / "mine" / "study.md").read_text(encoding="utf-8") == text
    taught, other, again, base = (
        torch.load(tmp_path / "snap" / "mine" / part / "checkpoint_e1.pth", weights_only=True)
        for part in ("taught_s0/tracker", "taught_s1/tracker", "random_s0/tracker", "taught_s0/base"))
    name = "features_single.features.layer.conv1.weight"
    assert taught["state_dict"][name].equal(base["state_dict"][name]), "the trunk comes from the classifier and rests"
    assert not other["state_dict"][name].equal(base["state_dict"][name]), "each seed has its own"
    assert not again["state_dict"][name].equal(base["state_dict"][name])
    slow = torch.load(tmp_path / "snap" / "mine" / "slow_s1" / "tracker" / "checkpoint_e1.pth", weights_only=True)
    assert slow["state_dict"][name].equal(other["state_dict"][name]), "arms that name one classifier share it"
    assert not (tmp_path / "snap" / "mine" / "slow_s1" / "base").exists()
    made = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.suffix in (".pth", ".txt")}
    assert commands.call("study", ["--cfg", str(path)]) == 0
    assert capsys.readouterr().out == text
    assert {file: file.stat().st_mtime_ns for file in made} == made, "nothing is done twice"


@pytest.mark.parametrize(("change", "words"), [
    ({"RUNS": {"one": {"TRAIN": ["x.yaml"]}}}, r"mine\.yaml: RUNS: .*two or more"),
    ({"RUNS": {"a": {"TRAIN": []}, "b": {"TRAIN": ["x.yaml"]}}}, r"RUNS\.a\.TRAIN"),
    ({"TEST": {}}, "TEST: Extra inputs"),
    ({"RUNS": {"a": {"TRAIN": ["gone.yaml"]}, "b": {"TRAIN": ["gone.yaml"]}}}, r"gone\.yaml"),
])
def test_a_study_that_cannot_be_is_refused_before_anything_is_done(tmp_path: Path, change: dict[str, object],
                                                                   words: str) -> None:
    path = study_yaml(tmp_path)
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    tree["STUDY"].update(change)
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(UserError, match=words):
        commands.call("study", ["--cfg", str(path)])


@pytest.mark.parametrize("path", sorted((Path(__file__).resolve().parents[1] / "experiments" / "study").glob("*.yaml")),
                         ids=lambda path: path.stem)
def test_the_studies_that_come_along_name_files_that_load(path: Path) -> None:
    from lib.config import Config, PretrainConfig
    from lib.config_file import load_config
    from lib.models.models import build_trunk
    from lib.tools.study import Study

    for arm in Study.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))["STUDY"]).RUNS.values():
        for words, kind in ((arm.TRAIN, Config), (arm.PRETRAIN, PretrainConfig)):
            if words:
                cfg = load_config(words[0], overrides=words[1:], kind=kind)
                build_trunk(cfg.TRAIN.BACKBONE, cfg.TRAIN.BACKBONE_OPTIONS)
