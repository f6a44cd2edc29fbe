"""Annotations in Pascal VOC's XML: ImageNet VID and DET, and plain folders of stills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

from lib.datasets.prepare.folders import PICTURES, find_below
from lib.datasets.prepare.records import MISSING, Box, Frame, Video, safe_name
from lib.errors import UserError
from lib.files import read_text

_MAX_XML = 16 * 2**20  # bytes
_BAD = "annotation unreadable"


class Objects(NamedTuple):
    """The boxes of one XML file, and how many objects in it had none."""

    boxes: tuple[Box, ...]
    dropped: int


def read_objects(path: Path, *, origin: int) -> Objects:
    """Return the objects of an XML file; coordinates count from `origin`, the last px is part of a box if that is 1.

    A `trackid` is the object's track, else its place among the file's objects. Raises UserError naming the file.
    """
    try:
        tree = ElementTree.fromstring(read_text(path, max_bytes=_MAX_XML))
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path}: not XML ({error})") from error
    boxes, dropped = [], 0
    for place, entry in enumerate(tree.iterfind("object")):
        try:
            x1, y1, x2, y2 = (float(_text(entry, f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax"))
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
    return Objects(tuple(boxes), dropped)


def _text(entry: ElementTree.Element, path: str) -> str:
    text = entry.findtext(path)
    if text is None:
        raise ValueError(path)
    return text


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
                objects = read_objects(path, origin=self.origin)
            except UserError as error:
                faults.append(str(error))
                dropped[_BAD] += 1
                continue
            if objects.dropped:
                dropped["no box"] += objects.dropped
            picture = _picture(self.root, f"{self.pictures}/{PurePosixPath(file).with_suffix('')}")
            if picture is None:
                dropped[MISSING] += len(objects.boxes)
                faults.append(f"{path}: no picture of this name in {self.pictures}")
            else:
                frames.append(Frame(picture, 0 if self.still else int(path.stem), objects.boxes))
        return Video(self.name, tuple(frames), dropped, tuple(faults))


def _picture(root: Path, stem: str) -> str | None:
    """Return the picture whose path but for the ending is `stem`, None if there is none."""
    return next((stem + ending for ending in PICTURES if (root / (stem + ending)).is_file()), None)


def vid_tasks(root: Path, *, split: str = "") -> list[XmlTask]:
    """Return a task for each snippet of ImageNet VID (`Annotations/VID/<split>`, `Data/VID/<split>`; split train)."""
    return list(_videos(root, "VID", split or "train"))


def _videos(root: Path, part: str, split: str) -> Iterator[XmlTask]:
    base = _folder(root, f"Annotations/{part}/{split}")
    folders: dict[str, list[str]] = {}
    for path in find_below(base, ".xml"):
        file = path.relative_to(base)
        if not (file.stem.isascii() and file.stem.isdecimal()):
            raise UserError(f"{path}: the name is no frame number; expected 000000.xml and so on")
        folders.setdefault(file.parent.as_posix(), []).append(file.as_posix())
    _any(folders, base)
    for folder, files in folders.items():
        name = safe_name(f"{split}/{folder}", place=str(base))
        yield XmlTask(root, name, tuple(files), f"Annotations/{part}/{split}", f"Data/{part}/{split}", 0, still=False)


def det_tasks(root: Path, *, split: str = "") -> list[XmlTask]:
    """Return a task for each still of ImageNet DET (`Annotations/DET/<split>`, `Data/DET/<split>`; split train)."""
    split = split or "train"
    return _stills(root, f"Annotations/DET/{split}", f"Data/DET/{split}", before=f"{split}/", origin=0)


def voc_tasks(root: Path, *, split: str = "") -> list[XmlTask]:
    """Return a task for each still of a folder in Pascal VOC's layout (`Annotations`, `JPEGImages`).

    `split` names a list of stills in `ImageSets/Main`; all that have an XML file otherwise.
    """
    tasks = _stills(root, "Annotations", "JPEGImages", before="", origin=1)
    if not split:
        return tasks
    listing = root / "ImageSets" / "Main" / f"{split}.txt"
    wanted = {line.split()[0] for line in read_text(listing).splitlines() if line.split()}
    return [task for task in tasks if task.name in wanted]


def _stills(root: Path, annotations: str, pictures: str, *, before: str, origin: int) -> list[XmlTask]:
    base = _folder(root, annotations)
    files = [path.relative_to(base).as_posix() for path in find_below(base, ".xml")]
    _any(files, base)
    return [XmlTask(root, safe_name(f"{before}{file[:-4]}", place=str(base)), (file,), annotations, pictures, origin,
                    still=True) for file in files]


def _folder(root: Path, name: str) -> Path:
    folder = root / name
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; --root is to hold {name} as the archive unpacks it")
    return folder


def _any(found: object, base: Path) -> None:
    if not found:
        raise UserError(f"{base}: no XML file in it; expected the annotations of the archive")
