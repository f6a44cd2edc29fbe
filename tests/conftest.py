"""What every test needs before torch is loaded."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Two workers with a thread for each core would spend their time waiting for each other; their children likewise.
os.environ.setdefault("OMP_NUM_THREADS", "1")
REFERENCE = Path(__file__).resolve().parents[2] / "shared" / "reference"


@pytest.fixture(autouse=True)
def small_numbers_stay() -> Iterator[None]:
    """Undo what a training does to its process: there numbers near 0 are 0, elsewhere hypothesis draws them."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """What the reference's online branch gave at every stage."""
    import numpy as np

    path = REFERENCE / "golden_online.npz"
    if not path.is_file():
        pytest.skip("the reference's golden file of the online branch is not here")
    return dict(np.load(path))


@pytest.fixture(scope="module")
def recipe(golden: dict[str, Any]) -> ModuleType:
    """What the reference was given for it."""
    sys.path.insert(0, str(REFERENCE))
    try:
        import golden_online_recipe  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    return golden_online_recipe
