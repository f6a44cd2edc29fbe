"""What the steps gave: losses and gradient norms kept on the device and read together, faults, unreadable crops."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from lib.distributed import World, gather, gather_texts
from lib.errors import UserError
from lib.files import atomic_write

log = logging.getLogger(__name__)

GRAD_NORM = "grad_norm"  # the last of a step's values, after the losses
DATA_BOUND = 0.3  # share of the time waiting for data above which a run counts as bound by it
DATA_BOUND_AFTER = 60.0  # seconds of training before that is judged


@dataclass(frozen=True)
class StepSummary:
    """The steps since the last summary."""

    first: int  # number of the first of them in the run, from 0
    values: NDArray[np.float64]  # (ranks, steps, losses and gradient norm)
    means: dict[str, float]  # each loss and the gradient norm, averaged over steps and ranks
    seconds: float  # of wall time
    data_wait: float  # share of them that the device waited for data, 0..1


class StepMonitor:
    """Collects one small tensor a step, left on the device until `summarize`."""

    def __init__(self, world: World, *, max_unreadable: float, pairs_per_epoch: int, pairs_per_step: int) -> None:
        """Begin; `max_unreadable` is the share 0..1 of the pairs seen, at least an epoch's, that may be replaced."""
        self._world = world
        self._rows: list[Tensor] = []
        self._names: tuple[str, ...] = ()
        self._first = 0
        self._since = time.perf_counter()
        self._total = self._waited = 0.0  # seconds of the run
        self._hinted = False
        self.unreadable: list[str] = []  # crops that had to be replaced, of all ranks, as of the last summary
        self._new_unreadable: list[str] = []  # of this rank, since the last summary
        self._max_unreadable = max_unreadable
        self._pairs_per_epoch, self._pairs_per_step = pairs_per_epoch, pairs_per_step
        self._seen = 0  # pairs, of all ranks

    def add(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Keep a step's losses and gradient norm (scalars); `step` counts over the whole run from 0."""
        if not self._rows:
            self._first = step
        self._names = tuple(values)
        self._rows.append(torch.stack([value.detach().float() for value in values.values()]))

    def add_unreadable(self, texts: Sequence[str]) -> None:
        """Count a step's pairs and the crops that had to be replaced; raise UserError when those are too many.

        One rank's alone are judged at once, those of all ranks together at the next summary.
        """
        self._seen += self._pairs_per_step
        self._new_unreadable += texts
        if texts and len(self.unreadable) + len(self._new_unreadable) > self._allowed():
            self._log_unreadable(self._new_unreadable)

    def summarize(self, *, waited: Callable[[], float]) -> StepSummary | None:
        """Return what the steps since the last call have in common; None when no step was added.

        Waits for the device and the other ranks. `waited`: `DevicePrefetcher.waited`, asked when the device is idle.
        """
        if not self._rows:
            return None
        values = gather(torch.stack(self._rows), self._world).cpu().double().numpy()
        self._rows.clear()
        texts, self._new_unreadable = gather_texts(self._new_unreadable, self._world), []
        self._log_unreadable(texts)
        seconds, idle = time.perf_counter() - self._since, waited()
        self.restart_clock()
        self._total += seconds
        self._waited += idle
        means = dict(zip(self._names, values.mean((0, 1)).tolist(), strict=True))
        return StepSummary(self._first, values, means, seconds, min(1.0, idle / max(seconds, 1e-9)))

    def restart_clock(self) -> None:
        """Leave the time since the last summary (saving, drawing) out of the next one's."""
        self._since = time.perf_counter()

    def hint_if_data_bound(self, advice: str) -> None:
        """Say, once in a run, that data is the bottleneck, and what helps (`loader.advice`)."""
        share = self._waited / max(self._total, 1e-9)
        if not self._hinted and self._total >= DATA_BOUND_AFTER and share >= DATA_BOUND:
            self._hinted = True
            log.warning("%.0f%% of the time is spent waiting for data; %s", 100 * share, advice)

    def _allowed(self) -> int:
        return int(self._max_unreadable * max(self._seen, self._pairs_per_epoch))

    def _log_unreadable(self, texts: Sequence[str]) -> None:
        for text in texts:
            log.warning("unreadable crop replaced by another pair: %s", text)
        self.unreadable += texts
        count, allowed = len(self.unreadable), self._allowed()
        if count > allowed:
            shown = ", ".join(self.unreadable[:5]) + (", ... (the log names all)" if count > 5 else "")
            raise UserError(f"data: {count} unreadable crop(s), {allowed} are tolerated: {shown}; mend them (`python "
                            f"-m lib.datasets.prepare check` names all that are broken), or raise the share "
                            f"DATASET.MAX_UNREADABLE, now {self._max_unreadable:g}")


def first_bad_step(values: NDArray[np.float64], *, overflow_ok: bool) -> tuple[int, int] | None:
    """Return (rank, index of the step) of the first value that is not finite, None when all are.

    values (ranks, steps, names), the gradient norm last. overflow_ok: an infinite norm is the fp16 scaler's business.
    """
    bad = np.asarray(~np.isfinite(values[..., :-1] if overflow_ok else values).all(-1))
    if not bad.any():
        return None
    index = int(bad.any(0).argmax())
    return int(bad[:, index].argmax()), index


def values_text(row: Sequence[float], names: Iterable[str]) -> str:
    """Return the values as "cls nan, reg 0.1234, ..."."""
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(names, row, strict=True))


def dump_batch(path: Path, dataset: Dataset[Any], numbers: Sequence[int]) -> str:
    """Return where a batch was written for inspection: its samples made anew from their numbers, as an .npz file.

    The file holds `numbers` and each field of the samples, the batch first. Instead of raising, says why it could not.
    """
    try:
        rows = [dataset[number] for number in numbers]
        fields: dict[str, Any] = {name: np.stack([np.asarray(getattr(row, name)) for row in rows])
                                  for name in rows[0]._fields[:-1]}
        with atomic_write(path, mode="wb") as file:
            np.savez(file, **fields, numbers=np.asarray(numbers))
    except UserError as error:
        return f"(the batch could not be written: {error})"
    return f"(the batch is in {path})"


def check_layers(model: nn.Module) -> None:
    """Make the first layer whose output or its gradient is not finite raise UserError; waits for the device at each."""
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
