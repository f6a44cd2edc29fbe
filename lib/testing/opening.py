"""From `--arch` and `--resume` to a tracker. An architecture is one entry of OPENERS."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lib.checkpoint import find_weights, load_model
from lib.errors import UserError, did_you_mean
from lib.models.models import ARCHS
from lib.options import Amp
from lib.tracker.ocean import OceanTracker
from lib.tracker.onnx import default_device, load_onnx, record_file
from lib.tracker.params import TrackerParams

_log = logging.getLogger(__name__)


def open_checkpoint(path: Path, params: TrackerParams, *, align: bool | None = None, device: str = "",
                    amp: Amp = "none", compiled: bool = False) -> OceanTracker:
    """Return the tracker of a checkpoint, given by path or as the name of shipped weights."""
    model = load_model(path, align=align)
    _log.info("%s", model.load_report)
    return OceanTracker(model, params, device=pick_device(device), amp=amp, compiled=compiled)


def open_exported(path: Path, params: TrackerParams, *, align: bool | None = None, device: str = "",
                  amp: Amp = "none", compiled: bool = False, tensorrt: bool = False) -> OceanTracker:
    """Return the tracker of an exported folder, run by ONNX Runtime, with `tensorrt` by TensorRT."""
    if amp != "none" or compiled:
        raise UserError(f"{path}: an exported model has its number format already and is not compiled again; leave "
                        f"--amp and --compile out, and name the folder of another precision")
    exported = load_onnx(path, align=align, device=str(pick_device(device)) if device else default_device(),
                         tensorrt=tensorrt)
    _log.info("%s", exported.load_report)
    return OceanTracker(exported, params, device="cpu")  # ONNX Runtime takes and gives arrays on the CPU


# What `--arch` may be: functions from `--resume`, settings and flags to a tracker (`lib.tracker.Tracker`).
OPENERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(ARCHS, open_checkpoint), "OceanONNX": open_exported,
    "OceanTRT": partial(open_exported, tensorrt=True)}
EXPORTED = ("OceanONNX", "OceanTRT")


def check_arch(arch: str) -> None:
    """Return if the architecture exists; raise UserError otherwise."""
    if arch not in OPENERS:
        raise UserError(f"--arch {arch}: no such architecture{did_you_mean(arch, OPENERS)}")


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


def open_tracker(arch: str, path: Path, params: TrackerParams, **flags: Any) -> Any:
    """Return the tracker that `arch` and a path, or a name of shipped weights, stand for. flags: of its opener."""
    check_arch(arch)
    return OPENERS[arch](path, params, **flags)
