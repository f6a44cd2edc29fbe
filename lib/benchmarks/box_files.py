"""Files of boxes: text with a box or polygon per line, MATLAB results, and which file is which sequence's result."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.benchmarks.facts import alias_key, otb_name
from lib.boxes import Boxes
from lib.errors import UserError
from lib.files import read_bytes, read_json, write_whole

RUN_FILE = "run.json"  # of a tracker's folder that testing wrote: checkpoint, settings and data set of its results
_SEPARATORS = re.compile(r"[,;\s]+")
_OF_NUMBERS = b"0123456789.+-eEnaNA"
_RESULT_SUFFIXES = (".txt", ".mat")
_RESULT_PREFIXES = ("uav_", "nfs_", "tpl_", "otb_", "lasot_")  # pytracking's and STARK's published results
Rows = NDArray[np.float64]
"""A ground truth: (N, 4) x, y, w, h, or (N, 8) corners x1, y1, ..., where a row of NaN is a frame without target and
one whose last four are NaN is a box."""


# ---- text


def read_truth(path: Path) -> Rows:
    """Return the boxes and polygons of a text file, mixed or not, with , ; tab or blank between; else UserError."""
    data = read_bytes(path)
    rows = _parse_clean(data)
    if rows is None:
        rows = as_rows(_parse_slowly(path, data, widths=(4, 8)))
    return checked_rows(rows, place=f"{path} line")


def read_rows(path: Path, *, widths: tuple[int, ...]) -> list[list[float]]:
    """Return the rows of finite numbers of a text file, each as long as one of `widths`; UserError with the line."""
    rows = _parse_slowly(path, read_bytes(path), widths=widths)
    for number, row in enumerate(rows, start=1):
        if not np.isfinite(row).all():
            raise UserError(f"{path} line {number}: {row}; expected finite numbers")
    return rows


def as_rows(rows: list[list[float]]) -> Rows:
    """Return lists of four or eight numbers as one array, a box among polygons filled up with NaN."""
    width = max(map(len, rows), default=4)
    return np.array([row + [np.nan] * (width - len(row)) for row in rows], np.float64).reshape(-1, width)


def checked_rows(rows: Rows, *, place: str) -> Rows:
    """Return a ground truth whose rows are boxes, polygons or all NaN; UserError with the number of one that is not."""
    fine = np.isfinite(rows)
    whole = fine.all(axis=1) | np.isnan(rows).all(axis=1)
    if rows.shape[1] == 8:
        whole |= fine[:, :4].all(axis=1) & np.isnan(rows[:, 4:]).all(axis=1)
    if not whole.all():
        row = int(np.argmin(whole))
        raise UserError(f"{place} {row + 1}: {rows[row].tolist()} is not a box; expected finite numbers x,y,w,h, or "
                        "NaN for all of a frame without a target")
    return rows


def write_boxes(path: Path, boxes_xywh: Boxes) -> None:
    """Write rows (N, 4) as `x,y,w,h` with four decimals, whole or not at all."""
    assert boxes_xywh.shape == (len(boxes_xywh), 4), boxes_xywh.shape
    assert np.isfinite(boxes_xywh).all(), "a tracker's box must be finite"
    write_whole(path, "".join(f"{x:.4f},{y:.4f},{w:.4f},{h:.4f}\n" for x, y, w, h in boxes_xywh.tolist()))


def _parse_clean(data: bytes) -> Boxes | None:
    """Return the rows (N, 4) when every line is four plain numbers with one kind of separator, else None.

    Without the characters of numbers three commas a line must be left, which makes one call of numpy's parser strict.
    """
    text = data.replace(b"\r\n", b"\n").rstrip(b"\n").replace(b"\t", b",") + b"\n"
    rows = text.count(b"\n")
    if text.translate(None, _OF_NUMBERS) != b",,,\n" * rows:
        return None
    with warnings.catch_warnings():
        # numpy warns where it stops at what is no number; that too few came out says the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            values = np.fromstring(text.replace(b"\n", b",")[:-1], np.float64, sep=",")
        except ValueError:
            return None
    return values.reshape(-1, 4) if values.size == 4 * rows else None


def _parse_slowly(path: Path, data: bytes, *, widths: tuple[int, ...]) -> list[list[float]]:
    """Return the rows read line by line; raise UserError with the line that is not so many numbers."""
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} line {number}: not text; expected x,y,w,h") from error
    while lines and not lines[-1].strip():
        lines.pop()
    return [_parse_line(line, widths, place=f"{path} line {number}") for number, line in enumerate(lines, start=1)]


def _parse_line(line: str, widths: tuple[int, ...], *, place: str) -> list[float]:
    tokens = [token for token in _SEPARATORS.split(line) if token]
    if len(tokens) in widths and "_" not in line:  # Python reads 1_0 as ten; nobody who wrote a box meant that
        try:
            return [float(token) for token in tokens]
        except ValueError:
            pass
    if re.match(r"m\d", line):
        raise UserError(f"{place}: a mask, as VOT has them from 2020 on; the official vot-toolkit runs and scores "
                        "those, see tracking/vot_workspace.py")
    expected = " or ".join(map(str, widths))
    raise UserError(f"{place}: {line.strip()[:60] or 'an empty line'!r} is not a box; expected {expected} numbers "
                    "(x,y,w,h, or the corners of a polygon)")


# ---- results


def read_result_rows(path: str | Path) -> Boxes:
    """Return the boxes (N, 4) of a result file, the OTB toolkit's .mat or text, as they stand in it.

    Separators are those of `read_truth`. NaN is let through (a tracker that lost its target), never infinity; a first
    line `1`, as VOT-LT marks the start, is one of NaN. Raises UserError with file and line for anything else.
    """
    file = Path(path)
    if file.suffix == ".mat":
        return _read_mat(file)
    data = read_bytes(file)
    first, newline, rest = data.partition(b"\n")
    if first.strip() == b"1":
        data = b"nan,nan,nan,nan" + newline + rest
    boxes = _parse_clean(data)
    if boxes is None:
        boxes = np.array(_parse_slowly(file, data, widths=(4,)), np.float64).reshape(-1, 4)
    if np.isinf(boxes).any():
        row, column = np.argwhere(np.isinf(boxes))[0]
        raise UserError(f"{path} line {row + 1}: value {boxes[row, column]} is not a coordinate; "
                        "expected four finite numbers x,y,w,h")
    return boxes


def _read_mat(path: Path) -> Boxes:
    """Return the rows (N, 4) of a one-pass result of type "rect", `results{1}.res` of the OTB MATLAB toolkit."""
    from scipy.io import loadmat

    try:
        result = loadmat(path, simplify_cells=True).get("results")
    except Exception as error:  # scipy raises a dozen unrelated types for a broken or a newer (HDF5) file
        why = f"{type(error).__name__}: {error!s:.400}"
        raise UserError(f"{path}: cannot be read as a MATLAB 5 file ({why})") from error
    if isinstance(result, np.ndarray | list) and len(result):
        result = result[0]  # one entry per start frame; one-pass evaluation has one
    if not isinstance(result, dict) or "res" not in result:
        raise UserError(f"{path}: no results{{1}}.res in it; expected a result of the OTB toolkit")
    kind = result.get("type", "rect")
    if kind != "rect":  # the affine types hold no boxes
        raise UserError(f"{path}: result of type {str(kind)!r:.60}; only 'rect' (x, y, w, h) can be scored")
    try:
        rows = np.atleast_2d(np.asarray(result["res"], np.float64))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: results{{1}}.res is not numeric; expected rows x, y, w, h") from error
    if rows.ndim != 2 or rows.shape[1] != 4 or np.isinf(rows).any():
        raise UserError(f"{path}: results{{1}}.res has shape {rows.shape} and {int(np.isinf(rows).sum())} infinite "
                        "values; expected rows of four finite numbers x, y, w, h")
    return rows


def find_results(folder: str | Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Return the result file of each sequence in `names` that a tracker has, under any spelling of its name.

    `jogging_1.txt`, `Jogging-1.txt`, `Jogging.1.txt`, `Jogging1.mat` and `jogging-1_KCF.mat` are one sequence of
    tracker KCF, and so are `Jogging-1/Jogging-1_001.txt` of the got10k toolkit, below `longterm` for VOT-LT,
    `Jogging-1/Jogging-1.txt` of SOTS and, where no file has the plain name, pytracking's `otb_Jogging-1.txt`. The
    exact name wins; two other spellings of one sequence are a UserError, and a spelling that means two of `names`
    (UAV123's car11 and car1_1) counts for the exact one alone. Where there is no such folder, the files
    `*_<tracker>.txt` and `.mat` in its parent stand for it: the OTB toolkit's layout.
    """
    root = Path(folder)
    stems = _result_stems(root)
    by_key: dict[str, list[Path]] = {}
    for path, stem in stems.items():
        by_key.setdefault(_match_key(stem), []).append(path)
    meanings = Counter(_match_key(name) for name in names)
    plain = {path: bare for path, stem in stems.items() for prefix in _RESULT_PREFIXES
             if stem.startswith(prefix) and _match_key(bare := stem.removeprefix(prefix)) not in by_key
             and _match_key(stem) not in meanings}
    for path, stem in plain.items():
        by_key.setdefault(_match_key(stem), []).append(path)
    found = {}
    for name in names:
        candidates = by_key.get(_match_key(name), [])
        exact = [path for path in candidates if name in (path.stem, path.parent.name, plain.get(path))]
        if meanings[_match_key(name)] > 1:
            candidates = exact
        if len(candidates) > 1 and not exact:
            raise UserError(f"{root}: {' and '.join(path.name for path in candidates)} both stand for {name}; keep one")
        if candidates:
            found[name] = (exact or candidates)[0]
    return found


