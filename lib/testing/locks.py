"""Claims: files by which processes, on any machines that share a disk, agree on who does what.

A claim is a file created exclusively. Its owner touches it as long as it lives; a claim whose owner is dead is taken
over. Nothing depends on clocks that agree. Should two processes ever hold the same claim (a machine that slept, a disk
that lies), they do the same work twice; as results are written whole, that costs time only.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from lib.errors import UserError

STALE_AFTER = 60.0  # seconds without a touch after which the owner on another machine counts as dead


class Claims:
    """The claims of this process, kept alive by a thread within `with`, and given back at its end."""

    def __init__(self, *, stale_after: float = STALE_AFTER) -> None:
        self._stale_after = stale_after
        self._token = uuid.uuid4().hex
        self._held: set[Path] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="claims", daemon=True)
        # Claims of others: what was seen and since when, by our own clock.
        self._seen: dict[Path, tuple[tuple[int, str], float]] = {}

    def __enter__(self) -> Claims:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for path in list(self._held):
            self.release(path)

    def take(self, path: Path) -> bool:
        """Return whether the claim is ours now: it was free, or its owner is dead."""
        if self._create(path):
            return True
        if not self._is_abandoned(path):
            return False
        self._remove_abandoned(path)
        return self._create(path)

    def is_free(self, path: Path) -> bool:
        """Return whether `take` would succeed at this moment."""
        return not path.exists() or self._is_abandoned(path)

    def release(self, path: Path) -> None:
        """Give a claim back; one that another process has taken over meanwhile stays its own."""
        with self._lock:
            self._held.discard(path)
        if _read(path).get("token") == self._token:
            path.unlink(missing_ok=True)

    def _create(self, path: Path) -> bool:
        owner = {"token": self._token, "pid": os.getpid(), "started": _started(os.getpid()), "place": _place()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); workers share their work here") from error
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(owner, file)
        with self._lock:
            self._held.add(path)
        return True

    def _is_abandoned(self, path: Path) -> bool:
        """Return whether the owner of a claim is dead, as far as can be known here."""
        owner = _read(path)
        place = _place()
        if place and owner.get("place") == place:
            return _started(owner.get("pid")) != owner.get("started")
        try:
            now = (path.stat().st_mtime_ns, str(owner.get("token", "")))
        except OSError:
            return True
        before, since = self._seen.get(path, (None, 0.0))
        if before != now:
            self._seen[path] = (now, time.monotonic())
            return False
        return time.monotonic() - since > self._stale_after

    def _remove_abandoned(self, path: Path) -> None:
        """Take a dead owner's claim away, unless another process was faster and has made it its own."""
        owner = _read(path)
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        with contextlib.suppress(OSError):
            path.rename(aside)  # one of several takers succeeds
            if _read(aside).get("token") != owner.get("token"):
                aside.rename(path)  # it was a new owner's: back it goes
            aside.unlink(missing_ok=True)

    def _keep_alive(self) -> None:
        while not self._stop.wait(self._stale_after / 6):
            with self._lock:
                held = list(self._held)
            for path in held:
                with contextlib.suppress(OSError):
                    os.utime(path)


def _read(path: Path) -> dict[str, Any]:
    """Return a claim's owner, empty when the file is gone or not whole yet."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _place() -> str:
    """Return what processes that can see each other have in common: a machine since its last start, and a container.

    "" where the system does not say (other than Linux): only touches tell then whether an owner lives.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: Any) -> str:
    """Return when a process that can be seen from here started, in the kernel's ticks, "" when there is none.

    The number and the start together are unique, so a reused number is not mistaken for the owner.
    """
    try:
        fields = Path(f"/proc/{int(pid)}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (OSError, TypeError, ValueError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]
