"""The online branch's target classifier: a filter solved per target by steepest descent, that scores where it is.

DiMP-50 (Bhat et al., Learning Discriminative Model Prediction for Tracking, ICCV 2019) without its IoU-Net, as Ocean's
online variant has it; names and shapes are the reference's. Symbols: n frames, s sequences, C channels, h side of a
feature map, K = 4 side of a filter. All of it is differentiable, so that training goes through the solver.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FILTER = 4  # K; even, so a score map has one cell more than its features: 14 for 13
STRIDE = 16  # crop px from one cell to the next
TABLE_BINS, TABLE_STEP = 100, 0.1  # entries of a table over the distance from the target, and cells between two
MIN_REG, MIN_CURVATURE, MIN_POWER = 1e-6, 1e-8, 1e-5


def prroi_pool(maps: Tensor, corners: Tensor, *, size: int = FILTER) -> Tensor:
    """Return the mean of each of size x size bins of a box, (B, C, size, size), of bilinear maps (B, C, H, W).

    corners (B, 4): x1, y1, x2, y2 in cells, cell i lying at i; zero beyond the map; 0 for a box without area. Precise
    RoI pooling (Jiang et al., ECCV 2018) by its closed form: the bilinear hat's integral, separately for rows and
    columns. Differentiable by map and box.
    """
    start, extent = corners[:, :2], (corners[:, 2:] - corners[:, :2]).clamp(min=0) / size  # (B, 2) x, y; of a bin

    def weights(axis: int, cells: int) -> Tensor:
        edges = start[:, axis, None] + extent[:, axis, None] * torch.arange(size + 1, device=maps.device)
        t = (edges[..., None] - torch.arange(cells, device=maps.device)).clamp(-1, 1)
        return (t - t * t.abs() / 2).diff(dim=1)  # (B, size, cells)

    area = extent.prod(1)[:, None, None, None]
    summed = torch.einsum("bpi,bcij,bqj->bcpq", weights(1, maps.shape[2]), maps, weights(0, maps.shape[3]))
    return torch.where(area > 0, summed / area.clamp(min=torch.finfo(area.dtype).tiny), 0.0)


def to_cells(features: Tensor, *, frames: int) -> Tensor:
    """Return feature maps (n s, C, h, h) as the solver takes them, (s, n, h h, C), sequences apart."""
    return features.flatten(2).unflatten(0, (frames, -1)).permute(1, 0, 3, 2)


def apply_filter(cells: Tensor, filters: Tensor) -> Tensor:
    """Return the score maps (s, n, h + 1, h + 1) of cells (s, n, h h, C) under filters (s, C, K, K).

    A convolution with padding 2, as one matrix product and 16 shifted sums: several times faster on a CPU.
    """
    side = math.isqrt(cells.shape[2])
    taps = cells.flatten(1, 2) @ filters.flip(2, 3).flatten(2)  # (s, n h h, K K)
    columns = taps.unflatten(1, cells.shape[1:3]).flatten(0, 1).transpose(1, 2)
    return F.fold(columns, side + 1, FILTER, padding=1).view(*cells.shape[:2], side + 1, side + 1)


def filter_gradient(cells: Tensor, upstream: Tensor) -> Tensor:
    """Return the gradient (s, C, K, K) of `apply_filter` for its filters, given that for the score maps."""
    columns = F.unfold(upstream.flatten(0, 1)[:, None], FILTER, padding=1)  # (s n, K K, h h)
    taps = columns.unflatten(0, upstream.shape[:2]).transpose(2, 3).flatten(1, 2)  # (s, n h h, K K)
    return (cells.flatten(1, 2).transpose(1, 2) @ taps).unflatten(2, (FILTER, FILTER)).flip(2, 3)


class Problem(NamedTuple):
    """What the filters are fitted to: e = scale (a - label), a = r where r > 0 else mask r, r the scores."""

    cells: Tensor  # (s, n, h h, C)
    label: Tensor  # y, (s, n, h + 1, h + 1), like mask (m, 0..1) and scale (v sqrt(weight))
    mask: Tensor
    scale: Tensor
    step_length: Tensor  # of a step along the gradient over that of an exact search
    reg: Tensor  # weight of sum w^2

    def residual(self, filters: Tensor) -> tuple[Tensor, Tensor]:
        """Return e and the slope q of a by r, each (s, n, h + 1, h + 1)."""
        scores = apply_filter(self.cells, filters)
        act = (1 - self.mask) / 2 * scores.abs() + (1 + self.mask) / 2 * scores
        slope = (1 - self.mask) / 2 * scores.sign() + (1 + self.mask) / 2
        return self.scale * (act - self.label), slope

    def loss(self, filters: Tensor) -> Tensor:
        """Return sum e^2 + reg sum w^2 over the number of sequences."""
        return (self.residual(filters)[0].square().sum() + self.reg * filters.square().sum()) / len(filters)

    def step(self, filters: Tensor) -> Tensor:
        """Return the filters after one step of steepest descent, its length found per sequence (Gauss-Newton)."""
        error, slope = self.residual(filters)
        gradient = filter_gradient(self.cells, slope * self.scale * error) + self.reg * filters
        change = self.scale * slope * apply_filter(self.cells, gradient)
        power = gradient.square().sum((1, 2, 3))
        curvature = (change.square().sum((1, 2, 3)) + self.reg * power).clamp(min=MIN_CURVATURE)
        return filters - self.step_length * (power / curvature)[:, None, None, None] * gradient


class FilterInitializer(nn.Module):
    """The first filter: the mean over the frames of the box's pooled features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.filter_conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        nn.init.normal_(self.filter_conv.weight, 0.0, math.sqrt(2.0 / (9 * channels)))
        nn.init.zeros_(self.filter_conv.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, boxes_xywh: Tensor) -> Tensor:
        """Return filters (s, C, K, K) of maps (n s, C, h, h) and boxes (n, s, 4), crop px."""
        corners = torch.cat([boxes_xywh[..., :2], boxes_xywh[..., :2] + boxes_xywh[..., 2:]], dim=-1) / STRIDE
        pooled = prroi_pool(self.filter_conv(features), corners.flatten(0, 1))
        return pooled.unflatten(0, boxes_xywh.shape[:2]).mean(0)


