"""The scoring command as a user types it: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from otb_trees import boxes_of, make_sequence, shared, write_rows

from lib.commands import call
from lib.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "lib" / "eval_toolkit" / "bin" / "eval.py"
COMMAND = ["--dataset_dir", "dataset/OTB2015", "--dataset", "OTB2015", "--tracker_result_dir", "result/OTB2015",
           "--trackers", "Ocean"]  # fmt: skip


def main(argv: list[str]) -> int:
    return call("eval", argv)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with two sequences and two trackers: Ocean is right, Stone stands still."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("Deer", 71), ("Man", 134)):
        make_sequence(tmp_path / "dataset" / "OTB2015", name, count=count, images=[])
        rows = boxes_of(count)
        write_rows(tmp_path / "result" / "OTB2015" / "Ocean" / f"{name}.txt", rows)
        write_rows(tmp_path / "result" / "OTB2015" / "Stone" / f"{name}.txt", np.repeat(rows[:1], count, axis=0))
    return tmp_path


def run_script(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], cwd=folder, capture_output=True, text=True,
                          check=False)


def all_trackers(*more: str) -> list[str]:
    return [*COMMAND[:-1], "*", "--allow-missing", *more]


# The command word for word


def test_the_users_command(home: Path) -> None:
    done = run_script(home, *COMMAND, "--allow-missing")
    assert done.returncode == 0, done.stderr
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("Ocean"))
    assert row == ["Ocean", "0.952", "1.000", "1.000", "2/100", "205", "0", "0", "0", "0"]
    assert "convention pysot" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(("arguments", "message"), [
    (COMMAND, "98 of 100 sequences of OTB2015 are missing"),
    (["--dataset_dir", "none", *COMMAND[2:]], "none: no such folder"),
    (["--dataset_dir", "result", *COMMAND[2:]], "no ground truth of OTB2015"),
    ([*COMMAND[:4], "--tracker_result_dir", "none", "--trackers", "Ocean"], "none: no such folder"),
    ([*COMMAND[:4], "--tracker_result_dir", "empty", "--trackers", "Ocean"], "empty: no tracker's folder"),
    ([*COMMAND[:-1], "Oceann"], "did you mean 'Ocean'?"),
    ([*COMMAND, "--allow-missing", "--origin", "2"], "--origin 2: expected 0, 1"),
    ([*COMMAND, "--allow-missing", "--origin", "Moon=0"], "--origin Moon=0"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(home: Path, arguments: list[str], message: str) -> None:
    (home / "empty").mkdir()
    done = run_script(home, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(("content", "message"), [
    ("lost\n", "Deer.txt line 1: 'lost' is not a box"), ("", "Deer.txt: empty; expected 71 lines"),
    ("1,2,3,4\n", "Deer.txt: 1 rows for 71 frames"),
])  # fmt: skip
def test_a_broken_result_file_is_named(home: Path, content: str, message: str) -> None:
    (home / "result/OTB2015/Ocean/Deer.txt").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="Ocean") as raised:
        main([*COMMAND, "--allow-missing"])
    assert message in str(raised.value)


def test_a_folder_without_result_files(home: Path) -> None:
    (home / "result/OTB2015/Empty").mkdir()
    with pytest.raises(UserError, match="Empty: no result file of OTB2015"):
        main([*COMMAND[:-1], "Empty", "--allow-missing"])
    main(all_trackers())  # a glob passes it over


def test_negative_boxes_and_nan_are_counted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = boxes_of(71)
    rows[3] = np.nan
    rows[4, 2] = -5
    write_rows(home / "result/OTB2015/Ocean/Deer.txt", rows)
    main([*COMMAND, "--allow-missing", "--convention", "otb"])
    assert "Ocean: 2 broken boxes (Deer 2)\nOcean: 2 repaired boxes (Deer 2)\n" in capsys.readouterr().out


def test_torch_is_not_loaded(home: Path) -> None:
    code = ("import sys; from lib.commands import call; call('eval', sys.argv[1:]); "
            "sys.exit(3 if 'torch' in sys.modules else 0)")
    done = subprocess.run([sys.executable, "-c", code, *all_trackers("--vis", "--out", "plots")], cwd=home,
                          capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT), "HOME": str(home)})
    assert done.returncode == 0, done.stderr


# What is printed


def test_trackers_are_sorted_and_globbed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*COMMAND[:-1], "St*", "Ocean", "--allow-missing"])
    out = capsys.readouterr().out
    assert out.index("\nOcean ") < out.index("\nStone ")
    assert "Success by attribute" in out
    assert "Scores by sequence" not in out


def test_video_level(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(all_trackers("--show_video_level"))
    lines = capsys.readouterr().out.splitlines()
    row = next(line.split() for line in lines if line.startswith("Man "))
    assert row[:4] == ["Man", "134", "0.952", "1.000"]
    # Stone stands still while the target of 20 x 10 leaves at (1, 1) per frame: its centre is 20 px away by frame 15.
    assert float(row[5]) == round(15 / 134, 3)


def test_json_and_csv_hold_everything(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(all_trackers("--format", "json"))
    content = json.loads(capsys.readouterr().out)
    ocean, stone = content["trackers"]
    assert (ocean["tracker"], stone["tracker"]) == ("Ocean", "Stone")
    assert (content["convention"], content["expected"], content["sequences"]) == ("pysot", 100, 2)
    assert len(content["missing"]) == 98
    assert len(ocean["curves"]["success"]) == len(content["thresholds"]["overlap"]) == 21
    assert ocean["by_sequence"]["Deer"]["frames"] == 71
    assert ocean["by_attribute"]["Fast Motion"]["sequences"] == 1
    main(all_trackers("--format", "csv"))
    captured = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    assert {row["scope"] for row in rows} == {"all", "attribute", "sequence"}
    assert next(row["success"] for row in rows if row["scope"] == "all") == f"{20 / 21:.6f}"
    assert "2/100 sequences" in captured.err


def test_markdown_and_latex_mark_the_best_and_escape_names(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "result/OTB2015/Stone").rename(home / "result/OTB2015/a|b_$1&<i>")
    main(all_trackers("--format", "markdown"))
    out = capsys.readouterr().out
    assert "| Ocean | **0.952** | **1.000** |" in out
    assert "| a\\|b\\_$1&amp;&lt;i> | " in out
    main(all_trackers("--format", "latex"))
    out = capsys.readouterr().out
    assert r"Ocean & \textbf{0.952} & \textbf{1.000} &" in out
    assert r"a|b\_\$1\&<i> & " in out
    assert out.count(r"\begin{tabular}") == out.count(r"\end{tabular}") == 4


def test_a_spreadsheet_takes_no_name_for_a_formula(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "result/OTB2015/Stone").rename(home / "result/OTB2015/=1+1")
    main(all_trackers("--format", "csv"))
    assert "\n'=1+1,all," in capsys.readouterr().out


def test_vis_writes_plots_beside_the_results(home: Path) -> None:
    (home / "result/OTB2015/Stone").rename(home / "result/OTB2015/Stone_$x_{1}$")
    main(all_trackers("--vis"))
    written = sorted(path.name for path in (home / "result/OTB2015/_eval").iterdir())
    plots = ("attributes", "norm_precision", "precision", "precision_by_attribute", "success", "success_by_attribute")
    assert written == sorted([f"{name}.{suffix}" for name in plots for suffix in ("pdf", "png")]
                             + [f"scores.{suffix}" for suffix in ("csv", "json", "md", "tex", "txt")])
    assert (home / "result/OTB2015/_eval/success.png").read_bytes().startswith(b"\x89PNG")
    pdf = (home / "result/OTB2015/_eval/success.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/TrueType" in pdf or b"/CIDFontType2" in pdf
    assert b"/Type3" not in pdf  # publishers refuse it
    main(all_trackers())  # the folder of plots is no tracker


def test_plots_have_scores_in_their_legends_and_lines_that_differ_in_print(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    stamps: list[str] = []

    def keep(path: Path, figure: Any, stamp: str) -> Path:
        seen[path.name] = figure
        stamps.append(stamp)
        return path

    monkeypatch.setattr("lib.eval_toolkit.plots._save", keep)
    (home / "result" / "OTB2015" / "Ocean" / "run.json").write_text('{"tuned_on": "OTB2015"}', encoding="utf-8")
    main(all_trackers("--vis"))
    axes, = seen["success.pdf"].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["[0.952] Ocean", "[0.040] Stone"]
    assert len({line.get_linestyle() for line in axes.get_lines()}) == 2
    assert set(stamps) == {"Ocean: settings tuned on OTB2015"}
    small = {axes.get_title(): axes for axes in seen["success_by_attribute.pdf"].axes}
    assert small["Fast Motion (1)"].get_lines()[0].get_ydata()[0] == 1
    assert "Illumination Variation (1)" in small


def test_an_option_that_means_nothing_alone(home: Path) -> None:
    with pytest.raises(UserError, match=r"--embed: .* give --html FILE too"):
        main(all_trackers("--embed"))


def test_where_to_write_is_checked_before_anything_is_scored(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.eval_toolkit.cli.score_results", None)
    (home / "file").touch()
    for flag, path in (("--out", "file"), ("--html", "file/page.html"), ("--html", "result")):
        with pytest.raises(UserError, match=f"{flag} {path}: cannot be written"):
            main(all_trackers(flag, path))


def test_what_settings_were_tuned_on_stands_beside_every_score(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "result" / "OTB2015" / "Ocean" / "run.json").write_text('{"tuned_on": "OTB2015"}', encoding="utf-8")
    label = "Ocean (tuned on OTB2015)"
    for form in ("text", "markdown", "latex"):
        page = ["--html", "page.html"] if form == "text" else []
        assert main(all_trackers("--format", form, "--show_video_level", *page)) == 0
        tables, _, _ = capsys.readouterr().out.partition("convention pysot")
        assert tables.count(label) == tables.count("Ocean") == 6  # scores, lead, 2 x attributes, 2 x by sequence
        assert "Stone (tuned" not in tables
    written = (home / "page.html").read_text(encoding="utf-8")
    assert '"name":"Ocean"' in written  # in legends, where scores have to find room; the stamp stands above them, once
    assert '<p class="hint">Ocean: settings tuned on OTB2015</p>' in written
    main(all_trackers("--format", "csv"))
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {(row["tracker"], row["tuned_on"]) for row in rows} == {("Ocean", "OTB2015"), ("Stone", "")}
    main(all_trackers("--format", "json"))
    record = json.loads(capsys.readouterr().out)
    assert [tracker["tuned_on"] for tracker in record["trackers"]] == ["OTB2015", ""]


def test_several_processes_give_the_same(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(all_trackers("--format", "json"))
    alone = capsys.readouterr().out
    main(all_trackers("--format", "json", "--num", "2"))
    assert capsys.readouterr().out == alone


def test_the_origin_of_one_tracker(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, count in (("Deer", 71), ("Man", 134)):
        write_rows(home / "result/OTB2015/Zero" / f"{name}.txt", boxes_of(count) - np.array([1, 1, 0, 0]))
    main(all_trackers("--format", "json"))
    captured = capsys.readouterr()
    before = {t["tracker"]: t["success"] for t in json.loads(captured.out)["trackers"]}
    assert "Zero: first boxes lie 1 px left and above" in captured.err
    main(all_trackers("--format", "json", "--origin", "Zero=0"))
    after = {t["tracker"]: t["success"] for t in json.loads(capsys.readouterr().out)["trackers"]}
    assert before["Zero"] < after["Zero"] == pytest.approx(20 / 21)
    assert before["Ocean"] == after["Ocean"]


def test_trackers_on_different_sequences_cannot_be_compared(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "result/OTB2015/Stone/Man.txt").unlink()
    main(all_trackers())
    out = capsys.readouterr().out
    assert "Stone: no result of Man" in out
    assert "scored on different sequences" in out


def test_synthetic_folders_need_no_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_sequence(tmp_path / "data", "walk", count=9)
    write_rows(tmp_path / "res" / "Ocean" / "walk.txt", boxes_of(9))
    main(["--dataset_dir", str(tmp_path / "data"), "--dataset", "SYNTHETIC",
          "--tracker_result_dir", str(tmp_path / "res"), "--trackers", "Ocean"])
    assert "SYNTHETIC: 1/1 sequences, 9 frames" in capsys.readouterr().out


def test_published_trackers_in_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--dataset_dir", str(shared("otb_annotations")), "--dataset", "OTB2015", "--tracker_result_dir",
          str(shared("raw_results", "OTB2015")), "--trackers", "*", "--length", "fit"])
    out = capsys.readouterr().out
    found = [line.split()[:3] for line in out.splitlines()[3:8]]
    assert found == [["SiamBAN", "0.696", "0.910"], ["MDNet", "0.678", "0.909"], ["KCF", "0.477", "0.695"],
                     ["STRUCK", "0.461", "0.638"], ["TLD", "0.357", "0.501"]]
    assert "STRUCK: ClifBar has 329 rows for 472 frames: missing rows are failures" in out
    assert "10 invalid rows (Biker 7, Board 1, Crowds 1, Twinnings 1)" in out  # which sequences, not only how many
    assert "TLD: 15624 broken boxes (Human3 1511, RedTeam 812, Girl2 806, BlurCar1 741, Car4 658 and 71 more)" in out


def test_flat_mat_files_of_the_otb_toolkit_join_the_table(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    savemat = pytest.importorskip("scipy.io", reason="scipy is not installed").savemat
    for name, count in (("deer", 71), ("man", 134)):
        savemat(home / "result/OTB2015" / f"{name}_KCF.mat", {"results": {"res": boxes_of(count), "type": "rect"}})
    main(all_trackers("--format", "json"))
    trackers = {t["tracker"]: t["success"] for t in json.loads(capsys.readouterr().out)["trackers"]}
    assert trackers["KCF"] == trackers["Ocean"] == pytest.approx(20 / 21)
    assert set(trackers) == {"KCF", "Ocean", "Stone"}


def test_results_of_several_folders_come_into_one_table(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "others" / "OTB2015").mkdir(parents=True)
    (home / "result/OTB2015/Stone").rename(home / "others/OTB2015/Stone")
    two = [*COMMAND[:4], "--tracker_result_dir", "result/OTB2015", "others", "--allow-missing", "--trackers"]
    main([*two, "Ocean", "S*", "--vis"])
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()[3:5]] == ["Ocean", "Stone"]
    assert "wrote result/OTB2015/_eval/success.png" in captured.err
    with pytest.raises(UserError, match=r"result/OTB2015, others: no results of 'Stne'; .* mean 'Stone'"):
        main([*two, "Stne"])


def test_one_name_in_two_folders_is_one_tracker_only_with_the_same_files(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = [*COMMAND[:4], "--tracker_result_dir", "result/OTB2015", "others", "--allow-missing", "--trackers"]
    shutil.copytree(home / "result/OTB2015/Ocean", home / "others/OTB2015/Ocean")

    def names(tracker: str = "Ocean") -> list[str]:
        main([*two, tracker, "--format", "csv"])
        rows = csv.DictReader(io.StringIO(capsys.readouterr().out))
        return [row["tracker"] for row in rows if row["scope"] == "all"]

    assert names() == ["Ocean"]
    write_rows(home / "others/OTB2015/Ocean/Man.txt", boxes_of(134) + 2)
    assert names() == ["Ocean (result)", "Ocean (others)"]
    assert names("Ocean (others)") == ["Ocean (others)"], "a name of the table can be given"
    main([*two, "Ocean", "--origin", "Ocean (others)=0", "--labels", "Ocean (others)=Published"])
    assert "\nPublished " in capsys.readouterr().out


def test_labels_are_shown_and_records_keep_the_name(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = r"Ocean $\alpha$ <b>"
    main(all_trackers("--labels", f"Ocean={label}", "--html", "page.html", "--vis", "--show_video_level"))
    out = capsys.readouterr().out
    assert out.count(label) == 6
    assert "Lead of Ocean $" in out
    assert f'"id":"Ocean","name":"{label}"'.replace("\\", "\\\\").replace("<", "\\u003c") in (
        home / "page.html").read_text(encoding="utf-8")
    record = json.loads((home / "result/OTB2015/_eval/scores.json").read_text(encoding="utf-8"))
    assert [tracker["tracker"] for tracker in record["trackers"]] == ["Ocean", "Stone"]
    with pytest.raises(UserError, match="--labels Moon=x: expected NAME=Display with NAME one of Ocean, Stone"):
        main(all_trackers("--labels", "Moon=x"))
