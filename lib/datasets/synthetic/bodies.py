"""Bodies for the synthetic source: textured, articulated, deforming outlines, and how one is stamped on a frame.

A body lives in its own coordinates, in which its hull at time 0 is centred on 0 and has area 1. Its outline at time t
is known exactly, so the box of what is drawn is too. Points and boxes are float64, px with pixel centres at integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from lib.crops import Image, compose
from lib.datasets.synthetic.textures import Bank, painted

Points = NDArray[np.float64]

CORNERS = 36  # vertices of an outline
PATCH = 64  # px of a part's texture, which spans -1.3 .. 1.3 of the part's half sizes
SPAN = 1.3
PATCH_TO_PART = np.array([[2 * SPAN / PATCH, 0, -SPAN], [0, 2 * SPAN / PATCH, -SPAN]])
FRACTION_BITS = 4  # cv2's fixed-point vertices: 1/16 px
MAX_STREAK = 17  # px, the longest motion blur drawn
THETA = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
CIRCLE = np.stack([np.cos(THETA), np.sin(THETA)], axis=1)  # (CORNERS, 2)
WOBBLE_ORDERS = np.arange(2, 5)[:, None]  # bulges around an outline; order 1 would only move it


@dataclass(frozen=True)
class Body:
    """P parts, drawn in order: superellipses with wandering bulges, each turning about its upper end.

    `scale` and `shift` make the hull at time 0 centred and of area 1.
    """

    centre: Points  # (P, 2)
    half: Points  # (P, 2) half widths and heights
    radius: Points  # (P, CORNERS) of the superellipse
    wobble: Points  # (P, 3) amplitude of each bulge order, share of the radius
    drift: Points  # (P, 3, 2) phase and rad per frame of each bulge order
    swing: Points  # (P, 3) amplitude rad, rad per frame, phase of the turning
    patches: tuple[Image, ...]  # P textures
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)

    def matrices(self, time: float, pose: Points) -> Points:
        """Return per part the affine matrix (P, 2, 3) from its coordinates to frame px; `pose` (2, 3): the body's."""
        angle = self.swing[:, 0] * np.sin(self.swing[:, 1] * time + self.swing[:, 2])
        cos, sin = np.cos(angle), np.sin(angle)
        out = np.empty((len(angle), 2, 3))
        out[:, 0, 0], out[:, 0, 1] = cos * self.half[:, 0], -sin * self.half[:, 1]
        out[:, 1, 0], out[:, 1, 1] = sin * self.half[:, 0], cos * self.half[:, 1]
        # Limbs swing about their upper end: the pivot (0, -half height) stays where it is.
        out[:, 0, 2] = self.centre[:, 0] + out[:, 0, 1]
        out[:, 1, 2] = self.centre[:, 1] - self.half[:, 1] + out[:, 1, 1]
        whole = compose(pose, np.array([[self.scale, 0, self.shift[0]], [0, self.scale, self.shift[1]]]))
        return compose(whole, out)

    def outlines(self, time: float, pose: Points) -> Points:
        """Return per part the vertices (P, CORNERS, 2) in frame px."""
        angle = WOBBLE_ORDERS * THETA + (self.drift[..., :1] + self.drift[..., 1:] * time)  # (P, 3, CORNERS)
        bulge = 1 + (self.wobble[..., None] * np.cos(angle)).sum(axis=1)
        return apply(self.matrices(time, pose), CIRCLE * (self.radius * bulge)[..., None])

    def normalised(self) -> Body:
        """Return the body with its hull at time 0 centred on 0 and of area 1."""
        low, high = np.split(hull_xyxy(replace(self, scale=1.0, shift=(0.0, 0.0)).outlines(0, np.eye(2, 3))), 2)
        scale = float(1 / np.sqrt(np.prod(high - low)))
        x, y = -scale * (low + high) / 2
        return replace(self, scale=scale, shift=(float(x), float(y)))

    def painted_as(self, other: Body) -> Body:
        return replace(self, patches=tuple(other.patches[i % len(other.patches)] for i in range(len(self.patches))))


def apply(matrix: Points, points: Points) -> Points:
    """Return points (..., n, 2) mapped by affine matrices (..., 2, 3)."""
    return np.asarray(points @ matrix[..., :2].swapaxes(-1, -2) + matrix[..., None, :, 2])


def hull_xyxy(outlines: Points) -> Points:
    """Return the axis-aligned box (x1, y1, x2, y2) around outlines (..., 2)."""
    points = outlines.reshape(-1, 2)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def random_body(bank: Bank, rng: np.random.Generator, *, kinds: int | None = None) -> Body:
    """Return a body of a random shape, one of the first `kinds` of SHAPES, its textures from `bank`."""
    shapes = SHAPES[:kinds]
    layout = np.array(shapes[int(rng.integers(len(shapes)))](rng), np.float64)  # (P, 6)
    count = len(layout)
    softness, pace = rng.uniform(0, 0.12) * (rng.random() < 0.7), rng.uniform(0.02, 0.2)
    exponent = layout[:, 4:5]
    return Body(
        centre=layout[:, :2], half=layout[:, 2:4],
        radius=(np.abs(CIRCLE) ** exponent[..., None]).sum(axis=2) ** (-1 / exponent),
        wobble=softness * rng.uniform(-1, 1, (count, 3)),
        drift=np.stack([rng.uniform(0, 2 * np.pi, (count, 3)), pace * rng.uniform(-1, 1, (count, 3))], axis=2),
        swing=np.stack([layout[:, 5], np.full(count, pace * 2), rng.uniform(0, 2 * np.pi, count)], axis=1),
        patches=tuple(painted(bank, rng, size_wh=(PATCH, PATCH), zoom=0.45) for _ in range(count)),
    ).normalised()