class FilterOptimizer(nn.Module):
    """What the solver has learned: step length, regularisation, and label, mask and weight by distance."""

    def __init__(self) -> None:
        super().__init__()
        cells = TABLE_STEP * torch.arange(TABLE_BINS).view(1, -1, 1, 1)
        self.log_step_length = nn.Parameter(torch.full((1,), math.log(0.9)))
        self.filter_reg = nn.Parameter(torch.full((1,), 0.1))
        label = torch.exp(-(cells**2) / (2 * 0.85**2))
        self.label_map_predictor = _table(label - label.min())
        self.target_mask_predictor = nn.Sequential(_table(3 * torch.tanh(2 - cells)), nn.Sigmoid())
        self.spatial_weight_predictor = _table(torch.ones_like(cells))

    def tables(self, boxes_xywh: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return label, mask and weight (s, n, side, side) of score cells around boxes (n, s, 4), crop px."""
        centre = (boxes_xywh[..., :2] + boxes_xywh[..., 2:] / 2).transpose(0, 1) / STRIDE  # (s, n, 2) in cells
        at = torch.arange(side, device=centre.device, dtype=centre.dtype)
        dx, dy = (at - centre[..., axis, None] for axis in (0, 1))
        bins = (torch.hypot(dx[..., None, :], dy[..., None]) / TABLE_STEP).clamp(max=TABLE_BINS - 1)
        low = bins.floor().clamp(max=TABLE_BINS - 2).long()

        def look_up(part: nn.Conv2d) -> Tensor:
            table = part.weight.flatten()
            return table[low] + (bins - low) * (table[low + 1] - table[low])

        mask: nn.Conv2d = self.target_mask_predictor[0]  # type: ignore[assignment]
        return look_up(self.label_map_predictor), look_up(mask).sigmoid(), look_up(self.spatial_weight_predictor)

    def problem(self, cells: Tensor, boxes_xywh: Tensor, *, weight: Tensor | None = None) -> Problem:
        """Return what filters for cells (s, n, h h, C) are fitted to.

        boxes (n, s, 4) in crop px; weight (n, s) of each frame, by default 1 / n.
        """
        label, mask, spatial = self.tables(boxes_xywh, math.isqrt(cells.shape[2]) + 1)
        share = torch.full_like(boxes_xywh[..., 0], 1 / len(boxes_xywh)) if weight is None else weight
        scale = spatial * share.T[..., None, None].sqrt()
        return Problem(cells, label, mask, scale, self.log_step_length.exp(), self.filter_reg.square().clamp(MIN_REG))

    def forward(self, filters: Tensor, problem: Problem, *, iterations: int) -> list[Tensor]:
        """Return the given filters (s, C, K, K) and those after each of so many iterations."""
        found = [filters]
        for _ in range(iterations):
            found.append(problem.step(found[-1]))
        return found


def _table(values: Tensor) -> nn.Conv2d:
    """Return a table over the distance, stored as the reference does: the 1x1 convolution of one-hot distances."""
    conv = nn.Conv2d(TABLE_BINS, 1, kernel_size=1, bias=False)
    conv.weight = nn.Parameter(values)
    return conv


class OnlineClassifier(nn.Module):
    """The three parts on a trunk's map of stride 16; `channels` of a feature are half of the map's."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        channels = in_channels // 2
        self.feature_extractor = nn.Sequential(nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False))
        nn.init.normal_(self.feature_extractor[0].weight, 0.0, math.sqrt(2.0 / (9 * channels)))  # type: ignore[arg-type]
        self.filter_initializer = FilterInitializer(channels)
        self.filter_optimizer = FilterOptimizer()
        self.norm = math.sqrt(1 / (channels * FILTER**2))

    def extract(self, maps: Tensor) -> Tensor:
        """Return the features F (B, C, h, h) of the trunk's maps (B, 2 C, h, h), each crop's brought to one power."""
        features = self.feature_extractor(maps)
        power = features.square().sum((1, 2, 3), keepdim=True) + MIN_POWER
        return features * self.norm * (features[0].numel() / power).sqrt()

    def fit(self, features: Tensor, boxes_xywh: Tensor, *, iterations: int) -> list[Tensor]:
        """Return the filters (s, C, K, K) of s sequences: the first one and those after each iteration.

        features (n s, C, h, h) of `extract`, frame by frame; boxes (n, s, 4): x, y, w, h in crop px.
        """
        problem = self.filter_optimizer.problem(to_cells(features, frames=len(boxes_xywh)), boxes_xywh)
        return self.filter_optimizer(self.filter_initializer(features, boxes_xywh), problem, iterations=iterations)

    def learn(self, train: Tensor, test: Tensor, boxes_xywh: Tensor, *, iterations: int = 5) -> list[Tensor]:
        """Return the score maps (s, n, h + 1, h + 1) of test features under the filters of `fit` on train features."""
        cells = to_cells(test, frames=len(boxes_xywh))
        return [apply_filter(cells, filters) for filters in self.fit(train, boxes_xywh, iterations=iterations)]
