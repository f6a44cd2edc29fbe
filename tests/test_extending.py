"""What `lib` is extended by, each as a toy that is defined here and runs from end to end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tracker_stubs import write_squares
from train_helpers import snapshot, tiny_yaml

from lib import commands
from lib.benchmarks import LAYOUTS, Layout, load_benchmark, write_result
from lib.benchmarks.readers import Video
from lib.checkpoint import load_model, save_checkpoint
from lib.config import SourceConfig
from lib.config_file import load_config
from lib.crops import CROP_SIZE, box_in_crop511, score_side
from lib.datasets import Crop, FramePair
from lib.datasets.dataset import FORMATS
from lib.datasets.targets import box_targets
from lib.errors import UserError
from lib.eval_toolkit.protocols import score_results
from lib.models.backbones import BACKBONES, Backbone
from lib.models.connect import Head
from lib.models.losses import ocean_loss
from lib.models.models import HEADS, Ocean, build_model
from lib.testing.opening import OPENERS
from lib.testing.results import ResultFolder, record_of
from lib.testing.run import Candidate, run_candidate
from lib.tracker import PlainTracker
from lib.tracker.ocean import OceanTracker
from lib.tracker.params import TrackerParams


class ToyTrunk(nn.Module):
    """A backbone of one convolution of stride 8: 15 cells for 127 px, 31 for 255."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, kernel_size=15, stride=8)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        return [], self.conv(x / 255)

    def trunk_layers(self) -> dict[str, nn.Module]:
        return {"layer1": self.conv}


def toy_backbone(*, width: int = 4) -> Backbone:
    return Backbone(ToyTrunk(width), width)


class ToyHead(Head):
    """One correlation with the template's inner cells, and a convolution on it for each prediction."""

    def __init__(self, channels: int, side: float) -> None:
        super().__init__()
        self.cls_pred, self.bbox_pred = nn.Conv2d(channels, 1, 1), nn.Conv2d(channels, 4, 1)
        self.side = side

    def template(self, zf: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return (zf,), ()

    def track(self, xf: Tensor, cls_z: tuple[Tensor, ...],
              reg_z: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, None, None]:
        (z,) = cls_z
        batch, channels = xf.shape[:2]
        mixed = F.conv2d(xf.reshape(1, -1, *xf.shape[2:]), z.reshape(-1, 1, *z.shape[2:]), groups=batch * channels)
        mixed = mixed.view(batch, channels, *mixed.shape[2:]) / z[0, 0].numel()
        return self.side * torch.exp(self.bbox_pred(mixed)), self.cls_pred(mixed), None, None


def toy_head(*, channels: int, side: float = 20.0) -> ToyHead:
    return ToyHead(channels, side)


TOYS = ["OCEAN.TRAIN.BACKBONE=Toy", "TRAIN.BACKBONE_OPTIONS={width: 6}", "TRAIN.HEAD=Toy",
        "TRAIN.HEAD_OPTIONS={side: 12.5}", "TRAIN.CHANNELS=8"]


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "Toy", toy_backbone)
    monkeypatch.setitem(HEADS, "Toy", toy_head)


def toy_model() -> Ocean:
    cfg = load_config(Path(__file__).parents[1] / "experiments" / "train" / "Ocean.yaml", overrides=TOYS)
    torch.manual_seed(0)
    return build_model(**cfg.model_options())


@pytest.mark.usefixtures("toys")
def test_a_backbone_and_a_head_are_one_class_and_one_entry_each(tmp_path: Path) -> None:
    model = toy_model().train()
    output = model(torch.rand(2, 3, 127, 127) * 255, torch.rand(2, 3, 255, 255) * 255)
    assert output.ltrb.shape == (2, 4, score_side(255), score_side(255))
    cls, ltrb, weight = (torch.from_numpy(part)[None].repeat(2, *[1] * part.ndim)
                         for part in box_targets([107, 117, 147, 137], search_size=255))
    losses = ocean_loss(output, cls_target=cls, ltrb_target=ltrb, weight=weight)
    losses["total"].backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in model.parameters())

    save_checkpoint(tmp_path / "toy.pth", {"model": model.spec, "state_dict": model.state_dict()})
    loaded = load_model(tmp_path / "toy.pth")
    assert loaded.spec == model.spec
    assert isinstance(loaded.connect_model, ToyHead)
    assert loaded.connect_model.side == 12.5
    tracker = OceanTracker(loaded, TrackerParams())
    frames = np.random.default_rng(0).integers(0, 256, (3, 90, 120, 3), dtype=np.uint8)
    state = tracker.init(frames[0], [40, 30, 20, 16])
    for frame in frames[1:]:
        state = tracker.track(state, frame)
    assert np.isfinite(state.box_xywh).all()


@pytest.mark.usefixtures("toys")
def test_options_of_a_head_are_checked_as_those_of_a_backbone() -> None:
    with pytest.raises(UserError, match="'Tyo' is no head; did you mean Toy"):
        build_model(head="Tyo")
    with pytest.raises(UserError, match="'sid' is no option of head Toy; did you mean side"):
        build_model(head="Toy", head_options={"sid": 1.0})
    with pytest.raises(UserError, match="option side of head Toy: 'x' is not of type float"):
        build_model(head="Toy", head_options={"side": "x"})
    assert "head" not in build_model(backbone="ResNetSmall", channels=8, towernum=1).spec


