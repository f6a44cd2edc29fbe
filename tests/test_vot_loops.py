"""Expected average overlap against the pysot toolkit's loops, restated here in plain Python and on purpose slow."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lib.benchmarks import VOTSequence
from lib.benchmarks.facts import VOT_ATTRIBUTES as ATTRIBUTES
from lib.eval_toolkit.vot import TAGS, Fragment, expected_average_overlap, expected_overlap_curves, fragments

Run = tuple[VOTSequence, np.ndarray, np.ndarray]  # a video, the overlaps (n,) of one run over it, frames of failure


def made_run(rng: np.random.Generator, number: int) -> Run:
    """Return a video of 5 to 60 frames with some attributes, and a run that fails now and then."""
    length = int(rng.integers(5, 60))
    overlap = rng.uniform(0, 1, length)
    overlap[0] = np.nan
    failures, start = [], 0
    while (failure := start + int(rng.integers(1, 25))) < length:
        failures.append(failure)
        start = failure + 5
        overlap[failure : start + 1] = np.nan
    told = ATTRIBUTES[: int(rng.integers(1, 6))]
    tags = {name: rng.uniform(size=length) < rng.choice([0.0, 0.3, 0.9]) for name in told}
    sequence = VOTSequence(f"v{number}", (), np.zeros((length, 4)), origin=0, regions=np.zeros((length, 4, 2)),
                           tags=tags, image_wh=None)
    return sequence, overlap, np.array(failures, np.intp)


def loops(runs: list[Run], tag: str, *, low: int, high: int) -> float:
    """Return EAO for a tag as `EAOBenchmark._calculate_eao` and `calculate_expected_overlap` of pysot get it."""
    longest = max(len(overlap) for _, overlap, _ in runs)
    rows: list[list[float]] = []
    weights: list[float] = []
    for sequence, overlap, failures in runs:
        length = len(sequence)
        lists = {"all": [1] * length} | {name: values.astype(int).tolist() for name, values in sequence.tags.items()}
        empty = [int(all(flag == 0 for flag in flags)) for flags in lists.values()]  # along the frames, not the tags

        def count(start: int, stop: int, lists: dict[str, list[int]] = lists, empty: list[int] = empty) -> int:
            return sum(empty) if tag == "empty" else sum(lists.get(tag, [])[start:stop])

        if not len(failures):
            rows.append([*overlap, *[math.nan] * (longest - length)])
            weights.append(count(0, length) / length)
            continue
        points = [0, *(int(f) + 5 for f in failures if f + 5 <= len(overlap))]
        for place, point in enumerate(points):
            if place < len(points) - 1:
                piece = overlap[point : points[place + 1] + 1]
                filler, frames = 0.0, points[place + 1] - point + 1
                weight = count(point, points[place + 1] + 1)
            else:
                piece = overlap[point:]
                filler, frames = math.nan, length - point
                weight = count(point, len(overlap))
            if frames == 0:
                continue  # the toolkit's 0 / 1e-16, with an empty fragment
            values = [0.0 if math.isnan(v) else float(v) for v in piece]
            rows.append(values + [filler] * (longest - len(values)))
            weights.append(weight / frames)
    curve = [1.0]
    for i in range(1, longest):
        usable = [k for k, row in enumerate(rows) if not math.isnan(row[i])]
        total = sum(weights[k] for k in usable)
        curve.append(sum(weights[k] * sum(rows[k][1 : i + 1]) / i for k in usable) / total if total else math.nan)
    window = [value for value in curve[low - 1 : high] if not math.isnan(value)]
    return sum(window) / len(window) if window else math.nan


@pytest.mark.parametrize("seed", range(6))
def test_every_tag_is_as_the_loops_have_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    runs = [made_run(rng, number) for number in range(12)]
    assert any(len(failures) for _, _, failures in runs)
    parts: list[Fragment] = []
    for sequence, overlap, failures in runs:
        parts += fragments(sequence, overlap, failures)
    longest = max(len(overlap) for _, overlap, _ in runs)
    got = expected_average_overlap(expected_overlap_curves(parts, length=longest), (5, 30))
    for tag in ("all", *ATTRIBUTES, "empty"):
        assert got[TAGS.index(tag)] == pytest.approx(loops(runs, tag, low=5, high=30), rel=1e-9, nan_ok=True), tag
