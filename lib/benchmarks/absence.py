"""In which frames nothing of the target is to be seen, as each benchmark tells it; and OxUvA, with one file for all.

A function that reads absence gets the video and its boxes (N, 4); it returns a flag per frame, or None without files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lib.benchmarks.readers import Flags, Video, frame_flags, frames_of
from lib.boxes import Boxes
from lib.errors import UserError
from lib.files import read_text
from lib.images import image_size


def got10k_absent(video: Video, _boxes: Boxes) -> Flags | None:
    """Return where the got10k toolkit does not score: the label `cover`, 0 to 8 eighths visible, is 0."""
    cover = frame_flags(video.truth.with_name("cover.label"))
    return None if cover is None else cover == 0


def marked(video: Video, _boxes: Boxes) -> Flags | None:
    """Return where `absent.txt` beside the ground truth of one's own data has a number other than 0."""
    marks = frame_flags(video.truth.with_name("absent.txt"))
    return None if marks is None else marks != 0


def lasot_absent(video: Video, _boxes: Boxes) -> Flags | None:
    """Return where the target is fully occluded or out of view; that either flag counts is pytracking's reading."""
    return _either(video.truth.with_name("full_occlusion.txt"), video.truth.with_name("out_of_view.txt"))


def avist_absent(video: Video, _boxes: Boxes) -> Flags | None:
    """Return the same from AVisT's files `full_occlusion/<name>_full_occlusion.txt` and `out_of_view/...`."""
    root = video.truth.parents[1]
    return _either(*(root / flag / f"{video.name}_{flag}.txt" for flag in ("full_occlusion", "out_of_view")))


def _either(*paths: Path) -> Flags | None:
    """Return the frames that one of the files of flags names, as far as they are there."""
    known = [part for path in paths if (part := frame_flags(path)) is not None]
    if len({len(part) for part in known}) > 1:
        raise UserError(f"{paths[0].parent}: {paths[0].name} and {paths[1].name} differ in length; expected one value "
                        "per frame in each")
    return np.any([part > 0 for part in known], axis=0) if known else None


def no_box(_video: Video, boxes: Boxes) -> Flags:
    """Return the frames whose box (N, 4) has no size: how VOT-LT (NaN), VastTrack and TNL2K (0,0,0,0) tell absence."""
    return np.asarray(~(boxes[:, 2:] > 0).any(axis=1))


# ---- OxUvA, whose one file has a line for each annotated frame, one a second


def oxuva(root: Path) -> list[Video]:
    """Return the targets `<video>_<object>` of `annotations/dev.csv`, each from its first annotation to its last."""
    path = root / "annotations" / "dev.csv"
    numbers: dict[str, list[int]] = {}
    for name, frame, _ in _oxuva_rows(path) if path.is_file() else ():
        numbers.setdefault(name, []).append(frame)
    videos = [Video(name, path, root / "images" / "dev" / name.partition("_")[0], (min(frames), max(frames)))
              for name, frames in numbers.items()]
    return [video for video in videos if video.images.is_dir()] or videos


def oxuva_boxes(video: Video, _num_images: int) -> Boxes:
    """Return the boxes (N, 4) in px from shares of the picture's sides; NaN where absent or not annotated."""
    assert video.span is not None
    frames, _ = frames_of(video, [], place=str(video.truth), num_boxes=None)
    count = video.span[1] - video.span[0] + 1
    if len(frames) != count:
        raise UserError(f"{video.truth}: {len(frames)} of the {count} images of {video.name} are in {video.images}; "
                        "OxUvA's boxes are shares of the picture, so its images must be there")
    boxes = np.full((count, 4), np.nan)
    for _, frame, sides in _oxuva_rows(video.truth, video.name):
        if sides is not None:
            left, right, top, bottom = sides
            boxes[frame - video.span[0]] = left, top, right - left, bottom - top
    return boxes * np.tile(image_size(frames[0]), 2)


def oxuva_absent(video: Video, boxes: Boxes) -> Flags:
    """Return the annotated frames in which the target is absent."""
    assert video.span is not None
    flags = np.zeros(len(boxes), bool)
    flags[[frame - video.span[0] for _, frame, sides in _oxuva_rows(video.truth, video.name) if sides is None]] = True
    return flags


def _oxuva_rows(path: Path, name: str = "") -> Iterator[tuple[str, int, tuple[float, ...] | None]]:
    """Yield name, frame number and sides (xmin, xmax, ymin, ymax; None where absent) of one target's lines, or all."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        cells = line.split(",")
        if name in ("", "_".join(cells[:2])):
            try:
                if len(cells) != 12 or cells[7] not in ("present", "absent"):
                    raise ValueError(line)
                sides = tuple(map(float, cells[8:])) if cells[7] == "present" else None
                if sides is not None and not all(0 <= side <= 1 for side in sides):
                    raise ValueError(line)
                yield "_".join(cells[:2]), int(cells[6]), sides
            except ValueError as error:
                raise UserError(f"{path} line {number}: {line[:80]!r}; expected 12 columns as in vid0000,obj0000,20,"
                                "elephant,unknown,unknown,30,present,0.4,0.6,0.2,0.6") from error
