"""Building blocks of the trunks: the Bottleneck and the ResNet whose strides keep the 7 / 15 / 31 grids.

Strides and paddings are those of SiamDW (Zhang and Peng, CVPR 2019): no padding where the stride is 2, so a feature
cell sees the same surroundings wherever it lies and the map's middle stays on the crop's middle (cell k of the output
looks at pixel 8 k + 7: 63 of 127 for k = 7, 127 of 255 for k = 15).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 residual block; the 3x3's padding is `2 - stride`, or the dilation where that is larger than 1.

    In the block that has a downsample branch the dilation is halved first: layer3's block 0 has 1, the others 2.
    Maps (B, inplanes, H, W) to (B, planes * expansion, H', W') with H' = H, or (H - 1) // 2 at stride 2.
    """

    def __init__(self, inplanes: int, planes: int, *, stride: int = 1, downsample: nn.Module | None = None,
                 dilation: int = 1, expansion: int = EXPANSION) -> None:
        super().__init__()
        padding = 2 - stride
        if downsample is not None and dilation > 1:
            dilation = dilation // 2
            padding = dilation
        if dilation > 1:
            padding = dilation
        assert stride == 1 or dilation == 1, "a block strides or dilates, not both"
        self.conv1 = nn.Conv2d(inplanes, planes, kernel_size=1, bias=False)
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
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet_plus2(nn.Module):
    """conv1 to layer3 of a ResNet at total stride 8; with `Bottleneck, [3, 4, 6, 3]` the ResNet-50 of the paper.

    layers: blocks per stage, of which the first three are built (the reference passes four and uses three).
    width: channels of conv1 and of layer1's 3x3 convolutions; the stages have 1, 2 and 4 times as many.
    A slim trunk of the same family is this class with fewer blocks and channels.
    """

    def __init__(self, block: type[Bottleneck], layers: Sequence[int], *, used_layers: Sequence[int] = (3,),
                 width: int = 64, expansion: int = EXPANSION) -> None:
        super().__init__()
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
                      expansion=self.expansion)
        self.inplanes = outplanes
        rest = [block(outplanes, planes, dilation=dilation, expansion=self.expansion) for _ in range(1, blocks)]
        return nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return ([relu of conv1, layer1, layer2], layer3) for crops (B, 3, H, H): 125, 63, 31 and 31 for H = 255."""
        stem = self.relu(self.bn1(self.conv1(x)))
        layer1 = self.layer1(self.maxpool(stem))
        layer2 = self.layer2(layer1)
        return [stem, layer1, layer2], self.layer3(layer2)


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
