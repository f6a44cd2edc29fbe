"""Start-up time and memory of the index of five sources with 600,000 tracks and 6 million frames.

`python perf/index.py [--ranks 2] [--workers 2]` writes five index JSONs of that size into a temporary folder and
prints one JSON line: how long the first start takes, which reads the JSON and lays its arrays beside it (`prepare` does
so itself), how long every later one, and what the processes of that later start hold while each worker draws pairs
from everywhere in the index. No picture is read. Memory is the kernel's count: a process's "own" is what no other
shares; of the index's pages, which all share, each counts its part.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from torch.utils.data import DataLoader, Dataset

from lib.config import Config, DatasetConfig, SourceConfig, TrainConfig
from lib.datasets.dataset import OceanDataset, build_dataset
from lib.datasets.index import load_index
from lib.datasets.mixing import generator
from lib.errors import UserError, run

SHAPES = {  # source: tracks, frames of each, tracks of a video
    "VID": (15_000, 102, 2), "YTB": (160_000, 16, 1), "COCO": (240_000, 1, 6), "DET": (170_000, 1, 2),
    "GOT10K": (15_000, 100, 1),
}


class Draws(Dataset[float]):
    """Pairs by number, drawn but not read: item n is how many megabytes of its own a worker took while it drew."""

    def __init__(self, dataset: OceanDataset, draws: int) -> None:
        self.dataset, self.draws = dataset, draws

    def __getitem__(self, n: int) -> float:
        before = memory("self").private
        for number in range(n * self.draws, (n + 1) * self.draws):
            source, track = self.dataset.mixture[number]
            self.dataset.sources[source].pair(track, generator(0, number))
        return memory("self").private - before


class Memory(NamedTuple):
    """What a process holds, megabytes, by the kernel's count."""

    private: float  # for itself alone
    mapped: float  # of the index files, pages that N processes share counted 1/N


def memory(pid: int | str) -> Memory:
    """Return what a process holds."""
    private = mapped = 0
    name = ""
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.isidentifier():
            kilobytes = int(value.split()[0]) if value.endswith("kB") else 0
            private += kilobytes if key in ("Private_Clean", "Private_Dirty") else 0
            mapped += kilobytes if key == "Pss" and name.endswith(".arrays") else 0
        else:
            name = line
    return Memory(private / 1e3, mapped / 1e3)


def write_json(path: Path, tracks: int, frames: int, per_video: int, *, seed: int) -> None:
    """Write an index JSON of `tracks` tracks with `frames` frames each, `per_video` of them in a video."""
    rng = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8") as file:
        for first in range(0, tracks, per_video):
            corner = rng.integers(0, 60_000, (per_video, 2)) / 100
            side = rng.integers(2_000, 40_000, (per_video, 2)) / 100
            boxes = np.round(np.hstack([corner, corner + side]), 2).tolist()
            rows = {f"{k:02d}": {f"{n:06d}": box for n in range(frames)} for k, box in enumerate(boxes)}
            name = f"{path.parent.name}_train_{first // 10_000:04d}/{path.parent.name}_train_{first:08d}"
            text = json.dumps(rows, separators=(",", ":"))
            file.write(f'{"," if first else "{"}\n"{name}":{text}')
        file.write("\n}\n")


def in_process(work: Callable[..., Any], *arguments: object) -> Any:
    """Return work(*arguments), done in a process of its own so that no other's memory is counted."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def first_start(folder: Path) -> dict[str, float]:
    """Return seconds of reading all JSONs, and how much the process's memory grew at its highest."""
    before, start, busy = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter(), time.process_time()
    for name in SHAPES:
        load_index(folder / name / "train.json")
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": round(seconds, 2), "processor_seconds": round(busy, 2),
            "peak_megabytes_added": round((peak - before) / 1e3)}


def data_of(folder: Path) -> OceanDataset:
    """Return the data set of all sources."""
    sources = {name: SourceConfig(PATH=str(folder), ANNOTATION=str(folder / name / "train.json"), RANGE=100, USE=60_000)
               for name in SHAPES}
    return build_dataset(Config(TRAIN=TrainConfig(WHICH_USE=list(SHAPES)), DATASET=DatasetConfig(SOURCES=sources)))


def later_start(folder: Path, workers: int, draws: int, results: Any, counted: Any) -> None:
    """Put what one rank measures, and the numbers of its processes, after its workers' draws; wait to be counted."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    before, start = memory("self").private, time.perf_counter()
    dataset = data_of(folder)
    seconds, added = time.perf_counter() - start, memory("self").private - before
    loader = DataLoader(Draws(dataset, draws), batch_sampler=[[n] for n in range(workers)], num_workers=workers,
                        collate_fn=list, persistent_workers=True)
    drawn = [item for batch in loader for item in batch]
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    results.put({"seconds": seconds, "added": added, "drawn": drawn, "pids": pids})
    counted.wait()


def measure(folder: Path, *, ranks: int, workers: int, draws: int) -> dict[str, object]:
    """Return the measurements of a first and of a later start."""
    first = in_process(first_start, folder)
    context = multiprocessing.get_context("spawn")
    results, counted = context.Queue(), context.Event()
    processes = [context.Process(target=later_start, args=(folder, workers, draws, results, counted))
                 for _ in range(ranks)]
    for process in processes:
        process.start()
    found = [results.get(timeout=600) for _ in processes]
    mapped = sum(memory(pid).mapped for rank in found for pid in rank["pids"])
    counted.set()
    for process in processes:
        process.join()
    sizes = {ending: sum((folder / name / f"train.json{ending}").stat().st_size for name in SHAPES) / 1e6
             for ending in ("", ".arrays")}
    return {
        "benchmark": "index", "tracks": sum(tracks for tracks, _, _ in SHAPES.values()),
        "frames": sum(tracks * frames for tracks, frames, _ in SHAPES.values()),
        "json_megabytes": round(sizes[""]), "arrays_megabytes": round(sizes[".arrays"]), "first_start": first,
        "later_start": {
            "ranks": ranks, "workers_each": workers, "pairs_drawn_by_each_worker": draws,
            "seconds": round(max(rank["seconds"] for rank in found), 3),
            "index_megabytes_of_all_processes": round(mapped),
            "rank_own_megabytes_added": round(max(rank["added"] for rank in found), 1),
            "worker_own_megabytes_added": round(max(max(rank["drawn"], default=0.0) for rank in found), 1),
        },
    }


def main() -> int:
    """Return 0 after printing the measurements as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2, help="training processes (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="loader processes of each (default %(default)s)")
    parser.add_argument("--draws", type=int, default=100_000, help="pairs that each worker draws (default %(default)s)")
    given = parser.parse_args()
    if not Path("/proc/self/smaps").is_file():
        raise UserError("/proc/self/smaps: no such file; this benchmark counts memory as Linux shows it")
    with tempfile.TemporaryDirectory() as name:
        for seed, (source, shape) in enumerate(SHAPES.items()):
            (Path(name) / source).mkdir()
            write_json(Path(name) / source / "train.json", *shape, seed=seed)
        print(json.dumps(measure(Path(name), ranks=given.ranks, workers=given.workers, draws=given.draws)))
    return 0


if __name__ == "__main__":
    run(main)