# A layout lists parts as (centre x, centre y, half width, half height, exponent, swing), y downwards.
Layout = list[tuple[float, float, float, float, float, float]]


def _plate(rng: np.random.Generator) -> Layout:
    """Return one piece, with up to two marks on it: boards, bottles, balls, signs."""
    wide, tall = np.exp(rng.uniform(-0.55, 0.55, 2))
    marks = [(*rng.uniform(-0.4, 0.4, 2) * (wide, tall), *rng.uniform(0.1, 0.5, 2) * (wide, tall), rng.uniform(1, 8), 0)
             for _ in range(int(rng.integers(3)))]
    return [(0, 0, wide, tall, rng.choice([1.3, 2, 2.5, 4, 8]), 0), *marks]


def _cluster(rng: np.random.Generator) -> Layout:
    return [(*rng.uniform(-0.5, 0.5, 2), *rng.uniform(0.25, 0.6, 2), rng.uniform(1.2, 6), rng.uniform(0, 0.4))
            for _ in range(int(rng.integers(2, 5)))]


def _creature(rng: np.random.Generator) -> Layout:
    """Return trunk, head, arms and legs that swing: walkers."""
    trunk, stride = rng.uniform(0.18, 0.34), rng.uniform(0.1, 0.6)
    limb = rng.uniform(0.06, 0.12)
    legs: Layout = [(side * trunk * 0.5, 0.75, limb, 0.42, 3, side * stride) for side in (-1, 1)]
    arms: Layout = [(side * trunk, 0.0, limb * 0.8, 0.36, 3, side * stride) for side in (-1, 1)]
    return [*legs, (0, 0, trunk, 0.48, rng.uniform(2, 4), 0.05), *arms, (0, -0.62, 0.15, 0.18, 2, 0.1)]


def _vehicle(rng: np.random.Generator) -> Layout:
    """Return a car-like thing seen from the side or from behind."""
    wide, tall, cabin = rng.uniform(0.45, 0.9), rng.uniform(0.2, 0.4), rng.uniform(0.15, 0.3)
    wheels: Layout = [(side * wide * 0.6, tall * 0.9, 0.16, 0.16, 2, 0) for side in (-1, 1)]
    shell = (rng.uniform(-0.2, 0.2), -tall - cabin * 0.6, wide * 0.65, cabin, rng.uniform(2, 6), 0)
    return [*wheels, (0, 0, wide, tall, rng.uniform(3, 8), 0), shell, (0, tall * 0.1, wide * 0.7, tall * 0.2, 6, 0)]


def _face(rng: np.random.Generator) -> Layout:
    wide, gaze = rng.uniform(0.4, 0.55), rng.uniform(-0.12, 0.12)
    eyes: Layout = [(gaze + side * wide * 0.4, -0.1, 0.09, 0.05, 2, 0) for side in (-1, 1)]
    return [(0, 0, wide, 0.6, 2.2, 0), (0, -0.42, wide * 0.95, rng.uniform(0.15, 0.35), 2.5, 0.05), *eyes,
            (gaze, 0.32, 0.2, 0.06, 2, 0)]


SHAPES: tuple[Callable[[np.random.Generator], Layout], ...] = (_plate, _cluster, _creature, _vehicle, _face)


def stamp(
    frame: MatLike, body: Body, *, time: float, pose: Points, gain: float = 1.0, opacity: float = 1.0,
    streak: Points | None = None,
) -> None:
    """Draw a body into `frame` (H, W, 3) in place, under `pose` (2, 3) from body to frame px.

    `gain` lights it, `opacity` 0..1 lets the ground show through, `streak` (2,) px smears it along that vector.
    """
    kernel = None if streak is None else streak_kernel(streak)
    pad = 2 if kernel is None else 2 + kernel.shape[0] // 2
    outlines = body.outlines(time, pose)
    low, high = np.floor(outlines.min(axis=1)).astype(int) - pad, np.ceil(outlines.max(axis=1)).astype(int) + pad + 1
    low, high = np.maximum(low, 0), np.minimum(high, frame.shape[1::-1])
    skins = compose(body.matrices(time, pose), PATCH_TO_PART)
    skins[..., 2] -= low
    vertices = np.rint((outlines - low[:, None]) * (1 << FRACTION_BITS)).astype(np.int32)
    for patch, skin_matrix, corners, (x1, y1), (x2, y2) in zip(body.patches, skins, vertices, low, high, strict=True):
        if x2 <= x1 or y2 <= y1:
            continue  # wholly outside the picture
        mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
        cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, FRACTION_BITS)
        skin = cv2.warpAffine(patch, skin_matrix, mask.shape[::-1], borderMode=cv2.BORDER_REFLECT)
        if kernel is not None:
            mask, skin = cv2.filter2D(mask, -1, kernel), cv2.filter2D(skin, -1, kernel)
        if gain != 1:
            skin = cv2.convertScaleAbs(skin, alpha=gain)
        weight = mask.astype(np.float32) * np.float32(opacity / 255)
        ground = frame[y1:y2, x1:x2]
        ground[:] = cv2.blendLinear(skin, ground, weight, 1 - weight)


def streak_kernel(vector: Points) -> NDArray[np.float32] | None:
    """Return a motion-blur kernel (n, n), sum 1, for a movement of `vector` (2,) px; None when too short to see."""
    length = float(np.hypot(*vector))
    if length < 1.5:
        return None
    half = np.asarray(vector) * (min(length, MAX_STREAK) / length / 2)
    radius = int(np.ceil(np.abs(half).max()))
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.uint8)
    ends = [tuple(int(v) for v in np.rint((radius + sign * half) * 16)) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 255, 1, cv2.LINE_AA, 4)
    return (kernel / np.float32(kernel.sum())).astype(np.float32)
