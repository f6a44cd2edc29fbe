"""`prepare`: crops of a raw data set, and index, table of pictures, manifest and preview sheet that go with them."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from lib.config import DatasetConfig, SourceConfig
from lib.crops import Image, box_in_crop511, crop511, mean_colour
from lib.datasets import UnreadableCrop
from lib.datasets.index import load_index
from lib.datasets.prepare import Task, safe_name, stills, videos
from lib.datasets.prepare.work import CROPS, Journal, cut_all
from lib.datasets.stores import crop_name, decode_crop, picture_path
from lib.errors import UserError, did_you_mean
from lib.files import atomic_write, sha256_of, write_whole
from lib.images import read_image
from lib.options import PrepareOptions

INDEX, PICTURES, MANIFEST, PREVIEW = "train.json", "pictures.json", "manifest.json", "preview.png"
_SHEET = (6, 4)  # crops in a row, rows
_CELL = 256  # px

READERS: dict[str, Callable[[PrepareOptions], Sequence[Task]]] = {
    "COCO": lambda o: stills.coco_tasks(o.root, split=o.split, annotation=o.annotation, pictures=o.pictures),
    "DET": lambda o: stills.det_tasks(o.root, split=o.split),
    "GOT10K": lambda o: videos.got10k_tasks(o.root, split=o.split),
    "LASOT": lambda o: videos.lasot_tasks(o.root, split=o.split),
    "TRACKINGNET": lambda o: videos.trackingnet_tasks(o.root, split=o.split),
    "VID": lambda o: stills.vid_tasks(o.root, split=o.split),
    "VIDEOS": lambda o: videos.plain_tasks(o.root, split=o.split, origin=o.origin),
    "VOC": lambda o: stills.voc_tasks(o.root, split=o.split),
    "YTB": lambda o: stills.youtube_tasks(o.root, split=o.split),
}


def main(options: PrepareOptions) -> int:
    """Return 0 when the crops, index and manifest of a source are written."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    source = options.source.upper()
    if source not in READERS:
        near = did_you_mean(options.source, (*READERS, "check", "pack", "select"))
        raise UserError(f"{options.source}: no source of that name{near}")
    if not options.root.is_dir():
        raise UserError(f"{options.root}: no such folder; expected {source} as its archive unpacks")
    settings = {**asdict(options), "source": source, "root": str(options.root.resolve()), "crops": not options.no_crops}
    for key in ("out", "jobs", "no_crops"):  # which do not change what a crop is
        del settings[key]
    tasks = READERS[source](options)
    for name, count in Counter(task.name for task in tasks).items():
        safe_name(name, place=str(options.root))
        if count > 1:
            raise UserError(f"{options.root}: {count} videos are called '{name}'; rename all but one")
    out = options.out
    with Journal(out, settings) as journal:
        cut_all(tasks, options, journal)
        summary = finish(out, journal, settings)
        if not summary.crops:
            reasons = ", ".join(f"{count} {reason}" for reason, count in summary.dropped.most_common()) or "none"
            first = f"; {len(summary.faults)} faults, the first: {summary.faults[0]}" if summary.faults else ""
            raise UserError(f"{out}: not one usable box in {len(tasks)} tasks; left out: {reasons}{first}")
        write_preview(out, journal, root=options.root if options.no_crops else None)
    _report(summary, options)
    return 0


@dataclass
class Summary:
    """What a prepared folder holds."""

    videos: int = 0
    tracks: int = 0
    frames: int = 0  # pictures that show at least one of them
    crops: int = 0
    bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, record: dict[str, Any]) -> None:
        self.videos += bool(record["tracks"])
        self.tracks += len(record["tracks"])
        self.frames += len(set().union(*record["tracks"].values()))
        self.crops += record["crops"]
        self.bytes += record["bytes"]
        self.dropped.update(record["dropped"])
        self.faults += record["faults"]


def finish(folder: Path, journal: Journal, settings: dict[str, Any]) -> Summary:
    """Write index, table of pictures and manifest of a finished journal, videos by name; return its summary."""
    summary = Summary()

    def counted() -> Iterator[dict[str, Any]]:
        for record in journal.records():
            summary.add(record)
            if record["tracks"]:
                yield record

    with atomic_write(folder / INDEX) as index, atomic_write(folder / PICTURES) as pictures:
        _write_objects(counted(), {"tracks": index, "pictures": pictures})
    manifest = {
        "settings": settings, "videos": summary.videos, "tracks": summary.tracks, "frames": summary.frames,
        "crops": summary.crops, "bytes": summary.bytes, "dropped": dict(sorted(summary.dropped.items())),
        "sha256": {name: sha256_of(folder / name) for name in (INDEX, PICTURES)},
    }
    with atomic_write(folder / MANIFEST) as file:
        json.dump(manifest, file, indent=1, ensure_ascii=False)
        file.write("\n")
    if summary.tracks:
        load_index(folder / INDEX)  # checks what was written, and lays its arrays beside it for the first training
    return summary


