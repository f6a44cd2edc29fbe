"""Any convolutional net of timm as trunk: its maps of stride 8 and 16, laid over each other on the tracker's grid.

A crop of 127 / 255 / 271 / 287 px gets one more pixel on each side. On an odd size every convolution of stride 2 with
"same" padding pads both sides alike, so 257 px become 129, 65, 33 cells at pixels 0, 8, ... 256 and 17 at 0, 16, ...
256. The 17 are interpolated to 33, which puts each over its own cell; then the outermost ring, which saw the border
most, is cut off: 15 / 31 / 33 / 35 cells, the middle one in the middle of the crop, as in the ResNet trunks.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.errors import UserError, did_you_mean


class TimmTrunk(nn.Module):
    """A net of timm by name: (B, 3, H, H) BGR 0..255 to ([map of each stride], joined map (B, channels, S, S)).

    strides: which of its maps are joined; 8 alone is the cheapest. The net is cut after the last of them.
    mean, std: of RGB in 0..255, what the net was trained with; they are saved with the weights.
    Raises ValueError for a name that timm does not have or a net without such maps, UserError where timm is missing.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, name: str, strides: Sequence[int]) -> None:
        super().__init__()
        self.name = name
        net = _create_net(name)
        there = [info["reduction"] for info in getattr(net, "feature_info", [])]
        if 8 not in strides or not set(strides) <= {8, 16} & set(there):
            raise ValueError(f"{name}: strides {list(strides)}: expected [8] or [8, 16]; it has maps of {there}")
        self.stages = sorted(there.index(stride) for stride in strides)
        net.prune_intermediate_layers(self.stages, prune_norm=True, prune_head=True)
        self.features: nn.Module = net
        self.out_channels = sum(net.feature_info[stage]["num_chs"] for stage in self.stages)
        for key in ("mean", "std"):
            self.register_buffer(key, 255 * torch.tensor(net.pretrained_cfg[key]).view(1, 3, 1, 1))
        try:
            sides = [m.shape[-1] for m in self._maps(torch.zeros(1, 3, 257, 257))]
        except Exception as error:  # attention whose tables are made for one size, say
            raise ValueError(f"{name}: takes no picture of 257 px ({error!s:.80})") from error
        if sides != [33, 17][:len(sides)]:
            raise ValueError(f"{name}: its maps of 257 px have sides of {sides} cells; expected 33 at stride 8, 17 at "
                             f"16, as of nets whose strided convolutions pad both sides")

    def _maps(self, x: Tensor) -> list[Tensor]:
        return self.features.forward_intermediates(x, indices=self.stages, intermediates_only=True)  # type: ignore[operator]

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the maps as the net gives them, and all of them joined on the grid of stride 8."""
        x = F.pad((x.flip(1) - self.mean) / self.std, (1, 1, 1, 1))
        maps, side = self._maps(x), (x.shape[-1] - 1) // 8 + 1
        same = [m if m.shape[-1] == side else F.interpolate(m, size=(side, side), mode="bilinear", align_corners=True)
                for m in maps]
        return maps, torch.cat(same, dim=1)[..., 1:-1, 1:-1]

    def trunk_layers(self) -> dict[str, nn.Module]:
        """Return the parts that pretrained weights fill, by timm's names: 'conv_stem', 'blocks.3'."""
        layers: dict[str, nn.Module] = {}
        for name, module in self.features.named_children():
            inner = module.named_children() if isinstance(module, nn.Sequential) else ()
            layers.update({f"{name}.{key}": child for key, child in inner} or {name: module})
        return {name: layer for name, layer in layers.items() if any(True for _ in layer.parameters())}


    def import_names(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights of a whole net under this trunk's names, what comes after the cut left out.

        Known are timm's names and those of efficientnet_pytorch (`_conv_stem.weight`), which lists the same layers in
        the same order; its Lite nets were trained on (x - 127) / 128.
        """
        own = self.features.state_dict()
        if "_conv_stem.weight" not in weights:
            return {f"features.{name}": tensor for name, tensor in weights.items() if name in own}
        renamed = {f"features.{name}": tensor for name, tensor in zip(own, weights.values(), strict=False)}
        if "lite" in self.name:
            renamed |= {"mean": torch.full_like(self.mean, 127), "std": torch.full_like(self.std, 128)}
        return renamed


def _create_net(name: str) -> Any:
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise UserError("BACKBONE timm needs a package: pip install timm") from error
    if not timm.is_model(name.split(".")[0]):
        raise ValueError(f"timm has no net {name!r}{did_you_mean(name, timm.list_models())}")
    return timm.create_model(name)
