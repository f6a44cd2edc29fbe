"""From a checkpoint to weights for others to use: half precision, without what only a resume needs.

    python tracking/release.py snapshot/OceanSmall/checkpoint_e10.pth --name OceanSmall

The result is loaded by its name: `--resume OceanSmall`. A card and the tracking hyper-parameters belong beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.checkpoint import WEIGHTS_ROOT, load_model, read_checkpoint, save_checkpoint
from lib.errors import UserError
from lib.files import sha256_of

MOST_BYTES = 8_000_000  # what a repository should carry
KEPT = ("arch", "epoch", "model", "config", "torch")  # plain values that say where the weights come from


def slim(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's weights in half precision with its plain values; counters and the optimizer are left out.

    Variances stay float32: they may be larger than half precision's 65504 (conv1's can, its input is 0 to 255).
    """
    weights = {name: tensor if name.endswith("running_var") else tensor.half()
               for name, tensor in checkpoint["state_dict"].items() if not name.endswith("num_batches_tracked")}
    return {key: checkpoint[key] for key in KEPT if key in checkpoint} | {"state_dict": weights}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the weights, check that they load, print where they are; return 0. Raises UserError."""
    parser = argparse.ArgumentParser(prog="release.py", description="Write a checkpoint's weights for others to use.")
    parser.add_argument("checkpoint", type=Path, help="such as snapshot/OceanSmall/checkpoint_e10.pth")
    parser.add_argument("--name", required=True, help="name to load them by")
    parser.add_argument("--out", type=Path, default=WEIGHTS_ROOT, help="folder; default experiments/weights")
    given = parser.parse_args(argv)
    path = given.out / f"{given.name}.pth"
    save_checkpoint(path, slim(read_checkpoint(given.checkpoint)))
    size = path.stat().st_size
    if size > MOST_BYTES:
        path.unlink()
        raise UserError(f"{given.checkpoint}: {size / 1e6:.1f} MB in half precision, more than {MOST_BYTES / 1e6:.0f}; "
                        f"publish weights of this size elsewhere")
    load_model(path)
    print(f"{path}: {size / 1e6:.2f} MB, sha256 {sha256_of(path)}")
    return 0
