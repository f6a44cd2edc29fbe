"""What is known about OTB before any file is read: names, frame ranges, attributes, sub-benchmarks.

Frame ranges are those of the benchmark's own list (Wu, Lim, Yang, PAMI 2015), which every toolkit shares, except that
Tiger1 starts at frame 6 (OTB toolkit v1.0, pysot and pytracking; got10k scores all 354 frames).
"""

from __future__ import annotations

import re
from typing import NamedTuple

ATTRIBUTES = {
    "IV": "Illumination Variation", "SV": "Scale Variation", "OCC": "Occlusion", "DEF": "Deformation",
    "MB": "Motion Blur", "FM": "Fast Motion", "IPR": "In-Plane Rotation", "OPR": "Out-of-Plane Rotation",
    "OV": "Out-of-View", "BC": "Background Clutters", "LR": "Low Resolution",
}  # fmt: skip

# Name, first frame, last frame, attributes.
_TABLE = """
Basketball 1 725 IV OCC DEF OPR BC
Biker 1 142 SV OCC MB FM OPR OV LR
Bird1 1 408 DEF FM OV
Bird2 1 99 OCC DEF FM IPR OPR
BlurBody 1 334 SV DEF MB FM IPR
BlurCar1 247 988 MB FM
BlurCar2 1 585 SV MB FM
BlurCar3 3 359 MB FM
BlurCar4 18 397 MB FM
BlurFace 1 493 MB FM IPR
BlurOwl 1 631 SV MB FM IPR
Board 1 698 SV MB FM OPR OV BC
Bolt 1 350 OCC DEF IPR OPR
Bolt2 1 293 DEF BC
Box 1 1161 IV SV OCC MB IPR OPR OV BC
Boy 1 602 SV MB FM IPR OPR
Car1 1 1020 IV SV BC LR
Car2 1 913 IV BC
Car24 1 3059 IV SV BC
Car4 1 659 IV SV
CarDark 1 393 IV BC
CarScale 1 252 SV OCC FM IPR OPR
ClifBar 1 472 SV OCC MB FM IPR OV BC
Coke 1 291 IV OCC FM IPR OPR
Couple 1 140 SV DEF FM OPR BC
Coupon 1 327 OCC BC
Crossing 1 120 SV DEF BC
Crowds 1 347 IV DEF BC
Dancer 1 225 SV DEF IPR OPR
Dancer2 1 150 DEF
David 300 770 IV SV OCC DEF MB IPR OPR
David2 1 537 IPR OPR
David3 1 252 OCC DEF OPR BC
Deer 1 71 MB FM IPR BC
Diving 1 215 SV DEF IPR
Dog 1 127 SV DEF OPR
Dog1 1 1350 SV IPR OPR
Doll 1 3872 IV SV OCC IPR OPR
DragonBaby 1 113 SV OCC MB FM IPR OPR OV
Dudek 1 1145 SV OCC DEF FM IPR OPR OV BC
FaceOcc1 1 892 OCC
FaceOcc2 1 812 IV OCC IPR OPR
Fish 1 476 IV
FleetFace 1 707 SV DEF MB FM IPR OPR
Football 1 362 OCC IPR OPR BC
Football1 1 74 IPR OPR BC
Freeman1 1 326 SV IPR OPR
Freeman3 1 460 SV IPR OPR LR
Freeman4 1 283 SV OCC IPR OPR LR
Girl 1 500 SV OCC IPR OPR
Girl2 1 1500 SV OCC DEF MB OPR
Gym 1 767 SV DEF IPR OPR
Human2 1 1128 IV SV MB OPR
Human3 1 1698 SV OCC DEF OPR BC
Human4-2 1 667 IV SV OCC DEF
Human5 1 713 SV OCC DEF
Human6 1 792 SV OCC DEF FM OPR OV
Human7 1 250 IV SV OCC DEF MB FM
Human8 1 128 IV SV DEF
Human9 1 305 IV SV DEF MB FM
Ironman 1 166 IV SV OCC MB FM IPR OPR OV BC
Jogging-1 1 307 OCC DEF OPR
Jogging-2 1 307 OCC DEF OPR
Jump 1 122 SV OCC DEF MB IPR OPR
Jumping 1 313 MB FM
KiteSurf 1 84 IV OCC IPR OPR
Lemming 1 1336 IV SV OCC FM OPR OV
Liquor 1 1741 IV SV OCC MB FM OPR OV BC
Man 1 134 IV
Matrix 1 100 IV SV OCC FM IPR OPR BC
Mhyang 1 1490 IV DEF OPR BC
MotorRolling 1 164 IV SV MB FM IPR BC
MountainBike 1 228 IPR OPR BC
Panda 1 1000 SV OCC DEF IPR OPR OV LR
RedTeam 1 1918 SV OCC IPR OPR LR
Rubik 1 1997 SV OCC IPR OPR
Shaking 1 365 IV SV IPR OPR BC
Singer1 1 351 IV SV OCC OPR
Singer2 1 366 IV DEF IPR OPR BC
Skater 1 160 SV DEF IPR OPR
Skater2 1 435 SV DEF FM IPR OPR
Skating1 1 400 IV SV OCC DEF OPR BC
Skating2-1 1 473 SV OCC DEF FM OPR
Skating2-2 1 473 SV OCC DEF FM OPR
Skiing 1 81 IV SV DEF IPR OPR LR
Soccer 1 392 IV SV OCC MB FM IPR OPR BC
Subway 1 175 OCC DEF BC
Surfer 1 376 SV FM IPR OPR LR
Suv 1 945 OCC IPR OV
Sylvester 1 1345 IV IPR OPR
Tiger1 6 354 IV OCC DEF MB FM IPR OPR
Tiger2 1 365 IV OCC DEF MB FM IPR OPR OV
Toy 1 271 SV FM IPR OPR
Trans 1 124 IV SV OCC DEF
Trellis 1 569 IV SV IPR OPR BC
Twinnings 1 472 SV OPR
Vase 1 271 SV FM IPR
Walking 1 412 SV OCC DEF LR
Walking2 1 500 SV OCC
Woman 1 597 IV SV OCC DEF MB FM OPR
"""

