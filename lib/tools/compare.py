"""Which model is better, and what does it cost: one Markdown table of the models of YAML files or checkpoints."""

from __future__ import annotations

import multiprocessing
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from lib.benchmarks import RUN_FILE, Benchmark, layout_of, load_benchmark, result_folder
from lib.checkpoint import find_weights, load_model
from lib.config_file import load_config
from lib.errors import UserError, die_with_parent
from lib.eval_toolkit.protocols import score_results
from lib.eval_toolkit.tables import Cell, Table, markdown_table
from lib.files import check_output, write_whole
from lib.models.models import build_model
from lib.options import Amp, CompareOptions
from lib.testing.opening import pick_device
from lib.testing.results import plain_values, read_run
from lib.tools import measure
from lib.tracker.ocean import OceanTracker
from lib.tracker.params import TrackerParams, find_tracker_params


@dataclass(frozen=True)
class Entry:
    """A model to compare."""

    name: str  # the YAML file's, or the checkpoint's with its folder
    model: Mapping[str, Any]  # keywords of build_model
    snapshot: Path  # where its checkpoints lie, or the one checkpoint
    tracker: str = ""  # folder of its results, "" to look for it


class Figures(NamedTuple):
    """What one model was measured at."""

    cost: measure.Cost
    speed: measure.Speed
    memory_bytes: int | None


@dataclass(frozen=True)
class Score:
    """What one model has reached on the test set."""

    tracker: str
    checkpoint: str
    values: measure.Values
    sequences: int
    expected: int
    tuned_on: str


def main(options: CompareOptions) -> int:
    """Print the table of the models that the command line names; return 0. Raises UserError."""
    entries = [read_entry(text) for text in options.cfg]
    names = [entry.name for entry in entries]
    if len(set(names)) < len(names):
        raise UserError(f"two of the files have the same name ({', '.join(names)}); the rows could not be told apart")
    device, dataset = pick_device(options.device), layout_of(options.dataset).name
    if options.out is not None:
        check_output(options.out, flag="--out", folder=False)
    search_size = options.search_size or find_tracker_params(dataset)[0].small_sz
    busy = measure.load()
    figures = measure_all(entries, search_size=search_size, device=str(device), amp=options.amp, frames=options.frames)
    scores: list[Score | None] = [None] * len(entries)
    if (results := result_folder(options.result_dir, dataset)).is_dir():
        benchmark = load_benchmark(dataset, options.dataset_dir, images=False)
        scores = [find_score(entry, results, benchmark) for entry in entries]
    text = table(entries, figures, scores, dataset=dataset, search_size=search_size, amp=options.amp,
                 where=f"{measure.machine(device, busy=busy)}; commit {measure.commit()}")
    print(text)
    if options.out:
        write_whole(options.out, text + "\n")
    return 0


def read_entry(text: str) -> Entry:
    """Return the model of `FILE` or `FILE=TRACKER`: a YAML file, a checkpoint or the name of shipped weights."""
    name, _, tracker = text.partition("=")
    path = find_weights(Path(name))
    if path.suffix not in (".yaml", ".yml"):
        known = path.stem if path != Path(name) else f"{path.parent.name}/{path.stem}".lstrip("/")
        return Entry(known, load_model(path, online=False).spec, path, tracker)
    cfg = load_config(path)
    with torch.device("meta"):  # the spec of a model of these options, which says less than they do: what results tell
        spec = build_model(**cfg.model_options()).spec
    return Entry(path.stem, spec, Path(cfg.CHECKPOINT_DIR), tracker)


def measure_all(entries: Sequence[Entry], *, search_size: int, device: str, amp: Amp, frames: int) -> list[Figures]:
    """Return the figures of each model. Each has a process of its own, so memory is its own; they take turns."""
    context = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, context, die_with_parent, (signal.SIGKILL,)) for _ in entries]
    bar = tqdm(total=len(entries) * (measure.ROUNDS + 1), unit="step", file=sys.stderr, dynamic_ncols=True)
    found: list[tuple[measure.Cost, int | None]] = []
    try:
        with bar:
            for entry, pool in zip(entries, pools, strict=True):
                bar.set_postfix_str(entry.name)
                found.append(_ask(entry, pool, _set_up, dict(entry.model), search_size, device, amp))
                bar.update()
            timers = [partial(_ask, entry, pool, _run) for entry, pool in zip(entries, pools, strict=True)]
            speeds = measure.time_in_turns(timers, frames, tick=bar.update)
    finally:
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
    return [Figures(cost, speed, memory) for (cost, memory), speed in zip(found, speeds, strict=True)]


