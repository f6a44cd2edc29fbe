"""Augmentation: what is drawn for a sample, and its rendering in one pass from the decoded crop to the network's input.

Each switch (COLOR, FLIP, ...) is a probability per sample. A flip or rotation of the pixels moves the box too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import cos, pi, sin
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.boxes import Boxes
from lib.config import DatasetConfig
from lib.crops import (
    CLIP_AREA,
    CLIP_SIZE,
    CROP_SIZE,
    TEMPLATE_SIZE,
    Image,
    box_in_crop511,
    compose,
    context_side,
    transform_box,
    view_matrix,
)
from lib.datasets import Crop, CropReader, FramePair

Matrix = NDArray[Any]

HUE = 0.05  # turns, whatever JITTER: light changes in brightness, hardly in hue
MAX_ANGLE = 10.0  # degrees
BLUR_SIGMA = 1.0  # px
CUTOUT_SIDE = 16  # px
PART_SIDES = (0.4, 0.9)  # range of a part's sides, as shares of the object's
CLIP_TRAIN = 3  # frames of a clip that the target is learned from; it is found in the rest

_LUMA = np.array([0.114, 0.587, 0.299])  # ITU-R BT.601 weights of B, G, R: what every gray conversion here uses
# Rows: Y, I, Q (NTSC) from B, G, R. A rotation in the I-Q plane turns the hue and keeps brightness and saturation.
_TO_YIQ = np.array([_LUMA, [-0.3213, -0.2744, 0.5957], [0.3114, -0.5227, 0.2113]])
_GRAY = np.tile(_LUMA, (3, 1))  # (b, g, r) to its gray, three times
_COLOUR = np.eye(3) - _GRAY  # ... to what makes it differ from gray
_TURNED = np.linalg.inv(_TO_YIQ) @ np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ _TO_YIQ  # ... that, a quarter turn on
_DRAWS = 28  # uniform numbers a sample consumes, always all of them: what one switch uses never moves another's


class CropAugmentation(NamedTuple):
    """How one crop is shown: everything that was drawn for it."""

    view_xyxy: Boxes  # the part of the 511 px crop that is shown, crop px
    shift_xy: tuple[float, float]  # how far the view was moved, crop px
    flip: bool = False
    angle: float = 0.0  # degrees, counter-clockwise on the screen
    jitter: tuple[float, float, float, float] | None = None  # factors of brightness, contrast, saturation; hue in turns
    gray: bool = False
    blur: bool = False
    cutout: tuple[float, float] | None = None  # place of the square's corner, each 0..1 of what fits


class PairAugmentation(NamedTuple):
    """How the two crops of a pair are shown."""

    template: CropAugmentation
    search: CropAugmentation


class Rendered(NamedTuple):
    """A network input and the object's box in it."""

    pixels: NDArray[np.uint8]  # (3, out, out), B, G, R
    box_xyxy: Boxes  # float64 (4,), px of `pixels`


def draw_augmentation(settings: DatasetConfig, rng: np.random.Generator, *, search_size: int) -> PairAugmentation:
    """Return what is done to a pair's two crops, drawn from the ranges and probabilities of DATASET.

    Flip and gray are the scene's and change both alike; the other switches, once on, take their own angle, colour or
    place for each of the two.
    """
    u = rng.random(_DRAWS).tolist()
    chances = (settings.COLOR, settings.FLIP, settings.ROTATION, settings.GRAY, settings.BLUR, settings.CUTOUT)
    color, flip, rotation, gray, blur, cutout = (u[i] < chance for i, chance in enumerate(chances))
    views = (
        _view(u[6:10], shift=settings.SHIFT, scale=settings.SCALE, size=TEMPLATE_SIZE),
        _view(u[10:14], shift=settings.SHIFTs, scale=settings.SCALEs, size=search_size),
    )
    template, search = (
        CropAugmentation(
            *view,
            flip=flip,
            angle=_signed(u[14 + k]) * MAX_ANGLE if rotation else 0.0,
            jitter=_jitter(u[16 + 4 * k : 20 + 4 * k], settings.JITTER) if color else None,
            gray=gray,
            blur=blur,
            cutout=(u[24 + 2 * k], u[25 + 2 * k]) if cutout else None,
        )
        for k, view in enumerate(views)
    )
    return PairAugmentation(template, search)


def draw_part(settings: DatasetConfig, pair: FramePair, rng: np.random.Generator) -> FramePair:
    """Return the pair, or in a share PARTS of them the template's picture twice, a part of the object being the target.

    A target may be a face, where data sets label persons: where it ends is to be learned from the template, not from
    what objects are. With a share of 0 nothing is drawn from `rng`.
    """
    if not settings.PARTS or rng.random() >= settings.PARTS:
        return pair
    size = rng.uniform(*PART_SIDES, 2)
    corner = rng.random(2) * (1 - size)
    return FramePair(*[partial(_read_part, pair.template, np.stack([corner, corner + size]))] * 2)