@dataclass(frozen=True)
class Squares:
    """A training source: bright squares on noise, one colour for each track."""

    name: str
    num_tracks: int

    def pair(self, track: int, rng: np.random.Generator) -> FramePair:
        noise = rng.integers(0, 100, (CROP_SIZE, CROP_SIZE, 3), dtype=np.uint8)

        def crop(view_xyxy=None, /) -> Crop:
            box = box_in_crop511((40.0, 40.0))
            x1, y1, x2, y2 = np.round(box).astype(int)
            image = noise.copy()
            image[y1 : y2 + 1, x1 : x2 + 1] = 150 + track
            return Crop(image, box)

        return FramePair(template=crop, search=crop)


def squares(name: str, config: SourceConfig, _place: str) -> Squares:
    """Make the source of its settings under DATASET."""
    return Squares(name, config.OPTIONS["tracks"])


def test_a_training_source_is_one_class_and_one_entry(tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "squares", squares)
    path = tiny_yaml(tmp_path, END_EPOCH=2, UNFIX_EPOCH=1, WHICH_USE=["MINE"])
    source = "DATASET.MINE={FORMAT: squares, USE: 8, OPTIONS: {tracks: 5}}"
    assert commands.call("train", ["--cfg", str(path), source, "DATASET.NEGATIVE=0.3"]) == 0
    weights = snapshot(tmp_path, "checkpoint_e2.pth")["state_dict"]
    assert all(torch.isfinite(value).all() for value in weights.values())


def toy_videos(root: Path) -> list[Video]:
    """Find the videos of a set that keeps boxes in `boxes/<name>.txt` and images in `shots/<name>`."""
    return [Video(path.stem, path, root / "shots" / path.stem) for path in sorted(root.glob("boxes/*.txt"))]


def test_a_benchmark_is_one_function_and_one_entry(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(LAYOUTS, "Toy", Layout("Toy", toy_videos, names=("ball", "kite"), also=("Toys",)))
    boxes = np.array([[10.0, 20, 30, 40], [12, 20, 30, 40], [14, 20, 30, 40]])
    (tmp_path / "Toy" / "boxes").mkdir(parents=True)
    np.savetxt(tmp_path / "Toy" / "boxes" / "ball.txt", boxes, delimiter=",")
    shots = tmp_path / "Toy" / "shots" / "ball"
    shots.mkdir(parents=True)
    for number in (1, 2, 3):
        (shots / f"{number}.png").touch()
    benchmark = load_benchmark("toys", tmp_path, images=True)
    assert (benchmark.name, benchmark.names, benchmark.missing) == ("Toy", ("ball",), ("kite",))
    assert benchmark.sequences[0].boxes_xywh.tolist() == boxes.tolist()
    write_result(tmp_path / "result" / "Toy" / "Mine" / "ball.txt", boxes, dataset="Toy")
    assert commands.call("eval", ["--dataset", "Toy", "--dataset_dir", str(tmp_path), "--tracker_result_dir",
                                  str(tmp_path / "result"), "--allow_missing"]) == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("Mine"))
    assert row[1:5] == ["0.952", "1.000", "1.000", "1/2"]


@dataclass(frozen=True)
class Found:
    box_xywh: np.ndarray
    score: float


class RedSquare:
    """A tracker: the middle of what is red, with the size that was given."""

    def init(self, image, box_xywh):
        return Found(np.asarray(box_xywh, float), 1.0)

    def track(self, state, image):
        y, x = np.nonzero(image[..., 2].astype(int) - image[..., 1] > 100)
        size = state.box_xywh[2:]
        return Found(np.array([x.mean() - size[0] / 2, y.mean() - size[1] / 2, *size]), 0.9)


class RedSquarePlain:
    """The same in the plain form: it remembers the target itself."""

    def init(self, image, box):
        self.box = np.asarray(box, float)

    def track(self, image):
        self.box = RedSquare().track(Found(self.box, 1.0), image).box_xywh
        return self.box


def test_a_tracker_is_any_object_with_init_and_track(tmp_path):
    """From the object to result files and scores."""
    benchmark = load_benchmark("MINE", write_squares(tmp_path / "MINE", {"a": 6, "b": 4}), images=True)
    files = []
    for name, tracker in (("State", RedSquare()), ("Plain", PlainTracker(RedSquarePlain))):
        record = record_of(Path(__file__), dataset="MINE", data_source=benchmark.source)
        folder = ResultFolder(tmp_path / "result" / "MINE" / name, record)
        run_candidate(Candidate(tracker, folder), benchmark.sequences, batch=2)
        summary = score_results(benchmark, folder.path)
        assert summary.values["success"] > 0.8
        assert summary.names == ("a", "b")
        files.append([folder.result_path(name).read_bytes() for name in benchmark.names])
    assert files[0] == files[1]


def test_a_tracker_is_one_entry_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(OPENERS, "RedSquare", lambda path, params, **flags: RedSquare())
    monkeypatch.chdir(tmp_path)
    write_squares(tmp_path / "MINE", {"a": 6, "b": 4})
    shared = ["--arch", "RedSquare", "--dataset", "MINE", "--dataset_dir", "MINE"]
    assert commands.call("test", [*shared, "--resume", __file__]) == 0
    for epoch in (1, 2):
        (tmp_path / f"checkpoint_e{epoch}.pth").write_text(f"weights {epoch}")
    assert commands.call("sweep", [*shared, "--snapshot", ".", "--html", "False"]) == 0
    said = capsys.readouterr().out
    assert "RedSquare_checkpoint_e1" in said
    assert "RedSquare_checkpoint_e2" in said
    files = [(tmp_path / "result" / "MINE" / folder / "a.txt").read_bytes()
             for folder in ("RedSquare", "RedSquare_checkpoint_e1")]
    assert files[0] == files[1]
