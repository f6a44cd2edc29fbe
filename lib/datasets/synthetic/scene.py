"""A synthetic scene: a target, its surroundings and a camera, drawn at any time t with the target's exact box.

Every movement is a sum of a few sines, so frame t costs the same whatever t is and needs no frame before it; that is
what lets training draw single frames of endless tracks. A scene is a function of (seed, stream, number) alone.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import cv2
import numpy as np
from cv2.typing import MatLike

from lib.boxes import Boxes, xyxy_to_xywh
from lib.crops import Image
from lib.datasets.synthetic.bodies import Body, Points, hull_xyxy, random_body, stamp, streak_kernel
from lib.datasets.synthetic.textures import Bank, painted

MARGIN = 56  # px of background beyond the frame on each side, for the camera to pan over
TARGET_SIDE = (15.0, 84.0)  # px, square root of the target's area; OTB's are 17 .. 250 px in frames twice as wide
EASY_SIDE = 40.0  # px, the smallest target's where nothing is difficult
POSE_X, POSE_Y, POSE_SIZE, POSE_ASPECT, POSE_ANGLE, POSE_LIGHT = range(6)
CAMERA_X, CAMERA_Y, CAMERA_ZOOM, CAMERA_ANGLE, CAMERA_GAIN, CAMERA_BIAS = range(6)
WORLDS, PROPS = 64, 160  # backgrounds and bystanders per bank, made once; targets are made anew for each scene
WORLD_STREAM, PROP_STREAM, SCENE_STREAM = 2, 3, 4
GRAIN_SIDE = 700  # px of the noise tile that every frame's grain is cut from


@dataclass(frozen=True)
class Wave:
    """Channels that each move as rest + rate * t + a sum of sines."""

    rest: Points  # (C,)
    rate: Points  # (C,) per frame
    amplitude: Points  # (C, K)
    omega: Points  # (C, K) rad per frame
    phase: Points  # (C, K)

    def at(self, time: float) -> Points:
        """Return the channels' values (C,) at a time in frames."""
        swing = (self.amplitude * np.sin(self.omega * time + self.phase)).sum(axis=1)
        return np.asarray(self.rest + self.rate * time + swing)


@dataclass(frozen=True)
class Mover:
    """A body on its path: position, log size, log aspect, angle and log light over time."""

    body: Body
    path: Wave
    opacity: float = 1.0

    def pose(self, time: float) -> Points:
        """Return the affine matrix (2, 3) from the body's coordinates to frame px."""
        x, y, size, aspect, angle, _ = self.path.at(time)
        cos, sin = np.cos(angle), np.sin(angle)
        wide, tall = np.exp(size + aspect / 2), np.exp(size - aspect / 2)
        return np.array([[cos * wide, -sin * tall, x], [sin * wide, cos * tall, y]])

    def box_xyxy(self, time: float) -> Boxes:
        """Return the exact box (x1, y1, x2, y2) of everything drawn, frame px, seen or not."""
        return hull_xyxy(self.body.outlines(time, self.pose(time)))

    def draw(self, frame: MatLike, *, time: float, shutter: float, corner: tuple[int, int]) -> None:
        """Stamp the body into `frame`, whose first px is `corner` of the whole, smeared while the shutter is open."""
        velocity = self.path.at(time + 0.5)[:2] - self.path.at(time - 0.5)[:2]
        gain, pose = float(np.exp(self.path.at(time)[POSE_LIGHT])), self.pose(time)
        pose[:, 2] -= corner
        stamp(frame, self.body, time=time, pose=pose, gain=gain, opacity=self.opacity,
              streak=velocity * shutter if shutter else None)


@dataclass(frozen=True)
class Optics:
    """What camera and codec do to every frame of a scene; zeros mean nothing is done."""

    gray: bool
    gamma: float
    cast: Points  # (3,) gain per channel
    shutter: float  # frames
    defocus: float  # sigma, px
    coarse: float  # share of the resolution that is kept, 1 = all
    grain: float  # share of the noise tile
    jpeg: int  # quality, 0 = none
    shade: MatLike | None  # (H, W, 3) brightness, 160 = unchanged


