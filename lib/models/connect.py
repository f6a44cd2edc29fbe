"""From two feature maps to predictions: neck, multi-dilation correlation, towers, and the object-aware branch.

Names and shapes of the parameters are the reference's, so that checkpoints move both ways. Symbols: B batch, C width,
S side of the score map.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lib.crops import STRIDE, cells_to_px

Features3 = tuple[Tensor, ...]  # one tensor per dilation


class AdjustLayer(nn.Module):
    """1x1 convolution and BatchNorm that bring the trunk's channels to the head's width."""

    CROP = 4  # cells cut from each side of a template map: 15 -> 7
    CROP_BELOW = 20  # maps of this side or larger are search maps and stay whole

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.downsample = nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
                                        nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor, *, crop: bool = False) -> Tensor:
        """Return (B, out, H, W); with `crop`, of a map smaller than 20 only the centre: 15 -> 7."""
        x = self.downsample(x)
        if crop and x.shape[-1] < self.CROP_BELOW:
            x = x[..., self.CROP:-self.CROP, self.CROP:-self.CROP]
        return x


class matrix(nn.Module):  # the reference's name
    """Three 3x3 convolutions with dilations 1, (2, 1), (1, 2) per side: `_k` for the template, `_s` for the search."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()

        def encoder(dilation: tuple[int, int]) -> nn.Sequential:
            conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, bias=False, dilation=dilation)
            return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))

        self.matrix11_k, self.matrix11_s = encoder((1, 1)), encoder((1, 1))
        self.matrix12_k, self.matrix12_s = encoder((2, 1)), encoder((2, 1))
        self.matrix21_k, self.matrix21_s = encoder((1, 2)), encoder((1, 2))

    def template(self, z: Tensor) -> Features3:
        """Return the template side, 5x5, 3x5 and 5x3, for `z` (B, C, 7, 7): once per sequence."""
        return self.matrix11_k(z), self.matrix12_k(z), self.matrix21_k(z)

    def search(self, x: Tensor) -> Features3:
        """Return the search side, 29x29, 27x29 and 29x27, for `x` (B, C, 31, 31)."""
        return self.matrix11_s(x), self.matrix12_s(x), self.matrix21_s(x)

    def forward(self, z: Tensor, x: Tensor) -> tuple[Features3, Features3]:
        """Return both sides."""
        return self.template(z), self.search(x)


class GroupDW(nn.Module):
    """Three depthwise correlations summed with softmax weights, learned from equal ones."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, z: Features3, x: Features3) -> Tensor:
        """Return (B, C, S, S) for the three template and the three search maps of `matrix`."""
        weight = torch.softmax(self.weight, dim=0)
        # The weight goes onto the 5x5 template, not onto the 25x25 result: the same sum with fewer numbers to touch.
        first, second, third = (xcorr_depthwise(x[i], z[i] * weight[i].to(z[i].dtype)) for i in range(3))
        return first + second + third


def xcorr_depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    """Return each channel's valid cross-correlation with its own kernel.

    x (B, C, H, W), kernel (B, C, h, w) -> (B, C, H - h + 1, W - w + 1). Batch and channels become the groups of one
    convolution, which measured fastest forward on CPUs; there its gradient is ours (see `_CorrelateOnCPU`).
    """
    assert x.shape[:2] == kernel.shape[:2], (x.shape, kernel.shape)
    if x.device.type == "cpu" and torch.is_grad_enabled() and (x.requires_grad or kernel.requires_grad):
        dtype = torch.promote_types(x.dtype, kernel.dtype)
        with torch.autocast("cpu", enabled=False):
            return _CorrelateOnCPU.apply(x.to(dtype), kernel.to(dtype))
    return _correlate(x, kernel.to(x.dtype))


def _correlate(x: Tensor, kernel: Tensor, *, padding: tuple[int, int] = (0, 0)) -> Tensor:
    """Return the correlation as one convolution with B * C groups."""
    groups = x.shape[0] * x.shape[1]
    out = F.conv2d(x.reshape(1, groups, *x.shape[2:]), kernel.reshape(groups, 1, *kernel.shape[2:]), groups=groups,
                   padding=padding)
    return out.view(*x.shape[:2], *out.shape[2:])


class _CorrelateOnCPU(torch.autograd.Function):
    """`_correlate` with a gradient that is 8 times faster on CPUs than torch's own for kernels five cells wide.

    The search side's is a grouped convolution with the flipped kernel; the kernel's one product and sum per tap.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(x, kernel)
        return _correlate(x, kernel)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, kernel = ctx.saved_tensors
        kh, kw = kernel.shape[2:]
        oh, ow = grad.shape[2:]
        grad_x = grad_kernel = None
        if ctx.needs_input_grad[0]:
            grad_x = _correlate(grad, kernel.flip(2, 3), padding=(kh - 1, kw - 1))
        if ctx.needs_input_grad[1]:
            taps = [(x[:, :, i:i + oh, j:j + ow] * grad).sum((2, 3)) for i in range(kh) for j in range(kw)]
            grad_kernel = torch.stack(taps, dim=2).view_as(kernel)
        return grad_x, grad_kernel


