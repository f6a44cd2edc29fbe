"""Stills, and videos annotated frame by frame: COCO, Pascal VOC's XML (VOC, ImageNet DET and VID), YouTube-BB."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from lib.datasets.prepare import ABSENT, MISSING, Box, Frame, Video, find_below, safe_name
from lib.errors import UserError
from lib.files import read_json, read_text

_BAD_XML = "annotation unreadable"
ENDINGS = (".JPEG", ".jpg", ".jpeg", ".JPG", ".png", ".PNG", ".bmp", ".webp")  # of pictures, as looked for
_COLUMNS = ("youtube_id", "timestamp_ms", "class_id", "class_name", "object_id", "object_presence", "xmin", "xmax",
            "ymin", "ymax")


# ---- COCO: a JSON of images and annotations with `bbox` x, y, w, h and `iscrowd`


def coco_tasks(root: Path, *, split: str = "", annotation: str = "", pictures: str = "") -> list[Video]:
    """Return a task for each picture that has annotations.

    Looks for the official layout (`annotations/instances_<split>.json` beside `<split>/`; split train2017), then for
    one JSON at the root beside `images/`; `annotation` and `pictures` (paths below the root) name others. Raises
    UserError if they are not found or not in COCO's form.
    """
    json_path, folder, before = locate_coco(root, split=split, annotation=annotation, pictures=pictures)
    data = read_json(json_path)
    if not isinstance(data, dict) or not all(isinstance(data.get(k), list) for k in ("images", "annotations")):
        raise UserError(f"{json_path}: not in COCO's form; expected an object with lists 'images' and 'annotations'")
    names = picture_names(data["images"], json_path)
    boxes: dict[Any, list[Box]] = {}
    dropped: dict[Any, Counter[str]] = {}
    for number, entry in enumerate(data["annotations"]):
        image = entry.get("image_id") if isinstance(entry, dict) else None
        if not isinstance(image, int | str) or image not in names:
            raise UserError(f"{json_path}: annotations[{number}] has image_id {image!r:.60}, which no image has")
        box, fault = _coco_box(entry, track=len(boxes.setdefault(image, [])))
        if box is None:
            dropped.setdefault(image, Counter())[fault] += 1
        else:
            boxes[image].append(box)
    prefix = folder.relative_to(root).as_posix()
    videos = _video_names({image: before + names[image] for image in boxes})
    return [Video(videos[image], (Frame(f"{prefix}/{names[image]}", 0, tuple(found)),), dropped.get(image, {}))
            for image, found in boxes.items()]


def _video_names(pictures: dict[Any, str]) -> dict[Any, str]:
    """Return each picture's video name: its path without the ending, made unique where that alone tells two apart."""
    taken: set[str] = set()
    videos = {}
    for image, picture in pictures.items():
        names = (str(PurePosixPath(picture).with_suffix("")), picture, f"{picture}.{image}")
        videos[image] = next((name for name in names if name not in taken), names[-1])
        taken.add(videos[image])
    return videos


def picture_names(images: Sequence[Any], path: Path) -> dict[Any, str]:
    """Return each picture's file name by its id; raise UserError for one that lacks either, or has another's id."""
    names: dict[Any, str] = {}
    for number, image in enumerate(images):
        try:
            key, name = image["id"], str(image["file_name"])
        except (TypeError, KeyError) as error:
            raise UserError(f"{path}: images[{number}] lacks {error}; expected 'id' and 'file_name'") from error
        if not isinstance(key, int | str) or key in names:
            raise UserError(f"{path}: images[{number}] has id {key!r:.60}; expected a number of its own")
        names[key] = safe_name(name, place=f"{path}: images[{number}]")
    return names


def _coco_box(entry: dict[str, Any], *, track: int) -> tuple[Box | None, str]:
    """Return the box of an annotation, or None and why it has none."""
    if entry.get("iscrowd"):
        return None, "a crowd"
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
        return None, "no x, y, w, h"
    x, y, w, h = (float(v) for v in box)
    return Box(track, (x, y, x + w, y + h)), ""


def locate_coco(root: Path, *, split: str, annotation: str, pictures: str) -> tuple[Path, Path, str]:
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
    if not folder.is_dir() or not folder.is_relative_to(root):
        raise UserError(f"{folder}: no such folder below {root}; expected the pictures of {path.name} (--pictures "
                        "names another folder there)")
    return path, folder, before


