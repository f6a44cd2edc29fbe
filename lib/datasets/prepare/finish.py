"""The end of a preparation: index, table of pictures, manifest, preview sheet and summary, made from the journal."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from lib.config import DatasetConfig, SourceConfig
from lib.crops import Image, box_in_crop511, crop511, mean_colour
from lib.datasets import UnreadableCrop
from lib.datasets.index import load_index
from lib.datasets.prepare.journal import Journal
from lib.datasets.stores import crop_name, decode_crop, picture_path
from lib.files import atomic_write, sha256_of
from lib.images import decode

INDEX, PICTURES, MANIFEST, PREVIEW, CROPS = "train.json", "pictures.json", "manifest.json", "preview.png", "crop511"
_SHEET = (6, 4)  # crops in a row, rows
_CELL = 256  # px


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
        """Count one record of the journal."""
        self.videos += bool(record["tracks"])
        self.tracks += len(record["tracks"])
        self.frames += len(set().union(*record["tracks"].values()))
        self.crops += record["crops"]
        self.bytes += record["bytes"]
        self.dropped.update(record["dropped"])
        self.faults += record["faults"]


def finish(folder: Path, journal: Journal, settings: dict[str, Any]) -> Summary:
    """Return the summary of a finished journal, its index, table of pictures and manifest now written.

    Everything is in the order of the video names, so that the same data give the same files on any number of cores.
    """
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
    """Write a sheet of random crops with their boxes, to be looked at before days of training.

    `root`: where the raw pictures are, to cut the crops from if none were written.
    """
    names = sorted(journal.places)
    rng = np.random.default_rng(0)
    cells: list[Image] = []
    for record in journal.records([names[k] for k in rng.permutation(len(names))]):
        rows = [(int(track), int(frame)) for track, frames in record["tracks"].items() for frame in frames]
        if rows:
            track, frame = rows[int(rng.integers(len(rows)))]
            with contextlib.suppress(OSError, ValueError, UnreadableCrop):  # lost since: `prepare check` names it
                cells.append(_preview_cell(record, track, frame, crops=folder / CROPS, root=root))
        if len(cells) == _SHEET[0] * _SHEET[1]:
            break
    if cells:
        sheet = np.zeros((_SHEET[1] * _CELL, _SHEET[0] * _CELL, 3), np.uint8)
        for k, cell in enumerate(cells):
            top, left = k // _SHEET[0] * _CELL, k % _SHEET[0] * _CELL
            sheet[top : top + _CELL, left : left + _CELL] = cell
        with atomic_write(folder / PREVIEW, mode="wb") as file:
            file.write(bytes(cv2.imencode(".png", sheet)[1]))


def _preview_cell(record: dict[str, Any], track: int, frame: int, *, crops: Path, root: Path | None) -> Image:
    """Return a small picture (_CELL, _CELL, 3) of a crop with its box."""
    box = record["tracks"][f"{track:02d}"][f"{frame:06d}"]
    size = np.array([box[2] - box[0], box[3] - box[1]])
    if root is None:
        path = crops / record["name"] / crop_name(frame, track)
        image = decode_crop(path.read_bytes(), size, place=str(path)).image.copy()
    else:
        picture = decode((root / picture_path(record["pictures"], frame)).read_bytes())
        image = crop511(picture, box, fill=mean_colour(picture))
    corners = np.round(box_in_crop511(size)).astype(int).tolist()
    drawn = cv2.rectangle(image, corners[:2], corners[2:], (0, 255, 0), 2)
    return np.asarray(cv2.resize(drawn, (_CELL, _CELL), interpolation=cv2.INTER_AREA), np.uint8)


def yaml_snippet(name: str, path: Path, folder: Path, *, form: str, crops: int) -> str:
    """Return the lines to paste under DATASET for this folder; RANGE and USE are the source's own where it has any."""
    known = DatasetConfig().SOURCES.get(name, SourceConfig(USE=crops))
    where, index = (json.dumps(str(place), ensure_ascii=False) for place in (path, folder / INDEX))  # quoted, as YAML
    return (f"    {name}:\n      PATH: {where}\n      ANNOTATION: {index}\n      RANGE: {known.RANGE}\n"
            f"      USE: {min(known.USE, crops)}\n      FORMAT: {form}\n")
