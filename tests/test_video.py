"""Following a target in one's own video: sources, the box, the result file and the video, with a perfect network."""

import re
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tracker_stubs import PLAIN, Oracle, small_checkpoint, square_frames

from lib.cli import as_argv
from lib.commands import call, parse
from lib.errors import UserError
from lib.models.ocean import OceanOutput, TemplateFeatures
from lib.options import VideoOptions
from lib.testing.video import find_encoder
from lib.tools import video_source
from lib.tools.run_video import parse_box, run, run_folder
from lib.tools.video_source import Newest, Source, open_source, select_box
from lib.tracker.ocean import OceanTracker

ROOT = Path(__file__).resolve().parents[1]


def options(folder: Path, **changes: Any) -> VideoOptions:
    return VideoOptions(**{"source": "clip", "init": ("60,50,30,30",), "out": folder, **changes})


def squares(count: int) -> Source:
    return Source("clip", (image for image, _ in square_frames(count)), 25.0, count, lambda: None)


def rows_of(path: Path) -> np.ndarray:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "frame,x,y,w,h,score,presence,lost"
    return np.array([[float(value) for value in line.split(",")] for line in lines[1:]])


def test_the_result_file_holds_the_true_boxes_and_the_video_every_frame(tmp_path: Path) -> None:
    run(options(tmp_path), OceanTracker(Oracle(), PLAIN), squares(8), tmp_path)
    rows = rows_of(tmp_path / "clip.csv")
    true = np.array([box for _, box in square_frames(8)])
    assert rows[:, 0].tolist() == list(range(1, 9))
    np.testing.assert_allclose(rows[:, 1:5], true, atol=1.5)
    assert rows[0, 1:5].tolist() == [60, 50, 30, 30]
    assert (rows[:, 7] == 0).all()
    path = tmp_path / f"clip{find_encoder()[1]}"
    for source, name in ((str(path), "clip"), (path.as_uri(), re.sub(r"\W+", "_", str(path)).strip("_"))):
        film = open_source(source)
        assert (film.name, film.count, len(list(film.frames))) == (name, 8, 8)
        film.close()


def test_several_boxes_follow_several_targets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    both = options(tmp_path, init=("60,50,30,30", "-8,20,40,40"), max_frames=5)
    with caplog.at_level("INFO", logger="lib"):
        run(both, OceanTracker(Oracle(), PLAIN), squares(8), tmp_path)
    alone = tmp_path / "alone"
    run(options(alone, max_frames=5), OceanTracker(Oracle(), PLAIN), squares(8), alone)
    first, second = (rows_of(tmp_path / f"clip_{number}.csv") for number in (1, 2))
    np.testing.assert_allclose(first, rows_of(alone / "clip.csv"), atol=0.02)
    assert second[0, 1:5].tolist() == [-8, 20, 40, 40]
    assert len(second) == 5
    assert "clip_2.csv: lost in 0 of 5 frames" in caplog.text
    (path,) = (path for path in tmp_path.glob("clip*") if path.suffix != ".csv")
    assert path.name in caplog.text
    _, frame = cv2.VideoCapture(str(path)).read()
    assert frame.shape == next(square_frames(1))[0].shape


@pytest.mark.parametrize("words", [["--init", "-10,1,4,4", "5,5,9,9"], ["--init=-10,1,4,4", "--init", "5,5,9,9"]])
def test_a_box_that_begins_left_of_the_picture_is_no_flag(words: list[str]) -> None:
    options = parse("track", ["clip", *words])
    assert (options.source, options.init) == ("clip", ("-10,1,4,4", "5,5,9,9"))
    assert parse("track", as_argv(options)) == options


def test_a_run_is_never_written_over_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("clip", "clip_2", "clip_3"):
        folder = run_folder(None, "clip")
        assert folder == Path("result") / "video" / name
        run(options(folder, max_frames=2), OceanTracker(Oracle(), PLAIN), squares(2), folder)
    with pytest.raises(UserError, match=r"--out .*clip_2: holds clip\.csv of another run"):
        run_folder(Path("result/video/clip_2"), "clip")
    assert run_folder(Path("result/video/clip_2"), "other") == Path("result/video/clip_2")


def test_what_cannot_be_written_or_read_is_said_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"--out .*taken: cannot be written"):
        call("track", [str(tmp_path), "--init", "1,1,4,4", "--out", str(tmp_path / "taken"), "--resume", "gone.pth"])
    for source, message in (("nope.mp4", r"nope\.mp4: no such file or folder"), ("000123", "000123: no folder, and")):
        with pytest.raises(UserError, match=message):
            call("track", [source, "--resume", "gone.pth"])
    for box in ("1 1 4 4", "9,1,4,4"):
        with pytest.raises(UserError, match=f"--init {box}"):
            call("track", [str(tmp_path), "--init", "1,1,4,4", box, "--resume", "gone.pth"])


class Blind(Oracle):
    """Takes gray ground for the square in its fourth answer and its sixth, and is nearly as sure of it."""

    answers = 0

    def track(self, x: torch.Tensor, template: TemplateFeatures) -> OceanOutput:
        self.answers += 1
        output = super().track(x, template)
        aside = torch.tensor([-80.0, 0.0, 80.0, 0.0]).view(1, 4, 1, 1)  # px to the right
        return OceanOutput(output.ltrb + aside, output.cls - 18, None) if self.answers in (4, 6) else output


