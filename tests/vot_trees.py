"""Small VOT data sets and results in the official layout, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

VOT_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def square(x: float, y: float, *, side: float = 20) -> list[float]:
    """Return the corners x1, y1 .. x4, y4 of an upright square."""
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def make_video(
    root: Path, name: str, regions: Sequence[Sequence[float]], *, tags: dict[str, str] | None = None,
    images: bool = False, colour_folder: bool = True, size: tuple[int, int] = (120, 80),
) -> Path:
    """Return the folder of a video with `groundtruth.txt`, attribute files ("0110") and, if asked for, images."""
    folder = root / name
    folder.mkdir(parents=True)
    folder.joinpath("groundtruth.txt").write_text("".join(",".join(map(str, row)) + "\n" for row in regions))
    for attribute, flags in (tags or {}).items():
        folder.joinpath(f"{attribute}.tag").write_text("\n".join(flags) + "\n")
    if images:
        place = folder / "color" if colour_folder else folder
        place.mkdir(exist_ok=True)
        for index in range(len(regions)):
            image = np.full((size[1], size[0], 3), 40 + index, np.uint8)
            cv2.imwrite(str(place / f"{index + 1:08d}.jpg"), image)
    return folder


def write_result(folder: Path, name: str, rows: Sequence[object], *, repetition: int = 1) -> Path:
    """Return the result file of a video: each row a code or a list of 4 or 8 numbers."""
    path = folder / "baseline" / name / f"{name}_{repetition:03d}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((",".join(map(str, row)) if isinstance(row, list) else str(row)) + "\n" for row in rows))
    return path
