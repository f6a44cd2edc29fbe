"""What trains at an epoch, and how fast: the one place that decides requires_grad, BatchNorm mode, parameter groups,
wrapping, and the learning rate as a pure function of the configuration and the position (OCEAN section 4).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lib.config import Config, ScheduleKwargs, TrainConfig
from lib.distributed import World
from lib.errors import UserError, did_you_mean, package
from lib.models.modules import LowRank
from lib.training.monitor import check_layers

SOLVER_LR = 10.0  # factor on the rate of what the online classifier's optimiser learns: DiMP's 5e-4 to 5e-5
TIMM = "timm:"  # before a name in TRAIN.OPTIMIZER
# Of timm: second derivatives, or a random generator of its own, or a GPU package: an exact resume was not seen.
_UNSEEN = ("adahessian", "bnb", "fused", "kron")
ONECYCLE_START = 1 / 25  # the first rate of a one-cycle over its highest, as in torch's OneCycleLR


@dataclass
class Stage:
    """A span of epochs in which the same parameters train."""

    module: nn.Module  # what the loop calls: the model, distributed and compiled as the keys say
    optimizer: torch.optim.Optimizer
    names: tuple[str, ...]  # the optimizer's parameters, in its order
    thawed: bool  # whether the trunk trains
    resting: str  # what does not, for the log
    frozen_bn: tuple[nn.Module, ...]  # BatchNorm layers that keep their statistics

    def train_mode(self) -> None:
        """Put the model into training mode, except BatchNorm layers of the frozen part."""
        self.module.train()
        for layer in self.frozen_bn:
            layer.eval()

    def accumulating(self, more: bool) -> contextlib.AbstractContextManager[Any]:
        """Return a context for a pass whose gradients stay with this process, as `more` are to come before the step."""
        no_sync = getattr(self.module, "no_sync", None)  # DistributedDataParallel's
        return no_sync() if more and no_sync is not None else contextlib.nullcontext()

    def set_rate(self, rate: float) -> None:
        """Give each group its share of the schedule's rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def rates(self) -> dict[str, float]:
        return {group["name"]: float(group["lr"]) for group in self.optimizer.param_groups}

    def describe(self) -> str:
        groups = self.optimizer.param_groups
        sizes = " + ".join(f"{group['name']} {sum(p.numel() for p in group['params']):,}" for group in groups)
        return f"training {sizes} parameters" + self.resting

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def load_optimizer(self, state: Mapping[str, Any], names: list[str]) -> None:
        """Take over the state of every parameter that trains here and had one there; `names` gives its order there.

        Of the groups only the count of steps, which some of timm's optimizers keep there.
        """
        there = {name: state["state"][index] for index, name in enumerate(names) if index in state["state"]}
        own = {index: there[name] for index, name in enumerate(self.names) if name in there}
        groups = self.optimizer.state_dict()["param_groups"]
        counts = {group["name"]: {"step": group["step"]} for group in state["param_groups"] if "step" in group}
        self.optimizer.load_state_dict({"state": own,
                                        "param_groups": [group | counts.get(group["name"], {}) for group in groups]})


def prepare_model(model: Any, cfg: Config, world: World) -> Any:
    """Return the model on the device, in the memory format and with the BatchNorm that the keys ask for."""
    if cfg.TRAIN.SYNC_BN:
        if world.device.type != "cuda":
            raise UserError("TRAIN.SYNC_BN: works on GPUs only, and this run is on the CPU; set TRAIN.SYNC_BN=False")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if cfg.TRAIN.DETECT_ANOMALY:
        check_layers(model)
    model = model.to(world.device)
    return model.to(memory_format=torch.channels_last) if cfg.TRAIN.CHANNELS_LAST else model


def build_stage(model: Any, train: TrainConfig, *, epoch: int, world: World, before: Stage | None = None) -> Stage:
    """Return the stage that `epoch` (from 0) belongs to; `before` unchanged if it is still that one.

    Runs at the start, at the unfreezing epoch and on resume. Parameters that trained in `before` keep their momentum.
    Changes the model's requires_grad. Raises UserError when TRAINABLE_LAYER names no layer of the backbone.
    """
    thawed = epoch >= train.UNFIX_EPOCH
    if before is not None and (branch_of(train) or before.thawed == thawed):
        return before
    group_of = branch_groups(model) if branch_of(train) else _groups(model, train, thawed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in group_of)
    bases = {"backbone": train.BASE_LR * train.LAYERS_LR, "head": train.BASE_LR, "solver": train.BASE_LR * SOLVER_LR}
    parts = {part: [item for item in model.named_parameters() if group_of.get(item[0]) == part] for part in bases}
    groups = [{"name": part, "factor": rate_factor(train, bases[part]), "params": [parameter for _, parameter in items]}
              for part, items in parts.items() if items]
    names = tuple(name for items in parts.values() for name, _ in items)
    resting = "; the tracker rests" if branch_of(train) else (
        "" if parts["backbone"] else "; the backbone's trunk is frozen")
    stage = Stage(_wrap(model, train, world), _optimizer(groups, train), names, thawed, resting,
                  _frozen_batchnorm(model, train))
    if before is not None:
        stage.load_optimizer(before.optimizer.state_dict(), list(before.names))
    return stage


