"""One key: train, test the epochs, tune and report, as the YAML's TRAIN / TEST / TUNE.ISTRUE say.

    python tracking/onekey.py --cfg experiments/train/Ocean.yaml

Each part is one of the commands that can be called by hand, and does only what is missing: started again after a kill
at any moment, this goes on where it was. The test sets are looked for before the training begins, not days later.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import lib.tools.tune
from lib import commands
from lib.benchmarks import RUN_FILE, load_benchmark
from lib.config import Config, load_config
from lib.distributed import available_cpus
from lib.errors import UserError
from lib.eval_toolkit.protocols import check_scored_here, is_one_pass
from lib.files import read_json, sha256_of
from lib.log import RunLog
from lib.testing.run import Parser, params_for, positive
from lib.training.checkpoints import differences, newest_intact, place_of, read_resumable

REPORT = "_onekey"  # folder of the report, below the data set's results
_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 when every part that is asked for is done, else the exit code of the one that stopped."""
    options = _parse(argv)
    cfg = load_config(options.cfg, overrides=options.overrides)
    if not (cfg.TRAIN.ISTRUE or cfg.TEST.ISTRUE or cfg.TUNE.ISTRUE):
        raise UserError(f"{options.cfg}: TRAIN.ISTRUE, TEST.ISTRUE and TUNE.ISTRUE are all False: nothing to do")
    _check(cfg, options)
    if cfg.TRAIN.ISTRUE and (code := _train(cfg, options)):
        return code
    if cfg.TEST.ISTRUE:
        _say("test", f"epochs {cfg.TEST.START_EPOCH} to {_last_epoch(cfg)} on {cfg.TEST.DATA}")
        if code := commands.call("sweep", test_flags(cfg, options)):
            return code
    if cfg.TUNE.ISTRUE:
        _tune(cfg, options)
    for dataset in dict.fromkeys([cfg.TEST.DATA] * cfg.TEST.ISTRUE + [cfg.TUNE.DATA] * cfg.TUNE.ISTRUE):
        _report(dataset, cfg, options)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("onekey.py", description="Train, test the epochs, tune and report, as one YAML says.",
                    allow_abbrev=False)
    parser.add_argument("--cfg", type=Path, required=True, help="training YAML; TRAIN, TEST, TUNE.ISTRUE choose parts")
    parser.add_argument("--dataset_dir", type=Path, default=Path("dataset"), help="folder of the test sets")
    parser.add_argument("--result_dir", type=Path, default=Path("result"), help="results go to DIR/<dataset>/<tracker>")
    parser.add_argument("--nproc", type=positive, help="training processes on a machine without GPU; default 1")
    parser.add_argument("--trials", type=positive, default=100, help="trials of the tuning, pruned ones included")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as OCEAN.TRAIN.END_EPOCH=20")
    return parser.parse_intermixed_args(argv)


def _check(cfg: Config, options: argparse.Namespace) -> None:
    """Raise UserError for what would stop a later part, before the first one begins."""
    if cfg.TEST.ISTRUE and cfg.TRAIN.ISTRUE and cfg.TEST.START_EPOCH > cfg.TRAIN.END_EPOCH:
        raise UserError(f"{options.cfg}: TEST.START_EPOCH is {cfg.TEST.START_EPOCH}, after the training's last epoch "
                        f"{cfg.TRAIN.END_EPOCH}; set it to one that there will be")
    if cfg.TUNE.ISTRUE and importlib.util.find_spec("optuna") is None:
        raise UserError("TUNE.ISTRUE: Optuna is not installed; pip install -e '.[tune]', or set TUNE.ISTRUE=False")
    for part in (cfg.TEST, cfg.TUNE):
        if part.ISTRUE:
            check_scored_here(part.DATA)
            load_benchmark(part.DATA, options.dataset_dir, images=True)


