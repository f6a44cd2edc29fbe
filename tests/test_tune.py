"""Tuning: the study goes on where it stopped, gives up hopeless trials, and stamps what it found."""

from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tracker_stubs import PLAIN, Oracle, small_checkpoint, write_squares

from lib.benchmarks import write_result
from lib.commands import call
from lib.errors import UserError
from lib.eval_toolkit.protocols import score_results
from lib.images import read_image
from lib.options import TuneOptions
from lib.testing.results import RunRecord
from lib.tools.measure import follow_and_score, load_videos
from lib.tools.tune import (
    RANGES,
    SETTINGS,
    Line,
    OnChunk,
    Task,
    Values,
    _baseline,
    _work,
    _write,
    open_study,
    suggest,
    table,
)
from lib.tracker.ocean import OceanTracker
from lib.tracker.params import TrackerParams, load_tracker_params

optuna = pytest.importorskip("optuna", reason="the extra 'tune' is not installed")
UNTUNED = TrackerParams()


class Made(Task):
    """A task whose scores are a formula: best at penalty_k 0.1, and three videos."""

    calls = 0
    broken = False

    def __init__(self, start: TrackerParams = UNTUNED, *, peak: float = 0.1) -> None:
        self.peak = peak
        self.benchmark = SimpleNamespace(name="MINE", sequences=(1, 2, 3), expected=3)  # type: ignore[assignment]
        self.record = RunRecord(checkpoint=Path("checkpoint_e3.pth"), sha256="0", dataset="MINE",
                                data_source=Path("data"), params=start, params_source="somewhere")
        self.stamp = "MINE"

    @property
    def has_branch(self) -> bool:
        return False

    def scores(self, params: TrackerParams, on_chunk: OnChunk) -> Values:
        self.calls += 1
        if self.broken:
            raise KeyboardInterrupt
        success = 0.6 - 5 * abs(params.penalty_k - self.peak)
        for done in (1, 2, 3):
            on_chunk(done, {"success": success, "precision": success + 0.1})
        return {"success": success, "precision": success + 0.1}


def options(**changes: Any) -> TuneOptions:
    return TuneOptions(**{"seed": 1, "prune_after": 1, "dataset": "MINE", "resume": Path("checkpoint_e3.pth"),
                          **changes})


def opened(path: Path, **changes: object):
    return open_study(path / "study.db", options(**changes), checkpoint="abc", videos=["a", "b", "c"])


def test_a_study_goes_on_where_it_stopped_and_counts_all_its_trials(tmp_path: Path) -> None:
    task = Made()
    study = opened(tmp_path)
    _baseline(study, task, "untuned", UNTUNED)
    _work(study, task, 8)
    assert task.calls == 8  # the baseline is one of them
    task = Made()
    study = opened(tmp_path)
    assert _baseline(study, task, "untuned", UNTUNED).values["success"] == pytest.approx(0.6 - 5 * 0.038)
    assert task.calls == 0
    _work(study, task, 20)
    assert task.calls == 12
    _work(study, task, 20)
    assert task.calls == 12


def test_the_sampler_finds_the_peak_and_hopeless_trials_are_given_up(tmp_path: Path) -> None:
    study = opened(tmp_path)
    task = Made()
    untuned = _baseline(study, task, "untuned", UNTUNED)
    _work(study, task, 60)
    states = [trial.state.name for trial in study.get_trials()]
    assert states.count("PRUNED") >= 10
    assert study.best_value > untuned.values["success"] + 0.1
    assert abs(study.best_trial.params["penalty_k"] - 0.1) < 0.02


def test_two_processes_share_a_study(tmp_path: Path) -> None:
    first, second = opened(tmp_path, seed=1), opened(tmp_path, seed=2)
    _work(first, Made(), 3)
    _work(second, Made(), 5)
    assert len(first.get_trials()) == 5


def test_ctrl_c_keeps_the_study(tmp_path: Path) -> None:
    study, task = opened(tmp_path), Made()
    _baseline(study, task, "untuned", UNTUNED)
    task.broken = True
    with pytest.raises(KeyboardInterrupt):
        _work(study, task, 5)
    task.broken = False
    _work(opened(tmp_path), task, 5)
    assert len([trial for trial in study.get_trials() if trial.state.is_finished()]) >= 5


def test_a_study_of_something_else_is_refused(tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(UserError, match="a study with another dataset, amp; choose another --out"):
        opened(tmp_path, dataset="YOURS", amp="bf16")
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "study.db").write_text("not a database, but long enough to be looked at " * 50, encoding="utf-8")
    with pytest.raises(UserError, match="not a study of this Optuna"):
        opened(tmp_path / "no")


def test_what_was_found_is_written_with_its_stamp_and_the_untuned_score(tmp_path: Path) -> None:
    study, task = opened(tmp_path), Made()
    lines = [_baseline(study, task, "untuned", UNTUNED)]
    _work(study, task, 12)
    text = _write(tmp_path, study, task, lines)
    best = load_tracker_params(tmp_path / "best.yaml")
    assert best.tuned_on == "MINE"
    assert best.penalty_k == pytest.approx(study.best_trial.params["penalty_k"])
    written = (tmp_path / "best.yaml").read_text(encoding="utf-8")
    assert f"# untuned: success {lines[0].values['success']:.4f}, precision" in written
    assert "| untuned | 0.062 |" in text
    assert "| MINE |" in text
    assert "same videos" in text
    assert (tmp_path / "study.md").read_text(encoding="utf-8") == text + "\n"


