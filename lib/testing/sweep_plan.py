"""What a sweep has to do: which checkpoints, into which folders, and which sequences are left; and who does what.

Processes on any machines that share the folder of results share the work by locks (leases of `filelock`) in it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib.benchmarks import Benchmark, Sequence, result_folder
from lib.checkpoint import find_weights, load_model, read_checkpoint, where_else
from lib.errors import UserError
from lib.files import read_json, sha256_of, write_whole
from lib.log import LOGGERS
from lib.options import SweepOptions
from lib.testing.opening import OPENERS, open_checkpoint, open_tracker, weights_file
from lib.testing.results import RECEIPTS, ResultFolder, RunRecord, WorkLocks, plain_values, read_run
from lib.testing.run import Candidate, load_candidate, params_for, plain_name, tracker_name

_EPOCH = re.compile(r"checkpoint_e(\d+)\.pth")
SPEC_FILE = "model.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A checkpoint of the sweep, or the tracker of other people's beside them."""

    path: Path
    name: str  # of its folder of results
    epoch: int | None  # None where the file's name does not say it
    stamp: tuple[int, int]  # time and size of the file: a checkpoint written again is another entry
    tracker: str = ""  # what --tracker names, if it is that


def prefix_of(options: SweepOptions) -> str:
    """Return what the names of the sweep's folders and of its table begin with."""
    return plain_name(options.tracker_name) if options.tracker_name else options.arch


