"""A run's checkpoints: where to go on from, what must not have changed, which files to keep, who may write."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from lib.checkpoint import checkpoint_name, read_checkpoint, save_checkpoint
from lib.config import Config
from lib.errors import UserError

log = logging.getLogger(__name__)

# Keys that may change between a checkpoint and its continuation without changing what is computed.
_FREE = re.compile(r"GPUS|PRINT_FREQ|WORKERS|OUTPUT_DIR|CHECKPOINT_DIR|TEST\..*|TUNE\..*|DATASET\.MAX_UNREADABLE|"
                   r"TRAIN\.(ISTRUE|START_EPOCH|RESUME|RESUME_STRICT|PRETRAIN|PRETRAIN_INPUT|RANDOM_TRUNK|LR_POLICY|WARM_POLICY|"
                   r"UNFIX_POLICY|KEEP_LAST|SAVE_EVERY|ON_SAVE_ERROR|NONFINITE|DETERMINISTIC|DETECT_ANOMALY|DATA_TIMEOUT)")
_RESUMABLE = {"epoch": int, "step": int, "steps_per_epoch": int, "pairs_per_step": int, "samples": int, "run": str,
              "optimizer": dict, "optimizer_names": list, "scaler": dict, "config": dict}


class Saved(NamedTuple):
    """A checkpoint file; they compare by how far they are in the training."""

    epoch: int  # epochs complete
    step: int  # 0 at an epoch's end, else the step of the whole run that it was written after
    path: Path


def saved_checkpoints(folder: Path) -> list[Saved]:
    """Return the checkpoints in `folder`, the furthest last; other files are not looked at."""
    matches = [(re.fullmatch(r"checkpoint_e(\d+)(?:_s(\d+))?\.pth", path.name), path) for path in folder.glob("*.pth")]
    return sorted(Saved(int(match[1]) - bool(match[2]), int(match[2] or 0), path) for match, path in matches if match)


def intact(path: Path) -> bool:
    """Return whether every record of a checkpoint has the checksum (CRC-32) that was written with it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError):
        return False


def newest_intact(folder: Path) -> Path | None:
    """Return the furthest whole checkpoint, None without any, warning of damaged ones; UserError if all are."""
    saved = saved_checkpoints(folder)
    for candidate in reversed(saved):
        if intact(candidate.path):
            return candidate.path
        log.warning("%s: damaged (its checksum does not match); going back to the one before it", candidate.path)
    if saved:
        raise UserError(f"{folder}: none of its {len(saved)} checkpoints is whole; move them away to start anew")
    return None


def read_resumable(path: Path) -> dict[str, Any]:
    """Return a checkpoint that training can go on from; raise UserError when it only holds weights."""
    if path.is_file() and not intact(path):
        raise UserError(f"{path}: damaged or truncated (its checksum does not match); take an earlier checkpoint")
    checkpoint = read_checkpoint(path)
    wrong = [key for key, kind in _RESUMABLE.items() if not isinstance(checkpoint.get(key), kind)]
    if not wrong and not re.fullmatch(r"[\w-][\w.-]*", checkpoint["run"]):
        wrong = ["run"]  # it becomes a folder's name
    if not wrong and min(checkpoint["steps_per_epoch"], checkpoint["pairs_per_step"]) < 1:
        wrong = ["steps_per_epoch"]
    if wrong:
        raise UserError(f"{path}: has no usable {', '.join(wrong)}, so training cannot go on exactly from it; to start "
                        f"from its weights set TRAIN.PRETRAIN to it and TRAIN.RESUME to False")
    return checkpoint


def check_same(checkpoint: Mapping[str, Any], cfg: Config, *, pairs_per_step: int, source: str) -> None:
    """Return if `cfg` continues the checkpoint's run; raise UserError listing what differs, or warn (RESUME_STRICT)."""
    changes = differences(checkpoint["config"], cfg)
    there = checkpoint["pairs_per_step"]
    if there != pairs_per_step and not changes.keys() & {"TRAIN.BATCH", "TRAIN.ACCUMULATE"}:
        changes["pairs per step (BATCH x ACCUMULATE x processes)"] = f"{there} -> {pairs_per_step}"
    if length := changes.pop("TRAIN.END_EPOCH", None):  # a longer run is a wish, not a mistake
        log.warning("TRAIN.END_EPOCH %s: the learning rates follow the new length from here on", length)
    if not changes:
        return
    text = "; ".join(f"{key}: {change}" for key, change in changes.items())
    if cfg.TRAIN.RESUME_STRICT:
        raise UserError(f"{source}: made with another configuration ({text}); put it back, or set "
                        f"TRAIN.RESUME_STRICT=False to go on with the new one")
    log.warning("going on from %s with another configuration: %s", source, text)


