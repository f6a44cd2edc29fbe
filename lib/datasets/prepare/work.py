"""The work of prepare: cutting crops on all cores, and the journal of what is done, from which a killed run goes on."""

from __future__ import annotations

import json
import signal
import sqlite3
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
from filelock import FileLock, Timeout
from tqdm import tqdm

from lib.crops import Image, crop511, mean_colour
from lib.datasets.prepare import ABSENT, MISSING, UNREADABLE, Frame, Task, Video, unwanted
from lib.datasets.stores import crop_name, pack_pictures
from lib.distributed import available_cpus
from lib.errors import UserError, die_with_parent
from lib.images import decode
from lib.options import PrepareOptions

In = TypeVar("In")
Out = TypeVar("Out")

JOURNAL, CROPS = "journal.db", "crop511"
_PATIENCE = 5.0  # s; the processes of a killed run hold the folder until they notice, in a second
_AHEAD = 4  # tasks handed out per process, so that none waits for the next
_BLOCK = 16  # px of a block with chroma at half the resolution, OpenCV's default
_GOES_ON = "free some space and run the same command again: it goes on where it stopped"


# ---- the journal


class Journal:
    """The open journal of a folder, an SQLite file with one record per finished task; the folder is this run's alone.

    Tasks with faults are to be done again: broken pictures or annotations may have been mended. UserError if another
    run has the folder, or other settings made its crops.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.path = folder / JOURNAL
        self._lock = FileLock(folder / "journal.lock", timeout=_PATIENCE)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise UserError(f"{folder}: another prepare is at work here; wait, or choose another --out") from error
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from error
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None)
            # Written at once but not waited for: a million stills would wait for the disk a million times.
            self._run("PRAGMA journal_mode = WAL")
            self._run("PRAGMA synchronous = NORMAL")
            self._run("CREATE TABLE IF NOT EXISTS settings (settings TEXT)")
            self._run("CREATE TABLE IF NOT EXISTS tasks (name TEXT PRIMARY KEY, crops INT, faults INT, record TEXT)")
            self._check_settings(json.loads(json.dumps(dict(settings))))
            self._run("DELETE FROM tasks WHERE faults > 0")
        except BaseException:
            self._lock.release()
            raise
        self.done: set[str] = {name for (name,) in self._run("SELECT name FROM tasks")}

    def _run(self, command: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._db.execute(command, values)
        except sqlite3.OperationalError as error:
            raise UserError(f"{self.path}: cannot be written ({error}); {_GOES_ON}") from error
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path}: damaged ({error}); delete the folder, or choose another --out") from error

    def _check_settings(self, wanted: dict[str, Any]) -> None:
        """Refuse other settings than those that the crops here were made with; a try without crops binds to nothing."""
        row = self._run("SELECT settings FROM settings").fetchone()
        found = json.loads(row[0]) if row else wanted
        differing = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
        crops = self._run("SELECT COALESCE(SUM(crops), 0) FROM tasks").fetchone()[0]
        if differing and crops:
            key = differing[0]
            raise UserError(f"{self.path.parent} was begun with {key} {found.get(key)!r:.200}, now it is "
                            f"{wanted.get(key)!r:.200}; run the same command, or choose another --out")
        if differing:
            self._run("DELETE FROM tasks")
        if differing or not row:
            self._run("DELETE FROM settings")
            self._run("INSERT INTO settings VALUES (?)", json.dumps(wanted, ensure_ascii=False))

    def add(self, record: Mapping[str, Any]) -> None:
        self._run("INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?)", record["name"], record["crops"],
                  len(record["faults"]), json.dumps(record, ensure_ascii=False, separators=(",", ":")))
        self.done.add(record["name"])

    def records(self, names: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Return an iterator over the records of the given tasks, by default of all, ordered by name."""
        if names is None:
            names = [name for (name,) in self._run("SELECT name FROM tasks ORDER BY name")]
        for name in names:
            yield json.loads(self._run("SELECT record FROM tasks WHERE name = ?", name).fetchone()[0])

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_error: object) -> None:
        self._db.execute("PRAGMA journal_mode = DELETE")  # one file, that is read from a disk without writing too
        self._db.close()
        self._lock.release()


