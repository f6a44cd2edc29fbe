"""What is known about benchmarks before any file is read: names, frame ranges, attributes, sub-benchmarks."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple


def alias_key(name: str) -> str:
    """Return what all spellings of a name share: its letters and digits, in lower case, of whatever script.

    `jogging_1` (TracKit), `Jogging-1` (pysot), `Jogging.1` (got10k), `Jogging_1` (pytracking) and `Jogging1` (vot) all
    give `jogging1`; only punctuation of ASCII and blanks are dropped, so that names of other scripts stay apart.
    """
    plain = unicodedata.normalize("NFC", name).lower()  # macOS writes letters and their accents apart
    return re.sub(r"[\x00-\x2f:-@\[-`{-\x7f\s]", "", plain) or plain


# ---- OTB. The frame ranges are those of the benchmark's own list (Wu, Lim, Yang, PAMI 2015), which every toolkit
# shares, except that Tiger1 starts at frame 6 (OTB toolkit v1.0, pysot, pytracking; got10k scores all 354 frames).

OTB_ATTRIBUTES = {
    "IV": "Illumination Variation", "SV": "Scale Variation", "OCC": "Occlusion", "DEF": "Deformation",
    "MB": "Motion Blur", "FM": "Fast Motion", "IPR": "In-Plane Rotation", "OPR": "Out-of-Plane Rotation",
    "OV": "Out-of-View", "BC": "Background Clutters", "LR": "Low Resolution",
}  # fmt: skip

# Name, first and last frame, attributes.
_OTB = """
Basketball 1-725 IV OCC DEF OPR BC; Biker 1-142 SV OCC MB FM OPR OV LR; Bird1 1-408 DEF FM OV;
Bird2 1-99 OCC DEF FM IPR OPR; BlurBody 1-334 SV DEF MB FM IPR; BlurCar1 247-988 MB FM; BlurCar2 1-585 SV MB FM;
BlurCar3 3-359 MB FM; BlurCar4 18-397 MB FM; BlurFace 1-493 MB FM IPR; BlurOwl 1-631 SV MB FM IPR;
Board 1-698 SV MB FM OPR OV BC; Bolt 1-350 OCC DEF IPR OPR; Bolt2 1-293 DEF BC; Box 1-1161 IV SV OCC MB IPR OPR OV BC;
Boy 1-602 SV MB FM IPR OPR; Car1 1-1020 IV SV BC LR; Car2 1-913 IV BC; Car24 1-3059 IV SV BC; Car4 1-659 IV SV;
CarDark 1-393 IV BC; CarScale 1-252 SV OCC FM IPR OPR; ClifBar 1-472 SV OCC MB FM IPR OV BC;
Coke 1-291 IV OCC FM IPR OPR; Couple 1-140 SV DEF FM OPR BC; Coupon 1-327 OCC BC; Crossing 1-120 SV DEF BC;
Crowds 1-347 IV DEF BC; Dancer 1-225 SV DEF IPR OPR; Dancer2 1-150 DEF; David 300-770 IV SV OCC DEF MB IPR OPR;
David2 1-537 IPR OPR; David3 1-252 OCC DEF OPR BC; Deer 1-71 MB FM IPR BC; Diving 1-215 SV DEF IPR;
Dog 1-127 SV DEF OPR; Dog1 1-1350 SV IPR OPR; Doll 1-3872 IV SV OCC IPR OPR; DragonBaby 1-113 SV OCC MB FM IPR OPR OV;
Dudek 1-1145 SV OCC DEF FM IPR OPR OV BC; FaceOcc1 1-892 OCC; FaceOcc2 1-812 IV OCC IPR OPR; Fish 1-476 IV;
FleetFace 1-707 SV DEF MB FM IPR OPR; Football 1-362 OCC IPR OPR BC; Football1 1-74 IPR OPR BC;
Freeman1 1-326 SV IPR OPR; Freeman3 1-460 SV IPR OPR LR; Freeman4 1-283 SV OCC IPR OPR LR; Girl 1-500 SV OCC IPR OPR;
Girl2 1-1500 SV OCC DEF MB OPR; Gym 1-767 SV DEF IPR OPR; Human2 1-1128 IV SV MB OPR; Human3 1-1698 SV OCC DEF OPR BC;
Human4-2 1-667 IV SV OCC DEF; Human5 1-713 SV OCC DEF; Human6 1-792 SV OCC DEF FM OPR OV;
Human7 1-250 IV SV OCC DEF MB FM; Human8 1-128 IV SV DEF; Human9 1-305 IV SV DEF MB FM;
Ironman 1-166 IV SV OCC MB FM IPR OPR OV BC; Jogging-1 1-307 OCC DEF OPR; Jogging-2 1-307 OCC DEF OPR;
Jump 1-122 SV OCC DEF MB IPR OPR; Jumping 1-313 MB FM; KiteSurf 1-84 IV OCC IPR OPR;
Lemming 1-1336 IV SV OCC FM OPR OV; Liquor 1-1741 IV SV OCC MB FM OPR OV BC; Man 1-134 IV;
Matrix 1-100 IV SV OCC FM IPR OPR BC; Mhyang 1-1490 IV DEF OPR BC; MotorRolling 1-164 IV SV MB FM IPR BC;
MountainBike 1-228 IPR OPR BC; Panda 1-1000 SV OCC DEF IPR OPR OV LR; RedTeam 1-1918 SV OCC IPR OPR LR;
Rubik 1-1997 SV OCC IPR OPR; Shaking 1-365 IV SV IPR OPR BC; Singer1 1-351 IV SV OCC OPR;
Singer2 1-366 IV DEF IPR OPR BC; Skater 1-160 SV DEF IPR OPR; Skater2 1-435 SV DEF FM IPR OPR;
Skating1 1-400 IV SV OCC DEF OPR BC; Skating2-1 1-473 SV OCC DEF FM OPR; Skating2-2 1-473 SV OCC DEF FM OPR;
Skiing 1-81 IV SV DEF IPR OPR LR; Soccer 1-392 IV SV OCC MB FM IPR OPR BC; Subway 1-175 OCC DEF BC;
Surfer 1-376 SV FM IPR OPR LR; Suv 1-945 OCC IPR OV; Sylvester 1-1345 IV IPR OPR;
Tiger1 6-354 IV OCC DEF MB FM IPR OPR; Tiger2 1-365 IV OCC DEF MB FM IPR OPR OV; Toy 1-271 SV FM IPR OPR;
Trans 1-124 IV SV OCC DEF; Trellis 1-569 IV SV IPR OPR BC; Twinnings 1-472 SV OPR; Vase 1-271 SV FM IPR;
Walking 1-412 SV OCC DEF LR; Walking2 1-500 SV OCC; Woman 1-597 IV SV OCC DEF MB FM OPR
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
    for entry in _OTB.split(";"):
        name, span, *codes = entry.split()
        first, last = map(int, span.split("-"))
        facts[name] = OTBFact(name, first, last, tuple(OTB_ATTRIBUTES[code] for code in codes))
    return facts


