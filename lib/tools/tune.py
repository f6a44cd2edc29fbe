"""Tune the tracking hyper-parameters on a test set: Optuna's TPE, resumable, by any number of processes at once.

The study is a SQLite file: start the same command again to go on, or several times at once to go faster. Hopeless
trials stop after some sequences. The settings in force are the first trial, so that the best are never worse, and carry
the stamp of the test set they were tuned on.
"""

from __future__ import annotations

import contextlib
import copy
import html
import logging
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from lib.benchmarks import Benchmark, Sequence as Video
from lib.cli import as_argv
from lib.config_file import load_config
from lib.errors import UserError, package
from lib.eval_toolkit.protocols import check_scored_here
from lib.eval_toolkit.tables import Cell, Table, markdown_table
from lib.files import MAIN, atomic_write, check_output, write_whole
from lib.log import RunLog
from lib.options import TuneOptions
from lib.testing.opening import weights_file
from lib.testing.results import RunRecord, record_of
from lib.testing.run import open_with_params, say_what_is_there
from lib.tools.measure import Values, follow_and_score, load_videos
from lib.tracker.ocean import OceanTracker
from lib.tracker.params import TrackerParams

SIDES = (255, 271, 287)
# Ranges that hold the published settings of every benchmark (OCEAN section 5) with room around them.
RANGES = {"penalty_k": (0.0, 0.2), "lr": (0.2, 0.9), "window_influence": (0.05, 0.65), "ratio": (0.7, 1.0),
          "online_ratio": (0.1, 0.95)}
STEP = 0.001
SETTINGS = ("penalty_k", "lr", "window_influence", "small_sz", "big_sz", "ratio", "online_ratio")
HEARTBEAT, GRACE = 30, 120  # seconds: a trial whose process was killed counts as failed after the second
OnChunk = Callable[[int, Values], object]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """Settings and the scores that were reached with them."""

    name: str
    params: TrackerParams
    values: Mapping[str, float]  # scores by name, the one that is tuned for first


@dataclass
class Task:
    """What every trial does: follow the same videos with other settings."""

    tracker: OceanTracker
    record: RunRecord  # its params are the settings in force
    benchmark: Benchmark
    batch: int
    stamp: str  # what the settings found are said to be tuned on

    @property
    def has_branch(self) -> bool:
        """Return whether the model has two scores, which `ratio` mixes."""
        return bool(self.tracker.model.spec.get("align"))

    def chunks(self) -> list[tuple[Video, ...]]:
        """Return the videos in the order of every trial, as many together as advance together.

        A fixed shuffle: neighbours by name are often alike, and the first ones decide who is pruned.
        """
        videos = self.benchmark.sequences
        order = np.random.default_rng(0).permutation(len(videos))
        return [tuple(videos[i] for i in order[start:start + self.batch]) for start in range(0, len(order), self.batch)]

    def scores(self, params: TrackerParams, on_chunk: OnChunk) -> Values:
        """Return the scores with these settings, that tuned for first; `on_chunk` gets videos done and their scores."""
        tracker = copy.copy(self.tracker)  # the same model
        tracker.params = params
        values: Values = {}
        for done, (values,) in follow_and_score([tracker], self.record, self.benchmark, self.chunks(), self.batch):
            on_chunk(done, values)
        return values


def main(options: TuneOptions) -> int:
    """Tune as the options say, print the table of before and after; return 0. Raises UserError."""
    if not options.dataset:
        options = replace(options, dataset=load_config(options.cfg).TUNE.DATA if options.cfg else "OTB2015")
    with RunLog(main=not options.helper):
        text = tune(options)
    if not options.helper:
        print(text)
    return 0


def tune(options: TuneOptions) -> str:
    """Return the table of settings after working on the study until it has its trials."""
    _optuna()
    check_scored_here(options.dataset)
    check_output(options.out or Path("logs"), flag="--out")
    task = _open_task(options)
    options = replace(options, dataset=task.benchmark.name)
    folder = options.out or default_folder(options.resume, task.benchmark.name, digest=task.record.sha256)
    study = open_study(folder / "study.db", options, checkpoint=task.record.sha256, videos=task.benchmark.names)
    start, untuned = task.record.params, type(task.record.params)()
    known = {"before": start, "untuned": untuned} if replace(start, tuned_on="") != untuned else {"untuned": untuned}
    lines = [_baseline(study, task, name, params) for name, params in known.items()]
    # Only now, so that not every process measures the settings that the others are compared with.
    command = [sys.executable, str(MAIN), "tune", *as_argv(replace(options, workers=1, helper=True))]
    helpers = [subprocess.Popen(command) for _ in range(options.workers - 1)]
    text = ""
    try:
        _work(study, task, options.trials, silent=options.helper)
    finally:
        codes = [helper.wait() for helper in helpers]
        if any(codes):
            _log.warning("%d of %d helping processes failed; the study went on", np.count_nonzero(codes), len(codes))
        if not options.helper:
            text = _write(folder, study, task, lines)
    return text