def _say(part: str, text: str) -> None:
    with RunLog(main=True):
        _log.info("one key: %s: %s", part, text)


def _last_epoch(cfg: Config) -> int:
    """Return the last epoch to test: TEST's, or the training's where that ends before."""
    return min(cfg.TEST.END_EPOCH, cfg.TRAIN.END_EPOCH) if cfg.TRAIN.ISTRUE else cfg.TEST.END_EPOCH


def _train(cfg: Config, options: argparse.Namespace) -> int:
    """Return 0 after training what is left, else the training's exit code (75: stopped on request)."""
    newest = newest_intact(Path(cfg.CHECKPOINT_DIR))
    if newest is not None:
        there = read_resumable(newest)
        if place_of(there) == (cfg.TRAIN.END_EPOCH, 0) and not differences(there["config"], cfg):
            _say("train", f"done already: {newest}")
            return 0
    _say("train", f"to epoch {cfg.TRAIN.END_EPOCH} in {cfg.CHECKPOINT_DIR}")
    return commands.call("train", train_flags(cfg, options, resume=newest is not None))


def train_flags(cfg: Config, options: argparse.Namespace, *, resume: bool) -> list[str]:
    """Return the flags of train_ocean.py: every GPU of the YAML where there are any, `--nproc` processes elsewhere."""
    flags = ["--cfg", str(options.cfg), *options.overrides]
    if torch.cuda.is_available():
        flags += ["--gpus", cfg.GPUS]
    elif options.nproc:
        flags += ["--nproc", str(options.nproc)]
    return [*flags, "--resume", "auto"] if resume else flags


def test_flags(cfg: Config, options: argparse.Namespace) -> list[str]:
    """Return the flags of test_epochs.py: a worker on each GPU, or TEST.THREADS of them, at most one per CPU."""
    flags = ["--arch", cfg.TRAIN.MODEL, "--snapshot", cfg.CHECKPOINT_DIR, *_data_flags(cfg.TEST.DATA, options),
             "--result_dir", str(options.result_dir), "--start_epoch", str(max(1, cfg.TEST.START_EPOCH)),
             "--end_epoch", str(_last_epoch(cfg))]
    if torch.cuda.is_available():
        return [*flags, "--gpus", cfg.GPUS]
    return [*flags, "--workers", str(min(cfg.TEST.THREADS, len(available_cpus())))]


def _data_flags(dataset: str, options: argparse.Namespace) -> list[str]:
    return ["--dataset", dataset, "--dataset_dir", str(options.dataset_dir)]


def best_checkpoint(cfg: Config, options: argparse.Namespace) -> Path:
    """Return the checkpoint that the test found best, or the last one where nothing was tested; UserError for none."""
    there = _tested(cfg, options)
    for entry in there["checkpoints"]:
        if entry["name"] == there["best"]:
            return Path(entry["path"])
    last = newest_intact(Path(cfg.CHECKPOINT_DIR))
    if last is None:
        raise UserError(f"{cfg.CHECKPOINT_DIR}: no checkpoint to tune; train first, or set CHECKPOINT_DIR")
    return last


def _tested(cfg: Config, options: argparse.Namespace) -> dict[str, Any]:
    """Return what test_epochs.py has written of the checkpoints that it scored; none where nothing is tested."""
    summary = options.result_dir / cfg.TEST.DATA / f"{cfg.TRAIN.MODEL}_epochs.json"
    return dict(read_json(summary)) if cfg.TEST.ISTRUE and summary.is_file() else {"best": None, "checkpoints": []}


def tune_flags(cfg: Config, options: argparse.Namespace, checkpoint: Path, out: Path) -> list[str]:
    """Return the flags of tune.py."""
    return ["--cfg", str(options.cfg), "--arch", cfg.TRAIN.MODEL, "--resume", str(checkpoint), "--trials",
            str(options.trials), "--out", str(out), *_data_flags(cfg.TUNE.DATA, options)]


