"""`prepare pack`: crops as single files to a few tar archives with a table of offsets (see `lib.datasets.stores`)."""

from __future__ import annotations

import argparse
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lib.datasets import UnreadableCrop
from lib.datasets.array_file import read_arrays, write_arrays
from lib.datasets.index import TrackIndex, load_index
from lib.datasets.prepare.finish import CROPS, INDEX
from lib.datasets.prepare.work import default_jobs, on_all_cores
from lib.datasets.stores import TABLE, archive_name, crop_name, decode_crop, fingerprint
from lib.errors import UserError
from lib.files import MAX_PICTURE_BYTES, atomic_write, read_regular

ROWS = 20_000  # crops in an archive: about a gigabyte


@dataclass(frozen=True)
class Packer:
    """Writes archives of an index's crops."""

    index: TrackIndex
    crops: Path
    out: Path
    rows: int

    def pack(self, number: int) -> int:
        """Return the bytes of archive `number`, written with its own table, or found there from an earlier run."""
        first, end = number * self.rows, min((number + 1) * self.rows, len(self.index.frames))
        archive = self.out / archive_name(number)
        table = archive.with_suffix(".arrays")
        note = {"fingerprint": fingerprint(self.index), "first": first, "end": end}
        try:
            _, found = read_arrays(table)
            if found.get("bytes") == archive.stat().st_size and {**found, "bytes": 0} == {**note, "bytes": 0}:
                return int(found["bytes"])
        except (OSError, ValueError):
            pass
        offsets, sizes = np.zeros(end - first, np.int64), np.zeros(end - first, np.int32)
        crcs = np.zeros(end - first, np.uint32)
        with atomic_write(archive, mode="wb") as file:
            for row in range(first, end):
                name, data = self._crop(row)
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
                offsets[row - first], sizes[row - first], crcs[row - first] = file.tell(), len(data), zlib.crc32(data)
                file.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
            file.write(bytes(2 * tarfile.BLOCKSIZE))
            total = int(file.tell())
        write_arrays(table, {"offsets": offsets, "sizes": sizes, "crcs": crcs}, note={**note, "bytes": total})
        return total

    def _crop(self, row: int) -> tuple[str, bytes]:
        """Return the name and bytes of one crop; raise UserError if it is not a whole one."""
        track = int(np.searchsorted(self.index.starts, row, side="right")) - 1
        number = int(self.index.track_numbers[track])
        name = f"{self.index.video(track)}/{crop_name(int(self.index.frames[row]), number)}"
        path = self.crops / name
        try:
            data = read_regular(path, max_bytes=MAX_PICTURE_BYTES)
            decode_crop(data, self.index.size_wh(row), place=str(path))
        except (OSError, UnreadableCrop) as error:
            raise UserError(f"{error}; only whole crops are packed: run prepare again to make it anew") from error
        return name, data


def pack(folder: Path, out: Path, *, jobs: int, rows: int = ROWS) -> int:
    """Return the bytes of all archives, which now lie in `out` beside the table of offsets.

    A killed run goes on: archives that are finished stay. Raises UserError naming a crop that is missing or damaged.
    """
    index = load_index(folder / INDEX)
    count = -(-len(index.frames) // rows)
    packer = Packer(index, folder / CROPS, out, rows)
    total = sum(on_all_cores(packer.pack, range(count), jobs=jobs, title="packing", unit=" archives"))
    parts = [read_arrays((out / archive_name(number)).with_suffix(".arrays")) for number in range(count)]
    write_arrays(
        out / TABLE,
        {
            **{key: np.concatenate([arrays[key] for arrays, _ in parts]) for key in ("offsets", "sizes", "crcs")},
            "first_rows": np.arange(count, dtype=np.int64) * rows,
            "bytes": np.array([note["bytes"] for _, note in parts], np.int64),
        },
        note={"fingerprint": fingerprint(index)},
    )
    return total


def main(arguments: Sequence[str]) -> int:
    """Return 0 when the crops of a prepared folder are packed."""
    parser = argparse.ArgumentParser(prog="python -m lib.datasets.prepare pack", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder that prepare made, with train.json and crop511")
    parser.add_argument("--out", type=Path, help="where the archives go (default: `packed` in that folder)")
    parser.add_argument("--jobs", type=int, default=default_jobs(), help="processes (default: all %(default)s cores)")
    given = parser.parse_args(arguments)
    out = given.out or given.folder / "packed"
    total = pack(given.folder, out, jobs=max(1, given.jobs))
    print(f"{out}: {total / 1e6:.1f} MB; in the YAML: PATH: {out}, FORMAT: packed, ANNOTATION: {given.folder / INDEX}")
    return 0