def _result_stems(root: Path) -> dict[Path, str]:
    """Return the files that may be a tracker's results, each with the name of its sequence as the file spells it."""
    if not root.is_dir():
        return {path: path.stem[: -len(root.name) - 1] for path in _result_paths(root.parent)
                if path.stem.endswith(f"_{root.name}")}
    stems = {path: path.stem for path in _result_paths(root)}
    ending = f"_{root.name.lower()}"
    stems |= {path: stem[: -len(ending)] for path, stem in stems.items() if stem.lower().endswith(ending)}
    return stems | {path: path.parent.name for form in ("*/*.txt", "longterm/*/*_001.txt") for path in root.glob(form)
                    if path.stem in (path.parent.name, f"{path.parent.name}_001")}


def flat_trackers(folder: Path) -> list[str]:
    """Return the trackers whose results lie in one flat folder as `<sequence>_<tracker>.mat` or `.txt`, sorted."""
    return sorted({name for path in _result_paths(folder) if (name := _tracker_in(path.stem))})


def _tracker_in(stem: str) -> str:
    """Return what follows the longest sequence name at the start of a stem; "" for `Deer_time.txt` and the like."""
    parts = stem.split("_")
    for end in range(len(parts) - 1, 0, -1):
        if otb_name("_".join(parts[:end])):
            return "" if parts[end] in ("time", "all", "object") else "_".join(parts[end:])
    return ""


def _result_paths(folder: Path) -> Iterable[Path]:
    """Return the files of a folder that may hold results, sorted; hidden ones (macOS' `._Deer.txt`) are none."""
    return sorted(path for path in folder.iterdir() if path.suffix in _RESULT_SUFFIXES and path.name[0] != "."
                  ) if folder.is_dir() else []


def _match_key(name: str) -> str:
    """Return the key under which two spellings of one sequence meet."""
    return alias_key(otb_name(name) or name)


def read_stamp(folder: str | Path) -> str:
    """Return the benchmark that the settings behind a tracker's results were tuned on, "" where none is told."""
    path = Path(folder) / RUN_FILE
    run = read_json(path) if path.is_file() else None
    return str(run.get("tuned_on") or "") if isinstance(run, dict) else ""
