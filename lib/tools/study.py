"""An experiment with several arms and seeds: pretrain, train and test each, and one table with intervals.

Each step is the command that a researcher would type; a second start does only what is missing, and a step that was
interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import lib.testing.run
import lib.training.loop
from lib.benchmarks import load_benchmark, result_folder
from lib.checkpoint import checkpoint_name
from lib.config import Config, PretrainConfig
from lib.config_file import load_config
from lib.errors import UserError
from lib.eval_toolkit.bootstrap import paired_differences
from lib.eval_toolkit.protocols import ScoreSummary, score_results
from lib.eval_toolkit.tables import Table, markdown_table
from lib.files import read_yaml, write_whole
from lib.log import say
from lib.models.models import build_model
from lib.options import PretrainOptions, StudyOptions, TestOptions, TrainOptions
from lib.tools.measure import commit, count_cost, machine

Words = list[str]  # a YAML file and KEY=VALUE overrides


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Arm(_Plain):
    """What is compared: a training, of a base model before it where PRETRAIN is given."""

    TRAIN: Annotated[Words, Field(min_length=1)]
    PRETRAIN: Words = []


class Study(_Plain):
    """The YAML file below its key STUDY. The first arm is what the others are compared with."""

    RUNS: Annotated[dict[str, Arm], Field(min_length=2)]
    TESTS: Annotated[dict[str, str], Field(min_length=1)]  # data set -> its folder
    SEEDS: Annotated[list[int], Field(min_length=1)] = [0, 1, 2]
    SNAPSHOT: str = "snapshot/study"
    RESULT: str = "result"


def main(options: StudyOptions) -> int:
    """Do what is missing of the study, print its table and write it beside the checkpoints; return 0."""
    tree = read_yaml(options.cfg)
    try:
        study = Study.model_validate(tree["STUDY"] if isinstance(tree, dict) and len(tree) == 1 else tree)
    except (KeyError, ValidationError) as error:
        fault = error.errors()[0] if isinstance(error, ValidationError) else {"loc": ["STUDY"], "msg": "missing"}
        raise UserError(f"{options.cfg}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}; expected STUDY with RUNS "
                        f"(two or more, each with TRAIN), TESTS and SEEDS") from error
    folder = Path(study.SNAPSHOT) / options.cfg.stem
    for arm in study.RUNS.values():  # what is wrong with a file is said before hours of work
        for words, kind in ((arm.TRAIN, Config), (arm.PRETRAIN, PretrainConfig)):
            if words:
                load_config(words[0], overrides=words[1:], kind=kind)
    for seed in study.SEEDS:
        for name, arm in study.RUNS.items():
            say(f"study {options.cfg.stem}: {name}, seed {seed}")
            first = next(key for key, other in study.RUNS.items() if other.PRETRAIN == arm.PRETRAIN)  # one base serves
            if code := _run(study, folder / f"{name}_s{seed}", arm, seed, base=folder / f"{first}_s{seed}" / "base",
                            tracker=f"{options.cfg.stem}_{name}_s{seed}"):
                return code
    text = table(study, folder, name=options.cfg.stem)
    print(text)
    write_whole(folder / "study.md", text + "\n")
    return 0


def _run(study: Study, folder: Path, arm: Arm, seed: int, *, base: Path, tracker: str) -> int:
    """Return 0 once one arm with one seed is trained and tested, else the training's exit code."""
    def given(words: Words, place: Path) -> dict[str, Any]:
        own = [f"TRAIN.SEED={seed}", f"CHECKPOINT_DIR={place}", f"OUTPUT_DIR={place.parent / 'logs'}"]
        return {"cfg": Path(words[0]), "overrides": (*words[1:], *own), "resume": "auto"}

    weights: Words = []
    if arm.PRETRAIN:
        if code := lib.training.loop.pretrain(PretrainOptions(**given(arm.PRETRAIN, base))):
            return code
        weights = [f"TRAIN.PRETRAIN={base / _last(arm.PRETRAIN, PretrainConfig)}"]
    if code := lib.training.loop.main(TrainOptions(**given([*arm.TRAIN, *weights], folder / "tracker"))):
        return code
    for dataset, place in study.TESTS.items():
        lib.testing.run.main(TestOptions(resume=folder / "tracker" / _last(arm.TRAIN, Config), dataset=dataset,
                                         dataset_dir=Path(place), tracker_name=tracker, result_dir=Path(study.RESULT)))
    return 0


def _last(words: Words, kind: type[Config]) -> str:
    return checkpoint_name(load_config(words[0], overrides=words[1:], kind=kind).TRAIN.END_EPOCH)


def table(study: Study, folder: Path, *, name: str) -> str:
    """Return a Markdown table for each test set: scores over the seeds, and the lead over the first arm.

    The interval is the paired bootstrap's over sequences, for other videos; the range over seeds, for another start.
    """
    parts = []
    for dataset, place in study.TESTS.items():
        benchmark = load_benchmark(dataset, Path(place), images=False)
        rows: list[tuple[str, ...]] = []
        means: list[ScoreSummary] = []
        for arm, words in study.RUNS.items():
            scores = [score_results(benchmark, result_folder(Path(study.RESULT), dataset) / f"{name}_{arm}_s{seed}",
                                    allow_missing=bool(benchmark.missing)) for seed in study.SEEDS]
            metrics = [metric for metric in ("success", "precision") if metric in scores[0].by_sequence]
            means.append(replace(scores[0], tracker=arm, by_sequence={
                metric: np.mean([score.by_sequence[metric] for score in scores], axis=0) for metric in metrics}))
            cells = []
            for metric in metrics:
                values = [score.values[metric] for score in scores]
                cells.append(f"{np.mean(values):.3f} ({min(values):.3f} .. {max(values):.3f})")
            lead = "" if len(means) == 1 else next(
                f"{-found.value:+.3f}, {-found.high:+.3f} .. {-found.low:+.3f}" if found.low is not None
                and found.high is not None else f"{-found.value:+.3f} ({found.interval})"
                for found in paired_differences([means[0], means[-1]], metric="success"))
            cfg = load_config(words.TRAIN[0], overrides=words.TRAIN[1:])
            cost = count_cost(build_model(**cfg.model_options()).eval(), search_size=cfg.TRAIN.SEARCH_SIZE)
            rows.append((arm, *cells, lead, f"{cost.parameters / 1e6:.2f}", f"{cost.search_flops / 1e9:.2f}"))
        head = ("arm", *(f"{metric}, mean (range) of {len(study.SEEDS)} seeds" for metric in metrics),
                f"lead in success over {next(iter(study.RUNS))}, 95%", "M parameters", "GFLOP a frame")
        parts.append(f"**{benchmark.name}**, {len(benchmark.sequences)} sequences\n\n"
                     + markdown_table(Table(benchmark.name, head, tuple(rows))))
    return "\n\n".join([*parts, f"{machine(torch.device('cpu'))}; commit {commit()}; {folder}"])
