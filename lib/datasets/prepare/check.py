"""`prepare check`: tells a whole prepared folder from a broken one, and names what is broken."""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.datasets import UnreadableCrop
from lib.datasets.index import load_index
from lib.datasets.prepare.finish import CROPS, MANIFEST
from lib.datasets.prepare.journal import NAME, Journal, read_records
from lib.datasets.prepare.work import default_jobs, on_all_cores
from lib.datasets.stores import TABLE, PackedCrops, crop_name, picture_path
from lib.errors import UserError
from lib.files import read_json, sha256_of

_SHOWN = 20  # faults printed; the number of all is said
_ROWS = 2000  # of a packed folder, checked in one go


@dataclass(frozen=True)
class CropChecker:
    """Compares crops with the checksums of the journal."""

    crops: Path

    def faults(self, record: dict[str, Any]) -> tuple[str, list[str]]:
        """Return the task's name and what is wrong with the crops of its journal record, a line each."""
        found = []
        rows = [(int(track), int(frame)) for track, frames in record["tracks"].items() for frame in frames]
        for k, (track, frame) in enumerate(rows):
            path = self.crops / record["name"] / crop_name(frame, track)
            try:
                whole = f"{zlib.crc32(path.read_bytes()):08x}" == record["crc"][8 * k : 8 * k + 8]
            except OSError as error:
                found.append(f"{path}: {error.strerror}")
                continue
            if not whole:
                found.append(f"{path}: damaged, its checksum is not the one it was written with")
        return record["name"], found


@dataclass(frozen=True)
class RawChecker:
    """Looks for the raw pictures that an index without crops trains from."""

    root: Path

    def faults(self, record: dict[str, Any]) -> tuple[str, list[str]]:
        """Return the task's name and which pictures of its journal record are gone, a line each."""
        frames = sorted({int(frame) for frames in record["tracks"].values() for frame in frames})
        paths = {self.root / picture_path(record["pictures"], frame) for frame in frames}
        return record["name"], [f"{path}: no such picture" for path in sorted(paths) if not path.is_file()]


@dataclass(frozen=True)
class PackChecker:
    """Reads every record of a packed folder."""

    packed: PackedCrops
    starts: np.ndarray[Any, Any]

    def faults(self, first: int) -> list[str]:
        """Return what is wrong with the records of `_ROWS` rows from `first` on, a line each."""
        found = []
        index = self.packed.index
        for row in range(first, min(first + _ROWS, len(index.frames))):
            try:
                self.packed.read(index, row)
            except UnreadableCrop as error:
                found.append(str(error))
        return found


def check(folder: Path, *, jobs: int) -> list[str]:
    """Return what is broken in a prepared folder, a line each: index, table of pictures, crops, archives.

    Raises UserError if it holds no manifest, which is written last: the preparation was not finished.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("sha256"), dict):
        raise UserError(f"{folder / MANIFEST}: not a manifest of prepare; prepare the folder again")
    found = []
    for name, digest in manifest["sha256"].items():
        if not (folder / name).is_file() or sha256_of(folder / name) != digest:
            found.append(f"{folder / name}: missing or changed since prepare wrote it")
    records = {record["name"]: record for record in read_records(folder) if "name" in record}
    crops = sum(record["crops"] for record in records.values())
    if crops != manifest["crops"]:
        found.append(f"{folder / NAME}: {crops} crops, the manifest says {manifest['crops']}")
    crops_kept = manifest["settings"]["crops"]
    if not crops_kept or (folder / CROPS).is_dir() or not (folder / "packed").is_dir():
        checker = CropChecker(folder / CROPS) if crops_kept else RawChecker(Path(manifest["settings"]["root"]))
        results = on_all_cores(checker.faults, list(records.values()), jobs=jobs, title="checking", unit=" tasks")
        broken = {name: faults for name, faults in results if faults}
        found += [fault for name in sorted(broken) for fault in broken[name]]
        _mark(folder, [{**records[name], "faults": broken[name]} for name in sorted(broken)])
    if (folder / "packed" / TABLE).is_file():
        found += _check_packed(folder, jobs=jobs)
    return found


def _mark(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Note the broken tasks in the journal, so that the next prepare makes them anew."""
    if records:
        settings = next(read_records(folder))
        with Journal(folder, settings) as journal:
            for record in records:
                journal.add(record)


def _check_packed(folder: Path, *, jobs: int) -> Iterator[str]:
    index = load_index(folder / "train.json")
    try:
        checker = PackChecker(PackedCrops(folder / "packed", index), index.starts)
    except UserError as error:
        yield str(error)
        return
    for faults in on_all_cores(
        checker.faults, range(0, len(index.frames), _ROWS), jobs=jobs, title="checking archives", unit=" parts"
    ):
        yield from faults


def main(arguments: Sequence[str]) -> int:
    """Return 0 if a prepared folder is whole, 1 if something in it is broken, which is then printed."""
    parser = argparse.ArgumentParser(prog="python -m lib.datasets.prepare check", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder that prepare made")
    parser.add_argument("--jobs", type=int, default=default_jobs(), help="processes (default: all %(default)s cores)")
    given = parser.parse_args(arguments)
    found = check(given.folder, jobs=max(1, given.jobs))
    for fault in found[:_SHOWN]:
        print(fault)
    if len(found) > _SHOWN:
        print(f"... and {len(found) - _SHOWN} more")
    print(f"{given.folder}: {f'{len(found)} faults; run prepare again to mend them' if found else 'whole'}")
    return 1 if found else 0
