"""A box drawn with the mouse, where there is a screen: in OpenCV's window, or in matplotlib's."""

from __future__ import annotations

import os
import sys

import cv2
import numpy as np

from lib.boxes import Boxes
from lib.crops import Image
from lib.errors import UserError

_TITLE = "draw the target's box, then press Enter"


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
