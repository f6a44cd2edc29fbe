"""How near an exported model is to PyTorch's: compared on real crops of every search size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.benchmarks import Benchmark
from lib.benchmarks import Sequence as Video
from lib.boxes import Boxes
from lib.crops import TEMPLATE_SIZE, context_side, mean_colour, subwindow
from lib.images import read_image
from lib.models.ocean import Ocean_, OceanOutput, TemplateFeatures
from lib.tracker.ocean import TrackerState, search_crop

SEARCH_SIZES = (255, 271, 287)
_NO_TEMPLATE = TemplateFeatures(None, (), ())


class Pair(NamedTuple):
    """A template crop and a search crop of one target, uint8 BGR."""

    template: NDArray[np.uint8]  # (127, 127, 3)
    search: NDArray[np.uint8]  # (H, H, 3)


class Difference(NamedTuple):
    """The largest differences of two models over pairs of crops."""

    score: float  # 0..1, over all cells of both scores
    box: float  # crop px, over the sides of the boxes in cells that score at least half of the map's best

    def worse(self, other: Difference) -> Difference:
        """Return the larger of each; what is not a number counts as infinite."""
        pairs = zip(self, other, strict=True)
        return Difference(*(max(a if np.isfinite(a) else np.inf, b if np.isfinite(b) else np.inf) for a, b in pairs))


def real_pairs(benchmark: Benchmark, count: int) -> list[Pair]:
    """Return `count` pairs cut from a test set, spread evenly over its videos and their frames, sizes in turn.

    The target is a little off the search crop's middle, as it is when tracking. Raises UserError for an image that
    cannot be read.
    """
    videos = benchmark.sequences
    each = -(-count // len(videos))
    pairs = [pair for number, video in enumerate(videos) for pair in _pairs_of(video, each, number)]
    return pairs[:: max(1, len(pairs) // count)][:count]


def _pairs_of(video: Video, count: int, number: int) -> Iterator[Pair]:
    first, box = read_image(video.frames[0]), video.boxes_xywh[0]
    fill = mean_colour(first)
    centre_xy, size_wh = box[:2] + box[2:] / 2, box[2:]
    template = subwindow(first, centre_xy, side=max(1, round(context_side(size_wh))), out_size=TEMPLATE_SIZE, fill=fill)
    rng = np.random.default_rng(number)
    for turn, index in enumerate(np.linspace(0, len(video) - 1, count).round().astype(int)):
        seen: Boxes = video.boxes_xywh[index]
        if not (seen[2:] > 0).all():  # the target is out of view
            continue
        centre = seen[:2] + seen[2:] * (0.5 + rng.uniform(-0.2, 0.2, 2))
        side = SEARCH_SIZES[(number + turn) % len(SEARCH_SIZES)]
        state = TrackerState(centre, seen[2:], 1.0, side, fill, _NO_TEMPLATE)
        yield Pair(template, search_crop(state, read_image(video.frames[index])).pixels)


def as_input(pixels: NDArray[np.uint8]) -> Tensor:
    """Return a crop (H, W, 3) as the network's input (1, 3, H, W), float32 0..255."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float()


def largest_difference(model: Ocean_, other: Ocean_, pairs: Sequence[Pair]) -> Difference:
    """Return how far `other` is from `model` at most, over all pairs; infinite where either is not finite."""
    worst = Difference(0.0, 0.0)
    with torch.inference_mode():
        for pair in pairs:
            z, x = as_input(pair.template), as_input(pair.search)
            worst = worst.worse(difference(model(z, x), other(z, x)))
    return worst


def difference(true: OceanOutput, other: OceanOutput) -> Difference:
    """Return the largest differences of two answers to the same crops."""
    scores = [(true.cls, other.cls)]
    if true.cls_aligned is not None:
        assert other.cls_aligned is not None, "the exported model lacks the object-aware branch"
        scores.append((true.cls_aligned, other.cls_aligned))
    gaps = [(a.sigmoid() - b.sigmoid()).abs().max().item() for a, b in scores]
    best = true.cls.sigmoid()
    strong = (best >= best.amax(dim=(2, 3), keepdim=True) / 2).expand_as(true.ltrb)
    box = (true.ltrb - other.ltrb).abs()[strong].max().item()
    return Difference(max(gaps, key=lambda gap: gap if np.isfinite(gap) else np.inf), box)
