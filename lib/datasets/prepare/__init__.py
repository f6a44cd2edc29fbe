"""From raw data sets to training data: `python -m lib.datasets.prepare SOURCE --root RAW --out DIR`.

One reader per source knows its archive layout and annotation format and yields tasks, each a video or a still, whose
annotation is read by whoever cuts it; the rest, cutting on all cores, filters, the journal that a killed run goes on
from, the index, is common to all. This module is what readers and cutting share.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from lib.datasets.index import is_below
from lib.errors import UserError
from lib.options import PrepareOptions

# Reasons for leaving a box out that are found before its picture is looked at.
ABSENT, MISSING, UNREADABLE = "absent", "picture missing", "picture unreadable"


class Box(NamedTuple):
    """An object's box on one picture."""

    track: int
    xyxy: tuple[float, float, float, float]  # px of the picture, origin 0, x2 = x1 + w
    visible: float = 1.0  # share of the object that can be seen, where the annotation says so
    occluded: bool = False  # partly hidden, where the annotation says no more than that
    generated: bool = False  # drawn by a program between two boxes of a human
    absent: bool = False  # out of sight: out of the picture or hidden altogether


class Frame(NamedTuple):
    """A picture and the objects on it."""

    picture: str  # path below the raw root, with `/`
    number: int
    boxes: tuple[Box, ...]
    relative: bool = False  # the boxes are shares of the picture's width and height, not px


class Video(NamedTuple):
    """The frames of a task, and how many boxes its annotation itself rules out, by reason."""

    name: str  # path of its crops below the crop folder, with `/`
    frames: tuple[Frame, ...]
    dropped: Mapping[str, int] = {}
    faults: tuple[str, ...] = ()  # what is broken, one line each: said at the end, and tried again by the next run

    def read(self) -> Video:
        """Return the video itself: where all is read at once (COCO) it is its own task."""
        return self


class Task(Protocol):
    """One video or still. Small and picklable: the annotation is read where it is needed, by `read`."""

    @property
    def name(self) -> str:
        """Return the video's name."""

    def read(self) -> Video:
        """Return the annotation; raise UserError naming file and line if it is not in the source's form."""


def unwanted(box: Box, options: PrepareOptions, *, width: int, height: int) -> str | None:
    """Return why a box on a picture of width x height px is of no use for training, None if it is kept."""
    x1, y1, x2, y2 = box.xyxy
    if not all(map(math.isfinite, box.xyxy)):
        return "not a number"
    w, h = x2 - x1, y2 - y1
    if w <= 0 or h <= 0:
        return "no area"
    inside = max(0.0, min(x2, width) - max(x1, 0)) * max(0.0, min(y2, height) - max(y1, 0)) / (w * h)
    if inside == 0:
        return "outside the picture"
    if min(inside, box.visible) < options.min_visible:
        return f"less than {options.min_visible:g} visible"
    if min(w, h) < options.min_side:
        return f"a side under {options.min_side:g} px"
    if w * h > options.max_area * width * height:
        return f"over {options.max_area:g} of the picture"
    if max(w, h) > options.max_aspect * min(w, h):
        return f"longer than {options.max_aspect:g} times its width"
    if options.border == "drop" and (x1 < 1 or y1 < 1 or x2 > width - 1 or y2 > height - 1):
        return "at the border"
    if box.occluded and options.occluded == "drop":
        return "occluded"
    return "generated" if box.generated and options.generated == "drop" else None


def safe_name(name: str, *, place: str) -> str:
    """Return `name` if it is a relative path that stays below its folder, else raise UserError with `place`."""
    if not is_below(name):
        raise UserError(f"{place}: {name!r:.200} is no relative path below the data's folder")
    return name


def find_below(base: Path, *endings: str, whole: bool = False) -> list[Path]:
    """Return the files below a folder whose names end so (are so, if `whole`), sorted; links are followed.

    A folder with such a whole name is searched no further: a video has thousands of pictures. Hidden files are none.
    """
    found: list[Path] = []
    for folder, below, names in os.walk(base, followlinks=True):
        hits = [name for name in names if name[0] != "." and (name in endings if whole else name.endswith(endings))]
        found += [Path(folder, name) for name in hits]
        if whole and hits:
            below.clear()
    return sorted(found)
