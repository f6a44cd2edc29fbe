"""Which track sample n shows, and which other object a negative pair does: a function of (seed, n) alone, found
without a table however large the data is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lib.config import DatasetConfig
from lib.crops import crop_square
from lib.datasets import CropReader, TrainingSource
from lib.datasets.index import TrackIndex
from lib.datasets.stores import IndexedSource

_WORD = 2**64 - 1
_TRIES = 20  # draws of another track before a negative pair stays a positive one
_ROUNDS = 8  # of the Feistel network: four mix large sizes well (Luby and Rackoff 1988), sizes below 10 need more


def mix(*words: int) -> int:
    """Return 64 well-mixed bits that depend on every one of the given numbers and their order (splitmix64)."""
    state = 0
    for word in words:
        state = ((state ^ (word & _WORD)) + 0x9E3779B97F4A7C15) & _WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _WORD
        state ^= state >> 31
    return state


def shuffled(position: int, size: int, *, key: int) -> int:
    """Return what stands at `position` in the shuffle of 0 .. size - 1 that belongs to `key`.

    A Feistel network over the next even power of two, walked until the result falls below `size`: each key gives a
    permutation, found in microseconds and without memory, where a table would cost every worker 5 MB per epoch.
    """
    assert 0 <= position < size, (position, size)
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    value = position
    while True:
        left, right = value >> half, value & mask
        state = key
        for _ in range(_ROUNDS):
            state = (state * 0xD1342543DE82EF95 + 0x2545F4914F6CDD1D) & _WORD  # a linear congruence: one key a round
            bits = ((right ^ state) * 0xBF58476D1CE4E5B9) & _WORD
            bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _WORD
            left, right = right, left ^ (bits >> 33 & mask)
        value = left << half | right
        if value < size:
            return value


def generator(seed: int, n: int, *, attempt: int = 0) -> np.random.Generator:
    """Return the random numbers of sample n. Philox is counter-based: its key costs nothing to set up (13 us)."""
    return np.random.Generator(np.random.Philox(key=[seed & _WORD, n & _WORD], counter=[0, 0, 0, attempt]))


class Pick(NamedTuple):
    """A source and one of its tracks, by number."""

    source: int
    track: int


class Mixture:
    """The order in which sources and tracks are visited.

    A round has `use[s]` pairs of source s, shuffled anew each round. Each source goes through all its tracks in
    shuffled order before it begins again, across the borders of rounds, so no track is left out by a small `use`.
    """

    def __init__(self, use: Sequence[int], num_tracks: Sequence[int], *, seed: int) -> None:
        assert len(use) == len(num_tracks), (use, num_tracks)
        assert min(use) >= 1, use
        assert min(num_tracks) >= 1, num_tracks
        self.use, self.num_tracks, self.seed = tuple(use), tuple(num_tracks), seed
        self.ends = np.cumsum(self.use).tolist()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, n: int) -> Pick:
        turn, position = divmod(n, len(self))
        place = shuffled(position, len(self), key=mix(self.seed, 1, turn))
        source = next(s for s, end in enumerate(self.ends) if place < end)
        used = turn * self.use[source] + place - (self.ends[source] - self.use[source])
        lap, step = divmod(used, self.num_tracks[source])
        return Pick(source, shuffled(step, self.num_tracks[source], key=mix(self.seed, 2, source, lap)))


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Return whole numbers, at least 1 each, that add up to `total` and stand to each other as `weights` do."""
    assert total >= len(weights), (total, weights)
    assert min(weights) > 0, weights
    exact = (total - len(weights)) * np.asarray(weights, np.float64) / float(sum(weights))
    whole = np.floor(exact).astype(int) + 1
    order = np.argsort(whole - 1 - exact, kind="stable")
    whole[order[: total - int(whole.sum())]] += 1
    return [int(count) for count in whole]


class StreamSampler:
    """Batches of sample numbers for one rank, from one endless stream that all ranks share.

    With G = world * batch, step s covers the samples start + s G .. start + (s + 1) G - 1, and rank r takes every
    world-th of them: nothing is lost or doubled whatever the number of ranks, and nothing is dropped at an epoch's
    end. `set_position` says which steps the next pass over the sampler yields.
    """

    def __init__(self, batch: int, *, rank: int = 0, world: int = 1, start: int = 0) -> None:
        assert 0 <= rank < world, (rank, world)
        assert min(batch, start + 1) >= 1, (batch, start)
        self.batch, self.rank, self.world, self.start = batch, rank, world, start
        self.first_step, self.last_step = 0, 0

    def set_position(self, first_step: int, last_step: int) -> None:
        """Make the next pass yield the steps first_step .. last_step - 1."""
        assert 0 <= first_step <= last_step, (first_step, last_step)
        self.first_step, self.last_step = first_step, last_step

    def __len__(self) -> int:
        return self.last_step - self.first_step

    def __iter__(self) -> Iterator[list[int]]:
        total = self.batch * self.world
        for step in range(self.first_step, self.last_step):
            first = self.start + step * total + self.rank
            yield list(range(first, first + total, self.world))


# ---- negative pairs: the search shows another object, so that the tracker learns to say that its target is not there


def draw_negative(
    settings: DatasetConfig, sources: Sequence[TrainingSource], use: Sequence[int], source: int, track: int,
    rng: np.random.Generator,
) -> CropReader | None:
    """Return the search crop that makes the pair of a track negative, None if it is to be positive.

    NEGATIVE is the share of negative pairs. NEGATIVE_FROM "any" takes another video of any source, by the sources'
    shares; "source" another video of the same source; "video" another object of the same video where there is one that
    can be shown without the target, else as "source". Where no other object is found in a few draws (a source with one
    video) the pair stays positive. With a share of 0 nothing is drawn from `rng`.
    """
    if not settings.NEGATIVE or rng.random() >= settings.NEGATIVE:
        return None
    own = sources[source]
    if settings.NEGATIVE_FROM == "video" and isinstance(own, IndexedSource):
        row = distractor(own.index, track, rng)
        if row is not None:
            return own.crop(row)
    for _ in range(_TRIES):
        other = source
        if settings.NEGATIVE_FROM == "any":
            other = int(np.searchsorted(np.cumsum(use), rng.integers(sum(use)), side="right"))
        drawn = int(rng.integers(sources[other].num_tracks))
        videos = own.index.video_of_track if isinstance(own, IndexedSource) else range(own.num_tracks)
        if other != source or videos[track] != videos[drawn]:
            return sources[other].pair(drawn, rng).search
    return None


def distractor(index: TrackIndex, track: int, rng: np.random.Generator) -> int | None:
    """Return a row of another object of a track's video whose crop does not show the track's own box there.

    None if the video has no such object, or a few draws found none: on a still the two are mostly seen together.
    """
    video = index.video_of_track[track]
    first, end = (int(n) for n in np.searchsorted(index.video_of_track, [video, video + 1]))
    for _ in range(_TRIES if end - first > 1 else 0):
        other = first + int(rng.integers(end - first))
        row = int(rng.integers(*index.rows(other)))
        if other != track and not _shows(index, row, track):
            return row
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
