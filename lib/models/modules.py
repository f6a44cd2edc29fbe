"""Building blocks of the trunks: the Bottleneck, the ResNet whose strides keep the 7 / 15 / 31 grids, and attention.

Strides and paddings are those of SiamDW (Zhang and Peng, CVPR 2019): no padding where the stride is 2, so a feature
cell sees the same surroundings wherever it lies and the map's middle stays on the crop's middle (cell k of the output
looks at pixel 8 k + 7: 63 of 127 for k = 7, 127 of 255 for k = 15).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 residual block; the 3x3's padding is `2 - stride`, or the dilation where that is larger than 1.

    In the block that has a downsample branch the dilation is halved first: layer3's block 0 has 1, the others 2.
    Maps (B, inplanes, H, W) to (B, planes * expansion, H', W') with H' = H, or (H - 1) // 2 at stride 2.
    padding: another one for the 3x3, as a classifier's strided blocks have it (1).
    caffe: the block was trained with its stride in the first 1x1, so its 3x3 had taps two cells of the input apart. At
    stride 2 the 1x1 takes cells 1, 3, 5 ..., where the downsample branch has its centres, and the 3x3 pads by 1; a
    dilated block with a downsample branch keeps its whole dilation.
    """

    def __init__(self, inplanes: int, planes: int, *, stride: int = 1, downsample: nn.Module | None = None,
                 dilation: int = 1, expansion: int = EXPANSION, padding: int | None = None,
                 caffe: bool = False) -> None:
        super().__init__()
        self.first_stride = stride if caffe else 1
        if caffe:
            stride, padding = 1, 1
        if padding is None:
            padding = 2 - stride
        if downsample is not None and dilation > 1 and not caffe:
            dilation = dilation // 2
            padding = dilation
        if dilation > 1:
            padding = dilation
        assert stride == 1 or dilation == 1, "a block strides or dilates, not both"
        self.conv1 = nn.Conv2d(inplanes, planes, kernel_size=1, stride=self.first_stride, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2: nn.Module = nn.Conv2d(planes, planes, kernel_size=3, stride=stride, padding=padding, bias=False,
                                          dilation=dilation)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * expansion, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for `x`."""
        out = self.relu(self.bn1(self.conv1(x if self.first_stride == 1 else x[..., 1:, 1:])))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet_plus2(nn.Module):
    """conv1 to layer3 of a ResNet at total stride 8; with `Bottleneck, [3, 4, 6, 3]` the ResNet-50 of the paper.

    layers: blocks per stage, of which the first three are built (the reference passes four and uses three).
    width: channels of conv1 and of layer1's 3x3 convolutions; the stages have 1, 2 and 4 times as many.
    A slim trunk of the same family is this class with fewer blocks and channels.
    caffe: for weights of a net whose layer2.0 and layer3.0 strode in their first 1x1 (see `Bottleneck`).
    """

    def __init__(self, block: type[Bottleneck], layers: Sequence[int], *, used_layers: Sequence[int] = (3,),
                 width: int = 64, expansion: int = EXPANSION, caffe: bool = False) -> None:
        super().__init__()
        self.caffe = caffe
        assert tuple(used_layers) == (3,), "the tracker uses layer3"
        self.inplanes = width
        self.expansion = expansion
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=0, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._make_layer(block, width, layers[0], stride=1, dilation=1)
        self.layer2 = self._make_layer(block, width * 2, layers[1], stride=2, dilation=1)
        self.layer3 = self._make_layer(block, width * 4, layers[2], stride=1, dilation=2)
        self.out_channels = width * 4 * expansion
        init_convs(self)
        # A pixel's mean square is about 128^2, which makes this conv1's variance with the weights above. Untrained
        # statistics of 1 would let raw pixels overflow the head's exponential in eval mode.
        assert self.bn1.running_var is not None
        nn.init.constant_(self.bn1.running_var, 2 * 3 / width * 128**2)

    def _make_layer(self, block: type[Bottleneck], planes: int, blocks: int, *, stride: int,
                    dilation: int) -> nn.Sequential:
        """Return `blocks` blocks, the first with the stride and, where shapes change, the downsample branch."""
        outplanes = planes * self.expansion
        downsample = None
        if stride != 1 or self.inplanes != outplanes:
            if stride == 1 and dilation == 1:
                conv = nn.Conv2d(self.inplanes, outplanes, kernel_size=1, bias=False)
            else:
                # A 3x3 whose centre falls where the main branch's 3x3 has its own, so both see the same pixel.
                half = dilation // 2
                conv = nn.Conv2d(self.inplanes, outplanes, kernel_size=3, stride=stride, padding=half,
                                 dilation=max(half, 1), bias=False)
            downsample = nn.Sequential(conv, nn.BatchNorm2d(outplanes))
        first = block(self.inplanes, planes, stride=stride, downsample=downsample, dilation=dilation,
                      expansion=self.expansion, caffe=self.caffe and (stride != 1 or dilation != 1))
        self.inplanes = outplanes
        rest = [block(outplanes, planes, dilation=dilation, expansion=self.expansion) for _ in range(1, blocks)]
        return nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return ([relu of conv1, layer1, layer2], layer3) for crops (B, 3, H, H): 125, 63, 31 and 31 for H = 255."""
        shallow = self._shallow(x)
        return shallow, self.layer3(shallow[-1])

    def _shallow(self, x: Tensor) -> list[Tensor]:
        stem = self.relu(self.bn1(self.conv1(x)))
        layer1 = self.layer1(self.maxpool(stem))
        return [stem, layer1, self.layer2(layer1)]

    def add_online(self) -> None:
        """Add `layeronline`: a second layer3, of stride 2 and without dilation, for the online branch."""
        self.inplanes, planes = self.out_channels // 2, self.out_channels // self.expansion
        self.layeronline = self._make_layer(Bottleneck, planes, len(self.layer3), stride=2, dilation=1)
        init_convs(self.layeronline)

    def online(self, x: Tensor) -> Tensor:
        """Return layeronline's map of stride 16: 13 cells a side for 224 px, 17 for 288; cell i sees px 16 i + 15."""
        return self.layeronline(self._shallow(x)[-1])


class MHSA(nn.Module):
    """Self-attention over the cells of a map, with learned positions (BoTNet, Srinivas et al., CVPR 2021).

    energy[i, j] = q_i . k_j + r_i . q_j with r = rel_h + rel_w, without a factor 1 / sqrt(d); softmax over j. One call
    of torch's attention does it: queries [q ; r], keys [k ; q], values v, scale 1.
    n_dims: channels, a multiple of heads. width, height: the learned table's cells along the map's first and second
    axis; on maps of another size the table is interpolated. (key's bias is the reference's; a softmax cannot see it.)
    """

    def __init__(self, n_dims: int, *, width: int, height: int, heads: int = 1) -> None:
        super().__init__()
        if heads < 1 or n_dims % heads:
            raise ValueError(f"{heads} heads do not divide {n_dims} channels; expected a divisor, such as 1 or 4")
        self.heads = heads
        self.query = nn.Conv2d(n_dims, n_dims, kernel_size=1)
        self.key = nn.Conv2d(n_dims, n_dims, kernel_size=1)
        self.value = nn.Conv2d(n_dims, n_dims, kernel_size=1)
        # r . q sums n_dims / heads products: with this deviation the sum is as large as one component of q.
        deviation = math.sqrt(heads / n_dims)
        self.rel_h = nn.Parameter(deviation * torch.randn(1, n_dims, 1, height))
        self.rel_w = nn.Parameter(deviation * torch.randn(1, n_dims, width, 1))

    def forward(self, x: Tensor, templ: Tensor | None = None) -> Tensor:
        """Return (B, C, W, H) for `x` (B, C, W, H); with `templ` (B, C, w, h) its cells give keys and values too."""
        query, keys, values = self._tokens(x)
        rows = self._split(self._positions(x.shape[2], x.shape[3]).to(query.dtype)).expand_as(query)
        if templ is not None:
            _, templ_keys, templ_values = self._tokens(templ)
            keys, values = torch.cat([keys, templ_keys], dim=2), torch.cat([values, templ_values], dim=2)
        queries = torch.cat([query, rows], dim=-1)  # (B, heads, N, 2 d)
        out = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)  # (B, heads, N, d)
        return out.transpose(2, 3).reshape(x.shape)

    def _tokens(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return of each cell the query (B, heads, N, d), the key [k ; q] (B, heads, N, 2 d) and the value."""
        query = self._split(self.query(x))
        return query, torch.cat([self._split(self.key(x)), query], dim=-1), self._split(self.value(x))

    def _split(self, x: Tensor) -> Tensor:
        """Return a map (B, C, W, H) as tokens (B, heads, W * H, C / heads)."""
        return x.reshape(x.shape[0], self.heads, x.shape[1] // self.heads, -1).transpose(2, 3)

    def _positions(self, width: int, height: int) -> Tensor:
        """Return r for a map of that size, (1, C, width, height)."""
        return resize_table(self.rel_h, height, dim=3) + resize_table(self.rel_w, width, dim=2)


def resize_table(table: Tensor, size: int, *, dim: int) -> Tensor:
    """Return a learned table with `size` entries along `dim`, linearly interpolated, first and last kept in place.

    A product with a fixed matrix: its gradient is deterministic on GPUs, which F.interpolate's is not.
    """
    there = table.shape[dim]
    if there == size:
        return table
    # Not linspace: exported to ONNX, that one keeps the size it was traced with.
    at = torch.arange(size, device=table.device, dtype=table.dtype) * ((there - 1) / max(size - 1, 1))
    entries = torch.arange(there, device=table.device, dtype=table.dtype)
    weight = (1 - (at[:, None] - entries).abs()).clamp(min=0)  # (size, there): hat functions, each row sums to 1
    return torch.tensordot(weight, table, dims=([1], [dim])).movedim(0, dim)


class LowRank(nn.Module):
    """What a resting weight (out, in) learns besides: W + up @ down, a parametrization of torch.

    up starts at zero, so that the first output is that of W. Source: LoRA (Hu et al., ICLR 2022), with alpha = rank.
    """

    def __init__(self, weight: Tensor, *, rank: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))
        self.down = nn.Parameter(torch.randn(rank, weight.shape[1]) / rank**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight that the layer works with."""
        return weight + self.up @ self.down


class Bottleneck_MHSA(Bottleneck):
    """The Bottleneck with attention in place of its 3x3 convolution; at stride 2 a mean over 2x2 cells follows it.

    side: cells of the learned position table along each axis.
    """

    def __init__(self, inplanes: int, planes: int, *, side: int, heads: int = 1, stride: int = 1,
                 downsample: nn.Module | None = None, expansion: int = EXPANSION) -> None:
        super().__init__(inplanes, planes, downsample=downsample, expansion=expansion)
        self.conv2 = MHSA(planes, width=side, height=side, heads=heads)
        self.pool = nn.AvgPool2d(2) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor, templ: Tensor | None = None) -> Tensor:
        """Return the block's output for `x`; with `templ` (B, inplanes, h, w) attending to its cells as well."""
        reduced = self.relu(self.bn1(self.conv1(x)))
        if templ is not None:
            templ = self.relu(self.bn1(self.conv1(templ)))
        out = self.relu(self.bn2(self.pool(self.conv2(reduced, templ))))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Resnet_plus_single(nn.Module):
    """The last block of layer3 as a module of its own: with the blocks before it exactly the ResNet."""

    def __init__(self, planes: int = 256, *, expansion: int = EXPANSION) -> None:
        super().__init__()
        self.layer = Bottleneck(planes * expansion, planes, dilation=2, expansion=expansion)
        init_convs(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) for layer3's map of the same shape."""
        return self.layer(x)


class Resnet_plus_MHSA(nn.Module):
    """The last block of layer3 with attention; see `Bottleneck_MHSA`."""

    def __init__(self, planes: int = 256, *, side: int, heads: int = 1, expansion: int = EXPANSION) -> None:
        super().__init__()
        self.layer = Bottleneck_MHSA(planes * expansion, planes, side=side, heads=heads, expansion=expansion)
        init_convs(self)

    def forward(self, x: Tensor, templ: Tensor | None = None) -> Tensor:
        """Return (B, C, H, W) for layer3's map of the same shape, attending to `templ` too when given."""
        return self.layer(x, templ)


def init_convs(module: nn.Module) -> None:
    """Set convolutions without bias to normal(0, sqrt(2 / (k k out))) and BatchNorms to weight 1, bias 0, in place.

    Convolutions with a bias (attention projections) keep torch's default, which is smaller.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.bias is None:
            fan_out = part.kernel_size[0] * part.kernel_size[1] * part.out_channels
            nn.init.normal_(part.weight, 0.0, math.sqrt(2.0 / fan_out))
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
