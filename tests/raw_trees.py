"""Pictures and small raw data sets in their official layouts for the tests of `prepare`, with the traps they hold."""

from pathlib import Path

import cv2
import numpy as np


def picture(width: int = 160, height: int = 120, *, seed: int = 0) -> np.ndarray:
    """Return a picture of smooth noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3)


def write_picture(path: Path, image: np.ndarray | None = None, *, damage: str = "") -> None:
    """Write a picture; `damage` "cut" keeps its first half, "gray" drops its colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = picture() if image is None else image
    if damage == "gray":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    data = bytes(cv2.imencode(path.suffix.lower(), image)[1])
    path.write_bytes(data[: len(data) // 2] if damage == "cut" else data)


def write_cmyk(path: Path) -> None:
    """Write a CMYK JPEG, as a few pictures of ImageNet are."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.dstack([picture(), np.full((120, 160), 30, np.uint8)]), "CMYK").save(path, "JPEG")


def coco_tree(root: Path) -> dict:
    """Return the annotation of a COCO tree at `root` (official layout) with every trap; its pictures are written."""
    folder = root / "train2017"
    for name, damage in (("000000000009.jpg", ""), ("gray.jpg", "gray"), ("cut.jpg", "cut"), ("größe/ü 1.jpg", "")):
        write_picture(folder / name, damage=damage)
    write_cmyk(folder / "cmyk.jpg")
    write_picture(folder / "same.jpg")
    write_picture(folder / "same.png")
    names = ["000000000009.jpg", "gray.jpg", "cut.jpg", "größe/ü 1.jpg", "cmyk.jpg", "same.jpg", "same.png", "gone.jpg"]
    images = [{"id": k, "file_name": name, "width": 160, "height": 120} for k, name in enumerate(names, start=1)]
    good = [30.5, 20, 50, 40]
    boxes = [(1, good, 0), (1, [5, 5, 20, 20], 0), (1, good, 1), (1, [200, 20, 50, 40], 0), (1, [10, 10, 0, 40], 0),
             (1, [10, 10, 40, 3], 0), (1, [0, 0, 160, 120], 0), (1, [10, 50, 140, 9], 0), (1, [150, 10, 60, 60], 0),
             (1, [float("nan"), 10, 40, 40], 0), (1, [1, 2, 3], 0), (1, None, 0), *((k, good, 0) for k in range(2, 9))]
    annotations = [{"id": k, "image_id": image, "bbox": box, "iscrowd": crowd, "category_id": 1}
                   for k, (image, box, crowd) in enumerate(boxes)]
    return {"images": images, "annotations": annotations}


COCO_DROPPED = {  # what `coco_tree` holds that is of no use, with the default filters
    "a crowd": 1, "no x, y, w, h": 2, "not a number": 1, "no area": 1, "a side under 8 px": 1, "outside the picture": 1,
    "over 0.9 of the picture": 1, "longer than 10 times its width": 1, "less than 0.3 visible": 1,
    "picture missing": 1, "picture unreadable": 1,
}
