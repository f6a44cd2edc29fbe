"""A tracker that the official vot-toolkit starts and talks to by the TraX protocol.

    python tracking/vot_ocean.py --resume snapshot/checkpoint_e20.pth --dataset VOT2022

The toolkit runs this line, which `tracking/vot_workspace.py` writes into `trackers.ini`; typed by hand it waits for a
toolkit. Any number of objects at once (VOTS), given as boxes, polygons or masks; the answers are boxes, each with the
tracker's score as the property `confidence`. Needs the package vot-trax, which the toolkit brings.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lib.boxes import Boxes, polygon_to_xywh
from lib.crops import Image
from lib.errors import UserError
from lib.images import read_image
from lib.log import RunLog
from lib.testing.opening import open_tracker
from lib.testing.run import Parser, boolean, params_for
from lib.tracker.scoring import NonFiniteOutput

INSTALL = "pip install -e '.[vot]' (or vot-trax alone, when the toolkit has an environment of its own)"
_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """What is asked of a tracker. A state tells its `box_xywh`, `score` and `search_size`."""

    def init(self, image: Image, box_xywh: Any, /) -> Any: ...

    def track_batch(self, states: Sequence[Any], images: Sequence[Image], /) -> list[Any]: ...


class Server(Protocol):
    """What is asked of `trax.server.Server`."""

    def wait(self) -> Any: ...

    def status(self, objects: list[Any], /) -> Any: ...


@dataclass(eq=False)
class Objects:
    """The objects that are followed, in the order in which the toolkit gave them."""

    tracker: Tracker
    states: list[Any] = field(default_factory=list)

    def start(self, image: Image, boxes: Iterable[Boxes]) -> None:
        """Forget all objects and follow the given ones from here on."""
        self.states = []
        self.add(image, boxes)

    def add(self, image: Image, boxes: Iterable[Boxes]) -> None:
        """Follow further objects, by their boxes (4,) xywh in this image."""
        self.states += [self.tracker.init(image, box) for box in boxes]

    def advance(self, image: Image) -> None:
        """Take every object to the next image; those of one search size go through the network together."""
        for size in {state.search_size for state in self.states}:
            rows = [row for row, state in enumerate(self.states) if state.search_size == size]
            states = [self.states[row] for row in rows]
            for row, state in zip(rows, self.tracker.track_batch(states, [image] * len(rows)), strict=True):
                self.states[row] = state


def serve(server: Server, objects: Objects, *, answer: Callable[[Boxes], Any]) -> int:
    """Return the number of frames answered, the first ones included, once the toolkit says that it is over.

    `answer` makes a region of a box (4,) xywh. Raises UserError for a region or an image that is of no use and for a
    network that returns NaN.
    """
    frames = 0
    while (request := server.wait()).type in ("initialize", "frame"):
        image = read_image(Path(request.image["color"].path()))
        boxes = [box_of(region) for region, _ in request.objects or []]
        try:
            if request.type == "initialize":
                objects.start(image, boxes)
            else:
                objects.advance(image)
                objects.add(image, boxes)
        except NonFiniteOutput as error:
            raise UserError(f"{request.image['color'].path()}: {error}; the checkpoint has diverged, or fp16 is too "
                            "narrow for it (try --amp none)") from error
        server.status([(answer(state.box_xywh), {"confidence": float(state.score)}) for state in objects.states])
        frames += 1
    return frames


def box_of(region: Any) -> Boxes:
    """Return the box (4,) xywh, origin 0, that stands for a TraX region.

    A rectangle is one; a polygon's is the one of `polygon_to_xywh`, as in VOT2015-2019; a mask's holds its pixels.
    Raises UserError for a region without any extent (a special code, an empty mask).
    """
    if region.type == "rectangle":
        return np.array(region.bounds(), np.float64)
    if region.type == "polygon":
        return polygon_to_xywh(np.array(list(region), np.float64).reshape(-1))
    if region.type == "mask":
        rows, columns = np.nonzero(region.array())
        if len(rows):
            left, top = region.offset()
            low_xy = np.array([columns.min() + left, rows.min() + top], np.float64)
            high_xy = np.array([columns.max() + left, rows.max() + top], np.float64)
            return np.concatenate([low_xy, high_xy - low_xy + 1])
    raise UserError(f"the toolkit gave {region} to start on; expected a rectangle, a polygon or a mask with pixels")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the toolkit that started this process; return 0. Raises UserError."""
    options = _parse(argv)
    try:
        import trax
    except ImportError as error:
        raise UserError(f"the package vot-trax is missing here ({error}): {INSTALL}") from error
    # The handshake comes first: the toolkit waits for it, while a checkpoint may take its time.
    with RunLog(main=True), trax.Server(
        ["rectangle", "polygon", "mask"], ["path"], tracker_name=options.arch, tracker_family="OceanKit",
        multiobject=True,
    ) as server:
        params, source = params_for(options.params, options.dataset, arch=options.arch, checkpoint=options.resume)
        tracker = open_tracker(options.arch, options.resume, params, align=options.align, device=options.device,
                               amp=options.amp)
        _log.info("tracker %s: %s", source, params)
        frames = serve(server, Objects(tracker), answer=lambda box: trax.Rectangle.create(*map(float, box)))
        _log.info("%d frames answered", frames)
    return 0


def add_tracker_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which tracker to run and how."""
    parser.add_argument("--arch", default="Ocean", help="architecture")
    parser.add_argument("--resume", type=Path, required=True, help="checkpoint, e.g. snapshot/checkpoint_e20.pth")
    parser.add_argument("--align", type=boolean, metavar="True|False",
                        help="with the object-aware branch; default: if the checkpoint has it")
    parser.add_argument("--params", type=Path, help="tracking hyper-parameters; default experiments/test/<dataset>/...")
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:N; default: cuda where there is one")
    parser.add_argument("--amp", choices=("none", "bf16", "fp16"), default="none", help="number format of the network")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("vot_ocean.py", description="A tracker for the official vot-toolkit, which starts it.",
                    allow_abbrev=False)
    add_tracker_flags(parser)
    parser.add_argument("--dataset", default="VOT", help="whose hyper-parameters to use")
    return parser.parse_args(argv)
