"""Result files of the OTB MATLAB toolkit: `results{1}.res` of a `.mat` file, read by scipy where it is installed.

A damaged file can crash scipy's compiled reader, so it works in a process of its own, which one file may cost.
"""

from __future__ import annotations

import io
import multiprocessing
import struct
import zlib
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lib.boxes import Boxes
from lib.errors import UserError
from lib.files import read_regular

MAX_BYTES = 32 * 2**20  # of a file, and of what it unpacks to: a million frames
TIMEOUT = 60  # seconds for one file
_COMPRESSED = 15  # miCOMPRESSED, the type of an element


def read_mat_boxes(path: Path) -> Boxes:
    """Return the rows (N, 4) of a one-pass result of type "rect", as they stand in the file; NaN rows are kept.

    Raises UserError without scipy, for a file that is not such a result, and for the toolkit's affine result types,
    which hold no boxes.
    """
    if find_spec("scipy") is None:
        raise UserError(f"{path}: reading .mat files needs scipy; pip install scipy, or save the results as text")
    try:
        data = read_regular(path, max_bytes=MAX_BYTES)
        _check_inflated(data)
        content = _reader().submit(_load, data).result(timeout=TIMEOUT)
    except OSError as error:  # a TimeoutError is one
        _reader.cache_clear()
        raise UserError(f"{path}: cannot be read ({error.strerror or error or 'no end of it'}); expected a MATLAB 5 "
                        "file") from error
    except BrokenProcessPool as error:
        _reader.cache_clear()
        raise UserError(f"{path}: cannot be read as a MATLAB 5 file (it crashes scipy's reader)") from error
    except Exception as error:  # scipy raises a dozen unrelated types for a broken or a newer (HDF5) file
        why = f"{type(error).__name__}: {error!s:.400}"
        raise UserError(f"{path}: cannot be read as a MATLAB 5 file ({why})") from error
    result = content.get("results")
    if isinstance(result, np.ndarray | list) and len(result):
        result = result[0]  # one entry per start frame; one-pass evaluation has one
    if not isinstance(result, dict) or "res" not in result:
        raise UserError(f"{path}: no results{{1}}.res in it; expected a result of the OTB toolkit")
    kind = result.get("type", "rect")
    if kind != "rect":
        raise UserError(f"{path}: result of type {str(kind)!r:.60}; only 'rect' (x, y, w, h) can be scored")
    return _rows(path, result["res"])


@lru_cache(maxsize=1)
def _reader() -> ProcessPoolExecutor:
    """Return the process that reads; it is started once, and again after a file that crashed it."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def _load(data: bytes) -> dict[str, Any]:
    from scipy.io import loadmat

    content: dict[str, Any] = loadmat(io.BytesIO(data), simplify_cells=True)
    return {"results": content.get("results")}


def _check_inflated(data: bytes) -> None:
    """Raise ValueError where a compressed element would fill more than MAX_BYTES."""
    order = ">" if data[126:128] == b"MI" else "<"
    at = 128
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        packed = data[at + 8 : at + 8 + size] if kind == _COMPRESSED else b""
        if len(zlib.decompressobj().decompress(packed, MAX_BYTES)) == MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes once unpacked")
        at += 8 + size


def _rows(path: Path, value: Any) -> Boxes:
    """Return `res` as rows (N, 4); scipy squeezes a single row to one dimension."""
    try:
        rows = np.atleast_2d(np.asarray(value, np.float64))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: results{{1}}.res is not numeric; expected rows x, y, w, h") from error
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise UserError(f"{path}: results{{1}}.res has shape {rows.shape}; expected rows x, y, w, h")
    if np.isinf(rows).any():
        raise UserError(f"{path}: results{{1}}.res row {int(np.isinf(rows).any(axis=1).argmax()) + 1} is infinite; "
                        "expected four finite numbers x, y, w, h")
    return rows
