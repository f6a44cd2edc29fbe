"""The renderer: endless training tracks with exactly known boxes, and OTB-form test sequences of other scenes.

It serves where no real data is at hand (the demonstration, tests) and as a supplement to real data: what it shows,
fast motion, spin, blur, look-alikes, occlusion, is rare in real sets. Everything is a function of the seed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from lib.boxes import Boxes, xywh_to_xyxy
from lib.crops import CROP_SIZE, Image, box_in_crop511, crop_square, transform_box, view_matrix
from lib.datasets import Crop, CropReader, FramePair
from lib.datasets.synthetic.bodies import Points, random_body
from lib.datasets.synthetic.scene import POSE_ASPECT, POSE_SIZE, Mover, Scene, random_scene
from lib.errors import UserError
from lib.files import read_json

TRAINING, TESTING = 2, 3  # streams of random scenes of one seed that have nothing in common
SIZE_WH = (320, 240)  # px, the size of most of OTB's older sequences
CLEAR, USABLE = 0.25, 0.7  # at most so much of the target may be hidden in a template or first frame, and in a search
DRAWS = 6  # frames tried before the least hidden one is taken
JPEG_QUALITY = 92
RENDERER = 1  # raise it with each change that draws other pixels or boxes from the same seed
RECORD = "synthetic.json"  # beside a sequence: what it was rendered with
Side = Annotated[int, Field(ge=64, le=8192, strict=True)]  # px
CODEC_BLOCK = 8  # px; windows of a frame start at a multiple, as JPEG's blocks do
GONE = 0.9  # hidden share of the target above which a frame counts as one without it
SHORTEST, LONGEST = 12, 40  # frames of an absence
COVER_STREAM = 5  # of the textures of what covers


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class SyntheticSource:
    """A `lib.datasets.TrainingSource` that renders two frames of a scene when they are asked for; no scene is kept.

    `frame_range` is the greatest distance in frames between template and search frame, `tracks` the number of scenes,
    each `length` frames long, in frames of `size_wh` px, `difficulty` as `random_scene` has it.
    """

    name: str = "SYNTHETIC"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    tracks: Annotated[int, Field(ge=1, le=10**7)] = 100_000
    length: Annotated[int, Field(ge=2, le=100_000)] = 120
    frame_range: Annotated[int, Field(ge=1)] = 60
    size_wh: Annotated[tuple[Side, Side], Field(strict=False)] = SIZE_WH
    difficulty: Annotated[float, Field(ge=0, le=1)] = 1.0

    @property
    def num_tracks(self) -> int:
        return self.tracks

    def pair(self, track: int, rng: np.random.Generator) -> FramePair:
        """Return a pair of frames of one track: the template uniform over it, the search within `frame_range` of it.

        Frames in which the target is mostly hidden are drawn again.
        """
        scene, last = self._scene(track), self.length - 1
        first = _visible(scene, rng, 0, last, limit=CLEAR)
        second = _visible(scene, rng, max(first - self.frame_range, 0), min(first + self.frame_range, last),
                          limit=USABLE)
        return FramePair(functools.partial(crop_of, scene, first), functools.partial(crop_of, scene, second))

    def clip(self, track: int, rng: np.random.Generator) -> list[CropReader]:
        """Return a frame of a track and two before it to learn it from, and three after it to find it in."""
        scene, reach, last = self._scene(track), self.frame_range, self.length - 1
        base = _visible(scene, rng, 0, last - 1, limit=CLEAR)
        others = [_visible(scene, rng, max(base - reach, 0), max(base - 1, 0), limit=CLEAR) for _ in range(2)]
        others += [_visible(scene, rng, base + 1, min(base + reach, last), limit=USABLE) for _ in range(3)]
        return [functools.partial(crop_of, scene, frame) for frame in (base, *others)]

    def _scene(self, track: int) -> Scene:
        assert 0 <= track < self.tracks, track
        return random_scene(self.seed, TRAINING, track, size_wh=self.size_wh, length=self.length,
                            difficulty=self.difficulty)


def _visible(scene: Scene, rng: np.random.Generator, first: int, last: int, *, limit: float) -> int:
    """Return the first of a few drawn frames in which at most `limit` of the target is hidden, else the best one."""
    tried: list[tuple[float, int]] = []
    while len(tried) < DRAWS and (not tried or tried[-1][0] > limit):
        frame = int(rng.integers(first, last + 1))
        tried.append((scene.covered(frame), frame))
    return min(tried, key=lambda pair: pair[0])[1]


def crop_of(scene: Scene, frame: int, view_xyxy: Boxes | None = None, /) -> Crop:
    """Return a frame, drawn where `view_xyxy` (crop px) shows it, as the 511 px crop of the scene's target."""
    box_xyxy = xywh_to_xyxy(scene.box_xywh(frame))
    to_image = np.asarray(cv2.invertAffineTransform(view_matrix(crop_square(box_xyxy), out_size=CROP_SIZE)), np.float64)
    shown = transform_box((0, 0, CROP_SIZE - 1, CROP_SIZE - 1) if view_xyxy is None else view_xyxy, to_image)
    # One px more on each side for the interpolation; JPEG's blocks lie where they would in the whole frame.
    low = np.maximum(np.floor((shown[:2] - 1) / CODEC_BLOCK) * CODEC_BLOCK, 0).astype(int)
    high = np.minimum(np.ceil(shown[2:]) + 2, scene.size_wh).astype(int)
    low, high = np.minimum(low, np.array(scene.size_wh) - CODEC_BLOCK), np.maximum(high, CODEC_BLOCK)
    image = scene.frame(frame, window=(int(low[0]), int(low[1]), int(high[0]), int(high[1])))
    to_image[:, 2] -= low
    return Crop(image, box_in_crop511(box_xyxy[2:] - box_xyxy[:2]), to_image, scene.mean_colour(frame))