@dataclass(frozen=True)
class Scene:
    """Everything in front of and behind the camera."""

    size_wh: tuple[int, int]
    number: int
    target: Mover
    behind: tuple[Mover, ...]
    front: tuple[Mover, ...]
    world: Image  # the background: the frame's size and MARGIN on each side
    mirror: Points  # (2,) 1 or -1: the world may be seen mirrored
    camera: Wave
    optics: Optics

    def box_xywh(self, time: float) -> Boxes:
        """Return the target's exact box (x, y, w, h) at a time, frame px; it may reach out of the frame."""
        return xyxy_to_xywh(self.target.box_xyxy(time))

    def covered(self, time: float) -> float:
        """Return about how much of the target is hidden or outside the frame at a time, 0..1, from boxes alone."""
        x1, y1, x2, y2 = self.target.box_xyxy(time)
        area = (x2 - x1) * (y2 - y1)
        width, height = self.size_wh
        seen = max(min(x2, width - 1) - max(x1, 0), 0) * max(min(y2, height - 1) - max(y1, 0), 0)
        hidden = 1 - seen / area
        for mover in self.front:
            a1, b1, a2, b2 = mover.box_xyxy(time)
            hidden += mover.opacity * max(min(x2, a2) - max(x1, a1), 0) * max(min(y2, b2) - max(y1, b1), 0) / area
        return float(min(hidden, 1))

    def mean_colour(self, time: float) -> tuple[float, float, float]:
        """Return about the mean colour (B, G, R) of the frame at a time: that of the background under the light."""
        mean = np.array(cv2.mean(self.world)[:3]).astype(np.uint8).reshape(1, 1, 3)
        plain = replace(self.optics, shade=None, defocus=0.0, coarse=1.0, grain=0.0, jpeg=0)
        gain, bias = self.camera.at(time)[CAMERA_GAIN:]
        blue, green, red = developed(mean, plain, gain=float(np.exp(gain)), bias=float(bias), key=()).ravel().tolist()
        return blue, green, red

    def frame(self, time: float, *, window: tuple[int, int, int, int] | None = None) -> Image:
        """Return the frame uint8 (H, W, 3), BGR, at a time, or only its part in `window` (left, top, right, bottom)."""
        left, top, right, bottom = window or (0, 0, *self.size_wh)
        x, y, zoom, angle, gain, bias = self.camera.at(time)
        width, height = self.size_wh
        cos, sin = np.cos(angle) * np.exp(zoom), np.sin(angle) * np.exp(zoom)
        turn = np.array([[cos, -sin], [sin, cos]]) * self.mirror
        middle = np.array([width / 2 + MARGIN + x, height / 2 + MARGIN + y])
        origin = middle + turn @ [left - width / 2, top - height / 2]
        frame = cv2.warpAffine(
            self.world, np.hstack([turn, origin[:, None]]), (right - left, bottom - top),  # frame px to world px
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT,
        )
        shutter = self.optics.shutter
        if shutter:
            kernel = streak_kernel((self.camera.at(time + 0.5) - self.camera.at(time - 0.5))[:2] * shutter)
            frame = frame if kernel is None else cv2.filter2D(frame, -1, kernel)
        for mover in (*self.behind, self.target, *self.front):
            mover.draw(frame, time=time, shutter=shutter, corner=(left, top))
        shade = None if self.optics.shade is None else self.optics.shade[top:bottom, left:right]
        key = (self.number, round(time), left, top)
        return developed(frame, replace(self.optics, shade=shade), gain=float(np.exp(gain)), bias=float(bias), key=key)


def developed(frame: MatLike, optics: Optics, *, gain: float, bias: float, key: tuple[int, ...]) -> Image:
    """Return the frame as the camera and its codec hand it out; `key` picks the grain."""
    level = np.arange(256)[:, None] / 255
    table = 255 * gain * optics.cast * level**optics.gamma + bias  # (256, 3)
    frame = cv2.LUT(frame, np.rint(np.clip(table, 0, 255)).astype(np.uint8)[:, None])
    height, width = frame.shape[:2]
    if optics.shade is not None:
        frame = cv2.multiply(frame, optics.shade, scale=1 / 160)
    if optics.gray:
        frame = cv2.merge([cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)] * 3)
    if optics.defocus:
        frame = cv2.GaussianBlur(frame, (0, 0), optics.defocus)
    if optics.coarse < 1:
        small = (max(round(width * optics.coarse), 1), max(round(height * optics.coarse), 1))
        frame = cv2.resize(cv2.resize(frame, small, interpolation=cv2.INTER_AREA), (width, height))
    if optics.grain:
        left, top = np.random.default_rng(key).integers(0, (GRAIN_SIDE - width, GRAIN_SIDE - height))
        tile = _grain()[top : top + height, left : left + width]
        frame = cv2.addWeighted(frame, 1, tile, optics.grain, -128 * optics.grain)
    if optics.jpeg:
        _, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, optics.jpeg])
        frame = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return np.asarray(frame, np.uint8)


