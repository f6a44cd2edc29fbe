"""The demonstration in its shortest form: every step of it, and that a second start does nothing again."""

import os
import subprocess
import sys
from pathlib import Path

from lib.datasets.synthetic import write_otb

ROOT = Path(__file__).resolve().parents[1]
SHORT = ["--sequences", "2", "TRAIN.END_EPOCH=2", "DATASET.SYNTHETIC.USE=8", "TRAIN.BATCH=4", "WORKERS=0"]


def demo(folder: Path, *more: str) -> str:
    command = [sys.executable, str(ROOT / "tracking" / "demo.py"), "--real", "real", *more, *SHORT]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def test_the_demonstration_trains_tests_scores_and_does_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (name,) = write_otb(tmp_path / "real", num=1, length=6, seed=3)
    (tmp_path / "real" / name).rename(tmp_path / "real" / "Girl")
    output = demo(tmp_path)
    for name in ("NeverMoves", "Untrained", "Ocean_checkpoint_e1", "Ocean_checkpoint_e2"):
        assert name in output
        assert len(list((tmp_path / "result" / "SYNTHETIC" / name).glob("*.txt"))) == 2
    assert sorted(p.name for p in (tmp_path / "snapshot" / "OceanDemo").glob("checkpoint_e*.pth")) == [
        "checkpoint_e1.pth", "checkpoint_e2.pth"]
    assert list((tmp_path / "logs" / "Ocean").glob("*/events.out.tfevents.*"))
    assert list((tmp_path / "result" / "SYNTHETIC" / "_eval").glob("*.png"))
    assert list((tmp_path / "result" / "OTB2015" / "OceanDemo").rglob("Girl.*"))
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.suffix in (".pth", ".jpg")}
    again = demo(tmp_path)
    assert "nothing to train" in again
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert "results of checkpoint" not in demo(tmp_path, "--fresh")  # old results do not stand in the way
    assert {path: path.stat().st_mtime_ns for path in written} != written