def held_out_scene(
    seed: int, number: int, *, length: int, size_wh: tuple[int, int] = SIZE_WH, difficulty: float = 1.0
) -> Scene:
    """Return held-out scene `number` of a seed: its target in plain view at t = 0, hidden in 5% of it at most."""
    for attempt in range(1000):
        scene = random_scene(seed, TESTING, 1000 * number + attempt, size_wh=size_wh, length=length,
                             difficulty=difficulty)
        hidden = np.array([scene.covered(t) for t in range(length)])
        if hidden[0] <= CLEAR and (hidden > USABLE).mean() <= 0.05:
            return scene
    raise AssertionError(f"seed {seed}: no usable scene {number} of {length} frames")


def rendered(scene: Scene, length: int) -> Iterator[tuple[Image, Boxes]]:
    """Yield a scene's frames, uint8 (H, W, 3) BGR, and the box (x, y, w, h), origin 0, of all of the target."""
    for time in range(length):
        yield scene.frame(time), scene.box_xywh(time)


def write_otb(
    root: str | Path, *, num: int, length: int, seed: int, size_wh: tuple[int, int] = SIZE_WH,
    difficulty: float = 1.0, absences: bool = False, progress: Callable[[int], object] = lambda _frames: None,
) -> list[str]:
    """Return the names of `num` held-out sequences of `length` frames, written to `root` in OTB's official form.

    `<root>/<name>/img/0001.jpg ...` and `<root>/<name>/groundtruth_rect.txt`, 1-based x,y,w,h. A sequence that is there
    as it is asked for is kept; one that this function wrote for other settings is replaced, and those beyond `num`
    are removed. With `absences` the target is out of sight now and then (`with_absences`), and `absent.txt` beside
    the boxes holds 1 for each frame without it. `progress` is called with the number of frames just done. Raises
    UserError for a sequence of one of these names that it did not write, and when the folder cannot be written.
    """
    if num < 1 or length < 2:
        raise UserError(f"{root}: {num} sequences of {length} frames asked for; expected at least 1 of at least 2")
    root, names = Path(root), [f"Synthetic{number + 1:02d}" for number in range(num)]
    try:
        for number, name in enumerate(names):
            record = {"renderer": RENDERER, "seed": seed, "number": number, "length": length,
                      "size_wh": list(size_wh), "difficulty": difficulty} | ({"absences": True} if absences else {})
            if _record_of(root / name) == record:
                progress(length)
                continue
            part = root / f".{name}.part"
            shutil.rmtree(part, ignore_errors=True)
            scene = held_out_scene(seed, number, length=length, size_wh=size_wh, difficulty=difficulty)
            scene, absent = with_absences(scene, seed=seed, length=length) if absences else (scene, [])
            _write_sequence(part, rendered(scene, length), record, progress)
            if absences:
                (part / "absent.txt").write_text("".join(f"{int(gone)}\n" for gone in absent), encoding="utf-8")
            shutil.rmtree(root / name, ignore_errors=True)
            part.replace(root / name)
        for folder in root.glob("Synthetic*"):
            if folder.name not in names and _record_of(folder):
                shutil.rmtree(folder)
    except OSError as error:
        raise UserError(f"{root}: cannot be written ({error.strerror or error}); free some space or choose a folder "
                        f"that can be written") from error
    return names


