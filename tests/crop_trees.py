"""Small crop511 sources for the tests of the data set: crops whose pixels say which track and frame they are."""

import json
from pathlib import Path

import cv2
import numpy as np

from lib.datasets.stores import crop_name


def write_source(root: Path, *, tracks: int = 6, frames: int = 5, videos: int = 2, seed: int = 0) -> Path:
    """Return the index JSON of a source written to `root`/crop511 and `root`/train.json.

    Track t of video v has frames 0, 1, 2, ...; its crop is noise with a bright rectangle where the box is.
    """
    rng = np.random.default_rng(seed)
    index: dict[str, dict[str, dict[str, list[float]]]] = {}
    for number in range(tracks):
        video, track = f"part/video_{number % videos}", number // videos
        width, height = (float(v) for v in rng.uniform(20, 60, 2).round(1))
        rows = index.setdefault(video, {}).setdefault(f"{track:02d}", {})
        for frame in range(frames):
            rows[f"{frame:06d}"] = [10.0, 20.0, 10.0 + width, 20.0 + height]
            path = root / "crop511" / video / crop_name(frame, track)
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), cv2.blur(rng.integers(0, 256, (511, 511, 3), dtype=np.uint8), (9, 9)))
    path = root / "train.json"
    path.write_text(json.dumps(index), encoding="utf-8")
    return path
