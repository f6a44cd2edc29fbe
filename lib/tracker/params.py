"""Hyper-parameters of tracking, one YAML file per test set under `experiments/test`, or one beside the weights."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from lib.errors import UserError, did_you_mean
from lib.files import read_yaml

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PARAMS_ROOT = Path(__file__).resolve().parents[2] / "experiments" / "test"
_log = logging.getLogger(__name__)


def _trained_for(side: int) -> int:
    if side not in (255, 271, 287):
        raise ValueError("expected 255, 271 or 287")
    return side


SearchSize = Annotated[int, AfterValidator(_trained_for)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class TrackerParams:
    """Hyper-parameters of tracking (OCEAN section 5). The defaults are those for a benchmark without its own row."""

    penalty_k: NonNegative = 0.062  # weight of the change of scale and aspect
    lr: Probability = 0.765  # how fast the size follows
    window_influence: Probability = 0.38  # share of the cosine window
    small_sz: SearchSize = 255  # search side in px
    big_sz: SearchSize = 255  # the same for targets below 0.004 of the image
    ratio: Probability = 0.94  # share of the first score beside the aligned one
    lost_below: Probability = 0.0  # presence below which the box rests and the target is looked for elsewhere; 0: never
    tuned_on: str = ""  # the benchmark these were tuned on; said beside every score made with them

    @property
    def identity(self) -> dict[str, Any]:
        """Return what decides on boxes; a later key that is off is left out, as in records made before it."""
        return {key: value for key, value in asdict(self).items()
                if key != "tuned_on" and (key != "lost_below" or value)}


def load_tracker_params(path: str | Path, *, dataset: str = "") -> TrackerParams:
    """Return the tracking hyper-parameters of a YAML file with the one top-level key TEST; UserError if it is off.

    Below TEST stand the settings, or, as in TracKit's own files, a block of them for each data set, of which that of
    `dataset` counts (the only one, where there is but one).
    """
    data = read_yaml(path)
    known = [field.name for field in fields(TrackerParams)]
    if not isinstance(data, dict) or set(data) != {"TEST"} or not isinstance(data["TEST"], dict):
        raise UserError(f"{path}: expected the one top-level key TEST with {', '.join(known)} below it")
    settings, place = data["TEST"], "TEST"
    if settings and all(isinstance(block, dict) for block in settings.values()):
        name = _block_of(settings, dataset, path=path)
        settings, place = settings[name], f"TEST.{name}"
    if "online_ratio" in settings:
        _log.warning("%s: %s.online_ratio is not used: there is no online branch", path, place)
        settings = {key: value for key, value in settings.items() if key != "online_ratio"}
    try:
        return TrackerParams(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if key not in known:
            raise UserError(f"{path}: {place}.{key}: unknown key{did_you_mean(key, known)}") from error
        raise UserError(f"{path}: {place}.{key} is {first['input']!r:.80}; {first['msg']}") from error
    except TypeError as error:
        raise UserError(f"{path}: {place} holds a key that is no name; expected {', '.join(known)}") from error


def _block_of(blocks: Mapping[Any, Any], dataset: str, *, path: str | Path) -> str:
    """Return the name of the block of a data set; UserError if there is none."""
    names = {_key(str(name)): name for name in blocks}
    for wanted in (_key(dataset), _SAME_VIDEOS.get(_key(dataset), "")):
        if wanted in names:
            return str(names[wanted])
    if not dataset and len(names) == 1:
        return str(next(iter(names.values())))
    raise UserError(f"{path}: holds settings for {', '.join(map(str, blocks))}, none for {dataset or 'this'}; name a "
                    f"file with the block that you want directly below TEST")


def _key(name: str) -> str:
    """Return what all spellings of a benchmark's name share."""
    return re.sub(r"[\W_]", "", name).upper()


# Benchmarks that hold the videos of another one use its hyper-parameters.
_SAME_VIDEOS = {"OTB100": "OTB2015", "OTB2015": "OTB100", "OTB2013": "OTB2015", "OTB50": "OTB2015",
                "VOT2017": "VOT2018", "VOT2018": "VOT2017", "GOT10KVAL": "GOT10K"}  # fmt: skip


def find_tracker_params(benchmark: str, *, root: Path = PARAMS_ROOT, arch: str = "Ocean") -> tuple[TrackerParams, str]:
    """Return the hyper-parameters for a benchmark and where they come from.

    Looked for in `root/<benchmark>/<arch>.yaml`, then in that of the benchmark with the same videos; otherwise the
    defaults, and the second value says so.
    """
    for name in (benchmark, _key(benchmark), _SAME_VIDEOS.get(_key(benchmark), benchmark)):
        path = root / name / f"{arch}.yaml"
        if path.is_file():
            return load_tracker_params(path, dataset=benchmark), str(path)
    return TrackerParams(), f"the defaults, as {root / benchmark / (arch + '.yaml')} does not exist"
