"""Training data: pairs of frames of one object, from an index of crops, archives or pictures, or from the renderer.

This module is the contract between a source of pairs and the data set. A new source is one file with a class that has
the members of `TrainingSource`, and one entry in `lib.datasets.dataset.FORMATS`.
"""

from __future__ import annotations

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


class CropReader(Protocol):
    """A function that reads the crop of one frame."""

    def __call__(self, view_xyxy: Boxes | None = None, /) -> Crop:
        """Return the crop. Only the part `view_xyxy` (crop px; None: all of it) has to be filled in.

        Raises UnreadableCrop when the file behind it cannot be used.
        """


class FramePair(NamedTuple):
    """Two frames of one object. Nothing is read before `template()` or `search()` is called."""

    template: CropReader
    search: CropReader


class TrainingSource(Protocol):
    """Anything that pairs can be drawn from. It is copied (pickled) to each loader process."""

    @property
    def name(self) -> str:
        """Return the source's key under DATASET."""

    @property
    def num_tracks(self) -> int:
        """Return the number of tracks (objects), at least 1."""

    def pair(self, track: int, rng: np.random.Generator) -> FramePair:
        """Return a pair of frames of track 0 .. num_tracks - 1, drawn with `rng` alone: the same state, the same pair.

        The random numbers that it takes decide what the augmentation draws after it.
        """

    def clip(self, track: int, rng: np.random.Generator) -> list[CropReader]:
        """Return six frames of a track, drawn with `rng` alone: three to learn it from, three later ones to find it in.

        Only the training of the online classifier (TRAIN.ONLINE) asks for them.
        """
