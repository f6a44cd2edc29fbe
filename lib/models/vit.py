"""A vision transformer as trunk: torchvision's blocks on overlapping patches, so that the 15 / 31 grids stay.

Patches of 16 px every 8 px on a crop made one pixel larger to the right and below give (H + 1 - 16) / 8 + 1 cells:
15 for 127, 31 for 255, 33 for 271, 35 for 287. Cell k covers pixels 8 k to 8 k + 15, so the middle cell's centre is
half a pixel off the crop's middle, in the template and in the search alike.
Source: An Image is Worth 16x16 Words (Dosovitskiy et al., ICLR 2021); joint attention as in OSTrack (ECCV 2022).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torchvision.models.vision_transformer import EncoderBlock

from lib.crops import STRIDE
from lib.models.modules import LowRank, resize_table
from lib.models.pretrained import POSITIONS, fold_normalisation

PATCH = 16


class ViT(nn.Module):
    """Transformer trunk: (B, 3, H, H) BGR 0..255 to (B, dim, S, S).

    positions: cells of the learned position table along each axis (31: a search crop of 255 px); other maps
    interpolate it. joint: template and search pass through the blocks together, the cells of both attending to each
    other, so the template's features depend on the search. norm_pre: a norm before the blocks, as CLIP has it.
    lora: rank of what each block's four products learn while their weights rest (`LowRank`), 0 for none.
    The class token of the classifier has no use here and is left out.
    """

    def __init__(self, *, dim: int, depth: int, heads: int, positions: int = POSITIONS, joint: bool = False,
                 norm_pre: bool = False, lora: int = 0) -> None:
        super().__init__()
        if min(dim, depth, heads, positions) < 1 or dim % heads or not 0 <= lora <= dim:
            raise ValueError(f"dim {dim}, depth {depth}, heads {heads}, positions {positions}, lora {lora}: expected "
                             f"numbers above 0, heads that divide dim, and a lora of 0 to dim")
        self.joint = joint
        self.out_channels = dim
        self.conv_proj = nn.Conv2d(3, dim, kernel_size=PATCH, stride=STRIDE)
        self.positions = _Table(dim, positions)
        norm = partial(nn.LayerNorm, eps=1e-5 if norm_pre else 1e-6)
        self.ln_pre = norm(dim) if norm_pre else nn.Identity()
        self.blocks = nn.ModuleList(
            _Block(num_heads=heads, hidden_dim=dim, mlp_dim=4 * dim, dropout=0.0, attention_dropout=0.0,
                   norm_layer=norm) for _ in range(depth))
        self.ln = norm(dim)
        # Tells the two crops' cells apart where they meet.
        sides = ("template", "search") if joint else ()
        self.kinds = nn.ParameterDict({side: torch.zeros(1, 1, dim) for side in sides})
        nn.init.trunc_normal_(self.conv_proj.weight, std=(3 * PATCH**2) ** -0.5)
        with torch.no_grad():  # as if made for normalised pixels
            weight, bias = fold_normalisation(self.conv_proj.weight)
            self.conv_proj.weight.copy_(weight)
            self.conv_proj.bias.copy_(bias)  # type: ignore[union-attr]
        block: Any
        for block in self.blocks if lora else ():
            for path, name in (("self_attention", "in_proj_weight"), ("self_attention.out_proj", "weight"),
                               ("mlp.0", "weight"), ("mlp.3", "weight")):
                layer = block.get_submodule(path)
                parametrize.register_parametrization(layer, name, LowRank(getattr(layer, name), rank=lora))

    def embed(self, x: Tensor) -> Tensor:
        """Return the patches' tokens with their positions, as a map (B, dim, S, S)."""
        patches = self.conv_proj(F.pad(x, (0, 1, 0, 1), mode="replicate"))
        return patches + self.positions.of_side(patches.shape[-1]).to(patches.dtype)

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return ([], map): a crop by itself, in the form of the ResNet trunks."""
        embedded = self.embed(x)
        return [], _as_map(self._encode(_as_tokens(embedded)), embedded.shape[-1])

    def encode_jointly(self, template: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maps (B, dim, 15, 15) and (B, dim, S, S) of a template's `embed` result and a search crop."""
        search = self.embed(x)
        tokens = [_as_tokens(template) + self.kinds["template"], _as_tokens(search) + self.kinds["search"]]
        zf, xf = self._encode(torch.cat(tokens, dim=1)).split([part.shape[1] for part in tokens], dim=1)
        return _as_map(zf, template.shape[-1]), _as_map(xf, search.shape[-1])

    def _encode(self, tokens: Tensor) -> Tensor:
        """Return (B, N, dim) after all blocks and the last norm."""
        tokens = self.ln_pre(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return self.ln(tokens)

    def trunk_layers(self) -> dict[str, nn.Module]:
        """Return the layers that pretrained weights fill, by names that fit the TRAINABLE_LAYER of every backbone.

        `conv1` has the patches, `layer1` to `layer3` a third of the blocks each, `layer1` also the positions and
        `layer3` the last norm. What LoRA adds is new and in none of them.
        """
        third = -(-len(self.blocks) // 3)
        first, second, last = (list(self.blocks[i * third:(i + 1) * third]) for i in range(3))
        return {"conv1": self.conv_proj, "layer1": nn.ModuleList([self.positions, self.ln_pre, *first]),
                "layer2": nn.ModuleList(second), "layer3": nn.ModuleList([*last, self.ln])}


class _Block(EncoderBlock):
    """torchvision's block, attention spelt out: FLOP counter and exporters do not see torch's fused path, no faster."""

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, N, dim) for tokens (B, N, dim)."""
        attention = self.self_attention
        mixed = F.linear(self.ln_1(input), attention.in_proj_weight, attention.in_proj_bias)
        split = mixed.unflatten(2, (3, self.num_heads, -1))  # (B, N, 3, heads, dim / heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = input + attention.out_proj(seen)
        return x + self.mlp(self.ln_2(x))


class _Table(nn.Module):
    """Learned positions of a square map."""

    def __init__(self, dim: int, side: int) -> None:
        super().__init__()
        self.table = nn.Parameter(0.02 * torch.randn(1, dim, side, side))

    # Not `forward`: torch's FLOP counter fails on a module that returns its parameter as it is.
    def of_side(self, side: int) -> Tensor:
        """Return the positions of a map of that side, (1, dim, side, side)."""
        return resize_table(resize_table(self.table, side, dim=2), side, dim=3)


def _as_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)  # (B, C, S, S) -> (B, S * S, C)


def _as_map(tokens: Tensor, side: int) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, (side, side))  # (B, S * S, C) -> (B, C, S, S)
