"""The short form of `kill_harness.py`: one kill of each kind of work at a random moment changes nothing of its end."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from kill_harness import SHORT, Experiment, survive


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return Experiment(tmp_path_factory.mktemp("experiment"), SHORT)


@pytest.mark.parametrize("work", ["prepare-2", "pack-1", "train-1", "test-1", "sweep-2"])
def test_a_kill_at_a_random_moment_loses_nothing(experiment: Experiment, tmp_path: Path, work: str) -> None:
    found = survive(experiment, work, tmp_path, kills=1, rng=random.Random())
    assert found["kills"] >= 1
    assert found["compared"] > 1
    assert not found["different"], found
    assert not found["left_behind"], found
