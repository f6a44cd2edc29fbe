"""What the sources made of folders of videos share: listing them, numbering pictures, reading boxes and flags."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.boxes import Boxes, xywh_to_xyxy
from lib.datasets.prepare.records import ABSENT, MISSING, Box, Frame, Video, safe_name
from lib.errors import UserError
from lib.files import read_text

PICTURES = (".JPEG", ".jpg", ".jpeg", ".JPG", ".png", ".PNG", ".bmp", ".webp")  # endings that are looked for


def video_folders(base: Path, *, truth: str, listing: Path | None = None) -> list[Path]:
    """Return the video folders below `base`: those that `listing` names, one a line, else those that hold `truth`.

    Raises UserError for a listed video that is not there, and if there is none at all.
    """
    if not base.is_dir():
        raise UserError(f"{base}: no such folder; expected folders of videos, each with {truth}")
    if listing is not None and listing.is_file():
        names = [safe_name(line.strip(), place=str(listing)) for line in read_text(listing).split("\n") if line.strip()]
        for name in names:
            if not (base / name / truth).is_file():
                raise UserError(f"{base / name}: no {truth}, though {listing.name} names this video")
        folders = [base / name for name in names]
    else:
        folders = [path.parent for path in find_below(base, truth, whole=True)]
    if not folders:
        raise UserError(f"{base}: no folder with {truth} in it; expected one per video")
    return folders


def find_below(base: Path, *endings: str, whole: bool = False) -> list[Path]:
    """Return the files below a folder whose names end so (are so, if `whole`), sorted; links are followed once.

    A folder that holds such a whole name is not searched further: a video's folder has thousands of pictures.
    """
    found: list[Path] = []
    seen = {base.resolve()}
    for folder, below, names in os.walk(base, followlinks=True):
        hits = [name for name in names if (name in endings if whole else name.endswith(endings))]
        found += [Path(folder, name) for name in hits]
        inner = {name: Path(folder, name).resolve() for name in below} if not (whole and hits) else {}
        below[:] = [name for name, path in inner.items() if path not in seen]
        seen |= set(inner.values())
    return sorted(found)


def number_pictures(folder: Path) -> list[tuple[int, Path]]:
    """Return (frame number, path) of a folder's pictures in the order of their numbers.

    The number is that of the file's name (`00000012.jpg` is 12), so that a gap in the files stays a gap in time; if
    a name is no number, or two are the same number, all are counted from 0 in alphabetic order.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix in PICTURES)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); expected a video's pictures") from error
    stems = [path.stem for path in paths]
    if all(stem.isascii() and stem.isdecimal() and len(stem) < 10 for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return sorted(zip(numbers, paths, strict=True))
    return list(enumerate(paths))


def pictures_by_line(folder: Path, count: int, *, first: int | None = None) -> list[tuple[int, Path] | None]:
    """Return, for each of `count` lines of a ground truth, (frame number, picture), None where the picture is missing.

    The numbers count from `first`; if that is None from 0 where a picture has number 0 and from 1 where none has.
    Pictures numbered otherwise are taken in their order if there are just as many, else UserError.
    """
    pictures = number_pictures(folder)
    numbers = [number for number, _ in pictures]
    start = first if first is not None else 0 if 0 in numbers else 1
    if numbers and start <= min(numbers) and max(numbers) < start + count:
        found = dict(pictures)
        return [(n, found[n]) if n in found else None for n in range(start, start + count)]
    if len(pictures) != count:
        raise UserError(f"{folder}: {len(pictures)} pictures for {count} boxes")
    return list(pictures)


def rows_of(path: Path, *, widths: Sequence[int]) -> NDArray[np.float64]:
    """Return the numbers (n, width) of a file with one of `widths` numbers a line, split by commas or white space.

    Raises UserError naming file and line. NaN counts as a number.
    """
    rows: list[list[float]] = []
    for number, line in enumerate(read_text(path).rstrip().split("\n"), start=1):
        try:
            row = [float(part) for part in line.replace(",", " ").split()]
        except ValueError:
            row = []
        if len(row) not in widths or len(row) != len(rows[0] if rows else row):
            expected = " or ".join(str(width) for width in widths)
            raise UserError(f"{path}:{number}: {line!r:.80}; expected {expected} numbers, as in every line")
        rows.append(row)
    return np.array(rows, np.float64)


def flags_of(path: Path, count: int, *, missing: int = 0) -> NDArray[np.float64]:
    """Return the numbers (count,) of a label file, split by commas or white space; all `missing` if there is no file.

    Raises UserError if the file holds another count or no numbers.
    """
    if not path.is_file():
        return np.full(count, missing, np.float64)
    words = read_text(path).replace(",", " ").split()
    try:
        flags = np.array(words, np.float64)
    except ValueError as error:
        raise UserError(f"{path}: holds something that is not a number ({error})") from error
    if len(flags) != count:
        raise UserError(f"{path}: {len(flags)} labels for {count} boxes")
    return flags


def one_object(
    name: str, pictures: Sequence[tuple[int, Path] | None], boxes_xywh: Boxes, *, absent: NDArray[np.bool_],
    visible: NDArray[np.float64], root: Path,
) -> Video:
    """Return the video of a ground truth with one object: line k has picture k (None: missing), box k and flags k."""
    frames, faults, dropped = [], [], Counter[str]()
    for line, (picture, box) in enumerate(zip(pictures, xywh_to_xyxy(boxes_xywh).tolist(), strict=True)):
        if picture is None:
            dropped[ABSENT if absent[line] else MISSING] += 1
            if not absent[line]:
                faults.append(f"{name}: no picture for line {line + 1}")
            continue
        x1, y1, x2, y2 = box
        found = Box(0, (x1, y1, x2, y2), float(visible[line]), absent=bool(absent[line]))
        frames.append(Frame(picture[1].relative_to(root).as_posix(), picture[0], (found,)))
    return Video(name, tuple(frames), dropped, tuple(faults))