OTB_FACTS = _parse_table()
OTB_SETS: dict[str, tuple[str, ...]] = {
    "OTB2015": tuple(OTB_FACTS), "OTB50": tuple(_OTB50.split()), "OTB2013": tuple(_OTB2013.split()),
}
_OTB_BY_KEY = {alias_key(name): name for name in OTB_FACTS} | {"human4": "Human4-2"}
_CODES = {name: code for code, name in OTB_ATTRIBUTES.items()}


def otb_name(name: str) -> str | None:
    """Return OTB's own name of a sequence in any toolkit's spelling, None when OTB has no such sequence."""
    return _OTB_BY_KEY.get(alias_key(name))


def attribute_code(name: str) -> str:
    """Return the short form of an attribute's name ("Occlusion": "OCC"), the name itself when it has none."""
    return _CODES.get(name, name)


# ---- LaSOT's test set and UAV123, as their authors published them

# Class, then the numbers of its videos in the test set of protocol II (280 videos).
_LASOT = """
airplane-1,9,13,15 basketball-1,6,7,11 bear-2,4,6,17 bicycle-2,7,9,18 bird-2,3,15,17 boat-3,4,12,17 book-3,10,11,19
bottle-1,12,14,18 bus-2,5,17,19 car-2,6,9,17 cat-1,3,18,20 cattle-2,7,12,13 spider-14,16,18,20 coin-3,6,7,18
crab-3,6,12,18 surfboard-12,4,5,8 cup-1,4,7,17 deer-4,8,10,14 dog-1,7,15,19 guitar-3,8,10,16 person-1,5,10,12
pig-2,10,13,18 rubicCube-1,6,14,19 swing-10,14,17,20 drone-13,15,2,7 pool-12,15,3,7 rabbit-10,13,17,19
racing-10,15,16,20 robot-1,19,5,8 sepia-13,16,6,8 sheep-3,5,7,9 skateboard-16,19,3,8 tank-14,16,6,9 tiger-12,18,4,6
train-1,11,20,7 truck-16,3,6,7 turtle-16,5,8,9 umbrella-17,19,2,9 yoyo-15,17,19,7 zebra-10,14,16,17
elephant-1,12,16,18 goldfish-3,7,8,10 hat-1,2,5,18 kite-4,6,10,15 motorcycle-1,3,9,18 mouse-1,8,9,17 flag-3,9,5,2
frog-3,4,20,9 gametarget-1,2,7,13 hand-2,3,9,16 helmet-5,11,19,13 licenseplate-6,12,13,15 electricfan-1,10,18,20
chameleon-3,6,11,20 crocodile-3,4,10,14 gecko-1,5,16,19 fox-2,3,5,20 giraffe-2,10,13,15 gorilla-4,6,9,13
hippo-1,7,9,20 horse-1,4,12,15 kangaroo-2,5,11,14 leopard-1,7,16,20 lion-1,5,12,20 lizard-1,3,6,13
microphone-2,6,14,16 monkey-3,4,9,17 shark-2,3,5,6 squirrel-8,11,13,19 volleyball-1,13,18,19
"""
LASOT_NAMES = tuple(f"{entry.split('-')[0]}-{number}"
                    for entry in _LASOT.split() for number in entry.split("-")[1].split(","))