@functools.cache
def _grain() -> Image:
    """Return the noise tile (GRAIN_SIDE, GRAIN_SIDE, 3) around 128: sensor grain, a little of it coarser."""
    rng = np.random.default_rng(0)
    fine = rng.normal(0, 40, (GRAIN_SIDE, GRAIN_SIDE, 3)).astype(np.float32)
    coarse = rng.normal(0, 30, (GRAIN_SIDE // 2, GRAIN_SIDE // 2, 3)).astype(np.float32)
    tile = 128 + fine + cv2.resize(coarse, (GRAIN_SIDE, GRAIN_SIDE))
    return np.rint(np.clip(tile, 0, 255)).astype(np.uint8)


def random_scene(
    seed: int, stream: int, number: int, *, size_wh: tuple[int, int], length: int, difficulty: float
) -> Scene:
    """Return scene `number` of a stream (training, testing) of a seed, made to be watched from t = 0 to `length`.

    `size_wh` is the frame's size in px, `length` in frames. Streams of one seed share nothing. `difficulty` 0..1 scales
    how small and fast targets are, how much they turn and change, and how often they are hidden, imitated or blurred.
    """
    rng = np.random.default_rng([seed, stream, SCENE_STREAM, number])
    bank = (seed, stream)
    smallest = EASY_SIDE * (TARGET_SIDE[0] / EASY_SIDE) ** difficulty
    side = float(np.exp(rng.uniform(np.log(smallest), np.log(TARGET_SIDE[1]))))
    target = Mover(random_body(bank, rng), target_path(rng, side=side, size_wh=size_wh, difficulty=difficulty))
    behind, front = _lookalikes(bank, rng, target, side=side, difficulty=difficulty)
    if rng.random() < 0.45 * difficulty:
        front.append(_occluder(bank, rng, target, side=side, length=length))
    slow = difficulty * rng.uniform(0, 1) ** 2  # most cameras are nearly still
    camera = wave(
        rng, rest=np.zeros(6), amplitude=np.array([50 * slow, 40 * slow, 0.12 * slow, 0.1 * slow, 0.15, 10]),
        periods=(25.0, 250.0),
    )
    return Scene(
        size_wh=size_wh, number=number, target=target, behind=tuple(behind), front=tuple(front),
        world=_world(bank, int(rng.integers(WORLDS)), size_wh=size_wh), mirror=rng.choice([-1.0, 1.0], 2),
        camera=camera, optics=_optics(rng, size_wh=size_wh, difficulty=difficulty),
    )


def wave(rng: np.random.Generator, *, rest: Points, amplitude: Points, periods: tuple[float, float]) -> Wave:
    """Return a wave of three sines per channel that never leaves rest ± amplitude; periods in frames."""
    channels = len(rest)
    share = rng.dirichlet(np.ones(3), channels)
    omega = 2 * np.pi / np.exp(rng.uniform(np.log(periods[0]), np.log(periods[1]), (channels, 3)))
    return Wave(rest, np.zeros(channels), amplitude[:, None] * share, omega, rng.uniform(0, 2 * np.pi, (channels, 3)))


def target_path(rng: np.random.Generator, *, side: float, size_wh: tuple[int, int], difficulty: float) -> Wave:
    """Return a path whose centre keeps 0.75 `side` px of room to the frame's borders where it can.

    At difficulty 1 speeds reach a third of the target's side per frame, and one of four targets turns all the way.
    """
    path = wave(
        rng, rest=np.array([0, 0, np.log(side), 0, 0, 0]), periods=(20.0, 160.0),
        amplitude=np.array([1, 1, *(difficulty * rng.uniform(0, 0.35, 3)), 0.2]),
    )
    room = np.maximum(np.array(size_wh) - 1.5 * side, 4.0) / 2
    # Each sine gets a top speed, and so its amplitude; a fast one is short.
    speed = side * (0.4 + 0.6 * difficulty) * rng.uniform(0, 0.3) * rng.dirichlet(np.ones(3), 2)
    amplitude = speed / path.omega[:2]
    amplitude *= np.minimum(1, room / amplitude.sum(axis=1))[:, None]
    free = np.maximum(room - amplitude.sum(axis=1), 0)
    path.rest[:2] = np.array(size_wh) / 2 + free * rng.uniform(-1, 1, 2)
    path.amplitude[:2] = amplitude
    if rng.random() < 0.25 * difficulty:
        path.rate[POSE_ANGLE] = rng.uniform(-0.03, 0.03)
    return path


def _lookalikes(
    bank: Bank, rng: np.random.Generator, target: Mover, *, side: float, difficulty: float
) -> tuple[list[Mover], list[Mover]]:
    """Return the movers near the target, behind and in front of it: its twin, its shape, its colours or neither."""
    behind: list[Mover] = []
    front: list[Mover] = []
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.3, 0.35, 0.2, 0.15]))):
        kind = 1 - difficulty * rng.random()
        other = _prop(bank, int(rng.integers(PROPS)))
        if kind < 0.2:
            body = target.body
        elif kind < 0.6:  # one's shape in the other's textures
            body = target.body.painted_as(other) if kind < 0.4 else other.painted_as(target.body)
        else:
            body = other
        away, distance = rng.uniform(0, 2 * np.pi), side * rng.uniform(1.1, 2.6)
        rest = target.path.at(rng.uniform(0, 60))
        rest[:2] += distance * np.array([np.cos(away), np.sin(away)])
        rest[POSE_SIZE] += rng.uniform(-0.35, 0.35)
        amplitude = np.array([side * rng.uniform(0, 1), side * rng.uniform(0, 1), 0.2, 0.2, 0.3, 0.2])
        mover = Mover(body, wave(rng, rest=rest, amplitude=amplitude, periods=(30.0, 160.0)))
        (front if rng.random() < 0.3 * difficulty else behind).append(mover)
    return behind, front


