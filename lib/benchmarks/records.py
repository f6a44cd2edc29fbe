"""What a benchmark is once it has been read: typed records, the same for every file form it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Boxes


def _no_boxes() -> Boxes:
    return np.empty((0, 4))


@dataclass(frozen=True, eq=False)
class Sequence:
    """One target in one video.

    `boxes_xywh` (N, 4) float64, origin 0, holds the ground truth of the N frames a tracker is run on; row 0 is what it
    is initialised with, a row of NaN is a frame without annotation. `frames` holds the N image paths, or nothing where
    images were not asked for.
    """

    name: str
    frames: tuple[Path, ...]
    boxes_xywh: Boxes
    attributes: tuple[str, ...] = ()
    origin: int = 1
    """Pixel origin of the annotation file. Whether a row is invalid is judged on the values of the file."""
    lead_in_xywh: Boxes = field(default_factory=_no_boxes)
    """Annotated boxes (k, 4), origin 0, before the first tracked frame, as far as the files hold them; only got10k
    scores them."""
    num_lead_in: int = 0
    """How many frames of the official video lie before the first tracked one and are tracked by some (Tiger1: 5)."""
    absent: NDArray[np.bool_] | None = None
    """(N,) frames in which nothing of the target is to be seen, where the data set tells."""
    image_wh: tuple[int, int] | None = None
    """Size of the images, where the data set tells and scoring needs it."""

    def __len__(self) -> int:
        return len(self.boxes_xywh)

    @property
    def file_xywh(self) -> Boxes:
        """Return the boxes (N, 4) with the pixel origin of the annotation file, as every scoring toolkit sees them."""
        return with_origin(self.boxes_xywh, self.origin)

    @property
    def file_lead_in_xywh(self) -> Boxes:
        """Return the lead-in boxes (k, 4) with the pixel origin of the annotation file."""
        return with_origin(self.lead_in_xywh, self.origin)


@dataclass(frozen=True)
class Benchmark:
    """A test set: what there is of it, what is missing, and where it was read from."""

    name: str
    sequences: tuple[Sequence, ...]
    expected: int
    """Number of sequences of the whole benchmark, e.g. 100."""
    missing: tuple[str, ...]
    """Names of the sequences that the benchmark has and the folder has not."""
    source: Path
    """The folder or the JSON file that the annotations were read from."""
    notes: tuple[str, ...] = ()
    """What a reader of a score should know: unusual lengths, files left out."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the sequences that are there, in order."""
        return tuple(sequence.name for sequence in self.sequences)

    @property
    def num_frames(self) -> int:
        """Return the number of frames of the sequences that are there."""
        return sum(len(sequence) for sequence in self.sequences)


def with_origin(boxes_xywh: Boxes, origin: int) -> Boxes:
    """Return boxes (..., 4) of origin 0 moved to a pixel origin (0 or 1)."""
    return boxes_xywh + np.array([origin, origin, 0, 0])


def without_origin(boxes_xywh: Boxes, origin: int) -> Boxes:
    """Return boxes (..., 4) of a pixel origin (0 or 1) moved to origin 0."""
    return boxes_xywh - np.array([origin, origin, 0, 0])
