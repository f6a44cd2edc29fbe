"""What a run tells: console and log file, its logger, and the picture of what the network sees. Rank 0 only."""

from __future__ import annotations

import functools
import html
import importlib.util
import itertools
import logging
import os
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lib.errors import UserError

PROGRESS = logging.getLogger("lib.progress")  # the lines of every PRINT_FREQ steps; a terminal shows a bar instead
_FORMAT = logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
_log = logging.getLogger(__name__)


def run_folder(output_dir: str | Path, model: str, *, run: str = "") -> Path:
    """Return the folder `output_dir/model/run`, made if it is gone; UserError if it cannot be.

    By default a new one, `model_YYYY-MM-DD-HH-MM`, with `_2`, ... when the minute is taken.
    """
    folder = first = Path(output_dir) / model / (run or f"{model}_{datetime.now():%Y-%m-%d-%H-%M}")
    for number in itertools.count(2):
        try:
            folder.mkdir(parents=True, exist_ok=bool(run))
            break
        except OSError as error:
            if run or not isinstance(error, FileExistsError):
                raise _not_writable(folder, error) from error
            folder = first.with_name(f"{first.name}_{number}")
    return folder


def _not_writable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written ({error.strerror}); set OUTPUT_DIR to a folder that can")


class RunLog:
    """A context in which lib's log goes to the console and, from `open_file` on, to the run's file too.

    Processes other than the main one only tell errors. In a terminal a bar stands for the lines of `PROGRESS`.
    """

    def __init__(self, *, main: bool) -> None:
        self._main = main
        self._root = logging.getLogger("lib")
        self._before = (self._root.level, self._root.propagate)
        self._handlers: list[logging.Handler] = []
        self._early = MemoryHandler(10**6, flushLevel=sys.maxsize)  # keeps what is told before the file is open

    def __enter__(self) -> RunLog:
        console = _ConsoleHandler()
        if sys.stderr.isatty():
            console.addFilter(lambda record: record.name != PROGRESS.name)
        self._add(console)
        self._add(self._early)
        self._root.setLevel(logging.INFO if self._main else logging.ERROR)
        self._root.propagate = False
        return self

    def __exit__(self, *_: object) -> None:
        for handler in self._handlers:
            self._root.removeHandler(handler)
            handler.close()
        self._root.setLevel(self._before[0])
        self._root.propagate = self._before[1]

    def open_file(self, folder: Path) -> None:
        """Write to `<folder>_train.log` beside the run's folder from now on, beginning with what was told so far."""
        path = folder.with_name(f"{folder.name}_train.log")
        try:
            file = _LogFile(path, encoding="utf-8")
        except OSError as error:
            raise _not_writable(path, error) from error
        self._add(file)
        self._root.removeHandler(self._early)
        self._early.setTarget(file)
        self._early.flush()

    def _add(self, handler: logging.Handler) -> None:
        handler.setFormatter(_FORMAT)
        self._root.addHandler(handler)
        self._handlers.append(handler)


def say(text: str) -> None:
    """Log a line between the commands that a larger one is made of."""
    with RunLog(main=True):
        _log.info("%s", text)


class _ConsoleHandler(logging.Handler):
    """Lines on standard error, above a progress bar if one is there."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class _LogFile(logging.FileHandler):
    """The log file; a full disk is told once on the console and does not end a training."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        logging.getLogger("lib").removeHandler(self)
        _log.warning("%s: cannot be written any more (%s); the log goes on here only", self.baseFilename, error)


class Board:
    """Where a run's curves go; after a resume it goes on in the same place at the same step.

    The calls are those of `TensorBoard`; one that fails ends the curves with a warning, not the training.
    """

    def __init__(self, folder: Path | None, *, first_step: int = 0, logger: str = "tensorboard") -> None:
        """Open the run of `folder`, None for a process that writes nothing; `logger`: a key of LOGGERS."""
        self._writer: Any = None if folder is None else LOGGERS[logger](folder, first_step)

    def __getattr__(self, method: str) -> Callable[..., None]:
        return functools.partial(self._call, method)

    def close(self) -> None:
        self._call("close")
        self._writer = None

    def _call(self, method: str, *args: Any) -> None:
        if self._writer is not None:
            try:
                getattr(self._writer, method)(*args)
            except (OSError, *getattr(self._writer, "errors", ())) as error:
                name, self._writer = type(self._writer).__name__, None
                _log.warning("%s cannot be written any more (%s); training goes on without it", name, error)


class TensorBoard:
    """Events in the run's folder."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only rank 0 needs it

        # Events that a killed run wrote after its last checkpoint are taken back.
        self.writer = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)
        self.flush, self.close = self.writer.flush, self.writer.close

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def text(self, name: str, text: str, step: int) -> None:
        """Write a text, shown with its line breaks."""
        self.writer.add_text(name, "    " + text.replace("\n", "\n    "), step)

    def picture(self, name: str, image_rgb: NDArray[np.uint8], step: int) -> None:
        self.writer.add_image(name, image_rgb, step, dataformats="HWC")

    def compare_by(self, settings: Mapping[str, Any]) -> None:
        """Write what the HParams tab sets runs apart by (it takes every scalar as a score), and the scalars' layout."""
        from torch.utils.tensorboard.summary import hparams

        events: Any = self.writer.file_writer
        for summary in hparams(dict(settings), {})[1:]:
            events.add_summary(summary)
        self.writer.add_custom_scalars({
            "training": {"losses": ["Multiline", ["loss/.*"]], "rates": ["Multiline", ["rate/.*"]],
                         "speed": ["Multiline", ["pairs_per_second", "data_wait"]]},
            "test": {"success by epoch": ["Multiline", [".*/success"]],
                     "precision by epoch": ["Multiline", [".*/precision"]],
                     "VOT and GOT-10k by epoch": ["Multiline", [".*/(eao|ao)"]]}})


