"""Testing a checkpoint from the command line: flags, results, continuing, and every mistake with its one line."""

import functools
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from otb_trees import shared
from tracker_stubs import small_checkpoint, write_squares

from lib.benchmarks import load_benchmark, read_result
from lib.commands import call, parse
from lib.errors import UserError
from lib.files import sha256_of
from lib.testing.results import ResultFolder, fingerprint, record_of
from lib.testing.run import choose, tracker_name
from lib.testing.video import GREEN, YELLOW, BoxVideo, draw_caption, find_encoder
from lib.tracker.params import TrackerParams

ROOT = Path(__file__).resolve().parents[1]
main = functools.partial(call, "test")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a checkpoint and three of OTB2015's sequences."""
    write_squares(tmp_path / "dataset" / "OTB2015", {"Deer": 4, "Man": 3, "Girl": 5})
    small_checkpoint(tmp_path / "snapshot" / "checkpoint_e20.pth")
    monkeypatch.chdir(tmp_path)
    return tmp_path


SCRIPT = [sys.executable, str(ROOT / "tracking" / "test_ocean.py")]
COMMAND = ["--arch", "Ocean", "--resume", "snapshot/checkpoint_e20.pth", "--dataset", "OTB2015", "--align", "False"]


def written(folder: Path) -> dict[str, int]:
    """Return the time of each result, which changes when it is written again."""
    return {path.stem: path.stat().st_mtime_ns for path in sorted(folder.glob("*.txt"))}


