"""Frames of whatever a user points at: a video file, a folder of images, a camera, a stream; and a box drawn."""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from lib.boxes import Boxes
from lib.crops import Image
from lib.errors import UserError
from lib.images import SUFFIXES, decode_ahead, list_images

DEFAULT_RATE = 25.0  # frames per second of a source that does not tell its own
MAX_RATE = 1000.0  # containers without a rate report nonsense such as 90000
_TITLE = "draw the target's box, then press Enter"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Frames, and what is known of them."""

    name: str  # fit for a file's name
    frames: Iterator[Image]  # (H, W, 3) BGR uint8
    rate: float  # frames per second when played
    count: int | None  # None: not known beforehand
    close: Callable[[], None]


def open_source(text: str) -> Source:
    """Return the source called `text`: a folder, a file, an address with ://, or a camera's number.

    A camera and a live stream give their newest frame each time, so a slow tracker falls behind by frames, not by
    minutes; a recording behind an address is read frame by frame. UserError for what is not there or has no frame.
    """
    path = Path(text)
    if path.is_dir():  # also one that is called 000123
        return _folder(path)
    if path.is_file():
        why = f"not a video that can be decoded ({path.stat().st_size} bytes); is it whole?"
        return _captured(text, name=path.stem, what=text, why=why, live=False)
    why = "cannot be opened; is it connected, and free?"
    if "://" in text:
        parts = urlsplit(text)  # a password in the address must not end in a file's name or a message
        place = f"{parts.hostname or ''}{parts.path}"
        name = re.sub(r"\W+", "_", place).strip("_") or "stream"
        return _captured(text, name=name, what=f"{parts.scheme}://{place}", why=why)
    if text.isdecimal():
        return _captured(int(text), name=f"camera{int(text)}", what=f"camera {text}", why=f"no folder, and {why}")
    raise UserError(f"{text}: no such file or folder; expected a video, a folder of images, a camera's number or an "
                    f"address such as rtsp://...")


def _folder(path: Path) -> Source:
    files = list_images(path)
    if not files and (path / "img").is_dir():  # a sequence of a test set
        return _folder(path / "img")
    if not files:
        raise UserError(f"{path}: no images in it; expected {', '.join(sorted(SUFFIXES))}")
    pool = ThreadPoolExecutor(4, thread_name_prefix="decode")
    name = path.resolve().parent.name if path.name == "img" else path.resolve().name
    frames = decode_ahead(files, pool)
    return Source(name, frames, DEFAULT_RATE, len(files), lambda: pool.shutdown(cancel_futures=True))


def _captured(address: str | int, *, name: str, what: str, why: str, live: bool = True) -> Source:
    """Return what OpenCV opens; UserError saying `why` not. `live` is what does not promise a number of frames."""
    capture = cv2.VideoCapture(address)
    if not capture.isOpened():
        raise UserError(f"{what}: {why}")
    rate, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    rate = rate if math.isfinite(rate) and 0 < rate <= MAX_RATE else DEFAULT_RATE
    total = int(count) if math.isfinite(count) and 0 < count < 1e9 else None
    if live and total is None:
        newest = Newest(capture)
        return Source(name, iter(newest), rate, None, newest.close)
    return Source(name, _decoded(capture, what, total), rate, total, capture.release)


def _decoded(capture: Any, what: str, total: int | None) -> Iterator[Image]:
    read = 0
    while True:
        good, frame = capture.read()
        if not good:
            break
        read += 1
        yield np.asarray(frame, np.uint8)
    if not read:
        raise UserError(f"{what}: no frame of it can be decoded; is it a video, and whole?")
    if total is not None and read < total - 1:  # a container's count is often one too high
        _log.warning("%s: ends after %d frames; its header promises %d", what, read, total)


class Newest:
    """The newest frame of a live source each time; a thread reads on meanwhile, so that nothing queues up."""

    def __init__(self, capture: Any) -> None:
        self._capture = capture
        self._fresh = threading.Condition()
        self._frame: Image | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._read, name="camera", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._ended:
            good, frame = self._capture.read()
            with self._fresh:
                self._frame = np.asarray(frame, np.uint8) if good else self._frame
                self._ended = self._ended or not good
                self._fresh.notify()

    def __iter__(self) -> Iterator[Image]:
        while True:
            with self._fresh:
                self._fresh.wait_for(lambda: self._frame is not None or self._ended)
                frame, self._frame = self._frame, None
            if frame is None:
                return
            yield frame

    def close(self) -> None:
        self._ended = True
        self._thread.join(timeout=5)
        self._capture.release()


def select_box(image: Image) -> Boxes:
    """Return the box (x, y, w, h), origin 0, that the user draws in an image; UserError without a screen or a box."""
    if not has_screen():
        raise UserError("there is no screen to choose the target on; give its box in the first frame as --init x,y,w,h")
    box = _in_opencv(image)
    if box is None:
        box = _in_matplotlib(image)
    if not (box[2:] > 0).all():
        raise UserError("no box was drawn; draw one and press Enter, or give it as --init x,y,w,h")
    return box


def has_screen() -> bool:
    """Return whether windows can be shown: Linux tells by the environment, other systems have a screen."""
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _in_opencv(image: Image) -> Boxes | None:
    """Return the box, None when this OpenCV was built without windows (opencv-python-headless)."""
    try:
        box = cv2.selectROI(_TITLE, image, showCrosshair=False)
        cv2.destroyWindow(_TITLE)
    except cv2.error:
        return None
    return np.asarray(box, np.float64)


def _in_matplotlib(image: Image) -> Boxes:
    import matplotlib.pyplot as plt
    from matplotlib.backend_bases import MouseButton
    from matplotlib.widgets import RectangleSelector

    if plt.get_backend().lower() == "agg":
        raise UserError("neither OpenCV nor matplotlib can open a window here (opencv-python or PyQt6 brings one); "
                        "give the target's box as --init x,y,w,h")
    figure, axes = plt.subplots()
    axes.imshow(image[:, :, ::-1])
    axes.set_axis_off()
    axes.set_title(_TITLE)
    selector = RectangleSelector(axes, lambda *_: None, useblit=True, button=[MouseButton.LEFT], interactive=True)
    figure.canvas.mpl_connect("key_press_event", lambda event: plt.close(figure) if event.key == "enter" else None)
    plt.show()
    x1, x2, y1, y2 = selector.extents
    # imshow has the middle of pixel 0 at 0; boxes begin at its edge.
    return np.array([x1 + 0.5, y1 + 0.5, x2 - x1, y2 - y1])
