"""The tracker's network, whatever backbone it is given: template once per sequence, search once per frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from lib.models.backbones import ResNet_MHSA, ResNet_single
from lib.models.connect import AdjustLayer, AlignHead, Head
from lib.models.online import OnlineClassifier
from lib.models.presence import PresenceBranch
from lib.models.pretrained import IMAGENET

if TYPE_CHECKING:
    from lib.models.vit import ViT


class TemplateFeatures(NamedTuple):
    """All that is computed from the template, once per sequence; every tensor has the batch first.

    Where the template's features depend on the search (a joint ViT), only `raw` is known beforehand.
    """

    zf: Tensor | None  # (B, C, 7, 7)
    cls: tuple[Tensor, ...]  # what the head's `template` gave: with box_tower the template side of the
    reg: tuple[Tensor, ...]  # classification's and the regression's matrix, (B, C, 5, 5), (B, C, 3, 5), (B, C, 5, 3)
    raw: Tensor | None = None  # (B, c, 15, 15): the map before the tail (templ attention) or the tokens (joint ViT)
    vector: Tensor | None = None  # (B, D, 1, 1) of the presence branch

    def select(self, rows: Sequence[int] | Tensor) -> TemplateFeatures:
        """Return the features of the given batch rows, in that order."""
        return _combine(lambda tensors: tensors[0][torch.as_tensor(rows, device=tensors[0].device)], [self])

    @classmethod
    def cat(cls, parts: Sequence[TemplateFeatures]) -> TemplateFeatures:
        """Return the rows of several features as one batch, so that one network call serves many sequences."""
        return _combine(torch.cat, parts)


def _combine(join: Callable[[list[Tensor]], Tensor], parts: Sequence[TemplateFeatures]) -> TemplateFeatures:
    """Return the features made by `join` from the tensors that stand at the same place in each part."""

    def at(values: tuple[Any, ...]) -> Any:
        if values[0] is None:
            return None
        return join(list(values)) if isinstance(values[0], Tensor) else tuple(map(at, zip(*values, strict=True)))

    return TemplateFeatures(*map(at, zip(*parts, strict=True)))


class OceanOutput(NamedTuple):
    """Predictions on the S x S grid, float32: all that loss and tracker know of a model."""

    ltrb: Tensor  # (B, 4, S, S) px > 0: from the grid point to the box's left, top, right and bottom side
    cls: Tensor  # (B, 1, S, S) logit
    cls_aligned: Tensor | None  # (B, 1, S, S) logit of the object-aware branch, None without it
    search: Tensor | None = None  # (B, C, S + 6, S + 6) the neck's map, which presence compares with the template's
    vectors: Tensor | None = None  # (B, D, S, S) of the presence branch


class Ocean_(nn.Module):  # the reference's name
    """The flow of Ocean (Zhang et al., ECCV 2020), free of state: `lib.models.models.Ocean` fills in the parts.

    features: the trunk. Of the tails behind it at most one is there: features_single, or features_mhsa, to which
    features_mhsa_z may be added for the template.
    """

    spec: dict[str, Any]  # the keywords of `build_model` that make another of the same kind
    features: nn.Module
    features_single: ResNet_single | None
    features_mhsa: ResNet_MHSA | None
    features_mhsa_z: ResNet_MHSA | None
    templ: bool  # the search's tail attends to the template's cells too
    joint: bool  # the trunk is a ViT through which template and search go together
    neck: AdjustLayer
    connect_model: Head
    align_head: AlignHead | None
    classifier: OnlineClassifier | None  # of the online branch
    presence: PresenceBranch | None
    online_pixels: str  # what the online branch sees: "imagenet" or "raw"

    def template(self, z: Tensor) -> TemplateFeatures:
        """Return what the template crop (B, 3, 127, 127), float32 BGR 0..255, contributes to every frame."""
        if self.joint:
            return TemplateFeatures(None, (), (), raw=cast("ViT", self.features).embed(z))
        _, raw = self.features(z)
        tail = self.features_single or self.features_mhsa_z or self.features_mhsa
        return self._encode_template(raw if tail is None else tail(raw), raw=raw if self.templ else None)

    def _encode_template(self, deep: Tensor, *, raw: Tensor | None) -> TemplateFeatures:
        zf = self.neck(deep, crop=True)
        vector = None
        if self.presence is not None:
            vector = self.presence(deep[..., self.neck.CROP:-self.neck.CROP, self.neck.CROP:-self.neck.CROP])
        return TemplateFeatures(zf, *self.connect_model.template(zf), raw=raw, vector=vector)

    def track(self, x: Tensor, template: TemplateFeatures) -> OceanOutput:
        """Return the predictions for search crops (B, 3, H, H), float32 BGR 0..255, H = 255, 271 or 287.

        `template` holds one row per crop. The grid follows H: S = (H - 127) // 8 + 9.
        """
        if self.joint:
            assert template.raw is not None, "these template features are another model's"
            deep_z, deep = cast("ViT", self.features).encode_jointly(template.raw, x)
            template = self._encode_template(deep_z, raw=None)
        else:
            _, deep = self.features(x)
            if self.features_mhsa is not None:
                deep = self.features_mhsa(deep, template.raw)
            elif self.features_single is not None:
                deep = self.features_single(deep)
        search = self.neck(deep)
        ltrb, cls, _, tower_reg = self.connect_model.track(search, template.cls, template.reg)
        aligned = None
        if self.align_head is not None:
            assert tower_reg is not None, "this head gives the object-aware branch nothing to build on"
            aligned = self.align_head(tower_reg, ltrb, search_size=x.shape[-1])
        vectors = None if self.presence is None else self.presence(deep)
        return OceanOutput(ltrb, cls, aligned, search, vectors)

    def online_features(self, x: Tensor) -> Tensor:
        """Return the online branch's features (B, C, h, h), float32, of crops (B, 3, H, H), float32 BGR 0..255.

        h = 13 for H = 224, 17 for 288. The trunk's frozen stages see normalised RGB here where the model says so.
        """
        assert self.classifier is not None, "a model without the online branch"
        if self.online_pixels == "imagenet":
            mean, std = (x.new_tensor(values).view(3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
            x = (x.flip(1) - mean) / std
        maps = self.features.online(x)  # type: ignore[operator]
        with torch.autocast(x.device.type, enabled=False):
            return self.classifier.extract(maps.float())

    def learn_online(self, train: Tensor, test: Tensor, boxes_xywh: Tensor) -> list[Tensor]:
        """Return the score maps (s, n, h + 1, h + 1) of test crops as the filters learned from train crops give them.

        train, test (n s, 3, H, H): n frames of s sequences, frame by frame, as `online_features` takes them; boxes
        (n, s, 4): x, y, w, h in the train crops. Maps of the first filter and after each of 5 iterations; the call that
        training of the branch makes.
        """
        assert self.classifier is not None, "a model without the online branch"
        train_features, test_features = self.online_features(torch.cat([train, test])).chunk(2)
        with torch.autocast(train.device.type, enabled=False):
            return self.classifier.learn(train_features, test_features, boxes_xywh)

    def learn_presence(self, z: Tensor, x: Tensor) -> tuple[OceanOutput, Tensor]:
        """Return the predictions for B pairs, and the logit (B, B, S, S) of each place of search j for template i.

        The call that training of the presence branch makes.
        """
        assert self.presence is not None, "a model without the presence branch"
        template = self.template(z)
        output = self.track(x, template)
        return output, self.presence.logit(torch.einsum("idxy,jdhw->ijhw", template.vector, output.vectors))

    def forward(self, z: Tensor, x: Tensor) -> OceanOutput:
        """Return the predictions for pairs of template and search crops; the call that training makes."""
        return self.track(x, self.template(z))
