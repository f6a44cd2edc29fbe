"""Tracking with the online branch: a filter per target, solved on the first frame and taught on the way (DiMP-50).

Beside Ocean's own step, which stays as it is, each frame is scored by the target's filter on a crop of its own; that
map is blended into what the best cell is chosen by, and nothing else of the branch moves the result. Then the frame
becomes a sample and, every few frames, the filter is solved again on all samples.

What is known of a target lies in its state as with Ocean. A sample is never altered and states share them: a full
memory of the full network is 250 samples, 86 MB a target, and twice that for a moment while it is solved on.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lib.crops import Image, grid_points, score_side
from lib.errors import UserError
from lib.models.online import STRIDE, OnlineClassifier, apply_filter, to_cells
from lib.tracker.ocean import OceanTracker, SearchCrop, TrackerState, as_bgr, first_box
from lib.tracker.params import OnlineParams
from lib.tracker.scoring import Floats, NonFiniteOutput

CROP, AREA = 224, 4.0  # px of the crop; its side over the target's, sqrt(w h)
CELLS = 13  # of the features of a crop; scores have one more
SHIFT = 67  # px of the four shifted views of the first frame
BLURS = ((2, 0.2), (0.2, 2), (3, 1), (1, 3), (2, 2))  # sigma y, x
ANGLES = (5, -5, 10, -10, 20, -20, 30, -30, 45, -45, -60, 60)  # degrees
DROPPED, DROP_RATE = 7, 0.2  # samples with whole channels left out, and how many of these
Pixels = NDArray[np.float32]


class Crop(NamedTuple):
    """A square of the image, resized: what crop px are in image px."""

    pixels: Pixels  # (out, out, 3) BGR 0..255
    corners: tuple[int, int, int, int]  # top, left, bottom, right in image px, ends excluded

    @property
    def middle_xy(self) -> Floats:
        top, left, bottom, right = self.corners
        return np.array([(left + right - 1) / 2, (top + bottom - 1) / 2])


def cut(image: Image, centre_xy: ArrayLike, *, side: float, out_size: int) -> Crop:
    """Return the square of `side` image px around a centre, bilinearly resized; the border's px are repeated.

    The centre is truncated to whole px; from a square twice as large as the crop or more, every f-th px is taken first.
    """
    step = max(int(side / out_size - 0.1), 1)
    count = max(round(side / step), 2)
    spans, picked = [], []
    for axis, size in ((1, image.shape[0]), (0, image.shape[1])):
        position, offset = divmod(int(np.asarray(centre_xy)[axis]), step)
        first = position - (count - 1) // 2
        index = np.clip(np.arange(first, first + count), 0, len(range(offset, size, step)) - 1)
        picked.append(index * step + offset)
        spans.append((first * step, (first + count) * step))
    pixels = image[picked[0]][:, picked[1]].astype(np.float32)
    if count != out_size:
        whole = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        pixels = F.interpolate(whole, (out_size, out_size), mode="bilinear")[0].permute(1, 2, 0).numpy()
    (top, bottom), (left, right) = spans
    return Crop(pixels, (top, left, bottom, right))


def views(big: Pixels, shares: Floats) -> tuple[Pixels, Floats]:
    """Return 23 views (23, 224, 224, 3) of the first frame's crop of twice that side, and how far (x, y) each moves it.

    The crop itself, shifted, flipped, blurred, rotated. shares (18, 2): y, x in 0..1 of the shift of the latter three.
    """
    middle = (len(big) - 1) / 2
    changed: list[NDArray[Any]] = [big[:, ::-1]]
    changed += [cv2.GaussianBlur(big, (2 * int(np.ceil(2 * x)) + 1, 2 * int(np.ceil(2 * y)) + 1), sigmaX=x, sigmaY=y)
                for y, x in BLURS]
    for angle in np.radians(ANGLES):
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        matrix = np.column_stack([turn, middle - turn @ [middle, middle]])
        changed.append(cv2.warpAffine(big, matrix, big.shape[1::-1], borderMode=cv2.BORDER_REPLICATE))
    fixed = [(0, 0), (SHIFT, SHIFT), (-SHIFT, SHIFT), (SHIFT, -SHIFT), (-SHIFT, -SHIFT)]
    shifts = np.array([*fixed, *np.trunc((shares - 0.5) * CROP / 3)], np.int64)  # y, x
    start = CROP // 2 - shifts
    cutouts = [view[y:y + CROP, x:x + CROP] for view, (y, x) in zip([big] * 5 + changed, start, strict=True)]
    return np.stack(cutouts), shifts[:, ::-1].astype(np.float64)


def box_in_crop(centre_xy: Floats, size_wh: Floats, *, middle_xy: Floats, scale: float) -> Floats:
    """Return a target's box (4,), x, y, w, h in px of a crop with that middle and image px per crop px."""
    wh = size_wh / scale
    return np.concatenate([(centre_xy - middle_xy) / scale + (CROP - 1) / 2 - (wh - 1) / 2, wh])


