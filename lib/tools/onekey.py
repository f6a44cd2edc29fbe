"""One key: train, test the epochs, tune and report, as the YAML's TRAIN / TEST / TUNE.ISTRUE say.

Each part is one of the commands that can be called by hand, and does only what is missing: started again after a kill
at any moment, this goes on where it was. The test sets are looked for before the training begins, not days later.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import lib.eval_toolkit.cli
import lib.testing.run
import lib.testing.sweep
import lib.tools.tune
import lib.training.loop
from lib.benchmarks import RUN_FILE, layout_of, load_benchmark, result_folder
from lib.config import Config
from lib.config_file import load_config
from lib.distributed import available_cpus
from lib.errors import UserError
from lib.eval_toolkit.protocols import check_scored_here, is_one_pass
from lib.files import check_output, read_json, sha256_of
from lib.log import say
from lib.options import EvalOptions, OnekeyOptions, SweepOptions, TestOptions, TrainOptions, TuneOptions
from lib.testing.run import params_for
from lib.training.checkpoints import differences, newest_intact, place_of, read_resumable

REPORT = "_onekey"  # folder of the report, below the data set's results


def main(options: OnekeyOptions) -> int:
    """Return 0 when every part that is asked for is done, else the exit code of the one that stopped."""
    cfg = load_config(options.cfg, overrides=options.overrides)
    # Test sets are called as their folders of results are: OTB2015 for OTB100.
    cfg = cfg.model_copy(update={name: part.model_copy(update={"DATA": layout_of(part.DATA).name})
                                 for name, part in (("TEST", cfg.TEST), ("TUNE", cfg.TUNE))})
    if not (cfg.TRAIN.ISTRUE or cfg.TEST.ISTRUE or cfg.TUNE.ISTRUE):
        raise UserError(f"{options.cfg}: TRAIN.ISTRUE, TEST.ISTRUE and TUNE.ISTRUE are all False: nothing to do")
    _check(cfg, options)
    if cfg.TRAIN.ISTRUE and (code := _train(cfg, options)):
        return code
    if cfg.TEST.ISTRUE:
        say(f"one key: test: epochs {first_epoch(cfg)} to {_last_epoch(cfg)} on {cfg.TEST.DATA}")
        if code := lib.testing.sweep.main(sweep_options(cfg, options)):
            return code
    if cfg.TUNE.ISTRUE:
        _tune(cfg, options)
    for dataset in dict.fromkeys([cfg.TEST.DATA] * cfg.TEST.ISTRUE + [cfg.TUNE.DATA] * cfg.TUNE.ISTRUE):
        _report(dataset, cfg, options)
    return 0


def _check(cfg: Config, options: OnekeyOptions) -> None:
    """Raise UserError for what would stop a later part, before the first one begins."""
    if cfg.TEST.ISTRUE and cfg.TRAIN.ISTRUE and first_epoch(cfg) > cfg.TRAIN.END_EPOCH:
        raise UserError(f"{options.cfg}: TEST.START_EPOCH is {cfg.TEST.START_EPOCH}, after the training's last epoch "
                        f"{cfg.TRAIN.END_EPOCH}; set it to one that there will be")
    if cfg.TUNE.ISTRUE and importlib.util.find_spec("optuna") is None:
        raise UserError("TUNE.ISTRUE: Optuna is not installed; pip install -e '.[tune]', or set TUNE.ISTRUE=False")
    for part in (cfg.TEST, cfg.TUNE):
        if part.ISTRUE:
            check_output(options.result_dir, flag="--result_dir")
            check_scored_here(part.DATA)
            load_benchmark(part.DATA, options.dataset_dir, images=True)


def first_epoch(cfg: Config) -> int:
    """Return the first epoch to test: TEST's, or 1 where that is a default behind the training's end."""
    behind = cfg.TRAIN.ISTRUE and cfg.TEST.START_EPOCH > cfg.TRAIN.END_EPOCH
    return 1 if behind and "START_EPOCH" not in cfg.TEST.model_fields_set else max(1, cfg.TEST.START_EPOCH)


def _last_epoch(cfg: Config) -> int:
    """Return the last epoch to test: TEST's, or the training's where that ends before."""
    return min(cfg.TEST.END_EPOCH, cfg.TRAIN.END_EPOCH) if cfg.TRAIN.ISTRUE else cfg.TEST.END_EPOCH


def _train(cfg: Config, options: OnekeyOptions) -> int:
    """Return 0 after training what is left, else the training's exit code (75: stopped on request)."""
    newest = newest_intact(Path(cfg.CHECKPOINT_DIR))
    if newest is not None:
        there = read_resumable(newest)
        if place_of(there) == (cfg.TRAIN.END_EPOCH, 0) and not differences(there["config"], cfg):
            say(f"one key: train: done already: {newest}")
            return 0
    say(f"one key: train: to epoch {cfg.TRAIN.END_EPOCH} in {cfg.CHECKPOINT_DIR}")
    return lib.training.loop.main(train_options(cfg, options, resume=newest is not None))


