"""A folder of results: which checkpoint, settings and data set made it, and which sequences are done.

`run.json` says what the folder holds. Beside each result lies a receipt, `.run/<Sequence>.json`, that ties it to the
run and to the sequence as it was; a result counts only with a receipt that fits. So a second start goes on where the
first one stopped, any number of processes may fill one folder, sharing its sequences by locks, and nothing made by
another checkpoint is ever reused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import SoftFileLease, Timeout
from numpy.typing import NDArray

from lib.benchmarks import RUN_FILE, Sequence, VOTSequence, layout_of, presence_file, write_presence, write_result
from lib.benchmarks.box_files import read_stamp
from lib.benchmarks.vot import trajectory_file, write_trajectory
from lib.boxes import Boxes
from lib.errors import UserError, listed
from lib.files import atomic_write, read_json, sha256_of, write_whole
from lib.tracker.params import TrackerParams
from lib.tracker.presence import FINGERPRINT

RECEIPTS = ".run"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What makes the boxes: two runs with equal `identity` give the same ones, to rounding."""

    checkpoint: Path
    sha256: str  # of the checkpoint's file
    dataset: str
    data_source: Path
    model: Mapping[str, Any] = field(default_factory=dict)  # the keywords of build_model
    params: TrackerParams = field(default_factory=TrackerParams)
    params_source: str = ""
    amp: str = "none"
    training: str = ""  # the run that trained the checkpoint, where it says so

    @property
    def identity(self) -> dict[str, Any]:
        """Return what must be equal for a result to be reused: neither paths nor the machine.

        "presence" tells by which numbers an Ocean judges itself; trackers of other people's have none.
        """
        return {"checkpoint_sha256": self.sha256, "model": dict(self.model), "tracker": self.params.identity,
                "dataset": self.dataset, "amp": self.amp, **({"presence": FINGERPRINT} if "arch" in self.model else {})}

    @property
    def key(self) -> str:
        """Return a digest of `identity`, 64 hex digits."""
        return _digest(self.identity)

    def as_json(self) -> dict[str, Any]:
        return {"identity": self.identity, "checkpoint": str(self.checkpoint), "data": str(self.data_source),
                "tracker_from": self.params_source, "tuned_on": self.params.tuned_on, "training": self.training}