# ---- Pascal VOC's XML


def read_objects(path: Path, *, origin: int) -> tuple[tuple[Box, ...], int]:
    """Return the boxes of an XML file, and how many objects in it have none.

    Coordinates count from `origin`, the last px is part of a box if that is 1.
    A `trackid` is the object's track, else its place among the file's objects. Raises UserError naming the file.
    """
    try:
        tree = ElementTree.fromstring(read_text(path))
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path}: not XML ({error})") from error
    boxes, dropped = [], 0
    for place, entry in enumerate(tree.iterfind("object")):
        try:
            x1, y1, x2, y2 = (float(entry.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax"))
            track = entry.findtext("trackid")
            boxes.append(Box(
                place if track is None else int(track), (x1 - origin, y1 - origin, x2, y2),
                occluded=entry.findtext("occluded", "0").strip() == "1",
                generated=entry.findtext("generated", "0").strip() == "1",
            ))
        except ValueError:
            dropped += 1
    if len({box.track for box in boxes}) < len(boxes):
        raise UserError(f"{path}: two objects have the same trackid")
    return tuple(boxes), dropped


@dataclass(frozen=True)
class XmlTask:
    """The XML files of a video, or the one of a still."""

    root: Path
    name: str
    files: tuple[str, ...]  # below `annotations`
    annotations: str  # folder of the XML files, below root
    pictures: str  # folder of the pictures, laid out alike
    origin: int
    still: bool

    def read(self) -> Video:
        """Return the annotation. A file that cannot be read is a fault of its frame alone."""
        frames, faults, dropped = [], [], Counter[str]()
        for file in self.files:
            path = self.root / self.annotations / file
            try:
                boxes, lost = read_objects(path, origin=self.origin)
            except UserError as error:
                faults.append(str(error))
                dropped[_BAD_XML] += 1
                continue
            dropped.update({"no box": lost} if lost else {})
            stem = f"{self.pictures}/{PurePosixPath(file).with_suffix('')}"
            picture = next((stem + ending for ending in ENDINGS if (self.root / (stem + ending)).is_file()), None)
            if picture is None:
                dropped[MISSING] += len(boxes)
                faults.append(f"{path}: no picture of this name in {self.pictures}")
            else:
                frames.append(Frame(picture, 0 if self.still else int(path.stem), boxes))
        return Video(self.name, tuple(frames), dropped, tuple(faults))


def vid_tasks(root: Path, *, split: str = "") -> list[XmlTask]:
    """Return a task for each snippet of ImageNet VID (`Annotations/VID/<split>`, `Data/VID/<split>`; split train)."""
    split = split or "train"
    base, files = _xml_files(root, f"Annotations/VID/{split}")
    folders: dict[str, list[str]] = {}
    for file in files:
        if not (file.stem.isascii() and file.stem.isdecimal()):
            raise UserError(f"{base / file}: the name is no frame number; expected 000000.xml and so on")
        folders.setdefault(file.parent.as_posix(), []).append(file.as_posix())
    return [XmlTask(root, safe_name(f"{split}/{folder}", place=str(base)), tuple(inside), f"Annotations/VID/{split}",
                    f"Data/VID/{split}", 0, still=False) for folder, inside in folders.items()]


def det_tasks(root: Path, *, split: str = "") -> list[XmlTask]:
    """Return a task for each still of ImageNet DET (`Annotations/DET/<split>`, `Data/DET/<split>`; split train)."""
    split = split or "train"
    return _stills(root, f"Annotations/DET/{split}", f"Data/DET/{split}", before=f"{split}/", origin=0)


def voc_tasks(root: Path, *, split: str = "") -> list[XmlTask]:
    """Return a task for each still in Pascal VOC's layout, or of the list `split` in `ImageSets/Main`."""
    tasks = _stills(root, "Annotations", "JPEGImages", before="", origin=1)
    if not split:
        return tasks
    listing = root / "ImageSets" / "Main" / f"{split}.txt"
    wanted = {line.split()[0] for line in read_text(listing).splitlines() if line.split()}
    return [task for task in tasks if task.name in wanted]


def _stills(root: Path, annotations: str, pictures: str, *, before: str, origin: int) -> list[XmlTask]:
    base, files = _xml_files(root, annotations)
    return [XmlTask(root, safe_name(f"{before}{file.as_posix()[:-4]}", place=str(base)), (file.as_posix(),),
                    annotations, pictures, origin, still=True) for file in files]


def _xml_files(root: Path, name: str) -> tuple[Path, list[Path]]:
    """Return the folder of annotations below the root and the paths of its XML files below that."""
    base = root / name
    if not base.is_dir():
        raise UserError(f"{base}: no such folder; --root is to hold {name} as the archive unpacks it")
    files = [path.relative_to(base) for path in find_below(base, ".xml")]
    if not files:
        raise UserError(f"{base}: no XML file in it; expected the annotations of the archive")
    return base, files


# ---- YouTube-BoundingBoxes: a CSV of annotations at one frame a second


@dataclass(frozen=True)
class YoutubeTask:
    """The rows of one video and class: pieces (offset, bytes) of the CSV, which each process reads for itself."""

    root: Path
    split: str
    name: str  # split/class/youtube id
    pieces: tuple[tuple[int, int], ...]

    def read(self) -> Video:
        """Return the frames at hand; frame numbers are whole seconds, so RANGE counts seconds."""
        frames, dropped, seen = [], Counter[str](), set[tuple[int, int]]()
        for place, row in self._rows():
            stem = f"{row['youtube_id']}_{row['timestamp_ms']}_{row['class_id']}_{row['object_id']}"
            picture = safe_name(f"{self.split}/{row['class_id']}/{stem}.jpg", place=place)
            try:
                x1, y1, x2, y2 = (float(row[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
                second, track = int(row["timestamp_ms"]) // 1000, int(row["object_id"])
            except ValueError as error:
                raise UserError(f"{place}: {error}; expected {', '.join(_COLUMNS)}") from error
            if (track, second) in seen:
                dropped["a second box in the same second"] += 1
                continue
            seen.add((track, second))
            absent = row["object_presence"] == "absent"
            if (self.root / picture).is_file():
                box = Box(track, (x1, y1, x2, y2), absent=absent)
                frames.append(Frame(picture, second, (box,), relative=True))
            else:
                dropped[ABSENT if absent else MISSING] += 1
        return Video(self.name, tuple(frames), dropped)

    def _rows(self) -> list[tuple[str, dict[str, str]]]:
        """Return (place for messages, row) of each line of the pieces."""
        path = self.root / f"{self.split}.csv"
        rows = []
        with path.open("rb") as file:
            for start, length in self.pieces:
                file.seek(start)
                for values in csv.reader(file.read(length).decode().splitlines()):
                    place = f"{path}: byte {start}: {','.join(values)[:80]}"
                    if len(values) != len(_COLUMNS):
                        raise UserError(f"{place}; expected {len(_COLUMNS)} columns, {', '.join(_COLUMNS)}")
                    rows.append((place, dict(zip(_COLUMNS, values, strict=True))))
        return rows


def youtube_tasks(root: Path, *, split: str = "") -> list[YoutubeTask]:
    """Return a task for each video and class of `<split>.csv`; UserError if it is missing, packed, or another form."""
    split = split or "yt_bb_detection_train"
    path = root / f"{split}.csv"
    if not path.is_file():
        packed = path.with_name(path.name + ".gz").is_file()
        raise UserError(f"{path}: no such file; {f'unpack it: gunzip {path}.gz' if packed else 'expected the CSV'}")
    pieces: dict[str, list[tuple[int, int]]] = {}
    at, last = 0, ""
    with path.open("rb") as file:
        for line in file:
            values = line.split(b",", 3)
            if len(values) < 4:
                raise UserError(f"{path}: byte {at}: {line[:80]!r}; expected {', '.join(_COLUMNS)}")
            video = safe_name(f"{values[2].decode()}/{values[0].decode()}", place=f"{path}: byte {at}")
            runs = pieces.setdefault(video, [])
            if video == last:
                runs[-1] = (runs[-1][0], runs[-1][1] + len(line))
            else:
                runs.append((at, len(line)))
            at, last = at + len(line), video
    return [YoutubeTask(root, split, f"{split}/{video}", tuple(runs)) for video, runs in pieces.items()]