def train_options(cfg: Config, options: OnekeyOptions, *, resume: bool) -> TrainOptions:
    """Return how to train: on every GPU of the YAML where there are any, with `--nproc` processes elsewhere."""
    gpu = torch.cuda.is_available()
    return TrainOptions(cfg=options.cfg, overrides=options.overrides, resume="auto" if resume else None,
                        gpus=cfg.GPUS if gpu else None, nproc=None if gpu else options.nproc)


def sweep_options(cfg: Config, options: OnekeyOptions) -> SweepOptions:
    """Return how to test the epochs: with a worker on each GPU, or TEST.THREADS of them, at most one per CPU."""
    gpu = torch.cuda.is_available()
    return SweepOptions(
        arch=cfg.TRAIN.MODEL, snapshot=Path(cfg.CHECKPOINT_DIR), dataset=cfg.TEST.DATA, dataset_dir=options.dataset_dir,
        result_dir=options.result_dir, start_epoch=first_epoch(cfg), end_epoch=_last_epoch(cfg),
        gpus=cfg.GPUS if gpu else "", workers=1 if gpu else min(cfg.TEST.THREADS, len(available_cpus())))


def best_checkpoint(cfg: Config, options: OnekeyOptions) -> Path:
    """Return the checkpoint that the test found best, or the last one where nothing was tested; UserError for none."""
    there = _tested(cfg, options)
    for entry in there["checkpoints"]:
        if entry["name"] == there["best"]:
            return Path(entry["path"])
    last = newest_intact(Path(cfg.CHECKPOINT_DIR))
    if last is None:
        raise UserError(f"{cfg.CHECKPOINT_DIR}: no checkpoint to tune; train first, or set CHECKPOINT_DIR")
    return last


def _tested(cfg: Config, options: OnekeyOptions) -> dict[str, Any]:
    """Return what test_epochs.py has written of the epochs that are asked for; none where nothing is tested."""
    summary = result_folder(options.result_dir, cfg.TEST.DATA) / f"{cfg.TRAIN.MODEL}_epochs.json"
    if not cfg.TEST.ISTRUE or not summary.is_file():
        return {"best": None, "checkpoints": []}
    written: dict[str, Any] = dict(read_json(summary))
    rows = [row for row in written["checkpoints"]  # a file that was named has no epoch
            if row["epoch"] is not None and first_epoch(cfg) <= row["epoch"] <= _last_epoch(cfg)]
    if rows and written["best"] not in [row["name"] for row in rows]:  # that of an epoch that was tested by hand
        written["best"] = max(rows, key=lambda row: row[written["ranked_by"]] or 0)["name"]
    return {**written, "checkpoints": rows}


