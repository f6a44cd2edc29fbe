"""What a sweep has to do: which checkpoints, into which folders, and which sequences are left."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.benchmarks import Benchmark, Sequence
from lib.checkpoint import load_model
from lib.errors import UserError
from lib.files import atomic_write, read_json, sha256_of
from lib.options import SweepOptions
from lib.testing.locks import Claims
from lib.testing.results import RECEIPTS, ResultFolder, RunRecord, plain_values
from lib.testing.run import Candidate, load_candidate, params_for

_EPOCH = re.compile(r"checkpoint_e(\d+)\.pth")
SPEC_FILE = "model.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A checkpoint of the sweep."""

    path: Path
    name: str  # of its folder of results
    epoch: int | None  # None where the file's name does not say it
    stamp: tuple[int, int]  # time and size of the file: a checkpoint written again is another entry


def find_entries(options: SweepOptions) -> list[Entry]:
    """Return the checkpoints to test, by epoch: those listed, or all of the snapshot folder in the range of epochs.

    Raises UserError for a listed file that is not there and for two that would share a folder of results.
    """
    paths = list(_listed(options.checkpoints)) if options.checkpoints else _in_range(options)
    entries = [entry for path in paths if (entry := _entry(path, options.arch)) is not None]
    by_name: dict[str, Entry] = {}
    for entry in entries:
        other = by_name.setdefault(entry.name, entry)
        if other.path != entry.path:
            raise UserError(f"{other.path} and {entry.path} would both write to {entry.name}; test them one at a time "
                            f"or into different --result_dir")
    return sorted(by_name.values(), key=lambda entry: (entry.epoch is None, entry.epoch or 0, entry.name))


def missing_epochs(options: SweepOptions, entries: list[Entry]) -> list[int]:
    """Return the epochs of the range that have no checkpoint, as far as the range is bounded."""
    if options.checkpoints:
        return []
    present = {entry.epoch for entry in entries if entry.epoch is not None}
    last = options.end_epoch or max(present, default=0)
    first = options.start_epoch or min(present, default=1)
    return [epoch for epoch in range(first, last + 1) if epoch not in present]


def _listed(patterns: Iterable[str]) -> Iterator[Path]:
    for pattern in patterns:
        path = Path(pattern)
        found = [path] if path.is_file() else sorted(path.parent.glob(path.name))
        if not found:
            raise UserError(f"--checkpoints {pattern}: no such file; expected checkpoints, or a pattern in quotes "
                            f"with * or ? in its last part")
        yield from found


def _in_range(options: SweepOptions) -> list[Path]:
    if not options.snapshot.is_dir() and not options.watch:
        raise UserError(f"--snapshot {options.snapshot}: no such folder; expected checkpoint_e<N>.pth in it")
    first, last = options.start_epoch or 1, options.end_epoch or float("inf")
    found = [(int(match[1]), path) for path in options.snapshot.glob("checkpoint_e*.pth")
             if (match := _EPOCH.fullmatch(path.name))]
    return [path for epoch, path in sorted(found) if first <= epoch <= last]


def _entry(path: Path, arch: str) -> Entry | None:
    """Return the entry of a checkpoint, None if the file has just been deleted (training keeps the last few)."""
    try:
        status = path.stat()
    except OSError:
        return None
    match = _EPOCH.fullmatch(path.name)
    return Entry(path, f"{arch}_{path.stem}", int(match[1]) if match else None, (status.st_mtime_ns, status.st_size))


class Sweep:
    """The work of a sweep, as it stands on the disk at any moment."""

    def __init__(self, options: SweepOptions, benchmark: Benchmark) -> None:
        self.options = options
        self.benchmark = benchmark
        # The longest first: at the end the workers then wait for short ones only.
        self.sequences = sorted(benchmark.sequences, key=len, reverse=True)
        self.by_name = {sequence.name: sequence for sequence in self.sequences}
        params_for(options.params, benchmark.name, arch=options.arch)  # a mistake in them is told at once
        self.entries: list[Entry] = []
        self._folders: dict[Entry, ResultFolder] = {}
        self._candidates: dict[Entry, Candidate] = {}

    def refresh(self) -> None:
        """Look for checkpoints again, and make the folder of each new one ready, saying what was thrown away."""
        self.entries = find_entries(self.options)
        for entry in [entry for entry in self.entries if entry not in self._folders]:
            try:
                self._folders[entry] = self._open(entry)
            except UserError:
                if entry.path.is_file():
                    raise
                self.entries.remove(entry)  # deleted while we looked at it

    def _open(self, entry: Entry) -> ResultFolder:
        path = self.options.result_dir / self.options.dataset / entry.name
        params, source = params_for(self.options.params, self.benchmark.name, arch=self.options.arch,
                                    checkpoint=entry.path)
        sha256 = sha256_of(entry.path)
        record = RunRecord(entry.path, sha256, self._spec(entry, sha256, path / RECEIPTS / SPEC_FILE), params, source,
                           self.options.dataset, self.benchmark.source, self.options.amp)
        folder = ResultFolder(path, record)
        # What another checkpoint, setting or data set made is done again; what no run.json accounts for is not ours.
        if thrown_away := folder.open(replace=True, replace_unknown=self.options.fresh):
            _log.warning("%s, to be done again", thrown_away)
        if outdated := folder.outdated(self.sequences):
            _log.warning("%s", outdated)
        return folder

    def _spec(self, entry: Entry, sha256: str, kept: Path) -> dict[str, Any]:
        """Return the keywords of a checkpoint's model. They are kept, so that only one process loads it to find out."""
        asked = {"sha256": sha256, "align": self.options.align}
        with contextlib.suppress(UserError, KeyError, TypeError):
            there = read_json(kept)
            if there["asked"] == asked:
                return dict(there["spec"])
        spec: dict[str, Any] = plain_values(load_model(entry.path, align=self.options.align).spec)
        with atomic_write(kept) as file:
            json.dump({"asked": asked, "spec": spec}, file)
        return spec

    def folder(self, entry: Entry) -> ResultFolder:
        """Return the folder of a checkpoint's results."""
        return self._folders[entry]

    def unfinished(self, entry: Entry) -> list[Sequence]:
        """Return the sequences without a result of this checkpoint, the longest first."""
        folder = self._folders[entry]
        return [sequence for sequence in self.sequences if not folder.is_done(sequence)]

    def next_group(self, claims: Claims, *, size: int) -> list[Entry]:
        """Return the first checkpoints, `size` at most, with a sequence that is neither done nor claimed."""
        group: list[Entry] = []
        for entry in self.entries:
            folder = self._folders[entry]
            if any(claims.is_free(folder.claim_path(sequence.name)) for sequence in self.unfinished(entry)):
                group.append(entry)
            if len(group) == size:
                break
        return group

    def is_finished(self) -> bool:
        """Return whether nothing is left to do and, in a watch, the last epoch has come."""
        if self.options.watch and not any(entry.epoch == self.options.end_epoch for entry in self.entries):
            return False
        return not any(self.unfinished(entry) for entry in self.entries)

    def candidate(self, entry: Entry) -> Candidate:
        """Return a checkpoint as a tracker; those of the last group stay in memory."""
        if entry not in self._candidates:
            # Its folder is its own: should the file have been written again since, results are not taken for others'.
            self._candidates[entry] = load_candidate(entry.path, self.options, name=entry.name,
                                                     benchmark=self.benchmark)
        return self._candidates[entry]

    def keep_only(self, group: list[Entry]) -> None:
        """Let go of the trackers that are not of this group."""
        self._candidates = {entry: self._candidates[entry] for entry in group if entry in self._candidates}