def _ask(entry: Entry, pool: ProcessPoolExecutor, function: Any, *arguments: Any) -> Any:
    try:
        return pool.submit(function, *arguments).result()
    except (BrokenProcessPool, torch.OutOfMemoryError) as error:
        raise UserError(f"{entry.name}: its process was ended by the system, or memory ran out "
                        f"({type(error).__name__}); free some memory or compare fewer models at once") from error


_timer: list[measure.FrameTimer] = []  # what a model's own process holds between two questions


def _set_up(model_options: dict[str, Any], search_size: int, device: str, amp: Amp) -> tuple[measure.Cost, int | None]:
    with torch.device("meta"):
        build_model(**model_options)  # for the modules it imports, which are not the model's memory
    before = measure.watch_memory()
    torch.manual_seed(0)
    model = build_model(**model_options)
    params = TrackerParams(small_sz=search_size, big_sz=search_size)
    tracker = OceanTracker(model, params, device=device, amp=amp)
    memory = measure.FrameTimer(tracker).peak_bytes(before)  # first of all: what follows takes more
    measure.calibrate_bn(model)
    _timer.append(measure.FrameTimer(tracker))
    return measure.count_cost(model, search_size=search_size), memory


def _run(frames: int) -> list[float]:
    return _timer[0].seconds(frames)


def find_score(entry: Entry, root: Path, benchmark: Benchmark) -> Score | None:
    """Return the score of a model's results below `root`, None without any.

    Its results are in the folder named for it; else in those folders whose run.json tells of this model and of a
    checkpoint from its CHECKPOINT_DIR. Of several the last epoch's counts: the best would be chosen on the test set.
    """
    if entry.tracker:
        if not (root / entry.tracker).is_dir():
            raise UserError(f"{root / entry.tracker}: no such folder of results; expected one below {root}")
        runs = {root / entry.tracker: read_run(root / entry.tracker) or {}}
    else:
        runs = {path.parent: run for path in sorted(root.glob(f"*/{RUN_FILE}"))
                if (run := read_run(path.parent)) and _made_by(run, entry)}
    checkpoints = {folder: Path(str(run.get("checkpoint", ""))).name for folder, run in runs.items()
                   if any(folder.glob("*.txt"))}
    if not checkpoints:
        return None
    folder = max(checkpoints, key=lambda folder: (_epoch(checkpoints[folder]), folder.name))
    summary = score_results(benchmark, folder, allow_missing=bool(benchmark.missing))
    return Score(folder.name, checkpoints[folder], summary.headline, len(summary.names), summary.expected,
                 summary.tuned_on)


def _epoch(checkpoint: str) -> int:
    match = re.search(r"_e(\d+)", checkpoint)
    return int(match[1]) if match else -1


def _made_by(run: Mapping[str, Any], entry: Entry) -> bool:
    checkpoint = Path(str(run.get("checkpoint", ""))).resolve()
    return (run["identity"].get("model") == plain_values(entry.model)
            and entry.snapshot.resolve() in (checkpoint, checkpoint.parent))


def table(entries: Sequence[Entry], figures: Sequence[Figures], scores: Sequence[Score | None], *, dataset: str,
          search_size: int, amp: str, where: str) -> str:
    """Return the Markdown table, a row per model, with what was measured and how below it."""
    names = next((list(score.values) for score in scores if score is not None), [])
    columns = ["model", "parameters", "GFLOPs a frame", "GFLOPs template", "frames/s", "ms a frame (10% .. 90%)",
               "memory", *(f"{dataset} {name}" for name in names), "results"]
    rows: list[tuple[Cell, ...]] = []
    for entry, (cost, speed, memory), score in zip(entries, figures, scores, strict=True):
        marks: list[Cell] = [*[""] * len(names), "none found"]
        if score is not None:
            notes = (score.tracker, score.checkpoint,
                     f"{score.sequences} of {score.expected} sequences" * (score.sequences < score.expected),
                     f"tracker tuned on {score.tuned_on}" * bool(score.tuned_on))
            marks = [*score.values.values(), ", ".join(filter(None, notes))]
        rows.append((entry.name, f"{cost.parameters / 1e6:.2f} M", f"{cost.search_flops / 1e9:.2f}",
                     f"{cost.template_flops / 1e9:.2f}", f"{1000 / speed.median:.1f}",
                     f"{speed.median:.1f} ({speed.low:.1f} .. {speed.high:.1f})",
                     "" if memory is None else f"{memory / 2**20:.0f} MiB", *marks))
    precision = "" if amp == "none" else f", {amp}"
    note = (f"Search crop {search_size} px{precision}, one target at a time, crop and scoring included, reading the "
            f"image not; median of the frames; the models took turns. A multiplication with its addition counts as two "
            f"FLOPs. Memory: the most that model and frame took. Measured on {where}.")
    return f"{markdown_table(Table('', tuple(columns), tuple(rows)))}\n\n{note}"