def judge(scores: NDArray[np.float32], size_wh: Floats, *, scale: float, params: OnlineParams) -> str:
    """Return what a score map (14, 14) says: "not_found", "hard_negative" (a second peak far from the first), "normal".

    size_wh: the target's in image px, before this frame; scale: image px per crop px.
    """
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    peak = scores[row, column]
    if peak < params.target_not_found_threshold:
        return "not_found"
    others = scores.copy()
    half_wh = params.target_neighborhood_scale * size_wh / scale * CELLS / CROP / 2
    (top, bottom), (left, right) = (
        (max(round(at - half), 0), min(round(at + half + 1), len(scores)))
        for at, half in ((int(row), float(half_wh[1])), (int(column), float(half_wh[0]))))
    others[top:bottom, left:right] = 0
    second = others.max()
    return "hard_negative" if second > params.hard_negative_threshold * peak and second > 0 else "normal"


def reweighted(weights: Floats, previous: int | None, *, rate: float, size: int) -> tuple[Floats, int]:
    """Return the samples' weights after one more came in, and its slot: the next one, or the least of a full memory."""
    slot = len(weights) if len(weights) < size else int(weights.argmin())
    new = np.append(weights, 0.0) if slot == len(weights) else weights.copy()
    if previous is None:
        new /= 1 - rate
        new[slot] = rate
    else:
        new[slot] = new[previous] / (1 - rate)
    return new / new.sum(), slot


@dataclass(frozen=True, eq=False)
class Memory:
    """What the online branch knows of a target."""

    number: int  # of the last frame, the first is 1
    centre_xy: Floats  # where it was last found, image px
    size_wh: Floats
    scale: float  # image px per crop px, of all frames
    filters: Tensor  # (1, C, 4, 4)
    samples: tuple[Tensor, ...]  # of each its features (169, C)
    boxes: NDArray[np.float32]  # (n, 4) x, y, w, h in crop px
    weights: Floats  # (n,), their sum is 1
    slot: int | None = None  # of the newest sample, None while only the first frame's are there
    iterations: int = 0  # done on the last frame


class Look(NamedTuple):
    """What the filter saw in one frame."""

    scores: NDArray[np.float32]  # (14, 14)
    cells: Tensor  # (169, C)
    middle_xy: Floats  # of the crop, image px
    scale: float  # image px per crop px
    flag: str  # see `judge`


@dataclass(frozen=True, eq=False, kw_only=True)
class OnlineState(TrackerState):
    """A target's state with what the online branch knows of it."""

    memory: Memory
    look: Look | None = None  # of the last frame, None on the first


