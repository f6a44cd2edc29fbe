"""`prepare check`, `pack`, `select` and `classes`: what is done beside the preparation of a source."""

from __future__ import annotations

import json
import tarfile
import zlib
from collections import Counter
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from lib.crops import Image
from lib.datasets import UnreadableCrop, stores
from lib.datasets.index import TrackIndex, load_index, read_arrays, write_arrays
from lib.datasets.prepare import safe_name
from lib.datasets.prepare.run import INDEX, MANIFEST
from lib.datasets.prepare.stills import locate_coco, picture_names
from lib.datasets.prepare.work import CROPS, JOURNAL, Journal, on_all_cores, read_journal
from lib.errors import UserError
from lib.files import atomic_write, read_json, sha256_of, write_whole
from lib.images import read_image
from lib.options import CheckOptions, ClassesOptions, PackOptions, SelectOptions

PACKED = "packed"  # the folder of the archives by default
ROWS = 20_000  # crops in an archive: about a gigabyte
_SHOWN = 20  # faults printed; the number of all is said
_AT_ONCE = 2000  # rows of a packed folder that a process checks in one go
_AROUND = 1.2  # side of the square that is cut for a classifier, over the object's longer one


# ---- check


def check(options: CheckOptions) -> int:
    """Return 0 if a prepared folder is whole, else 1: what is broken is printed, and noted for the next prepare.

    UserError if it holds no manifest, which is written last.
    """
    found = _faults(options.folder, jobs=options.jobs)
    for fault in found[:_SHOWN]:
        print(fault)
    if len(found) > _SHOWN:
        print(f"... and {len(found) - _SHOWN} more")
    print(f"{options.folder}: {f'{len(found)} faults; run prepare again to mend them' if found else 'whole'}")
    return 1 if found else 0


def _faults(folder: Path, *, jobs: int | None) -> list[str]:
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder / MANIFEST}: no such file; prepare did not finish there, or never began")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("sha256"), dict):
        raise UserError(f"{folder / MANIFEST}: not a manifest of prepare; prepare the folder again")
    found = []
    for name, digest in manifest["sha256"].items():
        if not (folder / name).is_file() or sha256_of(folder / name) != digest:
            found.append(f"{folder / name}: missing or changed since prepare wrote it")
    settings, records = read_journal(folder)
    crops = sum(record["crops"] for record in records.values())
    if crops != manifest["crops"]:
        found.append(f"{folder / JOURNAL}: {crops} crops, the manifest says {manifest['crops']}")
    if not settings["crops"] or (folder / CROPS).is_dir() or not (folder / PACKED).is_dir():
        find = partial(_crop_faults, folder / CROPS) if settings["crops"] else partial(
            _picture_faults, Path(settings["root"]))
        results = on_all_cores(find, list(records.values()), jobs=jobs, title="checking", unit=" tasks")
        broken = {name: faults for name, faults in sorted(results) if faults}
        found += [fault for faults in broken.values() for fault in faults]
        if broken:
            with Journal(folder, settings) as journal:
                for name, faults in broken.items():
                    journal.add({**records[name], "faults": faults})
    if (folder / PACKED / stores.TABLE).is_file():
        try:
            packed = stores.PackedCrops(folder / PACKED, load_index(folder / INDEX))
        except UserError as error:
            return [*found, str(error)]
        rows = range(0, len(packed.index.frames), _AT_ONCE)
        parts = on_all_cores(partial(_packed_faults, packed), rows, jobs=jobs, title="checking archives", unit=" parts")
        found += [fault for faults in parts for fault in faults]
    return found


def _crop_faults(crops: Path, record: dict[str, Any]) -> tuple[str, list[str]]:
    """Return a task's name and what is wrong with the crops of its journal record, by their checksums, a line each."""
    found = []
    rows = [(int(track), int(frame)) for track, frames in record["tracks"].items() for frame in frames]
    for k, (track, frame) in enumerate(rows):
        path = crops / record["name"] / stores.crop_name(frame, track)
        try:
            whole = f"{zlib.crc32(path.read_bytes()):08x}" == record["crc"][8 * k : 8 * k + 8]
        except OSError as error:
            found.append(f"{path}: {error.strerror}")
            continue
        if not whole:
            found.append(f"{path}: damaged, its checksum is not the one it was written with")
    return record["name"], found


def _picture_faults(root: Path, record: dict[str, Any]) -> tuple[str, list[str]]:
    """Return a task's name and which raw pictures of its journal record are gone, a line each."""
    frames = {int(frame) for frames in record["tracks"].values() for frame in frames}
    paths = {root / stores.picture_path(record["pictures"], frame) for frame in frames}
    return record["name"], [f"{path}: no such picture" for path in sorted(paths) if not path.is_file()]