def _read_part(read: CropReader, part: Matrix, view_xyxy: Boxes | None = None, /) -> Crop:
    """Return the crop of a part of an object, its corners (2, 2) in 0..1 of the object's box; all of it is read."""
    crop = read()
    start, end = crop.box_xyxy.reshape(2, 2)
    box = start + part * (end - start)
    size = box[1] - box[0]
    step = context_side(size) / TEMPLATE_SIZE  # px of the object's crop to one of the part's
    to_crop = np.column_stack([step * np.eye(2), box.mean(0) - step * (CROP_SIZE // 2)])
    to_image = to_crop if crop.to_image is None else compose(crop.to_image, to_crop)
    return crop._replace(box_xyxy=box_in_crop511(size), to_image=to_image)


def draw_clip_augmentation(settings: DatasetConfig, rng: np.random.Generator,
                           boxes_xyxy: Sequence[Boxes]) -> list[CropAugmentation]:
    """Return what is done to the six crops of a clip, given the box (crop px) in each: DiMP's views and colours.

    A view shows CLIP_AREA sqrt(w h) of a box whose sides are scaled by exp(N(0, s)) and whose centre is moved by
    U(-k / 2, k / 2) sqrt(w h) of that size: s 0.25 and k 3 for the frames to learn from, 0.5 and 4.5 for the others.
    FLIP and GRAY are the probabilities that all six are mirrored or gray, COLOR that of a frame's own brightness,
    1 + U(-JITTER, JITTER); other switches play no part.
    """
    flip, gray = (rng.random(2) < (settings.FLIP, settings.GRAY)).tolist()
    changes = []
    for frame, box in enumerate(boxes_xyxy):
        spread, reach = (0.25, 3.0) if frame < CLIP_TRAIN else (0.5, 4.5)
        side = float(np.sqrt(np.prod((box[2:] - box[:2]) * np.exp(rng.normal(0, spread, 2)))))
        move = (rng.random(2) - 0.5) * reach * side
        half = CLIP_AREA * side / 2 * (1 - 1 / CLIP_SIZE)  # to the centres of the outermost px
        middle = (box[:2] + box[2:]) / 2 + move
        coloured, brightness = rng.random(2).tolist()
        jitter = (1 + settings.JITTER * _signed(brightness), 1.0, 1.0, 0.0) if coloured < settings.COLOR else None
        changes.append(CropAugmentation(np.concatenate([middle - half, middle + half]), (move[0], move[1]), flip=flip,
                                        jitter=jitter, gray=gray))
    return changes


def _signed(u: float) -> float:
    return 2.0 * u - 1.0


def _jitter(u: list[float], most: float) -> tuple[float, float, float, float]:
    brightness, contrast, saturation = (1 + most * _signed(v) for v in u[:3])
    return brightness, contrast, saturation, HUE * _signed(u[3])


def _view(u: list[float], *, shift: float, scale: float, size: int) -> tuple[Boxes, tuple[float, float]]:
    """Return a view of about `size` px around the crop's centre and how far it was moved.

    Each side is scaled by 1 + U(-scale, scale), the view moved by U(-shift, shift) px; clipped to the crop first by
    its size and then by its place, so that it keeps its scale (OCEAN section 4). The move is rounded, by half a px at
    most, to where the view begins at a whole px for cv2.resize (see `_resized`).
    """
    last, centre = CROP_SIZE - 1, CROP_SIZE // 2
    ends, moves = [], []
    for k in (0, 1):
        half = min(size * (1 + _signed(u[k]) * scale), last) / 2
        room = centre - half
        most = min(shift, room)
        move = min(max(_signed(u[2 + k]) * shift, -most), most)
        if most >= 1:
            first = room + move + 0.5 - half / (size - 1)
            move += round(first) - first
            move -= 1 if move > most else -1 if move < -most else 0
        ends.append((room + move, centre + half + move))
        moves.append(move)
    (x1, x2), (y1, y2) = ends
    return np.array([x1, y1, x2, y2]), (moves[0], moves[1])


def render(read: CropReader | Crop, change: CropAugmentation, *, out_size: int) -> Rendered:
    """Return the network input (3, out_size, out_size) of a crop, augmented, and the object's box in it.

    Of a crop that is not read yet only the part that is shown is. One warp takes the view, the flip and the rotation;
    one 3 x 4 colour matrix takes brightness, contrast, saturation, hue and gray: a table per channel cannot turn hues,
    and is slower (0.18 ms against 0.03 ms for a 255 px crop).
    """
    matrix = augmentation_matrix(change, out_size=out_size)
    crop = read if isinstance(read, Crop) else read(shown_part(matrix, out_size=out_size))
    box = transform_box(crop.box_xyxy, matrix)
    if crop.to_image is not None:
        matrix = compose(matrix, cv2.invertAffineTransform(crop.to_image))
    picture = warp(crop, matrix, out_size=out_size)
    if change.jitter is not None or change.gray:
        matrix = colour_matrix(change, mean_bgr=cv2.mean(picture)[:3])
        picture = np.asarray(cv2.transform(picture, matrix), np.uint8)
    if change.blur:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), BLUR_SIGMA), np.uint8)
    pixels = np.empty((3, out_size, out_size), np.uint8)
    cv2.split(picture, [pixels[0], pixels[1], pixels[2]])  # writes in place: 8 times as fast as numpy's transposed copy
    if change.cutout is not None:
        x, y = (round(place * (out_size - CUTOUT_SIDE)) for place in change.cutout)
        pixels[:, y : y + CUTOUT_SIDE, x : x + CUTOUT_SIDE] = np.array(cv2.mean(picture)[:3])[:, None, None]
    return Rendered(pixels, box)


