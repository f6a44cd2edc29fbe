"""Hyper-parameters of tracking, one YAML file per test set under `experiments/test`, or one beside the weights."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from lib.errors import UserError, did_you_mean
from lib.files import EXPERIMENTS, read_yaml

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
PARAMS_ROOT = EXPERIMENTS / "test"
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
    presence: Literal["auto", "map", "learned"] = "auto"  # what it is made of: the learned branch where there is one
    tuned_on: str = ""  # the benchmark these were tuned on; said beside every score made with them

    @property
    def identity(self) -> dict[str, Any]:
        """Return what decides on boxes; a later key that is off is left out, as in records made before it."""
        off = {"lost_below": 0.0, "presence": "auto"}
        return {key: value for key, value in asdict(self).items() if key != "tuned_on" and value != off.get(key)}


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class OnlineParams(TrackerParams):
    """Hyper-parameters of tracking with the online branch: DiMP-50's names and values, as Ocean's VOT2018 has them."""

    online_ratio: Probability = 0.5  # share of the online map in what the best cell is chosen by
    online_registered: bool = False  # True lays that map over Ocean's cell by cell; False: as the reference, see MODELS
    net_opt_iter: Annotated[int, Field(ge=0)] = 25  # iterations on the first frame
    net_opt_update_iter: Annotated[int, Field(ge=0)] = 3  # every `train_skipping` frames
    net_opt_hn_iter: Annotated[int, Field(ge=0)] = 3  # on a frame with a hard negative
    train_skipping: Annotated[int, Field(ge=1)] = 10
    sample_memory_size: Annotated[int, Field(ge=30)] = 250  # samples kept, 0.35 MB each; the first frame has 30
    learning_rate: Rate = 0.0075  # weight of a new sample
    hard_negative_learning_rate: Rate = 0.02
    target_not_found_threshold: Finite = 0.0  # a lower peak teaches nothing
    hard_negative_threshold: NonNegative = 0.45  # share of the peak at which another one is a hard negative
    target_neighborhood_scale: NonNegative = 2.2  # sizes of the target around the peak that are no other


def load_tracker_params(path: str | Path | None, *, dataset: str = "", online: bool = False) -> TrackerParams:
    """Return the tracking hyper-parameters of a YAML file with the one top-level key TEST; UserError if it is off.

    Below TEST stand the settings, or, as in TracKit's own files, a block of them for each data set, of which that of
    `dataset` counts (the only one, where there is but one). In a file of SOTS these blocks are TEST.HYPERS. online: as
    OnlineParams; else its keys are left out. Without a path the defaults.
    """
    kind = OnlineParams if online else TrackerParams
    if path is None:
        return kind()
    data = read_yaml(path)
    if isinstance(data, dict) and isinstance(data.get("TEST"), dict) and "HYPERS" in data["TEST"]:
        data = {"TEST": data["TEST"]["HYPERS"]}
    known = [field.name for field in fields(kind)]
    if not isinstance(data, dict) or set(data) != {"TEST"} or not isinstance(data["TEST"], dict):
        raise UserError(f"{path}: expected the one top-level key TEST with {', '.join(known)} below it")
    settings, place = data["TEST"], "TEST"
    if settings and all(isinstance(block, dict) for block in settings.values()):
        name = _block_of(settings, dataset, path=path, online=online)
        settings, place = settings[name], f"TEST.{name}"
    if unused := [field.name for field in fields(OnlineParams) if field.name in settings and field.name not in known]:
        _log.warning("%s: %s.%s is not used without --online True", path, place, ", ".join(unused))
        settings = {key: value for key, value in settings.items() if key not in unused}
    try:
        return kind(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        if key not in known:
            raise UserError(f"{path}: {place}.{key}: unknown key{did_you_mean(key, known)}") from error
        never = "; nothing in it is evaluated" if isinstance(first["input"], str) else ""
        raise UserError(f"{path}: {place}.{key} is {first['input']!r:.80}; {first['msg']}{never}") from error
    except TypeError as error:
        raise UserError(f"{path}: {place} holds a key that is no name; expected {', '.join(known)}") from error


def _block_of(blocks: Mapping[Any, Any], dataset: str, *, path: str | Path, online: bool) -> str:
    """Return the name of the block of a data set, online that of its name with ON first; UserError if there is none."""
    names = {_key(str(name)): name for name in blocks}
    plain = (_key(dataset), _SAME_VIDEOS.get(_key(dataset), ""))
    for wanted in (*(f"{name}ON" for name in plain if online), *plain):
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
                "VOT2017": "VOT2018", "VOT2018": "VOT2017", "GOT10KVAL": "GOT10K",
                "GOT10K": "GOT10KTEST", "LASOT": "LASOTTEST"}  # as SOTS calls them  # fmt: skip


def find_tracker_params(benchmark: str, *, root: Path = PARAMS_ROOT, arch: str = "Ocean",
                        online: bool = False) -> tuple[TrackerParams, str]:
    """Return the hyper-parameters for a benchmark and where they come from.

    Looked for in `root/<benchmark>/<arch>.yaml`, with the online branch in `<arch>Online.yaml` before it, then in that
    of the benchmark with the same videos; otherwise the defaults, and the second value says so.
    """
    for stem in (f"{arch}Online", arch) if online else (arch,):
        for name in (benchmark, _key(benchmark), _SAME_VIDEOS.get(_key(benchmark), benchmark)):
            path = root / name / f"{stem}.yaml"
            if path.is_file():
                return load_tracker_params(path, dataset=benchmark, online=online), str(path)
    missing = root / benchmark / f"{arch}.yaml"
    return load_tracker_params(None, online=online), f"the defaults, as {missing} does not exist"