LASOT_EXT_NAMES = tuple(f"{kind}-{number}" for kind in (
    "atv", "badminton", "cosplay", "dancingshoe", "footbag", "frisbee", "jianzi", "lantern", "misc", "opossum",
    "paddle", "raccoon", "rhino", "skatingshoe", "wingsuit") for number in range(1, 11))

# Videos that have a folder of their own, whole.
_UAV123_WHOLE = """
bike1 bike2 bike3 boat1 boat2 boat3 boat4 boat5 boat6 boat7 boat8 boat9 building1 building2 building3 building4
building5 car2 car3 car4 car5 car7 car9 car10 car11 car12 car13 car14 car15 car17 car18 person1 person3 person6
person9 person10 person11 person13 person15 person16 person18 person20 person21 person22 person23 truck1 truck2 truck3
uav2 uav3 uav4 uav5 uav6 uav7 uav8 wakeboard1 wakeboard2 wakeboard3 wakeboard4 wakeboard5 wakeboard6 wakeboard7
wakeboard8 wakeboard9 wakeboard10 car1_s car2_s car3_s car4_s person1_s person2_s person3_s
"""
# Parts of a longer video: name, and the first and last image in the folder called as what stands before the "_".
_UAV123_PARTS = """
bird1_1:1-253 bird1_2:775-1477 bird1_3:1573-2437 car1_1:1-751 car1_2:751-1627 car1_3:1627-2629 car6_1:1-487
car6_2:487-1807 car6_3:1807-2953 car6_4:2953-3925 car6_5:3925-4861 car8_1:1-1357 car8_2:1357-2575 car16_1:1-415
car16_2:415-1993 group1_1:1-1333 group1_2:1333-2515 group1_3:2515-3925 group1_4:3925-4873 group2_1:1-907
group2_2:907-1771 group2_3:1771-2683 group3_1:1-1567 group3_2:1567-2827 group3_3:2827-4369 group3_4:4369-5527
person2_1:1-1189 person2_2:1189-2623 person4_1:1-1501 person4_2:1501-2743 person5_1:1-877 person5_2:877-2101
person7_1:1-1249 person7_2:1249-2065 person8_1:1-1075 person8_2:1075-1525 person12_1:1-601 person12_2:601-1621
person14_1:1-847 person14_2:847-1813 person14_3:1813-2923 person17_1:1-1501 person17_2:1501-2347 person19_1:1-1243
person19_2:1243-2791 person19_3:2791-4357 truck4_1:1-577 truck4_2:577-1261 uav1_1:1-1555 uav1_2:1555-2377
uav1_3:2473-3469
"""
UAV123_PARTS: dict[str, tuple[int, int]] = {
    name: (int(span.split("-")[0]), int(span.split("-")[1]))
    for name, span in (entry.split(":") for entry in _UAV123_PARTS.split())
}
UAV123_NAMES = tuple(sorted([*_UAV123_WHOLE.split(), *UAV123_PARTS]))