def _open_task(options: TuneOptions) -> Task:
    """Return the videos, and the tracker with the settings in force."""
    benchmark = load_videos(options.dataset, options.dataset_dir, only=options.videos)
    say_what_is_there(benchmark)
    tracker, start, source = open_with_params(options, options.resume, benchmark.name)
    record = record_of(weights_file(options.arch, options.resume), model=tracker.model.spec, params=start,
                       params_source=source, dataset=benchmark.name, data_source=benchmark.source, amp=options.amp)
    stamp = benchmark.name
    if len(benchmark.sequences) < benchmark.expected:
        stamp = f"{len(benchmark.sequences)} of {benchmark.expected} sequences of {benchmark.name}"
    return Task(tracker, record, benchmark, options.batch, stamp)


def default_folder(checkpoint: Path, dataset: str, *, digest: str) -> Path:
    """Return where a study lies when --out is not given: of each checkpoint (by its sha256) and test set its own."""
    return Path("logs") / "tune" / f"{dataset}_{checkpoint.stem}_{digest[:8]}"


def open_study(path: Path, options: TuneOptions, *, checkpoint: str, videos: Sequence[str]) -> Any:
    """Return the study in a SQLite file, made if need be; UserError when it is of another checkpoint or data set."""
    optuna = _optuna()
    identity = {"checkpoint": checkpoint, "dataset": options.dataset, "videos": list(videos), "amp": options.amp,
                **({"online": True} if options.online else {})}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 120}},
                                             heartbeat_interval=HEARTBEAT, grace_period=GRACE)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=options.prune_after)
        sampler = optuna.samplers.TPESampler(seed=options.seed, multivariate=True)
        study = optuna.create_study(storage=storage, study_name="tracking", direction="maximize", sampler=sampler,
                                    pruner=pruner, load_if_exists=True)
        there = study.user_attrs.get("identity")
        if there is None:
            study.set_user_attr("identity", identity)
    except Exception as error:
        if isinstance(error, OSError) or type(error).__module__.startswith(("sqlalchemy", "optuna", "alembic")):
            raise UserError(f"{path}: not a study of this Optuna, or it cannot be written ({error}); "
                            f"choose another --out") from error
        raise
    if there is not None and there != identity:
        changed = ", ".join(key for key in {**there, **identity} if there.get(key) != identity.get(key))
        raise UserError(f"{path}: a study with another {changed}; choose another --out to begin a new one")
    return study


def _optuna() -> Any:
    optuna = package("optuna", needed_by="tuning", install="-e '.[tune]'")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Heartbeats, without which a killed process leaves a trial that never ends, are called experimental.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def suggest(trial: Any, start: TrackerParams, *, has_branch: bool) -> TrackerParams:
    """Return the sampler's proposal, in ranges widened to hold `start`; `ratio` only with two scores."""
    numbers: dict[str, Any] = {}
    for name, (low, high) in RANGES.items():
        if hasattr(start, name) and (name != "ratio" or has_branch):
            now = round(getattr(start, name), 3)
            numbers[name] = round(trial.suggest_float(name, min(low, now), max(high, now), step=STEP), 3)
    sides = {name: trial.suggest_categorical(name, SIDES) for name in ("small_sz", "big_sz")}
    return replace(start, tuned_on="", **numbers, **sides)


def _baseline(study: Any, task: Task, name: str, params: TrackerParams) -> Line:
    """Return the scores of given settings, measured once per study as a trial of it."""
    known = study.user_attrs.get(f"baseline {name}")
    if known is None or known["params"] != asdict(params):
        _log.info("%s settings: %s", name, params)
        steps: dict[int, float] = {}
        values = task.scores(params, lambda done, running: steps.update({done: first(running)}))
        known = {"params": asdict(params), "values": values}
        study.set_user_attr(f"baseline {name}", known)
        optuna = _optuna()
        # The sampler knows steps of its own; the exact settings stand beside them.
        probe = optuna.trial.FixedTrial({key: round(v, 3) for key, v in known["params"].items() if key in SETTINGS})
        suggest(probe, task.record.params, has_branch=task.has_branch)
        study.add_trial(optuna.trial.create_trial(
            value=first(values), params=probe.params, distributions=probe.distributions, intermediate_values=steps,
            user_attrs={"values": values, "params": asdict(params)}))
    _log.info("%s: %s", name, ", ".join(f"{key} {value:.3f}" for key, value in known["values"].items()))
    return Line(name, params, known["values"])


def first(values: Mapping[str, float]) -> float:
    """Return the score that is tuned for."""
    return next(iter(values.values()))


def _work(study: Any, task: Task, trials: int, *, silent: bool = False) -> None:
    """Run trials until the study has as many, those of other processes and earlier starts included."""
    optuna = _optuna()
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    videos = len(task.benchmark.sequences)

    def count() -> int:
        return len(study.get_trials(deepcopy=False, states=ended))

    with tqdm(total=trials, initial=min(count(), trials), unit="trial", file=sys.stderr, dynamic_ncols=True,
              disable=silent) as bar:

        def objective(trial: Any) -> float:
            def on_chunk(done: int, running: Values) -> None:
                bar.set_postfix_str(f"trial {trial.number}: {done}/{videos} sequences {first(running):.3f}, best "
                                    f"{best.value if (best := best_trial(study)) else 0:.3f}")
                trial.report(first(running), done)
                if done < videos and trial.should_prune():
                    raise optuna.TrialPruned

            values = task.scores(suggest(trial, task.record.params, has_branch=task.has_branch), on_chunk)
            trial.set_user_attr("values", values)
            return first(values)

        while count() < trials:
            study.optimize(objective, n_trials=1)
            bar.n = min(count(), trials)
            bar.refresh()