def _tune(cfg: Config, options: argparse.Namespace) -> None:
    """Tune the best checkpoint, and test it with its own settings and with the tuned ones."""
    checkpoint = best_checkpoint(cfg, options)
    _say("tune", f"{checkpoint} on {cfg.TUNE.DATA}, {options.trials} trials in all")
    out = lib.tools.tune.default_folder(checkpoint, cfg.TUNE.DATA, digest=sha256_of(checkpoint))
    lib.tools.tune.main(tune_flags(cfg, options, checkpoint, out))
    for flags in tuned_test_flags(cfg, options, checkpoint, out / "best.yaml"):
        commands.call("test", flags)


def tuned_test_flags(cfg: Config, options: argparse.Namespace, checkpoint: Path, best: Path) -> list[list[str]]:
    """Return the flags of test_ocean.py, untuned and tuned; results of a tuning that has gone on since are replaced."""
    arch = cfg.TRAIN.MODEL
    shared = ["--arch", arch, "--resume", str(checkpoint), *_data_flags(cfg.TUNE.DATA, options), "--result_dir",
              str(options.result_dir)]
    folder = options.result_dir / cfg.TUNE.DATA / f"{arch}_tuned"
    tuned = [*shared, "--params", str(best), "--tracker_name", folder.name]
    params, _ = params_for(best, cfg.TUNE.DATA, arch=arch)
    settings = {key: value for key, value in asdict(params).items() if key != "tuned_on"}
    if (folder / RUN_FILE).is_file():
        identity: dict[str, Any] = read_json(folder / RUN_FILE)["identity"]
        if identity["tracker"] != settings or identity["checkpoint_sha256"] != sha256_of(checkpoint):
            tuned.append("--fresh")
    return [[*shared, "--tracker_name", f"{arch}_{checkpoint.stem}"], tuned]


def reported(dataset: str, cfg: Config, options: argparse.Namespace) -> list[str]:
    """Return the result folders of a data set that the report is about: the tested epochs, untuned and tuned."""
    names = [entry["name"] for entry in _tested(cfg, options)["checkpoints"]] if dataset == cfg.TEST.DATA else []
    if cfg.TUNE.ISTRUE and dataset == cfg.TUNE.DATA:
        names += [f"{cfg.TRAIN.MODEL}_{best_checkpoint(cfg, options).stem}", f"{cfg.TRAIN.MODEL}_tuned"]
    return list(dict.fromkeys(names))


def _report(dataset: str, cfg: Config, options: argparse.Namespace) -> None:
    """Score what was tested on a data set: tables, plots and, for one-pass sets, a page; unless nothing is new."""
    results, names = options.result_dir / dataset, reported(dataset, cfg, options)
    out = results / REPORT
    last = out / ("report.html" if is_one_pass(dataset) else "scores.json")  # what a report writes last
    if last.is_file() and _is_reported(out / "scores.json", [results / name for name in names]):
        _say("report", f"done already: {out}")
        return
    _say("report", str(out))
    flags = [*_data_flags(dataset, options), "--tracker_result_dir", str(options.result_dir), "--trackers", *names,
             "--vis", "--out", str(out)]
    if load_benchmark(dataset, options.dataset_dir, images=False).missing:
        flags.append("--allow-missing")
    if is_one_pass(dataset):
        flags += ["--html", str(last)]
    commands.call("eval", flags)


def _is_reported(scores: Path, folders: list[Path]) -> bool:
    """Return whether the report is of these folders and newer than every result in them."""
    if not scores.is_file():
        return False
    files = [path for folder in folders for path in [*folder.rglob("*.txt"), folder / RUN_FILE]]
    newest = max((path.stat().st_mtime_ns for path in files), default=0)
    told = {tracker["tracker"] for tracker in read_json(scores)["trackers"]}
    return scores.stat().st_mtime_ns > newest and told == {folder.name for folder in folders}
