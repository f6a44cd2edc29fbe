"""The journal of a prepared folder: one line for each finished task, from which a killed run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.errors import UserError

try:
    import fcntl
except ImportError:  # not a Unix: two runs at once into one folder are then not noticed
    fcntl = None  # type: ignore[assignment]

NAME = "journal.jsonl"
_PATIENCE = 5.0  # s


class Journal:
    """The open journal of a folder. The first line holds the settings; a line cut short by a kill is dropped."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open or begin the journal; raise UserError if another run has it open or other settings made it."""
        self.path = folder / NAME
        self.places: dict[str, tuple[int, int]] = {}  # task name -> offset and length of its line
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); choose another --out") from error
        self._lock(folder)
        self._file.truncate(self._scan(settings))
        self._file.seek(0, 2)
        if not self._file.tell():
            self._write(dict(settings))

    def _lock(self, folder: Path) -> None:
        """Take the folder for this run; the processes of a killed run still hold it until they notice, in a second."""
        until = time.monotonic() + _PATIENCE
        while fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise UserError(f"{folder}: another prepare is at work here; wait for it or choose another --out") \
                        from error
                time.sleep(0.1)

    def _scan(self, settings: Mapping[str, Any]) -> int:
        """Note where each task's line is; return the end of the last whole line."""
        self._file.seek(0)
        end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
            except ValueError:
                break  # a power cut can leave a line of zeros; what follows it is done again
            if end == 0:
                self._check_settings(record, settings)
            elif record["faults"]:
                self.places.pop(record["name"], None)  # broken pictures or annotations may have been mended: try again
            else:
                self.places[record["name"]] = (end, len(line))
            end += len(line)
        return end

    def _check_settings(self, found: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        wanted = json.loads(json.dumps(settings))
        for key in {**wanted, **found}:
            if found.get(key) != wanted.get(key):
                raise UserError(f"{self.path.parent} was begun with {key} {found.get(key)!r:.200}, now it is "
                                f"{wanted.get(key)!r:.200}; run the same command, or choose another --out")

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one finished task's record."""
        start = self._file.tell()
        self.places[record["name"]] = (start, self._write(record))

    def _write(self, record: Mapping[str, Any]) -> int:
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); free some space and run the same "
                            f"command again: it goes on where it stopped") from error
        return len(line)

    def records(self, names: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Return an iterator over the records of the given tasks, by default of all, ordered by name."""
        with self.path.open("rb") as file:
            for name in sorted(self.places) if names is None else names:
                start, length = self.places[name]
                file.seek(start)
                yield json.loads(file.read(length))

    def __enter__(self) -> Journal:
        """Return the journal itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the file, which lets another run in."""
        self._file.close()


def read_records(folder: Path) -> Iterator[dict[str, Any]]:
    """Return an iterator over the records of a folder's journal, in the order of their making; the settings first.

    Raises UserError if there is no journal.
    """
    path = folder / NAME
    try:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a folder written by `python -m lib.datasets.prepare`") \
            from error
    except ValueError as error:
        raise UserError(f"{path}: a line is not JSON ({error}); run prepare again to mend it") from error
