"""From `--arch` and `--resume` to a tracker. An architecture is one entry of OPENERS.

Trackers of other people come without an entry: `FILE.py:NAME` is a class, or a function without arguments, that gives
an object with `init(image, box)` and `track(image)`, or got10k's `update(image)`; `opencv:NAME` is one of OpenCV's.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch

from lib.checkpoint import find_weights, load_model, where_else
from lib.errors import UserError, did_you_mean
from lib.files import sha256_of
from lib.models.models import ARCHS
from lib.options import Amp, TrackerOptions
from lib.tracker import PlainTracker
from lib.tracker.ocean import OceanTracker
from lib.tracker.online import OnlineTracker
from lib.tracker.onnx import default_device, load_onnx, record_file
from lib.tracker.params import TrackerParams

T = TypeVar("T", bound=TrackerOptions)
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
    return re.fullmatch(r"(opencv|.*\.py):\w+", arch) is not None


def resolved(options: T) -> T:
    """Return the options with --tracker in the place of --arch; UserError for neither that nor a checkpoint."""
    if options.tracker:
        if not is_foreign(options.tracker):
            raise UserError(f"--tracker {options.tracker}: expected FILE.py:NAME or opencv:NAME")
        return replace(options, arch=options.tracker)
    check_arch(options.arch)
    if options.resume is None:
        raise UserError("--resume names no checkpoint; expected a file such as snapshot/checkpoint_e20.pth, a name "
                        "such as OceanSmall, or --tracker for one without")
    return options


def open_foreign(arch: str, path: Path | None) -> PlainTracker:
    """Return a tracker of other people's; `path`, where given, is the file or folder that it reads its model from.

    Its `spec` holds the SHA-256 of every file of the model. Raises UserError for a file or a name that is not there.
    """
    place, _, name = arch.rpartition(":")
    path = path and find_weights(path)
    if path is not None and not path.exists():
        raise UserError(f"--resume {path}: {where_else(path)}")
    files = [] if path is None else [path] if path.is_file() else sorted(filter(Path.is_file, path.rglob("*")))
    if place == "opencv":
        make, spec = _opencv_maker(name, path, files), {"opencv": cv2.__version__}
    else:
        make, spec = _maker_in(Path(place), name), {}
        make = make if path is None else partial(make, path)
    hashes = {file.name if file == path else str(file.relative_to(str(path))): sha256_of(file) for file in files}
    return PlainTracker(make, spec={"tracker": name, "files": hashes, **spec})


def _maker_in(file: Path, name: str) -> Callable[..., Any]:
    """Return the class or function of a Python file, which may import its neighbours as a script does."""
    if not file.is_file():
        raise UserError(f"--tracker {file}:{name}: no Python file {file}; expected FILE.py:NAME or opencv:NAME")
    sys.path.insert(0, str(file.resolve().parent))
    spec = importlib.util.spec_from_file_location(f"tracker_{file.stem}", file.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # the user's own file, which he asks to be run
    make = getattr(module, name, None)
    if not callable(make):
        raise UserError(f"--tracker {file}:{name}: {file} has no class or function {name}"
                        f"{did_you_mean(name, [key for key in vars(module) if not key.startswith('_')])}")
    return make


def _opencv_maker(name: str, path: Path | None, files: list[Path]) -> Callable[[], Any]:
    known = [key.removeprefix("Tracker").removesuffix("_create") for key in dir(cv2)
             if re.fullmatch(r"Tracker\w+_create", key)]
    if name not in known:
        raise UserError(f"--tracker opencv:{name}: this OpenCV ({cv2.__version__}) has {', '.join(known)} alone; "
                        f"opencv-contrib-python-headless has KCF and CSRT too")
    params = getattr(cv2, f"Tracker{name}_Params")()
    for key, part in _OPENCV_MODELS.get(name, {}).items():
        chosen = [file for file in files if file.suffix == ".onnx" and part in file.name]
        if not chosen:
            raise UserError(f"--tracker opencv:{name}: no file *{part}*.onnx in {path}; --resume names its folder")
        setattr(params, key, str(max(chosen, key=lambda file: file.stat().st_size)))
    return lambda: _OpenCV(getattr(cv2, f"Tracker{name}_create")(params))


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
    """Return the file that stands for the weights: the checkpoint, or the export.json of an exported folder.

    For a tracker of other people's it is the file of its source; the rest stands in its `spec`.
    """
    if is_foreign(arch):
        place = arch.rpartition(":")[0]
        return Path(cv2.__file__ if place == "opencv" else place)
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
        if (device := pick_device(flags.get("device", ""))).index is not None:
            torch.cuda.set_device(device)  # where its .cuda() goes
        return open_foreign(arch, path)
    return OPENERS[arch](path, params, **flags)
