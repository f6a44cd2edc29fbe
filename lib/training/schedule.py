"""Learning rates as a pure function of the configuration and the position (OCEAN section 4)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lib.config import ScheduleKwargs, TrainConfig
from lib.errors import UserError

ONECYCLE_START = 1 / 25  # the first rate of a one-cycle over its highest, as in torch's OneCycleLR


def learning_rate(train: TrainConfig, *, epoch: int, step: int = 0, steps_per_epoch: int = 1) -> float:
    """Return the rate of a group with a base rate of LR.KWARGS.start_lr, at a step (from 0) of an epoch (from 0).

    The policies of the reference are constant over an epoch: WARMUP.EPOCH epochs of the warm-up, then the remaining
    ones of LR. 'onecycle' changes with each step, has its own rise and takes no warm-up. Multiply by `rate_factor`.
    """
    assert 0 <= epoch < train.END_EPOCH, f"epoch {epoch} of {train.END_EPOCH}"
    if train.LR.TYPE == "onecycle":
        total = train.END_EPOCH * steps_per_epoch
        return _onecycle((epoch * steps_per_epoch + step) / max(1, total - 1), train.LR.KWARGS)
    return float(epoch_rates(train)[epoch])


def rate_factor(train: TrainConfig, base_rate: float) -> float:
    """Return a group's rate over `learning_rate`: its base rate over the rate that the main schedule starts with."""
    return base_rate / train.LR.KWARGS.start_lr


def check_schedule(train: TrainConfig, *, place: str) -> None:
    """Return if the schedule's keys fit each other; raise UserError naming the ones that do not."""
    warm = train.WARMUP.EPOCH if train.WARMUP.IFNOT else 0
    if train.LR.TYPE == "onecycle" and warm:
        raise UserError(f"{place}: LR.TYPE onecycle rises by itself; set TRAIN.WARMUP.IFNOT=False")
    if warm >= train.END_EPOCH:
        raise UserError(f"{place}: TRAIN.WARMUP.EPOCH {warm} leaves no epoch of END_EPOCH {train.END_EPOCH} for LR; "
                        f"set a smaller WARMUP.EPOCH or WARMUP.IFNOT=False")


def epoch_rates(train: TrainConfig) -> NDArray[np.float64]:
    """Return the rate of every epoch, shape (END_EPOCH,), for the policies that are constant over an epoch."""
    warm = train.WARMUP.EPOCH if train.WARMUP.IFNOT else 0
    head = spaced_rates(train.WARMUP.TYPE, train.WARMUP.KWARGS, epochs=warm)
    tail = spaced_rates(train.LR.TYPE, train.LR.KWARGS, epochs=train.END_EPOCH - warm)
    return np.concatenate([head, tail])


def spaced_rates(policy: str, kwargs: ScheduleKwargs, *, epochs: int) -> NDArray[np.float64]:
    """Return the rates of `epochs` epochs under one of TracKit's policies, shape (epochs,).

    'log' and 'linear' reach end_lr in the last epoch, 'cos' would reach it one epoch later; 'step' multiplies every
    `step` epochs, 'multi-step' at each of `steps`, by `mult` or else by the factor that leads from start_lr to end_lr.
    """
    start, end = kwargs.start_lr, kwargs.end_lr if kwargs.end_lr is not None else kwargs.start_lr
    index = np.arange(epochs)
    if policy == "log":
        return np.logspace(math.log10(start), math.log10(end), epochs)
    if policy == "linear":
        return np.linspace(start, end, epochs)
    if policy == "cos":
        return end + (start - end) * (1 + np.cos(index * np.pi / max(1, epochs))) / 2
    if policy == "step":
        mult = kwargs.mult or (end / start) ** (1 / max(1, epochs // kwargs.step))
        return np.asarray(start * mult ** (index // kwargs.step), np.float64)
    assert policy == "multi-step", policy
    mult = kwargs.mult or (end / start) ** (1 / max(1, len(kwargs.steps)))
    passed = np.searchsorted(np.sort(kwargs.steps), index, side="right")
    return np.asarray(start * mult ** passed, np.float64)


def _onecycle(position: float, kwargs: ScheduleKwargs) -> float:
    """Return the rate at `position` (0 first step, 1 last): cosine up to start_lr, then cosine down to end_lr."""
    peak, last = kwargs.start_lr, kwargs.end_lr if kwargs.end_lr is not None else 0.0
    if position < kwargs.pct_start:
        low, high, share = peak * ONECYCLE_START, peak, position / kwargs.pct_start
    else:
        low, high, share = peak, last, (position - kwargs.pct_start) / max(1e-12, 1 - kwargs.pct_start)
    return low + (high - low) * (1 - math.cos(math.pi * min(1.0, share))) / 2
