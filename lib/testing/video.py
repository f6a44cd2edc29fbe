"""Videos with boxes drawn in, in a form that browsers play where the encoders of this machine allow."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike

from lib.benchmarks import Sequence
from lib.crops import Image
from lib.errors import UserError
from lib.tracker import TrackState

Colour = tuple[int, int, int]
GREEN: Colour = (80, 220, 80)  # BGR; the ground truth
YELLOW: Colour = (0, 220, 255)  # the tracker
# FourCC and suffix. Browsers play H.264 and VP8, not the MPEG-4 that is left where OpenCV has neither. (VP9 is smaller
# and five times slower than VP8 with OpenCV's settings.)
ENCODERS = (("avc1", ".mp4"), ("VP80", ".webm"), ("mp4v", ".mp4"))
_log = logging.getLogger(__name__)


class BoxVideo:
    """Writes frames with boxes to a video `<path>.mp4` or `<path>.webm`, which appears when it is whole.

    A suffix .mp4 of the given path is none of the name.
    """

    def __init__(self, path: Path, *, frames_per_second: float = 25.0) -> None:
        self._code, suffix = find_encoder()
        name = path.name.removesuffix(".mp4")
        self.path = path.with_name(name + suffix)
        self._rate = frames_per_second
        self._part = path.with_name(f".{name}.part{suffix}")
        self._writer: Any = None
        self._size = (0, 0)

    def write(self, image: Image, boxes_xywh: Mapping[Colour, ArrayLike], *, caption: str = "") -> None:
        """Add a frame; image and boxes are those of `with_boxes`."""
        canvas = with_boxes(image, boxes_xywh)
        if caption:
            draw_caption(canvas, caption)
        if self._writer is None:
            self._open(canvas.shape[1], canvas.shape[0])
        if (canvas.shape[1], canvas.shape[0]) != self._size:
            canvas = np.asarray(cv2.resize(canvas, self._size), np.uint8)
        self._writer.write(canvas)

    def _open(self, width: int, height: int) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path.parent}: cannot be made ({error.strerror})") from error
        self._size = (width, height)
        self._writer = _writer(self._part, self._code, self._rate, self._size)
        if not self._writer.isOpened():
            raise UserError(f"{self.path}: a video of {width} x {height} cannot be written here; is the folder "
                            f"writable, and does this OpenCV have a video encoder?")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._part.replace(self.path)
            self._writer = None


class SequenceVideos:
    """A video per sequence in `vis` of the folder of results: tracker yellow, ground truth green."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "vis"
        self._open: dict[str, BoxVideo] = {}

    def frame(self, sequence: Sequence, index: int, image: Image, state: TrackState | None) -> None:
        """Add a frame to a sequence's video. There is no state after a failure in the restart protocol."""
        name, truth = sequence.name, sequence.boxes_xywh
        video = self._open.setdefault(name, BoxVideo(self._folder / name))
        boxes = {GREEN: truth[index]} | ({} if state is None else {YELLOW: state.box_xywh})
        said = "lost" if state is None else f"{state.score:.2f} {getattr(state, 'presence', state.score):.2f}"
        video.write(image, boxes, caption=f"{name} {index + 1}/{len(truth)}  {said}")

    def close(self, name: str) -> None:
        if (video := self._open.pop(name, None)) is not None:
            video.close()


def with_boxes(image: Image, boxes_xywh: Mapping[Colour, ArrayLike]) -> Image:
    """Return an image (H, W, 3) BGR with each box (4,), origin 0, drawn in its colour. A NaN box is not."""
    canvas = image.copy()
    for colour, box in boxes_xywh.items():
        values = np.asarray(box, np.float64)
        if np.isfinite(values).all():
            x, y, w, h = values.tolist()
            cv2.rectangle(canvas, (round(x), round(y)), (round(x + w), round(y + h)), colour, 2)
    return canvas


def draw_caption(canvas: Image, text: str) -> None:
    """Draw white text on a dark box into the upper left corner, broken at blanks and sized to fit the picture."""
    height, width = canvas.shape[:2]
    font = cv2.FONT_HERSHEY_SIMPLEX
    scale = max(0.4, height / 650)
    thickness = max(1, round(scale))

    def wide(line: str) -> int:
        return cv2.getTextSize(line.strip(), font, scale, thickness)[0][0]

    first, *words = text.split(" ")
    lines = [first]
    for word in words:
        longer = f"{lines[-1]} {word}"
        lines[-1:] = [longer] if wide(longer) <= width - 8 else [lines[-1], word]
    scale = max(0.25, min(1.0, (width - 8) / max(1, *map(wide, lines))) * scale)
    # One text and its measured size: outlines of a thicker text do not fit the thin one in OpenCV 5.
    (_, tall), below = cv2.getTextSize(text, font, scale, thickness)
    step = tall + below + 3
    cv2.rectangle(canvas, (0, 0), (max(map(wide, lines)) + 8, step * len(lines) + 3), (32, 32, 32), cv2.FILLED)
    for place, line in enumerate(lines):
        cv2.putText(canvas, line.strip(), (4, place * step + tall + 3), font, scale, (255, 255, 255), thickness,
                    cv2.LINE_AA)


@functools.cache
def find_encoder() -> tuple[str, str]:
    """Return the first of ENCODERS that writes a frame here; say so if that is one that browsers do not play."""
    with tempfile.TemporaryDirectory() as folder:
        for code, suffix in ENCODERS[:-1]:
            path = Path(folder) / f"{code}{suffix}"
            writer = _writer(path, code, 25.0, (320, 240))
            writer.write(np.zeros((240, 320, 3), np.uint8))
            writer.release()
            if path.is_file() and cv2.VideoCapture(str(path)).read()[0]:
                return code, suffix
    _log.warning("no video encoder here that browsers know (H.264, VP8): videos are MPEG-4, which players such as VLC "
                 "show")
    return ENCODERS[-1]


def _writer(path: Path, code: str, rate: float, size: tuple[int, int]) -> Any:
    """Return a writer. FFmpeg's words about encoders that are not there, on standard error itself, are not shown."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 2)
        return cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), rate, size)
    finally:
        os.dup2(kept, 2)
        os.close(kept)
