"""What is known about benchmarks before any file is read: names, frame ranges, attributes (the lists: `facts.ini`)."""

from __future__ import annotations

import re
import unicodedata
from configparser import ConfigParser
from pathlib import Path
from typing import NamedTuple

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