def _record_of(folder: Path) -> Any:
    """Return the settings that a sequence was rendered with, None if there is none; UserError if it is not ours."""
    if not folder.exists():
        return None
    if not (folder / RECORD).is_file():
        raise UserError(f"{folder}: not written by the renderer (it holds no {RECORD}); remove it, or choose another")
    return read_json(folder / RECORD)


def _write_sequence(
    folder: Path, frames: Iterator[tuple[Image, Boxes]], record: dict[str, Any], progress: Callable[[int], object]
) -> None:
    (folder / "img").mkdir(parents=True)
    rows = []
    for index, (image, (x, y, w, h)) in enumerate(frames):
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        (folder / "img" / f"{index + 1:04d}.jpg").write_bytes(data.tobytes())
        rows.append(f"{x + 1:.2f},{y + 1:.2f},{w:.2f},{h:.2f}\n")
        progress(1)
    (folder / "groundtruth_rect.txt").write_text("".join(rows), encoding="utf-8", newline="\n")
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8", newline="\n")


# ---- targets that are out of sight for a while and come back: they leave the frame, or something covers them


@dataclasses.dataclass(frozen=True)
class Trip:
    """A shift away from a path and back."""

    leave: float  # the frame in which the shift begins
    back: float  # the frame in which it has ended
    ramp: float  # frames that each way takes
    away: Points  # (2,) px

    def share(self, time: float) -> float:
        """Return how far away it is at a time, 0..1."""
        way = np.clip(min((time - self.leave) / self.ramp, (self.back - time) / self.ramp), 0.0, 1.0)
        return float(way * way * (3 - 2 * way))


@dataclasses.dataclass(frozen=True)
class Traveller(Mover):
    """A body that leaves its path on trips, or, `reversed`, comes to it on trips from where it is otherwise."""

    trips: tuple[Trip, ...] = ()
    reversed: bool = False

    def pose(self, time: float) -> Points:
        """Return the affine matrix (2, 3) from the body's coordinates to frame px."""
        pose = super().pose(time)
        for trip in self.trips:
            pose[:, 2] += trip.away * (1 - trip.share(time) if self.reversed else trip.share(time))
        return pose


def with_absences(scene: Scene, *, seed: int, length: int) -> tuple[Scene, list[bool]]:
    """Return the scene with an absence in each stretch of 75 frames but the first 20, and the frames without target.

    One half leaves the frame, one half is covered by a body larger than itself that goes with it.
    """
    rng = np.random.default_rng([seed, scene.number, length])
    trips: list[Trip] = []
    covers: list[Trip] = []
    front = scene.front
    bank = (seed, COVER_STREAM)
    for start in range(20, length - LONGEST, 75):
        ramp, stay = rng.uniform(1, 15), rng.uniform(SHORTEST, LONGEST)
        leave, angle = start + rng.uniform(0, 15), rng.uniform(0, 2 * np.pi)
        away = 1.5 * max(scene.size_wh) * np.array([np.cos(angle), np.sin(angle)])
        (trips if rng.random() < 0.5 else covers).append(Trip(leave, leave + 2 * ramp + stay, ramp, away))
    target = scene.target
    for trip in covers:
        path = dataclasses.replace(target.path, rest=target.path.rest.copy())
        path.rest[POSE_SIZE] += np.log(rng.uniform(1.8, 2.6))
        path.rest[POSE_ASPECT] = rng.uniform(-0.2, 0.2)
        front = (*front, Traveller(random_body(bank, rng, kinds=1), path, trips=(trip,), reversed=True))
    target = Traveller(target.body, target.path, target.opacity, tuple(trips))
    made = dataclasses.replace(scene, target=target, front=front)
    return made, [made.covered(time) > GONE for time in range(length)]