# ---- VOT2015-2019 (short-term)

VOT_ATTRIBUTES = ("camera_motion", "illum_change", "motion_change", "size_change", "occlusion")
"""Per-frame attributes, by the stem of their file in an official folder and by their key in pysot's JSON."""

EAO_INTERVALS = {
    "VOT2015": (108, 371), "VOT2016": (108, 371), "VOT2017": (100, 356), "VOT2018": (100, 356), "VOT2019": (46, 291),
}  # fmt: skip
"""Lengths in frames, both ends included, over which each year's expected average overlap is averaged (the stacks of the
official vot-toolkit, and of the pysot toolkit for 2016 to 2019; a fork of it has 114 to 378 for 2015)."""

_2016 = """
bag ball1 ball2 basketball birds1 birds2 blanket bmx bolt1 bolt2 book butterfly car1 car2 crossing dinosaur fernando
fish1 fish2 fish3 fish4 girl glove godfather graduate gymnastics1 gymnastics2 gymnastics3 gymnastics4 hand handball1
handball2 helicopter iceskater1 iceskater2 leaves marching matrix motocross1 motocross2 nature octopus pedestrian1
pedestrian2 rabbit racing road shaking sheep singer1 singer2 singer3 soccer1 soccer2 soldier sphere tiger traffic
tunnel wiper
"""
_2018 = """
ants1 ants3 bag ball1 ball2 basketball birds1 blanket bmx bolt1 bolt2 book butterfly car1 conduction1 crabs1 crossing
dinosaur drone1 drone_across drone_flip fernando fish1 fish2 fish3 flamingo1 frisbee girl glove godfather graduate
gymnastics1 gymnastics2 gymnastics3 hand handball1 handball2 helicopter iceskater1 iceskater2 leaves matrix motocross1
motocross2 nature pedestrian1 rabbit racing road shaking sheep singer2 singer3 soccer1 soccer2 soldier tiger traffic
wiper zebrafish1
"""
_2019 = """
agility ants1 ball2 ball3 basketball birds1 bolt1 book butterfly car1 conduction1 crabs1 dinosaur dribble drone1
drone_across drone_flip fernando fish1 fish2 flamingo1 frisbee girl glove godfather graduate gymnastics1 gymnastics2
gymnastics3 hand hand2 handball1 handball2 helicopter iceskater1 iceskater2 lamb leaves marathon matrix monkey
motocross1 nature pedestrian1 polo rabbit rabbit2 road rowing shaking singer2 singer3 soccer1 soccer2 soldier surfing
tiger wheel wiper zebrafish1
"""

VOT_NAMES: dict[str, tuple[str, ...]] = {
    "VOT2015": tuple(_2016.split()),
    "VOT2016": tuple(_2016.split()),  # the videos of 2015 with better ground truth
    "VOT2017": tuple(_2018.split()),
    "VOT2018": tuple(_2018.split()),  # the videos of 2017
    "VOT2019": tuple(_2019.split()),
}
SAME_VIDEOS = {"VOT2017": "VOT2018", "VOT2018": "VOT2017"}
"""Years with the same videos and the same ground truth: a folder or JSON of one serves for the other."""
