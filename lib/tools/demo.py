"""The demonstration: train a slim Ocean on rendered video, test and score every checkpoint, show what came of it.

    python tracking/demo.py

Each step is one of the commands that a researcher uses; a second start does only what is missing.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from lib import commands
from lib.benchmarks import load_benchmark, result_file, write_result
from lib.checkpoint import checkpoint_name, read_checkpoint, save_checkpoint
from lib.config import Config, load_config
from lib.datasets.synthetic.sequences import write_otb
from lib.errors import UserError
from lib.log import RunLog
from lib.models.models import build_model

ROOT = Path(__file__).resolve().parents[2]
CFG = ROOT / "experiments" / "train" / "OceanDemo.yaml"
DATASET = "SYNTHETIC"
SEQUENCES, FRAMES, SEED = 12, 60, 1  # held-out sequences, their length, and a seed that training does not use
STILL, UNTRAINED = "NeverMoves", "Untrained"
REAL, TRACKER = "Girl", "OceanDemo"  # the real sequence that the last checkpoint is run on, and its results' name
log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 after the demonstration; raises UserError."""
    options = _parse(argv)
    cfg = load_config(options.cfg, overrides=options.overrides)
    if options.fresh:
        _clear(cfg)
    dataset = Path("dataset") / DATASET
    _say("1/5  rendering held-out test sequences", dataset)
    _render(dataset, cfg, sequences=options.sequences)
    _say("2/5  training", cfg.CHECKPOINT_DIR)
    if code := commands.call("train", ["--cfg", str(options.cfg), "--resume", "auto", *options.overrides]):
        return code  # interrupted: the same command goes on from there
    _say("3/5  two trackers to compare with: one that never moves, and the network before training", "result")
    _write_still(dataset)
    untrained = _save_untrained(cfg)
    _test(untrained, DATASET, dataset, name=UNTRAINED)
    _say("4/5  testing and scoring every checkpoint", Path("result") / DATASET)
    commands.call("sweep", ["--arch", "Ocean", "--dataset", DATASET, "--dataset_dir", str(dataset), "--snapshot",
                            cfg.CHECKPOINT_DIR, "--workers", "2"])
    commands.call("eval", ["--dataset_dir", str(dataset), "--dataset", DATASET, "--tracker_result_dir",
                           f"result/{DATASET}", "--trackers", STILL, UNTRAINED, "Ocean_checkpoint_e*", "--vis"])
    last = Path(cfg.CHECKPOINT_DIR) / checkpoint_name(cfg.TRAIN.END_EPOCH)
    real = _real_sequences(options.real)
    _say("5/5  a real sequence", real or "none here: OTB2015 in dataset/ or beside the project would serve")
    if real is not None:
        _test(last, "OTB2015", real, "--video", REAL, "--vis", "True", name=TRACKER)
    _tell_what_lies_where(cfg, last=last, real=real)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo.py", description="Train, test, score and show a small Ocean.")
    parser.add_argument("--fresh", action="store_true", help="throw away what an earlier one left, and redo it")
    parser.add_argument("--cfg", type=Path, default=CFG, help="training YAML (default: %(default)s)")
    parser.add_argument("--sequences", type=int, default=SEQUENCES, help="held-out sequences (default: %(default)s)")
    parser.add_argument("--real", type=Path, help="folder of OTB sequences; default: dataset/OTB2015 or ../shared")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as OCEAN.TRAIN.END_EPOCH=3")
    return parser.parse_intermixed_args(argv)


def _say(step: str, place: object) -> None:
    with RunLog(main=True):
        log.info("%s (%s)", step, place)


def _clear(cfg: Config) -> None:
    """Remove what the demonstration itself made: its checkpoints, its results and its test sequences."""
    results = (Path("result") / DATASET, Path("result") / "OTB2015" / TRACKER)
    for folder in (Path(cfg.CHECKPOINT_DIR), *results, Path("dataset") / DATASET):
        shutil.rmtree(folder, ignore_errors=True)


def _render(folder: Path, cfg: Config, *, sequences: int) -> None:
    """Write the held-out sequences, as difficult as those of the training; those that are there stay."""
    settings: dict[str, Any] = {"num": sequences, "length": FRAMES, "seed": SEED}
    difficulty = next(iter(cfg.DATASET.SOURCES[name] for name in cfg.TRAIN.WHICH_USE)).OPTIONS.get("difficulty", 1.0)
    with tqdm(total=sequences * FRAMES, unit="frame", desc="rendering", dynamic_ncols=True) as bar:
        write_otb(folder, **settings, difficulty=difficulty, progress=bar.update)


def _write_still(dataset: Path) -> None:
    """Write the results of a tracker that stays where it began."""
    for sequence in load_benchmark(DATASET, dataset, images=False).sequences:
        boxes_xywh = np.repeat(sequence.boxes_xywh[:1], len(sequence.boxes_xywh), axis=0)
        write_result(result_file(Path("result") / DATASET / STILL, sequence.name, dataset=DATASET), boxes_xywh,
                     dataset=DATASET)


def _save_untrained(cfg: Config) -> Path:
    """Return a checkpoint of the network as training begins with it: same seed, same random weights."""
    path = Path(cfg.CHECKPOINT_DIR) / "untrained.pth"
    torch.manual_seed(cfg.TRAIN.SEED)
    model = build_model(**cfg.model_options())
    weights = model.state_dict()
    there = read_checkpoint(path)["state_dict"] if path.is_file() else {}
    if there.keys() != weights.keys() or not all(torch.equal(there[name], weights[name]) for name in weights):
        save_checkpoint(path, {"epoch": 0, "arch": cfg.TRAIN.MODEL, "model": model.spec, "state_dict": weights})
    return path


def _test(checkpoint: Path, dataset: str, folder: Path, *more: str, name: str) -> None:
    commands.call("test", ["--arch", "Ocean", "--resume", str(checkpoint), "--dataset", dataset,
                           "--dataset_dir", str(folder), "--tracker_name", name, *more])


def _real_sequences(given: Path | None) -> Path | None:
    """Return the folder that holds the real sequence, or None when there is none here."""
    if given is not None and not (given / REAL).is_dir():
        raise UserError(f"--real {given}: holds no sequence '{REAL}'; expected OTB2015's folders")
    places = [given] if given else [Path("dataset/OTB2015"), ROOT.parent / "shared" / "data" / "OTB_sample"]
    return next((place for place in places if place and (place / REAL / "img").is_dir()), None)


def _tell_what_lies_where(cfg: Config, *, last: Path, real: Path | None) -> None:
    lines = [
        "", "What lies where:",
        f"  checkpoints            {cfg.CHECKPOINT_DIR}/",
        f"  curves while training  tensorboard --logdir {cfg.OUTPUT_DIR}/{cfg.TRAIN.MODEL}",
        f"  plots of the scores    result/{DATASET}/_eval/",
        *([f"  boxes on real video    result/OTB2015/{TRACKER}/ ({REAL})"] if real else []),
        "Next:",
        f"  python tracking/run_video.py YOUR_VIDEO --init x,y,w,h --resume {last}",
        "  python tracking/train_ocean.py --cfg experiments/train/Ocean.yaml",
    ]
    print("\n".join(lines))
