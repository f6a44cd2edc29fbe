"""Textures for the synthetic source: a bank of grey patterns, coloured and warped afresh at each use.

Patterns are the costly part, so each is drawn once per process; a random window of one under random colours costs a
tenth of a millisecond and never looks the same twice. Everything is a function of the generator or seed handed in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.crops import Image

Gray = NDArray[np.uint8]
Field = NDArray[np.float32]
Bank = tuple[int, int]  # a seed and a stream (training, testing); nothing of one bank is ever seen in another's scenes

BANK_SIZE = 72  # patterns per bank; eight of each kind
SIDE = 256  # px of a pattern
PATTERNS = 1  # keeps the patterns' random numbers apart from those of the scenes of the same bank
# A photograph's spectrum falls about as 1 / f: each octave of twice the frequency has about half the amplitude.
NATURAL_FALLOFF = (0.35, 0.8)


def painted(bank: Bank, rng: np.random.Generator, *, size_wh: tuple[int, int], zoom: float = 1.0) -> Image:
    """Return a coloured texture uint8 (h, w, 3): a random window of a random pattern of `bank` under random colours.

    `zoom` is the window's scale in px per pattern px; it is varied by a factor of up to two.
    """
    gray = pattern(bank, int(rng.integers(BANK_SIZE)))
    scale, angle = zoom * 2.0 ** rng.uniform(-1, 1), rng.uniform(-np.pi, np.pi)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    # From texture px to pattern px; windows reach past the pattern, which goes on mirrored.
    matrix = np.array([[cos, -sin, rng.uniform(0, SIDE)], [sin, cos, rng.uniform(0, SIDE)]])
    window = cv2.warpAffine(
        gray, matrix, size_wh, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )
    return np.asarray(cv2.applyColorMap(window, colour_ramp(rng)), np.uint8)


def colour_ramp(rng: np.random.Generator) -> Image:
    """Return a colour table uint8 (256, 1, 3), BGR: straight lines through two to five random colours."""
    stops = int(rng.integers(2, 6))
    # Real scenes are mostly dull: saturation leans to the low end. Hues of one thing lie together as often as not.
    hue = rng.uniform(0, 6) + rng.uniform(0.05, 3) * rng.uniform(-0.5, 0.5, stops)
    saturation, value = rng.beta(1.2, 2.5, stops), rng.uniform(0.08, 1, stops)
    distance = (hue[:, None] - np.array([4.0, 2.0, 0.0])) % 6  # to pure blue, green and red
    pure = np.clip(np.abs(distance - 3) - 1, 0, 1)
    colours = 255 * value[:, None] * (1 - saturation[:, None] * (1 - pure))
    at = np.linspace(0, 255, stops)
    ramp = np.stack([np.interp(np.arange(256), at, channel) for channel in colours.T], axis=1)
    return np.rint(ramp).astype(np.uint8)[:, None]


@functools.lru_cache(maxsize=4 * BANK_SIZE)
def pattern(bank: Bank, index: int) -> Gray:
    """Return pattern `index` (0 .. BANK_SIZE - 1) of a bank, uint8 (256, 256), using the whole range 0..255."""
    rng = np.random.default_rng([*bank, PATTERNS, index])
    field = KINDS[index % len(KINDS)](rng)
    field = field + rng.uniform(0, 0.12) * noise(rng)  # nothing real is perfectly flat
    low, high = float(field.min()), float(field.max())
    out = np.rint((field - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
    out.flags.writeable = False
    return out


def noise(rng: np.random.Generator, *, first: int = 2) -> Field:
    """Return noise of several octaves, float32 (256, 256), 0..1, each octave resized from its own random grid."""
    falloff, out, amplitude, total = rng.uniform(*NATURAL_FALLOFF), np.zeros((SIDE, SIDE), np.float32), 1.0, 0.0
    cells = first
    while cells <= SIDE // 2:
        grid = rng.random((cells, cells), np.float32)
        out += np.float32(amplitude) * cv2.resize(grid, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        total, amplitude, cells = total + amplitude, amplitude * falloff, cells * 2
    return np.clip(out / np.float32(total), 0, 1)


def _coordinates(rng: np.random.Generator) -> tuple[Field, Field]:
    """Return x and y (256, 256) in 0..1, turned by a random angle and bent by noise, so that no line stays straight."""
    y, x = (v.astype(np.float32) for v in np.mgrid[0:SIDE, 0:SIDE] / SIDE)
    angle, bend = np.float32(rng.uniform(0, 2 * np.pi)), np.float32(rng.uniform(0, 0.25))
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * x - sin * y + bend * noise(rng), sin * x + cos * y + bend * noise(rng)


def _stripes(rng: np.random.Generator) -> Field:
    x, _ = _coordinates(rng)
    wave = np.sin(np.float32(2 * np.pi * rng.uniform(3, 16)) * x)
    return np.clip(wave * np.float32(rng.uniform(0.7, 8)), -1, 1)


def _checker(rng: np.random.Generator) -> Field:
    x, y = _coordinates(rng)
    columns, rows = rng.uniform(3, 12, 2)
    dark = (np.floor(x * np.float32(columns)) + np.floor(y * np.float32(rows))) % 2
    out = dark * np.float32(rng.uniform(0.3, 1)) + np.float32(rng.uniform(0, 0.5)) * noise(rng)
    return np.asarray(out, np.float32)


def _blobs(rng: np.random.Generator) -> Field:
    field = noise(rng, first=int(rng.choice([4, 8, 16])))
    return np.clip((field - np.float32(np.median(field))) * np.float32(rng.uniform(4, 30)), -1, 1)


def _cells(rng: np.random.Generator) -> Field:
    """Return Voronoi cells, each of its own grey, with or without darker borders."""
    seeds = np.full((SIDE, SIDE), 255, np.uint8)
    count = int(rng.integers(12, 120))
    seeds[tuple(rng.integers(0, SIDE, (2, count)))] = 0
    distance, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    grays = rng.random(count + 1, np.float32)
    return grays[label] - np.float32(rng.uniform(0, 1.5)) * distance / np.float32(distance.max())


def _pieces(rng: np.random.Generator) -> Field:
    """Return random polygons and ellipses over one another."""
    out = np.full((SIDE, SIDE), rng.integers(256), np.uint8)
    for _ in range(int(rng.integers(10, 50))):
        gray, centre, radius = int(rng.integers(256)), rng.integers(0, SIDE, 2), rng.uniform(8, 60)
        if rng.random() < 0.5:
            corners = centre + rng.uniform(-radius, radius, (int(rng.integers(3, 7)), 2))
            cv2.fillPoly(out, [np.rint(corners).astype(np.int32)], gray, cv2.LINE_AA)
        else:
            axes = tuple(int(v) for v in rng.uniform(0.2, 1, 2) * radius + 1)
            cv2.ellipse(out, [int(v) for v in centre], axes, rng.uniform(0, 180), 0, 360, gray, -1, cv2.LINE_AA)
    return out.astype(np.float32) / np.float32(255)


def _shades(rng: np.random.Generator) -> Field:
    """Return a smooth surface: one linear or round gradient."""
    x, y = _coordinates(rng)
    centre = rng.uniform(-0.3, 0.7, 2).astype(np.float32)
    return x if rng.random() < 0.5 else np.hypot(x - centre[0], y - centre[1])


def _bricks(rng: np.random.Generator) -> Field:
    """Return rows of rectangles with joints between them: walls, windows, keyboards."""
    x, y = _coordinates(rng)
    columns, rows = rng.uniform(3, 10), rng.uniform(4, 14)
    row = np.floor(y * np.float32(rows))
    along = x * np.float32(columns) + np.float32(rng.choice([0.0, 0.5])) * (row % 2)
    column = np.floor(along)
    joint = np.maximum(np.abs(along - column - 0.5), np.abs(y * np.float32(rows) - row - 0.5)) > rng.uniform(0.36, 0.47)
    grays = rng.random((16, 16), np.float32)[row.astype(int) % 16, column.astype(int) % 16]
    out = np.where(joint, np.float32(rng.uniform(-0.5, 1.5)), grays * np.float32(rng.uniform(0.2, 1)))
    return np.asarray(out, np.float32)


def _marks(rng: np.random.Generator) -> Field:
    """Return letters and lines on an even ground: print, signs, scratches."""
    out = np.full((SIDE, SIDE), rng.integers(60, 200), np.uint8)
    for _ in range(int(rng.integers(8, 30))):
        gray, width = int(rng.integers(256)), int(rng.integers(1, 5))
        start, end = ([int(v) for v in rng.integers(0, SIDE, 2)] for _ in range(2))
        if rng.random() < 0.5:
            text = "".join(chr(v) for v in rng.integers(48, 91, int(rng.integers(1, 6))))
            cv2.putText(out, text, start, cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.5, 2.5), gray, width, cv2.LINE_AA)
        else:
            cv2.line(out, start, end, gray, width, cv2.LINE_AA)
    return out.astype(np.float32) / np.float32(255)


KINDS: tuple[Callable[[np.random.Generator], Field], ...] = (
    noise, _stripes, _checker, _blobs, _cells, _pieces, _shades, _bricks, _marks,
)
