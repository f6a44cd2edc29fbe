"""Speed of a training step with the trunk frozen and not, as one JSON line; loading is perf/loader.py's.

    python perf/train_step.py --batch 4 --steps 3 [--device cuda] [--small] [TRAIN.AMP=bf16 ...]

The batch is noise with targets and the weights are random: neither changes the work. The KEY=VALUE are those of the
training YAML.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.config import Config
from lib.config_file import load_config
from lib.datasets.dataset import Sample
from lib.distributed import World
from lib.tools.measure import commit, load, machine
from lib.training.checkpoints import Progress
from lib.training.tasks import Tracking
from lib.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
_SMALL = ("TRAIN.BACKBONE=ResNetSmall", "TRAIN.CHANNELS=64", "TRAIN.TOWERNUM=2")


def noise_batch(size: int, *, device: torch.device) -> Sample:
    """Return a batch of noise of full search size with a plausible number of positive cells."""
    z, x = (torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, device=device) for side in (127, 255))
    cls = torch.zeros(size, 25, 25, device=device)
    cls[:, 11:14, 11:14] = 1
    ltrb = torch.rand(size, 4, 25, 25, device=device) * 60 + 4
    return Sample(z, x, cls, ltrb, cls.clone(), torch.tensor([[90.0, 90.0, 160.0, 160.0]] * size, device=device))


def make_trainer(cfg: Config, folder: Path, *, device: torch.device) -> Trainer:
    """Return a trainer of one process without data, whose log goes to `folder`."""
    task = Tracking(cfg, dataset=[])
    return Trainer(cfg, World(device=device), task, task.build(), folder=folder,
                   progress=Progress(steps_per_epoch=10**6, pairs_per_step=cfg.TRAIN.BATCH))


def seconds_per_step(trainer: Trainer, *, epoch: int, steps: int) -> tuple[float, float]:
    """Return (seconds, CPU seconds of all threads) of one step in `epoch`, after one that warms up.

    The CPU seconds hardly depend on what else the machine does.
    """
    device = trainer.world.device
    trainer.progress.step = epoch * trainer.progress.steps_per_epoch
    trainer.begin_epoch()
    trainer.stage.set_rate(1e-5)
    batch = noise_batch(trainer.cfg.TRAIN.BATCH, device=device)
    start = cpu_start = 0.0
    for step in range(steps + 1):
        trainer.take_step([batch])
        if device.type == "cuda":
            torch.cuda.synchronize()
        if step == 0:
            start, cpu_start = time.perf_counter(), time.process_time()
    return (time.perf_counter() - start) / steps, (time.process_time() - cpu_start) / steps


def main() -> None:
    """Print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", default=str(ROOT / "experiments" / "train" / "Ocean.yaml"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--small", action="store_true", help="the small model of the demonstration")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    keys = ["WORKERS=0", f"TRAIN.BATCH={arguments.batch}", "TRAIN.UNFIX_EPOCH=1", *(_SMALL if arguments.small else ()),
            *arguments.overrides]
    cfg = load_config(arguments.cfg, overrides=keys)
    device = torch.device(arguments.device)
    busy = load()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(cfg, Path(folder), device=device)
        frozen, frozen_cpu = seconds_per_step(trainer, epoch=0, steps=arguments.steps)
        thawed, thawed_cpu = seconds_per_step(trainer, epoch=1, steps=arguments.steps)
        trainer.close()
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    print(json.dumps({
        "benchmark": "train_step", "backbone": cfg.TRAIN.BACKBONE, "batch": cfg.TRAIN.BATCH, "amp": cfg.TRAIN.AMP,
        "channels_last": cfg.TRAIN.CHANNELS_LAST, "compile": cfg.TRAIN.COMPILE, "steps": arguments.steps,
        "frozen_seconds": round(frozen, 4), "thawed_seconds": round(thawed, 4),
        "frozen_cpu_seconds": round(frozen_cpu, 4), "thawed_cpu_seconds": round(thawed_cpu, 4),
        "frozen_pairs_per_second": round(cfg.TRAIN.BATCH / frozen, 2),
        "thawed_pairs_per_second": round(cfg.TRAIN.BATCH / thawed, 2), "gpu_memory_gib": memory,
        "machine": machine(device, busy=busy), "threads": torch.get_num_threads(), "torch": str(torch.__version__),
        "commit": commit(),
    }))


if __name__ == "__main__":
    main()