def differences(stored: Mapping[str, Any], cfg: Config) -> dict[str, str]:
    """Return the keys that decide what is computed and differ from a stored `as_dict`, each with "old -> new"."""
    old, new = _flat(next(iter(stored.values()), {})), _flat(next(iter(cfg.as_dict().values())))
    default = _flat(next(iter(type(cfg)().as_dict().values())))
    unused = tuple(f"DATASET.{name}." for name in cfg.DATASET.SOURCES if name not in cfg.TRAIN.WHICH_USE)
    changes = {}
    for key, value in new.items():
        before = old.get(key, default.get(key))
        if before != value and not _FREE.fullmatch(key) and not key.startswith(unused or "\0"):
            changes[key] = f"{before!r} -> {value!r}"
    return changes


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested dict under dotted keys; an empty dict is a leaf."""
    if not isinstance(tree, Mapping) or not tree:
        return {prefix[:-1]: tree}
    return {key: value for name, child in tree.items() for key, value in _flat(child, f"{prefix}{name}.").items()}


@dataclass
class Progress:
    """How far a run is: steps over all epochs, and samples of the stream that it reads."""

    steps_per_epoch: int
    pairs_per_step: int  # over all processes
    step: int = 0  # steps done
    start: int = 0  # the stream's sample with which step 0 begins

    @property
    def epoch(self) -> int:
        """Return the epochs that are complete, which is the number of the current one from 0."""
        return self.step // self.steps_per_epoch

    @property
    def samples(self) -> int:
        return self.start + self.step * self.pairs_per_step

    def continue_from(self, checkpoint: Mapping[str, Any]) -> None:
        """Move to where a checkpoint was: exactly there with its steps per epoch, else the same share of its epoch.

        With the pairs per step unchanged the stream's start stays where it was.
        """
        epoch, step = divmod(int(checkpoint["step"]), int(checkpoint["steps_per_epoch"]))
        self.step = epoch * self.steps_per_epoch + step * self.steps_per_epoch // int(checkpoint["steps_per_epoch"])
        self.start = max(0, int(checkpoint["samples"]) - self.step * self.pairs_per_step)


def place_of(checkpoint: Mapping[str, Any] | None) -> tuple[int, int]:
    """Return (epochs complete, step if within an epoch else 0) of a checkpoint; (0, 0) for none."""
    if checkpoint is None:
        return 0, 0
    epoch, within = divmod(checkpoint["step"], checkpoint["steps_per_epoch"])
    return epoch, checkpoint["step"] if within else 0


def is_end_of_run(checkpoint: Mapping[str, Any], folder: Path) -> bool:
    """Return whether a checkpoint is the furthest (of those that are whole) of the run that writes to `folder`."""
    stored = _flat(next(iter(checkpoint["config"].values()), {})).get("CHECKPOINT_DIR")
    later = [saved.path for saved in saved_checkpoints(folder) if (saved.epoch, saved.step) > place_of(checkpoint)]
    return Path(str(stored)).resolve() == folder.resolve() and not any(map(intact, later))


def write_checkpoint(folder: Path, content: Mapping[str, Any], *, keep_last: int) -> Path:
    """Write a checkpoint by its epoch and step, prune the others, return its path; UserError if it fails."""
    epoch, step = place_of(content)
    path = folder / (checkpoint_name(epoch + 1, step=step) if step else checkpoint_name(epoch))
    save_checkpoint(path, content)
    prune(folder, keep_last=keep_last)
    return path


def check_finite(state_dict: Mapping[str, Tensor], *, place: str) -> None:
    """Return if no tensor holds a NaN or an infinity, else raise UserError naming some; waits for the device once."""
    named = {name: value for name, value in state_dict.items() if value.is_floating_point()}
    good = torch.stack([torch.isfinite(value).all() for value in named.values()]).tolist()
    broken = [name for name, finite in zip(named, good, strict=True) if not finite]
    if broken:
        raise UserError(f"{place}: no checkpoint written, as {len(broken)} weights or statistics are not finite "
                        f"({', '.join(broken[:3])}); go on from the checkpoint before with a lower rate")


def prune(folder: Path, *, keep_last: int) -> None:
    """Remove epoch checkpoints except the last `keep_last` (0 keeps all) and those within an epoch except the newest.

    The two furthest checkpoints of any kind always stay: if one proves damaged there is one to go back to.
    """
    saved = saved_checkpoints(folder)
    epochs = [item for item in saved if item.step == 0]
    stay = {*epochs[-keep_last:], *[item for item in saved if item.step > 0][-1:], *saved[-2:]}  # [-0:] is all
    for item in saved:
        if item not in stay:
            with contextlib.suppress(OSError):
                item.path.unlink()


def set_aside(folder: Path, *, after: tuple[int, int]) -> None:
    """Move checkpoints further than `after` (epochs complete, step within or 0) to a subfolder, and say so.

    They are another run's, or damaged: left in place, a later `RESUME: auto` would go on from them, not from this run.
    """
    others = [saved for saved in saved_checkpoints(folder) if (saved.epoch, saved.step) > after]
    if not others:
        return
    number = 1
    while (target := folder / f"earlier_{number}").exists():
        number += 1
    try:
        target.mkdir()
        for saved in others:
            saved.path.rename(target / saved.path.name)
    except OSError as error:
        raise UserError(f"{folder}: holds {len(others)} checkpoints of another run, which cannot be moved to "
                        f"{target.name} ({error.strerror}); move them, or set CHECKPOINT_DIR") from error
    log.warning("%s: moved %d checkpoint(s) that this run does not continue to %s%s", folder, len(others), target,
                "" if after > (0, 0) else "; --resume auto goes on from such instead")


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Return a context in which no other training writes to `folder`; raise UserError when one does.

    The lock is the system's: it ends with the process, however that ends. It holds between machines too where their
    shared disk passes locks on (NFS does, unless mounted with `nolock`). A disk without locks gives a marker file or a
    warning instead, as the version of filelock has it.
    """
    owner = folder / ".training.pid"  # a courtesy to those who are refused
    lock = FileLock(folder / ".training.lock", timeout=1)  # a process that was killed may take a moment to be gone
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        pid = owner.read_text(encoding="utf-8") if owner.is_file() else "unknown"
        raise UserError(f"{folder}: process {pid} is training into it; wait, or set another CHECKPOINT_DIR") from error
    except NotImplementedError:
        log.warning("%s: its disk has no locks; take care that no other training writes there", folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); set CHECKPOINT_DIR to another") from error
    with contextlib.suppress(OSError):  # a full disk must not stop a resume
        owner.write_text(f"{os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    try:
        for half in folder.glob(".checkpoint_e*.tmp"):  # what a kill in the midst of a save left behind
            half.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
