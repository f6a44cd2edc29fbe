"""Deformable convolution over torchvision's operator: nothing of ours is compiled."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import conv_flop_count, register_flop_formula
from torchvision.ops import deform_conv2d


@register_flop_formula(torch.ops.torchvision.deform_conv2d)
def _flops(x_shape: list[int], weight_shape: list[int], *_: Any, out_shape: list[int], **__: Any) -> int:
    """Return the operations of one call for torch's counter, which does not know the operator: a convolution's."""
    return conv_flop_count(x_shape, weight_shape, out_shape, transposed=False)


class DeformConv(nn.Module):
    """3x3-style deformable convolution without bias (Dai et al., ICCV 2017), one offset pair per tap and place."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 3, padding: int = 1) -> None:
        super().__init__()
        self.kernel_size, self.padding = kernel_size, padding
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        bound = 1.0 / math.sqrt(in_channels * kernel_size**2)
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Return (B, out, H, W) for `x` (B, in, H, W) and `offset` (B, 2 k k, H, W): (y, x) pairs in cells, row-major.

        Samples outside the map are zero. The operator turns positions into indices unchecked, so an offset that is
        not a number (a diverged prediction) is taken as 0 and one far outside is brought to just outside: both
        leave every valid result as it is.
        """
        reach = float(max(x.shape[-2:]) + self.kernel_size)
        offset = offset.nan_to_num(nan=0.0, posinf=reach, neginf=-reach).clamp(-reach, reach)
        return deform_conv2d(x, offset.to(x.dtype), self.weight.to(x.dtype), padding=self.padding)
