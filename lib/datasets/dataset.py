"""The training data set: sample n of the stream, from the choice of a track to the network's input and its targets."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lib.boxes import Boxes
from lib.config import Config, DatasetConfig, SourceConfig
from lib.datasets.augment import Augmentation, Looks, render
from lib.datasets.mixing import Mixture, StreamSampler, generator, shares
from lib.datasets.negatives import Negatives
from lib.datasets.pairs import CropReader, FramePair, Source, UnreadableCrop
from lib.datasets.sample import Sample
from lib.datasets.sources import build_source
from lib.datasets.targets import Rule, Targets, box_targets, empty_targets, reference_cell
from lib.errors import UserError

__all__ = ["OceanDataset", "StreamSampler", "build_dataset"]

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]

_MOST_ATTEMPTS = 100  # pairs tried for one sample, whatever MAX_UNREADABLE allows: then the data is not there


class OceanDataset(Dataset[Sample]):
    """Samples by number. Sample n is a function of (seed, n) alone, not of the worker, the rank or any other sample."""

    def __init__(
        self,
        sources: Sequence[Source],
        use: Sequence[int],
        *,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        template_size: int = 127,
        search_size: int = 255,
        cls_target: Rule = "box",
        max_unreadable: float = 0.0,
        negatives: Negatives | None = None,
    ) -> None:
        self.sources = tuple(sources)
        self.mixture = Mixture(use, [source.num_tracks for source in sources], seed=seed)
        self.seed, self.cls_target, self.max_unreadable = seed, cls_target, max_unreadable
        self.augmentation = Augmentation() if augmentation is None else augmentation
        self.template_size, self.search_size = template_size, search_size
        self.negatives = Negatives() if negatives is None else negatives

    def __len__(self) -> int:
        """Return the pairs of an epoch, the sum of USE. Sample numbers go on beyond it: each epoch has new samples."""
        return len(self.mixture)

    def __getitem__(self, n: int) -> Sample:
        """Return sample n >= 0 as tensors.

        A crop that cannot be read is replaced, with its whole pair, by one of another track of the same source, drawn
        from (seed, n) too, and named in the sample's `unreadable`; whoever runs the stream keeps the sum. Raises
        UserError naming the crop where MAX_UNREADABLE tolerates none, or where 100 pairs in a row are unreadable.
        """
        source, track = self.mixture[n]
        unreadable: list[str] = []
        for attempt in range(_MOST_ATTEMPTS if self.max_unreadable else 1):
            rng = generator(self.seed, n, attempt=attempt)
            if attempt:
                track = int(rng.integers(self.sources[source].num_tracks))
            pair = self.sources[source].pair(track, rng)
            looks = self.augmentation.draw(rng, template_size=self.template_size, search_size=self.search_size)
            other = self.negatives.draw(self.sources, self.mixture.use, source, track, rng)
            try:
                if other is not None:
                    return self._negative(pair, other, looks, tuple(unreadable))
                return self._positive(pair, looks, tuple(unreadable))
            except UnreadableCrop as error:
                unreadable.append(str(error))
        raise too_many(unreadable)

    def _positive(self, pair: FramePair, looks: Looks, unreadable: tuple[str, ...]) -> Sample:
        z = render(pair.template, looks.template, out_size=self.template_size)
        x = render(pair.search, looks.search, out_size=self.search_size)
        return _sample(z.pixels, x.pixels, self._targets(x.box_xyxy, looks), x.box_xyxy, unreadable)

    def _negative(self, pair: FramePair, other: CropReader, looks: Looks, unreadable: tuple[str, ...]) -> Sample:
        z = render(pair.template, looks.template, out_size=self.template_size)
        x = render(other, looks.search, out_size=self.search_size)
        return _sample(z.pixels, x.pixels, empty_targets(self.search_size), np.full(4, np.nan), unreadable)

    def _targets(self, box_xyxy: Boxes, looks: Looks) -> Targets:
        cell = None
        if self.cls_target == "reference":
            shift_x, shift_y = looks.search.shift_xy
            cell = reference_cell((-shift_x if looks.search.flip else shift_x, shift_y), search_size=self.search_size)
        return box_targets(box_xyxy, search_size=self.search_size, centre_cell=cell)


def _sample(
    template: Pixels, search: Pixels, targets: Targets, box_xyxy: Boxes, unreadable: tuple[str, ...]
) -> Sample:
    arrays = (template, search, *targets, box_xyxy.astype(np.float32))
    return Sample._make([*map(torch.from_numpy, arrays), unreadable])


def too_many(unreadable: Sequence[str]) -> UserError:
    """Return the error for a crop where none may be unreadable, or for a sample without end; it names a few."""
    named = "; ".join(unreadable[:3]) + ("; ..." if len(unreadable) > 3 else "")
    fault = f"none of the {len(unreadable)} pairs drawn for one sample could be read"
    if len(unreadable) == 1:
        fault = "cannot be read, and DATASET.MAX_UNREADABLE allows 0"
    return UserError(f"{named}: {fault}; restore them (`python -m lib.datasets.prepare check` names all that are "
                     f"broken) or raise the key")


def build_dataset(config: Config) -> OceanDataset:
    """Return the data set of a configuration, its sources checked: those of TRAIN.WHICH_USE, in that order.

    Raises UserError for a missing crop folder, a missing or faulty index.
    """
    settings = config.DATASET
    if not config.TRAIN.WHICH_USE:
        raise UserError(f"{config.NAME}.TRAIN.WHICH_USE is empty; name at least one of {', '.join(settings.SOURCES)}")
    chosen = {name: settings.SOURCES[name] for name in config.TRAIN.WHICH_USE}
    sources = [build_source(name, source, place=f"{config.NAME}.DATASET.{name}") for name, source in chosen.items()]
    use = pairs_of(settings, list(chosen.values()), place=f"{config.NAME}.DATASET")
    for source, pairs in zip(sources, use, strict=True):
        logger.info("%s: %d tracks, %d pairs per epoch", source.name, source.num_tracks, pairs)
    return OceanDataset(
        sources,
        use,
        seed=config.TRAIN.SEED,
        augmentation=Augmentation.from_config(settings),
        template_size=config.TRAIN.TEMPLATE_SIZE,
        search_size=config.TRAIN.SEARCH_SIZE,
        cls_target=settings.CLS_TARGET,
        max_unreadable=settings.MAX_UNREADABLE,
        negatives=Negatives(settings.NEGATIVE, settings.NEGATIVE_FROM),
    )


def pairs_of(settings: DatasetConfig, sources: Sequence[SourceConfig], *, place: str) -> list[int]:
    """Return the pairs per epoch of each source: USE times WEIGHT, scaled to add up to PAIRS unless that is 0.

    Raises UserError if PAIRS has not one for each source.
    """
    weights = [source.USE * source.WEIGHT for source in sources]
    if not settings.PAIRS:
        return [max(1, round(weight)) for weight in weights]
    if len(sources) > settings.PAIRS:
        raise UserError(f"{place}.PAIRS is {settings.PAIRS}; expected at least one for each of {len(sources)} sources")
    return shares(settings.PAIRS, weights)
