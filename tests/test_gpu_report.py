"""perf/gpu.py on the CPU stand-in: every kind of row runs, one that fails hides no other, and nothing is pretended."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perf import gpu, gpu_rows

ROOT = Path(__file__).resolve().parents[1]
# One row of each kind; `python perf/gpu.py --tiny` runs all of them, which takes a minute or two.
KINDS = ("conformance, bf16", "track one, eager", "two ranks, gloo", "resume", "training Ocean_MHSA, batch 32",
         "lockstep 8")


def test_every_kind_of_row_runs_and_the_page_says_that_it_is_a_stand_in(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "perf" / "gpu.py"), "--tiny", "--out", str(tmp_path / "page.md"), "--only"]
    done = subprocess.run([*command, *KINDS], capture_output=True, text=True, check=False,
                          env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"})
    found = {row["row"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, done.stdout + done.stderr
    assert tuple(found) == tuple(name for name in gpu.all_rows() if name.startswith(KINDS))
    assert found["resume"]["same_bits"]
    assert float(found["two ranks, gloo"]["gradient"]) < 1e-4
    assert found["training Ocean_MHSA, batch 32"]["pairs_per_second"] > 0
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert page.startswith("# CPU stand-in: nothing here was measured on a GPU")
    assert all(f"| {name} |" in page for name in found)


def _dies(_sizes: gpu_rows.Sizes) -> dict[str, Any]:
    os._exit(3)


def _hangs(_sizes: gpu_rows.Sizes) -> dict[str, Any]:
    time.sleep(60)
    return {}


@pytest.mark.parametrize(("find", "text"), [
    (lambda _: 1 / 0, "ZeroDivisionError: division by zero"), (_dies, "its process ended with exit code 3"),
    (_hangs, "ran past its limit of 1 s")], ids=["raises", "dies", "hangs"])
def test_a_row_that_fails_is_told_and_costs_no_other(monkeypatch: pytest.MonkeyPatch, find: Any, text: str) -> None:
    monkeypatch.setattr(gpu, "all_rows", lambda: {"bad": gpu.Row(1, find), "good": gpu.Row(9, lambda _: {"x": 1})})
    sizes, fork = replace(gpu_rows.TINY, device="cpu"), multiprocessing.get_context("fork")
    assert gpu.ask("bad", 1, sizes, fork)["failed"] == text
    assert gpu.ask("good", 30, sizes, fork)["x"] == 1


def test_the_rows_are_those_that_the_page_promises() -> None:
    page = (ROOT / "docs" / "GPU.md").read_text(encoding="utf-8")
    for name in gpu.all_rows():
        assert name.split(",")[0].split(" ")[0] in page, name
