"""Decoding of pictures into BGR pixels, the same on every machine whichever decoder is installed.

libjpeg-turbo through simplejpeg gives exactly the pixels of OpenCV, a little faster (`perf/loader.py` compares
them), and unlike OpenCV it reports damage; what it does not take (PNG and the like) goes through OpenCV.
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

from lib.crops import Image

MAX_PIXELS = 2**27  # of a picture: 400 MB once decoded; a file of a few kilobytes can claim 4 thousand million
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_TAIL = 4096  # bytes at the end in which the end mark must stand: some padding or metadata may follow it
_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4,
            8: cv2.IMREAD_REDUCED_COLOR_8}


def decode(data: bytes, *, reduce: int = 1) -> Image:
    """Return the pixels uint8 (H, W, 3), BGR, of an encoded picture; raise ValueError saying what is wrong with it.

    `reduce` 2, 4 or 8 gives a picture of 1/2, 1/4 or 1/8 of the size (rounded up), scaled within the JPEG transform,
    which costs less time than decoding it whole. Orientation marks (EXIF) are ignored: boxes are drawn on the stored
    raster. A JPEG that is cut short is an error, not a picture with a gray lower part.
    """
    if not data:
        raise ValueError("an empty file")
    if data[:3] == _JPEG_START:
        if _JPEG_END not in data[-_TAIL:]:
            raise ValueError("a JPEG that is cut short")
        try:
            return _turbo(data, reduce)
        except ValueError as error:
            # Stray bytes between segments do no harm, and other kinds of JPEG are OpenCV's; damaged pixels are refused.
            if "Corrupt JPEG" in str(error) and "extraneous bytes" not in str(error):
                raise ValueError(f"a damaged JPEG ({error})") from error
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[reduce] | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # larger than OPENCV_IO_MAX_IMAGE_PIXELS, which `lib` sets
        picture = None
    if picture is None:
        raise ValueError("a damaged JPEG" if data[:3] == _JPEG_START else "not an image")
    return np.asarray(picture, np.uint8)


def _turbo(data: bytes, reduce: int) -> Image:
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    if height * width > MAX_PIXELS:
        raise ValueError(f"Corrupt JPEG: {width} x {height} px, at most {MAX_PIXELS} px are read")
    if reduce == 1:
        return np.asarray(simplejpeg.decode_jpeg(data, "BGR"), np.uint8)
    # The library picks the smallest scale that keeps both minima.
    small = simplejpeg.decode_jpeg(
        data, "BGR", min_height=-(-height // reduce), min_width=-(-width // reduce), min_factor=1
    )
    return np.asarray(small, np.uint8)
