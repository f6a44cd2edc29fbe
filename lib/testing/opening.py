"""From `--arch` and `--resume` to a tracker: PyTorch checkpoints and exported models alike."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import torch

from lib.checkpoint import find_weights, load_model
from lib.errors import UserError, did_you_mean
from lib.models.models import ARCHS
from lib.tracker.ocean import Amp, OceanTracker
from lib.tracker.onnx import default_device, load_onnx, record_file
from lib.tracker.params import TrackerParams

EXPORTED = {"OceanONNX": False, "OceanTRT": True}  # whether ONNX Runtime shall use TensorRT
_log = logging.getLogger(__name__)


def check_arch(arch: str) -> None:
    """Return if the architecture exists; raise UserError otherwise."""
    if arch not in ARCHS and arch not in EXPORTED:
        raise UserError(f"--arch {arch}: no such architecture{did_you_mean(arch, [*ARCHS, *EXPORTED])}")


def params_arch(arch: str) -> str:
    """Return the architecture whose hyper-parameters count: an exported model has those of what it was made from."""
    return "Ocean" if arch in EXPORTED else arch


def weights_file(arch: str, path: Path) -> Path:
    """Return the file that stands for the weights: the checkpoint, or the export.json of an exported folder."""
    return record_file(path) if arch in EXPORTED else find_weights(path)


def pick_device(text: str) -> torch.device:
    """Return the device by name, "" for the GPU if there is one; UserError if it is not there."""
    if not text:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", text)
    if not match or (text != "cpu" and int(match[1] or 0) >= count):
        raise UserError(f"--device {text}: not there; expected cpu{f' or cuda:0 to cuda:{count - 1}' if count else ''}")
    return torch.device(text)


def open_tracker(arch: str, path: Path, params: TrackerParams, *, align: bool | None = None, device: str = "",
                 amp: Amp = "none", compiled: bool = False) -> OceanTracker:
    """Return the tracker of a checkpoint or, with `arch` in EXPORTED, of an exported folder.

    path: also a name that `find_weights` knows. device: as in `pick_device`, "" for a GPU where there is one that the
    architecture can use. Raises UserError.
    """
    check_arch(arch)
    if arch not in EXPORTED:
        model = load_model(path, align=align)
        _log.info("%s", model.load_report)
        return OceanTracker(model, params, device=pick_device(device), amp=amp, compiled=compiled)
    if amp != "none" or compiled:
        raise UserError(f"--arch {arch}: an exported model has its number format already and is not compiled again; "
                        f"leave --amp and --compile out, and name the folder of another precision")
    where = str(pick_device(device)) if device else default_device()
    exported = load_onnx(path, align=align, device=where, tensorrt=EXPORTED[arch])
    _log.info("%s", exported.load_report)
    return OceanTracker(exported, params, device="cpu")  # what goes into and comes out of ONNX Runtime is on the CPU

