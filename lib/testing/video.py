"""A video file of a sequence with boxes drawn in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike

from lib.crops import Image
from lib.errors import UserError

Colour = tuple[int, int, int]
GREEN: Colour = (80, 220, 80)  # BGR; the ground truth
YELLOW: Colour = (0, 220, 255)  # the tracker


class BoxVideo:
    """Writes frames with boxes to an .mp4 file, which appears under its name when it is whole."""

    def __init__(self, path: Path, *, frames_per_second: float = 25.0) -> None:
        self.path = path
        self._rate = frames_per_second
        self._part = path.with_name(f".{path.stem}.part{path.suffix}")
        self._writer: Any = None
        self._size = (0, 0)

    def write(self, image: Image, boxes_xywh: Mapping[Colour, ArrayLike], *, caption: str = "") -> None:
        """Add a frame (H, W, 3) BGR with each box (4,), origin 0, in its colour. A NaN box is not drawn."""
        canvas = image.copy()
        for colour, box in boxes_xywh.items():
            values = np.asarray(box, np.float64)
            if np.isfinite(values).all():
                x, y, w, h = values.tolist()
                cv2.rectangle(canvas, (round(x), round(y)), (round(x + w), round(y + h)), colour, 2)
        if caption:
            cv2.putText(canvas, caption, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 3, cv2.LINE_AA)
            cv2.putText(canvas, caption, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (255, 255, 255), 1, cv2.LINE_AA)
        if self._writer is None:
            self._open(canvas.shape[1], canvas.shape[0])
        if (canvas.shape[1], canvas.shape[0]) != self._size:
            canvas = np.asarray(cv2.resize(canvas, self._size), np.uint8)
        self._writer.write(canvas)

    def _open(self, width: int, height: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._size = (width, height)
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._part), code, self._rate, self._size)
        if not self._writer.isOpened():
            raise UserError(f"{self.path}: a video of {width} x {height} cannot be written here; is the folder "
                            f"writable, and does this OpenCV have a video encoder?")

    def close(self) -> None:
        """Finish the file. Without a frame nothing is written."""
        if self._writer is not None:
            self._writer.release()
            self._part.replace(self.path)
            self._writer = None
