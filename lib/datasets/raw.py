"""Training straight from the original pictures: no crops on the disk, the view is cut when it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.boxes import Boxes
from lib.crops import (
    CROP_SIZE,
    TEMPLATE_SIZE,
    Image,
    box_in_crop511,
    context_side,
    crop_square,
    mean_colour,
    transform_box,
)
from lib.datasets.index import TrackIndex
from lib.datasets.pairs import Crop, UnreadableCrop
from lib.datasets.pictures import Pictures
from lib.files import MAX_PICTURE_BYTES, read_regular
from lib.images import decode

_LARGEST_REDUCTION = 8  # of libjpeg's transform


@dataclass(frozen=True)
class RawPictures:
    """The original pictures below a folder."""

    root: Path
    pictures: Pictures

    def read(self, index: TrackIndex, track: int, row: int, view_xyxy: Boxes | None = None, /) -> Crop:
        """Return the picture of one row of a track and where the object's crop lies in it.

        A JPEG is decoded at 1/2, 1/4 or 1/8 of its size whenever the object is so large that its crop has fewer px
        than that. Raises UnreadableCrop naming the file.
        """
        path = f"{self.root}/{self.pictures.path(index, track, row)}"
        box = index.boxes_xyxy[row].astype(np.float64)
        size = box[2:] - box[:2]
        reduce = reduction(context_side(size) / TEMPLATE_SIZE)
        try:
            image = decode(read_regular(path, max_bytes=MAX_PICTURE_BYTES), reduce=reduce)
        except OSError as error:
            raise UnreadableCrop(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise UnreadableCrop(f"{path}: {error}") from error
        height, width = image.shape[:2]
        if not (box[0] < width * reduce and box[1] < height * reduce and box[2] > 0 and box[3] > 0):
            raise UnreadableCrop(f"{path}: box {box.tolist()} lies outside the picture of {width * reduce} x "
                                 f"{height * reduce} px")
        square = crop_square(box)
        side = (square[2] - square[0]) / (CROP_SIZE - 1)  # image px of a crop px
        # Px centres: px i of a picture reduced k times shows the whole one's px k i .. k i + k - 1.
        matrix = np.array([[side, 0.0, square[0]], [0.0, side, square[1]]]) / reduce
        matrix[:, 2] += 0.5 / reduce - 0.5
        crop = Crop(image, box_in_crop511(size), matrix)
        return crop if _inside(crop, view_xyxy) else crop._replace(fill=_fill(image))


def reduction(scale: float) -> int:
    """Return 1, 2, 4 or 8: by how much a picture with `scale` px to a crop px can be reduced without losing detail."""
    reduce = 1
    while reduce < _LARGEST_REDUCTION and 2 * reduce <= scale:
        reduce *= 2
    return reduce


def _inside(crop: Crop, view_xyxy: Boxes | None) -> bool:
    """Return whether a view of a crop lies within its picture, so that the colour outside does not matter."""
    if view_xyxy is None or crop.to_image is None:
        return False
    x1, y1, x2, y2 = transform_box(view_xyxy, crop.to_image)
    height, width = crop.image.shape[:2]
    return bool(x1 >= 0 and y1 >= 0 and x2 <= width - 1 and y2 <= height - 1)


def _fill(image: Image) -> tuple[float, float, float]:
    blue, green, red = mean_colour(image)
    return float(blue), float(green), float(red)