class ResultFolder:
    """The results of one run on one data set. Safe to be filled by several processes at once."""

    def __init__(self, path: Path, record: RunRecord) -> None:
        self.path = path
        self.record = record
        there = read_run(path)
        self._key = there["key"] if there is not None and there["identity"] == record.identity else record.key
        self._prints: dict[str, str] = {}
        self._is_vot = layout_of(record.dataset).protocol == "vot"

    def open(self, *, replace: bool, replace_unknown: bool) -> str:
        """Make the folder ready and return what was thrown away, "" if nothing.

        A folder of another run raises UserError naming both; with `replace` its results are deleted. A folder with
        results that no run.json accounts for is treated likewise by `replace_unknown`.
        """
        difference, known = self._difference()
        if difference and not (replace if known else replace_unknown):
            raise UserError(f"{self.path}: {difference}; --fresh replaces these results, --tracker_name NAME keeps "
                            f"them and writes beside them")
        removed = 0
        for result in self._results() if difference else ():
            # Another process of this run may be writing its own.
            if self._receipt(result.parent.name if self._is_vot else result.stem).get("run") != self._key:
                result.unlink(missing_ok=True)
                removed += 1
        stamped = read_stamp(self.path) == self.record.params.tuned_on
        if difference or not stamped or not (self.path / RUN_FILE).is_file():
            write_whole(self.path / RUN_FILE, json.dumps(self.record.as_json(), indent=1))
        return f"{self.path}: {difference}; {removed} result(s) removed" if difference else ""

    def outdated(self, sequences: Iterable[Sequence]) -> str:
        """Return which results are this run's but were made before the data set changed, "" if none."""
        found = [sequence.name for sequence in sequences if self.result_path(sequence.name).is_file()
                 and self._receipt(sequence.name).get("run") == self._key and not self.is_done(sequence)]
        return f"{self.path}: {', '.join(found)} changed in the data set since, to be done again" if found else ""

    def is_done(self, sequence: Sequence) -> bool:
        """Return whether this run's result of the sequence, as it is now, is there."""
        return self.seconds(sequence) is not None

    def seconds(self, sequence: Sequence) -> float | None:
        """Return how long the sequence took, None if its result is not there or not this run's."""
        if not self.result_path(sequence.name).is_file():
            return None
        receipt = self._receipt(sequence.name)
        if receipt.get("run") != self._key or receipt.get("sequence") != self._fingerprint(sequence):
            return None
        return float(receipt.get("seconds", 0.0))

    def save(
        self, sequence: Sequence, boxes_xywh: Boxes, *, seconds: float, codes: NDArray[np.int8] | None = None,
        presence: NDArray[np.float64] | None = None,
    ) -> None:
        """Write the result of a sequence, whole or not at all. `codes` (N,) are those of the restart protocol.

        `presence` (N,) goes to a file of its own beside the boxes, if the tracker has told any.
        """
        result = self.result_path(sequence.name)
        presence_file(self.path, sequence.name).unlink(missing_ok=True)
        if presence is not None and not np.isnan(presence).all():
            write_presence(presence_file(self.path, sequence.name), presence)
        # In this order a kill at any moment leaves no result with a receipt that is not its own.
        result.unlink(missing_ok=True)
        with atomic_write(self._receipt_path(sequence.name)) as file:
            json.dump({"run": self._key, "sequence": self._fingerprint(sequence), "frames": len(boxes_xywh),
                       "seconds": round(seconds, 4)}, file)
        if codes is not None:
            write_trajectory(result, codes, boxes_xywh)
        else:
            write_result(result, boxes_xywh, dataset=self.record.dataset)

    def result_path(self, name: str) -> Path:
        """Return where the result of a sequence is written: under the data set's own name for it."""
        return trajectory_file(self.path, name) if self._is_vot else self.path / f"{name}.txt"

    def _results(self) -> list[Path]:
        """Return the result files that are there, whoever made them."""
        return sorted(self.path.glob("baseline/*/*_001.txt" if self._is_vot else "*.txt"))

    def discard(self, names: Iterable[str]) -> None:
        """Delete the results of these sequences, so that they are made again."""
        for name in names:
            self.result_path(name).unlink(missing_ok=True)

    def lock_path(self, name: str) -> Path:
        """Return the file by which one of several processes takes a sequence on."""
        return self.path / RECEIPTS / f"{name}.lock"

    def _fingerprint(self, sequence: Sequence) -> str:
        """Return the sequence's fingerprint when it was first asked for: a folder object lives as long as a run."""
        if sequence.name not in self._prints:
            self._prints[sequence.name] = fingerprint(sequence)
        return self._prints[sequence.name]

    def _receipt_path(self, name: str) -> Path:
        return self.path / RECEIPTS / f"{name}.json"

    def _receipt(self, name: str) -> dict[str, Any]:
        """Return a receipt, empty when there is none that can be read: the sequence is then simply done again."""
        try:
            receipt = read_json(self._receipt_path(name))
        except UserError:
            return {}
        return receipt if isinstance(receipt, dict) else {}

    def _difference(self) -> tuple[str, bool]:
        """Return in words what the folder holds other than this run ("": nothing), and whether it has a run.json."""
        there = read_run(self.path)
        if there is None:
            unknown = len(self._results())
            return f"holds {unknown} result(s) of unknown origin (no {RUN_FILE})" if unknown else "", False
        identity, mine = there["identity"], self.record.identity
        if identity == mine:
            return "", True
        if identity.get("checkpoint_sha256") == mine["checkpoint_sha256"]:
            return f"holds results made with {changes(identity, mine)}", True
        theirs = f"{there.get('checkpoint')} (sha256 {str(identity.get('checkpoint_sha256'))[:12]})"
        return (f"holds results of checkpoint {theirs}, not of {self.record.checkpoint} "
                f"(sha256 {self.record.sha256[:12]})"), True


