"""Follow a target in a video of one's own: a file, a folder of images, a camera or a stream.

    python tracking/run_video.py clip.mp4 --init 120,80,60,40 --resume snapshot/checkpoint_e20.pth
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from lib.boxes import Boxes
from lib.checkpoint import params_beside
from lib.crops import Image
from lib.errors import UserError
from lib.files import atomic_write
from lib.log import RunLog
from lib.testing.opening import open_tracker
from lib.testing.run import Parser, boolean, positive
from lib.testing.video import YELLOW, BoxVideo, Colour
from lib.tools.select_box import select_box
from lib.tools.video_source import Source, open_source
from lib.tracker.ocean import OceanTracker
from lib.tracker.params import TrackerParams, load_tracker_params
from lib.tracker.scoring import NonFiniteOutput

RED: Colour = (60, 60, 255)  # BGR; a target that is lost
WEIGHTS = "OceanSmall"  # of experiments/weights
SMOOTHING = 0.1  # weight of the newest frame in the shown speed
_WINDOW = "OceanKit"
_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Follow the target that the command line names; return 0. Raises UserError."""
    options = _parse(argv)
    with RunLog(main=True):
        weights = options.resume or Path(WEIGHTS)
        settings = options.params or params_beside(weights)
        params = load_tracker_params(settings) if settings else TrackerParams()
        tracker = open_tracker(options.arch, weights, params, align=options.align,
                               device=options.device, amp=options.amp)
        source = open_source(options.source)
        try:
            run(options, tracker, source)
        finally:
            source.close()
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    flag: dict[str, Any] = {"type": boolean, "metavar": "True|False"}
    parser = Parser("run_video.py", description="Follow a target in your own video.", allow_abbrev=False)
    parser.add_argument("source", help="video file, folder of images, camera number, or stream such as rtsp://...")
    parser.add_argument("--init", default="", metavar="x,y,w,h",
                        help="target's box in the first frame, px from the upper left corner; default: draw it")
    parser.add_argument("--resume", type=Path, help=f"checkpoint; default {WEIGHTS}, which comes along")
    parser.add_argument("--arch", default="Ocean", help="architecture; OceanONNX takes an exported folder as --resume")
    parser.add_argument("--align", **flag, help="with the object-aware branch; default: if the checkpoint has it")
    parser.add_argument("--params", type=Path, help="tracking hyper-parameters, a file as in experiments/test")
    parser.add_argument("--lost", type=float, default=0.3, metavar="SCORE", help="below this score the target is lost")
    parser.add_argument("--out", type=Path, help="folder of video and result file; default result/video/<name>")
    parser.add_argument("--save_video", default=True, **flag, help="False: only the result file")
    parser.add_argument("--show", nargs="?", const=True, default=False, **flag, help="also show it; q ends")
    parser.add_argument("--max_frames", type=positive, help="stop after this many frames")
    parser.add_argument("--device", default="", help="cpu, cuda or cuda:N; default: cuda where there is one")
    parser.add_argument("--amp", choices=("none", "bf16", "fp16"), default="none", help="number format of the network")
    options = parser.parse_args(argv)
    if not 0 <= options.lost <= 1:
        raise UserError(f"--lost {options.lost}: a score lies between 0 and 1; expected a number in that range")
    return options


def parse_box(text: str, image: Image) -> Boxes:
    """Return the box (4,) of "x,y,w,h"; UserError unless it has a size and lies at least partly in the image."""
    try:
        box = np.array([float(part) for part in text.split(",")])
    except ValueError:
        box = np.empty(0)
    height, width = image.shape[:2]
    if box.shape != (4,) or not np.isfinite(box).all() or not (box[2:] > 0).all():
        raise UserError(f"--init {text}: expected x,y,w,h in px with a positive width and height, such as 120,80,60,40")
    if box[0] >= width or box[1] >= height or (box[:2] + box[2:] <= 0).any():
        raise UserError(f"--init {text}: lies outside of the first frame, which is {width} x {height} px")
    return box


