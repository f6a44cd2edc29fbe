"""Where trackers' result files lie and what they are called: one folder per tracker, or the OTB toolkit's flat one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lib.benchmarks.box_text import read_boxes
from lib.benchmarks.mat_boxes import read_mat_boxes
from lib.benchmarks.otb_facts import alias_key, canonical_name
from lib.boxes import Boxes
from lib.errors import UserError
from lib.files import read_json

RUN_FILE = "run.json"
"""Lies in a tracker's folder where testing wrote it: checkpoint, settings and data set of its results."""
_SUFFIXES = (".txt", ".mat")


def read_result_rows(path: str | Path) -> Boxes:
    """Return the boxes (N, 4) of a result file with the values and the pixel origin of the file, NaN rows included.

    Text (comma, tab, semicolon or spaces) or, with scipy, a `.mat` of the OTB toolkit.
    """
    file = Path(path)
    return read_mat_boxes(file) if file.suffix == ".mat" else read_boxes(file, allow_nan=True)


def find_results(folder: str | Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Return the result file of each sequence in `names` that a tracker has, under any spelling of its name.

    `jogging_1.txt`, `Jogging-1.txt`, `Jogging.1.txt`, `Jogging1.mat` and `jogging-1_KCF.mat` are one sequence of
    tracker KCF, and so is `Jogging-1/Jogging-1_001.txt` of the got10k toolkit. The exact name wins; two other
    spellings of one sequence are a UserError, and a spelling that means two of `names` (UAV123's car11 and car1_1)
    counts for the exact one alone. Where there is no such
    folder, the files `*_<tracker>.txt` and `.mat` in its parent stand for it: the OTB toolkit's layout.
    """
    root = Path(folder)
    if root.is_dir():
        stems = {path: path.stem for path in _result_paths(root)}
        ending = f"_{root.name.lower()}"
        stems |= {path: stem[: -len(ending)] for path, stem in stems.items() if stem.lower().endswith(ending)}
        stems |= {path: path.parent.name for path in root.glob("*/*_001.txt") if path.stem == f"{path.parent.name}_001"}
    else:
        stems = {path: path.stem[: -len(root.name) - 1] for path in _result_paths(root.parent)
                 if path.stem.endswith(f"_{root.name}")}
    by_key: dict[str, list[Path]] = {}
    for path, stem in stems.items():
        by_key.setdefault(_match_key(stem), []).append(path)
    found = {}
    meanings = Counter(_match_key(name) for name in names)
    for name in names:
        candidates = by_key.get(_match_key(name), [])
        exact = [path for path in candidates if name in (path.stem, path.parent.name)]
        if meanings[_match_key(name)] > 1:
            candidates = exact
        if len(candidates) > 1 and not exact:
            raise UserError(f"{root}: {' and '.join(path.name for path in candidates)} both stand for {name}; keep one")
        if candidates:
            found[name] = (exact or candidates)[0]
    return found


def read_stamp(folder: str | Path) -> str:
    """Return the benchmark that the settings behind a tracker's results were tuned on, "" where none is told."""
    path = Path(folder) / RUN_FILE
    run = read_json(path) if path.is_file() else None
    return str(run.get("tuned_on") or "") if isinstance(run, dict) else ""


def flat_trackers(folder: Path) -> list[str]:
    """Return the trackers whose results lie in one flat folder as `<sequence>_<tracker>.mat` or `.txt`, sorted."""
    return sorted({name for path in _result_paths(folder) if (name := _tracker_in(path.stem))})


def _tracker_in(stem: str) -> str:
    """Return what follows the longest sequence name at the start of a file's stem, "" where none is known."""
    parts = stem.split("_")
    for end in range(len(parts) - 1, 0, -1):
        if canonical_name("_".join(parts[:end])):
            return "_".join(parts[end:])
    return ""


def _result_paths(folder: Path) -> Iterable[Path]:
    """Return the files of a folder that may hold results, sorted."""
    return sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES) if folder.is_dir() else []


def _match_key(name: str) -> str:
    """Return the key under which two spellings of one sequence meet."""
    return alias_key(canonical_name(name) or name)
