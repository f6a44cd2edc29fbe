"""Which model is better, and what does it cost: one Markdown table of the models of YAML files or checkpoints.

    python tracking/compare.py experiments/train/Ocean.yaml experiments/train/Ocean_align.yaml --dataset OTB2015
    python tracking/compare.py snapshot/one/checkpoint_e6.pth snapshot/other/checkpoint_e6.pth --dataset SYNTHETIC
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lib.benchmarks import RUN_FILE, Benchmark, load_benchmark
from lib.checkpoint import load_model
from lib.config import load_config
from lib.errors import UserError
from lib.eval_toolkit.protocols import score_results
from lib.files import atomic_write, read_json
from lib.models.models import build_model
from lib.testing.opening import pick_device
from lib.testing.run import PARAMS_ROOT, Parser, positive
from lib.tools.cost import Cost, Course, commit, count_cost, load, machine, milliseconds, settle, watch_memory
from lib.tracker.ocean import Amp, OceanTracker
from lib.tracker.params import TrackerParams, find_tracker_params

ROUNDS = 5  # the models take turns, so that a busy moment of the machine does not fall on one of them


@dataclass(frozen=True)
class Entry:
    """A model to compare."""

    name: str  # the YAML file's, or the checkpoint's with its folder
    model: Mapping[str, Any]  # keywords of build_model
    snapshot: Path  # where its checkpoints lie, or the one checkpoint
    tracker: str = ""  # folder of its results, "" to look for it


@dataclass(frozen=True)
class Figures:
    """What one model was measured at."""

    cost: Cost
    median_ms: float
    low_ms: float  # 10th percentile
    high_ms: float  # 90th percentile
    memory_bytes: int | None


@dataclass(frozen=True)
class Score:
    """What one model has reached on the test set."""

    tracker: str
    checkpoint: str
    values: Mapping[str, float]  # by name: success and precision, or those of the test set's kind
    sequences: int
    expected: int
    tuned_on: str


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of the models that the command line names; return 0. Raises UserError."""
    options = _parse(argv)
    entries = [read_entry(text) for text in options.cfg]
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise UserError(f"two of the files have the same name ({', '.join(names)}); the rows could not be told apart")
    device = pick_device(options.device)
    search_size = options.search_size or find_tracker_params(options.dataset, root=PARAMS_ROOT)[0].small_sz
    busy = load()
    figures = measure_all(entries, search_size=search_size, device=str(device), amp=options.amp, frames=options.frames)
    scores: list[Score | None] = [None] * len(entries)
    if (options.result_dir / options.dataset).is_dir():
        benchmark = load_benchmark(options.dataset, options.dataset_dir, images=False)
        scores = [find_score(entry, options.result_dir / options.dataset, benchmark) for entry in entries]
    text = table(entries, figures, scores, dataset=options.dataset, search_size=search_size, amp=options.amp,
                 where=f"{machine(device, busy=busy)}; commit {commit()}")
    print(text)
    if options.out:
        with atomic_write(options.out) as file:
            file.write(text + "\n")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("compare.py", description="Compare models: size, FLOPs, speed, memory and scores.",
                    allow_abbrev=False)
    parser.add_argument("cfg", nargs="+", metavar="FILE[=TRACKER]",
                        help="training YAML or checkpoint (.pth); =TRACKER names the folder of its results where it "
                             "is not found")
    parser.add_argument("--dataset", default="OTB2015", help="test set: gives the search size and the scores")
    parser.add_argument("--dataset_dir", type=Path, default=Path("dataset"), help="its folder, or that folder's parent")
    parser.add_argument("--result_dir", type=Path, default=Path("result"), help="results are DIR/<dataset>/<tracker>")
    parser.add_argument("--search_size", type=int, choices=(255, 271, 287), help="px; default: the test set's")
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:N; default: cuda where there is one")
    parser.add_argument("--amp", choices=("none", "bf16", "fp16"), default="none", help="number format of the network")
    parser.add_argument("--frames", type=positive, default=50, help="frames timed for each model")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    return parser.parse_args(argv)


def read_entry(text: str) -> Entry:
    """Return the model of `FILE` or `FILE=TRACKER`, a YAML file or a checkpoint; raise UserError for a wrong one."""
    name, _, tracker = text.partition("=")
    path = Path(name)
    if path.suffix == ".pth":
        return Entry(f"{path.parent.name}/{path.stem}".lstrip("/"), load_model(path).spec, path, tracker)
    cfg = load_config(path)
    with torch.device("meta"):  # the spec of a model of these options, which says less than they do: what results tell
        spec = build_model(**cfg.model_options()).spec
    return Entry(path.stem, spec, Path(cfg.CHECKPOINT_DIR), tracker)


def measure_all(entries: Sequence[Entry], *, search_size: int, device: str, amp: Amp, frames: int) -> list[Figures]:
    """Return the figures of each model. Each has a process of its own, so memory is its own; they take turns."""
    context = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, mp_context=context) for _ in entries]
    per_round = max(1, round(frames / ROUNDS))
    seconds: list[list[float]] = [[] for _ in entries]
    try:
        found: list[tuple[Cost, int | None]] = []
        with tqdm(total=len(entries) * (ROUNDS + 1), unit="step", file=sys.stderr, dynamic_ncols=True) as bar:
            for entry, pool in zip(entries, pools, strict=True):
                bar.set_postfix_str(entry.name)
                found.append(_ask(entry, pool, _set_up, dict(entry.model), search_size, device, amp))
                bar.update()
            for _ in range(ROUNDS):
                for entry, pool, times in zip(entries, pools, seconds, strict=True):
                    times += _ask(entry, pool, _run, per_round)
                    bar.update()
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
    spread = [milliseconds(times).tolist() for times in seconds]
    return [Figures(cost, median, low, high, held)
            for (cost, held), (low, median, high) in zip(found, spread, strict=True)]


