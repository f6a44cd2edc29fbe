"""The sweep: locks, shared work, what survives a kill, scores, TensorBoard, and running it again."""

import csv
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tracker_stubs import small_checkpoint, small_model, write_squares

from lib.checkpoint import read_checkpoint, save_checkpoint
from lib.commands import call, parse
from lib.errors import UserError
from lib.eval_toolkit.protocols import ONE_PASS, ScoreSummary
from lib.options import SweepOptions
from lib.testing import sweep as launch
from lib.testing.results import WorkLocks
from lib.testing.sweep_plan import find_entries, missing_epochs, training_run

ROOT = Path(__file__).resolve().parents[1]
main, one_checkpoint = functools.partial(call, "sweep"), functools.partial(call, "test")
SIZES = {"Deer": 6, "Man": 4, "Girl": 8}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two checkpoints and three of OTB2015's sequences."""
    write_squares(tmp_path / "dataset" / "OTB2015", SIZES)
    for epoch in (1, 2):
        small_checkpoint(tmp_path / "snapshot" / f"checkpoint_e{epoch}.pth", seed=epoch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(root: Path, *, base: str = "result") -> dict[str, bytes]:
    folder = root / base / "OTB2015"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*.txt"))}


def times(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted((root / "result" / "OTB2015").glob("*/*.txt"))}


# ---- locks


def of_another_machine(path: Path, *, lasts: float) -> None:
    """Write the lock of a process on another machine."""
    path.write_text(f"filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken=x\nduration={lasts!r}\n", encoding="utf-8")


def test_one_of_many_takes_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "new" / "Deer.lock"
    owners = [WorkLocks() for _ in range(8)]
    taken: list[WorkLocks] = []
    threads = [threading.Thread(target=lambda o=o: o.take(path) and taken.append(o)) for o in owners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    other = next(owner for owner in owners if owner is not taken[0])
    assert not taken[0].take(path), "it is at work on it"
    assert not other.is_free(path)
    other.release(path)  # not its own: nothing happens
    assert path.exists()
    taken[0].release(path)
    assert other.is_free(path)
    assert other.take(path)


def test_locks_are_given_back_at_the_end_also_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with WorkLocks() as locks:
            assert locks.take(tmp_path / "a.lock")
            raise UserError("broken image")

    with pytest.raises(UserError):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="only Linux tells at once that a process is dead")
def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    code = ("import sys; from pathlib import Path; from lib.testing.results import WorkLocks; locks = WorkLocks(); "
            "assert locks.take(Path(sys.argv[1])); print('taken', flush=True); sys.stdin.read()")
    path = tmp_path / "a.lock"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline().strip() == b"taken"
        mine = WorkLocks()
        assert not mine.take(path)
        owner.kill()
        owner.wait()
        assert mine.take(path)
    assert not WorkLocks().is_free(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.lock"]


def test_a_lock_from_another_machine_counts_while_it_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    of_another_machine(path, lasts=0.5)
    mine = WorkLocks(stale_after=0.5)
    for _ in range(6):
        assert not mine.take(path)
        time.sleep(0.1)
        os.utime(path)
    deadline = time.monotonic() + 30
    while not mine.is_free(path):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert mine.take(path)
    # An empty file is a lock whose owner died between making and filling it.
    empty = tmp_path / "b.lock"
    empty.touch()
    assert not mine.take(empty)
    deadline = time.monotonic() + 30
    while not mine.take(empty):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_held_lock_is_touched(tmp_path: Path) -> None:
    with WorkLocks(stale_after=0.12) as locks:
        path = tmp_path / "a.lock"
        locks.take(path)
        before = path.stat().st_mtime_ns
        deadline = time.monotonic() + 30
        while path.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            time.sleep(0.02)


# ---- which checkpoints


def test_entries_by_range_pattern_and_name(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("checkpoint_e12.pth", "checkpoint_e3_s400.pth", "other.pth"):
        (here / "snapshot" / name).touch()
    (here / "more").mkdir()
    (here / "more" / "checkpoint_e2.pth").touch()

    def found(*flags: str) -> list[str]:
        return [entry.name for entry in find_entries(parse("sweep", flags))]

    assert found() == ["Ocean_checkpoint_e1", "Ocean_checkpoint_e2", "Ocean_checkpoint_e12"]
    assert found("--start_epoch", "2", "--end_epoch", "11") == ["Ocean_checkpoint_e2"]
    assert found("--checkpoints", "snapshot/checkpoint_e*2.pth") == ["Ocean_checkpoint_e2", "Ocean_checkpoint_e12"]
    assert found("--checkpoints", "snapshot/other.pth", "snapshot/checkpoint_e1.pth") == [
        "Ocean_checkpoint_e1", "Ocean_other",
    ]  # fmt: skip
    options = parse("sweep", ["--start_epoch", "1", "--end_epoch", "4"])
    assert missing_epochs(options, find_entries(options)) == [3, 4]
    with pytest.raises(UserError, match="both write to Ocean_checkpoint_e2"):
        found("--checkpoints", "snapshot/checkpoint_e2.pth", "more/checkpoint_e2.pth")
    with pytest.raises(UserError, match="--checkpoints gone"):
        found("--checkpoints", "gone*.pth")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--start_epoch", "5", "--end_epoch", "3"], "--start_epoch 5 comes after --end_epoch 3"),
        (["--start_epoch", "0"], "--start_epoch"),
        (["--watch", "--checkpoints", "a"], "leave --checkpoints out"),
        (["--snapshot", "nowhere"], "--snapshot nowhere: no such folder"),
        (["--start_epoch", "7"], "no checkpoint_e<N>.pth of the epochs asked for"),
        (["--gpus", "97"], "--gpus: no CUDA device 97"),
        (["--gpus", "a"], "--gpus a: expected device numbers"),
        (["--arch", "OceanONNX"], "has no epochs"),
    ],
)
def test_mistakes_have_one_clear_line(here: Path, flags: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        main(flags)
    assert line in str(caught.value)


# ---- the sweep


def test_a_sweep_equals_testing_one_by_one_and_runs_only_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for epoch in (1, 2):
        checkpoint = f"snapshot/checkpoint_e{epoch}.pth"
        one_checkpoint(["--resume", checkpoint, "--epoch_test", "True", "--result_dir", "alone"])
    assert main(["--arch", "Ocean", "--dataset", "OTB2015"]) == 0
    first = capsys.readouterr().out
    assert results(here) == results(here, base="alone")
    assert len(results(here)) == 6
    assert "(best)" in first
    before = times(here)
    assert main(["--arch", "Ocean", "--dataset", "OTB2015"]) == 0
    assert times(here) == before
    assert capsys.readouterr().out == first
    assert not list((here / "result").rglob("*.lock"))
    # What test_ocean.py made for an epoch counts too.
    assert main(["--result_dir", "alone"]) == 0
    assert main(["--fresh"]) == 0
    assert not set(times(here).items()) & set(before.items())


def test_sequences_and_checkpoints_side_by_side_give_the_same_boxes(here: Path) -> None:
    main([])
    main(["--batch", "3", "--together", "2", "--result_dir", "beside"])
    one, many = results(here), results(here, base="beside")
    assert one.keys() == many.keys()
    for name in one:
        rows = [[float(v) for v in line.split(",")] for line in one[name].decode().split()]
        other = [[float(v) for v in line.split(",")] for line in many[name].decode().split()]
        assert rows == [pytest.approx(row, abs=2e-3) for row in other]


def test_the_table_is_written_in_every_form(here: Path) -> None:
    main(["--end_epoch", "2", "--start_epoch", "1"])
    base = here / "result" / "OTB2015"
    table = json.loads((base / "Ocean_epochs.json").read_text(encoding="utf-8"))
    assert [row["epoch"] for row in table["checkpoints"]] == [1, 2]
    best = max(table["checkpoints"], key=lambda row: (row["success"], row["precision"]))
    assert table["best"] == best["name"]
    assert table["convention"] == "pysot"
    rows = list(csv.DictReader((base / "Ocean_epochs.csv").read_text(encoding="utf-8").splitlines()))
    assert [float(row["success"]) for row in rows] == pytest.approx(
        [row["success"] for row in table["checkpoints"]], abs=1e-6)
    assert rows[0]["sha256"] == table["checkpoints"][0]["sha256"]
    assert rows[0]["tuned_on"] == table["checkpoints"][0]["tuned_on"] == "OTB2015"  # as experiments/test/OTB2015 says
    markdown = (base / "Ocean_epochs.md").read_text(encoding="utf-8")
    assert f"{best['success']:.3f}" in markdown
    assert "3/100" in markdown
    assert markdown.count("best") == 1
    assert markdown.partition("97 of 100 missing")[0].count("(tuned on OTB2015)") >= 2
    page = (base / "Ocean_epochs.html").read_text(encoding="utf-8")
    assert "Ocean_checkpoint_e1" in page
    assert "Ocean_checkpoint_e2" in page


def test_the_best_is_the_one_of_the_highest_first_score() -> None:
    def rank(**values: float) -> tuple[float, ...]:
        return ScoreSummary(scoring=ONE_PASS, tracker="T", names=(), frames=(), values=values, curves={},
                            by_sequence={}, expected=1, missing=()).rank

    assert rank(success=0.6, precision=0.7) < rank(success=0.5, precision=0.9)
    assert rank(success=0.6, precision=0.9) < rank(success=0.6, precision=0.7)
    # Failures count the other way, and a score that cannot be told comes last.
    assert rank(eao=0.3, accuracy=0.5, robustness=1.0) < rank(eao=0.3, accuracy=0.5, robustness=2.0)
    assert rank(eao=0.0, accuracy=0.1) < rank(eao=float("nan"), accuracy=0.5)


def test_a_test_set_that_only_its_server_scores_cannot_be_swept(here: Path) -> None:
    with pytest.raises(UserError, match="only its server knows the ground truth"):
        main(["--dataset", "GOT10K"])


def test_settings_beside_a_checkpoint_are_those_of_its_results(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "snapshot" / "checkpoint_e2.yaml").write_text("TEST: {lr: 0.25, tuned_on: held-out videos}")
    assert main([]) == 0
    results = here / "result" / "OTB2015"
    runs = [json.loads((results / f"Ocean_checkpoint_e{n}" / "run.json").read_text()) for n in (1, 2)]
    assert [(run["identity"]["tracker"]["lr"], run["tuned_on"]) for run in runs] == [
        (0.408, "OTB2015"), (0.25, "held-out videos")]
    table = json.loads((results / "Ocean_epochs.json").read_text())
    assert {row["epoch"]: row["tuned_on"] for row in table["checkpoints"]} == {1: "OTB2015", 2: "held-out videos"}
    assert "checkpoint_e2.yaml" in capsys.readouterr().out
    before = times(here)
    assert main([]) == 0
    assert times(here) == before


def test_a_changed_checkpoint_or_setting_is_redone_and_said(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    main([])
    before = times(here)
    small_checkpoint(here / "snapshot" / "checkpoint_e2.pth", seed=9)
    capfd.readouterr()
    main([])
    said = capfd.readouterr().err
    assert "Ocean_checkpoint_e2: holds results of checkpoint" in said
    assert "3 result(s) removed, to be done again" in said
    after = times(here)
    assert {Path(path).parent.name for path in before if before[path] != after[path]} == {"Ocean_checkpoint_e2"}
    (here / "mine.yaml").write_text("TEST:\n  lr: 0.5\n", encoding="utf-8")
    main(["--params", "mine.yaml"])
    assert "tracker.lr 0.408 instead of 0.5" in capfd.readouterr().err
    assert not set(times(here).items()) & set(after.items())
    # Another image in the data set: that sequence alone is done again, for every checkpoint.
    settled = times(here)
    for image in (here / "dataset" / "OTB2015" / "Deer" / "img").iterdir():
        image.write_bytes(image.read_bytes() + b" ")
    main(["--params", "mine.yaml"])
    assert "Ocean_checkpoint_e1: Deer changed in the data set since, to be done again" in capfd.readouterr().err
    assert {Path(path).name for path in settled if settled[path] != times(here)[path]} == {"Deer.txt"}
    # Results that nothing accounts for are not ours to delete.
    folder = here / "result" / "OTB2015" / "Ocean_checkpoint_e3"
    folder.mkdir()
    (folder / "Deer.txt").write_text("1,2,3,4\n", encoding="utf-8")
    small_checkpoint(here / "snapshot" / "checkpoint_e3.pth")
    with pytest.raises(UserError, match="unknown origin"):
        main([])
    assert (folder / "Deer.txt").read_text(encoding="utf-8") == "1,2,3,4\n"


def trained_by(path: Path, run: str) -> None:
    """Let a checkpoint say which run trained it."""
    config = {"OCEAN": {"OUTPUT_DIR": "logs", "TRAIN": {"MODEL": "Ocean"}}}
    save_checkpoint(path, {**read_checkpoint(path), "config": config, "run": run})


def rows(root: Path, name: str = "Ocean") -> list[str]:
    table = json.loads((root / "result" / "OTB2015" / f"{name}_epochs.json").read_text(encoding="utf-8"))
    return [row["name"] for row in table["checkpoints"]]


@pytest.mark.parametrize("told", [True, False], ids=["checkpoints tell their run", "only their folders differ"])
def test_results_of_another_training_are_neither_removed_nor_mixed(here: Path, told: bool) -> None:
    for epoch in (2, 3):
        small_checkpoint(here / "other" / f"checkpoint_e{epoch}.pth", seed=10 + epoch)
        if told:
            trained_by(here / "other" / f"checkpoint_e{epoch}.pth", "B")
            trained_by(here / "snapshot" / f"checkpoint_e{epoch - 1}.pth", "A")
    main([])
    before, files = times(here), results(here)
    for flags in ([], ["--start_epoch", "3"], ["--checkpoints", "other/checkpoint_e3.pth"], ["--fresh"]):
        with pytest.raises(UserError, match=r"another training .*snapshot/checkpoint_e1\.pth.*--tracker_name NAME"):
            main(["--snapshot", "other", *flags])
    assert times(here) == before
    main(["--snapshot", "other", "--tracker_name", "Mine"])
    assert rows(here) == ["Ocean_checkpoint_e1", "Ocean_checkpoint_e2"]
    assert rows(here, "Mine") == ["Mine_checkpoint_e2", "Mine_checkpoint_e3"]
    assert {name: content for name, content in results(here).items() if name.startswith("Ocean")} == files
    if told:  # the folder of a training may be moved
        (here / "snapshot").rename(here / "moved")
        main(["--snapshot", "moved"])
        assert {path: time for path, time in times(here).items() if "Ocean_" in path} == before


def test_a_table_holds_several_trainings_only_where_they_are_named_together(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small_checkpoint(here / "other" / "Shipped.pth", seed=9)
    main([])
    main(["--checkpoints", "other/Shipped.pth"])
    assert rows(here) == ["Ocean_Shipped"]
    main([])
    assert rows(here) == ["Ocean_checkpoint_e1", "Ocean_checkpoint_e2"]
    assert "several trainings" not in capfd.readouterr().err
    main(["--checkpoints", "other/Shipped.pth", "snapshot/*.pth"])
    assert rows(here) == ["Ocean_checkpoint_e1", "Ocean_checkpoint_e2", "Ocean_Shipped"]
    assert "several trainings, as asked for: snapshot/checkpoint_e1.pth and other/Shipped.pth" in capfd.readouterr().err


def test_a_training_into_the_folder_of_another_one_is_another_training(here: Path) -> None:
    for epoch in (1, 2):
        trained_by(here / "snapshot" / f"checkpoint_e{epoch}.pth", "A")
    main([])
    before = times(here)
    for epoch in (1, 2):
        small_checkpoint(here / "snapshot" / f"checkpoint_e{epoch}.pth", seed=20 + epoch)
        trained_by(here / "snapshot" / f"checkpoint_e{epoch}.pth", "B")
    with pytest.raises(UserError, match=r"another training.*--fresh replaces these"):
        main([])
    assert times(here) == before
    main(["--fresh"])
    assert not set(times(here).items()) & set(before.items())


def test_testing_one_epoch_again_keeps_the_other_rows(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small_checkpoint(here / "snapshot" / "checkpoint_e3.pth", seed=3)
    main([])
    table = (here / "result" / "OTB2015" / "Ocean_epochs.csv").read_text(encoding="utf-8")
    everyone = [f"Ocean_checkpoint_e{n}" for n in (1, 2, 3)]
    main(["--start_epoch", "2", "--end_epoch", "2"])
    assert (here / "result" / "OTB2015" / "Ocean_epochs.csv").read_text(encoding="utf-8") == table
    (here / "snapshot" / "checkpoint_e3.pth").unlink()  # training keeps the last few
    main(["--start_epoch", "1", "--end_epoch", "1", "--fresh"])
    assert rows(here) == everyone
    assert "Ocean_checkpoint_e3" in (here / "result" / "OTB2015" / "Ocean_epochs.html").read_text(encoding="utf-8")
    # What is not whole any more, or made with other settings, is no row of one table.
    (here / "result" / "OTB2015" / "Ocean_checkpoint_e3" / "Man.txt").unlink()
    capfd.readouterr()
    main(["--start_epoch", "1", "--end_epoch", "1"])
    assert "Ocean_checkpoint_e3: no longer in the table" in capfd.readouterr().err
    assert rows(here) == everyone[:2]
    (here / "mine.yaml").write_text("TEST:\n  lr: 0.5\n", encoding="utf-8")
    main(["--start_epoch", "1", "--end_epoch", "1", "--params", "mine.yaml"])
    assert rows(here) == everyone[:1]


def test_weights_by_name_are_swept_with_the_settings_beside_them(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.checkpoint.WEIGHTS_ROOT", here / "shelf")
    small_checkpoint(here / "shelf" / "Slim.pth", seed=4)
    (here / "shelf" / "Slim.yaml").write_text("TEST: {lr: 0.25, tuned_on: held-out videos}")
    main(["--checkpoints", "Slim", "snapshot/checkpoint_e1.pth"])
    assert rows(here) == ["Ocean_checkpoint_e1", "Ocean_Slim"]
    run = json.loads((here / "result" / "OTB2015" / "Ocean_Slim" / "run.json").read_text())
    assert (run["identity"]["tracker"]["lr"], run["tuned_on"]) == (0.25, "held-out videos")


def test_results_lie_under_the_canonical_name_of_the_data_set(here: Path) -> None:
    (here / "dataset" / "OTB2015").rename(here / "dataset" / "OTB100")
    main(["--dataset", "otb100", "--end_epoch", "1"])
    one_checkpoint(["--dataset", "OTB-100", "--resume", "snapshot/checkpoint_e1.pth", "--epoch_test", "True"])
    assert [path.name for path in (here / "result").iterdir()] == ["OTB2015"]
    assert len(results(here)) == 3


def test_a_taken_sequence_is_waited_for_and_taken_over_when_nobody_touches_it(here: Path) -> None:
    lock = here / "result" / "OTB2015" / "Ocean_checkpoint_e1" / ".run" / "Deer.lock"
    lock.parent.mkdir(parents=True)
    of_another_machine(lock, lasts=0.6)
    main(["--end_epoch", "1", "--stale_after", "0.6"])
    folder = here / "result" / "OTB2015" / "Ocean_checkpoint_e1"
    when = {path.stem: path.stat().st_mtime_ns for path in folder.glob("*.txt")}
    assert max(when, key=lambda name: when[name]) == "Deer"
    assert len(when) == 3


def test_watching_a_training_tests_each_checkpoint_as_it_comes(here: Path) -> None:
    (here / "snapshot" / "checkpoint_e2.pth").rename(here / "later.pth")

    def train() -> None:
        deadline = time.monotonic() + 200
        while len(results(here)) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        (here / "later.pth").rename(here / "snapshot" / "checkpoint_e2.pth")

    training = threading.Thread(target=train)
    training.start()
    assert main(["--watch", "--end_epoch", "2"]) == 0
    training.join()
    assert len(results(here)) == 6


def test_scores_go_once_to_the_board_of_the_run_that_trained(here: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = here / "logs" / "Ocean" / "Ocean_2021-02-02-10-52"
    run.mkdir(parents=True)
    config = {"OCEAN": {"OUTPUT_DIR": "logs", "TRAIN": {"MODEL": "Ocean"}}}
    for epoch in (1, 2):
        path = here / "snapshot" / f"checkpoint_e{epoch}.pth"
        save_checkpoint(path, {**read_checkpoint(path), "config": config, "run": run.name})
    assert training_run(path) == (Path("logs/Ocean/Ocean_2021-02-02-10-52"), "tensorboard")
    main([])
    main([])
    events = EventAccumulator(str(run))
    events.Reload()
    table = json.loads((here / "result" / "OTB2015" / "Ocean_epochs.json").read_text(encoding="utf-8"))
    for name in ("success", "precision"):
        told = [(event.step, event.value) for event in events.Scalars(f"OTB2015/{name}")]
        assert told == [(row["epoch"], pytest.approx(row[name], abs=1e-6)) for row in table["checkpoints"]]
    main(["--log_dir", "elsewhere"])  # made, as it is asked for by name
    assert list((here / "elsewhere").glob("events*"))
    # The HParams tab shows five scalars only, in this order.
    assert sorted([*events.Tags()["scalars"], "data_wait", "loss/total"]).index("OTB2015/success") < 5
    # A checkpoint that does not know its run, or tells of a folder elsewhere, is scored all the same.
    for run_name in ("../../up", 3, None):
        save_checkpoint(path, {"state_dict": small_model().state_dict(), "config": config, "run": run_name})
        assert training_run(path) is None


def test_ranks_of_torchrun_share_the_work_and_only_the_first_speaks(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main([]) == 0
    said = capfd.readouterr()
    assert said.out == said.err == ""
    assert len(results(here)) == 6
    before = times(here)
    monkeypatch.setenv("RANK", "0")
    assert main([]) == 0
    assert "OTB2015 by checkpoint" in capfd.readouterr().out
    assert times(here) == before


# ---- several workers


def children_of(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


@pytest.mark.skipif(not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists(), reason="needs Linux's /proc")
def test_a_killed_worker_is_survived_and_the_end_equals_a_sequential_run(here: Path) -> None:
    for epoch in range(3, 6):
        small_checkpoint(here / "snapshot" / f"checkpoint_e{epoch}.pth", seed=epoch)
    command = [sys.executable, str(ROOT / "tracking" / "test_epochs.py"), "--device", "cpu", "--workers", "2"]
    with subprocess.Popen(command, cwd=here, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        deadline = time.monotonic() + 300
        while not results(here):
            assert parent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        # Whoever holds a lock right now is at work.
        victim = next((int(text.split("pid=")[1].split()[0]) for path in (here / "result").rglob("*.lock")
                       if "pid=" in (text := path.read_text(encoding="utf-8"))), children_of(parent.pid)[0])
        os.kill(victim, signal.SIGKILL)
        done = len(results(here))
        out, err = parent.communicate(timeout=400)
    assert parent.returncode == 0, err
    assert done < 15
    assert "ended by SIGKILL; the other 1 take over its work" in err
    assert "OTB2015 by checkpoint" in out
    main(["--result_dir", "sequential"])
    assert results(here) == results(here, base="sequential")
    assert len(results(here)) == 15
    before = times(here)
    main([])
    assert times(here) == before


def test_workers_that_fail_stop_or_leave_the_rest_their_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script = tmp_path / "worker.py"
    monkeypatch.setattr(launch, "MAIN", script)
    # The device is here what the worker does.
    script.write_text("import os, sys, time\nact = next(w[9:] for w in sys.argv if w.startswith('--device='))\n"
                      "os.kill(os.getpid(), 9) if act == 'die' else time.sleep(60) if act == 'sleep' else None\n"
                      "sys.exit({'mistake': 2, 'crash': 1}.get(act, 0))\n", encoding="utf-8")
    looks: list[int] = []

    def run(*acts: str) -> int:
        return launch.run_workers(SweepOptions(), acts, tick=lambda: looks.append(1), poll=0.05)

    assert run("fine", "fine") == 0
    assert run("fine", "die") == 0
    assert run("die", "crash") == 1
    started = time.monotonic()
    assert run("mistake", "sleep") == 2  # told by the worker; the other is stopped
    assert time.monotonic() - started < 55
    assert looks
