"""What a benchmark is, as typed records; and what is known of some before any file is read (the lists: `facts.ini`)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from configparser import ConfigParser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Boxes
from lib.errors import UserError, listed

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
    num_lead_in: int = 0  # frames of the official video before the first tracked one, tracked by some (Tiger1: 5)
    absent: NDArray[np.bool_] | None = None  # (N,) frames in which nothing of the target is seen, where that is told
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
        count, names = self.expected - len(self.sequences), listed(self.missing, shown=shown)
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


# ---- names in any spelling

_LISTS = ConfigParser()
_LISTS.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
_LISTS.read(Path(__file__).with_name("facts.ini"), encoding="utf-8")


def _names(key: str) -> tuple[str, ...]:
    """Return a list of `facts.ini`, in which `airplane-1,9` stands for airplane-1 and airplane-9."""
    return tuple(f"{name}{dash}{number}" for entry in _LISTS["names"][key].split()
                 for name, dash, numbers in [entry.partition("-")] for number in numbers.split(","))


def alias_key(name: str) -> str:
    """Return what all spellings of a name share: its letters and digits, in lower case, of whatever script.

    `jogging_1` (TracKit), `Jogging-1` (pysot), `Jogging.1` (got10k), `Jogging_1` (pytracking) and `Jogging1` (vot) all
    give `jogging1`; only punctuation of ASCII and blanks are dropped, so that names of other scripts stay apart.
    """
    plain = unicodedata.normalize("NFC", name).lower()  # macOS writes letters and their accents apart
    return re.sub(r"[\x00-\x2f:-@\[-`{-\x7f\s]", "", plain) or plain


# ---- OTB

OTB_ATTRIBUTES = {
    "IV": "Illumination Variation", "SV": "Scale Variation", "OCC": "Occlusion", "DEF": "Deformation",
    "MB": "Motion Blur", "FM": "Fast Motion", "IPR": "In-Plane Rotation", "OPR": "Out-of-Plane Rotation",
    "OV": "Out-of-View", "BC": "Background Clutters", "LR": "Low Resolution",
}  # fmt: skip


class OTBFact(NamedTuple):
    """One target of OTB: its name, the frames it is tracked on (both inclusive) and its attributes."""

    name: str
    first: int
    last: int
    attributes: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Return the name of the official folder; two targets of one video share it."""
        return self.name.partition("-")[0]

    @property
    def target(self) -> int | None:
        """Return the number in `groundtruth_rect.<number>.txt`, None for `groundtruth_rect.txt`."""
        number = self.name.partition("-")[2]
        return int(number) if number else None

    @property
    def num_frames(self) -> int:
        return self.last - self.first + 1

    @property
    def lead_in(self) -> int:
        """Return how many rows of the official ground truth lie before the first tracked frame."""
        return self.first - 1 if self.name == "Tiger1" else 0


def _otb_fact(name: str, text: str) -> OTBFact:
    first, last, *codes = text.split()
    return OTBFact(name, int(first), int(last), tuple(OTB_ATTRIBUTES[code] for code in codes))


OTB_FACTS = {name: _otb_fact(name, text) for name, text in _LISTS["OTB2015"].items()}
OTB_SETS = {"OTB2015": tuple(OTB_FACTS), "OTB50": _names("OTB50"), "OTB2013": _names("OTB2013")}
_OTB_BY_KEY = {alias_key(name): name for name in OTB_FACTS} | {"human4": "Human4-2"}
_CODES = {name: code for code, name in OTB_ATTRIBUTES.items()}


def otb_name(name: str) -> str | None:
    """Return OTB's own name of a sequence in any toolkit's spelling, None when OTB has no such sequence."""
    return _OTB_BY_KEY.get(alias_key(name))


def attribute_code(name: str) -> str:
    """Return the short form of an attribute's name ("Occlusion": "OCC"), the name itself when it has none."""
    return _CODES.get(name, name)


# ---- LaSOT's test sets, UAV123 and TOTB

LASOT_NAMES, LASOT_EXT_NAMES = _names("LASOT"), _names("LASOT_ext")
UAV123_PARTS = {name: (int(first), int(last)) for name, first, last in
                (re.split("[:-]", entry) for entry in _LISTS["names"]["UAV123 parts"].split())}
UAV123_NAMES = tuple(sorted([*_names("UAV123"), *UAV123_PARTS]))
UAV20L_NAMES = _names("UAV20L")
TOTB_NAMES = tuple(f"{kind}_{number}" for kind in _names("TOTB") for number in range(1, 16))

# ---- VOT2015-2019 (short-term)

VOT_ATTRIBUTES = ("camera_motion", "illum_change", "motion_change", "size_change", "occlusion")
"""Per-frame attributes, by the stem of their file in an official folder and by their key in pysot's JSON."""

EAO_INTERVALS = {
    "VOT2015": (108, 371), "VOT2016": (108, 371), "VOT2017": (100, 356), "VOT2018": (100, 356), "VOT2019": (46, 291),
}  # fmt: skip
"""Lengths in frames, both ends included, over which each year's expected average overlap is averaged (the stacks of the
official vot-toolkit, and of the pysot toolkit for 2016 to 2019; a fork of it has 114 to 378 for 2015)."""

VOT_NAMES = {"VOT2015": _names("VOT2016"), "VOT2016": _names("VOT2016"), "VOT2017": _names("VOT2018"),
             "VOT2018": _names("VOT2018"), "VOT2019": _names("VOT2019")}
SAME_VIDEOS = {"VOT2017": ("VOT2018",), "VOT2018": ("VOT2017",)}
"""Years with the same videos and the same ground truth: a folder or JSON of one serves for the other."""
