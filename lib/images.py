"""Images of a sequence, decoded ahead of their use by a pool of threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from lib.crops import Image
from lib.errors import UserError
from lib.files import MAX_PICTURE_BYTES, read_regular

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


def read_image(path: Path) -> Image:
    """Return the image (H, W, 3) BGR uint8 in a file, gray ones with three equal channels.

    Raises UserError naming the file when it is missing, not an image, or a JPEG that breaks off (which a decoder would
    complete with gray).
    """
    try:
        data = read_regular(path, max_bytes=MAX_PICTURE_BYTES)
    except OSError as error:
        raise UserError(f"{path}: the image cannot be read ({error.strerror}); is the data set whole?") from error
    # A whole JPEG ends with a marker; bytes may follow it, and a thumbnail in the header has one of its own.
    cut_off = data.startswith(_JPEG_START) and data.rfind(_JPEG_END, len(data) // 2) < 0
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data and not cut_off else None
    except cv2.error:  # larger than OPENCV_IO_MAX_IMAGE_PIXELS, which `lib` sets
        image = None
    if image is None:
        what = "empty" if not data else "a JPEG that breaks off" if cut_off else "not an image that can be decoded"
        raise UserError(f"{path}: {what} ({len(data)} bytes); copy it again from the data set")
    return np.asarray(image, np.uint8)


def decode_ahead(paths: Sequence[Path], pool: ThreadPoolExecutor, *, ahead: int = 3) -> Iterator[Image]:
    """Return the images of `paths` in order, up to `ahead` of them being decoded before they are asked for.

    Decoding starts at once. Raises UserError when the image that cannot be read is asked for, not before.
    """
    assert ahead >= 1, ahead
    rest = iter(paths)
    pending: deque[Future[Image]] = deque(pool.submit(read_image, path) for path in islice(rest, ahead))

    def images() -> Iterator[Image]:
        try:
            while pending:
                image = pending.popleft().result()
                if (path := next(rest, None)) is not None:
                    pending.append(pool.submit(read_image, path))
                yield image
        finally:
            for future in pending:  # left early: nobody will ask for these
                future.cancel()

    return images()
