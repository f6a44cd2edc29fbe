"""Small OTB-form data sets and result folders for the tests of reading and scoring."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def shared(*parts: str) -> Path:
    """Return a path below the shared data; the calling test is skipped when it is not there."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"the shared data is not here ({'/'.join(parts)})")
    return path


def boxes_of(count: int) -> np.ndarray:
    """Return file boxes (count, 4): a target of 20 x 10 that moves one pixel per frame."""
    return np.array([50, 60, 20, 10]) + np.arange(count, dtype=float)[:, None] * [1, 1, 0, 0]


def write_rows(path: Path, rows: np.ndarray, *, separator: str = ",") -> Path:
    """Write rows as text, whole numbers without a point as in the official files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(separator.join(f"{value:g}" for value in row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_sequence(
    root: Path, folder: str, *, count: int = 5, file: str = "groundtruth_rect.txt", images: Iterable[str] | None = None
) -> Path:
    """Return a sequence folder with ground truth and empty images (`images` are their names)."""
    write_rows(root / folder / file, boxes_of(count))
    (root / folder / "img").mkdir(exist_ok=True)
    for name in [f"{i:04d}.jpg" for i in range(1, count + 1)] if images is None else images:
        (root / folder / "img" / name).touch()
    return root / folder


def numbered(first: int, last: int, *, digits: int = 4) -> list[str]:
    """Return image names first..last."""
    return [f"{number:0{digits}d}.jpg" for number in range(first, last + 1)]
