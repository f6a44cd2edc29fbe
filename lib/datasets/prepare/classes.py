"""`prepare classes`: the labelled objects of a set in COCO's form, cut out into an image folder for a classifier."""

from __future__ import annotations

import zlib
from collections import Counter

import cv2
import numpy as np
from tqdm import tqdm

from lib.crops import Image
from lib.datasets.prepare.records import safe_name
from lib.datasets.prepare.stills import locate_coco, picture_names
from lib.errors import UserError
from lib.files import atomic_write, read_json
from lib.images import read_image
from lib.options import ClassesOptions

_AROUND = 1.2  # side of the square that is cut, over the object's longer one


def main(options: ClassesOptions) -> int:
    """Write out/train/<category>/*.jpg and out/val/...; return 0. A picture's objects are all in one of the two.

    Left out, and counted: crowds, objects below --least_side px, categories with fewer than --least objects. A file
    that is there is not made again. Raises UserError.
    """
    json_path, folder, _ = locate_coco(options.root, split=options.split, annotation=options.annotation,
                                       pictures=options.pictures)
    data = read_json(json_path, max_bytes=2**32)
    names = picture_names(data["images"], json_path)
    try:
        kinds = {kind["id"]: safe_name(str(kind["name"]).replace("/", "_"), place=str(json_path))
                 for kind in data["categories"]}
        objects = [(row["image_id"], number, kinds[row["category_id"]], [float(value) for value in row["bbox"]])
                   for number, row in enumerate(data["annotations"]) if not row.get("iscrowd")]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{json_path}: not in COCO's form ({error!r}); expected categories with id and name, and "
                        f"annotations with image_id, category_id and bbox") from error
    large = [item for item in objects if min(item[3][2:]) >= options.least_side]
    count = Counter(kind for _, _, kind, _ in large)
    kept = sorted((item for item in large if count[item[2]] >= options.least), key=lambda item: str(item[0]))
    written: Counter[str] = Counter()
    image: Image = np.empty((0, 0, 3), np.uint8)
    before = None
    for picture, number, kind, box in tqdm(kept, unit="object", disable=None):
        part = "val" if zlib.crc32(str(picture).encode()) % 100 < options.val else "train"
        path = options.out / part / kind / f"{number}.jpg"
        written[part] += 1
        if path.is_file():
            continue
        if picture != before:
            image, before = read_image(folder / names[picture]), picture
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, mode="wb") as file:
            file.write(bytes(cv2.imencode(".jpg", _cut(image, box, side=options.side))[1]))
    print(f"{options.out}: {written['train']} objects to train on and {written['val']} to validate on, "
          f"{sum(number >= options.least for number in count.values())} categories; left out: "
          f"{len(objects) - len(large)} too small, {len(large) - len(kept)} of rare categories")
    return 0


def _cut(image: Image, box_xywh: list[float], *, side: int) -> Image:
    """Return the square around a box, at most `side` px; the border's px go on beyond the picture."""
    x, y, width, height = box_xywh
    half = _AROUND * max(width, height) / 2
    scale = min(1.0, side / (2 * half))
    size = max(1, round(2 * half * scale))
    matrix = np.array([[scale, 0, -scale * (x + width / 2 - half)], [0, scale, -scale * (y + height / 2 - half)]])
    return np.asarray(cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_AREA,
                                     borderMode=cv2.BORDER_REPLICATE), np.uint8)
