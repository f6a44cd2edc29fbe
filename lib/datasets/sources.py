"""From one child of DATASET in the YAML to a source of pairs, with the mistakes it may hold."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from lib.config import SourceConfig
from lib.datasets.index import TrackIndex, load_index
from lib.datasets.packed import PackedCrops
from lib.datasets.pairs import CropFiles, CropStore, Source, TrackSource
from lib.datasets.pictures import load_pictures
from lib.datasets.raw import RawPictures
from lib.datasets.synthetic.sequences import SyntheticSource
from lib.errors import UserError, did_you_mean

logger = logging.getLogger(__name__)

_HOLDS = {  # what PATH holds
    "crop511": "crops of the source, as `python -m lib.datasets.prepare` writes them",
    "packed": "archives of crops that `python -m lib.datasets.prepare pack` writes",
    "raw": "original pictures, the --root that was given to `python -m lib.datasets.prepare`",
}
_SYNTHETIC_LEAST = {"seed": 0, "tracks": 1, "length": 2, "size_wh": 64}  # its options and their least values
_SYNTHETIC_MOST = {"seed": 2**63 - 1, "tracks": 10**7, "length": 100_000, "size_wh": 8192}


def build_source(name: str, config: SourceConfig, *, place: str) -> Source:
    """Return the source that one child of DATASET describes; `place` is its key, for errors.

    Raises UserError for a missing folder, a missing or faulty index, options that the format does not have.
    """
    if config.FORMAT == "synthetic":
        return SyntheticSource(name, frame_range=config.RANGE, **_synthetic_options(config.OPTIONS, place=place))
    if config.OPTIONS:
        raise UserError(f"{place}.OPTIONS is {config.OPTIONS}; FORMAT {config.FORMAT} takes none")
    root = Path(config.PATH)
    if not config.PATH or not root.is_dir():
        raise UserError(f"{place}.PATH is '{config.PATH}': no such folder; expected the {_HOLDS[config.FORMAT]}")
    index = load_index(Path(config.ANNOTATION))
    _warn_of_range(index, config.RANGE, place=place)
    return TrackSource(name, index, _store(config, root, index), config.RANGE)


def _store(config: SourceConfig, root: Path, index: TrackIndex) -> CropStore:
    """Return where the crops of an index are read from."""
    if config.FORMAT == "packed":
        return PackedCrops(root, index)
    if config.FORMAT == "raw":
        return RawPictures(root, load_pictures(Path(config.ANNOTATION).with_name("pictures.json"), index))
    return CropFiles(root)


def _synthetic_options(options: dict[str, Any], *, place: str) -> dict[str, Any]:
    """Return the renderer's arguments from OPTIONS, checked."""
    checked: dict[str, Any] = {}
    for key, value in options.items():
        if key == "difficulty":
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise UserError(f"{place}.OPTIONS.difficulty is {value!r}; expected a number from 0 to 1")
            checked[key] = float(value)
            continue
        if key not in _SYNTHETIC_LEAST:
            valid = [*_SYNTHETIC_LEAST, "difficulty"]
            raise UserError(f"{place}.OPTIONS.{key}: unknown key{did_you_mean(key, valid)}")
        pair = key == "size_wh"
        numbers = value if pair and isinstance(value, list | tuple) else [value]
        whole = all(isinstance(v, int) and not isinstance(v, bool) for v in numbers)
        least, most = _SYNTHETIC_LEAST[key], _SYNTHETIC_MOST[key]
        if not whole or len(numbers) != 1 + pair or not least <= min(numbers) <= max(numbers) <= most:
            form = "[width, height], whole and" if pair else "a whole number,"
            raise UserError(f"{place}.OPTIONS.{key} is {value!r:.60}; expected {form} at least {least}, at most {most}")
        checked[key] = tuple(numbers) if pair else value
    return checked


def _warn_of_range(index: TrackIndex, frame_range: int, *, place: str) -> None:
    """Say so when frames are numbered in steps so large that most pairs would show one frame twice."""
    inner = np.ones(len(index.frames), bool)
    inner[index.starts[:-1]] = False  # a track's first frame follows no other
    steps = np.diff(index.frames, prepend=index.frames[:1])[inner]
    if len(steps) and (middle := int(np.median(steps))) > frame_range:
        logger.warning("%s.RANGE is %d, but frames are numbered in steps of %d: most pairs show one frame twice; set "
                       "RANGE to a few times %d", place, frame_range, middle, middle)
