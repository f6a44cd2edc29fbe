"""Losses of Ocean as pure functions of predictions and targets. They never wait for the device nor divide by zero.

Symbols: B batch, S side of the score map. Source: Ocean (Zhang et al., ECCV 2020), sections 3.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.models.ocean import OceanOutput


def ocean_loss(output: OceanOutput, *, cls_target: Tensor, ltrb_target: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Return the losses "cls", "reg", with the branch "aligned", and their plain sum "total", each a scalar float32.

    cls_target (B, S, S): 1 near the centre, 0 elsewhere; ltrb_target (B, 4, S, S) in px; weight (B, S, S): 1 in cells
    inside the box. A batch without positive or weighted cells gives a loss of 0 there, with a gradient of 0.
    """
    cls_target, ltrb_target, weight = cls_target.float(), ltrb_target.float(), weight.float()
    ltrb = output.ltrb.float()
    losses = {"cls": balanced_bce(output.cls.float().squeeze(1), cls_target),
              "reg": iou_loss(ltrb, ltrb_target, weight)}
    if output.cls_aligned is not None:
        losses["aligned"] = aligned_loss(output.cls_aligned.float().squeeze(1), ltrb, ltrb_target, weight)
    losses["total"] = torch.stack(list(losses.values())).sum()
    return losses


def balanced_bce(logit: Tensor, target: Tensor) -> Tensor:
    """Return half the mean BCE of the cells with a target of at least 0.5, plus half that of the others."""
    positive = (target >= 0.5).float()
    bce = F.binary_cross_entropy_with_logits(logit, target, reduction="none")
    return 0.5 * _masked_mean(bce, positive) + 0.5 * _masked_mean(bce, 1 - positive)


def iou_loss(ltrb: Tensor, ltrb_target: Tensor, weight: Tensor) -> Tensor:
    """Return the mean over the weighted cells of -log((intersection + 1) / (union + 1)); shapes as in `ocean_loss`."""
    return _masked_mean(-torch.log(_iou_plus_one(ltrb, ltrb_target, weight)), weight)


def aligned_loss(logit: Tensor, ltrb: Tensor, ltrb_target: Tensor, weight: Tensor) -> Tensor:
    """Return the mean BCE over all cells against the IoU of the predicted box, which is 0 outside the weighted cells.

    logit (B, S, S), the rest as in `ocean_loss`. The IoU is a label: no gradient flows through it.
    """
    with torch.no_grad():
        label = (_iou_plus_one(ltrb, ltrb_target, weight) * weight).clamp(0, 1)
    return F.binary_cross_entropy_with_logits(logit, label)


def online_loss(scores: Sequence[Tensor], label: Tensor) -> dict[str, Tensor]:
    """Return DiMP's losses (Bhat et al., ICCV 2019, eq. 7): "last", "initial", "between", and "total", scalars.

    scores: the maps of the initial filter and of those after each iteration, of the shape of `label`, 0..1. Where the
    label is below 0.05 only scores above 0 are wrong. total = 100 last + 100 initial + 400 mean of those between.
    """
    positive = label >= 0.05
    each = torch.stack([torch.where(positive, score - label, score.clamp(min=0)).square().mean() for score in scores])
    losses = {"last": each[-1], "initial": each[0], "between": each[1:-1].mean()}
    return losses | {"total": 100 * losses["last"] + 100 * losses["initial"] + 400 * losses["between"]}


def presence_loss(output: OceanOutput, logit: Tensor, *, ltrb_target: Tensor) -> dict[str, Tensor]:
    """Return the losses "held", "alike", "others" of the presence branch, and "total", scalars.

    The examples are the tracker's own answers: its best box of those that overlap the target by half, and its best box
    apart from the target (overlap below 0.1; in a negative pair any). logit (B, B, S, S): of search j for template i,
    so that each template is compared with what all other searches of the batch show, too. ltrb_target (B, 4, S, S):
    in every cell, negative outside the box; all 0 in a negative pair.
    """
    ltrb, target, score = output.ltrb.float(), ltrb_target.float(), output.cls.float().sigmoid().squeeze(1)
    left, top, right, bottom = torch.minimum(ltrb, target).unbind(1)
    shared = (left + right).clamp(min=0) * (top + bottom).clamp(min=0)
    overlap = shared / (_area(ltrb) + _area(target) - shared).clamp(min=1e-6)
    held, other = ((score * chosen).flatten(1).max(1) for chosen in (overlap >= 0.5, overlap < 0.1))
    there, own = (held.values > 0).float(), torch.eye(len(score), device=score.device)
    each = torch.arange(len(score), device=score.device)
    at_held, at_other = (logit.float().flatten(2)[:, each, best.indices] for best in (held, other))  # (B, B)
    losses = {"held": _masked_mean(F.softplus(-at_held), own * there),
              "alike": _masked_mean(F.softplus(at_other), own),
              "others": (_masked_mean(F.softplus(at_held), (1 - own) * there)
                         + _masked_mean(F.softplus(at_other), 1 - own))}
    return losses | {"total": losses["held"] + losses["alike"] / 2 + losses["others"] / 4}


def _iou_plus_one(ltrb: Tensor, ltrb_target: Tensor, weight: Tensor) -> Tensor:
    """Return (intersection + 1) / (union + 1) per cell, (B, S, S), in (0, 1]; 1 in cells without weight.

    Both boxes are seen from the same grid point, so the intersection's sides are sums of minima.
    """
    # Outside the box the target's distances are negative, where the logarithm is not defined: the prediction itself
    # stands in for them, which keeps value and gradient finite where the weight is zero.
    target = torch.where(weight[:, None] > 0, ltrb_target, ltrb.detach())
    left, top, right, bottom = torch.minimum(ltrb, target).unbind(1)
    intersection = (left + right) * (top + bottom)
    union = _area(ltrb) + _area(target) - intersection
    return (intersection + 1) / (union + 1)


def _area(ltrb: Tensor) -> Tensor:
    left, top, right, bottom = ltrb.unbind(1)
    return (left + right) * (top + bottom)


def _masked_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean, 0 when all weights are 0."""
    # All weights are 0 or 1, so a maximum with 1 only guards against none at all.
    return (values * weight).sum() / weight.sum().clamp(min=1)
