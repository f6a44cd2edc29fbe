"""What a benchmark is once it has been read: typed records, the same for every file form it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Boxes
from lib.errors import UserError

_LONGEST_NAME = 200  # bytes: endings are added, and a file name may have 255

Protocol = Literal["one-pass", "got10k", "server", "vot"]
"""How a benchmark is run and scored: one pass, success and precision; one pass, AO and SR of the got10k toolkit; one
pass, scored by the authors' server alone as only the first box is public; VOT's, a tracker that lost its target is
started again."""
Corners = NDArray[np.float64]  # corner points (..., 4, 2) of quadrilaterals, x and y in image px


@dataclass(frozen=True, eq=False)
class Sequence:
    """One target in one video.

    `boxes_xywh` (N, 4) float64, origin 0, holds the ground truth of the N frames a tracker is run on; row 0 is what it
    is initialised with, a row of NaN is a frame without annotation. `frames`: the N image paths, if asked for.
    """

    name: str
    frames: tuple[Path, ...]
    boxes_xywh: Boxes
    attributes: tuple[str, ...] = ()
    origin: int = 1
    """Pixel origin of the annotation file. Whether a row is invalid is judged on the values of the file."""
    lead_in_xywh: Boxes = field(default_factory=lambda: np.empty((0, 4)))
    """Annotated boxes (k, 4), origin 0, before the first tracked frame, as far as the files hold them; only got10k
    scores them."""
    num_lead_in: int = 0
    """How many frames of the official video lie before the first tracked one and are tracked by some (Tiger1: 5)."""
    absent: NDArray[np.bool_] | None = None
    """(N,) frames in which nothing of the target is to be seen, where the data set tells."""
    sparse: bool = False  # frames with neither a box nor a flag of absence are not annotated and do not count (OxUvA)
    image_wh: tuple[int, int] | None = None  # size of the images, where the data set tells and scoring needs it

    def __len__(self) -> int:
        return len(self.boxes_xywh)

    @property
    def annotated(self) -> NDArray[np.bool_]:
        """Return the frames (N,) that count: all, except where the data set has an annotation of a few only."""
        seen = np.asarray(np.isfinite(self.boxes_xywh).all(axis=1))
        return seen | (False if self.absent is None else self.absent) if self.sparse else np.ones(len(self), bool)

    @property
    def file_xywh(self) -> Boxes:
        """Return the boxes (N, 4) with the pixel origin of the annotation file, as every scoring toolkit sees them."""
        return with_origin(self.boxes_xywh, self.origin)


@dataclass(frozen=True, eq=False, kw_only=True)
class VOTSequence(Sequence):
    """A video of VOT. `boxes_xywh` are the axis-aligned boxes that stand for the regions (`polygon_to_xywh`)."""

    regions: Corners  # (N, 4, 2) corners of the ground truth
    tags: Mapping[str, NDArray[np.bool_]]
    """Per attribute, the frames (N,) that have it; an attribute the data set does not tell is absent."""


@dataclass(frozen=True)
class Benchmark:
    """A test set: what there is of it, what is missing, and where it was read from."""

    name: str
    sequences: tuple[Sequence, ...]
    expected: int  # number of sequences of the whole benchmark, e.g. 100
    missing: tuple[str, ...]  # names of the sequences that the benchmark has and the folder has not
    source: Path  # the folder or the JSON file that the annotations were read from
    notes: tuple[str, ...] = ()  # what a reader of a score should know: unusual lengths, files left out
    protocol: Protocol = "one-pass"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sequence.name for sequence in self.sequences)

    @property
    def num_frames(self) -> int:
        return sum(len(sequence) for sequence in self.sequences)

    def missing_text(self, *, shown: int = 3) -> str:
        """Return how many sequences are missing and the first few by name, "" where none is."""
        count, more = self.expected - len(self.sequences), len(self.missing) - shown
        names = ", ".join(self.missing[:shown]) + (f" and {more} more" if more > 0 else "")
        return f"{count} of {self.expected} missing{f': {names}' if names else ''}" if count else ""


def with_origin(boxes_xywh: Boxes, origin: int) -> Boxes:
    """Return boxes (..., 4) of origin 0 moved to a pixel origin (0 or 1)."""
    return boxes_xywh + np.array([origin, origin, 0, 0])


def without_origin(boxes_xywh: Boxes, origin: int) -> Boxes:
    """Return boxes (..., 4) of a pixel origin (0 or 1) moved to origin 0."""
    return boxes_xywh - np.array([origin, origin, 0, 0])


def check_name(name: str, place: str) -> None:
    """Refuse a sequence name that is no plain file name: results are files called so, wherever it leads."""
    plain = name.isprintable() and not {*name} & {*"/\\:"} and 0 < len(name.encode()) <= _LONGEST_NAME
    if not plain or name.startswith("."):
        raise UserError(f"{place}: a sequence is called {name!r:.100}; its results are files of that name, so it "
                        f"must be a plain one of at most {_LONGEST_NAME} bytes, without / and no dot in front")
