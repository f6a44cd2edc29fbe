"""Reading VOT data sets and results, scoring them from the command line, and the real result files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from vot_trees import VOT_DATA, make_video, square, write_result

from lib.benchmarks import VOTSequence, load_benchmark
from lib.benchmarks.facts import EAO_INTERVALS, VOT_NAMES as NAMES
from lib.benchmarks.vot import (
    FAILURE,
    INIT,
    REGION,
    UNKNOWN,
    find_trajectories,
    read_trajectory,
    trajectory_file,
    write_trajectory,
)
from lib.commands import call
from lib.errors import UserError
from lib.eval_toolkit.protocols import score_results

DIAMOND = [30, 10, 50, 30, 30, 50, 10, 30]


def one(root: Path, dataset: str = "VOT2018", *, images: bool = False) -> VOTSequence:
    sequence, = load_benchmark(dataset, root, images=images).sequences
    assert isinstance(sequence, VOTSequence)
    return sequence


def test_the_years_have_their_names_and_intervals() -> None:
    assert {name: len(set(names)) for name, names in NAMES.items()} == dict.fromkeys(EAO_INTERVALS, 60)
    assert EAO_INTERVALS["VOT2018"] == (100, 356)


@pytest.mark.parametrize("colour_folder", [True, False])
def test_an_official_folder_is_read(tmp_path: Path, colour_folder: bool) -> None:
    make_video(tmp_path / "VOT2018", "bag", [DIAMOND, square(5, 6), [1, 2, 30, 40]], images=True,
               tags={"occlusion": "010", "illum_change": "00"}, colour_folder=colour_folder)
    benchmark = load_benchmark("vot2018", tmp_path, images=True)
    sequence = one(tmp_path, images=True)
    assert (benchmark.name, benchmark.expected, len(benchmark.missing)) == ("VOT2018", 60, 59)
    assert [frame.name for frame in sequence.frames] == [f"{i:08d}.jpg" for i in (1, 2, 3)]
    assert sequence.image_wh == (120, 80)
    # The diamond's side is sqrt(800), its box 40 x 40: scaled to that side, plus 1. A row of 4 is the box itself.
    side = np.sqrt(800) + 1
    assert sequence.boxes_xywh[0] == pytest.approx([30 - side / 2, 30 - side / 2, side, side])
    assert sequence.boxes_xywh[2].tolist() == [1, 2, 30, 40]
    assert sequence.regions[2].tolist() == [[1, 2], [31, 2], [31, 42], [1, 42]]
    assert sequence.tags["occlusion"].tolist() == [False, True, False]
    assert sequence.attributes == ("occlusion",)
    assert benchmark.notes == ("bag: illum_change is told for 2 of 3 frames; taken as 0 in the rest",)


def test_a_declared_size_and_the_other_year_serve(tmp_path: Path) -> None:
    folder = make_video(tmp_path / "VOT2017", "bag", [DIAMOND])
    assert one(tmp_path).image_wh is None
    assert "size is unknown" in load_benchmark("VOT2018", tmp_path, images=False).notes[0]
    folder.joinpath("sequence").write_text("name=bag\nwidth=640\nheight=480\n")
    assert one(tmp_path).image_wh == (640, 480)


def test_a_json_is_read(tmp_path: Path) -> None:
    make_video(tmp_path / "VOT2018", "bag", [DIAMOND, DIAMOND], images=True)
    entry = {"gt_rect": [DIAMOND, DIAMOND], "img_names": ["bag/color/00000001.jpg", "bag/color/00000002.jpg"],
             "camera_motion": [1, 0], "occlusion": []}
    tmp_path.joinpath("VOT2018", "VOT2018.json").write_text(json.dumps({"bag": entry, "unheard": entry}))
    sequence = one(tmp_path, images=True)
    assert len(sequence.frames) == 2
    assert set(sequence.tags) == {"camera_motion"}
    entry["img_names"][1] = "bag/color/9.jpg"
    tmp_path.joinpath("VOT2018", "VOT2018.json").write_text(json.dumps({"bag": entry}))
    with pytest.raises(UserError, match=r"bag/color/9\.jpg: no such frame"):
        one(tmp_path, images=True)


@pytest.mark.parametrize(("text", "message"), [
    ("1,2,3\n", r"groundtruth\.txt line 1: '1,2,3'.* expected 4 or 8"),
    ("1,2,3,4\n1,2,nan,4\n", "line 2"), ("", "no boxes"), ("a,b,c,d\n", "line 1"),
])
def test_broken_ground_truth_is_named(tmp_path: Path, text: str, message: str) -> None:
    make_video(tmp_path, "bag", [DIAMOND]).joinpath("groundtruth.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        load_benchmark("VOT2018", tmp_path, images=False)


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no ground truth of VOT2018"):
        load_benchmark("VOT2018", tmp_path, images=False)
    make_video(tmp_path, "bag", [DIAMOND, DIAMOND], images=True)
    tmp_path.joinpath("bag", "color", "00000002.jpg").unlink()
    with pytest.raises(UserError, match="2 boxes for 1 images"):
        load_benchmark("VOT2018", tmp_path, images=True)
    tmp_path.joinpath("bag", "occlusion.tag").write_text("0\n7\n")
    with pytest.raises(UserError, match=r"occlusion\.tag: expected one line per frame, 0 or 1"):
        load_benchmark("VOT2018", tmp_path, images=False)


def test_a_result_is_written_and_read_back(tmp_path: Path) -> None:
    codes = np.array([INIT, REGION, FAILURE, UNKNOWN], np.int8)
    boxes = np.full((4, 4), np.nan)
    boxes[1] = [1.25, 2, 3, 4]
    path = trajectory_file(tmp_path / "Ocean", "bag")
    assert path.relative_to(tmp_path).as_posix() == "Ocean/baseline/bag/bag_001.txt"
    write_trajectory(path, codes, boxes)
    assert path.read_text() == "1\n1.2500,2.0000,3.0000,4.0000\n2\n0\n"
    back = read_trajectory(path)
    assert np.array_equal(back.codes, codes)
    assert back.failures.tolist() == [2]
    assert back.regions[1].tolist() == [[1.25, 2], [4.25, 2], [4.25, 6], [1.25, 6]]
    path.write_text("1\n7\n")
    with pytest.raises(UserError, match="line 2: code 7"):
        read_trajectory(path)


def test_scores_of_a_small_set_by_hand(tmp_path: Path) -> None:
    # 12 frames, the box right in all that count, so accuracy 1; in the second run half of them (21 x 21 pixels, 11
    # columns shared: 11 / 31).
    make_video(tmp_path / "VOT2019", "agility", [square(20, 20)] * 12, images=True)
    good = [1, *[[20, 20, 20, 20]] * 11]
    write_result(tmp_path / "result" / "T", "agility", good)
    benchmark = load_benchmark("VOT2019", tmp_path, images=False)
    scores = score_results(benchmark, tmp_path / "result" / "T", allow_missing=True)
    assert scores.frames == (12,)
    assert {**scores.values, "eao": 0} == {"accuracy": 1, "lost_number": 0, "robustness": 0, "eao": 0}
    assert math.isnan(scores.values["eao"])  # shorter than the interval
    assert scores.headline["eao"] == 0
    assert scores.curves["eao"][1:] == pytest.approx(np.ones(11))
    write_result(tmp_path / "result" / "T", "agility", [1, *[[30, 20, 20, 20]] * 10, 2], repetition=2)
    scores = score_results(benchmark, tmp_path / "result" / "T", allow_missing=True)
    assert scores.counts["runs"] == len(find_trajectories(tmp_path / "result" / "T", "agility")) == 2
    # Frame 11 of the first run, 10 of both.
    assert scores.values["accuracy"] == pytest.approx((1 + (1 + 11 / 31) / 2) / 2)
    assert scores.values["robustness"] == pytest.approx(100 * 0.5 / 12)


def test_what_is_odd_is_said(tmp_path: Path) -> None:
    make_video(tmp_path / "VOT2019", "agility", [square(20, 20)] * 12)
    write_result(tmp_path / "T", "agility", [1, *[[70, 20, 20, 20]] * 20])
    benchmark = load_benchmark("VOT2019", tmp_path, images=False)
    scores = score_results(benchmark, tmp_path / "T", allow_missing=True)
    assert "11 of 11 boxes do not touch the ground truth" in scores.notes[0]
    assert (scores.mismatches[0].expected, scores.mismatches[0].found) == (12, 21)
    with pytest.raises(UserError, match="59 of 60 sequences of VOT2019 are missing"):
        score_results(benchmark, tmp_path / "T")
    with pytest.raises(UserError, match=r"nobody: no result file of VOT2019 .* baseline/agility/agility_001\.txt"):
        score_results(benchmark, tmp_path / "nobody", allow_missing=True)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_video(tmp_path / "VOT2019", "girl", [square(20, 20)] * 60, images=True, tags={"occlusion": "01" * 30})
    write_result(tmp_path / "result" / "VOT2019" / "Ocean", "girl", [1, *[[20, 20, 20, 20]] * 59])
    command = ["--dataset_dir", str(tmp_path), "--dataset", "VOT2019", "--tracker_result_dir", str(tmp_path / "result"),
               "--allow-missing"]
    assert call("eval", [*command, "--show_video_level", "--vis", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    row = next(line.split() for line in printed.splitlines() if line.startswith("Ocean"))
    assert row == ["Ocean", "1.000", "1.000", "0.000", "0.0", "1/60", "60", "1", "0"]
    assert "EAO over lengths 46 to 291" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"scores.json", "scores.csv", "eao.png"}
    record = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert record["trackers"][0]["eao_by_attribute"]["occlusion"] == pytest.approx(1)
    assert record["trackers"][0]["eao_by_attribute"]["illum_change"] is None
    with pytest.raises(UserError, match="--convention: means nothing for VOT2019"):
        call("eval", [*command, "--convention", "otb"])


# Real data


def test_real_results_score_as_the_loops_of_the_toolkit_do() -> None:
    """Score other people's 60 result files on VOT2019.

    The reference was computed by a line-by-line transcription of the pysot toolkit's loops, kept outside the project.
    The numbers that were published beside these files (EAO 0.327, accuracy 0.591, lost number 75) cannot be theirs:
    the lost number is the count of rows that say "2", and there are 82; and fish1 has 436 rows for 366 frames.
    """
    folder = VOT_DATA / "raw_results" / "VOT2019" / "Ocean"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    benchmark = load_benchmark("VOT2019", VOT_DATA / "vot_annotations", images=False)
    assert (len(benchmark.sequences), benchmark.num_frames) == (60, 19935)
    scores = score_results(benchmark, folder)
    rows = [line for path in folder.glob("baseline/*/*.txt") for line in path.read_text().split()]
    assert scores.values["lost_number"] == rows.count("2") == 82
    assert scores.values["accuracy"] == pytest.approx(0.57947, abs=5e-5)
    assert scores.values["robustness"] == pytest.approx(100 * 82 / 19935)
    assert scores.values["eao"] == pytest.approx(0.2973, abs=5e-5)
    expected = {"camera_motion": 0.3828, "illum_change": 0.2751, "motion_change": 0.1573,
                "size_change": 0.5141, "occlusion": 0.2736, "empty": 0.0537}
    assert {tag: scores.by_attribute[tag].values["eao"] for tag in expected} == pytest.approx(expected, abs=5e-5)
    assert [note.split(":")[0] for note in scores.notes] == ["fish1"]
    exact = score_results(benchmark, folder, overlap="exact")
    assert exact.values["eao"] == pytest.approx(0.29655, abs=5e-6)


def test_the_real_video_is_read() -> None:
    if not (VOT_DATA / "VOT_sample").is_dir():
        pytest.skip("no VOT_sample")
    sequence = one(VOT_DATA / "VOT_sample", images=True)
    assert (sequence.name, len(sequence), sequence.image_wh) == ("bag", 196, (480, 360))
