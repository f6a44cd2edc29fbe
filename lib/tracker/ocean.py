"""The Ocean tracker: what it remembers of a target, and one step of following it (OCEAN section 5).

The model and the tracker hold nothing of any sequence: `init` and `track` return a new `TrackerState`, so any number of
sequences share one of each. `track_batch` advances several at once; `track` is the same with one.

    tracker = OceanTracker.from_weights("OceanSmall")      # or OceanTracker(model, params)
    state = tracker.init(image, box_xywh)
    state = tracker.track(state, image)       # state.box_xywh, state.score
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from lib.boxes import Boxes
from lib.checkpoint import load_model
from lib.crops import TEMPLATE_SIZE, Image, context_side, mean_colour, subwindow
from lib.device import Link
from lib.errors import UserError
from lib.models.ocean import Ocean_, TemplateFeatures
from lib.options import Amp
from lib.tracker.params import TrackerParams, load_tracker_params
from lib.tracker.presence import Rival, Trace, colours_of, judged, settled, similarity_map, views
from lib.tracker.scoring import Floats, NonFiniteOutput, Peak, Prediction, find_peak

SMALL_TARGET = 0.004  # share of the image below which a target gets the larger search crop
MIN_SIDE = 10.0  # px; a target never shrinks below this
KEPT_STACKS = 4  # batches of template features: two lanes of two search sizes


@dataclass(frozen=True, eq=False)
class TrackerState:
    """What is known of one target after a frame. Never altered: each frame makes a new one."""

    centre_xy: Floats  # (2,) px of the image
    size_wh: Floats  # (2,) px of the image
    score: float  # 0..1, of the chosen cell, without penalty and window; 1 on the first frame
    search_size: int  # side of the search crop in px, chosen on the first frame
    fill: Floats  # (3,) mean colour of the first frame: shown beyond the image's border
    template: TemplateFeatures  # of one target
    presence: float = 1.0  # 0..1, that the box shows the target
    colours: Floats | None = None  # histogram of the first box; None: the next one's will do
    second: torch.Tensor | None = None  # (1, C, 7, 7) the second template; None: none yet, the first stands for it
    trace: Trace | None = None  # what presence is made of; None on the first frame
    rival: Rival | None = None  # what else looked like the target; None on the first frame
    away: int = 0  # frames since the target was lost; 0 while it is held, and always where `lost_below` is 0

    @property
    def box_xywh(self) -> Boxes:
        """Return the box (4,), image px. The corner is cut at 0 but not the size: parity with the reference."""
        corner_xy = np.maximum(self.centre_xy - self.size_wh / 2, 0.0)
        return np.concatenate([corner_xy, self.size_wh])


class SearchCrop(NamedTuple):
    """The square a target is looked for in."""

    pixels: NDArray[np.uint8]  # (search_size, search_size, 3) BGR
    scale: float  # crop px per image px
    image_wh: tuple[int, int]


def search_crop(state: TrackerState, image: Image) -> SearchCrop:
    """Return the sub-window a target is looked for in, around where it was last (section 5, step 1)."""
    side_z = context_side(state.size_wh)
    scale = TEMPLATE_SIZE / side_z
    # Halves go away from zero here, as in the Python 2 that the published numbers came from.
    side = math.floor(side_z + (state.search_size - TEMPLATE_SIZE) / scale + 0.5)
    pixels = subwindow(image, state.centre_xy, side=side, out_size=state.search_size, fill=state.fill)
    return SearchCrop(pixels, scale, (image.shape[1], image.shape[0]))


def advance(state: TrackerState, crop: SearchCrop, peak: Peak, *, row: int = 0) -> TrackerState:
    """Return the state after a frame: moved, resized and clipped by row `row` of a batch's peaks (steps 5 and 6)."""
    rate = float(peak.rate[row])
    image_wh = np.asarray(crop.image_wh, np.float64)
    centre_xy = state.centre_xy + peak.offset_xy[row] / crop.scale
    # The rate enters twice: that is what the published numbers were made with.
    seen_wh = peak.box_wh[row] / crop.scale * rate + (1 - rate) * state.size_wh
    size_wh = state.size_wh * (1 - rate) + rate * seen_wh
    return replace(
        state,
        centre_xy=np.clip(centre_xy, 0.0, image_wh),
        size_wh=np.maximum(np.minimum(size_wh, image_wh), MIN_SIDE),
        score=float(peak.score[row]),
    )


def as_bgr(image: NDArray[Any]) -> Image:
    """Return an image (H, W, 3) BGR uint8 of a gray (H, W) or (H, W, 1), colour or BGRA one.

    A 16-bit image is brought to 8 bits by dropping the lower ones. Raises UserError for anything else.
    """
    if not isinstance(image, np.ndarray):
        raise UserError(f"no image but {image!r:.80}; expected an array (height, width, 3): cv2.imread returns None "
                        f"for a file that it cannot read")
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4) or image.size == 0:
        raise UserError(f"an image of shape {image.shape} and type {image.dtype} cannot be tracked in; expected uint8 "
                        f"(height, width, 3) in BGR order or (height, width) gray")
    if channels == 3:
        return image
    code = cv2.COLOR_GRAY2BGR if channels == 1 else cv2.COLOR_BGRA2BGR
    return np.asarray(cv2.cvtColor(image, code), np.uint8)


