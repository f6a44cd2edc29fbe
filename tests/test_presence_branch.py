"""The presence branch: its training beside a resting tracker, and tracking with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_models_attention import TINY_VIT
from test_online_training import TINY
from tracker_stubs import PLAIN, small_model, square_frames
from train_helpers import snapshot, tiny_yaml, train_processes

from lib import commands
from lib.checkpoint import load_model, save_checkpoint
from lib.config_file import load_config
from lib.distributed import World
from lib.errors import UserError
from lib.models.losses import presence_loss
from lib.models.models import build_model
from lib.models.ocean import OceanOutput
from lib.tracker.ocean import OceanTracker
from lib.tracker.params import load_tracker_params
from lib.training.loader import _collate
from lib.training.stage import build_stage
from lib.training.tasks import PresenceTracking


def presence_yaml(folder: Path, **train: object) -> Path:
    """Return a YAML file for an epoch of two steps of four pairs beside a tracker that is written first."""
    torch.manual_seed(5)
    save_checkpoint(folder / "tracker.pth", {"state_dict": build_model(**TINY).state_dict()})
    keys = {"PRESENCE": True, "PRETRAIN": str(folder / "tracker.pth"), "RANDOM_TRUNK": False, "END_EPOCH": 1,
            "OPTIMIZER": "AdamW", "WARMUP": {"IFNOT": False}, **train}
    data = {"PAIRS": 8, "NEGATIVE": 0.3, "SYN": {"FORMAT": "synthetic", "RANGE": 30}}
    return tiny_yaml(folder, top={"DATASET": data}, **keys)


def test_the_tracker_rests_and_the_whole_branch_moves(tmp_path: Path) -> None:
    assert train_processes(["--cfg", str(presence_yaml(tmp_path))], real=True, timeout=180) == [(0, "")]
    after = snapshot(tmp_path, "checkpoint_e1.pth")["state_dict"]
    before = torch.load(tmp_path / "tracker.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())  # BatchNorm's statistics too
    new = after.keys() - before.keys()
    begin = build_model(**TINY, presence=True).state_dict()
    assert new == {name for name in begin if name.startswith("presence.")}
    assert not [name for name in new if torch.equal(after[name], begin[name])]
    model = load_model(tmp_path / "snapshot" / "checkpoint_e1.pth")
    assert model.presence is not None
    assert load_model(tmp_path / "snapshot" / "checkpoint_e1.pth", presence=False).presence is None


def test_the_loss_falls_on_rendered_pairs(tmp_path: Path) -> None:
    cfg = load_config(presence_yaml(tmp_path), overrides=["TRAIN.BASE_LR=0.005", "TRAIN.BOX_BIAS=3.3"])
    task = PresenceTracking(cfg)
    torch.manual_seed(0)
    model = task.build()
    optimizer = build_stage(model, cfg.TRAIN, epoch=0, world=World()).optimizer
    batch = _collate([task.dataset[n] for n in range(8)])

    def losses() -> dict[str, torch.Tensor]:
        return task.losses(task.predict(model, batch, torch.Tensor.float), batch)

    before = losses()
    assert before["held"] > 0  # some boxes overlap the target by half
    for _ in range(10):
        optimizer.zero_grad()
        losses()["total"].backward()
        optimizer.step()
    assert losses()["total"] < 0.5 * before["total"]


def test_the_examples_are_the_trackers_own_answers() -> None:
    """Cells of 8 px; the target is 16 px wide at (0, 0) of search 0 and absent from search 1."""
    target = torch.zeros(2, 4, 3, 3)
    at = (torch.arange(3) - 1) * 8.0
    target[0] = torch.stack([(at + 8).expand(3, 3), (at + 8)[:, None].expand(3, 3), (8 - at).expand(3, 3),
                             (8 - at)[:, None].expand(3, 3)])
    ltrb = torch.full((2, 4, 3, 3), 0.5)
    ltrb[0, :, 1, 1] = 8.0  # true; the other cells' boxes of one px overlap it by less than a tenth
    cls = torch.zeros(2, 1, 3, 3)
    cls[0, 0, 0, 2], cls[1, 0, 2, 0] = 2.0, 1.0  # what each search shows most clearly beside the target
    logit = torch.zeros(2, 2, 3, 3)
    logit[0, 0, 1, 1], logit[0, 0, 0, 2], logit[1, 1, 2, 0] = 3.0, -1.0, 2.0
    logit[1, 0, 1, 1], logit[1, 0, 0, 2], logit[0, 1, 2, 0] = 4.0, 5.0, 6.0
    losses = presence_loss(OceanOutput(ltrb, cls, None), logit, ltrb_target=target)

    def softplus(x: float) -> float:
        return float(np.log1p(np.exp(x)))

    assert losses["held"].item() == pytest.approx(softplus(-3))
    assert losses["alike"].item() == pytest.approx((softplus(-1) + softplus(2)) / 2)
    assert losses["others"].item() == pytest.approx(softplus(4) + (softplus(5) + softplus(6)) / 2)


@pytest.mark.parametrize(("backbone", "options"), [
    ("ResNetSmall_single", {"width": 4}), ("ResNetSmall_MHSA", {"width": 4}), ("ViT_small", TINY_VIT),
    ("timm", {"name": "tf_efficientnet_lite0", "strides": [8, 16]})])
def test_each_backbone_has_it(backbone: str, options: dict[str, object]) -> None:
    model = build_model(backbone=backbone, backbone_options=options, channels=8, towernum=1, presence=True).eval()
    with torch.no_grad():
        output, logit = model.learn_presence(torch.rand(2, 3, 127, 127) * 255, torch.rand(2, 3, 255, 255) * 255)
    assert output.vectors is not None
    assert output.vectors.shape == (2, 128, 25, 25)
    assert logit.shape == (2, 2, 25, 25)


def test_what_cannot_be_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="joint: has no presence branch"):
        build_model(backbone="ViT_small", backbone_options={**TINY_VIT, "joint": True}, presence=True)
    with pytest.raises(UserError, match="ONLINE and PRESENCE"):
        commands.call("train", ["--cfg", str(presence_yaml(tmp_path, ONLINE="raw"))])
    with pytest.raises(UserError, match=r"TRAIN.PRESENCE trains beside a trained tracker"):
        commands.call("train", ["--cfg", str(presence_yaml(tmp_path, PRETRAIN=False))])
    (tmp_path / "on.yaml").write_text("TEST: {presence: learned}\n")
    params = load_tracker_params(tmp_path / "on.yaml")
    save_checkpoint(tmp_path / "tracker.pth", {"state_dict": small_model().state_dict(), "model": small_model().spec})
    with pytest.raises(UserError, match=r"tracker.pth: .* no presence branch, which TEST.presence learned asks for"):
        OceanTracker.from_weights(tmp_path / "tracker.pth", params=params)


def test_it_speaks_in_presence_and_nowhere_else() -> None:
    torch.manual_seed(1)
    model = build_model(**{**small_model().spec, "presence": True})
    images = [image for image, _ in square_frames(6)]
    last = {}
    for presence in ("auto", "learned", "map"):
        tracker = OceanTracker(model, replace(PLAIN, presence=presence))
        state = tracker.init(images[0], [60, 50, 30, 30])
        for image in images[1:]:
            state = tracker.track(state, image)
        last[presence] = state
    assert last["auto"].trace == last["learned"].trace
    assert np.isfinite(last["auto"].trace.likeness)
    assert len(last["auto"].trace.evidence) == len(last["map"].trace.evidence) + 2
    assert last["auto"].box_xywh.tobytes() == last["map"].box_xywh.tobytes()
    plain = build_model(**small_model().spec)
    plain.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if "presence" not in name})
    tracker = OceanTracker(plain, PLAIN)
    state = tracker.init(images[0], [60, 50, 30, 30])
    for image in images[1:]:
        state = tracker.track(state, image)
    assert repr(state.trace) == repr(last["map"].trace)  # a checkpoint without the branch is the map's


def test_several_targets_go_as_they_would_alone() -> None:
    torch.manual_seed(1)
    model = build_model(**{**small_model().spec, "presence": True})
    images = [image for image, _ in square_frames(4, size_wh=(640, 480))]
    tracker = OceanTracker(model, replace(PLAIN, lost_below=0.9))  # lost now and then: places elsewhere are looked at
    boxes = [[60, 50, 30, 30], [70, 60, 60, 40]]
    together = [tracker.init(images[0], box) for box in boxes]
    alone = list(together)
    for image in images[1:]:
        together = tracker.track_batch(together, [image, image])
        alone = [tracker.track(state, image) for state in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.presence == pytest.approx(other.presence, abs=1e-4)
        assert one.trace.likeness == pytest.approx(other.trace.likeness, abs=1e-3)
