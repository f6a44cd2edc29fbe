"""Sources of frame pairs: what every source offers, and the crop511 source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Boxes
from lib.crops import Image


class UnreadableCrop(Exception):
    """A crop that is missing, cut short or not an image; the message is "path: reason"."""


class Crop(NamedTuple):
    """An object's training crop: the geometry is that of a 511 px crop with the object in its centre.

    `image` is usually that crop itself. A source that holds whole pictures gives the picture and `to_image` instead,
    the affine matrix (2, 3) from crop px to px of `image`, and the colour outside the picture.
    """

    image: Image  # uint8 (H, W, 3), BGR
    box_xyxy: Boxes  # float64 (4,), the object's box in crop px
    to_image: NDArray[np.float64] | None = None
    fill: tuple[float, float, float] | None = None  # BGR; None repeats the border's px


@dataclass(frozen=True)
class FramePair:
    """Two frames of one object. Nothing is read before `template()` or `search()` is called.

    Both raise UnreadableCrop when the file behind them cannot be used.
    """

    name: str  # for messages: source, video, track and the two frame numbers
    template: Callable[[], Crop]
    search: Callable[[], Crop]


class Source(Protocol):
    """Anything that pairs can be drawn from."""

    @property
    def name(self) -> str:
        """Return the source's key under DATASET."""
        ...

    @property
    def num_tracks(self) -> int:
        """Return the number of tracks (objects), at least 1."""
        ...

    def pair(self, track: int, rng: np.random.Generator) -> FramePair:
        """Return a pair of frames of one track, drawn with `rng` alone: the same state gives the same pair."""
        ...
