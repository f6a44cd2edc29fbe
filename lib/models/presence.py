"""The presence branch: one vector per place, by which presence tells the target from what only looks like it.

As in re-identification, a place's window of the trunk's map becomes a vector of length 1, and two windows show the same
target when their vectors are near. The tracker's scores and boxes do not know of it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, WINDOW = 128, 7  # of the vectors; cells of a window, as many as the neck leaves of a template


class PresenceBranch(nn.Module):
    """From the trunk's maps (B, C, n, n), of the places of the score map, n = S + 6, to vectors (B, WIDTH, S, S)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(
            nn.Conv2d(in_channels, WIDTH, kernel_size=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True),
            nn.Conv2d(WIDTH, WIDTH, kernel_size=WINDOW, groups=WIDTH, bias=False), nn.BatchNorm2d(WIDTH),
            nn.ReLU(inplace=True), nn.Conv2d(WIDTH, WIDTH, kernel_size=1))
        self.scale, self.bias = nn.Parameter(torch.tensor(8.0)), nn.Parameter(torch.tensor(-4.0))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the vectors, float32, each of length 1."""
        return F.normalize(self.embed(maps).float(), dim=1)

    def logit(self, cosine: Tensor) -> Tensor:
        """Return the logit of the probability that two windows show one target, by their vectors' product, -1..1."""
        return self.scale * cosine + self.bias