def _packed_faults(packed: stores.PackedCrops, first: int) -> list[str]:
    """Return what is wrong with the archives' records of `_AT_ONCE` rows from `first` on, a line each."""
    found = []
    for row in range(first, min(first + _AT_ONCE, len(packed.index.frames))):
        try:
            packed.read(packed.index, row)
        except UnreadableCrop as error:
            found.append(str(error))
    return found


# ---- pack


def pack(options: PackOptions) -> int:
    """Write the crops of a prepared folder into archives of ROWS each, and their table; return 0.

    A killed run goes on: archives that are finished stay. Raises UserError naming a crop that is missing or damaged.
    """
    folder, out = options.folder, options.out or options.folder / PACKED
    index = load_index(folder / INDEX)
    starts = range(0, len(index.frames), ROWS)
    write = partial(_write_archive, index, folder / CROPS, out, ROWS)
    total = sum(on_all_cores(write, range(len(starts)), jobs=options.jobs, title="packing", unit=" archives"))
    parts = [read_arrays((out / stores.archive_name(number)).with_suffix(".arrays")) for number in range(len(starts))]
    table = {key: np.concatenate([arrays[key] for arrays, _ in parts]) for key in ("offsets", "sizes", "crcs")}
    write_arrays(out / stores.TABLE, {**table, "first_rows": np.array(starts, np.int64),
                               "bytes": np.array([note["bytes"] for _, note in parts], np.int64)},
                 note={"fingerprint": stores.fingerprint(index)})
    print(f"{out}: {total / 1e6:.1f} MB; in the YAML: PATH: {out}, FORMAT: packed, ANNOTATION: {folder / INDEX}")
    return 0


def _write_archive(index: TrackIndex, crops: Path, out: Path, rows: int, number: int) -> int:
    """Return the bytes of an archive, written with its own table, or found there from an earlier run."""
    first, end = number * rows, min((number + 1) * rows, len(index.frames))
    archive = out / stores.archive_name(number)
    table = archive.with_suffix(".arrays")
    note = {"fingerprint": stores.fingerprint(index), "first": first, "end": end}
    try:
        _, found = read_arrays(table)
        if found.get("bytes") == archive.stat().st_size and {**found, "bytes": 0} == {**note, "bytes": 0}:
            return int(found["bytes"])
    except (OSError, ValueError):
        pass
    offsets, sizes = np.zeros(end - first, np.int64), np.zeros(end - first, np.int32)
    crcs = np.zeros(end - first, np.uint32)
    with atomic_write(archive, mode="wb") as file:
        for k, row in enumerate(range(first, end)):
            path = crops / stores.crop_path(index, row)
            try:
                data = path.read_bytes()
                stores.decode_crop(data, index.size_wh(row), place=str(path))
            except (OSError, UnreadableCrop) as error:
                raise UserError(f"{error}; only whole crops are packed: run prepare again to make it anew") from error
            info = tarfile.TarInfo(stores.crop_path(index, row))
            info.size = len(data)
            file.write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
            offsets[k], sizes[k], crcs[k] = file.tell(), len(data), zlib.crc32(data)
            file.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
        file.write(bytes(2 * tarfile.BLOCKSIZE))
        total = int(file.tell())
    write_arrays(table, {"offsets": offsets, "sizes": sizes, "crcs": crcs}, note={**note, "bytes": total})
    return total


# ---- select


def select(options: SelectOptions) -> int:
    """Write the index of the videos whose name fits a shell pattern in `only` and none in `without`; return 0.

    UserError if that is none, or a pattern fits nothing: a misspelt name would silently hold nothing out.
    """
    index, out = options.index, options.out
    if out.resolve() == index.resolve():
        raise UserError(f"--out {out}: is the index itself; choose another name")
    videos = read_json(index)
    if not isinstance(videos, dict):
        raise UserError(f"{index}: expected the index of a source, {{video: {{track: {{frame: box}}}}}}")
    for pattern in (*options.only, *options.without):
        if not any(fnmatchcase(name, pattern) for name in videos):
            raise UserError(f"{index}: no video is called '{pattern}'; it holds {', '.join(sorted(videos)[:3])} ...")
    chosen = {name: tracks for name, tracks in videos.items()
              if any(fnmatchcase(name, pattern) for pattern in options.only)
              and not any(fnmatchcase(name, pattern) for pattern in options.without)}
    if not chosen:
        raise UserError(f"{index}: --without leaves none of its {len(videos)} videos")
    write_whole(out, json.dumps(chosen))
    print(f"{out}: {len(chosen)} of {len(videos)} videos")
    return 0


# ---- classes


def classes(options: ClassesOptions) -> int:
    """Write out/train/<category>/*.jpg and out/val/..., a picture's objects in one of the two; return 0."""
    json_path, folder, _ = locate_coco(options.root, split=options.split, annotation=options.annotation,
                                       pictures=options.pictures)
    data = read_json(json_path)
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
        write_whole(path, bytes(cv2.imencode(".jpg", _cut(image, box, side=options.side))[1]))
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