def _ask(entry: Entry, pool: ProcessPoolExecutor, function: Any, *arguments: Any) -> Any:
    """Return what the model's process answers."""
    try:
        return pool.submit(function, *arguments).result()
    except (BrokenProcessPool, torch.OutOfMemoryError) as error:
        raise UserError(f"{entry.name}: its process was ended by the system, or memory ran out "
                        f"({type(error).__name__}); free some memory or compare fewer models at once") from error


# What a model's own process holds between two questions.
_course: list[Course] = []


def _set_up(model_options: dict[str, Any], search_size: int, device: str, amp: Amp) -> tuple[Cost, int | None]:
    with torch.device("meta"):
        build_model(**model_options)  # for the modules it imports, which are not the model's memory
    before = watch_memory()
    torch.manual_seed(0)
    model = build_model(**model_options)
    params = TrackerParams(small_sz=search_size, big_sz=search_size)
    tracker = OceanTracker(model, params, device=device, amp=amp)
    memory = Course(tracker).peak_bytes(before)  # first of all: what follows takes more
    settle(model)
    _course.append(Course(tracker))
    return count_cost(model, search_size=search_size), memory


def _run(frames: int) -> list[float]:
    return _course[0].seconds(frames)


def find_score(entry: Entry, root: Path, benchmark: Benchmark) -> Score | None:
    """Return the score of a model's results below `root`, None without any.

    Its results are in the folder named for it; else in those folders whose run.json tells of this model and of a
    checkpoint from its CHECKPOINT_DIR. Of several the one of the last epoch counts, not the best one: the best would
    be chosen on the test set.
    """
    if entry.tracker:
        if not (root / entry.tracker).is_dir():
            raise UserError(f"{root / entry.tracker}: no such folder of results; expected one below {root}")
        folders = [root / entry.tracker]
    else:
        folders = [path.parent for path in sorted(root.glob(f"*/{RUN_FILE}")) if _made_by(path, entry)]
    folders = [folder for folder in folders if any(folder.glob("*.txt"))]
    if not folders:
        return None
    folder = max(folders, key=lambda path: (_epoch(path), path.name))
    run = _read_run(folder / RUN_FILE)
    summary = score_results(benchmark, folder, allow_missing=bool(benchmark.missing))
    return Score(folder.name, Path(str(run.get("checkpoint", ""))).name, summary.headline,
                 len(summary.names), summary.expected, str(run.get("tuned_on", "")))


def _made_by(run_file: Path, entry: Entry) -> bool:
    run = _read_run(run_file)
    identity = run.get("identity")
    if not isinstance(identity, dict) or _plain(identity.get("model")) != _plain(entry.model):
        return False
    checkpoint = Path(str(run.get("checkpoint", ""))).resolve()
    return entry.snapshot.resolve() in (checkpoint, checkpoint.parent)


def _read_run(path: Path) -> dict[str, Any]:
    run = read_json(path) if path.is_file() else {}
    return run if isinstance(run, dict) else {}


def _plain(model: Any) -> str:
    return json.dumps(model, sort_keys=True)


def _epoch(folder: Path) -> int:
    match = re.search(r"_e(\d+)", Path(str(_read_run(folder / RUN_FILE).get("checkpoint", ""))).name)
    return int(match[1]) if match else -1


def table(entries: Sequence[Entry], figures: Sequence[Figures], scores: Sequence[Score | None], *, dataset: str,
          search_size: int, amp: str, where: str) -> str:
    """Return the Markdown table, a row per model, with what was measured and how below it."""
    precision = "" if amp == "none" else f", {amp}"
    names = next((list(score.values) for score in scores if score is not None), [])
    rows = [["model", "parameters", "GFLOPs a frame", "GFLOPs template", "frames/s", "ms a frame (10% .. 90%)",
             "memory", *(f"{dataset} {name}" for name in names), "results"],
            ["---", *["--:"] * (6 + len(names)), "---"]]
    for entry, figure, score in zip(entries, figures, scores, strict=True):
        cost = figure.cost
        memory = "" if figure.memory_bytes is None else f"{figure.memory_bytes / 2**20:.0f} MiB"
        cells = [entry.name, _millions(cost.parameters), f"{cost.search_flops / 1e9:.2f}",
                 f"{cost.template_flops / 1e9:.2f}", f"{1000 / figure.median_ms:.1f}",
                 f"{figure.median_ms:.1f} ({figure.low_ms:.1f} .. {figure.high_ms:.1f})", memory,
                 *([""] * len(names) + ["none found"] if score is None else _score_cells(score))]
        rows.append(cells)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", f"Search crop {search_size} px{precision}, one target at a time, crop and scoring included, reading "
                  f"the image not; median of the frames; the models took turns. A multiplication with its addition "
                  f"counts as two FLOPs. Memory: the most that model and frame took. Measured on {where}."]
    return "\n".join(lines)


def _score_cells(score: Score) -> list[str]:
    notes = [score.tracker, score.checkpoint]
    if score.sequences < score.expected:
        notes.append(f"{score.sequences} of {score.expected} sequences")
    if score.tuned_on:
        notes.append(f"tracker tuned on {score.tuned_on}")
    return [*(f"{value:.3f}" for value in score.values.values()), ", ".join(note for note in notes if note)]


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"
