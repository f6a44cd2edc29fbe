"""COCO-form stills: a JSON of images, annotations with `bbox` x, y, w, h and `iscrowd`, and a folder of pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lib.datasets.prepare.records import Box, Frame, Video, safe_name
from lib.errors import UserError
from lib.files import read_json

_MAX_JSON = 4 * 2**30  # bytes; instances_train2017.json has 0.45 GB


@dataclass(frozen=True)
class Still:
    """One picture and its annotations."""

    name: str
    picture: str
    boxes: tuple[Box, ...]
    dropped: tuple[tuple[str, int], ...]

    def read(self) -> Video:
        """Return the picture as a video of one frame."""
        return Video(self.name, (Frame(self.picture, 0, self.boxes),), dict(self.dropped))


def tasks(root: Path, *, split: str = "", annotation: str = "", pictures: str = "") -> list[Still]:
    """Return a task for each picture that has annotations.

    Looks for the official layout (`annotations/instances_<split>.json` beside `<split>/`; split train2017), then for
    one JSON at the root beside `images/`; `annotation` and `pictures` (paths below the root) name others. Raises
    UserError if they are not found or not in COCO's form.
    """
    json_path, folder, before = _locate(root, split=split, annotation=annotation, pictures=pictures)
    data = read_json(json_path, max_bytes=_MAX_JSON)
    if not isinstance(data, dict) or not all(isinstance(data.get(k), list) for k in ("images", "annotations")):
        raise UserError(f"{json_path}: not in COCO's form; expected an object with lists 'images' and 'annotations'")
    names = _picture_names(data["images"], json_path)
    boxes: dict[Any, list[Box]] = {}
    dropped: dict[Any, Counter[str]] = {}
    for number, entry in enumerate(data["annotations"]):
        image = entry.get("image_id") if isinstance(entry, dict) else None
        if not isinstance(image, int | str) or image not in names:
            raise UserError(f"{json_path}: annotations[{number}] has image_id {image!r:.60}, which no image has")
        box, fault = _box(entry, track=len(boxes.setdefault(image, [])))
        if box is None:
            dropped.setdefault(image, Counter())[fault] += 1
        else:
            boxes[image].append(box)
    prefix = folder.relative_to(root).as_posix()
    videos = _video_names({image: before + names[image] for image in boxes})
    return [
        Still(videos[image], f"{prefix}/{names[image]}", tuple(found), tuple(dropped.get(image, Counter()).items()))
        for image, found in boxes.items()
    ]


def _video_names(pictures: dict[Any, str]) -> dict[Any, str]:
    """Return each picture's video name: its path without the ending, made unique where that alone tells two apart."""
    taken: set[str] = set()
    videos = {}
    for image, picture in pictures.items():
        name = str(PurePosixPath(picture).with_suffix(""))
        for attempt in (name, picture, f"{picture}.{image}"):
            if attempt not in taken:
                break
        taken.add(attempt)
        videos[image] = attempt
    return videos


def _picture_names(images: Sequence[Any], path: Path) -> dict[Any, str]:
    names: dict[Any, str] = {}
    for number, image in enumerate(images):
        try:
            key, name = image["id"], str(image["file_name"])
        except (TypeError, KeyError) as error:
            raise UserError(f"{path}: images[{number}] lacks {error}; expected 'id' and 'file_name'") from error
        if not isinstance(key, int | str):
            raise UserError(f"{path}: images[{number}] has id {key!r:.60}; expected a number")
        if key in names:
            raise UserError(f"{path}: images[{number}] has id {key}, which stands twice")
        names[key] = safe_name(name, place=f"{path}: images[{number}]")
    return names


def _box(entry: dict[str, Any], *, track: int) -> tuple[Box | None, str]:
    """Return the box of an annotation, or None and why it has none."""
    if entry.get("iscrowd"):
        return None, "a crowd"
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
        return None, "no x, y, w, h"
    x, y, w, h = (float(v) for v in box)
    return Box(track, (x, y, x + w, y + h)), ""


def _locate(root: Path, *, split: str, annotation: str, pictures: str) -> tuple[Path, Path, str]:
    """Return the annotation file, the folder of the pictures and what stands before them in the crop folder."""
    before = f"{split}/" if split else ""
    official = root / "annotations" / f"instances_{split or 'train2017'}.json"
    jsons = sorted(root.glob("*.json"))
    if annotation:
        path, folder = root / annotation, root / (pictures or split or "images")
    elif official.is_file():
        path, folder, before = official, root / (pictures or split or "train2017"), before or "train2017/"
    elif len(jsons) == 1:
        path, folder = jsons[0], root / (pictures or "images")
    else:
        found = ", ".join(p.name for p in jsons[:5]) or "none"
        raise UserError(f"{root}: expected annotations/{official.name} or one JSON (found: {found}); name it with "
                        f"--annotation and the folder of pictures with --pictures")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected the pictures of {path.name} (--pictures names another)")
    return path, folder, before