def test_settings_in_force_compete_wherever_they_lie_and_the_best_are_never_worse(tmp_path: Path) -> None:
    start = TrackerParams(penalty_k=0.4003, lr=0.15, small_sz=287, tuned_on="elsewhere")
    for peak in (0.4003, 0.33):
        folder, task = tmp_path / str(peak), Made(start, peak=peak)
        study = opened(folder)
        lines = [_baseline(study, task, "before", start), _baseline(study, task, "untuned", UNTUNED)]
        assert study.trials[0].user_attrs["params"] == asdict(start)
        _work(study, task, 25)
        text = _write(folder, study, task, lines)
        best = load_tracker_params(folder / "best.yaml")
        gain = 5 * (abs(start.penalty_k - peak) - abs(best.penalty_k - peak))
        assert f"success {gain:+.3f} against them" in text
        assert f"success {gain:+.3f}" in (folder / "best.yaml").read_text(encoding="utf-8")
        if peak == start.penalty_k:
            assert best == start  # nothing was better: they stay as they are, with their own stamp
        else:
            assert gain > 0.05
            assert best.tuned_on == "MINE"
    searched = [trial.params["penalty_k"] for trial in study.trials]
    assert sum(value > RANGES["penalty_k"][1] for value in searched) > 3


def test_the_plots_are_one_page_without_the_network(tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="the extra 'tune' is not installed")
    study, task = opened(tmp_path), Made()
    _work(study, task, 6)
    _write(tmp_path, study, task, [_baseline(study, task, "untuned", UNTUNED)])
    page = (tmp_path / "study.html").read_text(encoding="utf-8")
    assert "Running score and pruning" in page
    assert "Which settings matter" in page
    assert 'src="http' not in page


def test_every_published_setting_lies_in_the_ranges() -> None:
    root = Path(__file__).resolve().parents[1] / "experiments" / "test"
    files = sorted(root.glob("*/Ocean*.yaml"))
    assert len(files) >= 11
    for path in files:
        params = load_tracker_params(path, online="Online" in path.name)
        probe = optuna.trial.FixedTrial({name: getattr(params, name) for name in SETTINGS if hasattr(params, name)})
        assert suggest(probe, type(params)(), has_branch=True) == replace(params, tuned_on="")


def test_chunks_are_scored_as_the_written_results_are(tmp_path: Path) -> None:
    write_squares(tmp_path / "MINE", {"A": 5, "B_1": 7})  # ends as the second tracker's number does
    benchmark = load_videos("MINE", tmp_path)
    tracker = OceanTracker(Oracle(), PLAIN)
    record = RunRecord(checkpoint=Path("c.pth"), sha256="0", dataset="MINE", data_source=benchmark.source)
    parts = list(follow_and_score([tracker, tracker], record, benchmark, [[video] for video in benchmark.sequences]))
    assert [done for done, _ in parts] == [1, 2]
    for video in benchmark.sequences:
        state = tracker.init(read_image(video.frames[0]), video.boxes_xywh[0])
        boxes = [video.boxes_xywh[0]]
        for path in video.frames[1:]:
            state = tracker.track(state, read_image(path))
            boxes.append(state.box_xywh)
        write_result(tmp_path / "r" / "T" / f"{video.name}.txt", np.array(boxes), dataset="MINE")
    written = score_results(benchmark, tmp_path / "r" / "T").headline
    assert parts[-1][1] == [pytest.approx(written)] * 2
    assert 0.5 < written["success"] < 1


def test_the_command_tunes_a_checkpoint_twice_over(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_squares(tmp_path / "dataset" / "MINE", {"A": 3, "B": 3})
    small_checkpoint(tmp_path / "checkpoint_e1.pth")
    command = ["--resume", "checkpoint_e1.pth", "--dataset", "MINE", "--trials", "2", "--device", "cpu", "--out", "t"]
    assert call("tune", command) == 0
    first = capsys.readouterr().out
    assert "| untuned |" in first
    found = load_tracker_params(tmp_path / "t" / "best.yaml")
    assert found.tuned_on == ("" if replace(found, tuned_on="") == UNTUNED else "MINE")
    assert call("tune", command) == 0  # nothing left to do
    assert capsys.readouterr().out == first


def test_wrong_commands_are_refused_in_one_line(tmp_path: Path) -> None:
    write_squares(tmp_path / "MINE", {"A": 2})
    with pytest.raises(UserError, match="only its server knows"):
        call("tune", ["--resume", "x.pth", "--dataset", "TrackingNet"])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out .*file/t: cannot be written"):
        call("tune", ["--resume", "gone.pth", "--out", str(tmp_path / "file" / "t")])
    with pytest.raises(UserError, match="no sequence 'X'; valid here: A"):
        load_videos("MINE", tmp_path, only=["X"])
    with pytest.raises(UserError, match="--trials"):
        call("tune", ["--resume", "x.pth", "--trials", "0"])


def test_the_table_compares_with_the_untuned_settings() -> None:
    lines = [Line("untuned", UNTUNED, {"eao": 0.4, "accuracy": 0.5}),
             Line("tuned", TrackerParams(penalty_k=0.1, tuned_on="X"), {"eao": 0.45, "accuracy": 0.55})]
    text = table(lines, dataset="X", notes=["note"])
    assert "| X eao | difference | accuracy | tuned on |" in text
    assert "| untuned | 0.062 | 0.765 | 0.38 | 255 | 255 | 0.94 | 0.400 |  | 0.500 | nothing |" in text
    assert "| tuned | 0.1 | 0.765 | 0.38 | 255 | 255 | 0.94 | 0.450 | +0.050 | 0.550 | X |" in text
