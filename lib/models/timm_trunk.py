"""Any convolutional net of timm as trunk: its maps of stride 8 and 16, laid over each other on the tracker's grid.

A crop of 127 / 255 / 271 / 287 px gets one more pixel on each side. On an odd size every convolution of stride 2 with
"same" padding pads both sides alike, so 257 px become 129, 65, 33 cells at pixels 0, 8, ... 256 and 17 at 0, 16, ...
256. The 17 are interpolated to 33, which puts each over its own cell; then the outermost ring, which saw the border
most, is cut off: 15 / 31 / 33 / 35 cells, the middle one in the middle of the crop, as in the ResNet trunks.

A net of patches without padding (ConvNeXt) gets four more pixels on the left and five on the right, a multiple of 8:
264 px are 33 cells of 8 px and 16 of 16 px, each of which two cells share. The middle one's centre is half a pixel off
the crop's middle, in the template and in the search alike.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.errors import UserError, did_you_mean, package
from lib.models.pretrained import Pixels

# (pixels before and behind the crop, sides of the maps of stride 8 and 16 at 255 px): of "same" padding, of patches.
_GRIDS = (((1, 1), (33, 17)), ((4, 5), (33, 16)))


class TimmTrunk(nn.Module):
    """A net of timm by name: (B, 3, H, H) BGR 0..255 to ([map of each stride], joined map (B, channels, S, S)).

    strides: which of its maps are joined; 8 alone is the cheapest. The net is cut after the last of them.
    dilated: the map of stride 16 is computed at stride 8 (timm's output_stride), not interpolated.
    online_from: the name behind which the weights stand that `layeronline` begins as.
    mean, std: of RGB in 0..255, what the net was trained with; they are saved with the weights.
    Raises ValueError for a name that timm does not have or a net without such maps, UserError where timm is missing.
    """

    mean: Tensor
    std: Tensor
    online_from: str

    def __init__(self, *, name: str, strides: Sequence[int], dilated: bool = False) -> None:
        super().__init__()
        self.name, self.dilated = name, dilated
        try:
            net = create_net(name, **({"output_stride": 8} if dilated else {}))
        except (TypeError, NotImplementedError, AssertionError) as error:
            raise ValueError(f"{name}: cannot be brought to stride 8 by dilation ({error!s:.80}); leave dilated out, "
                             f"and its map of stride 16 is interpolated") from error
        there = [info["reduction"] for info in getattr(net, "feature_info", [])]
        first = there.index(8) if 8 in there else len(there)
        stages = dict(zip((8, 16), range(first, len(there)), strict=False))
        if not strides or not set(strides) <= stages.keys() or (8 not in strides and not dilated):
            raise ValueError(f"{name}: strides {list(strides)}: expected [8] or [8, 16], or with dilated [16]; it has "
                             f"maps of {there} (a plain ViT's weights go into BACKBONE ViT)")
        self.stages = sorted(stages[stride] for stride in strides)
        net.prune_intermediate_layers(self.stages, prune_norm=True, prune_head=True)
        for module in net.modules():
            if type(module).__name__ == "Conv2dSame":  # TensorFlow's padding, worked out anew for each crop
                module.__class__ = nn.Conv2d  # on odd sizes it is this one, which exports in seconds, not minutes
                module.padding = tuple((k - 1) * d // 2 for k, d in
                                       zip(module.kernel_size, module.dilation, strict=True))
            if hasattr(module, "pos_embed") and hasattr(module.pos_embed, "height_rel"):
                module.pos_embed = _Relative(module.pos_embed, step=0.5 if dilated else 1.0)
                module.register_forward_pre_hook(_tell_size)
        self.features: nn.Module = net.eval()
        self.out_channels = sum(net.feature_info[stage]["num_chs"] for stage in self.stages)
        for key in ("mean", "std"):
            self.register_buffer(key, 255 * torch.tensor(net.pretrained_cfg[key]).view(1, 3, 1, 1))
        self.pad, self.patches = self._grid({8: 0, 16: 0 if dilated else 1}, sorted(strides))
        self.train()

    @torch.no_grad()
    def _grid(self, place: Mapping[int, int], strides: Sequence[int]) -> tuple[tuple[int, int], bool]:
        """Return the pixels to add before and behind the crop, and whether the net is one of patches."""
        found: list[list[int]] = []
        for pad, expected in _GRIDS:
            try:
                sides = [m.shape[-1] for m in self._maps(torch.zeros(1, 3, 255 + sum(pad), 255 + sum(pad)))]
            except Exception as error:  # attention in windows of a fixed number, say
                raise ValueError(f"{self.name}: takes no picture of {255 + sum(pad)} px ({error!s:.80})") from error
            # Dilated patches lie between the cells of stride 8.
            if sides == [expected[place[stride]] for stride in strides] and (place[16] or pad == (1, 1)):
                return pad, pad != (1, 1)
            found.append(sides)
        raise ValueError(f"{self.name}: its maps have {found[0]} cells a side for 257 px and {found[1]} for 264; "
                         f"expected 33 at stride 8 and 17 or 16 at 16, as of nets whose strided convolutions pad both "
                         f"sides, or of patches; it cannot be brought to the tracker's grid"
                         f"{'' if place[16] else ' by dilation; leave dilated out'}")

    def _maps(self, x: Tensor) -> list[Tensor]:
        return self.features.forward_intermediates(x, indices=self.stages, intermediates_only=True)  # type: ignore[operator]

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the maps as the net gives them, and all of them joined on the grid of stride 8."""
        x = F.pad((x.flip(1) - self.mean) / self.std, self.pad * 2)
        maps, side = self._maps(x), (x.shape[-1] - 1) // 8 + 1
        wide = side - 1 if self.patches else side  # of patches the last cell, which is cut off, has none to share
        same = [m if m.shape[-1] == side else F.interpolate(m, size=(wide, wide), mode="bilinear",
                                                            align_corners=not self.patches) for m in maps]
        return maps, torch.cat([m[..., 1:side - 1, 1:side - 1] for m in same], dim=1)

    def add_online(self) -> int:
        """Add `layeronline`, a copy of the stages from stride 8 to 16, for the online branch; return its channels.

        Raises ValueError where the trunk has no map of stride 16, or its net no such stages in a row.
        """
        net: Any = self.features
        before, last = (net.feature_info[stage]["module"].split(".") for stage in (self.stages[0], self.stages[-1]))
        if len(self.stages) < 2 or self.dilated or not "".join(last[1:] or "0").isdigit():
            raise ValueError(f"{self.name}: its online branch is a copy of the stages of stride 16; expected a net of "
                             f"such stages with strides [8, 16], without dilated")
        self.online_from, part = last[0], net.get_submodule(last[0])
        if len(last) > 1:  # blocks.3 and blocks.4 of Lite0
            part = nn.Sequential(OrderedDict((str(n), part[n]) for n in range(int(before[1]) + 1, int(last[1]) + 1)))
        net.layeronline = copy.deepcopy(part)
        return int(net.feature_info[self.stages[1]]["num_chs"])

    def online(self, x: Tensor) -> Tensor:
        """Return layeronline's map of stride 16: 13 cells a side for 224 px, 17 for 288; cell i lies at px 16 i.

        One more pixel makes the side odd, as in `forward`; the two cells in the last 32 px, which saw the border most,
        are cut off. Of patches a cell is 16 px wide and begins there.
        """
        cells, net = x.shape[-1] // 16 - 1, cast(Any, self.features)
        x = F.pad((x.flip(1) - self.mean) / self.std, (0, 1, 0, 1))
        stem = net.forward_intermediates(x, indices=self.stages[:1], intermediates_only=True, stop_early=True)[0]
        return cast(Tensor, net.layeronline(stem)[..., :cells, :cells])

    def trunk_layers(self) -> dict[str, nn.Module]:
        """Return the parts that pretrained weights fill, by timm's names: 'conv_stem', 'blocks.3'."""
        layers: dict[str, nn.Module] = {}
        for name, module in self.features.named_children():
            if name == "layeronline":
                continue
            inner = module.named_children() if isinstance(module, nn.Sequential) else ()
            layers.update({f"{name}.{key}": child for key, child in inner} or {name: module})
        return {name: layer for name, layer in layers.items() if any(True for _ in layer.parameters())}

    def import_names(self, weights: Mapping[str, Tensor], pixels: Pixels | None) -> dict[str, Tensor]:
        """Return weights of a whole net under this trunk's names; pixels: what it was trained on, where that is known.

        Known are timm's names and those of efficientnet_pytorch (`_conv_stem.weight`), which lists the same layers in
        the same order; its Lite nets were trained on (x - 127) / 128.
        """
        own = self.features.state_dict()
        if "_conv_stem.weight" in weights:
            weights = dict(zip(own, weights.values(), strict=False))
            pixels = pixels or (Pixels("RGB", (127,) * 3, (128,) * 3) if "lite" in self.name else None)
        named = {name if name in ("mean", "std") else f"features.{name}": tensor for name, tensor in weights.items()}
        if pixels is not None and "mean" not in weights:
            if pixels.order != "RGB":
                raise UserError("TRAIN.PRETRAIN_INPUT: a net of timm takes RGB; expected ORDER: RGB")
            named |= {key: torch.tensor(getattr(pixels, key)).view_as(self.mean) for key in ("mean", "std")}
        return named


class _Relative(nn.Module):
    """timm's relative positions (PosEmbedRel, of botnet26t_256) for maps of any side.

    An offset of so many pixels keeps the entry that was trained for it; farther ones take the outermost. step: a
    cell's side in those of the net as timm has it, 0.5 where it is dilated (timm then makes tables twice as long).
    """

    def __init__(self, theirs: Any, *, step: float) -> None:
        super().__init__()
        self.step, self.height, self.width = step, theirs.height, theirs.width
        every = slice(None) if step == 1 else slice(1, None, 2)
        self.height_rel, self.width_rel = (nn.Parameter(table.detach()[every].clone())
                                           for table in (theirs.height_rel, theirs.width_rel))

    def forward(self, q: Tensor) -> Tensor:
        """Return the logits (B, H * W, H * W) of queries (B, H * W, dim) for the offset of each key."""
        q = q.unflatten(1, (self.height, self.width))
        down = torch.einsum("bhwd,hkd->bhwk", q, self._offsets(self.height_rel, self.height))
        across = torch.einsum("bhwd,wkd->bhwk", q, self._offsets(self.width_rel, self.width))
        return (down[..., :, None] + across[..., None, :]).flatten(3).flatten(1, 2)

    def _offsets(self, table: Tensor, side: int) -> Tensor:
        """Return for each query's and key's place in a row of `side` cells the table's entry, (side, side, dim)."""
        place, entries = (torch.arange(n, device=table.device, dtype=table.dtype) for n in (side, len(table)))
        last = (len(table) - 1) / 2
        at = ((place[None] - place[:, None]) * self.step).clamp(-last, last) + last
        return (1 - (at[..., None] - entries).abs()).clamp(min=0) @ table  # hat functions


def _tell_size(attention: Any, inputs: tuple[Tensor, ...]) -> None:
    attention.pos_embed.height, attention.pos_embed.width = inputs[0].shape[-2:]


def create_net(name: str, **options: Any) -> Any:
    """Return a net of timm; raise ValueError for a name that it does not have, UserError where it is missing."""
    timm = package("timm", needed_by="BACKBONE timm")
    if not timm.is_model(name.split(".")[0]):
        raise ValueError(f"timm has no net {name!r}{did_you_mean(name, timm.list_models())}")
    return timm.create_model(name, **options)


def fetch_weights(name: str) -> dict[str, Any]:
    """Return a net's trained weights by timm's own loading (its hub or cache) as a checkpoint that says its `input`."""
    try:
        net = create_net(name, pretrained=True)
    except UserError:
        raise
    except Exception as error:  # no such name or tag, no network, no weights of that name: each an error of its own
        raise UserError(f"TRAIN.PRETRAIN timm:{name}: {str(error).splitlines()[0]:.200}; where there is no network, "
                        f"name a file: python -c \"import timm, torch; torch.save(timm.create_model('{name}', "
                        f"pretrained=True).state_dict(), 'net.pth')\" makes one elsewhere") from error
    mean, std = ([255 * value for value in net.pretrained_cfg[key]] for key in ("mean", "std"))
    return {"state_dict": net.state_dict(), "input": {"order": "RGB", "mean": mean, "std": std}}