def first_box(box_xywh: ArrayLike) -> Boxes:
    """Return the first box (4,) as numbers; raise UserError for one that is no box in px."""
    try:
        box = np.asarray(box_xywh, np.float64)
    except (TypeError, ValueError):
        box = np.empty(0)
    if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] <= 0).any():
        raise UserError(f"first box {box_xywh!r:.80}: expected x, y, width, height in px with a positive size")
    if box[2:].max() < 1:
        raise UserError(f"first box {box.tolist()}: smaller than a pixel; expected x, y, width, height in px, not "
                        f"shares of the image")
    return box


class OceanTracker:
    """Follows targets with a model on one device. Holds no state of any sequence.

    The model is moved to `device` and put in eval mode. `amp` is the network's number format ("none": float32);
    everything else is float64. `compiled` hands the network to torch.compile: slow at first, one compilation for each
    search and batch size. `channels_last` lays pixels out as NHWC, which is faster on a GPU (so None takes it there)
    and no faster on a CPU.
    """

    online = False  # with the online branch: `lib.tracker.online.OnlineTracker`

    def __init__(
        self,
        model: Ocean_,
        params: TrackerParams,
        *,
        device: str | torch.device = "cpu",
        amp: Amp = "none",
        compiled: bool = False,
        channels_last: bool | None = None,
    ) -> None:
        self.params = params
        self.device = torch.device(device)
        self._link = Link(self.device)
        nhwc = self.device.type == "cuda" if channels_last is None else channels_last
        self.memory_format = torch.channels_last if nhwc else torch.contiguous_format
        if params.presence == "learned" and getattr(model, "presence", None) is None:
            raise UserError(f"{getattr(model, 'load_report', None) or 'this model'}; it has no presence branch, which "
                            f"TEST.presence learned asks for: use auto, or a checkpoint trained with TRAIN.PRESENCE")
        self.model = model.eval()
        self.model.to(device=self.device)
        self.model.to(memory_format=self.memory_format)
        self._dtype = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
        # Frozen: the weights are constants of the compiled code, BatchNorm folded into them.
        self._track: Callable[..., Any] = (
            torch.compile(self.model.track, options={"freezing": True}) if compiled else self.model.track)
        # The templates of a batch change only when a sequence joins or leaves: the last batches are kept. The parts are
        # kept with them, so that an id stays that of the same object.
        self._stacks: dict[tuple[int, ...], tuple[list[TemplateFeatures], TemplateFeatures]] = {}

    @classmethod
    def from_weights(cls, weights: str | Path, *, params: TrackerParams | None = None, align: bool | None = None,
                     **options: Any) -> OceanTracker:
        """Return the tracker of a checkpoint, given by its path or as the name of shipped weights ("OceanSmall").

        params: by default those of the YAML beside the weights, or the defaults where there is none. align: as in
        `load_model`. options: as of the class.
        """
        model = load_model(weights, align=align, online=cls.online)
        if params is None:
            params = load_tracker_params(model.params_file, online=cls.online)
        return cls(model, params, **options)

    @property
    def spec(self) -> dict[str, Any]:
        """Return what makes the boxes beside weights and settings: the keywords of `build_model`."""
        return self.model.spec

    def init(self, image: NDArray[Any], box_xywh: ArrayLike) -> TrackerState:
        """Return the state of a target given by its box (4,), origin 0, px, in its first image (H, W, 3) BGR uint8.

        Raises UserError for a box without a positive, finite size and for an image that is none.
        """
        image = as_bgr(image)
        box = first_box(box_xywh)
        height, width = image.shape[:2]
        small = box[2] * box[3] / (width * height) < SMALL_TARGET
        size_wh, centre_xy = box[2:].copy(), box[:2] + box[2:] / 2
        fill = mean_colour(image)
        crop = subwindow(image, centre_xy, side=max(1, round(context_side(size_wh))), out_size=TEMPLATE_SIZE, fill=fill)
        with self._precision():
            template = self.model.template(self._as_float(self._pixels([crop])))
        search_size = self.params.big_sz if small else self.params.small_sz
        colours = colours_of(image, centre_xy, size_wh)
        return TrackerState(centre_xy, size_wh, 1.0, search_size, fill, template, colours=colours)

    def track(self, state: TrackerState, image: NDArray[Any]) -> TrackerState:
        """Return the state after the next image (H, W, 3) BGR uint8. Raises NonFiniteOutput."""
        return self.track_batch([state], [image])[0]

    def track_batch(self, states: Sequence[TrackerState], images: Sequence[NDArray[Any]]) -> list[TrackerState]:
        """Return the states of several targets after the next image of each.

        Raises NonFiniteOutput if the answer for any of them is not finite.
        """
        return self.begin(states, images)()

    def begin(self, states: Sequence[TrackerState], images: Sequence[NDArray[Any]]) -> Callable[[], list[TrackerState]]:
        """Ask the network about the next image of several targets; return what waits for the new states.

        Targets of one search size share a call, and so do the places in which lost ones are looked for. Until the
        answer is asked for, a GPU works while the host is free.
        """
        calls = []
        every = [(row, view) for row, state in enumerate(states) for view in views(state, images[row])]
        for size in sorted({state.search_size for state in states}):
            rows = [row for row, view in every if view.search_size == size]
            some = [view for _, view in every if view.search_size == size]
            crops = [search_crop(state, as_bgr(images[row])) for state, row in zip(some, rows, strict=True)]
            calls.append((rows, some, crops, self.predict(some, crops)))

        def finish() -> list[TrackerState]:
            found: list[list[TrackerState]] = [[] for _ in states]
            for rows, some, crops, answer in calls:
                try:
                    updated = self.update(some, crops, answer())
                except NonFiniteOutput as error:
                    raise NonFiniteOutput([rows[row] for row in error.rows]) from error
                for row, state in zip(rows, updated, strict=True):
                    found[row].append(state)
            return [settled(state, own, lost_below=self.params.lost_below)
                    for state, own in zip(states, found, strict=True)]

        return finish

    def predict(self, states: Sequence[TrackerState], crops: Sequence[SearchCrop]) -> Callable[[], Prediction]:
        """Ask the network about B crops of one search size (section 5, step 2); return what waits for its answer."""
        with self._precision():
            maps, features = self._maps(self._pixels([crop.pixels for crop in crops]), self._templates(states), states)
            fetched = self._link.fetch(maps)

        def answer() -> Prediction:
            on_host = fetched().numpy()
            found = Prediction(on_host[:, 0], on_host[:, 1:5], *on_host[:, 5:].swapaxes(0, 1))
            return found._replace(features=features)

        return answer

    def _maps(self, pixels: torch.Tensor, template: TemplateFeatures, states: Sequence[TrackerState]
              ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return score, ltrb and what speaks for presence (B, 5, 7 or 8, S, S), and the features that this is of."""
        output = self._track(self._as_float(pixels), template)
        score = torch.sigmoid(output.cls.float())
        if output.cls_aligned is not None:
            aligned = torch.sigmoid(output.cls_aligned.float())
            score = self.params.ratio * score + (1 - self.params.ratio) * aligned
        zf, search, similar = template.zf, output.search, []
        if zf is not None and search is not None:
            second = torch.cat([zf[row : row + 1].float() if state.second is None else state.second
                                for row, state in enumerate(states)])
            similar.append(similarity_map(search, zf, second))
        if output.vectors is not None and self.params.presence != "map":
            assert self.model.presence is not None
            assert template.vector is not None
            similar.append(self.model.presence.logit((output.vectors * template.vector).sum(1, keepdim=True)))
        return torch.cat([score, output.ltrb.float(), *similar], dim=1), search if similar else None

    def update(
        self, states: Sequence[TrackerState], crops: Sequence[SearchCrop], prediction: Prediction
    ) -> list[TrackerState]:
        """Return the new states from the network's answer. Pure but for `self.params`."""
        pairs = list(zip(states, crops, strict=True))
        target_wh = np.stack([state.size_wh * crop.scale for state, crop in pairs])
        peak = find_peak(prediction, target_wh, search_size=states[0].search_size, params=self.params,
                         blend=self.blend(states, crops))
        return [judged(state, advance(state, crop, peak, row=row), crop, prediction, peak, row=row)
                for row, (state, crop) in enumerate(pairs)]

    def blend(self, states: Sequence[TrackerState], crops: Sequence[SearchCrop]) -> tuple[Floats, Floats] | None:
        """Return what `find_peak` mixes in: nothing here, see `lib.tracker.online`."""
        return None

    def _pixels(self, crops: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """Return crops (side, side, 3) as one tensor (B, side, side, 3) uint8 on the device."""
        # From pinned memory the copy to a GPU does not wait for the work that is still queued there.
        stacked = self._link.empty((len(crops), *crops[0].shape), torch.uint8)
        np.stack(crops, out=stacked.numpy())
        return stacked.to(self.device, non_blocking=True)

    def _as_float(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return crops of `_pixels` as the network takes them: (B, 3, side, side) float32, 0..255."""
        return pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=self.memory_format)

    def _templates(self, states: Sequence[TrackerState]) -> TemplateFeatures:
        """Return the template features of all states with a leading B."""
        if len(states) == 1:
            return states[0].template
        templates = [state.template for state in states]
        key = tuple(id(template) for template in templates)
        if key not in self._stacks:
            while len(self._stacks) >= KEPT_STACKS:
                del self._stacks[next(iter(self._stacks))]
            self._stacks[key] = (templates, TemplateFeatures.cat(templates))
        return self._stacks[key][1]

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        reduced = self._dtype is not None
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=self._dtype, enabled=reduced):
            yield