class OnlineTracker(OceanTracker):
    """`OceanTracker` with the online branch, for a model that has one. Random draws depend on the first frame alone."""

    online = True
    params: OnlineParams

    @property
    def classifier(self) -> OnlineClassifier:
        """Return the model's target classifier."""
        assert self.model.classifier is not None, "a model without the online branch"
        return self.model.classifier

    def init(self, image: NDArray[Any], box_xywh: ArrayLike) -> OnlineState:
        """Return the state of a target given by its box (4,), as of `OceanTracker`, at least partly in the image."""
        image, box = as_bgr(image), first_box(box_xywh)
        height, width = image.shape[:2]
        if box[0] >= width or box[1] >= height or (box[:2] + box[2:] <= 0).any():
            raise UserError(f"first box {box.tolist()}: lies outside of the first frame, which is {width} x {height} "
                            f"px; the online branch has nothing to learn there")
        state = super().init(image, box)
        known = {key.name: getattr(state, key.name) for key in fields(TrackerState)}
        return OnlineState(**known, memory=self.learn_first(image, state, *self.draws(image, box)))

    def draws(self, image: Image, box_xywh: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the shares (18, 2) of `views` and which channels stay (7, C), drawn from the first frame's bytes."""
        rng = np.random.default_rng(zlib.crc32(box_xywh.tobytes(), zlib.crc32(image.tobytes())))
        channels = self.classifier.filter_initializer.filter_conv.out_channels
        return rng.uniform(size=(18, 2)), rng.uniform(size=(DROPPED, channels)) >= DROP_RATE

    def learn_first(self, image: Image, state: TrackerState, shares: Floats, kept: NDArray[np.bool_]) -> Memory:
        """Return the memory of the first frame: 23 views and 7 thinned copies, and the filter solved on them."""
        scale = AREA * float(np.sqrt(state.size_wh.prod())) / CROP
        middle_xy = np.round(state.centre_xy)
        pixels, shifts = views(cut(image, middle_xy, side=2 * CROP * scale, out_size=2 * CROP).pixels, shares)
        box = box_in_crop(state.centre_xy, state.size_wh, middle_xy=middle_xy, scale=scale)
        moved = np.concatenate([shifts, np.zeros((DROPPED, 2))])
        boxes = (box + np.pad(moved, ((0, 0), (0, 2)))).astype(np.float32)
        with self._precision():
            features = self.model.online_features(self._floats(pixels))
        with torch.inference_mode():
            thinned = torch.from_numpy(kept).to(self.device)[:, :, None, None] / (1 - DROP_RATE) * features[:1]
            features = torch.cat([features, thinned])
            filters = self.classifier.fit(features, self._boxes(boxes), iterations=self.params.net_opt_iter)[-1]
            samples = to_cells(features, frames=len(boxes))[0].contiguous()
        weights = np.full(len(boxes), 1 / len(boxes))
        return Memory(1, state.centre_xy, state.size_wh, scale, filters, tuple(samples), boxes, weights,
                      iterations=self.params.net_opt_iter)

    def begin(self, states: Sequence[Any], images: Sequence[NDArray[Any]]) -> Callable[[], list[Any]]:
        """Ask the network about the next image of several targets; return what waits for the new states."""
        shown = [as_bgr(image) for image in images]
        looks = self._look([state.memory for state in states], shown)
        seen = [replace(state, look=look) for state, look in zip(states, looks, strict=True)]
        answer: Callable[[], list[Any]] = super().begin(seen, shown)
        return lambda: [replace(after, memory=self.learn(after.memory, after.look, after, lost=before.away > 0))
                        for before, after in zip(states, answer(), strict=True)]

    def blend(self, states: Sequence[Any], crops: Sequence[SearchCrop]) -> tuple[Floats, Floats] | None:
        """Return the online maps on Ocean's cells, and the share of each; NonFiniteOutput where one is not finite.

        While a target is lost, places are looked at that the filter does not see: it has no share then.
        """
        pairs = list(zip(states, crops, strict=True))
        maps = np.stack([_on_cells(state, crop, registered=self.params.online_registered) for state, crop in pairs])
        if not (finite := np.isfinite(maps).all((1, 2))).all():
            raise NonFiniteOutput(np.flatnonzero(~finite).tolist())
        return maps, np.array([0.0 if state.away else self.params.online_ratio for state in states])[:, None, None]

    def _look(self, memories: Sequence[Memory], images: Sequence[Image]) -> list[Look]:
        """Return what each target's filter sees around where it was last found."""
        crops = []
        for memory, image in zip(memories, images, strict=True):
            # Half a cell aside, as the features' sides are odd and the scores' even. In float32 like the reference: a
            # centre that is a whole px but for rounding is cut to that px.
            centre_xy = (memory.centre_xy + memory.scale * CROP / (2 * CELLS)).astype(np.float32)
            crops.append(cut(image, centre_xy, side=CROP * memory.scale, out_size=CROP))
        pixels = self._floats(np.stack([crop.pixels for crop in crops]))
        with self._precision():  # on a CPU one by one: a result is then the same whatever goes beside it
            features = torch.cat([self.model.online_features(part) for part in
                                  pixels.split(1 if self.device.type == "cpu" else len(pixels))])
        with torch.inference_mode():
            cells = to_cells(features, frames=1)  # each target a sequence of one frame
            scores = torch.cat([apply_filter(one[None], memory.filters) for one, memory in
                                zip(cells, memories, strict=True)])[:, 0].cpu().numpy()
        looks = []
        for memory, crop, row, seen in zip(memories, crops, scores, cells[:, 0], strict=True):
            scale = (crop.corners[3] - crop.corners[1]) / CROP
            flag = judge(row, memory.size_wh, scale=scale, params=self.params)
            looks.append(Look(row, seen.contiguous(), crop.middle_xy, scale, flag))  # not a view of the others
        return looks

    def learn(self, memory: Memory, look: Look, state: TrackerState, *, lost: bool = False) -> Memory:
        """Return the memory after a frame whose result is `state`: one more sample, perhaps a better filter.

        lost: before that frame. A target that was or is lost teaches nothing: the crop need not show it.
        """
        number, params = memory.number + 1, self.params
        if lost or state.away:
            return replace(memory, number=number, iterations=0, centre_xy=state.centre_xy, size_wh=state.size_wh)
        if look.flag == "not_found":
            return replace(memory, number=number, iterations=0)
        hard = look.flag == "hard_negative"
        rate = params.hard_negative_learning_rate if hard else params.learning_rate
        weights, slot = reweighted(memory.weights, memory.slot, rate=rate, size=params.sample_memory_size)
        box = box_in_crop(state.centre_xy, state.size_wh, middle_xy=look.middle_xy, scale=look.scale)
        due = params.net_opt_update_iter * ((number - 1) % params.train_skipping == 0)
        new = Memory(number, state.centre_xy, state.size_wh, memory.scale, memory.filters,
                     (*memory.samples[:slot], look.cells, *memory.samples[slot + 1:]),
                     np.concatenate([memory.boxes[:slot], box[None], memory.boxes[slot + 1:]]).astype(np.float32),
                     weights, slot, params.net_opt_hn_iter if hard else due)
        return replace(new, filters=self._solve(new)) if new.iterations else new

    def _solve(self, memory: Memory) -> Tensor:
        optimizer = self.classifier.filter_optimizer
        with torch.inference_mode():
            weight = torch.from_numpy(memory.weights.astype(np.float32))[:, None].to(self.device)
            problem = optimizer.problem(torch.stack(memory.samples)[None], self._boxes(memory.boxes), weight=weight)
            return optimizer(memory.filters, problem, iterations=memory.iterations)[-1]

    def _floats(self, pixels: Pixels) -> Tensor:
        """Return crops (B, side, side, 3) as a tensor (B, 3, side, side) on the device."""
        return torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).contiguous(memory_format=self.memory_format)

    def _boxes(self, boxes: NDArray[np.float32]) -> Tensor:
        """Return boxes (n, 4) of one target as the classifier takes them, (n, 1, 4)."""
        return torch.from_numpy(boxes)[:, None].to(self.device)


def _on_cells(state: OnlineState, crop: SearchCrop, *, registered: bool) -> Floats:
    """Return a target's online map at the cells of Ocean's score map (S, S).

    Not registered: stretched over it, as the reference does, though the two show other squares of the image.
    """
    look, size = state.look, state.search_size
    assert look is not None
    if not registered:
        side = score_side(size)
        return np.asarray(cv2.resize(look.scores, (side, side), interpolation=cv2.INTER_CUBIC), np.float64)
    points = state.centre_xy[:, None] + (grid_points(size) - size // 2) / crop.scale  # (2, S) image px
    at = ((points - look.middle_xy[:, None]) / look.scale + CROP / 2) / STRIDE
    x, y = (axis.astype(np.float32) for axis in np.meshgrid(*at))
    return np.asarray(cv2.remap(look.scores, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), np.float64)
