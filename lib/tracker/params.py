"""Hyper-parameters of tracking, one YAML file per test set under `experiments/test`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lib.errors import UserError, did_you_mean
from lib.files import read_yaml

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class TrackerParams:
    """Hyper-parameters of tracking (OCEAN section 5). The defaults are those for a benchmark without its own row."""

    penalty_k: float = 0.062  # weight of the change of scale and aspect, >= 0
    lr: float = 0.765  # how fast the size follows, 0..1
    window_influence: float = 0.38  # share of the cosine window, 0..1
    small_sz: int = 255  # search side in px: 255, 271 or 287
    big_sz: int = 255  # the same for targets below 0.004 of the image
    ratio: float = 0.94  # share of the first score beside the aligned one, 0..1
    tuned_on: str = ""  # the benchmark these were tuned on; said beside every score made with them


class _TrackerFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    penalty_k: NonNegative = TrackerParams.penalty_k
    lr: Probability = TrackerParams.lr
    window_influence: Probability = TrackerParams.window_influence
    small_sz: Literal[255, 271, 287] = TrackerParams.small_sz  # type: ignore[assignment]
    big_sz: Literal[255, 271, 287] = TrackerParams.big_sz  # type: ignore[assignment]
    ratio: Probability = TrackerParams.ratio
    tuned_on: str = ""


def load_tracker_params(path: str | Path) -> TrackerParams:
    """Return the tracking hyper-parameters of a YAML file with the one top-level key TEST; UserError if it is off."""
    data = read_yaml(path)
    if not isinstance(data, dict) or set(data) != {"TEST"} or not isinstance(data["TEST"], dict):
        known = ", ".join(field.name for field in fields(TrackerParams))
        raise UserError(f"{path}: expected the one top-level key TEST with {known} below it")
    try:
        return TrackerParams(**_TrackerFile.model_validate(data["TEST"]).model_dump())
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            known_keys = [field.name for field in fields(TrackerParams)]
            raise UserError(f"{path}: TEST.{key}: unknown key{did_you_mean(key, known_keys)}") from error
        raise UserError(f"{path}: TEST.{key} is {first['input']!r:.80}; {first['msg']}") from error


# Benchmarks that hold the videos of another one use its hyper-parameters.
_SAME_VIDEOS = {"OTB100": "OTB2015", "OTB2013": "OTB2015", "OTB50": "OTB2015", "VOT2017": "VOT2018",
                "GOT10K-VAL": "GOT10K"}  # fmt: skip


def find_tracker_params(benchmark: str, *, root: Path, arch: str = "Ocean") -> tuple[TrackerParams, str]:
    """Return the hyper-parameters for a benchmark and where they come from.

    Looked for in `root/<benchmark>/<arch>.yaml` (root is `experiments/test`), then in that of the benchmark with the
    same videos; otherwise the defaults, and the second value says so.
    """
    for name in (benchmark, _SAME_VIDEOS.get(benchmark.upper(), benchmark)):
        path = root / name / f"{arch}.yaml"
        if path.is_file():
            return load_tracker_params(path), str(path)
    return TrackerParams(), f"the defaults, as {root / benchmark / (arch + '.yaml')} does not exist"
