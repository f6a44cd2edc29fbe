"""What is known about VOT2015-2019 (short-term) before any file is read: names, attributes, evaluation intervals."""

from __future__ import annotations

ATTRIBUTES = ("camera_motion", "illum_change", "motion_change", "size_change", "occlusion")
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

NAMES: dict[str, tuple[str, ...]] = {
    "VOT2015": tuple(_2016.split()),
    "VOT2016": tuple(_2016.split()),  # the videos of 2015 with better ground truth
    "VOT2017": tuple(_2018.split()),
    "VOT2018": tuple(_2018.split()),  # the videos of 2017
    "VOT2019": tuple(_2019.split()),
}
SAME_VIDEOS = {"VOT2017": "VOT2018", "VOT2018": "VOT2017"}
"""Years with the same videos and the same ground truth: a folder or JSON of one serves for the other."""
