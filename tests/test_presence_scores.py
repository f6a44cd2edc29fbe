"""How presence is judged, against numbers worked out by hand, and its files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from otb_trees import make_sequence, write_rows

from lib.benchmarks import load_benchmark, presence_file, read_presence, write_presence
from lib.commands import call
from lib.errors import UserError
from lib.eval_toolkit.presence import Frames, auroc, judge, long_term, max_geometric_mean, reliability
from lib.eval_toolkit.protocols import score_results


def frames(presence: list[float], overlap: list[float], absent: str = "") -> Frames:
    flags = [mark == "-" for mark in absent.ljust(len(overlap), "+")]
    return Frames(np.array(presence), np.array(overlap), np.array(flags))


def test_auroc_counts_pairs_and_ties_one_half() -> None:
    # Held 0.9, 0.5; lost 0.5, 0.7: of four pairs two are right, one is a tie, one is wrong.
    assert auroc(np.array([0.9, 0.5, 0.5, 0.7]), np.array([False, False, True, True])) == 2.5 / 4
    assert math.isnan(auroc(np.array([0.9]), np.array([False])))


def test_precision_and_recall_of_lost_frames() -> None:
    # Lost are frames 2 (overlap 0.05), 3 (absent) and 4; alarms are 2, 3 and 5: two of three either way.
    scores = judge(frames([0.9, 0.2, 0.1, 0.8, 0.3], [0.7, 0.05, 0, 0, 0.1], "++-++"))
    assert scores["lost_precision"] == scores["lost_recall"] == 2 / 3
    assert scores["auroc"] == 5 / 6  # only 0.8 beats a held frame's 0.3
    assert math.isnan(judge(frames([0.9], [0.7]))["lost_recall"])


def test_reliability_and_calibration_error() -> None:
    # Bin 0.2: presence 0.2 and 0.28, one of two held. Bin 0.9: 0.9 and 1.0, both held.
    given = frames([0.2, 0.28, 0.9, 1.0], [0, 0.5, 0.5, 0.5])
    mean, held, count = reliability(given)
    assert count.tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 0, 2]
    assert mean[2] == pytest.approx(0.24)
    assert held[[2, 9]].tolist() == [0.5, 1]
    assert judge(given)["calibration_error"] == pytest.approx((2 * 0.26 + 2 * 0.05) / 4)


def test_long_term_measures_by_hand() -> None:
    # Thresholds 0.9: precision 0.8, recall 0.8 / 2. 0.6: (0.8 + 0.4) / 2 and 1.2 / 2. Lower ones add zeros.
    scores = long_term([frames([0.9, 0.6, 0.3, 0.1], [0.8, 0.4, 0, 0], "++--")])
    assert (scores["lt_f"], scores["lt_precision"], scores["lt_recall"]) == pytest.approx((0.6, 0.6, 0.6))
    assert (scores["tpr"], scores["tnr"]) == (0.5, 1.0)  # an overlap of 0.4 is no hit
    assert scores["max_gm"] == pytest.approx(math.sqrt(0.5))
    # Two sequences: at 0.9 the second has no frame, so precision 1 and recall 0.
    two = long_term([frames([0.9], [1.0]), frames([0.5], [0.5])])
    assert two["lt_f"] == pytest.approx(0.75)  # at 0.5: precision and recall (1 + 0.5) / 2; at 0.9: 1 and 0.5
    assert math.isnan(two["tnr"])


def test_max_geometric_mean() -> None:
    assert max_geometric_mean(0.8, 0.0) == pytest.approx(math.sqrt(0.5 * 0.8 * 0.5))  # one half is turned to lost
    assert max_geometric_mean(0.8, 0.5) == pytest.approx(math.sqrt(0.4))  # p = 0 is best
    best = max(math.sqrt((1 - p) * 0.8 * ((1 - p) * 0.2 + p)) for p in np.linspace(0, 1, 10001))
    assert max_geometric_mean(0.8, 0.2) == pytest.approx(best, abs=1e-7)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder with a plain data set of one video, whose target is away in frame 4, and a result of it."""
    folder = make_sequence(tmp_path / "data", "Boat", count=5)
    (folder / "absent.txt").write_text("0\n0\n0\n1\n0\n")
    boxes = np.loadtxt(folder / "groundtruth_rect.txt", delimiter=",")
    boxes[2] += [500, 0, 0, 0]
    write_rows(tmp_path / "result" / "T" / "Boat.txt", boxes)
    write_presence(presence_file(tmp_path / "result" / "T", "Boat"), np.array([1, 0.9, 0.2, 0.1, 0.4]))
    return tmp_path


def evaluate(home: Path, *more: str) -> int:
    return call("eval", ["--dataset", "own", "--dataset_dir", str(home / "data"), "--tracker_result_dir",
                                str(home / "result"), *more])


def test_eval_prints_how_well_presence_tells(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(home, "--format", "json", "--vis", "--html", str(home / "page.html")) == 0
    (tracker,) = json.loads(capsys.readouterr().out)["trackers"]
    assert tracker["presence"]["auroc"] == 1.0
    assert tracker["presence"]["lost_precision"] == pytest.approx(2 / 3)
    assert tracker["presence"]["tnr"] == 1.0
    assert tracker["presence_by_sequence"]["Boat"]["lost_recall"] == 1.0
    assert (home / "result" / "_eval" / "presence.png").is_file()
    assert "Reliability of presence" in (home / "page.html").read_text(encoding="utf-8")
    assert evaluate(home, "--show_video_level") == 0
    assert "Presence by sequence" in capsys.readouterr().out


def test_presence_changes_no_other_score(home: Path) -> None:
    benchmark = load_benchmark("own", home / "data", images=False)
    told = score_results(benchmark, home / "result" / "T")
    presence_file(home / "result" / "T", "Boat").unlink()
    untold = score_results(benchmark, home / "result" / "T")
    assert told.presence
    assert not untold.presence
    assert told.values == untold.values


@pytest.mark.parametrize(("lines", "message"), [
    ("1\n0.5\n", "2 lines for 5 frames"), ("1\n0.5\n1.5\n0\n0\n", "line 3: 1.5; expected a probability"),
    ("1\nx\n", "expected one number per frame")])
def test_a_broken_presence_file_is_named(home: Path, lines: str, message: str) -> None:
    path = presence_file(home / "result" / "T", "Boat")
    path.write_text(lines)
    with pytest.raises(UserError, match=message) as error:
        score_results(load_benchmark("own", home / "data", images=False), home / "result" / "T")
    assert str(path) in str(error.value)
    assert read_presence(home / "nowhere", "Boat", frames=5) is None
