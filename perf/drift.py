"""Long videos with slow changes from short ones: played to and fro, while light, colour, turn and shape drift.

    python perf/drift.py data/held_out --out data/drifting --only davis16_libby davis16_soapbox --length 240

Writes plain folders with `img/` and `groundtruth_rect.txt`, at most HEIGHT px high. Each change is a sum of three sines
with periods of 150 to 500 frames, 0 in the first frame; the box is that of the turned and sheared box's ellipse.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.benchmarks import Sequence, load_benchmark
from lib.errors import run
from lib.images import read_image

HEIGHT = 480
LIGHT, CAST, TURN, SHEAR, ASPECT = np.log(2.0), 0.2, np.radians(25), 0.25, 0.18  # largest change of each


def drift(rng: np.random.Generator, length: int, most: float) -> NDArray[np.float64]:
    """Return a slow change (length,) from 0, at most `most`."""
    phase, period = rng.uniform(0, 2 * np.pi, 3), rng.uniform(150, 500, 3)
    sines = np.sin(2 * np.pi * np.arange(length)[:, None] / period + phase).sum(1)
    return most * (sines - sines[0]) / np.abs(sines - sines[0]).max()


def write(sequence: Sequence, folder: Path, *, length: int, rng: np.random.Generator) -> None:
    """Write the drifting video of a sequence."""
    (folder / "img").mkdir(parents=True, exist_ok=True)
    light = drift(rng, length, LIGHT)[:, None]
    light = np.exp(light + np.stack([drift(rng, length, CAST) for _ in range(3)], 1))
    turn, shear, aspect = (drift(rng, length, most) for most in (TURN, SHEAR, ASPECT))
    count, rows = len(sequence.frames), []
    for t in range(length):
        frame = t % (2 * count - 2)
        frame = min(frame, 2 * count - 2 - frame)
        read = read_image(sequence.frames[frame])
        scale = min(1.0, HEIGHT / read.shape[0])
        image = cv2.resize(read, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        cos, sin, wide = np.cos(turn[t]), np.sin(turn[t]), np.exp(aspect[t])
        matrix = np.array([[cos, -sin], [sin, cos]]) @ [[wide, shear[t]], [0, 1 / wide]]
        middle = np.array(image.shape[1::-1]) / 2
        moved = cv2.warpAffine(image, np.column_stack([matrix, middle - matrix @ middle]), image.shape[1::-1],
                               borderMode=cv2.BORDER_REFLECT_101)
        cv2.imwrite(str(folder / "img" / f"{t + 1:04d}.jpg"), np.clip(moved * light[t], 0, 255).astype(np.uint8))
        x, y, w, h = sequence.boxes_xywh[frame] * scale
        centre = matrix @ ([x + w / 2, y + h / 2] - middle) + middle
        size = np.hypot(*(matrix * [w, h]).T)
        rows.append(",".join(f"{value:.2f}" for value in (*(centre - size / 2 + 1), *size)))
    (folder / "groundtruth_rect.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")


def main() -> None:
    """Write the videos that the command line names."""
    parser = argparse.ArgumentParser(description="Write long videos with slow changes.")
    parser.add_argument("folder", type=Path, help="plain folder of videos")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", required=True, help="names of videos")
    parser.add_argument("--length", type=int, default=240, help="frames")
    args = parser.parse_args()
    found = {sequence.name: sequence for sequence in load_benchmark("videos", args.folder, images=True).sequences}
    for number, name in enumerate(args.only):
        write(found[name], args.out / name, length=args.length, rng=np.random.default_rng(number))


if __name__ == "__main__":
    run(main)
