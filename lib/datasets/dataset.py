"""The training data set: sample n of the stream, from the choice of a track to the network's input and its targets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from torch.utils.data import Dataset

from lib.boxes import xyxy_to_xywh
from lib.config import Config, DatasetConfig, SourceConfig
from lib.crops import CLIP_SIZE, TEMPLATE_SIZE
from lib.datasets import TrainingSource, UnreadableCrop
from lib.datasets.augment import CLIP_TRAIN, draw_augmentation, draw_clip_augmentation, draw_part, render
from lib.datasets.index import TrackIndex, load_index
from lib.datasets.mixing import Mixture, draw_negative, generator, shares
from lib.datasets.stores import CropFiles, CropStore, IndexedSource, PackedCrops, load_pictures
from lib.datasets.synthetic import SyntheticSource
from lib.datasets.targets import box_targets, centre_label, empty_targets, reference_cell
from lib.errors import UserError, did_you_mean

logger = logging.getLogger(__name__)

_MAX_ATTEMPTS = 100  # pairs tried for one sample, whatever MAX_UNREADABLE allows: then the data is not there


class Sample(NamedTuple):
    """One training pair with its targets; S = 25 for a search side of 255. A batch is a Sample of tensors (B, ...).

    Pixels stay uint8 until they are on the device; channels are B, G, R.
    """

    template: Any  # uint8 (3, 127, 127)
    search: Any  # uint8 (3, 255, 255)
    cls_target: Any  # float32 (S, S), 1 at the object's centre cells, else 0
    ltrb_target: Any  # float32 (4, S, S), px from each grid point to the left, top, right and bottom side of the box
    weight: Any  # float32 (S, S), 1 where the grid point lies inside the box
    box_xyxy: Any  # float32 (4,), the true box in search px; NaN in a negative pair (the object is not in the search)
    unreadable: tuple[str, ...] = ()  # crops that had to be replaced to make this sample (or batch): "path: reason"


class ClipSample(NamedTuple):
    """Six frames of one target for the online classifier; a batch has (B, ...). Pixels as in `Sample`.

    Boxes are x, y, w, h with x + w / 2 = 144 in the middle of the crop of 288 px, as the classifier counts.
    """

    train: Any  # uint8 (3, 3, 288, 288): frames to learn the target from
    test: Any  # uint8 (3, 3, 288, 288): frames to find it in
    train_box: Any  # float32 (3, 4)
    test_box: Any  # float32 (3, 4)
    label: Any  # float32 (3, 18, 18), of the test frames, see `centre_label`
    unreadable: tuple[str, ...] = ()  # as in `Sample`


class OceanDataset(Dataset[Any]):
    """Samples by number. Sample n is a function of (seed, n) alone, not of the worker, the rank or any other sample."""

    kind: type[Sample] | type[ClipSample] = Sample

    def __init__(
        self,
        sources: Sequence[TrainingSource],
        use: Sequence[int],
        settings: DatasetConfig | None = None,
        *,
        seed: int = 0,
        search_size: int = 255,
    ) -> None:
        """Mix `use[s]` pairs of each source in an epoch; of `settings` its sources do not count here."""
        self.sources = tuple(sources)
        self.mixture = Mixture(use, [source.num_tracks for source in sources], seed=seed)
        self.settings, self.seed, self.search_size = settings or DatasetConfig(), seed, search_size

    def __len__(self) -> int:
        """Return the pairs of an epoch, the sum of USE. Sample numbers go on beyond it: each epoch has new samples."""
        return len(self.mixture)

    def __getitem__(self, n: int) -> Any:
        """Return sample n >= 0 as tensors.

        A crop that cannot be read is replaced, with its whole pair, by one of another track of the same source, drawn
        from (seed, n) too, and named in the sample's `unreadable`, which the training adds up. Raises
        UserError naming the crop where MAX_UNREADABLE tolerates none, or where 100 pairs in a row are unreadable.
        """
        pick = self.mixture[n]
        unreadable: list[str] = []
        for attempt in range(_MAX_ATTEMPTS if self.settings.MAX_UNREADABLE else 1):
            rng = generator(self.seed, n, attempt=attempt)
            if attempt:
                pick = pick._replace(track=int(rng.integers(self.sources[pick.source].num_tracks)))
            try:
                arrays = self._draw(pick.source, pick.track, rng)
            except UnreadableCrop as error:
                unreadable.append(str(error))
                continue
            return self.kind._make([*map(torch.from_numpy, arrays), tuple(unreadable)])
        raise _too_many(unreadable)

    def _draw(self, source: int, track: int, rng: np.random.Generator) -> tuple[np.ndarray[Any, Any], ...]:
        """Return the arrays of a Sample, drawn with `rng`; raise UnreadableCrop."""
        pair = draw_part(self.settings, self.sources[source].pair(track, rng), rng)
        change = draw_augmentation(self.settings, rng, search_size=self.search_size)
        other = draw_negative(self.settings, self.sources, self.mixture.use, source, track, rng)
        template = render(pair.template, change.template, out_size=TEMPLATE_SIZE)
        search = render(other or pair.search, change.search, out_size=self.search_size)
        if other is not None:
            targets, box = empty_targets(self.search_size), np.full(4, np.nan)
        else:
            cell = None
            if self.settings.CLS_TARGET == "reference":
                x, y = change.search.shift_xy
                cell = reference_cell((-x if change.search.flip else x, y), search_size=self.search_size)
            box = search.box_xyxy
            targets = box_targets(box, search_size=self.search_size, centre_cell=cell)
        return template.pixels, search.pixels, *targets, box.astype(np.float32)


class ClipDataset(OceanDataset):
    """ClipSamples by number: the same sources and shares, six frames instead of two. NEGATIVE plays no part."""

    kind = ClipSample

    def _draw(self, source: int, track: int, rng: np.random.Generator) -> tuple[np.ndarray[Any, Any], ...]:
        """Return the arrays of a ClipSample; the border of a picture is repeated, as in tracking."""
        crops = [read()._replace(fill=None) for read in self.sources[source].clip(track, rng)]
        changes = draw_clip_augmentation(self.settings, rng, [crop.box_xyxy for crop in crops])
        frames = [render(crop, change, out_size=CLIP_SIZE) for crop, change in zip(crops, changes, strict=True)]
        pixels = np.stack([frame.pixels for frame in frames])
        # px i is centred at i there and at i + 1/2 here
        boxes = np.stack([xyxy_to_xywh(frame.box_xyxy + 0.5) for frame in frames]).astype(np.float32)
        label = np.stack([centre_label(box) for box in boxes[CLIP_TRAIN:]])
        return pixels[:CLIP_TRAIN], pixels[CLIP_TRAIN:], boxes[:CLIP_TRAIN], boxes[CLIP_TRAIN:], label


def _too_many(unreadable: Sequence[str]) -> UserError:
    """Return the error for a crop where none may be unreadable, or for a sample without end; it names a few."""
    named = list(dict.fromkeys(unreadable))
    text = "; ".join(named[:3]) + ("; ..." if len(named) > 3 else "")
    if len(unreadable) == 1:
        return UserError(f"{text}: cannot be read, and DATASET.MAX_UNREADABLE allows 0; restore it (`python -m "
                         f"lib.datasets.prepare check` names all that are broken) or raise the key")
    return UserError(f"{text}: none of the {len(unreadable)} pairs drawn for one sample could be read; are PATH and "
                     f"ANNOTATION those of one source? `python -m lib.datasets.prepare check` names what is broken")


# ---- from the configuration


# FORMAT of a source with an index -> what opens its crops.
_STORES: dict[str, Callable[[SourceConfig, TrackIndex], CropStore]] = {
    "crop511": lambda config, _: CropFiles(Path(config.PATH)),
    "packed": lambda config, index: PackedCrops(Path(config.PATH), index),
    "raw": lambda config, index: load_pictures(
        Path(config.PATH), Path(config.ANNOTATION).with_name("pictures.json"), index),
}


def _indexed(name: str, config: SourceConfig, place: str) -> TrainingSource:
    """Return the source of an index and a folder, which are there; raise UserError if one of them is faulty."""
    if config.OPTIONS:
        raise UserError(f"{place}.OPTIONS is {config.OPTIONS}; FORMAT {config.FORMAT} takes none")
    index = load_index(Path(config.ANNOTATION))
    _warn_of_range(index, config.RANGE, place=place)
    return IndexedSource(name, index, _STORES[config.FORMAT](config, index), config.RANGE)


def _synthetic(name: str, config: SourceConfig, place: str) -> TrainingSource:
    try:
        return SyntheticSource(**{"name": name, "frame_range": config.RANGE, **config.OPTIONS})
    except ValidationError as error:
        fault = error.errors()[0]
        key, what = fault["loc"][0], f" is {fault['input']!r:.60}; {fault['msg']}"
        if fault["type"] == "unexpected_keyword_argument":
            what = f": unknown key{did_you_mean(str(key), [f.name for f in fields(SyntheticSource)])}"
        raise UserError(f"{place}.OPTIONS.{key}{what}") from error


def _missing(config: SourceConfig) -> str:
    """Return which file of a source is not there, '' if none is or if the format needs none."""
    if config.FORMAT in _STORES:
        if not config.PATH or not Path(config.PATH).is_dir():
            return f"PATH '{config.PATH}': no such folder"
        if not Path(config.ANNOTATION).is_file():
            return f"ANNOTATION '{config.ANNOTATION}': no such file"
    return ""


# FORMAT of a source -> what makes it: called with its key under DATASET, its settings, and its place, for errors.
FORMATS: dict[str, Callable[[str, SourceConfig, str], TrainingSource]] = {
    **dict.fromkeys(_STORES, _indexed), "synthetic": _synthetic,
}


def build_source(name: str, config: SourceConfig, *, place: str) -> TrainingSource:
    """Return the source that one child of DATASET describes; `place` is its key, for errors.

    Raises UserError for a missing folder, a missing or faulty index, options that the format does not have.
    """
    if config.FORMAT not in FORMATS:
        raise UserError(f"{place}.FORMAT is '{config.FORMAT}'{did_you_mean(config.FORMAT, FORMATS)}")
    return FORMATS[config.FORMAT](name, config, place)


def _warn_of_range(index: TrackIndex, frame_range: int, *, place: str) -> None:
    """Say so when frames are numbered in steps so large that most pairs would show one frame twice."""
    inner = np.ones(len(index.frames), bool)
    inner[index.starts[:-1]] = False  # a track's first frame follows no other
    steps = np.diff(index.frames, prepend=index.frames[:1])[inner]
    if len(steps) and (middle := int(np.median(steps))) > frame_range:
        logger.warning("%s.RANGE is %d, but frames are numbered in steps of %d: most pairs show one frame twice; set "
                       "RANGE to a few times %d", place, frame_range, middle, middle)


def build_dataset(config: Config) -> OceanDataset:
    """Return the data set of a configuration, its sources checked: those of TRAIN.WHICH_USE, in that order.

    Pairs per epoch of a source are USE times WEIGHT, scaled to add up to PAIRS unless that is 0. Raises UserError for a
    missing crop folder, a missing or faulty index.
    """
    _check_presence(config)
    settings, place = config.DATASET, f"{config.NAME}.DATASET"
    chosen = {name: settings.SOURCES[name] for name in config.TRAIN.WHICH_USE}
    sources = [build_source(name, source, place=f"{place}.{name}") for name, source in chosen.items()]
    weights = [source.USE * source.WEIGHT for source in chosen.values()]
    if settings.PAIRS and len(chosen) > settings.PAIRS:
        raise UserError(f"{place}.PAIRS is {settings.PAIRS}; expected at least one for each of {len(chosen)} sources")
    use = shares(settings.PAIRS, weights) if settings.PAIRS else [max(1, round(weight)) for weight in weights]
    for source, pairs in zip(sources, use, strict=True):
        logger.info("%s: %d tracks, %d pairs per epoch", source.name, source.num_tracks, pairs)
    kind = ClipDataset if config.TRAIN.ONLINE else OceanDataset
    return kind(sources, use, settings, seed=config.TRAIN.SEED, search_size=config.TRAIN.SEARCH_SIZE)


def _check_presence(config: Config) -> None:
    """Raise one UserError for all sources of WHICH_USE that are not there, with the key that takes those that are."""
    sources, key = config.DATASET.SOURCES, f"{config.NAME}.TRAIN.WHICH_USE"
    if not config.TRAIN.WHICH_USE:
        raise UserError(f"{key} is empty; name at least one of {', '.join(sources)}")
    missing = {name: what for name, source in sources.items() if (what := _missing(source))}
    lost = [f"{name} ({missing[name]})" for name in config.TRAIN.WHICH_USE if name in missing]
    if not lost:
        return
    there = [name for name in config.TRAIN.WHICH_USE if name not in missing] or [
        name for name in sources if name not in missing]
    remedy = f"train on what is there with TRAIN.WHICH_USE=[{','.join(there)}]" if there else (
        "try the renderer with TRAIN.WHICH_USE=[SYN] 'DATASET.SYN={FORMAT: synthetic, USE: 10000}'")
    raise UserError(f"{key}: {len(lost)} of {len(config.TRAIN.WHICH_USE)} sources are not there: {', '.join(lost)}; "
                    f"prepare them (`python -m lib.datasets.prepare`), or {remedy}")