def read_run(folder: Path) -> dict[str, Any] | None:
    """Return what a folder's run.json says, its "identity" and that one's "key"; None without one.

    Raises UserError for a file that is no such record. The data set has its canonical name, whatever was written.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    there = read_json(path)
    if not isinstance(there, dict) or not isinstance(there.get("identity"), dict):
        raise UserError(f"{path}: not a record of a run; delete the folder or choose another --tracker_name")
    named = dict(there["identity"])
    with contextlib.suppress(UserError):  # a name that is refused today stays as it was written
        named["dataset"] = layout_of(str(named.get("dataset", ""))).name
    return {**there, "key": _digest(there["identity"]), "identity": named}


def record_of(checkpoint: Path, *, model: Mapping[str, Any] | None = None, **facts: Any) -> RunRecord:
    """Return the record of a run with this checkpoint (or source), whose file is hashed, and the given facts."""
    return RunRecord(checkpoint=checkpoint, sha256=sha256_of(checkpoint), model=plain_values(model or {}), **facts)


def plain_values(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree as JSON will give it back: tuples become lists."""
    return dict(json.loads(json.dumps(dict(tree))))


def fingerprint(sequence: Sequence) -> str:
    """Return a digest of what a tracker is given: frame names, the first box, and the sizes of three of the images."""
    frames = sequence.frames
    probed = [frames[i] for i in sorted({0, len(frames) // 2, len(frames) - 1})] if frames else []
    sizes = [path.stat().st_size if path.is_file() else -1 for path in probed]
    given = sequence.boxes_xywh[0].tolist()
    if isinstance(sequence, VOTSequence):  # a tracker is started again from later polygons
        given = hashlib.sha256(sequence.regions.tobytes()).hexdigest()
    return _digest([sequence.name, [path.name for path in frames], given, sizes])[:16]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the first settings that differ between two identities, as `name old instead of new`."""
    flat_old, flat_new = (
        {f"{k}.{inner}" if isinstance(v, Mapping) else k: value
         for k, v in tree.items() for inner, value in (v.items() if isinstance(v, Mapping) else [("", v)])}
        for tree in (old, new)
    )
    names = [name for name in {**flat_old, **flat_new} if flat_old.get(name) != flat_new.get(name)]
    return listed([f"{name} {flat_old.get(name)} instead of {flat_new.get(name)}" for name in names], shown=3)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class WorkLocks:
    """The locks of this process, each kept alive by a thread, and given back at the end of `with`.

    Where the owner of a lock can be seen to be dead (same machine) the lock is free at once, else after `stale_after`
    seconds without a sign of life, by our own clock. Should two processes ever hold one (a machine that slept), they do
    the same work twice; as results are written whole, that costs time only.
    """

    def __init__(self, *, stale_after: float = 60.0) -> None:
        self._stale_after = stale_after
        # A lock remembers since when it has seen another's as it is.
        self._known: dict[Path, SoftFileLease] = {}
        self._empty: dict[Path, float] = {}  # since when a lock's file has been seen empty

    def __enter__(self) -> WorkLocks:
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._known:
            self.release(path)

    def take(self, path: Path) -> bool:
        """Return whether the lock is ours now: it was free, or its owner is dead."""
        if path not in self._known:
            self._known[path] = SoftFileLease(path, lease_duration=self._stale_after, timeout=0, thread_local=False)
        lock = self._known[path]
        if lock.is_locked:
            return False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            self._clear_empty(path)
            return False
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); workers share their work here") from error
        return True

    def _clear_empty(self, path: Path) -> None:
        """Remove a file that has been empty for long: its owner died between making and filling it."""
        with contextlib.suppress(OSError):
            if path.stat().st_size:
                self._empty.pop(path, None)
            elif time.monotonic() - self._empty.setdefault(path, time.monotonic()) > self._stale_after:
                path.unlink()

    def is_free(self, path: Path) -> bool:
        """Return whether `take` would succeed at this moment."""
        free = self.take(path)
        if free:
            self.release(path)
        return free

    def release(self, path: Path) -> None:
        """Give a lock back; one that another process has taken over meanwhile stays its own."""
        if path in self._known:
            self._known[path].release()