def _groups(model: Any, train: TrainConfig, thawed: bool) -> dict[str, str]:
    """Return the group of each parameter that trains, by name: the trunk's are "backbone", the others "head"."""
    trunk = trunk_parameters(model, train.TRAINABLE_LAYER, trainable=thawed)
    return {name: "backbone" if name in trunk else "head" for name, _ in model.named_parameters()
            if trunk.get(name, True)}


def branch_of(train: TrainConfig) -> str:
    """Return the key by which a branch trains beside a tracker that rests, "" where the tracker itself trains."""
    return "ONLINE" if train.ONLINE else "PRESENCE" if train.PRESENCE else ""


def branch_groups(model: Any) -> dict[str, str]:
    """Return the group of each parameter of the online or the presence branch, by name; all of the tracker rests.

    "backbone" is `layeronline`, "solver" what the online classifier's optimiser has learned, "head" the rest.
    """
    groups = {"classifier.filter_optimizer.": "solver", "classifier.": "head", "presence.": "head",
              "features.features.layeronline.": "backbone"}
    return {name: next(group for start, group in groups.items() if name.startswith(start))
            for name, _ in model.named_parameters() if name.startswith(tuple(groups))}


def trunk_parameters(model: Any, layers: list[str], *, trainable: bool) -> dict[str, bool]:
    """Return for each parameter of the pretrained trunk, by name, whether it trains.

    The trunk is what the backbone's `trunk_layers()` lists; anything else of the model is new and always trains, and so
    is what LoRA adds to the trunk, which then never trains itself.
    `layers` are those that may train (empty: all of them).
    """
    known = model.trunk_layers()
    for layer in layers if known else ():  # a classifier has no trunk: all of it is new
        if layer not in known:
            raise UserError(f"TRAIN.TRAINABLE_LAYER: the backbone has no layer '{layer}'{did_you_mean(layer, known)}")
    low_rank = {id(p) for module in model.modules() if isinstance(module, LowRank) for p in module.parameters()}
    names = {id(parameter): name for name, parameter in model.named_parameters() if id(parameter) not in low_rank}
    return {names[id(parameter)]: trainable and not low_rank and (not layers or layer in layers)
            for layer, module in known.items() for parameter in module.parameters() if id(parameter) in names}


def _frozen_batchnorm(model: Any, train: TrainConfig) -> tuple[nn.Module, ...]:
    """Return the BatchNorm layers, of the trunk or beside a branch of all, none of whose parameters train."""
    if not train.FROZEN_BN_EVAL:
        return ()
    return tuple(layer for module in ([model] if branch_of(train) else model.trunk_layers().values())
                 for layer in module.modules()
                 if isinstance(layer, nn.modules.batchnorm._BatchNorm)
                 and not any(parameter.requires_grad for parameter in layer.parameters()))


def _optimizer(groups: list[dict[str, Any]], train: TrainConfig) -> torch.optim.Optimizer:
    if train.OPTIMIZER == "AdamW":
        return torch.optim.AdamW(groups, lr=train.BASE_LR, weight_decay=train.WEIGHT_DECAY)
    if train.OPTIMIZER.startswith(TIMM):
        return _timm_optimizer(train.OPTIMIZER.removeprefix(TIMM), groups, train)
    return torch.optim.SGD(groups, lr=train.BASE_LR, momentum=train.MOMENTUM, weight_decay=train.WEIGHT_DECAY)


def _timm_optimizer(name: str, groups: list[dict[str, Any]], train: TrainConfig) -> torch.optim.Optimizer:
    """Return an optimizer of timm by its name; MOMENTUM goes to those that take one."""
    timm = package("timm.optim", needed_by=f"TRAIN.OPTIMIZER {TIMM}{name}")
    known = [other for other in timm.list_optimizers() if not other.startswith(_UNSEEN)]
    if name not in known:
        raise UserError(f"TRAIN.OPTIMIZER: {name!r} is no optimizer of timm that can be resumed exactly"
                        f"{did_you_mean(name, known)}")
    optimizer: torch.optim.Optimizer = timm.create_optimizer_v2(
        groups, opt=name, lr=train.BASE_LR, weight_decay=train.WEIGHT_DECAY, momentum=train.MOMENTUM)
    return optimizer


def _wrap(model: nn.Module, train: TrainConfig, world: World) -> nn.Module:
    module = model
    if world.size > 1:
        devices = [world.device] if world.device.type == "cuda" else None
        module = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
    return torch.compile(module) if train.COMPILE else module  # type: ignore[return-value]


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