def test_a_lost_target_is_said_to_be_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="lib"):
        run(options(tmp_path), OceanTracker(Blind(), PLAIN), squares(8), tmp_path)
    rows = rows_of(tmp_path / "clip.csv")
    assert rows[:, 7].tolist() == [0, 0, 0, 0, 1, 0, 1, 0]
    assert rows[4, 5] > 0.8  # the score sees little of it
    assert "frame 5: lost (presence 0.4" in caplog.text
    assert "frame 6: found again" in caplog.text


def test_ctrl_c_keeps_what_was_found(tmp_path: Path) -> None:
    def frames():
        for index, (image, _) in enumerate(square_frames(9)):
            if index == 4:
                raise KeyboardInterrupt
            yield image

    run(options(tmp_path), OceanTracker(Oracle(), PLAIN), Source("clip", frames(), 25.0, None, lambda: None),
        tmp_path)
    assert len(rows_of(tmp_path / "clip.csv")) == 4
    assert (tmp_path / f"clip{find_encoder()[1]}").is_file()


def test_the_number_of_frames_can_be_limited_and_the_video_left_out(tmp_path: Path) -> None:
    run(options(tmp_path, max_frames=3, save_video=False), OceanTracker(Oracle(), PLAIN), squares(8), tmp_path)
    assert len(rows_of(tmp_path / "clip.csv")) == 3
    assert not (tmp_path / f"clip{find_encoder()[1]}").exists()


@pytest.mark.parametrize("text", ["1,2,3", "1,2,x,4", "1,2,0,4", "1,2,nan,4", "700,2,5,5", "-9,2,5,5"])
def test_a_wrong_box_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"--init {text}"):
        parse_box(text, np.zeros((48, 64, 3), np.uint8))


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "Clip" / "img"
    folder.mkdir(parents=True)
    for number in (10, 9, 2, 1):
        cv2.imwrite(str(folder / f"f{number}.png"), np.full((8, 8, 3), number, np.uint8))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "000123").symlink_to(folder)  # a name of digits is a folder where there is one, else a camera
    assert open_source("000123").count == 4
    assert open_source(str(folder.parent)).name == "Clip"  # the sequence as a test set has it
    source = open_source(str(folder))
    assert (source.name, source.count) == ("Clip", 4)
    assert [int(image[0, 0, 0]) for image in source.frames] == [1, 2, 9, 10]
    source.close()


class FakeCamera:
    """Gives `count` numbered frames, one every 5 ms, then ends."""

    def __init__(self, count: int) -> None:
        self.count, self.given, self.released = count, 0, False

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.005)
        if self.given == self.count:
            return False, None
        self.given += 1
        return True, np.full((2, 2, 3), self.given, np.uint8)

    def release(self) -> None:
        self.released = True


def test_a_slow_reader_of_a_camera_gets_the_newest_frame() -> None:
    camera = FakeCamera(60)
    newest = Newest(camera)
    seen = []
    for frame in newest:
        seen.append(int(frame[0, 0, 0]))
        time.sleep(0.05)
    newest.close()
    assert seen == sorted(set(seen))
    assert seen[-1] == 60
    assert len(seen) < 40
    assert camera.released


def test_sources_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video", encoding="utf-8")
    for source, line in (("absent.mp4", "no such file or folder"), ("empty", "no images in it"),
                         ("text.mp4", "not a video that can be decoded")):
        with pytest.raises(UserError, match=line):
            open_source(str(tmp_path / source))


def test_a_password_in_an_address_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", lambda _: Namespace(isOpened=lambda: False))
    with pytest.raises(UserError, match=r"rtsp://cam.example/live: cannot be opened") as caught:
        open_source("rtsp://user:secret@cam.example/live?token=secret")
    assert "secret" not in str(caught.value)


def test_without_a_screen_the_box_must_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_source.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="--init x,y,w,h"):
        select_box(np.zeros((8, 8, 3), np.uint8))


def test_a_box_drawn_in_opencv_is_taken_and_an_empty_one_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_source, "has_screen", lambda: True)
    monkeypatch.setattr(cv2, "destroyWindow", lambda _: None)
    monkeypatch.setattr(cv2, "selectROI", lambda *_, **__: (3, 4, 5, 6))
    assert select_box(np.zeros((8, 8, 3), np.uint8)).tolist() == [3, 4, 5, 6]
    monkeypatch.setattr(cv2, "selectROI", lambda *_, **__: (0, 0, 0, 0))
    with pytest.raises(UserError, match="no box was drawn"):
        select_box(np.zeros((8, 8, 3), np.uint8))


def test_the_command_on_a_real_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = ROOT.parent / "shared" / "data" / "OTB_sample" / "Deer" / "img"
    if not frames.is_dir():
        pytest.skip("the OTB sample is not beside the project")
    monkeypatch.chdir(tmp_path)
    checkpoint = small_checkpoint(tmp_path / "checkpoint_e1.pth")
    assert call("track", [str(frames), "--init", "306,5,95,65", "--resume", str(checkpoint), "--max_frames", "4",
                          "--device", "cpu"]) == 0
    rows = rows_of(tmp_path / "result" / "video" / "Deer" / "Deer.csv")
    assert rows[0, 1:5].tolist() == [306, 5, 95, 65]
    assert len(rows) == 4
    assert (tmp_path / "result" / "video" / "Deer" / f"Deer{find_encoder()[1]}").stat().st_size > 1000


def test_wrong_flags_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("1.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"--lost.*1.5"):
        call("track", ["0", "--lost", "1.5"])
    with pytest.raises(UserError, match="--show"):
        call("track", ["0", "--show=no"])
    with pytest.raises(UserError, match=r"OceanSmal: .*did you mean OceanSmall"):
        call("track", [".", "--init", "1,2,3,4", "--resume", "OceanSmal"])
