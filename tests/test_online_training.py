"""Training of the online branch: which frames, how they are shown, what is to be found, what moves and what rests."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from crop_trees import write_source
from train_helpers import same, snapshot, tiny_yaml, train_processes

from lib import commands
from lib.checkpoint import load_model, save_checkpoint
from lib.config import Config, DatasetConfig, SourceConfig, TrainConfig
from lib.config_file import load_config
from lib.crops import CLIP_SIZE
from lib.datasets import Crop, CropReader
from lib.datasets.augment import draw_clip_augmentation
from lib.datasets.dataset import ClipDataset, ClipSample, build_dataset
from lib.datasets.index import TrackIndex, load_index
from lib.datasets.synthetic import SyntheticSource
from lib.datasets.targets import centre_label
from lib.distributed import EXIT_STOPPED, World
from lib.errors import UserError
from lib.models.losses import online_loss
from lib.models.models import build_model
from lib.training.loader import _collate
from lib.training.stage import build_stage
from lib.training.tasks import OnlineTracking


def index_of(folder: Path, frames: list[int]) -> TrackIndex:
    path = folder / "train.json"
    path.write_text(json.dumps({"a": {"00": {str(n): [0, 0, 8, 8] for n in frames}}}), encoding="utf-8")
    return load_index(path)


def clips_of(index: TrackIndex, *, count: int = 200) -> np.ndarray:
    rng = np.random.default_rng(0)
    return index.frames[np.array([index.draw_clip(0, rng, frame_range=30) for _ in range(count)])]


def test_two_frames_before_the_base_and_three_after_it(tmp_path: Path) -> None:
    clips = clips_of(index_of(tmp_path, list(range(0, 300, 2))))
    distance = clips[:, 1:] - clips[:, :1]
    assert distance[:, :2].min() == -30
    assert distance[:, :2].max() == -2
    assert distance[:, 2:].min() == 2
    assert distance[:, 2:].max() == 30
    assert clips[:, 0].min() < 10, "a base anywhere between the first frame and the last"
    assert clips[:, 0].max() > 288


def test_the_range_grows_by_five_until_there_is_a_frame(tmp_path: Path) -> None:
    frames = [0, 1, 50, 53, 54, 90]
    clips = clips_of(index_of(tmp_path, frames), count=500)
    reach = {1: 50, 50: 50, 53: 30, 54: 40}  # nearest neighbours 49, 49, 3 and 36 frames away
    assert set(clips[:, 0]) == set(reach)
    for base, most in reach.items():
        others = np.unique(clips[clips[:, 0] == base, 1:])
        assert others.tolist() == [n for n in frames if n != base and abs(n - base) <= most]


@pytest.mark.parametrize(("frames", "expected"), [([7], [7] * 6), ([3, 90], [3, 3, 3, 90, 90, 90])])
def test_a_still_is_repeated(tmp_path: Path, frames: list[int], expected: list[int]) -> None:
    assert (clips_of(index_of(tmp_path, frames), count=5) == expected).all()


def test_a_rendered_clip_is_of_one_scene_in_order() -> None:
    source = SyntheticSource(seed=3, frame_range=30, length=60)
    numbers = np.array([[read.args[1] for read in source.clip(track, np.random.default_rng(track))]
                        for track in range(8)])
    distance = numbers[:, 1:] - numbers[:, :1]
    assert (distance[:, :2] <= 0).all()
    assert (distance[:, 2:] > 0).all()
    assert np.abs(distance).max() <= 30
    shortest = SyntheticSource(length=2).clip(0, np.random.default_rng(0))
    assert [read.args[1] for read in shortest] == [0, 0, 0, 1, 1, 1]


class Squares:
    """A source whose crops are black with the object white."""

    name, num_tracks = "SQUARES", 5

    def clip(self, track: int, rng: np.random.Generator) -> list[CropReader]:
        box = np.array([255.0 - 30, 255 - 20, 255 + 30, 255 + 20])
        image = np.zeros((511, 511, 3), np.uint8)
        image[235:276, 225:286] = 255
        return [lambda view=None: Crop(image, box)] * 6


def test_the_box_and_the_label_lie_on_the_target() -> None:
    samples = [ClipDataset([Squares()], [5], DatasetConfig(FLIP=0.5, JITTER=0.2))[n] for n in range(20)]  # type: ignore[list-item]
    found = 0
    for sample in samples:
        pixels = torch.cat([sample.train, sample.test]).float().numpy()[:, 0]
        for shown, box in zip(pixels, torch.cat([sample.train_box, sample.test_box]).double().numpy(), strict=True):
            rows, columns = np.nonzero(shown > 0.5 * shown.max())
            if rows.min() > 0 and columns.min() > 0 and rows.max() < 287 and columns.max() < 287:
                found += 1
                middle = [(columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2]
                np.testing.assert_allclose(box[:2] + box[2:] / 2, middle, atol=1.0)
        for label, box in zip(sample.label.numpy(), sample.test_box.double().numpy(), strict=True):
            row, column = np.unravel_index(label.argmax(), label.shape)
            assert np.abs((box[:2] + box[2:] / 2) / 16 - [column, row]).max() <= 0.5
    assert found > 90


def test_the_label_peaks_where_the_optimiser_takes_the_target_to_be() -> None:
    label = centre_label([144 - 10, 128 - 30, 20, 60])
    assert label.shape == (18, 18)
    assert label[8, 9] == 1
    np.testing.assert_allclose(label[8, [8, 10]], np.exp(-0.5 / 0.85**2), rtol=1e-5)


def test_views_are_jittered_as_published() -> None:
    rng, box = np.random.default_rng(0), np.array([205.0, 235.0, 305.0, 275.0])  # sqrt(w h) = 63.2
    changes = [draw_clip_augmentation(DatasetConfig(JITTER=0.2), rng, [box] * 6) for _ in range(400)]
    for frames, spread, reach in (([c[0] for c in changes], 0.25, 3.0), ([c[5] for c in changes], 0.5, 4.5)):
        views = np.array([change.view_xyxy for change in frames])
        side = (views[:, 2] - views[:, 0]) * CLIP_SIZE / (CLIP_SIZE - 1) / 5
        logs = np.log(side / np.sqrt(100 * 40))
        assert abs(logs.mean()) < 0.1 * spread * 2
        assert logs.std() == pytest.approx(spread / np.sqrt(2), rel=0.1), "the mean of two sides' logarithms"
        moves = ((views[:, :2] + views[:, 2:]) / 2 - 255) / side[:, None]
        assert reach / 2 * 0.97 < np.abs(moves).max() <= reach / 2
        brightness = np.array([change.jitter[0] for change in frames])
        assert 0.8 <= brightness.min() < 0.82 < 1.18 < brightness.max() <= 1.2
    assert not any(change.gray for clip in changes for change in clip)
    gray = draw_clip_augmentation(DatasetConfig(GRAY=1.0), rng, [box] * 6)
    assert all(change.gray for change in gray)


def clip_config(root: Path, **train: object) -> Config:
    source = SourceConfig(PATH=str(root / "crop511"), ANNOTATION=str(root / "train.json"), RANGE=2, USE=10)
    return Config(TRAIN=TrainConfig(WHICH_USE=["MINE"], ONLINE="raw", **train),
                  DATASET=DatasetConfig(SOURCES={"MINE": source}))


def test_sample_n_is_a_function_of_seed_and_n(tmp_path: Path) -> None:
    write_source(tmp_path)
    first, again = build_dataset(clip_config(tmp_path)), build_dataset(clip_config(tmp_path))
    shapes = {"train": (3, 3, 288, 288), "test": (3, 3, 288, 288), "train_box": (3, 4), "test_box": (3, 4),
              "label": (3, 18, 18)}
    for n in (3, 10**9, 3):
        sample, other = first[n], again[n]
        assert isinstance(sample, ClipSample)
        for name, shape in shapes.items():
            assert tuple(getattr(sample, name).shape) == shape
            assert torch.equal(getattr(sample, name), getattr(other, name))
    assert not torch.equal(first[3].test, first[13].test)


def test_an_unreadable_clip_is_replaced_and_named(tmp_path: Path) -> None:
    write_source(tmp_path)
    for path in (tmp_path / "crop511" / "part" / "video_0").glob("*.00.x.jpg"):
        path.write_bytes(b"no picture")
    samples = [build_dataset(clip_config(tmp_path))[n] for n in range(6)]
    assert sum(bool(sample.unreadable) for sample in samples) == 1, "one track of six"


def test_the_loss_by_hand() -> None:
    label = torch.tensor([1.0, 0.5, 0.04, 0.0])
    scores = [torch.tensor(v) for v in ([0.5, 0.5, 0.2, -3.0], [1.0, 0.5, 0.0, 0.4], [1.0, 0.1, -1.0, 0.0],
                                        [0.0, 0.5, 0.0, 0.0])]
    each = [(0.25 + 0.04) / 4, 0.16 / 4, 0.16 / 4, 1 / 4]
    losses = {name: value.item() for name, value in online_loss(scores, label).items()}
    assert losses["initial"] == pytest.approx(each[0])
    assert losses["between"] == pytest.approx((each[1] + each[2]) / 2)
    assert losses["last"] == pytest.approx(each[3])
    assert losses["total"] == pytest.approx(100 * each[0] + 100 * each[3] + 400 * losses["between"])


# ---- the run

TINY = {"backbone": "ResNetSmall", "backbone_options": {"width": 2, "layers": [1, 1, 1], "expansion": 1}, "channels": 4,
        "towernum": 1}
NEW = ("classifier.", "features.features.layeronline.")


def online_yaml(folder: Path, **train: object) -> Path:
    """Return a YAML file for two epochs of two steps of two clips beside a tracker that is written first."""
    tracker = folder / "tracker.pth"
    if not tracker.is_file():
        torch.manual_seed(5)
        save_checkpoint(tracker, {"state_dict": build_model(**TINY).state_dict()})
    keys = {"ONLINE": "raw", "PRETRAIN": str(tracker), "RANDOM_TRUNK": False, "END_EPOCH": 2, "BATCH": 2, "EMA": 0.9,
            "OPTIMIZER": "AdamW", "WEIGHT_DECAY": 0.0, "WARMUP": {"IFNOT": False}, **train}
    return tiny_yaml(folder, top={"DATASET": {"PAIRS": 4, "SYN": {"FORMAT": "synthetic", "RANGE": 30}}}, **keys)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    assert train_processes(["--cfg", str(online_yaml(folder))], real=True, timeout=180) == [(0, "")]
    return folder


def test_the_tracker_rests_and_the_whole_branch_moves(whole: Path) -> None:
    saved = snapshot(whole, "checkpoint_e2.pth")
    before = torch.load(whole / "tracker.pth", weights_only=True)["state_dict"]
    after = saved["raw_state_dict"]
    assert after.keys() - before.keys() == {name for name in after if name.startswith(NEW)}
    for name, tensor in before.items():  # BatchNorm's statistics too
        assert torch.equal(after[name], tensor), name
        assert torch.equal(saved["state_dict"][name], tensor), name
    new = build_model(**TINY, online=True)
    for name in after.keys() - before.keys():
        begin = before.get(name.replace("layeronline", "layer3"), new.state_dict()[name])
        assert not torch.equal(after[name], begin), f"{name} rests"
    rates = {group["name"]: group["factor"] for group in saved["optimizer"]["param_groups"]}
    assert rates["solver"] == pytest.approx(10 * rates["head"])
    assert rates["backbone"] == pytest.approx(0.1 * rates["head"])


def test_the_checkpoint_holds_tracker_and_branch(whole: Path) -> None:
    model = load_model(whole / "snapshot" / "checkpoint_e2.pth", online=True)
    assert model.online_pixels == "raw"
    assert model.online_features(torch.zeros(1, 3, 224, 224)).shape == (1, 4, 13, 13)


def test_a_stopped_run_ends_in_the_same_weights(whole: Path, tmp_path: Path) -> None:
    arguments = ["--cfg", str(online_yaml(tmp_path)), "--resume", "auto"]
    stopped = train_processes(arguments, real=True, signals=[{2: signal.SIGTERM}], timeout=180)
    assert stopped == [(EXIT_STOPPED, "")]
    assert (tmp_path / "snapshot" / "checkpoint_e2_s3.pth").is_file()
    assert train_processes(arguments, real=True, timeout=180) == [(0, "")]
    one, other = (snapshot(folder, "checkpoint_e2.pth") for folder in (whole, tmp_path))
    for key in ("state_dict", "raw_state_dict", "optimizer", "step", "samples"):
        assert same(one[key], other[key]), key


def test_two_processes_train_the_same_branch(tmp_path: Path) -> None:
    arguments = ["--cfg", str(online_yaml(tmp_path, BATCH=1, END_EPOCH=1))]
    assert train_processes(arguments, ranks=2, real=True, timeout=180) == [(0, ""), (0, "")]
    one, other = (torch.load(tmp_path / "snapshot" / f"rank{rank}.pth", weights_only=True) for rank in range(2))
    parameters = [name for name, _ in build_model(**TINY, online=True).named_parameters()]
    assert all(torch.equal(one[name], other[name]) for name in parameters)


def test_the_loss_falls_on_rendered_video(tmp_path: Path) -> None:
    cfg = load_config(online_yaml(tmp_path), overrides=["TRAIN.BASE_LR=0.005", "TRAIN.LAYERS_LR=1.0"])
    task = OnlineTracking(cfg)
    torch.manual_seed(0)
    model = task.build()
    optimizer = build_stage(model, cfg.TRAIN, epoch=0, world=World()).optimizer
    batches = [_collate([task.dataset[n] for n in range(first, first + 4)]) for first in range(0, 16, 4)]

    def loss(batch: ClipSample) -> torch.Tensor:
        return task.losses(task.predict(model, batch, torch.Tensor.float), batch)["total"]

    with torch.no_grad():
        before = [loss(batch).item() for batch in batches]
    for step in range(24):
        optimizer.zero_grad()
        loss(batches[step % 3]).backward()
        optimizer.step()
    with torch.no_grad():
        after = [loss(batch).item() for batch in batches]
    assert np.mean(after[:3]) < 0.9 * np.mean(before[:3])
    assert after[3] < 0.95 * before[3], "clips that it has not seen"


@pytest.mark.parametrize(("pretrain", "message"), [
    (False, "TRAIN.ONLINE trains beside a trained tracker; name its checkpoint in TRAIN.PRETRAIN"),
    ("trunk.pth", "is no tracker; TRAIN.ONLINE needs the checkpoint of one")])
def test_without_a_tracker_it_says_so(tmp_path: Path, pretrain: bool | str, message: str) -> None:
    if pretrain:
        pretrain = str(tmp_path / str(pretrain))
        save_checkpoint(pretrain, {"state_dict": build_model(**TINY).features.state_dict()})
    with pytest.raises(UserError, match=message):
        commands.call("train", ["--cfg", str(online_yaml(tmp_path, PRETRAIN=pretrain))])