def _occluder(bank: Bank, rng: np.random.Generator, target: Mover, *, side: float, length: int) -> Mover:
    """Return something that passes in front of the target at a time of its own, never at the start."""
    meeting, heading = rng.uniform(0.2, 1) * length, rng.uniform(0, 2 * np.pi)
    velocity = side * rng.uniform(0.05, 0.3) * np.array([np.cos(heading), np.sin(heading)])
    rest = np.zeros(6)
    rest[:2] = target.path.at(meeting)[:2] - velocity * meeting + side * rng.uniform(-0.3, 0.3, 2)
    rest[POSE_SIZE], rest[POSE_ASPECT] = np.log(side * rng.uniform(0.4, 1)), rng.uniform(-1.5, 1.5)
    path = wave(rng, rest=rest, amplitude=np.array([0, 0, 0, 0, 0.2, 0.1]), periods=(40.0, 160.0))
    path.rate[:2] = velocity
    opacity = 1.0 if rng.random() < 0.67 else float(rng.uniform(0.5, 1))
    return Mover(_prop(bank, int(rng.integers(PROPS))), path, opacity)


@functools.lru_cache(maxsize=2 * PROPS)
def _prop(bank: Bank, index: int) -> Body:
    return random_body(bank, np.random.default_rng([*bank, PROP_STREAM, index]))


@functools.lru_cache(maxsize=2 * WORLDS)
def _world(bank: Bank, index: int, *, size_wh: tuple[int, int]) -> Image:
    """Return background `index` of a bank, MARGIN px wider each way: one or two textures, and things standing about."""
    rng = np.random.default_rng([*bank, WORLD_STREAM, index])
    width, height = size_wh[0] + 2 * MARGIN, size_wh[1] + 2 * MARGIN
    zoom = 2 ** rng.uniform(-1, 1.5)
    world = painted(bank, rng, size_wh=(width, height), zoom=zoom)
    if rng.random() < 0.6:
        other = painted(bank, rng, size_wh=(width, height), zoom=zoom)
        field = cv2.resize(rng.random((4, 5), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        weight = np.clip((field - 0.5) * np.float32(rng.uniform(2, 40)) + 0.5, 0, 1)
        world = np.asarray(cv2.blendLinear(world, other, weight, 1 - weight), np.uint8)
    for _ in range(int(rng.integers(0, 14))):
        x, y, angle = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(-0.5, 0.5)
        cos, sin = np.exp(rng.uniform(np.log(8), np.log(90))) * np.array([np.cos(angle), np.sin(angle)])
        stamp(world, random_body(bank, rng), time=0, pose=np.array([[cos, -sin, x], [sin, cos, y]]))
    world.flags.writeable = False
    return world


def _optics(rng: np.random.Generator, *, size_wh: tuple[int, int], difficulty: float) -> Optics:
    """Return a random camera and codec; at difficulty 1 about one scene in five has each fault."""
    shade: MatLike | None = None
    if rng.random() < 0.25 * difficulty:
        field = cv2.resize(rng.uniform(70, 190, (3, 4)).astype(np.float32), size_wh, interpolation=cv2.INTER_CUBIC)
        shade = cv2.merge([np.clip(field, 0, 255).astype(np.uint8)] * 3)
    return Optics(
        gray=rng.random() < 0.12 * difficulty,
        gamma=float(np.exp(rng.uniform(-0.35, 0.35))),
        cast=rng.uniform(0.85, 1.1, 3),
        shutter=float(rng.uniform(0.3, 1)) if rng.random() < 0.33 * difficulty else 0.0,
        defocus=float(rng.uniform(0.5, 1.4)) if rng.random() < 0.2 * difficulty else 0.0,
        coarse=float(rng.uniform(0.4, 0.9)) if rng.random() < 0.2 * difficulty else 1.0,
        grain=float(rng.uniform(0.02, 0.2)) if rng.random() < 0.5 * difficulty else 0.0,
        jpeg=int(rng.integers(35, 90)) if rng.random() < 0.25 * difficulty else 0,
        shade=shade,
    )
