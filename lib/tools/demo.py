"""The demonstration: train a slim Ocean on rendered video, test and score every checkpoint, show what came of it.

Each step is one of the commands that a researcher uses; a second start does only what is missing.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import lib.eval_toolkit.cli
import lib.testing.run
import lib.testing.sweep
import lib.training.loop
from lib.benchmarks import load_benchmark, result_file, write_result
from lib.checkpoint import checkpoint_name, read_checkpoint, save_checkpoint
from lib.config import Config
from lib.config_file import load_config
from lib.datasets.synthetic import write_otb
from lib.errors import UserError
from lib.files import EXPERIMENTS
from lib.log import say
from lib.models.models import build_model
from lib.options import DemoOptions, EvalOptions, SweepOptions, TestOptions, TrainOptions

ROOT = Path(__file__).resolve().parents[2]
CFG = EXPERIMENTS / "train" / "OceanDemo.yaml"
DATASET = "SYNTHETIC"
FRAMES, SEED = 60, 1  # length of the held-out sequences, and a seed that training does not use
STILL, UNTRAINED = "NeverMoves", "Untrained"
REAL, TRACKER = "Girl", "OceanDemo"  # the real sequence that the last checkpoint is run on, and its results' name


def main(options: DemoOptions) -> int:
    """Return 0 after the demonstration; raises UserError."""
    file = options.cfg or CFG
    cfg = load_config(file, overrides=options.overrides)
    if options.fresh:
        _clear(cfg)
    dataset = Path("dataset") / DATASET
    say(f"1/5  rendering held-out test sequences ({dataset})")
    _render(dataset, cfg, sequences=options.sequences)
    say(f"2/5  training ({cfg.CHECKPOINT_DIR})")
    if code := lib.training.loop.main(TrainOptions(cfg=file, resume="auto", overrides=options.overrides)):
        return code  # interrupted: the same command goes on from there
    say("3/5  two trackers to compare with: one that never moves, and the network before training (result)")
    _write_still(dataset)
    lib.testing.run.main(TestOptions(resume=_save_untrained(cfg), dataset=DATASET, dataset_dir=dataset,
                                     tracker_name=UNTRAINED))
    say(f"4/5  testing and scoring every checkpoint ({Path('result') / DATASET})")
    lib.testing.sweep.main(SweepOptions(dataset=DATASET, dataset_dir=dataset, snapshot=Path(cfg.CHECKPOINT_DIR),
                                        workers=2))
    lib.eval_toolkit.cli.main(EvalOptions(dataset=DATASET, dataset_dir=dataset, vis=True,
                                          tracker_result_dir=(Path("result") / DATASET,),
                                          trackers=(STILL, UNTRAINED, "Ocean_checkpoint_e*")))
    last = Path(cfg.CHECKPOINT_DIR) / checkpoint_name(cfg.TRAIN.END_EPOCH)
    real = _real_sequences(options.real)
    say(f"5/5  a real sequence ({real or 'none here: OTB2015 in dataset/ or beside the project would serve'})")
    if real is not None:
        lib.testing.run.main(TestOptions(resume=last, dataset="OTB2015", dataset_dir=real, tracker_name=TRACKER,
                                         video=REAL, vis=True))
    _tell_what_lies_where(cfg, last=last, real=real)
    return 0


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
        write_result(result_file(Path("result") / DATASET / STILL, sequence.name), boxes_xywh,
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
