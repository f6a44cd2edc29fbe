"""Numbers of the running steps, kept on the device and looked at together: losses, gradient norms, faults."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lib.datasets.sample import Sample
from lib.distributed import World, gather, gather_texts
from lib.errors import UserError
from lib.files import atomic_write

log = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 100  # steps without a usable gradient after which NONFINITE skip gives up
DATA_BOUND = 0.3  # share of the time waiting for data above which a run counts as bound by it
DATA_BOUND_AFTER = 60.0  # seconds of training before that is judged


@dataclass(frozen=True)
class Look:
    """What the steps since the last look have in common."""

    means: dict[str, float]  # each loss and "grad_norm", averaged over steps and ranks
    steps: int
    seconds: float  # of wall time
    wait: float  # share of it that the device waited for data, 0..1


class Watch:
    """The steps since the last look: one small tensor each, left on the device."""

    def __init__(self, world: World, *, max_unreadable: float, pairs_per_epoch: int, pairs_per_step: int) -> None:
        """Begin; `max_unreadable` is the share 0..1 of the pairs seen, at least an epoch's, that may be replaced."""
        self._world = world
        self._rows: list[Tensor] = []
        self._first = 0
        self._since = time.perf_counter()
        self._waited = 0.0
        self._total = 0.0
        self._unreadable: list[str] = []  # of all ranks, told
        self._new_unreadable: list[str] = []  # of this rank, since the last look
        self._max_unreadable = max_unreadable
        self._pairs_per_epoch, self._pairs_per_step = pairs_per_epoch, pairs_per_step
        self._seen = 0  # pairs, of all ranks
        self._hinted = False
        self.names: tuple[str, ...] = ()

    def add(self, step: int, losses: dict[str, Tensor], norm: Tensor) -> None:
        """Keep a step's losses and gradient norm (scalars); `step` counts over the whole run from 0."""
        if not self._rows:
            self._first = step
        self.names = (*losses, "grad_norm")
        self._rows.append(torch.stack([*(loss.detach() for loss in losses.values()), norm.detach()]).float())

    def add_unreadable(self, texts: Sequence[str]) -> None:
        """Count a step's pairs and the crops that had to be replaced; raise UserError when those are too many.

        One rank's alone are judged at once, those of all ranks together at the next look.
        """
        self._seen += self._pairs_per_step
        self._new_unreadable += texts
        if texts and self._too_many([*self._unreadable, *self._new_unreadable]):
            _tell(self._new_unreadable)
            self._check_unreadable([*self._unreadable, *self._new_unreadable])

    def look(self, *, waited: Callable[[], float]) -> tuple[Look, np.ndarray[Any, Any], int] | None:
        """Return the summary, the values (ranks, steps, names) and the first step; None when no step was added.

        Waits for the device and for the other ranks. `waited`: `Feed.waited`, asked when the device is idle.
        """
        if not self._rows:
            return None
        rows = gather(torch.stack(self._rows), self._world).cpu().double().numpy()
        first, steps = self._first, len(self._rows)
        self._rows.clear()
        self._gather_unreadable()
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        idle = waited()
        self._waited += idle
        self._total += seconds
        means = dict(zip(self.names, rows.mean((0, 1)).tolist(), strict=True))
        return Look(means, steps, seconds, min(1.0, idle / max(seconds, 1e-9))), rows, first

    def restart_clock(self) -> None:
        """Leave the time since the last look (saving, drawing) out of the next one's."""
        self._since = time.perf_counter()

    def hint_if_data_bound(self, advice: str) -> None:
        """Say, once in a run, that data is the bottleneck, and what helps (`loader.advice`)."""
        share = self._waited / max(self._total, 1e-9)
        if self._hinted or self._total < DATA_BOUND_AFTER or share < DATA_BOUND:
            return
        self._hinted = True
        log.warning("%.0f%% of the time is spent waiting for data; %s", 100 * share, advice)

    def _gather_unreadable(self) -> None:
        texts = gather_texts(self._new_unreadable, self._world)
        self._new_unreadable = []
        _tell(texts)
        self._unreadable += texts
        self._check_unreadable(self._unreadable)

    @property
    def unreadable(self) -> int:
        """Return how many crops had to be replaced in this run so far, of all ranks, as of the last look."""
        return len(self._unreadable)

    def _allowed(self) -> int:
        return int(self._max_unreadable * max(self._seen, self._pairs_per_epoch))

    def _too_many(self, texts: Sequence[str]) -> bool:
        return len(texts) > self._allowed()

    def _check_unreadable(self, texts: Sequence[str]) -> None:
        if self._too_many(texts):
            shown = ", ".join(texts[:5]) + (", ... (the log names all)" if len(texts) > 5 else "")
            raise UserError(f"data: {len(texts)} unreadable crop(s), {self._allowed()} are tolerated: {shown}; mend "
                            f"them (`python -m lib.datasets.prepare check` names all that are broken), or raise the "
                            f"share DATASET.MAX_UNREADABLE, now {self._max_unreadable:g}")


