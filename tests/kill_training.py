"""Kill a training at random moments until it has had its share, and compare its end with that of one left in peace.

    python tests/kill_training.py --kills 20 --ranks 2

prints one JSON line; the trainings' own log goes to standard error. The kill is SIGKILL after a random time: within a
step, while a checkpoint is written or one is read. With several ranks one of them is hit; the
others end by themselves.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from train_helpers import same, snapshot, tiny_yaml, train_processes

PARTS = ("state_dict", "optimizer", "scaler", "step", "samples")


def kill_and_resume(folder: Path, *, kills: int, ranks: int, epochs: int, save_every: int, seed: int) -> dict[str, Any]:
    """Return what happened: kills that hit, lives needed, and whether the two trainings' ends are identical."""
    rng = random.Random(seed)
    paths = {}
    for name in ("peaceful", "killed"):
        (folder / name).mkdir()
        paths[name] = str(tiny_yaml(folder / name, END_EPOCH=epochs, KEEP_LAST=2))
    begin = time.monotonic()
    assert train_processes(["--cfg", paths["peaceful"]], ranks=ranks, timeout=3600) == [(0, "")] * ranks
    length = time.monotonic() - begin
    arguments = ["--cfg", paths["killed"], "--resume", "auto", f"TRAIN.SAVE_EVERY={save_every}"]
    hits = lives = 0
    while lives < 20 * kills:
        lives += 1
        wish = (rng.randrange(ranks), rng.uniform(0.02, 1.2) * max(1.0, length / kills)) if hits < kills else None
        results = train_processes(arguments, ranks=ranks, timeout=3600, kill=wish)
        hits += any(code == -9 for code, _ in results)
        if all(code == 0 for code, _ in results):
            break
    last = f"checkpoint_e{epochs}.pth"
    ends = [snapshot(folder / name, last) for name in ("peaceful", "killed")]
    identical = all(same(ends[0][part], ends[1][part]) for part in PARTS)
    half_written = [path.name for path in (folder / "killed" / "snapshot").glob("*.tmp")]
    return {"harness": "kill_training", "kills": hits, "lives": lives, "ranks": ranks, "steps": ends[0]["step"],
            "save_every": save_every, "seed": seed, "identical": identical, "left_behind": half_written}


def main() -> int:
    """Return 0 when the ends are identical."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--save-every", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = kill_and_resume(Path(folder), **vars(arguments))
    print(json.dumps(found))
    return 0 if found["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
