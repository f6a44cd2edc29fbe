"""The losses by hand, without positives, and with gradients only where they belong."""

import math

import pytest
import torch
import torch.nn.functional as F

from lib.models.losses import aligned_loss, balanced_bce, iou_loss, ocean_loss
from lib.models.ocean import OceanOutput


def output(*, batch: int = 2, side: int = 5, align: bool = True) -> OceanOutput:
    torch.manual_seed(1)
    maps = [torch.randn(batch, n, side, side) for n in (4, 1, 1)]
    ltrb = maps[0].exp().mul(10).detach().requires_grad_()
    return OceanOutput(ltrb, maps[1].requires_grad_(), maps[2].requires_grad_() if align else None)


def targets(*, batch: int = 2, side: int = 5) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    cls = (torch.rand(batch, side, side) > 0.8).float()
    ltrb = 40 * torch.rand(batch, 4, side, side) - 10
    return {"cls_target": cls, "ltrb_target": ltrb, "weight": (ltrb > 0).all(1).float()}


def test_total_is_the_plain_sum_and_branch_is_optional() -> None:
    losses = ocean_loss(output(), **targets())
    assert list(losses) == ["cls", "reg", "aligned", "total"]
    torch.testing.assert_close(losses["total"], losses["cls"] + losses["reg"] + losses["aligned"])
    assert list(ocean_loss(output(align=False), **targets())) == ["cls", "reg", "total"]


def test_classification_halves_are_means_over_positives_and_negatives() -> None:
    logit, target = torch.tensor([[[0.0, 2.0], [-1.0, 3.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    softplus = [math.log1p(math.exp(v)) for v in (-0.0, -3.0, 2.0, -1.0)]
    wanted = 0.5 * (softplus[0] + softplus[1]) / 2 + 0.5 * (softplus[2] + softplus[3]) / 2
    assert balanced_bce(logit, target).item() == pytest.approx(wanted, rel=1e-6)


def test_one_positive_counts_as_much_as_all_negatives() -> None:
    target = torch.zeros(1, 25, 25)
    target[0, 12, 12] = 1
    # Logits of 0 everywhere: both halves are log 2.
    assert balanced_bce(torch.zeros(1, 25, 25), target).item() == pytest.approx(math.log(2), rel=1e-5)


def test_iou_loss_by_hand() -> None:
    prediction = torch.tensor([2.0, 3.0, 4.0, 5.0]).view(1, 4, 1, 1)  # 6 x 8 around the point
    target = torch.tensor([4.0, 3.0, 2.0, 1.0]).view(1, 4, 1, 1)  # 6 x 4
    intersection, union = (2 + 2) * (3 + 1), 6 * 8 + 6 * 4 - 16
    wanted = -math.log((intersection + 1) / (union + 1))
    assert iou_loss(prediction, target, torch.ones(1, 1, 1)).item() == pytest.approx(wanted, rel=1e-6)


def test_iou_loss_is_the_mean_over_weighted_cells_of_the_whole_batch() -> None:
    out, target = output(), targets()
    chosen = target["weight"] > 0
    assert 3 < chosen.sum() < chosen.numel()
    flat_prediction = out.ltrb.permute(0, 2, 3, 1)[chosen].T[None, :, :, None]
    flat_target = target["ltrb_target"].permute(0, 2, 3, 1)[chosen].T[None, :, :, None]
    alone = iou_loss(flat_prediction, flat_target, torch.ones_like(flat_target[:, 0]))
    torch.testing.assert_close(iou_loss(out.ltrb, target["ltrb_target"], target["weight"]), alone)


def test_perfect_boxes_lose_nothing() -> None:
    ltrb = 1 + 30 * torch.rand(2, 4, 5, 5)
    assert iou_loss(ltrb, ltrb, torch.ones(2, 5, 5)).item() == pytest.approx(0, abs=1e-6)


def test_aligned_label_is_the_iou_inside_and_zero_outside() -> None:
    ltrb = torch.full((1, 4, 2, 2), 3.0)  # 6 x 6
    target = torch.full((1, 4, 2, 2), 6.0)  # 12 x 12
    weight = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    label = torch.tensor([[[37 / 145, 0.0], [0.0, 0.0]]])
    logit = torch.randn(1, 2, 2)
    wanted = F.binary_cross_entropy_with_logits(logit, label)
    torch.testing.assert_close(aligned_loss(logit, ltrb, target, weight), wanted)


def test_no_gradient_flows_through_the_aligned_label() -> None:
    out, target = output(), targets()
    loss = aligned_loss(out.cls_aligned.squeeze(1), out.ltrb, target["ltrb_target"], target["weight"])
    assert torch.autograd.grad(loss, out.ltrb, allow_unused=True) == (None,)


def test_without_positives_losses_are_finite_and_gradients_zero() -> None:
    out, target = output(), targets()
    target["cls_target"].zero_()
    target["weight"].zero_()
    target["ltrb_target"] -= 100  # every distance negative: the logarithm's argument would be too
    losses = ocean_loss(out, **target)
    assert losses["reg"].item() == 0
    negatives = 0.5 * F.binary_cross_entropy_with_logits(out.cls, torch.zeros_like(out.cls))
    torch.testing.assert_close(losses["cls"], negatives)
    losses["total"].backward()
    assert out.ltrb.grad.abs().sum() == 0
    assert torch.isfinite(out.cls.grad).all()


def test_negative_distances_outside_the_box_leave_gradients_finite() -> None:
    out, target = output(), targets()
    assert (target["ltrb_target"] < 0).any()
    ocean_loss(out, **target)["total"].backward()
    outside = (target["weight"] == 0)[:, None].expand_as(out.ltrb)
    assert (out.ltrb.grad[outside] == 0).all()
    assert (out.ltrb.grad[~outside] != 0).any()


def test_low_precision_predictions_are_scored_in_float32() -> None:
    out = output()
    low = OceanOutput(*(tensor if tensor is None else tensor.detach().half() for tensor in out))
    assert ocean_loss(low, **targets())["total"].dtype == torch.float32