def _tell(texts: Sequence[str]) -> None:
    for text in texts:
        log.warning("unreadable crop replaced by another pair: %s", text)


def first_bad_step(rows: np.ndarray[Any, Any], *, names: Sequence[str], overflow_ok: bool) -> tuple[int, int] | None:
    """Return (rank, index of the step) of the first value that is not finite, None when all are.

    rows (ranks, steps, names). overflow_ok: an infinite gradient norm is the fp16 scaler's everyday business.
    """
    checked = rows[..., : names.index("grad_norm")] if overflow_ok else rows
    bad = ~np.isfinite(checked).all(-1)
    if not bad.any():
        return None
    index = int(bad.any(0).argmax())
    return int(bad[:, index].argmax()), index


def values_text(row: Sequence[float], names: Sequence[str]) -> str:
    """Return "cls nan, reg 0.1234, ..."."""
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(names, row, strict=True))


def dump_batch(path: Path, dataset: Dataset[Sample], numbers: Sequence[int]) -> str:
    """Return where a batch was written for inspection: its samples made anew from their numbers, as an .npz file.

    The file holds `numbers` and each field of Sample with the batch first. Instead of raising, says why it could not.
    """
    try:
        rows = [dataset[number] for number in numbers]
        fields: dict[str, Any] = {name: np.stack([np.asarray(getattr(row, name)) for row in rows])
                                  for name in Sample._fields[:-1]}
        with atomic_write(path, mode="wb") as file:
            np.savez(file, **fields, numbers=np.asarray(numbers))
    except UserError as error:
        return f"(the batch could not be written: {error})"
    return f"(the batch is in {path})"


def watch_layers(model: nn.Module) -> None:
    """Make the first layer whose output, or whose output's gradient, is not finite raise a UserError with its name.

    For TRAIN.DETECT_ANOMALY: it waits for the device at every layer.
    """
    for name, module in model.named_modules():
        if not any(True for _ in module.children()):
            module.register_forward_hook(_layer_hook(name or type(model).__name__))


def _layer_hook(name: str) -> Any:
    def check_gradient(gradient: Tensor) -> None:
        if not bool(torch.isfinite(gradient).all()):
            raise UserError(f"the gradient that reaches the output of layer '{name}' is not finite; its cause lies in "
                            f"what follows that layer")

    def check(_module: nn.Module, _inputs: Any, output: Any) -> None:
        for value in output if isinstance(output, tuple | list) else (output,):
            if isinstance(value, Tensor) and value.is_floating_point():
                if not bool(torch.isfinite(value).all()):
                    raise UserError(f"the output of layer '{name}' is not finite, the first to be so")
                if value.requires_grad:
                    value.register_hook(check_gradient)

    return check
