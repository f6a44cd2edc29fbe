"""From `--arch` and `--resume` to a tracker. An architecture is one entry of OPENERS.

Trackers of other people come without an entry: `FILE.py:NAME` is a class, or a function without arguments, that gives
an object with `init(image, box)` and `track(image)`, or got10k's `update(image)`; `opencv:NAME` is one of OpenCV's.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from lib.checkpoint import find_weights, load_model
from lib.errors import UserError, did_you_mean
from lib.models.models import ARCHS
from lib.options import Amp
from lib.tracker import PlainTracker
from lib.tracker.ocean import OceanTracker
from lib.tracker.online import OnlineTracker
from lib.tracker.onnx import default_device, load_onnx, record_file
from lib.tracker.params import TrackerParams

_log = logging.getLogger(__name__)


def open_checkpoint(path: Path, params: TrackerParams, *, align: bool | None = None, device: str = "",
                    amp: Amp = "none", compiled: bool = False, online: bool = False) -> OceanTracker:
    """Return the tracker of a checkpoint, given by path or as the name of shipped weights."""
    model = load_model(path, align=align, online=online)
    _log.info("%s", model.load_report)
    kind = OnlineTracker if online else OceanTracker
    return kind(model, params, device=pick_device(device), amp=amp, compiled=compiled)


def open_exported(path: Path, params: TrackerParams, *, align: bool | None = None, device: str = "",
                  amp: Amp = "none", compiled: bool = False, online: bool = False,
                  tensorrt: bool = False) -> OceanTracker:
    """Return the tracker of an exported folder, run by ONNX Runtime, with `tensorrt` by TensorRT."""
    if online:
        raise UserError(f"{path}: an exported model has no online branch; use --online False, or its checkpoint")
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
# The models that OpenCV's trackers read: parameter -> what the name of its file holds, in the folder of --resume.
_OPENCV_MODELS = {"Nano": {"backbone": "backbone", "neckhead": "head"}, "Vit": {"net": ""},
                  "DaSiamRPN": {"model": "model", "kernel_cls1": "cls1", "kernel_r1": "r1"}}


def is_foreign(arch: str) -> bool:
    """Return whether `arch` names a tracker of other people's, FILE.py:NAME or opencv:NAME."""
    return ":" in arch


def foreign_maker(arch: str, path: Path | None) -> Callable[[], Any]:
    """Return what makes a foreign tracker for one target; `path`, where given, is what it reads its model from.

    Raises UserError for a file or a name that is not there.
    """
    place, _, name = arch.rpartition(":")
    if place == "opencv":
        return _opencv_maker(name, path)
    file = Path(place)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise UserError(f"--tracker {arch}: no Python file {place}; expected FILE.py:NAME or opencv:NAME")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # the user's own file, which he asks to be run
    make = getattr(module, name, None)
    if not callable(make):
        raise UserError(f"--tracker {arch}: {place} has no class or function {name}"
                        f"{did_you_mean(name, [key for key in vars(module) if not key.startswith('_')])}")
    return make if path is None else partial(make, path)


def _opencv_maker(name: str, path: Path | None) -> Callable[[], Any]:
    known = [key.removeprefix("Tracker").removesuffix("_create") for key in dir(cv2)
             if re.fullmatch(r"Tracker\w+_create", key)]
    if name not in known:
        raise UserError(f"--tracker opencv:{name}: OpenCV {cv2.__version__} has no such tracker"
                        f"{did_you_mean(name, known)}")
    params = getattr(cv2, f"Tracker{name}_Params")()
    for key, part in _OPENCV_MODELS.get(name, {}).items():
        files = [file for file in opencv_models(path) if part in file.name] or [Path("missing")]
        if not files[0].is_file():
            raise UserError(f"--tracker opencv:{name}: no file *{part}*.onnx in {path}; give the folder of its models "
                            f"as --resume")
        setattr(params, key, str(files[0]))
    return lambda: _OpenCV(getattr(cv2, f"Tracker{name}_create")(params))


def opencv_models(path: Path | None) -> list[Path]:
    """Return the ONNX files of a folder, or the one that was given, the largest first."""
    files = [] if path is None else [path] if path.is_file() else list(path.glob("*.onnx"))
    return sorted(files, key=lambda file: -file.stat().st_size)


class _OpenCV:
    """One of OpenCV's trackers in the plain form; where it says that it has no box, the last one stays with score 0."""

    def __init__(self, tracker: Any) -> None:
        self.tracker, self.box = tracker, np.zeros(4)

    def init(self, image: Any, box: Any) -> None:
        """Begin; OpenCV takes whole px."""
        self.box = np.asarray(box, np.float64)
        self.tracker.init(image, tuple(round(float(value)) for value in box))

    def track(self, image: Any) -> tuple[Any, float]:
        """Return box and score."""
        found, box = self.tracker.update(image)
        self.box = np.asarray(box, np.float64) if found else self.box
        score = self.tracker.getTrackingScore() if hasattr(self.tracker, "getTrackingScore") else 1.0
        return self.box, float(score) if found else 0.0


def check_arch(arch: str) -> None:
    """Return if the architecture exists; raise UserError otherwise."""
    if not is_foreign(arch) and arch not in OPENERS:
        raise UserError(f"--arch {arch}: no such architecture{did_you_mean(arch, OPENERS)}")


def params_arch(arch: str) -> str:
    """Return the architecture whose hyper-parameters count: an exported model has those of what it was made from."""
    return "Ocean" if arch in EXPORTED else arch


def weights_file(arch: str, path: Path | None) -> Path:
    """Return the file that stands for the weights: the checkpoint, or the export.json of an exported folder."""
    if is_foreign(arch):
        place = arch.rpartition(":")[0]
        return Path(place) if place != "opencv" else (opencv_models(path) or [Path(cv2.__file__)])[0]
    assert path is not None
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


def open_tracker(arch: str, path: Path | None, params: TrackerParams, **flags: Any) -> Any:
    """Return the tracker that `arch` and a path, or a name of shipped weights, stand for. flags: of its opener."""
    check_arch(arch)
    if is_foreign(arch):
        if flags.get("online"):
            raise UserError(f"--online True: the online branch is Ocean's, {arch} has none; leave it out")
        return PlainTracker(foreign_maker(arch, path))
    return OPENERS[arch](path, params, **flags)
