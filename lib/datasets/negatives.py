"""Negative pairs: the search shows another object, so that the tracker learns to say that its target is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lib.crops import crop_square
from lib.datasets.index import TrackIndex
from lib.datasets.pairs import CropReader, Source, TrackSource

From = Literal["any", "source", "video"]

_TRIES = 20  # draws of another track before the pair stays a positive one


@dataclass(frozen=True)
class Negatives:
    """Which share of the pairs is negative, and where their search frames come from.

    "any": another video of any source, by the sources' shares; "source": another video of the same source; "video":
    another object of the same video where there is one that can be shown without the target, else as "source".
    """

    share: float = 0.0
    where: From = "any"

    def draw(
        self, sources: Sequence[Source], use: Sequence[int], source: int, track: int, rng: np.random.Generator
    ) -> CropReader | None:
        """Return the search crop that makes the pair of a track negative, None if it is to be positive.

        Where no other object can be found in a few draws (a source with one video) the pair stays positive. With a
        share of 0 nothing is drawn from `rng`.
        """
        if not self.share or rng.random() >= self.share:
            return None
        own = sources[source]
        if self.where == "video" and isinstance(own, TrackSource):
            row = distractor(own.index, track, rng)
            if row is not None:
                return own.crop(*row)
        for _ in range(_TRIES):
            other = source
            if self.where == "any":
                other = int(np.searchsorted(np.cumsum(use), rng.integers(sum(use)), side="right"))
            drawn = int(rng.integers(sources[other].num_tracks))
            if other != source or not _same_video(own, track, drawn):
                return sources[other].pair(drawn, rng).search
        return None


def _same_video(source: Source, a: int, b: int) -> bool:
    if isinstance(source, TrackSource):
        return bool(source.index.video_of_track[a] == source.index.video_of_track[b])
    return a == b


def distractor(index: TrackIndex, track: int, rng: np.random.Generator) -> tuple[int, int] | None:
    """Return (track, row) of another object of a track's video whose crop does not show the track's own box there.

    None if the video has no such object, or a few draws found none: on a still the two are mostly seen together.
    """
    video = index.video_of_track[track]
    first, end = (int(n) for n in np.searchsorted(index.video_of_track, [video, video + 1]))
    for _ in range(_TRIES if end - first > 1 else 0):
        other = first + int(rng.integers(end - first))
        row = int(rng.integers(*index.rows(other)))
        if other != track and not _shows(index, row, track):
            return other, row
    return None


def _shows(index: TrackIndex, row: int, track: int) -> bool:
    """Return whether the crop of a row holds a part of a track's box on the same frame."""
    first, end = index.rows(track)
    frame = index.frames[row]
    place = first + int(np.searchsorted(index.frames[first:end], frame))
    if place == end or index.frames[place] != frame:
        return False
    x1, y1, x2, y2 = crop_square(index.boxes_xyxy[row])
    a1, b1, a2, b2 = index.boxes_xyxy[place].tolist()
    return bool(a1 < x2 and a2 > x1 and b1 < y2 and b2 > y1)
