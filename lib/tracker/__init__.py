"""What a tracker is. Anything with `init` and `track` can be tested, swept and filmed: no base class, no registry.

    state = tracker.init(image, box_xywh)        # image (H, W, 3) BGR uint8; box (4,) x, y, width, height, origin 0, px
    state = tracker.track(state, next_image)     # state.box_xywh, state.score

All that is known of a target lies in its state, so that one tracker follows any number of targets. A tracker in the
plain form of most research code, `init(image, box)` and `box = track(image)`, becomes one by `PlainTracker(MyTracker)`;
`track` may give `(box, score)`. One of the got10k toolkit, `init(image, box)` and `box = update(image)`, gets PIL's RGB
images. The other way round, `Got10kTracker(tracker)` is what that toolkit's experiments run.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Boxes
from lib.errors import UserError


class TrackState(Protocol):
    """What a tracker knows of a target after a frame."""

    @property
    def box_xywh(self) -> Boxes:
        """Return the box (4,), image px, origin 0."""

    @property
    def score(self) -> float:
        """Return how sure the tracker is, 0..1."""


class Tracker(Protocol):
    """Follows targets. Both methods raise UserError for what they cannot use.

    A tracker that is faster with many targets at once has a third: `begin(states, images)` starts on the next image of
    each and returns a function that waits for the new states.
    """

    def init(self, image: NDArray[Any], box_xywh: Boxes, /) -> TrackState:
        """Return the state of a target given by its box in its first image."""

    def track(self, state: Any, image: NDArray[Any], /) -> TrackState:
        """Return the state after the next image."""


def begin(tracker: Tracker, states: Sequence[Any], images: Sequence[Any]) -> Callable[[], Sequence[TrackState]]:
    """Ask a tracker for the states after the next image of each target; return what waits for the answer."""
    together: Any = getattr(tracker, "begin", None)
    if together is not None:
        return together(states, images)
    return lambda: [tracker.track(state, image) for state, image in zip(states, images, strict=True)]


@dataclass(frozen=True, eq=False)
class PlainState:
    """The state of a target that an object of its own follows."""

    box_xywh: Boxes
    tracker: Any
    score: float = 1.0


class PlainTracker:
    """A tracker made of one in the plain form: each target gets an object of its own, `make()`.

    spec: what its boxes depend on, as plain values: files and versions; results count only for the same.
    """

    def __init__(self, make: Callable[[], Any], *, spec: Mapping[str, Any] | None = None) -> None:
        self.make = make
        self.spec = dict(spec or {})

    def init(self, image: NDArray[Any], box_xywh: Boxes) -> PlainState:
        """Return the state of a target given by its box in its first image."""
        tracker = self.make()
        tracker.init(_for(tracker, image), box_xywh)
        return PlainState(np.asarray(box_xywh, np.float64), tracker)

    def track(self, state: PlainState, image: NDArray[Any]) -> PlainState:
        """Return the state after the next image; the one before it is used up."""
        tracker = state.tracker
        found = tracker.update(_for(tracker, image)) if _is_of_got10k(tracker) else tracker.track(image)
        box, score = found if isinstance(found, tuple) and len(found) == 2 else (found, 1.0)
        box_xywh = np.asarray(box, np.float64)
        if box_xywh.shape != (4,):
            raise UserError(f"{type(tracker).__name__} gave {found!r:.60}; expected a box x, y, width, height, or "
                            f"(box, score)")
        return PlainState(box_xywh, tracker, float(score))


def _is_of_got10k(tracker: Any) -> bool:
    """Return whether `update` is what to call; the `track` that got10k's own class brings is for a whole video."""
    return hasattr(tracker, "update") and (hasattr(tracker, "is_deterministic") or not hasattr(tracker, "track"))


def _for(tracker: Any, image: NDArray[Any]) -> Any:
    """Return the image as the tracker takes it: BGR, or PIL's RGB for one of got10k."""
    if not _is_of_got10k(tracker):
        return image
    return importlib.import_module("PIL.Image").fromarray(np.ascontiguousarray(image[..., ::-1]))


class Got10kTracker:
    """A tracker as the got10k toolkit's experiments run it (got10k.trackers.Tracker): PIL's images, one target at once.

        ExperimentGOT10k("data/GOT-10k").run(Got10kTracker(OceanTracker.from_weights("OceanLite"), "OceanLite"))

    origin: number of the first px in the set's annotation, 1 in OTB's: the toolkit hands boxes on as they stand there.
    """

    is_deterministic = True

    def __init__(self, tracker: Tracker, name: str = "Ocean", *, origin: int = 0) -> None:
        self.tracker = tracker
        self.name = name
        self._shift = np.array([origin, origin, 0, 0], np.float64)
        self._state: Any = None

    def init(self, image: Any, box: Any) -> None:
        """Begin on PIL's image with the target's box (4,) x, y, width, height."""
        self._state = self.tracker.init(_bgr(image), np.asarray(box, np.float64) - self._shift)

    def update(self, image: Any) -> Boxes:
        """Return the box (4,) in the next image."""
        self._state = self.tracker.track(self._state, _bgr(image))
        return self._state.box_xywh + self._shift

    def track(self, img_files: Sequence[str], box: Any, visualize: bool = False) -> tuple[Boxes, Boxes]:
        """Return the boxes (N, 4), the first as given, and seconds (N,) of a video's frames; nothing is shown."""
        boxes, seconds = np.zeros((len(img_files), 4)), np.zeros(len(img_files))
        boxes[0] = box
        for index, file in enumerate(img_files):
            image = importlib.import_module("PIL.Image").open(file)
            start = time.perf_counter()
            if index == 0:
                self.init(image, box)
            else:
                boxes[index] = self.update(image)
            seconds[index] = time.perf_counter() - start
        return boxes, seconds


def _bgr(image: Any) -> NDArray[np.uint8]:
    """Return PIL's image as (H, W, 3) BGR."""
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