def _tune(cfg: Config, options: OnekeyOptions) -> None:
    """Tune the best checkpoint, and test it with its own settings and with the tuned ones."""
    checkpoint = best_checkpoint(cfg, options)
    say(f"one key: tune: {checkpoint} on {cfg.TUNE.DATA}, {options.trials} trials in all")
    out = lib.tools.tune.default_folder(checkpoint, cfg.TUNE.DATA, digest=sha256_of(checkpoint))
    lib.tools.tune.main(TuneOptions(resume=checkpoint, arch=cfg.TRAIN.MODEL, dataset=cfg.TUNE.DATA,
                                    dataset_dir=options.dataset_dir, trials=options.trials, out=out))
    for test in tuned_tests(cfg, options, checkpoint, out / "best.yaml"):
        lib.testing.run.main(test)


def tuned_tests(cfg: Config, options: OnekeyOptions, checkpoint: Path, best: Path) -> list[TestOptions]:
    """Return the tests untuned and tuned; results of a tuning that has gone on since are replaced."""
    arch = cfg.TRAIN.MODEL
    untuned = TestOptions(arch=arch, resume=checkpoint, dataset=cfg.TUNE.DATA, dataset_dir=options.dataset_dir,
                          result_dir=options.result_dir, tracker_name=f"{arch}_{checkpoint.stem}")
    tuned = replace(untuned, params=best, tracker_name=f"{arch}_tuned")
    record = result_folder(options.result_dir, cfg.TUNE.DATA) / tuned.tracker_name / RUN_FILE
    if record.is_file():
        params, _ = params_for(best, cfg.TUNE.DATA, arch=arch)
        settings = params.identity
        there = read_json(record)
        identity: dict[str, Any] = there["identity"]
        other = identity["checkpoint_sha256"] != sha256_of(checkpoint)
        if other and Path(there["checkpoint"]).resolve().parent != checkpoint.resolve().parent:
            raise UserError(f"{record.parent}: holds results of another training ({there['checkpoint']}), not of "
                            f"{checkpoint}; another --result_dir keeps both apart")
        tuned = replace(tuned, fresh=other or identity["tracker"] != settings)
    return [untuned, tuned]


def reported(dataset: str, cfg: Config, options: OnekeyOptions) -> list[str]:
    """Return the result folders of a data set that the report is about: the tested epochs, untuned and tuned."""
    names = [entry["name"] for entry in _tested(cfg, options)["checkpoints"]] if dataset == cfg.TEST.DATA else []
    if cfg.TUNE.ISTRUE and dataset == cfg.TUNE.DATA:
        names += [f"{cfg.TRAIN.MODEL}_{best_checkpoint(cfg, options).stem}", f"{cfg.TRAIN.MODEL}_tuned"]
    return list(dict.fromkeys(names))


def _report(dataset: str, cfg: Config, options: OnekeyOptions) -> None:
    """Score what was tested on a data set: tables, plots and, for one-pass sets, a page; unless nothing is new."""
    results, names = result_folder(options.result_dir, dataset), reported(dataset, cfg, options)
    out = results / REPORT
    last = out / ("report.html" if is_one_pass(dataset) else "scores.json")  # what a report writes last
    if last.is_file() and _is_reported(out / "scores.json", [results / name for name in names]):
        say(f"one key: report: done already: {out}")
        return
    say(f"one key: report: {out}")
    missing = load_benchmark(dataset, options.dataset_dir, images=False).missing
    lib.eval_toolkit.cli.main(EvalOptions(
        dataset=dataset, dataset_dir=options.dataset_dir, tracker_result_dir=(options.result_dir,), vis=True, out=out,
        trackers=tuple(names), allow_missing=bool(missing), html=last if is_one_pass(dataset) else None))


def _is_reported(scores: Path, folders: list[Path]) -> bool:
    """Return whether the report is of these folders and newer than every result in them."""
    if not scores.is_file():
        return False
    files = [path for folder in folders for path in [*folder.rglob("*.txt"), folder / RUN_FILE]]
    newest = max((path.stat().st_mtime_ns for path in files), default=0)
    told = {tracker["tracker"] for tracker in read_json(scores)["trackers"]}
    return scores.stat().st_mtime_ns > newest and told == {folder.name for folder in folders}
