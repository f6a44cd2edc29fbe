"""The short form of `kill_harness.py`: one kill of each kind of work at a random moment changes nothing of its end."""

from __future__ import annotations

from pathlib import Path

import pytest
from kill_harness import SHORT, Experiment, survive
from train_helpers import repeatable


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return Experiment(tmp_path_factory.mktemp("experiment"), SHORT)


@pytest.mark.parametrize("work", ["prepare-2", "pack-1", "train-1", "test-1", "sweep-2"])
def test_a_kill_at_a_random_moment_loses_nothing(experiment: Experiment, tmp_path: Path, work: str) -> None:
    rng, seed = repeatable()
    found = survive(experiment, work, tmp_path, kills=1, rng=rng) | {"seed": seed}
    assert found["kills"] >= 1, found
    assert found["compared"] > 1, found
    assert not found["different"], found
    assert not found["left_behind"], found