def read_journal(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the settings of a prepared folder and its records by task; UserError where there is no journal."""
    if not (folder / JOURNAL).is_file():
        raise UserError(f"{folder / JOURNAL}: no such file; expected a folder that `prepare` made")
    try:
        db = sqlite3.connect(folder / JOURNAL)
        (settings,) = db.execute("SELECT settings FROM settings").fetchone()
        rows = db.execute("SELECT name, record FROM tasks ORDER BY name").fetchall()
        db.close()
        return json.loads(settings), {name: json.loads(record) for name, record in rows}
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise UserError(f"{folder / JOURNAL}: damaged ({error}); prepare into another folder") from error


# ---- cutting


def cut(options: PrepareOptions, task: Task) -> dict[str, Any]:
    """Return the journal's record of a task whose crops are now written, unless options say that there be none.

    Keys: name; tracks {track: {frame: box}}; pictures, the frame's paths; crops and bytes, counts; crc, 8 hex
    digits of each crop's CRC-32 in the order of `tracks`; dropped {reason: boxes}; faults, pictures not usable.
    """
    try:
        video = task.read()
    except UserError as error:  # one broken annotation among thousands does not end the work
        video = Video(task.name, (), {}, (str(error),))
    dropped: Counter[str] = Counter(video.dropped)
    rows: list[tuple[int, int, list[float], int, str]] = []
    pictures: dict[int, str] = {}
    faults = list(video.faults)
    for frame in video.frames:
        if options.absent == "drop" and (absent := sum(box.absent for box in frame.boxes)):
            dropped[ABSENT] += absent
            frame = frame._replace(boxes=tuple(box for box in frame.boxes if not box.absent))
        if not frame.boxes:
            continue
        try:
            kept = _cut_frame(options, frame, video.name, dropped)
        except (OSError, ValueError) as error:
            missing = isinstance(error, FileNotFoundError)
            dropped[MISSING if missing else UNREADABLE] += len(frame.boxes)
            faults.append(f"{frame.picture}: {'no such file' if missing else error}")
            continue
        rows += kept
        if kept:
            pictures[frame.number] = frame.picture
    rows.sort(key=lambda row: row[:2])
    tracks: dict[str, dict[str, list[float]]] = {}
    for track, number, box, _, _ in rows:
        tracks.setdefault(f"{track:02d}", {})[f"{number:06d}"] = box
    return {
        "name": video.name, "tracks": tracks, "pictures": pack_pictures(pictures), "crops": len(rows),
        "bytes": sum(row[3] for row in rows), "crc": "".join(row[4] for row in rows), "dropped": dropped,
        "faults": faults,
    }


def _cut_frame(
    options: PrepareOptions, frame: Frame, video: str, dropped: Counter[str]
) -> list[tuple[int, int, list[float], int, str]]:
    """Return (track, frame, box, bytes, crc) of each box of a frame that is kept, its crop written."""
    picture = decode((options.root / frame.picture).read_bytes())
    height, width = picture.shape[:2]
    fill = mean_colour(picture)
    rows = []
    for box in frame.boxes:
        if frame.relative:
            x1, y1, x2, y2 = box.xyxy
            box = box._replace(xyxy=(x1 * width, y1 * height, x2 * width, y2 * height))
        if reason := unwanted(box, options, width=width, height=height):
            dropped[reason] += 1
            continue
        size, crc = 0, ""
        rounded = [round(v, 2) for v in box.xyxy]
        if not options.no_crops:
            data = encode(crop511(picture, rounded, fill=fill), quality=options.quality)
            _write_crop(options.out / CROPS / video / crop_name(frame.number, box.track), data)
            size, crc = len(data), f"{zlib.crc32(data):08x}"
        rows.append((box.track, frame.number, rounded, size, crc))
    return rows


def encode(image: Image, *, quality: int) -> bytes:
    """Return a JPEG with a restart mark after each row of blocks, 0.3% larger, for `lib.images.cut_rows`."""
    blocks = -(-image.shape[1] // _BLOCK)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, blocks]
    done, data = cv2.imencode(".jpg", image, options)
    assert done, image.shape
    return bytes(data)


def _write_crop(path: Path, data: bytes) -> None:
    """Write a crop under a temporary name and rename it; raise UserError when the system refuses.

    Not flushed one by one: a million flushes take hours. The journal's checksums find what a power cut loses.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        try:
            temporary.write_bytes(data)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); {_GOES_ON}") from error


def cut_all(tasks: Sequence[Task], options: PrepareOptions, journal: Journal) -> None:
    """Cut all tasks that the journal does not hold, on all cores; each becomes a record, so what is done stays done."""
    todo = [task for task in tasks if task.name not in journal.done]
    for record in on_all_cores(partial(cut, options), todo, jobs=options.jobs, title="cutting", unit=" tasks",
                               done=len(tasks) - len(todo)):
        journal.add(record)


# ---- processes


def on_all_cores(
    work: Callable[[In], Out], items: Sequence[In], *, jobs: int | None, title: str, unit: str, done: int = 0
) -> Iterator[Out]:
    """Yield work(item), as each is done, on `jobs` processes (None: all cores); a progress bar counts from `done`."""
    pace = 0.1 if sys.stderr.isatty() else 10.0  # s; a log file needs no bar ten times a second
    with tqdm(total=done + len(items), initial=done, unit=unit, smoothing=0.05, desc=title, mininterval=pace) as bar:
        for result in _results(work, items, jobs=jobs or len(available_cpus())):
            yield result
            bar.update()


def _results(work: Callable[[In], Out], items: Sequence[In], *, jobs: int) -> Iterator[Out]:
    """Return an iterator over work(item), in the order in which they are done; a few items wait for each process."""
    if jobs == 1:
        yield from map(work, items)
        return
    pool = ProcessPoolExecutor(jobs, initializer=_start_process)
    waiting: set[Future[Out]] = set()
    rest = iter(items)
    try:
        while True:
            waiting |= {pool.submit(work, item) for item in islice(rest, jobs * _AHEAD - len(waiting))}
            if not waiting:
                break
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise UserError("a process was killed, most likely for want of memory; run the same command again, it goes on "
                        "where it stopped, with fewer --jobs if need be") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_process() -> None:
    """Prepare a process of the pool: one thread of OpenCV, and an end when the parent has been killed."""
    cv2.setNumThreads(0)
    die_with_parent(signal.SIGKILL)
