"""Pairs per second and core of the training data set, beside reading two JPEGs with OpenCV and doing nothing.

`python perf/loader.py --data data/coco [--raw RAW] [--pairs 1000]` prints one JSON line: for crops as files, for
archives if there are any (`prepare pack`) and for the raw pictures if `--raw` says where they are. Everything runs in
one process and one thread, and processor time is counted, not the clock. The pairs are read in blocks; each way of
reading takes each block several times, in turns, and its best time counts, so that what else the machine does disturbs
little.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import simplejpeg
import torch
import torchvision

from lib.config import DatasetConfig, SourceConfig
from lib.datasets.dataset import OceanDataset, build_source
from lib.datasets.stores import CropFiles, IndexedSource, crop_name
from lib.errors import UserError, run

TURNS, BLOCK = 4, 25
LIMIT = "opencv_read_two"


def main() -> int:
    """Return 0 after printing the measurements as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder written by lib.datasets.prepare")
    parser.add_argument("--raw", type=Path, help="the --root that was given to prepare")
    parser.add_argument("--pairs", type=int, default=1000, help="pairs in all of each kind (default %(default)s)")
    given = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    folders = {"crop511": given.data / "crop511", "packed": given.data / "packed", "raw": given.raw}
    sources = {form: source_of(form, path, given.data) for form, path in folders.items() if path and path.is_dir()}
    if "crop511" not in sources:
        raise UserError(f"{folders['crop511']}: no such folder; --data names a folder that prepare made")
    files = crop_files(sources["crop511"], 2 * given.pairs)
    print(json.dumps(measure(sources, files, pairs=given.pairs)))
    return 0


def source_of(form: str, path: Path, data: Path) -> IndexedSource:
    """Return the source of a prepared folder in one of its forms."""
    config = SourceConfig(PATH=str(path), ANNOTATION=str(data / "train.json"), FORMAT=cast(Any, form))
    source = build_source("BENCHMARK", config, place="--data")
    assert isinstance(source, IndexedSource)
    return source


def measure(sources: dict[str, IndexedSource], files: list[str], *, pairs: int) -> dict[str, object]:
    """Return pairs per second of each way of reading, and their shares of the limit (OpenCV reading two JPEGs)."""
    kinds = kinds_of(sources, files)
    seconds = dict.fromkeys(kinds, 0.0)
    for first in range(0, pairs, BLOCK):
        best = dict.fromkeys(kinds, float("inf"))
        for _ in range(TURNS):
            for name, read in kinds.items():
                start = time.process_time()
                for n in range(first, min(first + BLOCK, pairs)):
                    read(n)
                best[name] = min(best[name], time.process_time() - start)
        seconds = {name: seconds[name] + best[name] for name in kinds}
    rates = {name: pairs / total for name, total in seconds.items()}
    return {
        "benchmark": "loader", "pairs_per_second_per_core": {name: round(rate, 1) for name, rate in rates.items()},
        "share_of_limit": {name: round(rate / rates[LIMIT], 3) for name, rate in rates.items()}, "limit": LIMIT,
        "pairs": pairs, "crop_kilobytes": round(sum(Path(f).stat().st_size for f in files) / len(files) / 1e3, 1),
        "processor": processor(), "opencv": cv2.__version__, "torch": torch.__version__,
    }


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def kinds_of(sources: dict[str, IndexedSource], files: list[str]) -> dict[str, Callable[[int], object]]:
    """Return, for each way of reading, a function that reads pair n."""
    every: dict[str, Any] = dict.fromkeys(("FLIP", "ROTATION", "GRAY", "BLUR", "CUTOUT"), 1.0)

    def samples(form: str, settings: DatasetConfig) -> Callable[[int], object]:
        source = sources[form]
        return OceanDataset([source], [source.num_tracks], settings).__getitem__

    def two(read: Callable[[str], object]) -> Callable[[int], object]:
        return lambda n: (read(files[2 * n]), read(files[2 * n + 1]))

    return {
        LIMIT: two(cv2.imread),
        "torchvision_read_two": two(lambda path: torchvision.io.decode_jpeg(torchvision.io.read_file(path))),
        "simplejpeg_read_two": two(lambda path: simplejpeg.decode_jpeg(Path(path).read_bytes(), "BGR")),
        **{form: samples(form, DatasetConfig()) for form in sources},
        "crop511_without_colour": samples("crop511", DatasetConfig(COLOR=0.0)),
        "crop511_all_augmentations": samples("crop511", DatasetConfig(**every)),
    }


def crop_files(source: IndexedSource, count: int) -> list[str]:
    """Return the paths of `count` random crops of a source."""
    assert isinstance(source.store, CropFiles)
    index, rng = source.index, np.random.default_rng(0)
    tracks = rng.integers(index.num_tracks, size=count).tolist()
    rows = [int(rng.integers(*index.rows(track))) for track in tracks]
    return [f"{source.store.root}/{index.video(t)}/{crop_name(int(index.frames[r]), int(index.track_numbers[t]))}"
            for t, r in zip(tracks, rows, strict=True)]


if __name__ == "__main__":
    run(main)
