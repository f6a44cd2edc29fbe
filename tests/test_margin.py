"""Peak on target and margin: what a score map says of a box, and the command on a small model."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tracker_stubs import write_squares

from lib import commands
from lib.benchmarks import load_benchmark
from lib.checkpoint import save_checkpoint
from lib.errors import UserError
from lib.models.models import build_model
from lib.tools.measure import _judge, look_at
from lib.tracker.ocean import OceanTracker
from lib.tracker.params import TrackerParams

TINY = {"backbone": "ResNetSmall", "backbone_options": {"width": 4, "layers": [1, 1, 1]}, "channels": 8, "towernum": 1}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = build_model(**TINY)
    save_checkpoint(tmp_path / "tiny.pth", {"state_dict": model.state_dict(), "model": model.spec})
    return tmp_path / "tiny.pth"


def test_a_cell_counts_where_its_point_lies() -> None:
    """Cells are 8 px apart around the middle: a target of 40 x 20 px holds 5 x 3 of them."""
    crop = np.zeros((255, 255, 3), np.uint8)
    score = np.full((25, 25), 0.2, np.float32)
    score[13, 14], score[12, 15] = 0.7, 0.9  # (2, 1) cells right and below the middle; (3, 0), just outside
    look = _judge(score, crop, np.array([40.0, 20.0]))
    assert (look.on, look.off) == pytest.approx((0.7, 0.9))
    assert _judge(score, crop, np.array([48.0, 20.0])).on == pytest.approx(0.9)
    tiny = _judge(score, crop, np.array([3.0, 3.0]))
    assert tiny.on == pytest.approx(0.2), "a target smaller than a cell has the one in the middle"


def test_every_annotated_frame_is_looked_at_around_its_true_box(tmp_path: Path, weights: Path) -> None:
    """The crops follow the truth, not the tracker: each shows the square in its middle."""
    video = load_benchmark("squares", write_squares(tmp_path / "squares", {"A": 11}), images=True).sequences[0]
    video.boxes_xywh[4] = np.nan
    tracker = OceanTracker.from_weights(weights, params=TrackerParams())
    looks = list(look_at(tracker, video))
    assert len(looks) == 9
    assert len(list(look_at(tracker, video, every=3))) == 3
    first = tracker.init(cv2.imread(str(video.frames[0])), video.boxes_xywh[0])
    for look in looks:
        assert look.picture.shape == (first.search_size, first.search_size, 3)
        assert np.abs(look.picture[120:135, 120:135].astype(int) - looks[0].picture[120:135, 120:135]).mean() < 25
        assert 0 <= look.off <= 1 >= look.on >= 0


def test_the_command_prints_each_video_and_writes_the_worst(tmp_path: Path, weights: Path,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--dataset", "squares", "--dataset_dir", str(write_squares(tmp_path / "squares", {"A": 4, "B": 6}))]
    sheet = tmp_path / "worst.png"
    assert commands.call("margin", ["--resume", str(weights), *data, "--out", str(sheet)]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line[1:] for line in table if (line and line[0] in "AB") or line[:2] == ["all", "frames"]}
    assert (rows["A"][0], rows["B"][0], rows["all"][1]) == ("3", "5", "8")
    for column in (1, 2, 3, 4):  # means over all frames, not over videos
        mean = (3 * float(rows["A"][column]) + 5 * float(rows["B"][column])) / 8
        assert float(rows["all"][column + 1]) == pytest.approx(mean, abs=2e-3)
    assert cv2.imread(str(sheet)).shape == (192, 384, 3)
    with pytest.raises(UserError, match="no sequence 'C'"):
        commands.call("margin", ["--resume", str(weights), *data, "--videos", "C"])