_OTB50 = """
Basketball Biker Bird1 BlurBody BlurCar2 BlurFace BlurOwl Bolt Box Car1 Car4 CarDark CarScale ClifBar Couple Crowds
David Deer Diving DragonBaby Dudek Football Freeman4 Girl Human3 Human4-2 Human6 Human9 Ironman Jump Jumping Liquor
Matrix MotorRolling Panda RedTeam Shaking Singer2 Skating1 Skating2-1 Skating2-2 Skiing Soccer Surfer Sylvester Tiger2
Trellis Walking Walking2 Woman
"""

_OTB2013 = """
Basketball Bolt Boy Car4 CarDark CarScale Coke Couple Crossing David David2 David3 Deer Dog1 Doll Dudek FaceOcc1
FaceOcc2 Fish FleetFace Football Football1 Freeman1 Freeman3 Freeman4 Girl Ironman Jogging-1 Jogging-2 Jumping Lemming
Liquor Matrix Mhyang MotorRolling MountainBike Shaking Singer1 Singer2 Skating1 Skiing Soccer Subway Suv Sylvester
Tiger1 Tiger2 Trellis Walking Walking2 Woman
"""


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
        """Return the number of frames a tracker is run on."""
        return self.last - self.first + 1

    @property
    def lead_in(self) -> int:
        """Return how many rows of the official ground truth lie before the first tracked frame."""
        return self.first - 1 if self.name == "Tiger1" else 0


def _parse_table() -> dict[str, OTBFact]:
    facts = {}
    for line in _TABLE.strip().splitlines():
        name, first, last, *codes = line.split()
        facts[name] = OTBFact(name, int(first), int(last), tuple(ATTRIBUTES[code] for code in codes))
    return facts


FACTS = _parse_table()

BENCHMARKS: dict[str, tuple[str, ...]] = {
    "OTB2015": tuple(FACTS),
    "OTB100": tuple(FACTS),
    "OTB50": tuple(_OTB50.split()),
    "OTB2013": tuple(_OTB2013.split()),
}


def alias_key(name: str) -> str:
    """Return what all spellings of a sequence's name share: letters and digits, in lower case.

    `jogging_1` (TracKit), `Jogging-1` (pysot), `Jogging.1` (got10k), `Jogging_1` (pytracking) and `Jogging1` (vot) all
    give `jogging1`.
    """
    return re.sub(r"[^a-z0-9]", "", name.lower())


_BY_KEY = {alias_key(name): name for name in FACTS} | {"human4": "Human4-2"}


def canonical_name(name: str) -> str | None:
    """Return OTB's own name of a sequence in any toolkit's spelling, None when OTB has no such sequence."""
    return _BY_KEY.get(alias_key(name))


_CODES = {name: code for code, name in ATTRIBUTES.items()}


def attribute_code(name: str) -> str:
    """Return the short form of an attribute's name ("Occlusion": "OCC"), the name itself when it has none."""
    return _CODES.get(name, name)
