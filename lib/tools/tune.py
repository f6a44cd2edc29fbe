"""Tune the tracking hyper-parameters on a test set: Optuna's TPE, resumable, by any number of processes at once.

    python tracking/tune.py --cfg experiments/train/Ocean.yaml --resume snapshot/checkpoint_e20.pth --dataset OTB2015

The study is a SQLite file: start the same command again to go on, or several times at once to go faster. Hopeless
trials stop after some sequences. The best settings carry the stamp of the test set they were tuned on.
"""

from __future__ import annotations

import argparse
import copy
import logging
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lib.benchmarks import Benchmark
from lib.benchmarks import Sequence as Video
from lib.config import load_config
from lib.errors import UserError
from lib.eval_toolkit.protocols import check_scored_here, score_results
from lib.files import atomic_write
from lib.log import RunLog
from lib.testing.opening import open_tracker, weights_file
from lib.testing.results import ResultFolder, RunRecord, record_of
from lib.testing.run import Candidate, Parser, boolean, job_of, params_for, positive, run_jobs, say_what_is_there
from lib.tools.trial import load_videos
from lib.tools.tune_report import Line, table, write_params, write_plots
from lib.tracker.ocean import OceanTracker
from lib.tracker.params import TrackerParams

SCRIPT = Path(__file__).resolve().parents[2] / "tracking" / "tune.py"
SIDES = (255, 271, 287)
# Ranges that hold the published settings of every benchmark (OCEAN section 5) with room around them.
RANGES = {"penalty_k": (0.0, 0.2), "lr": (0.2, 0.9), "window_influence": (0.05, 0.65), "ratio": (0.7, 1.0)}
STEP = 0.001
HEARTBEAT, GRACE = 30, 120  # seconds: a trial whose process was killed counts as failed after the second
Values = dict[str, float]  # scores by name, the one that is tuned for first
OnChunk = Callable[[int, Values], object]
_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Tune as the command line says, print the table of before and after; return 0. Raises UserError."""
    options = _parse(list(argv) if argv is not None else sys.argv[1:])
    with RunLog(main=not options.helper):
        text = tune(options)
    if not options.helper:
        print(text)
    return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("tune.py", description="Tune the tracking hyper-parameters on a test set.", allow_abbrev=False)
    parser.add_argument("--cfg", type=Path, help="training configuration: TUNE.DATA is the test set by default")
    parser.add_argument("--resume", type=Path, required=True, help="checkpoint, e.g. snapshot/checkpoint_e20.pth")
    parser.add_argument("--dataset", default="", help="test set; default TUNE.DATA of --cfg, or OTB2015")
    parser.add_argument("--dataset_dir", type=Path, default=Path("dataset"), help="its folder, or that folder's parent")
    parser.add_argument("--videos", nargs="*", default=[], metavar="NAME", help="only these of its sequences")
    parser.add_argument("--trials", type=positive, default=100, help="trials of the whole study, pruned ones included")
    parser.add_argument("--prune_after", type=positive, default=3, help="sequences before a trial may be given up")
    parser.add_argument("--out", type=Path, help="folder of study, table, YAML and plots; default below logs/tune")
    parser.add_argument("--workers", type=positive, default=1, help="processes of this machine that work on the study")
    parser.add_argument("--helper", type=boolean, default=False, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=positive, default=1, help="sequences that advance together on the device")
    parser.add_argument("--arch", default="Ocean", help="architecture; OceanONNX takes an exported folder as --resume")
    parser.add_argument("--align", type=boolean, metavar="True|False", help="default: if the checkpoint has the branch")
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:N; default: cuda where there is one")
    parser.add_argument("--amp", choices=("none", "bf16", "fp16"), default="none", help="number format of the network")
    parser.add_argument("--seed", type=int, help="of the sampler, for a study by one process that can be repeated")
    options = parser.parse_args(argv)
    options.argv = tuple(argv)
    options.dataset = options.dataset or (load_config(options.cfg).TUNE.DATA if options.cfg else "OTB2015")
    return options


@dataclass
class Task:
    """What every trial does: follow the same videos with other settings."""

    tracker: OceanTracker
    record: RunRecord
    benchmark: Benchmark
    batch: int
    stamp: str  # what settings found here were tuned on

    @property
    def has_branch(self) -> bool:
        """Return whether `ratio` means anything to this model."""
        return bool(self.tracker.model.spec.get("align"))

    def chunks(self) -> list[tuple[Video, ...]]:
        """Return the videos in the order of every trial, as many together as advance together.

        A fixed shuffle: neighbours by name are often alike, and the first ones decide who is pruned.
        """
        videos = self.benchmark.sequences
        order = np.random.default_rng(0).permutation(len(videos))
        return [tuple(videos[i] for i in order[start:start + self.batch]) for start in range(0, len(order), self.batch)]

    def scores(self, params: TrackerParams, on_chunk: OnChunk) -> Values:
        """Return the scores with these settings by name, the one that is tuned for first.

        `on_chunk` is told the number of videos done and their scores.
        """
        tracker = copy.copy(self.tracker)  # the same model
        tracker.params = params
        done: list[Video] = []
        values: Values = {}
        with tempfile.TemporaryDirectory() as scratch:
            candidate = Candidate(tracker, ResultFolder(Path(scratch), self.record))
            for chunk in self.chunks():
                by_name = {video.name: video for video in chunk}
                for _ in run_jobs([candidate], by_name, map(job_of, chunk), batch=self.batch):
                    pass
                done += chunk
                part = replace(self.benchmark, sequences=tuple(done), expected=len(done), missing=())
                values = score_results(part, Path(scratch)).headline
                on_chunk(len(done), values)
        return values


def tune(options: argparse.Namespace) -> str:
    """Return the table of settings after working on the study until it has its trials."""
    check_scored_here(options.dataset)
    benchmark = load_videos(options.dataset, options.dataset_dir, only=options.videos)
    say_what_is_there(benchmark)
    start, source = params_for(None, benchmark.name, arch=options.arch, checkpoint=options.resume)
    tracker = open_tracker(options.arch, options.resume, start, align=options.align, device=options.device,
                           amp=options.amp)
    record = record_of(weights_file(options.arch, options.resume), model=tracker.model.spec, params=start,
                       params_source=source, dataset=options.dataset, data_source=benchmark.source, amp=options.amp)
    stamp = benchmark.name
    if len(benchmark.sequences) < benchmark.expected:
        stamp = f"{len(benchmark.sequences)} of {benchmark.expected} sequences of {benchmark.name}"
    task = Task(tracker, record, benchmark, options.batch, stamp)
    folder = options.out or default_folder(options.resume, benchmark.name, digest=record.sha256)
    study = open_study(folder / "study.db", options, checkpoint=record.sha256, videos=benchmark.names)
    lines = [_baseline(study, task, "untuned", TrackerParams())]
    if replace(start, tuned_on="") != TrackerParams():
        lines.append(_baseline(study, task, "before", start))
    # Only now, so that not every process measures the settings that the others are compared with.
    helpers = [subprocess.Popen([sys.executable, str(SCRIPT), *options.argv, "--workers", "1", "--helper", "True"])
               for _ in range(options.workers - 1)]
    text = ""
    try:
        _work(study, task, options.trials, silent=options.helper)
    finally:
        codes = [helper.wait() for helper in helpers]
        if any(codes):
            _log.warning("%d of %d helping processes failed; the study went on without them", np.count_nonzero(codes),
                         len(codes))
        if not options.helper:
            text = _write(folder, study, task, lines, options, source=source)
    return text


def default_folder(checkpoint: Path, dataset: str, *, digest: str) -> Path:
    """Return where a study lies when --out is not given: of each checkpoint (by its sha256) and test set its own."""
    return Path("logs") / "tune" / f"{dataset}_{checkpoint.stem}_{digest[:8]}"


def open_study(path: Path, options: argparse.Namespace, *, checkpoint: str, videos: Sequence[str]) -> Any:
    """Return the study in a SQLite file, made if need be; UserError when it is of another checkpoint or data set."""
    optuna = _optuna()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 120}},
                                             heartbeat_interval=HEARTBEAT, grace_period=GRACE)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=options.prune_after)
        sampler = optuna.samplers.TPESampler(seed=options.seed, multivariate=True)
        study = optuna.create_study(storage=storage, study_name="tracking", direction="maximize", sampler=sampler,
                                    pruner=pruner, load_if_exists=True)
        identity = {"checkpoint": checkpoint, "dataset": options.dataset, "videos": list(videos), "amp": options.amp}
        there = study.user_attrs.get("identity")
        if there is None:
            study.set_user_attr("identity", identity)
    except Exception as error:
        if type(error).__module__.startswith(("sqlalchemy", "optuna", "alembic")):
            raise UserError(f"{path}: not a study of this Optuna, or it cannot be written ({error}); "
                            f"choose another --out") from error
        raise
    if there is not None and there != identity:
        changed = ", ".join(key for key in identity if there.get(key) != identity[key])
        raise UserError(f"{path}: a study with another {changed}; choose another --out to begin a new one")
    return study


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError("tuning needs Optuna; pip install -e '.[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Heartbeats, without which a killed process leaves a trial that never ends, are called experimental.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def suggest(trial: Any, *, has_branch: bool) -> TrackerParams:
    """Return the settings that the sampler proposes for a trial; `ratio` only where the model has two scores."""
    names = [name for name in RANGES if name != "ratio" or has_branch]
    numbers = {name: round(trial.suggest_float(name, *RANGES[name], step=STEP), 3) for name in names}
    sides = {name: trial.suggest_categorical(name, SIDES) for name in ("small_sz", "big_sz")}
    return TrackerParams(**numbers, **sides)


def _baseline(study: Any, task: Task, name: str, params: TrackerParams) -> Line:
    """Return the scores of given settings, measured once per study; the sampler learns from them too."""
    known = study.user_attrs.get(f"baseline {name}")
    if known is None or known["params"] != asdict(params):
        _log.info("%s settings: %s", name, params)
        steps: dict[int, float] = {}
        values = task.scores(params, lambda done, running: steps.update({done: first(running)}))
        known = {"params": asdict(params), "values": values}
        study.set_user_attr(f"baseline {name}", known)
        _teach(study, task, params, values, steps)
    line = Line(name, params, known["values"])
    _log.info("%s: %s", name, ", ".join(f"{key} {value:.3f}" for key, value in line.values.items()))
    return line


def first(values: Values) -> float:
    """Return the score that is tuned for."""
    return next(iter(values.values()))


def _teach(study: Any, task: Task, params: TrackerParams, values: Values, steps: dict[int, float]) -> None:
    optuna = _optuna()
    probe = optuna.trial.FixedTrial({key: value for key, value in asdict(params).items() if key != "tuned_on"})
    try:
        suggest(probe, has_branch=task.has_branch)
        study.add_trial(optuna.trial.create_trial(
            value=first(values), params=probe.params, distributions=probe.distributions, intermediate_values=steps,
            user_attrs={"values": values}))
    except ValueError:
        _log.info("these settings lie outside of what is searched, so the sampler does not learn from them")


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

            values = task.scores(suggest(trial, has_branch=task.has_branch), on_chunk)
            trial.set_user_attr("values", values)
            return first(values)

        while count() < trials:
            study.optimize(objective, n_trials=1)
            bar.n = min(count(), trials)
            bar.refresh()


def best_trial(study: Any) -> Any | None:
    """Return the trial of the highest score, None while none is complete."""
    try:
        return study.best_trial
    except ValueError:
        return None


def _write(folder: Path, study: Any, task: Task, baselines: list[Line], options: argparse.Namespace, *,
           source: str) -> str:
    """Write table, YAML and plots of what is known so far; return the table."""
    states = Counter(trial.state.name for trial in study.get_trials(deepcopy=False))
    made = (f"{options.resume.name} on {task.stamp}, {states['COMPLETE']} trials and {states['PRUNED']} that were "
            "given up early")
    best = best_trial(study)
    if best is None:
        return table(baselines, dataset=task.benchmark.name, notes=[f"{made}, none of them complete."])
    keys = {key: value for key, value in best.params.items() if key in TrackerParams.__dataclass_fields__}
    line = Line(f"tuned (trial {best.number})", TrackerParams(**keys, tuned_on=task.stamp), best.user_attrs["values"])
    notes = [f"{made}. 'before' are the settings of {source}." if len(baselines) > 1 else f"{made}.",
             "Tuned and scored on the same videos: the difference says nothing about other videos."]
    text = table([*baselines, line], dataset=task.benchmark.name, notes=notes)
    write_params(folder / "best.yaml", line, untuned=baselines[0], comments=[f"tuned for {made}"])
    write_plots(folder / "study.html", study, title=f"Tuning of {made}")
    with atomic_write(folder / "study.md") as file:
        file.write(text + "\n")
    _log.info("%s: best.yaml (for --params), study.md, study.html, study.db", folder)
    return text