def find_entries(options: SweepOptions) -> list[Entry]:
    """Return the checkpoints to test, by epoch: those listed, or all of the snapshot folder in the range of epochs.

    Raises UserError for a listed file that is not there and for two that would share a folder of results.
    """
    paths = list(_listed(options.checkpoints)) if options.checkpoints else _in_range(options)
    entries = [entry for path in paths if (entry := _entry(path, prefix_of(options))) is not None]
    by_name: dict[str, Entry] = {}
    for entry in entries:
        other = by_name.setdefault(entry.name, entry)
        if other.path != entry.path:
            raise UserError(f"{other.path} and {entry.path} would both write to {entry.name}; test them one at a time "
                            f"with another --tracker_name each")
    return in_order(by_name.values())


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries by epoch, those without one last."""
    return sorted(entries, key=lambda entry: (entry.epoch is None, entry.epoch or 0, entry.name))


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
        path = find_weights(pattern)
        found = [path] if path.is_file() else sorted(path.parent.glob(path.name))
        if not found:
            raise UserError(f"--checkpoints {pattern}: {where_else(path)}; a pattern has * or ? in its last part only")
        yield from found


def _in_range(options: SweepOptions) -> list[Path]:
    if not options.snapshot.is_dir() and not options.watch and not options.tracker:
        raise UserError(f"--snapshot {options.snapshot}: no such folder; expected checkpoint_e<N>.pth in it")
    first, last = options.start_epoch or 1, options.end_epoch or float("inf")
    found = [(int(match[1]), path) for path in options.snapshot.glob("checkpoint_e*.pth")
             if (match := _EPOCH.fullmatch(path.name))]
    return [path for epoch, path in sorted(found) if first <= epoch <= last]


def _entry(path: Path, prefix: str) -> Entry | None:
    """Return the entry of a checkpoint, None if the file has just been deleted (training keeps the last few)."""
    try:
        status = path.stat()
    except OSError:
        return None
    match = _EPOCH.fullmatch(path.name)
    return Entry(path, f"{prefix}_{path.stem}", int(match[1]) if match else None, (status.st_mtime_ns, status.st_size))


class Sweep:
    """The work of a sweep, as it stands on the disk at any moment."""

    def __init__(self, options: SweepOptions, benchmark: Benchmark) -> None:
        self.options = options
        self.benchmark = benchmark
        self.root = result_folder(options.result_dir, benchmark.name)
        self.stem = self.root / f"{prefix_of(options)}_epochs"  # of the table's files
        # The longest first: at the end the workers then wait for short ones only.
        self.sequences = sorted(benchmark.sequences, key=len, reverse=True)
        self._params_of(None)  # a mistake in them is told at once
        self._foreign: list[Entry] = []
        if options.tracker:  # under the name that test_ocean.py gives it
            prefix = f"{plain_name(options.tracker_name)}_" if options.tracker_name else ""
            name = prefix + tracker_name(options.tracker, None, epoch_test=False)
            self._foreign = [Entry(weights_file(options.tracker, options.resume), name, None, (0, 0), options.tracker)]
        self.entries: list[Entry] = []
        self.folders: dict[Entry, ResultFolder] = {}
        self._candidates: dict[Entry, Candidate] = {}

    def refresh(self) -> None:
        """Look for checkpoints again, and make the folder of each new one ready, saying what was thrown away.

        Raises UserError where results of another training lie under the same names: they are neither removed nor mixed.
        """
        entries = [*find_entries(self.options), *self._foreign]
        new = {entry: record for entry in entries if entry not in self.folders
               if (record := self._record_of(entry)) is not None}
        records = {**new, **{entry: self.folders[entry].record for entry in entries if entry in self.folders}}
        if new and (ours := {entry: record for entry, record in records.items() if not entry.tracker}):
            self._check_trainings(ours)
        for entry, record in new.items():
            folder = self.folders[entry] = ResultFolder(self.root / entry.name, record)
            # What the same training's checkpoint, written again, or other settings or data change is done again; of a
            # tracker that is not ours nobody knows whether it is the same one, changed.
            if thrown_away := folder.open(replace=self.options.fresh or not entry.tracker,
                                          replace_unknown=self.options.fresh):
                _log.warning("%s, to be done again", thrown_away)
            if outdated := folder.outdated(self.sequences):
                _log.warning("%s", outdated)
        self.entries = [entry for entry in entries if entry in self.folders]

    def _record_of(self, entry: Entry) -> RunRecord | None:
        """Return the record of a checkpoint, None if it was deleted while we looked at it."""
        if entry.tracker:
            return self._load(entry).folder.record
        try:
            params, source = self._params_of(entry.path)
            sha256 = sha256_of(entry.path)
            model, training = self._read_model(entry, sha256, self.root / entry.name / RECEIPTS / SPEC_FILE)
        except UserError:
            if entry.path.is_file():
                raise
            return None
        return RunRecord(checkpoint=entry.path, sha256=sha256, model=model, params=params, params_source=source,
                         dataset=self.benchmark.name, data_source=self.benchmark.source, amp=self.options.amp,
                         training=training)

    def _check_trainings(self, records: Mapping[Entry, RunRecord]) -> None:
        """Raise UserError for results of another training in these folders, or in those of other epochs of the name."""
        own = {entry.name: record for entry, record in records.items()}
        first, *rest = own.values()
        if others := [record for record in rest if not _same_training(first.as_json(), record)]:
            _log.warning("one table of several trainings, as asked for: %s and %s", first.checkpoint,
                         others[0].checkpoint)
        epochs = self.root.glob(f"{prefix_of(self.options)}_checkpoint_e*") if any(e.epoch for e in records) else ()
        for folder in sorted({*epochs, *(self.root / name for name in own)}):
            mine = [own[folder.name]] if folder.name in own else list(own.values())
            there = None if self.options.fresh and folder.name in own else read_run(folder)
            if there is not None and not any(_same_training(there, record) for record in mine):
                ways = "; --fresh replaces these" if folder.name in own else ""
                raise UserError(f"{folder}: holds results of another training (checkpoint {there.get('checkpoint')}), "
                                f"not of {mine[0].checkpoint}; --tracker_name NAME, or another --result_dir, keeps "
                                f"both apart{ways}")

    def _params_of(self, checkpoint: Path | None, *, tracker: str = "") -> Any:
        options = self.options
        return params_for(options.params, self.benchmark.name, arch=tracker or options.arch, checkpoint=checkpoint,
                          online=options.online)

    def _read_model(self, entry: Entry, sha256: str, kept: Path) -> tuple[dict[str, Any], str]:
        """Return the keywords of a checkpoint's model, and the run that trained it ("" if it does not say).

        They are kept, so that only one process loads it to find out.
        """
        flags: dict[str, Any] = {"align": self.options.align, "online": self.options.online}
        asked = {"sha256": sha256, **flags}
        with contextlib.suppress(UserError, KeyError, TypeError):
            there = read_json(kept)
            if there["asked"] == asked:
                return dict(there["spec"]), str(there["training"])
        arch = self.options.arch
        opened: Any = load_model(entry.path, **flags) if OPENERS[arch] is open_checkpoint else open_tracker(
            arch, entry.path, self._params_of(entry.path)[0], **flags, device="cpu")
        spec = plain_values(getattr(opened, "spec", {}))
        training = str((training_run(entry.path) or ("",))[0])
        write_whole(kept, json.dumps({"asked": asked, "spec": spec, "training": training}))
        return spec, training

    def unfinished(self, entry: Entry) -> list[Sequence]:
        """Return the sequences without a result of this checkpoint, the longest first."""
        folder = self.folders[entry]
        return [sequence for sequence in self.sequences if not folder.is_done(sequence)]

    def earlier(self) -> list[Entry]:
        """Return the other checkpoints of the table that an earlier sweep left, if their results are as it tells.

        They are whole, of a training that is tested now (any, where none is) or a tracker of other people's, and made
        with the settings that would be used now.
        """
        table = self.stem.with_name(f"{self.stem.name}.json")
        rows = read_json(table)["checkpoints"] if table.is_file() and self.entries else []
        mine = {entry.name for entry in self.entries}
        ours = [self.folders[entry].record for entry in self.entries if not entry.tracker]
        found = []
        for row in (row for row in rows if row["name"] not in mine):
            entry = Entry(Path(row["path"]), row["name"], row["epoch"], (0, 0), row.get("tracker", ""))
            there = read_run(self.root / entry.name)
            params, source = self._params_of(entry.path, tracker=entry.tracker)
            identity = there["identity"] if there is not None else {}
            record = replace(self.folders[self.entries[0]].record, checkpoint=entry.path, sha256=row["sha256"],
                             params=params, params_source=source, model=identity.get("model", {}))
            folder = ResultFolder(self.root / entry.name, record)
            same = there is not None and (entry.tracker or not ours or any(_same_training(there, own) for own in ours))
            if same and record.identity == identity and all(map(folder.is_done, self.sequences)):
                self.folders[entry] = folder
                found.append(entry)
            else:
                _log.warning("%s: no longer in the table: not whole, of another training, or made with other settings",
                             entry.name)
        return found

    def next_group(self, locks: WorkLocks, *, size: int) -> list[Entry]:
        """Return the first checkpoints, `size` at most, with a sequence that is neither done nor taken."""
        group: list[Entry] = []
        for entry in self.entries:
            folder = self.folders[entry]
            if group and (entry.tracker or group[0].tracker):
                continue  # what is not ours has a worker to itself, and frames of its own: its speed is then told
            if any(locks.is_free(folder.lock_path(sequence.name)) for sequence in self.unfinished(entry)):
                group.append(entry)
            if len(group) == size:
                break
        return group

    def is_finished(self) -> bool:
        """Return whether nothing is left to do and, in a watch, the last epoch has come."""
        if self.options.watch and not any(entry.epoch == self.options.end_epoch for entry in self.entries):
            return False
        return not any(self.unfinished(entry) for entry in self.entries)

    def candidates(self, group: list[Entry]) -> list[Candidate]:
        """Return checkpoints as trackers; those of the last group stay in memory until another one is asked for."""
        # The folder of each is its own: should a file have been written again since, results are not taken for others'.
        self._candidates = {entry: kept for entry, kept in self._candidates.items() if entry in group}
        for entry in group:
            if entry not in self._candidates:
                self._candidates[entry] = self._load(entry)
        return [self._candidates[entry] for entry in group]

    def _load(self, entry: Entry) -> Candidate:
        path, options = (self.options.resume, replace(self.options, arch=entry.tracker)) if entry.tracker else (
            entry.path, self.options)
        return load_candidate(path, options, name=entry.name, benchmark=self.benchmark)


def _same_training(there: Mapping[str, Any], record: RunRecord) -> bool:
    """Return whether a run.json is of the training of `record`: by what the checkpoints say, else by their folder."""
    if there["identity"].get("checkpoint_sha256") == record.sha256:
        return True
    if there.get("training") and record.training:
        return bool(there["training"] == record.training)
    recorded = Path(str(there.get("checkpoint")))
    return recorded.resolve().parent == record.checkpoint.resolve().parent


def training_run(checkpoint: Path) -> tuple[Path, str] | None:
    """Return folder and LOGGER of the run that trained a checkpoint, None if the checkpoint does not say."""
    try:
        content = read_checkpoint(checkpoint)
    except UserError:
        return None  # deleted since; its scores are there all the same
    config, run = content.get("config"), content.get("run")
    if not isinstance(config, dict) or not isinstance(run, str) or len(config) != 1 or Path(run).name != run:
        return None
    tree = next(iter(config.values()))
    try:
        return (Path(tree["OUTPUT_DIR"]) / tree["TRAIN"]["MODEL"] / run,
                next((name for name in LOGGERS if name == tree.get("LOGGER")), "tensorboard"))
    except (KeyError, TypeError):
        return None