def best_trial(study: Any) -> Any | None:
    """Return the trial of the highest score, None while none is complete."""
    with contextlib.suppress(ValueError):
        return study.best_trial
    return None


def best_line(study: Any, lines: Sequence[Line], *, stamp: str) -> Line:
    """Return the best settings, stamped, or those in force (`lines[0]`) with their own stamp where none is better."""
    trial = best_trial(study)
    if trial is None or first(trial.user_attrs["values"]) <= first(lines[0].values):
        return replace(lines[0], name=f"best: {lines[0].name}")
    exact = trial.user_attrs.get("params") or {key: trial.params[key] for key in SETTINGS if key in trial.params}
    params = replace(lines[0].params, **{**exact, "tuned_on": stamp})
    return Line(f"tuned (trial {trial.number})", params, trial.user_attrs["values"])


def _write(folder: Path, study: Any, task: Task, lines: Sequence[Line]) -> str:
    """Write table, YAML and plots of what is known so far; return the table."""
    states = Counter(trial.state.name for trial in study.get_trials(deepcopy=False))
    made = (f"{task.record.checkpoint.name} on {task.stamp}, {states['COMPLETE']} trials and {states['PRUNED']} that "
            "were given up early")
    best = best_line(study, lines, stamp=task.stamp)
    gain = f"best.yaml: {next(iter(best.values))} {first(best.values) - first(lines[0].values):+.3f}"
    notes = [f"{made}. Settings in force: '{lines[0].name}', from {task.record.params_source}.",
             f"{gain} against them. Tuned and scored on the same videos: that says nothing about other videos."]
    text = table([*lines, best], dataset=task.benchmark.name, notes=notes)
    now, before = (", ".join(f"{name} {value:.4f}" for name, value in line.values.items()) for line in (best, lines[0]))
    comments = [f"tuned for {made}", now, f"{lines[0].name}: {before}", gain]
    with atomic_write(folder / "best.yaml") as file:
        file.writelines(f"# {comment}\n" for comment in comments)
        yaml.safe_dump({"TEST": asdict(best.params)}, file, sort_keys=False)
    write_plots(folder / "study.html", study, title=f"Tuning of {made}")
    write_whole(folder / "study.md", text + "\n")
    _log.info("%s: best.yaml (for --params), study.md, study.html, study.db", folder)
    return text


def table(lines: Sequence[Line], *, dataset: str, notes: Sequence[str]) -> str:
    """Return the Markdown table of the settings; the first line is the one that others are compared with."""
    names = list(lines[0].values)
    searched = [name for name in SETTINGS if hasattr(lines[0].params, name)]
    columns = ("settings", *searched, f"{dataset} {names[0]}", "difference", *names[1:], "tuned on")
    rows: list[tuple[Cell, ...]] = []
    for line in lines:
        gap = "" if line is lines[0] else f"{first(line.values) - first(lines[0].values):+.3f}"
        settings = [f"{getattr(line.params, name):g}" for name in searched]
        rows.append((line.name, *settings, line.values[names[0]], gap, *(line.values[name] for name in names[1:]),
                     line.params.tuned_on or "nothing"))
    return "\n".join([markdown_table(Table("", columns, tuple(rows))), "", *notes])


def write_plots(path: Path, study: Any, *, title: str) -> None:
    """Write Optuna's plots of a study as one page that needs no network; without plotly only a line to the log."""
    from optuna import importance, trial, visualization

    if not visualization.is_available():
        _log.warning("plotly is not installed, so there are no plots; pip install -e '.[tune]'")
        return
    figures = {"Score by trial": visualization.plot_optimization_history(study),
               "Running score and pruning": visualization.plot_intermediate_values(study),
               "Score by setting": visualization.plot_slice(study)}
    if len(study.get_trials(deepcopy=False, states=(trial.TrialState.COMPLETE,))) >= 2:
        # The default evaluator needs scikit-learn; this one does not.
        evaluator = importance.PedAnovaImportanceEvaluator()
        figures |= {"Settings together": visualization.plot_parallel_coordinate(study),
                    "When trials ran": visualization.plot_timeline(study),
                    "Which settings matter": visualization.plot_param_importances(study, evaluator=evaluator)}
    parts: list[str] = []
    for name, figure in figures.items():
        figure.update_layout(title=name)
        parts.append(figure.to_html(full_html=False, include_plotlyjs=not parts))
    write_whole(path, f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"
                      f"</head><body><h1>{html.escape(title)}</h1>{''.join(parts)}</body></html>\n")