def _write_objects(records: Iterator[dict[str, Any]], files: dict[str, IO[str]]) -> None:
    """Write {name: record[key]} as JSON into the file of each key, a video a line, holding one record at a time."""
    before = "{\n"
    for record in records:
        for key, file in files.items():
            value = json.dumps(record[key], ensure_ascii=False, separators=(",", ":"))
            file.write(f"{before}{json.dumps(record['name'], ensure_ascii=False)}: {value}")
        before = ",\n"
    for file in files.values():
        file.write("\n}\n" if before == ",\n" else "{}\n")


def write_preview(folder: Path, journal: Journal, *, root: Path | None = None) -> None:
    """Write a sheet of random crops with their boxes; `root`: raw pictures to cut them from if none were written."""
    names = sorted(journal.done)
    rng = np.random.default_rng(0)
    cells: list[Image] = []
    for record in journal.records([names[k] for k in rng.permutation(len(names))]):
        rows = [(int(track), int(frame)) for track, frames in record["tracks"].items() for frame in frames]
        if rows:
            track, frame = rows[int(rng.integers(len(rows)))]
            with contextlib.suppress(OSError, UserError, UnreadableCrop):  # lost since: `prepare check` names it
                cells.append(_preview_cell(record, track, frame, crops=folder / CROPS, root=root))
        if len(cells) == _SHEET[0] * _SHEET[1]:
            break
    if cells:
        sheet = np.zeros((_SHEET[1] * _CELL, _SHEET[0] * _CELL, 3), np.uint8)
        for k, cell in enumerate(cells):
            top, left = k // _SHEET[0] * _CELL, k % _SHEET[0] * _CELL
            sheet[top : top + _CELL, left : left + _CELL] = cell
        write_whole(folder / PREVIEW, bytes(cv2.imencode(".png", sheet)[1]))


def _preview_cell(record: dict[str, Any], track: int, frame: int, *, crops: Path, root: Path | None) -> Image:
    box = record["tracks"][f"{track:02d}"][f"{frame:06d}"]
    size = np.array([box[2] - box[0], box[3] - box[1]])
    if root is None:
        path = crops / record["name"] / crop_name(frame, track)
        image = decode_crop(path.read_bytes(), size, place=str(path)).image.copy()
    else:
        picture = read_image(root / picture_path(record["pictures"], frame))
        image = crop511(picture, box, fill=mean_colour(picture))
    corners = np.round(box_in_crop511(size)).astype(int).tolist()
    drawn = cv2.rectangle(image, corners[:2], corners[2:], (0, 255, 0), 2)
    return np.asarray(cv2.resize(drawn, (_CELL, _CELL), interpolation=cv2.INTER_AREA), np.uint8)


def _report(summary: Summary, options: PrepareOptions) -> None:
    """Print what was made, what to paste into a YAML, and last the command that trains on it alone."""
    source, out, raw = options.source.upper(), options.out, options.no_crops
    print(f"{source}: {summary.crops} {'boxes' if raw else 'crops'} of {summary.tracks} objects on "
          f"{summary.frames} frames of {summary.videos} videos or stills, {summary.bytes / 1e6:.1f} MB")
    total = sum(summary.dropped.values())
    print(f"left out: {total} boxes ({total / (total + summary.crops):.1%})")
    for reason, count in summary.dropped.most_common():
        print(f"  {count:8d}  {reason}")
    for fault in summary.faults[:10]:
        print(f"  broken: {fault}")
    if len(summary.faults) > 10:
        print(f"  ... and {len(summary.faults) - 10} more; `prepare check {out}` looks at all of them")
    print(f"written: {out / INDEX}, {out / MANIFEST}, {out / 'preview.png'}")
    # RANGE and USE are the source's own where it has any.
    known = DatasetConfig().SOURCES.get(source, SourceConfig(USE=summary.crops))
    settings = {"PATH": str(options.root if raw else out / CROPS), "ANNOTATION": str(out / INDEX),
                "RANGE": known.RANGE, "USE": min(known.USE, summary.crops), "FORMAT": "raw" if raw else "crop511"}
    print(f"to train on it with others, below DATASET of the training's YAML:\n    {source}:")
    for key, value in settings.items():
        print(f"      {key}: {json.dumps(value, ensure_ascii=False)}")  # quoted, as YAML
    words = [f"TRAIN.WHICH_USE=[{source}]", f"DATASET.{source}={json.dumps(settings, ensure_ascii=False)}",
             "CHECKPOINT_DIR=snapshot/" + re.sub(r"[^\w.-]+", "_", out.resolve().name)]
    print("to train on it alone (a small model from random weights; --cfg experiments/train/Ocean.yaml is the full "
          "one):\n  python tracking/train_ocean.py --cfg experiments/train/OceanSmall.yaml " + shlex.join(words))