def test_the_users_command_word_for_word(here: Path) -> None:
    done = subprocess.run(
        [*SCRIPT, *COMMAND], capture_output=True, text=True, check=False, cwd=here,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = here / "result" / "OTB2015" / "Ocean"
    assert sorted(path.stem for path in folder.glob("*.txt")) == ["Deer", "Girl", "Man"]
    lines = (folder / "Girl.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5
    # The first line is the ground truth, 1-based, comma separated.
    assert [float(v) for v in lines[0].split(",")] == [61, 51, 30, 30]
    assert "3 of 100 sequences" in done.stderr
    assert "Basketball" in done.stderr  # what is missing is named
    assert "frames/s in all" in done.stderr
    assert done.stderr.count("frames ") >= 3
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert run["identity"]["checkpoint_sha256"] == sha256_of(here / "snapshot" / "checkpoint_e20.pth")
    assert run["identity"]["tracker"]["penalty_k"] == 0.087
    assert run["identity"]["dataset"] == "OTB2015"
    assert run["identity"]["model"]["align"] is False
    wrong = subprocess.run([*SCRIPT, *COMMAND[:-1], "Maybe"], capture_output=True, text=True, check=False, cwd=here)
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 1
    assert "'Maybe' is neither True nor False" in wrong.stderr


def test_flags_are_real_booleans() -> None:
    options = parse("test", [*COMMAND, "--epoch_test", "True", "--online", "False", "--vis"])
    assert (options.align, options.epoch_test, options.vis, options.fresh) == (False, True, True, False)
    assert parse("test", ["--resume", "x.pth"]).align is None
    for bad in (["--align", "true"], ["--align", "1"], ["--batch", "0"], ["--amp", "fp8"], ["--nonsense", "1"]):
        with pytest.raises(UserError, match=bad[0]):
            parse("test", [*COMMAND, *bad])
    with pytest.raises(UserError, match="--resume"):
        main(["--arch", "Ocean"])


def test_names_of_result_folders() -> None:
    checkpoint = Path("snapshot/checkpoint_e7.pth")
    assert tracker_name("Ocean", checkpoint, epoch_test=False) == "Ocean"
    assert tracker_name("Ocean", checkpoint, epoch_test=True) == "Ocean_checkpoint_e7"
    assert tracker_name("Ocean", checkpoint, epoch_test=True, given="mine") == "mine"
    with pytest.raises(UserError, match="does not say its epoch"):
        tracker_name("Ocean", Path("OceanV.pth"), epoch_test=True)
    for given in ("../up", "a/b", ".hidden", ".."):
        with pytest.raises(UserError, match="plain folder name"):
            tracker_name("Ocean", checkpoint, epoch_test=False, given=given)


def test_missing_sequences_are_all_named_on_request(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--list_missing"]) == 0
    printed = capsys.readouterr()
    names = printed.out.splitlines()
    assert len(names) == 97
    assert {"Basketball", "Woman"} <= set(names)
    assert "97 of 100 missing" in printed.err
    assert "Woman" not in printed.err
    assert not (here / "result").exists()
    assert call("eval", ["--dataset", "OTB2015", "--dataset_dir", "dataset", "--tracker_result_dir",
                         str(results_of(here)), "--list_missing"]) == 0
    assert capsys.readouterr().out.splitlines() == names


def results_of(here: Path) -> Path:
    """Return a folder that holds the results of a tracker called T, empty ones."""
    (here / "others" / "T").mkdir(parents=True)
    (here / "others" / "T" / "Girl.txt").touch()
    return here / "others"


def test_a_second_run_does_only_what_is_missing(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    main([*COMMAND, "--epoch_test", "True"])
    folder = here / "result" / "OTB2015" / "Ocean_checkpoint_e20"
    first = written(folder)
    assert len(first) == 3
    expected = (folder / "Man.txt").read_bytes()
    main([*COMMAND, "--epoch_test", "True"])
    assert written(folder) == first
    (folder / "Man.txt").unlink()
    main([*COMMAND, "--epoch_test", "True"])
    second = written(folder)
    assert (folder / "Man.txt").read_bytes() == expected
    assert {name for name in first if first[name] != second[name]} == {"Man"}
    main([*COMMAND, "--epoch_test", "True", "--fresh"])
    assert not set(written(folder).items()) & set(second.items())
    # A sequence that has changed since is tested again, the others are not.
    third = written(folder)
    truth = here / "dataset" / "OTB2015" / "Deer" / "groundtruth_rect.txt"
    rows = truth.read_text(encoding="utf-8").splitlines()
    truth.write_text("\n".join(["62,52,30,30", *rows[1:]]) + "\n", encoding="utf-8")
    main([*COMMAND, "--epoch_test", "True"])
    fourth = written(folder)
    assert {name for name in third if third[name] != fourth[name]} == {"Deer"}


def test_results_of_another_checkpoint_are_never_reused(here: Path) -> None:
    main(COMMAND)
    folder = here / "result" / "OTB2015" / "Ocean"
    first = written(folder)
    other = small_checkpoint(here / "snapshot" / "checkpoint_e19.pth", seed=5)
    command = [*COMMAND]
    command[3] = "snapshot/checkpoint_e19.pth"
    with pytest.raises(UserError, match=r"checkpoint_e20\.pth.*not of .*checkpoint_e19\.pth.*--fresh"):
        main(command)
    assert written(folder) == first
    (here / "mine.yaml").write_text("TEST:\n  lr: 0.765\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"tracker\.lr 0\.408 instead of 0\.765"):
        main([*COMMAND, "--params", "mine.yaml"])
    # The same file under another name is the same checkpoint.
    (here / "copy.pth").write_bytes((here / "snapshot" / "checkpoint_e20.pth").read_bytes())
    main([*COMMAND[:3], "copy.pth", *COMMAND[4:]])
    assert written(folder) == first
    main([*command, "--fresh"])
    assert not set(written(folder).items()) & set(first.items())
    identity = json.loads((folder / "run.json").read_text(encoding="utf-8"))["identity"]
    assert identity["checkpoint_sha256"] == sha256_of(other)


def test_results_that_lie_under_another_name_of_the_data_set_are_read(here: Path) -> None:
    main(COMMAND)
    folder = (here / "result" / "OTB2015").rename(here / "result" / "OTB100") / "Ocean"
    run = json.loads((folder / "run.json").read_text())  # as an earlier version has written them
    run["identity"]["dataset"] = "OTB100"
    (folder / "run.json").write_text(json.dumps(run))
    key = hashlib.sha256(json.dumps(run["identity"], sort_keys=True).encode()).hexdigest()
    for receipt in (folder / ".run").glob("*.json"):
        receipt.write_text(json.dumps({**json.loads(receipt.read_text()), "run": key}))
    before = written(folder)
    assert len(before) == 3
    main(COMMAND)
    assert written(folder) == before
    assert [path.name for path in (here / "result").iterdir()] == ["OTB100"]


def test_fresh_leaves_no_result_of_the_old_checkpoint(here: Path) -> None:
    main(COMMAND)
    small_checkpoint(here / "snapshot" / "checkpoint_e20.pth", seed=5)
    main([*COMMAND, "--fresh", "--video", "Man"])
    assert list(written(here / "result" / "OTB2015" / "Ocean")) == ["Man"]


def test_results_of_unknown_origin_are_left_alone(here: Path) -> None:
    folder = here / "result" / "OTB2015" / "Ocean"
    folder.mkdir(parents=True)
    (folder / "Deer.txt").write_text("1,2,3,4\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"1 result\(s\) of unknown origin"):
        main(COMMAND)
    assert (folder / "Deer.txt").read_text(encoding="utf-8") == "1,2,3,4\n"
    main([*COMMAND, "--tracker_name", "Mine"])
    assert len(written(here / "result" / "OTB2015" / "Mine")) == 3


def test_a_result_counts_only_with_its_own_receipt(here: Path) -> None:
    sequence = load_benchmark("OTB2015", here / "dataset", images=True).sequences[0]
    record = record_of(here / "snapshot" / "checkpoint_e20.pth", model={"arch": "Ocean", "n": (1, 2)},
                       params=TrackerParams(), params_source="here", dataset="OTB2015", data_source=here)
    folder = ResultFolder(here / "out", record)
    folder.open(replace=False, replace_unknown=False)
    assert not folder.is_done(sequence)
    folder.save(sequence, sequence.boxes_xywh, seconds=2.5)
    assert folder.seconds(sequence) == 2.5
    assert np.allclose(read_result(here / "out" / f"{sequence.name}.txt", dataset="OTB2015"), sequence.boxes_xywh)
    # A kill between receipt and result, a receipt cut short, one of another run: each means "do it again".
    receipt = here / "out" / ".run" / f"{sequence.name}.json"
    content = json.loads(receipt.read_text(encoding="utf-8"))
    for text in ("", "{}", "[1]", json.dumps({**content, "run": "0"}), json.dumps({**content, "sequence": "0"})):
        receipt.write_text(text, encoding="utf-8")
        assert not folder.is_done(sequence)
    receipt.write_text(json.dumps(content), encoding="utf-8")
    assert folder.is_done(sequence)
    (here / "out" / f"{sequence.name}.txt").unlink()
    assert not folder.is_done(sequence)
    # The record survives its way through JSON, so a second start finds itself.
    assert ResultFolder(here / "out", record).open(replace=False, replace_unknown=False) == ""
    (here / "out" / "run.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="not a record of a run"):
        folder.open(replace=True, replace_unknown=True)


def test_the_fingerprint_sees_images_of_another_size(here: Path) -> None:
    before = load_benchmark("OTB2015", here / "dataset", images=True).sequences[0]
    old = fingerprint(before)
    assert fingerprint(before) == old
    cv2.imwrite(str(before.frames[0]), np.zeros((180, 240, 3), np.uint8))
    assert fingerprint(before) != old


def test_one_video_and_a_film_of_it(here: Path) -> None:
    main([*COMMAND, "--video", "girl", "--vis"])
    folder = here / "result" / "OTB2015" / "Ocean"
    assert list(written(folder)) == ["Girl"]
    film, = (folder / "vis").iterdir()
    assert film.name == f"Girl{find_encoder()[1]}"
    assert [frame.shape for frame in frames_of(cv2.VideoCapture(str(film)))] == [(180, 240, 3)] * 5
    twins = write_squares(here / "twins", {"Deer": 2, "deer": 3})
    assert [len(sequence) for sequence in choose(load_benchmark("twins", twins, images=False), "deer")] == [3]
    with pytest.raises(UserError, match=r"--video Gril: is no sequence of OTB2015.*did you mean Girl"):
        main([*COMMAND, "--video", "Gril"])
    with pytest.raises(UserError, match="--video Bolt: is missing from OTB2015"):
        main([*COMMAND, "--video", "Bolt"])


def frames_of(film: cv2.VideoCapture) -> list[np.ndarray]:
    frames = []
    while (frame := film.read())[0]:
        frames.append(frame[1])
    return frames


def test_a_film_shows_the_boxes_and_appears_when_it_is_whole(tmp_path: Path) -> None:
    film = BoxVideo(tmp_path / "vis" / "a")
    image = np.full((96, 128, 3), 60, np.uint8)
    for _ in range(3):
        film.write(image, {GREEN: [20, 30, 40, 50], YELLOW: [np.nan] * 4}, caption="a")
    film.write(np.full((100, 140, 3), 60, np.uint8), {})  # an image of another size is fitted in
    assert not film.path.exists()
    film.close()
    frames = frames_of(cv2.VideoCapture(str(film.path)))
    assert [frame.shape for frame in frames] == [(96, 128, 3)] * 4
    green = frames[1][..., 1].astype(int) - frames[1][..., 2]
    assert green[60, 20] > 60  # the left edge
    assert green[30, 40] > 60  # the top one
    assert abs(green[60, 40]) < 30  # inside
    assert (image == 60).all()


@pytest.mark.parametrize("size", [(96, 128), (480, 640), (1080, 1920)])
def test_a_caption_is_one_text_on_a_dark_box_inside_the_picture(size: tuple[int, int]) -> None:
    canvas = np.full((*size, 3), 255, np.uint8)  # white: a caption without its box could not be read
    draw_caption(canvas, "Girl 17/500  0.93")
    dark = (canvas < 60).all(axis=2)
    box = np.ones(size, bool)
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    assert (rows[0], columns[0]) == (0, 0)
    assert columns[-1] < size[1] - 1
    assert 10 <= rows[-1] <= size[0] / 5
    box[: rows[-1] + 1, : columns[-1] + 1] = False
    assert (canvas[box] == 255).all(), "nothing is drawn beside the box"
    inside = canvas[: rows[-1] + 1, : columns[-1] + 1]
    assert 0.03 < (inside > 200).mean() < 0.5


@pytest.mark.parametrize(("width", "lines"), [(640, 1), (160, 2), (100, 3)])
def test_a_long_caption_in_a_small_picture_is_broken_not_shrunk(
    monkeypatch: pytest.MonkeyPatch, width: int, lines: int
) -> None:
    drawn: list[tuple[str, float]] = []
    monkeypatch.setattr(cv2, "putText", lambda _canvas, text, _at, _font, scale, *_: drawn.append((text, scale)))
    canvas = np.full((120, width, 3), 255, np.uint8)
    text = "123  score 0.93 0.88 0.71  23.4 frames/s  LOST"
    draw_caption(canvas, text)
    assert " ".join(line for line, _ in drawn).split() == text.split()
    assert [scale for _, scale in drawn] == [0.4] * lines, "the smallest that can be read"
    assert (canvas[:, -1] == 255).all(), "the box ends inside the picture"


def test_videos_are_of_a_form_that_browsers_play(tmp_path: Path) -> None:
    code, suffix = find_encoder()
    film = BoxVideo(tmp_path / "Girl.mp4")
    film.write(np.zeros((64, 96, 3), np.uint8), {})
    film.close()
    assert [path.name for path in tmp_path.iterdir()] == [f"Girl{suffix}"]
    written = int(cv2.VideoCapture(str(film.path)).get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode()
    assert written.lower() == {"avc1": "h264", "mp4v": "fmp4"}.get(code, code).lower()


def test_it_is_said_where_no_encoder_is_one_for_browsers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lib.testing.video.ENCODERS", (("none", ".mp4"), ("mp4v", ".mp4")))
    assert find_encoder.__wrapped__() == ("mp4v", ".mp4")
    assert "no video encoder here that browsers know" in caplog.text


def test_gray_images_and_several_sequences_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_squares(tmp_path / "GRAY", {"one": 4, "two": 6, "three": 3}, gray=True)
    small_checkpoint(tmp_path / "checkpoint_e20.pth")
    command = ["--resume", "checkpoint_e20.pth", "--dataset", "GRAY", "--dataset_dir", "."]
    main([*command, "--tracker_name", "alone"])
    main([*command, "--tracker_name", "together", "--batch", "3", "--threads", "2"])
    for name in ("one", "two", "three"):
        files = [Path("result", "GRAY", tracker, f"{name}.txt") for tracker in ("alone", "together")]
        alone, together = (read_result(file, dataset="GRAY") for file in files)
        assert np.abs(alone - together).max() < 1e-3


def test_a_missing_image_is_named(here: Path) -> None:
    image = here / "dataset" / "OTB2015" / "Man" / "img" / "0002.jpg"
    data = image.read_bytes()
    image.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"Man: frame 2 of 3 \(0002\.jpg\): .*0002\.jpg: a JPEG that is cut short"):
        main(COMMAND)
    image.unlink()
    with pytest.raises(UserError, match="Man"):
        main(COMMAND)
    # What was finished before is kept, and the next run goes on.
    image.write_bytes(data)
    main(COMMAND)
    assert len(written(here / "result" / "OTB2015" / "Ocean")) == 3


def test_a_network_that_overflows_names_sequence_and_frame(here: Path) -> None:
    small_checkpoint(here / "bad.pth", scale=1e30)
    with pytest.raises(UserError, match=r"\w+: frame 2 of \d \(0002.jpg\): the network returned NaN or infinity"):
        main(["--resume", "bad.pth"])
    assert not written(here / "result" / "OTB2015" / "Ocean")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--resume", "none.pth"], "none.pth: no such checkpoint"),
        (["--arch", "Oceam"], "--arch Oceam: no such architecture; did you mean Ocean"),
        (["--dataset_dir", "nowhere"], "nowhere: no such folder"),
        (["--dataset", "OTB2051"], "OTB2051"),
        (["--align", "True"], "without the object-aware branch"),
        (["--device", "cuda:99"], "--device cuda:99: not there"),
        (["--device", "gpu"], "--device gpu: not there; expected cpu"),
        (["--params", "none.yaml"], "none.yaml"),
    ],
)
def test_mistakes_have_one_clear_line(here: Path, flags: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        main([*COMMAND, *flags])
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_object_aware_checkpoint_runs_with_and_without_the_branch(here: Path) -> None:
    small_checkpoint(here / "aligned.pth", align=True)
    main(["--resume", "aligned.pth", "--video", "Deer", "--align", "True", "--tracker_name", "with"])
    main(["--resume", "aligned.pth", "--video", "Deer", "--align", "False", "--tracker_name", "without"])
    main(["--resume", "aligned.pth", "--video", "Deer", "--tracker_name", "default"])
    results = [Path("result", "OTB2015", name, "Deer.txt").read_bytes() for name in ("with", "without", "default")]
    assert results[0] == results[2] != results[1]


def test_real_sequences_of_otb(tmp_path: Path) -> None:
    folder = shared("OTB_sample")
    small_checkpoint(tmp_path / "checkpoint_e1.pth")
    main(["--resume", str(tmp_path / "checkpoint_e1.pth"), "--dataset_dir", str(folder), "--video", "Deer",
          "--result_dir", str(tmp_path)])
    boxes = read_result(tmp_path / "OTB2015" / "Ocean" / "Deer.txt", dataset="OTB2015")
    assert boxes.shape == (71, 4)
    assert boxes[0].tolist() == [305, 4, 95, 65]