@dataclass
class Trail:
    """What was found, frame by frame: the rows of the result file."""

    lost_below: float
    rows: list[str] = field(default_factory=list)
    lost: bool = False
    rate: float = 0.0  # frames/s of the tracker alone, smoothed
    seconds: float = 0.0

    def add(self, box_xywh: Boxes, score: float, *, seconds: float) -> None:
        """Note a frame, and say when the target was lost or found again."""
        lost = score < self.lost_below
        if lost != self.lost:
            _log.info("frame %d: %s (score %.2f)", len(self.rows) + 1, "lost" if lost else "found again", score)
        self.lost = lost
        self.seconds += seconds
        if seconds > 0:
            self.rate = 1 / seconds if not self.rate else (1 - SMOOTHING) * self.rate + SMOOTHING / seconds
        x, y, w, h = box_xywh.tolist()
        self.rows.append(f"{len(self.rows) + 1},{x:.2f},{y:.2f},{w:.2f},{h:.2f},{score:.4f},{int(lost)}\n")

    def save(self, path: Path) -> None:
        """Write the result file: boxes in px from the upper left corner (0), score 0..1, lost 0 or 1."""
        with atomic_write(path) as file:
            file.write("frame,x,y,w,h,score,lost\n")
            file.writelines(self.rows)


def run(options: argparse.Namespace, tracker: OceanTracker, source: Source) -> None:
    """Follow the target to the source's end, to Ctrl-C or to a pressed q; write the video and the result file."""
    if options.show:
        _open_window()
    first = next(source.frames, None)
    if first is None:
        raise UserError(f"{options.source}: no frame in it")
    box = parse_box(options.init, first) if options.init else select_box(first)
    folder = options.out or Path("result") / "video" / source.name
    video = BoxVideo(folder / f"{source.name}.mp4", frames_per_second=source.rate) if options.save_video else None
    trail = Trail(options.lost)
    try:
        _follow(options, tracker, source, first, box, video, trail)
    except KeyboardInterrupt:
        _log.info("interrupted after frame %d", len(trail.rows))
    finally:
        if trail.rows:
            trail.save(folder / f"{source.name}.csv")
        if video is not None:
            video.close()
    tracked = len(trail.rows) - 1
    _log.info("%d frames, %.1f frames/s without reading and writing; %s", len(trail.rows),
              tracked / max(trail.seconds, 1e-9), folder)


def _follow(options: argparse.Namespace, tracker: OceanTracker, source: Source, first: Image, box: Boxes,
            video: BoxVideo | None, trail: Trail) -> None:
    total = min(filter(None, (source.count, options.max_frames)), default=None)
    state = None
    with tqdm(total=total, unit="frame", file=sys.stderr, dynamic_ncols=True) as bar:
        for image in chain([first], source.frames):
            start = time.perf_counter()
            try:
                state = tracker.init(image, box) if state is None else tracker.track(state, image)
            except (UserError, NonFiniteOutput) as error:
                raise UserError(f"{options.source}: frame {len(trail.rows) + 1}: {error}") from error
            seconds = time.perf_counter() - start if trail.rows else 0.0  # the first frame only prepares
            trail.add(state.box_xywh if trail.rows else box, state.score, seconds=seconds)
            caption = f"{len(trail.rows)}  score {state.score:.2f}  {trail.rate:.1f} frames/s{'  LOST' * trail.lost}"
            colour = RED if trail.lost else YELLOW
            if video is not None:
                video.write(image, {colour: state.box_xywh}, caption=caption)
            bar.set_postfix_str(caption.partition("  ")[2], refresh=False)
            bar.update()
            if (options.show and _shown(image, state.box_xywh, colour, caption)) or len(trail.rows) == total:
                break


def _open_window() -> None:
    try:
        cv2.namedWindow(_WINDOW)
    except cv2.error as error:
        raise UserError("--show True: this OpenCV cannot open a window (opencv-python-headless, or no screen); install "
                        "opencv-python instead of it, or leave --show out and watch the video it writes") from error


def _shown(image: Image, box_xywh: Boxes, colour: Colour, caption: str) -> bool:
    """Show a frame in a window; return whether q or Escape was pressed."""
    canvas = image.copy()
    x, y, w, h = (round(value) for value in box_xywh.tolist())
    cv2.rectangle(canvas, (x, y), (x + w, y + h), colour, 2)
    cv2.imshow(_WINDOW, canvas)
    cv2.setWindowTitle(_WINDOW, caption)
    return cv2.waitKey(1) & 0xFF in (ord("q"), 27)
