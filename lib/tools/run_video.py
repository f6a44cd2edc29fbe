"""Follow targets in a video of one's own: a file, a folder of images, a camera or a stream."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from lib.boxes import Boxes
from lib.crops import Image
from lib.errors import UserError
from lib.files import atomic_write, check_output
from lib.log import RunLog
from lib.options import VideoOptions
from lib.testing.opening import resolved
from lib.testing.run import open_with_params
from lib.testing.video import BoxVideo, Colour, with_boxes
from lib.tools.video_source import Source, open_source, select_box
from lib.tools.vot_toolkit import Objects
from lib.tracker import Tracker, TrackState
from lib.tracker.scoring import NonFiniteOutput

DEFAULT = Path("OceanSmall")  # what is followed with where nothing is named: it needs no further package
RED: Colour = (60, 60, 255)  # a target that is lost, where it is the only one
SHOWN_FOUND = 15  # frames for which a target is called found again
SMOOTHING = 0.1  # weight of the newest frame in the shown speed
_WINDOW = "OceanKit"
_log = logging.getLogger(__name__)


def main(options: VideoOptions) -> int:
    """Follow the targets that the options name; return 0. Raises UserError."""
    options = resolved(options if options.resume or options.tracker else replace(options, resume=DEFAULT))
    with RunLog(main=True):
        source = open_source(options.source)  # first what is known to be wrong at once, then the model
        try:
            folder = run_folder(options.out, source.name)
            if source.count and options.init:  # of a camera the frame would be old once the model is loaded
                first = next(source.frames)
                for text in options.init:
                    parse_box(text, first)
                source = replace(source, frames=chain([first], source.frames))
            tracker, _, _ = open_with_params(options, options.resume, "")
            run(options, tracker, source, folder)
        finally:
            source.close()
    return 0


def _presence(state: TrackState) -> float:
    """Return the presence; of a tracker that does not tell it, the score."""
    return getattr(state, "presence", state.score)


def run_folder(given: Path | None, name: str) -> Path:
    """Return the folder for a run's files, by default a new one; UserError if it is unwritable or another run's."""
    if given is None:
        parent = Path("result") / "video"
        names = chain([name], (f"{name}_{number}" for number in count(2)))
        given = next(parent / free for free in names if not (parent / free).exists())
    elif given.is_dir() and (old := [*given.glob(f"{name}.csv"), *given.glob(f"{name}_1.csv")]):
        raise UserError(f"--out {given}: holds {old[0].name} of another run; choose another folder, or remove that")
    check_output(given, flag="--out")
    return given


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
    """What was found of one target, frame by frame: the rows of its result file."""

    path: Path
    lost_below: float
    rows: list[str] = field(default_factory=list)
    lost: bool = False
    times_lost: int = 0  # frames in which it was lost
    found: int = 0  # frame in which it was found again
    said: str = "held"  # or unsure, lost, found again

    def add(self, box_xywh: Boxes, score: float, presence: float) -> None:
        """Note a frame, and say when the target was lost or found again."""
        lost, frame = presence < self.lost_below, len(self.rows) + 1
        if lost != self.lost:
            _log.info("%s frame %d: %s (presence %.2f, score %.2f)", self.path.stem, frame,
                      "lost" if lost else "found again", presence, score)
        self.found = frame if self.lost and not lost else self.found
        self.lost = lost
        self.times_lost += lost
        again = self.found and frame < self.found + SHOWN_FOUND
        unsure = presence < (1 + self.lost_below) / 2
        self.said = "LOST" if lost else "found again" if again else "unsure" if unsure else "held"
        x, y, w, h = box_xywh.tolist()
        self.rows.append(f"{frame},{x:.2f},{y:.2f},{w:.2f},{h:.2f},{score:.4f},{presence:.4f},{int(lost)}\n")

    def save(self) -> None:
        """Write the result file: boxes in px from the upper left corner (0), score and presence 0..1, lost 0 or 1."""
        with atomic_write(self.path) as file:
            file.write("frame,x,y,w,h,score,presence,lost\n")
            file.writelines(self.rows)


@dataclass
class Session:
    """The targets that are followed in one source, and what is written of them."""

    options: VideoOptions
    objects: Objects
    trails: list[Trail]
    video: BoxVideo | None
    seconds: float = 0.0  # of tracking alone
    rate: float = 0.0  # frames/s of tracking alone, smoothed

    def follow(self, frames: Iterable[Image], boxes: Sequence[Boxes], *, total: int | None) -> None:
        """Follow the targets, given by their boxes in the first frame, to the end or to a pressed q."""
        with tqdm(total=total, unit="frame", file=sys.stderr, dynamic_ncols=True) as bar:
            for image in frames:
                self._advance(image, boxes)
                frame = len(self.trails[0].rows)
                scores = " ".join(f"{_presence(state):.2f} {trail.said}" for state, trail in
                                  zip(self.objects.states, self.trails, strict=True))
                caption = f"{frame}  presence {scores}  {self.rate:.1f} frames/s"
                drawn = {self._colour(row): state.box_xywh for row, state in enumerate(self.objects.states)}
                if self.video is not None:
                    self.video.write(image, drawn, caption=caption)
                bar.set_postfix_str(caption.partition("  ")[2], refresh=False)
                bar.update()
                if (self.options.show and _shown(image, drawn, caption)) or frame == total:
                    break

    def _advance(self, image: Image, boxes: Sequence[Boxes]) -> None:
        first = not self.objects.states
        start = time.perf_counter()
        try:
            if first:
                self.objects.start(image, boxes)
            else:
                self.objects.advance(image)
        except (UserError, NonFiniteOutput) as error:
            raise UserError(f"{self.options.source}: frame {len(self.trails[0].rows) + 1}: {error}") from error
        taken = time.perf_counter() - start
        if not first and taken > 0:  # the first frame only prepares
            self.seconds += taken
            self.rate = 1 / taken if not self.rate else (1 - SMOOTHING) * self.rate + SMOOTHING / taken
        for trail, state, box in zip(self.trails, self.objects.states, boxes, strict=True):
            trail.add(box if first else state.box_xywh, state.score, _presence(state))

    def _colour(self, row: int) -> Colour:
        """Return a target's colour, the first one's yellow; darker while it is lost, and red where it is alone."""
        if self.trails[row].lost and len(self.trails) == 1:
            return RED
        hue, value = (26 + 67 * row) % 180, 90 if self.trails[row].lost else 255
        blue, green, red = cv2.cvtColor(np.array([[[hue, 255, value]]], np.uint8), cv2.COLOR_HSV2BGR)[0, 0].tolist()
        return blue, green, red


def run(options: VideoOptions, tracker: Tracker, source: Source, folder: Path) -> None:
    """Follow the targets to the source's end, to Ctrl-C or to a pressed q; write the video and the result files."""
    if options.show:
        _open_window()
    first = next(source.frames, None)
    if first is None:
        raise UserError(f"{options.source}: no frame in it")
    boxes = [parse_box(text, first) for text in options.init] or [select_box(first)]
    names = [source.name] if len(boxes) == 1 else [f"{source.name}_{row}" for row in range(1, len(boxes) + 1)]
    trails = [Trail(folder / f"{name}.csv", options.lost) for name in names]
    video = BoxVideo(folder / source.name, frames_per_second=source.rate) if options.save_video else None
    session = Session(options, Objects(tracker), trails, video)
    try:
        session.follow(chain([first], source.frames), boxes,
                       total=min(filter(None, (source.count, options.max_frames)), default=None))
    except KeyboardInterrupt:
        _log.info("interrupted after frame %d", len(trails[0].rows))
    finally:
        for trail in trails:
            if trail.rows:
                trail.save()
        if video is not None:
            video.close()
    frames = len(trails[0].rows)
    for trail in trails:
        _log.info("%s: lost in %d of %d frames", trail.path, trail.times_lost, frames)
    _log.info("%d frames, %.1f frames/s without reading and writing; %s", frames,
              (frames - 1) / max(session.seconds, 1e-9), folder if video is None else video.path)


def _open_window() -> None:
    try:
        cv2.namedWindow(_WINDOW)
    except cv2.error as error:
        raise UserError("--show True: this OpenCV cannot open a window (opencv-python-headless, or no screen); install "
                        "opencv-python instead of it, or leave --show out and watch the video it writes") from error


def _shown(image: Image, drawn: Mapping[Colour, Boxes], caption: str) -> bool:
    """Show a frame in a window; return whether q or Escape was pressed."""
    cv2.imshow(_WINDOW, with_boxes(image, drawn))
    cv2.setWindowTitle(_WINDOW, caption)
    return cv2.waitKey(1) & 0xFF in (ord("q"), 27)
