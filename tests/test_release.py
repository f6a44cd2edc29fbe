"""Weights for others to use: what is written, how it is found by name, and which settings come along."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tracker_stubs import small_checkpoint

from lib.boxes import iou_xywh
from lib.checkpoint import find_weights, load_model, read_checkpoint
from lib.commands import call
from lib.config_file import load_config
from lib.datasets.synthetic import held_out_scene
from lib.errors import UserError
from lib.files import sha256_of
from lib.models.models import build_model
from lib.testing.opening import open_tracker
from lib.testing.run import params_for
from lib.tracker.params import TrackerParams

ROOT = Path(__file__).resolve().parents[1]
# The second part of the training, as the card has it.
GONE_ON = ["TRAIN.PRETRAIN=snapshot/OceanSmall/checkpoint_e10.pth", "TRAIN.SEED=1", "TRAIN.BASE_LR=0.002",
           "TRAIN.LR.KWARGS.pct_start=0.1", "TRAIN.END_EPOCH=6"]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weights"
    monkeypatch.setattr("lib.checkpoint.WEIGHTS_ROOT", folder)
    return folder


def test_a_release_is_half_as_large_predicts_the_same_and_is_found_by_its_name(tmp_path: Path, shelf: Path) -> None:
    checkpoint = small_checkpoint(tmp_path / "checkpoint_e1.pth")
    assert call("release", [str(checkpoint), "--name", "Mine", "--out", str(shelf)]) == 0
    assert find_weights(Path("Mine")) == shelf / "Mine.pth"
    assert find_weights(checkpoint) == checkpoint, "a file that is there is that file"
    assert "optimizer" not in read_checkpoint(shelf / "Mine.pth")
    z, x = torch.rand(1, 3, 127, 127) * 255, torch.rand(1, 3, 255, 255) * 255
    with torch.inference_mode():
        before = load_model(checkpoint)(z, x)
        after = open_tracker("Ocean", Path("Mine"), TrackerParams(), device="cpu").model(z, x)
    torch.testing.assert_close(after.cls, before.cls, rtol=0.02, atol=0.01)
    torch.testing.assert_close(after.ltrb, before.ltrb, rtol=0.02, atol=0.2)
    plain = sum(tensor.nbytes for tensor in read_checkpoint(checkpoint)["state_dict"].values())
    assert sum(tensor.nbytes for tensor in read_checkpoint(shelf / "Mine.pth")["state_dict"].values()) < 0.55 * plain


def test_settings_beside_the_weights_come_before_those_of_the_test_set(tmp_path: Path, shelf: Path) -> None:
    shelf.mkdir()
    (shelf / "Mine.pth").touch()
    assert params_for(None, "OTB2015", arch="Ocean", checkpoint=Path("Mine"))[0].tuned_on == "OTB2015"
    (shelf / "Mine.yaml").write_text("TEST:\n  lr: 0.25\n  tuned_on: elsewhere\n", encoding="utf-8")
    found, source = params_for(None, "OTB2015", arch="Ocean", checkpoint=Path("Mine"))
    assert (found.lr, found.tuned_on, source) == (0.25, "elsewhere", str(shelf / "Mine.yaml"))
    given = tmp_path / "given.yaml"
    given.write_text("TEST:\n  lr: 0.5\n", encoding="utf-8")
    assert params_for(given, "OTB2015", arch="Ocean", checkpoint=Path("Mine"))[0].lr == 0.5


def test_weights_too_large_for_a_repository_are_refused(tmp_path: Path, shelf: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.tools.export.MOST_BYTES", 1000)
    with pytest.raises(UserError, match="MB in half precision, more than"):
        call("release", [str(small_checkpoint(tmp_path / "c.pth")), "--name", "Mine", "--out", str(shelf)])
    assert not list(shelf.glob("*"))


@pytest.fixture(params=["OceanSmall", "OceanLite", "OceanSmall_online", "OceanLite_online"])
def shipped(request: pytest.FixtureRequest) -> str:
    """The name of weights that come along."""
    if "Lite" in request.param:
        pytest.importorskip("timm", reason="OceanLite's trunk needs the package timm")
    return str(request.param)


def test_the_weights_that_come_along_are_small_described_and_made_by_their_recipe(shipped: str) -> None:
    path = find_weights(Path(shipped))
    assert path.stat().st_size <= 8_000_000
    content = torch.load(path, weights_only=True)
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert sha256_of(path) in card
    assert "research use" in card
    words = GONE_ON if shipped == "OceanSmall" else ["TRAIN.RESUME=auto"]  # so that a kill costs little
    recipe = load_config(ROOT / "experiments" / "train" / f"{shipped}.yaml", overrides=words)
    made, told = content["config"]["OCEAN"], recipe.as_dict()["OCEAN"]
    assert all(key in card for key in words if "RESUME" not in key)
    made["TRAIN"]["PRETRAIN"] = made["TRAIN"]["PRETRAIN"].replace("F1", "OceanSmall")  # the folder's name at the time
    if made["TRAIN"]["AMP"] == "bf16":
        made["TRAIN"]["AMP"] = "auto"  # what auto is on the machine that trained them
    made["DATASET"].pop("MAX_UNREADABLE", None)  # no crop was unreadable, and its default has changed since
    for part in ("TRAIN", "DATASET"):  # a key added since then has no part in them
        assert made[part] == {key: told[part][key] for key in made[part]}
    assert load_model(path).spec == build_model(**recipe.model_options()).spec
    params, _ = params_for(None, "OTB2015", arch="Ocean", checkpoint=Path(shipped))
    assert params.tuned_on
    assert "OTB" not in params.tuned_on, "what is reported on OTB was not tuned on it"


@pytest.mark.parametrize("name", ["OceanSmall", "OceanLite"])
def test_weights_with_the_online_branch_hold_the_tracker_to_the_bit(name: str) -> None:
    with_branch = read_checkpoint(f"{name}_online")["state_dict"]
    plain = read_checkpoint(name)["state_dict"]
    assert all(torch.equal(with_branch[key], tensor) for key, tensor in plain.items())
    added = with_branch.keys() - plain.keys()
    assert added
    assert all(key.startswith(("classifier.", "features.features.layeronline.")) for key in added)


def test_the_weights_that_come_along_follow_a_rendered_target(shipped: str) -> None:
    """A weight file that was written wrongly, or settings that do not fit it, would lose a target that hardly moves."""
    online = shipped.endswith("_online")
    params, _ = params_for(None, "", arch="Ocean", checkpoint=Path(shipped), online=online)
    tracker = open_tracker("Ocean", Path(shipped), params, device="cpu", online=online)
    scene = held_out_scene(1, 1, length=60, difficulty=0.2)
    state = tracker.init(scene.frame(0), scene.box_xywh(0))
    overlaps = []
    for t in range(1, 25):
        state = tracker.track(state, scene.frame(t))
        overlaps.append(float(iou_xywh(state.box_xywh, scene.box_xywh(t))))
    assert np.mean(overlaps) > 0.5