class Wandb:
    """A run of Weights & Biases: project MODEL, named as the run's folder; WANDB_MODE=offline keeps it in that folder.

    Every value has a step of its own, as a run that goes on may repeat some.
    """

    def __init__(self, folder: Path, _first_step: int) -> None:
        import wandb

        self.wandb = wandb
        try:
            self.run = wandb.init(project=folder.parent.name, name=folder.name, id=folder.name, resume="allow",
                                  dir=str(folder), settings=wandb.Settings(console="off"))
        except wandb.errors.Error as error:
            raise UserError(f"LOGGER: wandb: {error!s:.200}; log in by `wandb login`, or set WANDB_MODE=offline"
                            ) from error
        self.run.define_metric("*", step_metric="step")
        self.close = self.run.finish

    def scalars(self, values: Mapping[str, Any], step: int) -> None:
        self.run.log({**values, "step": step})

    def text(self, name: str, text: str, step: int) -> None:
        self.scalars({name: self.wandb.Html(f"<pre>{html.escape(text)}</pre>")}, step)

    def picture(self, name: str, image_rgb: NDArray[np.uint8], step: int) -> None:
        self.scalars({name: self.wandb.Image(image_rgb)}, step)

    def compare_by(self, settings: Mapping[str, Any]) -> None:
        self.run.config.update(dict(settings), allow_val_change=True)

    def flush(self) -> None:
        """Do nothing: a process of its own writes."""


class Mlflow:
    """A run of MLflow: experiment MODEL, named as the run's folder, at MLFLOW_TRACKING_URI or in OUTPUT_DIR/mlruns."""

    def __init__(self, folder: Path, _first_step: int) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions want to be asked for files
        uri = os.environ.get("MLFLOW_TRACKING_URI", (folder.parents[1] / "mlruns").resolve().as_uri())
        self.folder, self.errors = folder, (MlflowException,)
        try:
            self.client = MlflowClient(uri)
            experiment = self.client.get_experiment_by_name(folder.parent.name)
            place = experiment.experiment_id if experiment else self.client.create_experiment(folder.parent.name)
            runs = self.client.search_runs([place], f"attributes.run_name = '{folder.name}'")
            self.run = (runs or [self.client.create_run(place, run_name=folder.name)])[0].info.run_id
        except MlflowException as error:
            raise UserError(f"LOGGER: mlflow at {uri}: {error!s:.200}; check MLFLOW_TRACKING_URI") from error

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.client.log_metric(self.run, name, value, step=step)

    def text(self, name: str, text: str, step: int) -> None:
        self.client.log_text(self.run, text, f"{name}_{step}.txt")

    def picture(self, name: str, image_rgb: NDArray[np.uint8], step: int) -> None:
        file = self.folder / f"{name}_{step:08d}.png"
        cv2.imwrite(str(file), image_rgb[:, :, ::-1])
        self.client.log_artifact(self.run, str(file), name)
        file.unlink()

    def compare_by(self, settings: Mapping[str, Any]) -> None:
        for name, value in settings.items():
            self.client.set_tag(self.run, name, value)  # a parameter could not change when the run goes on

    def flush(self) -> None:
        """Do nothing: every call is written at once."""

    def close(self) -> None:
        self.client.set_terminated(self.run)


LOGGERS: dict[str, Callable[[Path, int], Any]] = {"tensorboard": TensorBoard, "wandb": Wandb, "mlflow": Mlflow}


def check_logger(name: str) -> None:
    """Raise UserError when the package of a logger is not installed."""
    if importlib.util.find_spec(name) is None:
        package = "mlflow-skinny" if name == "mlflow" else name
        raise UserError(f"LOGGER: {name} needs a package: pip install {package}; or leave LOGGER: tensorboard")


def duration(seconds: float) -> str:
    """Return h:mm:ss, with days in front when there are some."""
    whole = round(seconds)
    text = f"{whole // 3600 % 24}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 86400} d {text}" if whole >= 86400 else text


def training_picture(template: NDArray[np.uint8], search: NDArray[np.uint8], box_xyxy: NDArray[Any],
                     predicted_xyxy: NDArray[Any], score: NDArray[Any]) -> NDArray[np.uint8]:
    """Return one RGB picture, a row per pair: template, search with boxes (true green, predicted red), score map.

    template (B, 3, 127, 127), search (B, 3, H, H) BGR, boxes (B, 4) in search px (NaN: none), score (B, S, S) in 0..1.
    """
    side = search.shape[-1]
    rows = []
    for z, x, true, predicted, cells in zip(template, search, box_xyxy, predicted_xyxy, score, strict=True):
        left = np.zeros((side, z.shape[-1], 3), np.uint8)
        left[: z.shape[-2]] = z.transpose(1, 2, 0)
        middle = np.ascontiguousarray(x.transpose(1, 2, 0))
        for box, colour in ((true, (0, 255, 0)), (predicted, (0, 0, 255))):
            if np.isfinite(box).all():
                x1, y1, x2, y2 = (int(v) for v in np.clip(np.rint(box), -side, 2 * side))
                cv2.rectangle(middle, (x1, y1), (x2, y2), colour, 2)
        gray = (np.nan_to_num(cells).clip(0, 1) * 255).astype(np.uint8)
        right = cv2.applyColorMap(cv2.resize(gray, (side, side), interpolation=cv2.INTER_NEAREST), cv2.COLORMAP_VIRIDIS)
        rows.append(np.concatenate([left, middle, right], axis=1))
    return np.ascontiguousarray(np.concatenate(rows)[:, :, ::-1])
