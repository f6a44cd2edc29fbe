"""Trackers of other people's: from a file, of OpenCV, of the got10k toolkit, in every command that runs one of ours."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
from otb_trees import shared as shared_data
from PIL import Image
from tracker_stubs import small_checkpoint, square_frames, write_squares
from vot_trees import make_video, square

from lib import commands
from lib.benchmarks import load_benchmark
from lib.errors import UserError
from lib.eval_toolkit.protocols import score_results
from lib.testing.opening import open_tracker
from lib.tracker import Got10kTracker, PlainTracker
from lib.tracker.params import TrackerParams

OWN_TRACKER = '''
import numpy as np

class Square:
    """The plain form, with a score."""
    def __init__(self, model=None):
        self.model = model
    def init(self, image, box):
        assert image[0, 0].tolist() == image[..., ::-1][0, 0].tolist()[::-1] and image.shape[2] == 3
        self.size = np.asarray(box)[2:]
    def track(self, image):
        y, x = np.nonzero(image[..., 2].astype(int) - image[..., 1] > 100)
        return [x.mean() - self.size[0] / 2, y.mean() - self.size[1] / 2, *self.size], 0.5

class ToolkitsOwn:
    """What got10k's class of trackers brings: a loop over the files of a video."""
    is_deterministic = False
    def track(self, img_files, box, visualize=False):
        raise NotImplementedError

class OfGot10k(ToolkitsOwn):
    """The form of the got10k toolkit: PIL images, RGB."""
    def init(self, image, box):
        self.plain = Square()
        self.plain.init(np.asarray(image)[..., ::-1], box)
    def update(self, image):
        return self.plain.track(np.asarray(image.convert("RGB"))[..., ::-1])[0]

class Wrong(Square):
    def track(self, image):
        return None
