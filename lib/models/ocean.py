"""The tracker's network, whatever backbone it is given: template once per sequence, search once per frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lib.models.connect import AdjustLayer, AlignHead, Features3, box_tower


class TemplateFeatures(NamedTuple):
    """All that is computed from the template, once per sequence; every tensor has the batch first."""

    zf: Tensor  # (B, C, 7, 7)
    cls: Features3  # template side of the classification's matrix: (B, C, 5, 5), (B, C, 3, 5), (B, C, 5, 3)
    reg: Features3  # the same of the regression's

    def select(self, rows: Sequence[int] | Tensor) -> TemplateFeatures:
        """Return the features of the given batch rows, in that order."""
        index = torch.as_tensor(rows, device=self.zf.device)
        return TemplateFeatures(self.zf[index], tuple(t[index] for t in self.cls), tuple(t[index] for t in self.reg))

    @classmethod
    def cat(cls, parts: Sequence[TemplateFeatures]) -> TemplateFeatures:
        """Return the rows of several features as one batch, so that one network call serves many sequences."""
        return cls(torch.cat([part.zf for part in parts]),
                   tuple(map(torch.cat, zip(*(part.cls for part in parts), strict=True))),
                   tuple(map(torch.cat, zip(*(part.reg for part in parts), strict=True))))


class OceanOutput(NamedTuple):
    """Predictions on the S x S grid, float32."""

    ltrb: Tensor  # (B, 4, S, S) px > 0: from the grid point to the box's left, top, right and bottom side
    cls: Tensor  # (B, 1, S, S) logit
    cls_aligned: Tensor | None  # (B, 1, S, S) logit of the object-aware branch, None without it


class Ocean_(nn.Module):  # the reference's name
    """The flow of Ocean (Zhang et al., ECCV 2020), free of state: `lib.models.models.Ocean` fills in the parts."""

    spec: dict[str, Any]  # the keywords of `build_model` that make another of the same kind
    features: nn.Module
    neck: AdjustLayer
    connect_model: box_tower
    align_head: AlignHead | None

    def template(self, z: Tensor) -> TemplateFeatures:
        """Return what the template crop (B, 3, 127, 127), float32 BGR 0..255, contributes to every frame."""
        _, zf = self.features(z)
        zf = self.neck(zf, crop=True)
        return TemplateFeatures(zf, *self.connect_model.template(zf))

    def track(self, x: Tensor, template: TemplateFeatures) -> OceanOutput:
        """Return the predictions for search crops (B, 3, H, H), float32 BGR 0..255, H = 255, 271 or 287.

        `template` holds one row per crop. The grid follows H: S = (H - 127) // 8 + 9.
        """
        _, xf = self.features(x)
        xf = self.neck(xf)
        ltrb, cls, _, tower_reg = self.connect_model.track(xf, template.cls, template.reg)
        aligned = None
        if self.align_head is not None:
            aligned = self.align_head(tower_reg, ltrb, search_size=x.shape[-1])
        return OceanOutput(ltrb, cls, aligned)

    def forward(self, z: Tensor, x: Tensor) -> OceanOutput:
        """Return the predictions for pairs of template and search crops; the call that training makes."""
        return self.track(x, self.template(z))