def warp(crop: Crop, matrix: Matrix, *, out_size: int) -> Image:
    """Return the picture (out_size, out_size, 3) that `matrix` makes of a crop's image: its px to px of the output."""
    if matrix[0, 1] == matrix[1, 0] == 0:
        picture = _resized(crop.image, matrix, out_size=out_size)
        if picture is not None:
            return picture
    border: dict[str, Any] = {"borderMode": cv2.BORDER_REPLICATE}
    if crop.fill is not None:
        border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": crop.fill}
    return np.asarray(cv2.warpAffine(crop.image, matrix, (out_size, out_size), **border), np.uint8)


def _resized(image: Image, matrix: Matrix, *, out_size: int) -> Image | None:
    """Return what warpAffine would make of the image, None if cv2.resize, which takes a third of its time, cannot.

    It can if there is no rotation and the source begins at a whole px, as `_view` sees to. cv2.resize maps output px i
    to (i + 1/2) step - 1/2 of the part that it is given; that part may be good for a px more than is wanted.
    """
    mirrored = matrix[0, 0] < 0
    if mirrored:
        matrix = compose(_mirror(out_size), matrix)
    part = []
    for k in (0, 1):
        step = 1 / float(matrix[k, k])
        first = 0.5 - 0.5 * step - float(matrix[k, 2]) * step
        low, length = round(first), int((out_size - 0.5) * step - 0.5) + 2  # the last px and its neighbour
        if abs(low - first) > 1e-6 or low < 0 or low + length > image.shape[1 - k]:
            return None
        part.append(slice(low, low + length))
    source = image[part[1], part[0]]
    picture = cv2.resize(source, None, fx=float(matrix[0, 0]), fy=float(matrix[1, 1]))
    if picture.shape == source.shape:
        return None  # cv2.resize copies then, whatever the step
    picture = picture[:out_size, :out_size]
    return np.asarray(cv2.flip(picture, 1) if mirrored else picture, np.uint8)


def augmentation_matrix(change: CropAugmentation, *, out_size: int) -> Matrix:
    """Return the affine matrix (2, 3) from crop px to network input px: the view, then the flip, then the rotation."""
    matrix = view_matrix(change.view_xyxy, out_size=out_size)
    if change.flip:
        matrix = compose(_mirror(out_size), matrix)
    if change.angle:
        middle = (out_size - 1) / 2
        matrix = compose(cv2.getRotationMatrix2D((middle, middle), change.angle, 1.0), matrix)
    return matrix


def shown_part(matrix: Matrix, *, out_size: int) -> Boxes:
    """Return the hull (x1, y1, x2, y2), crop px, of what `augmentation_matrix` shows."""
    last = out_size - 1
    return transform_box((0, 0, last, last), cv2.invertAffineTransform(matrix))


def _mirror(out_size: int) -> Matrix:
    """Return the affine matrix (2, 3) that mirrors left and right."""
    return np.array([[-1.0, 0.0, out_size - 1], [0.0, 1.0, 0.0]])


def colour_matrix(change: CropAugmentation, *, mean_bgr: tuple[float, ...]) -> Matrix:
    """Return the matrix (3, 4) (b, g, r, 1) -> colours of an augmentation, for a picture of the given mean colour.

    The steps are torchvision's ColorJitter's: brightness scales, contrast moves away from the picture's mean gray,
    saturation from each pixel's own gray, hue turns by a share of the colour circle; then gray, if asked for.
    """
    matrix = np.eye(3, 4)
    if change.jitter is not None:
        brightness, contrast, saturation, hue = change.jitter
        turn = 2 * pi * hue
        # gray + saturation * colour, the colour turned: gray is left alone by saturation and hue
        colour = (saturation * cos(turn)) * _COLOUR + (saturation * sin(turn)) * _TURNED
        matrix[:, :3] = (brightness * contrast) * (_GRAY + colour)
        blue, green, red = mean_bgr
        matrix[:, 3] = (1 - contrast) * brightness * (_LUMA[0] * blue + _LUMA[1] * green + _LUMA[2] * red)
    return _GRAY @ matrix if change.gray else matrix