'''


def test_a_tracker_comes_from_a_file_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN_TRACKER, encoding="utf-8")
    benchmark = load_benchmark("MINE", write_squares(tmp_path / "MINE", {"a": 6, "b": 4}), images=True)
    shared = ["--dataset", "MINE", "--dataset_dir", "MINE"]
    for name in ("Square", "OfGot10k"):
        assert commands.call("test", ["--tracker", f"own.py:{name}", *shared]) == 0
        assert score_results(benchmark, tmp_path / "result" / "MINE" / name).values["success"] > 0.8
    texts = [(tmp_path / "result" / "MINE" / name / "a.txt").read_text() for name in ("Square", "OfGot10k")]
    assert texts[0] == texts[1]
    for words, said in ((["--tracker", "own.py:Sqare"], "did you mean Square"), (["--tracker", "gone.py:A"], "gone.py"),
                        (["--tracker", "Square"], "FILE.py:NAME"), ([], "--resume names no checkpoint"),
                        (["--tracker", "own.py:Wrong"], "Wrong gave None; expected a box")):
        with pytest.raises(UserError, match=said):
            commands.call("test", [*words, *shared])


def test_opencvs_trackers_go_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    benchmark = load_benchmark("MINE", write_squares(tmp_path / "MINE", {"a": 4}), images=True)
    shared = ["--dataset", "MINE", "--dataset_dir", "MINE"]
    assert commands.call("test", ["--tracker", "opencv:MIL", *shared]) == 0
    assert score_results(benchmark, tmp_path / "result" / "MINE" / "MIL").values["success"] > 0.3
    for words, said in ((["--tracker", "opencv:MILL"], r"this OpenCV \(.*\) has .*MIL, .* alone"),
                        (["--tracker", "opencv:Nano", "--resume", "."], r"no file \*backbone\*.onnx")):
        with pytest.raises(UserError, match=said):
            commands.call("test", [*words, *shared])


def test_nanotrack_has_the_boxes_that_opencv_gives(tmp_path):
    """The peer of the small models: its files are found by name, and boxes are those of OpenCV's own calls."""
    folder, deer = shared_data("peers", "nanotrackv2"), shared_data("OTB_sample", "Deer")
    files = [str(next(folder.glob(f"*{part}*"))) for part in ("backbone", "head")]
    images = [cv2.imread(str(path)) for path in sorted((deer / "img").glob("*.jpg"))[:4]]
    settings = cv2.TrackerNano_Params()
    settings.backbone, settings.neckhead = files
    theirs, ours = cv2.TrackerNano_create(settings), open_tracker("opencv:Nano", folder, TrackerParams())
    theirs.init(images[0], (306, 5, 95, 65))
    state = ours.init(images[0], np.array([306.0, 5, 95, 65]))
    for image in images[1:]:
        state = ours.track(state, image)
        np.testing.assert_array_equal(state.box_xywh, theirs.update(image)[1])
        assert state.score == pytest.approx(theirs.getTrackingScore())


def test_a_result_counts_only_for_the_file_and_the_model_that_made_it(tmp_path, monkeypatch):
    """Every file of the model's folder is part of it, and so is the tracker's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN_TRACKER, encoding="utf-8")
    write_squares(tmp_path / "MINE", {"a": 3})
    (tmp_path / "model" / "parts").mkdir(parents=True)
    (tmp_path / "model" / "net.bin").write_text("1")
    words = ["--tracker", "own.py:Square", "--resume", "model", "--dataset", "MINE", "--dataset_dir", "MINE"]
    assert commands.call("test", words) == 0
    shutil.move("model", "moved")
    shutil.move("own.py", "other.py")
    words = [word.replace("own", "other").replace("model", "moved") for word in words]
    assert commands.call("test", words) == 0  # neither's place counts
    (tmp_path / "moved" / "parts" / "more.bin").write_text("2")
    with pytest.raises(UserError, match=r"holds results made with model.files .* instead of .*parts/more.bin"):
        commands.call("test", words)
    (tmp_path / "moved" / "parts" / "more.bin").unlink()
    (tmp_path / "other.py").write_text(OWN_TRACKER + "# changed", encoding="utf-8")
    with pytest.raises(UserError, match=r"holds results of checkpoint own\.py"):
        commands.call("test", words)
    with pytest.raises(UserError, match=r"--resume gone: neither a checkpoint file"):
        commands.call("test", [word.replace("moved", "gone") for word in words])


def test_a_tracker_stands_beside_the_checkpoints_in_table_and_page(tmp_path, monkeypatch, capsys):
    """Each further call adds a row; the workers of a foreign tracker are processes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "helper.py").write_text("from dataclasses import dataclass", encoding="utf-8")
    (tmp_path / "own.py").write_text("from __future__ import annotations\nfrom helper import dataclass\n" + OWN_TRACKER
                                     + "@dataclass\nclass Data: x: int", encoding="utf-8")
    write_squares(tmp_path / "MINE", {"a": 6, "b": 4})
    (tmp_path / "snapshot").mkdir()
    small_checkpoint(tmp_path / "snapshot" / "checkpoint_e1.pth")
    shared = ["--dataset", "MINE", "--dataset_dir", "MINE"]

    def rows():
        table = json.loads((tmp_path / "result" / "MINE" / "Ocean_epochs.json").read_text())
        return {row["name"]: row["success"] for row in table["checkpoints"]}

    assert commands.call("sweep", [*shared, "--tracker", "own.py:Square", "--together", "2"]) == 0
    assert list(rows()) == ["Ocean_checkpoint_e1", "Square"]
    assert rows()["Square"] > 0.8
    assert "Square" in (tmp_path / "result" / "MINE" / "Ocean_epochs.html").read_text()
    assert commands.call("test", [*shared, "--tracker", "own.py:Square"]) == 0  # the same folder, nothing is done again
    assert commands.call("sweep", [*shared, "--tracker", "own.py:OfGot10k", "--snapshot", "none", "--workers", "2",
                                   "--html", "False"]) == 0
    assert list(rows()) == ["Ocean_checkpoint_e1", "OfGot10k", "Square"]
    assert rows()["OfGot10k"] == rows()["Square"]
    (tmp_path / "own.py").write_text((tmp_path / "own.py").read_text() + "# changed", encoding="utf-8")
    again = [*shared, "--tracker", "own.py:Square", "--html", "False"]
    with pytest.raises(UserError, match=r"Square: holds results of checkpoint own\.py .*; --fresh replaces"):
        commands.call("sweep", again)
    assert commands.call("sweep", [*again, "--fresh"]) == 0
    assert "2 result(s) removed, to be done again" in capsys.readouterr().err
    for words, said in ((["--resume", "own.py"], "--resume is the model of --tracker here"),
                        (["--tracker", "own.py:Sqare"], "did you mean Square"), (["--tracker", "own"], "FILE.py:NAME")):
        with pytest.raises(UserError, match=said):
            commands.call("sweep", [*shared, *words])


def test_a_tracker_is_started_again_by_vots_protocol(tmp_path, monkeypatch, capsys):
    """It stays where it began, so the target leaves it: a failure, and a new object five frames later."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "still.py").write_text("class Still:\n    def init(self, image, box): self.box = box\n"
                                       "    def track(self, image): return self.box\n", encoding="utf-8")
    make_video(tmp_path / "VOT2018", "bag", [square(10 + 6 * step, 30) for step in range(12)], images=True)
    (tmp_path / "VOT2018" / "list.txt").write_text("bag\n")
    shared = ["--dataset", "VOT2018", "--dataset_dir", "."]
    assert commands.call("test", ["--tracker", "still.py:Still", *shared]) == 0
    lines = (tmp_path / "result" / "VOT2018" / "Still" / "baseline" / "bag" / "bag_001.txt").read_text().split()
    assert [line for line in lines if len(line) == 1] == ["1", "2", "0", "0", "0", "0", "1"]
    assert lines.index("2") == 4  # 24 px away from a box of 21
    assert commands.call("eval", [*shared, "--tracker_result_dir", "result/VOT2018", "--allow_missing"]) == 0
    assert "Still" in capsys.readouterr().out


def test_a_tracker_follows_in_a_video_and_for_the_vot_toolkit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN_TRACKER, encoding="utf-8")
    for index, (image, _) in enumerate(square_frames(5)):
        cv2.imwrite(f"{index}.png", image)
    assert commands.call("track", [".", "--init", "60,50,30,30", "--tracker", "own.py:Square", "--out", "out",
                                   "--save_video", "False"]) == 0
    (path,) = (tmp_path / "out").glob("*.csv")
    found = np.loadtxt(path, delimiter=",", skiprows=1)[:, 1:5]
    np.testing.assert_allclose(found, [box for _, box in square_frames(5)], atol=1.5)
    words = ["space", "--stack", "vot2018/shortterm", "--tracker", "own.py:Square", "--resume", "own.py"]
    assert commands.call("vot workspace", words) == 0
    text = (tmp_path / "space" / "trackers.ini").read_text()
    assert "[Square]" in text
    assert f"--tracker={tmp_path / 'own.py'}:Square --dataset=VOT2018" in text
    assert f"--resume={tmp_path / 'own.py'} " in text
    with pytest.raises(UserError, match="did you mean Square"):
        commands.call("vot workspace", [word.replace("Square", "Sqare") for word in words])


def test_ours_runs_in_the_got10k_toolkit(tmp_path):
    """By a stand-in for the toolkit's loop, which opens PIL images and hands on boxes as the files have them."""
    frames = list(square_frames(5))
    for index, (image, _) in enumerate(frames):
        Image.fromarray(np.ascontiguousarray(image[..., ::-1])).save(tmp_path / f"{index}.png")
    files = [str(tmp_path / f"{index}.png") for index in range(5)]
    (tmp_path / "own.py").write_text(OWN_TRACKER, encoding="utf-8")
    ours = open_tracker(f"{tmp_path / 'own.py'}:Square", None, TrackerParams())
    tracker = Got10kTracker(ours, "Square")
    assert (tracker.name, tracker.is_deterministic) == ("Square", True)
    boxes = [frames[0][1]]
    for index, file in enumerate(files):
        image = Image.open(file).convert("RGB")
        if index == 0:
            tracker.init(image, boxes[0])
        else:
            boxes.append(tracker.update(image))
    state = ours.init(*frames[0])
    for found, (image, _) in zip(boxes[1:], frames[1:], strict=True):
        state = ours.track(state, image)
        np.testing.assert_array_equal(found, state.box_xywh)
    again, seconds = tracker.track(files, boxes[0], visualize=False)
    np.testing.assert_array_equal(again, boxes)
    assert (seconds > 0).all()
    matlab, _ = Got10kTracker(ours, "Square", origin=1).track(files, boxes[0] + np.array([1, 1, 0, 0]))
    np.testing.assert_array_equal(matlab, again + np.array([1, 1, 0, 0]))
    there_and_back = PlainTracker(lambda: Got10kTracker(ours))
    state = there_and_back.init(*frames[0])
    np.testing.assert_array_equal(there_and_back.track(state, frames[1][0]).box_xywh, boxes[1])
