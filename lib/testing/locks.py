"""Locks by which processes share the sequences of a sweep."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from filelock import SoftFileLease, Timeout

from lib.errors import UserError


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