class Head(nn.Module):
    """What turns the neck's maps into predictions, whatever they come from. A new one is a subclass and an entry in
    `lib.models.models.HEADS`; loss and tracker take what `track` returns and need no change.
    """

    def template(self, zf: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return what the template's map `zf` (B, C, 7, 7) gives once per sequence: any tensors, batch first."""
        raise NotImplementedError

    def track(self, xf: Tensor, cls_z: tuple[Tensor, ...],
              reg_z: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return (ltrb, cls, cls_map, reg_map) for the search map `xf` (B, C, 31, 31) and `template`'s results.

        ltrb (B, 4, S, S): distances in px, > 0, from the grid point (`lib.crops.grid_points`) to the left, top, right
        and bottom sides; cls (B, 1, S, S): logit. S = 25 for 31. cls_map, reg_map (B, C, S, S): what other branches
        build on; the object-aware branch needs reg_map, a head without one gives None.
        """
        raise NotImplementedError

    def forward(self, search: Tensor, template: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return (ltrb, cls, cls_map, reg_map) for both feature maps; see `track`."""
        return self.track(search, *self.template(template))


class box_tower(Head):  # the reference's name
    """Classification and regression, each with matrix, correlation and tower; `box_bias` begins the boxes' exponent."""

    def __init__(self, inchannels: int, outchannels: int, *, towernum: int, box_bias: float) -> None:
        super().__init__()
        self.cls_encode = matrix(inchannels, outchannels)
        self.reg_encode = matrix(inchannels, outchannels)
        self.cls_dw = GroupDW()
        self.reg_dw = GroupDW()
        self.bbox_tower = _tower(outchannels, towernum)
        self.cls_tower = _tower(outchannels, towernum)
        self.bbox_pred = nn.Conv2d(outchannels, 4, kernel_size=3, padding=1)
        self.cls_pred = nn.Conv2d(outchannels, 1, kernel_size=3, padding=1)
        self.adjust = nn.Parameter(0.1 * torch.ones(1))
        # Boxes begin with sides of exp(box_bias) px: from the paper's 1.0 a long training finds the way to some 30 px;
        # a short one spends most of its steps on it.
        self.bias = nn.Parameter(torch.full((1, 4, 1, 1), box_bias))

    def template(self, zf: Tensor) -> tuple[Features3, Features3]:
        """Return the template side of both matrices (classification, regression) for `zf` (B, C, 7, 7)."""
        return self.cls_encode.template(zf), self.reg_encode.template(zf)

    def track(self, xf: Tensor, cls_z: Features3, reg_z: Features3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (ltrb, cls, cls_dw, tower_reg): see `Head.track`."""
        cls_dw = self.cls_dw(cls_z, self.cls_encode.search(xf))
        reg_dw = self.reg_dw(reg_z, self.reg_encode.search(xf))
        tower_reg = self.bbox_tower(reg_dw)
        tower_cls = self.cls_tower(cls_dw)
        # float32 from here also under autocast: exp turns a rounding of the exponent into pixels.
        with torch.autocast(xf.device.type, enabled=False):
            dtype = self.bias.dtype
            ltrb = torch.exp(self.adjust * self.bbox_pred(tower_reg.to(dtype)) + self.bias)
            cls = 0.1 * self.cls_pred(tower_cls.to(dtype))
        return ltrb, cls, cls_dw, tower_reg


def _tower(channels: int, count: int) -> nn.Sequential:
    """Return `count` times 3x3 convolution with bias, BatchNorm and ReLU."""
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Conv2d(channels, channels, kernel_size=3, padding=1), nn.BatchNorm2d(channels),
                   nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def align_offsets(ltrb: Tensor, *, search_size: int) -> Tensor:
    """Return the taps' offsets that spread a 3x3 kernel over each predicted box: (B, 18, S, S) in cells.

    ltrb (B, 4, S, S) in px. Channels are (y, x) pairs over the taps in row-major order, as `deform_conv2d` has them.
    A tap's offset is its cell's way to the box centre plus the box's share of the tap (Ocean, section 3.2).
    """
    size = ltrb.shape[-1]
    cells = torch.arange(size, dtype=ltrb.dtype, device=ltrb.device)
    grid = cells_to_px(cells, side=size, search_size=search_size)
    left, top, right, bottom = ltrb.unbind(1)  # each (B, S, S)
    x1, x2 = grid - left, grid + right
    y1, y2 = grid[:, None] - top, grid[:, None] + bottom
    # search_size / 2 is a float half here (127.5), the grid's is the integer: the reference's rule.
    centre_x = ((x1 + x2) / 2 - search_size / 2) / STRIDE + size // 2 - cells
    centre_y = ((y1 + y2) / 2 - search_size / 2) / STRIDE + size // 2 - cells[:, None]
    spread_x = (x2 - x1 + 1) / STRIDE / 2 - 1
    spread_y = (y2 - y1 + 1) / STRIDE / 2 - 1
    taps = (-1.0, 0.0, 1.0)
    pairs = [part for dy in taps for dx in taps for part in (centre_y + spread_y * dy, centre_x + spread_x * dx)]
    return torch.stack(pairs, dim=1)


class AdaptiveConv(nn.Module):
    """A 3x3 deformable convolution whose offsets come from the predicted boxes."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        from lib.models.dcn.deform_conv import DeformConv  # here, as only this branch needs torchvision, a slow import

        self.conv = DeformConv(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        """Return (B, out, S, S) for `x` (B, in, S, S) and `offset` (B, 18, S, S)."""
        return self.conv(x, offset)


class AlignHead(nn.Module):
    """The object-aware classification: a score from the features inside each predicted box."""

    def __init__(self, in_channels: int, feat_channels: int) -> None:
        super().__init__()
        self.rpn_conv = AdaptiveConv(in_channels, feat_channels)
        self.rpn_cls = nn.Conv2d(feat_channels, 1, kernel_size=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, tower_reg: Tensor, ltrb: Tensor, *, search_size: int) -> Tensor:
        """Return the aligned logit (B, 1, S, S) for the regression tower's map and its boxes, of any batch and size."""
        with torch.autocast(ltrb.device.type, enabled=False):
            offset = align_offsets(ltrb, search_size=search_size)
            feature = self.relu(self.rpn_conv(tower_reg.to(ltrb.dtype), offset))
            return self.rpn_cls(feature)
