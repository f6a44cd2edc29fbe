"""Accuracy, robustness and expected average overlap of the restart protocol, as the pysot toolkit defines them.

A tracker is started on the first frame, stopped where it has lost its target (a failure), and started again 5 frames
later; a result file has one row per frame (`lib.benchmarks.vot.Trajectory`).

- Accuracy: mean overlap over all frames of all videos, without the first 10 frames after each start.
- Robustness: failures per 100 frames. Lost number: failures.
- Expected average overlap (EAO): each run from a start to a failure is a fragment that goes on with overlap 0, the last
  one of a video ends with it; the curve at length n is the weighted mean, over the fragments known up to n, of their
  mean overlap in frames 1..n; EAO is the mean of the curve over the year's interval of lengths. A fragment's weight
  for an attribute is the share of its frames that have it.

Where the toolkit does something odd, this does the same, because published numbers have it in them:
a fragment includes the frame of the next start; a failure in a video's last 5 frames does not end its fragment;
EAO cuts regions at width - 1 and height - 1, accuracy at width and height; and "empty" is no attribute of frames there
(see `empty_weight`). The scores over frames that truly have no attribute are given beside it, as `no_attribute`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence as Items
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.benchmarks import VOTSequence
from lib.benchmarks.facts import VOT_ATTRIBUTES, Corners
from lib.benchmarks.vot import INIT, REGION, SKIPPED, Trajectory, counted_overlap, exact_overlap, read_trajectory

Floats = NDArray[np.float64]
Overlap = Literal["counted", "exact"]

BURN_IN = 10  # frames after a start, itself included, that accuracy leaves out
TAGS = ("all", *VOT_ATTRIBUTES, "empty", "no_attribute")  # what EAO is given for; "all" is the EAO of the benchmark
SUSPECT_SHARE = 0.1
"""Share of a video's boxes beside the ground truth, without a failure, above which the result is called suspect: the
protocol stops at the first such box, so this is a result of other images or other ground truth."""


class Fragment(NamedTuple):
    """The overlaps from one start on, until the next one or the video's end."""

    overlap: Floats  # (n,) frame by frame; 0 where there is none
    failed: bool  # whether the target was lost: the overlap then goes on as 0 for ever
    weight: Floats  # (len(TAGS),)


def overlaps(
    truth: Corners, trajectory: Trajectory, *, bound_wh: tuple[float, float] | None, overlap: Overlap = "counted"
) -> Floats:
    """Return the overlap (n,) with the ground truth (N, 4, 2), cut at `bound_wh` if counted; NaN without a region."""
    length = min(len(truth), len(trajectory.codes))
    out = np.full(length, np.nan)
    there = np.flatnonzero(trajectory.codes[:length] == REGION)
    result, truth = trajectory.regions[there], truth[there]
    out[there] = (exact_overlap(result, truth) if overlap == "exact"
                  else counted_overlap(result, truth, bound_wh=bound_wh))
    return out


def after_burn_in(overlap: Floats, codes: NDArray[np.int8]) -> Floats:
    """Return the overlaps (n,) with the first 10 frames after each start set to NaN."""
    out = overlap.copy()
    for start in np.flatnonzero(codes[: len(out)] == INIT):
        out[start : start + BURN_IN] = np.nan
    return out


def fragments(
    sequence: VOTSequence, overlap: Floats, failures: NDArray[np.intp], *, share: float = 1.0
) -> list[Fragment]:
    """Return the fragments of one run, from its overlaps (n,) and failures; `share` multiplies their weights."""
    length = len(overlap)
    starts = [0, *(int(failure) + SKIPPED for failure in failures if failure + SKIPPED <= length)]
    known = np.nan_to_num(overlap)
    out = []
    for index, start in enumerate(starts):
        last = index == len(starts) - 1
        stop = length if last else starts[index + 1] + 1
        # The toolkit divides the last fragment by what the ground truth has left, any other by its own length.
        frames = (len(sequence) if len(failures) else length) - start if last else stop - start
        if start < length:
            weight = tag_counts(sequence, start, stop) / frames
            out.append(Fragment(known[start:stop], not last, share * weight))
    return out


def tag_counts(sequence: VOTSequence, start: int, stop: int) -> Floats:
    """Return how many of the frames start..stop - 1 have each of `TAGS`, (len(TAGS),)."""
    stop = min(stop, len(sequence))
    none = np.zeros(len(sequence), bool)
    known = [sequence.tags.get(attribute, none) for attribute in VOT_ATTRIBUTES]
    counts = [tag[start:stop].sum() for tag in known]
    bare = (~np.any(known, axis=0))[start:stop].sum()
    return np.array([stop - start, *counts, empty_weight(sequence.tags), bare], np.float64)


def empty_weight(tags: Mapping[str, NDArray[np.bool_]]) -> int:
    """Return what the pysot toolkit counts as the "empty" frames of any fragment of a video.

    That is the number of attributes that no frame of the whole video has: its reduction runs along the wrong axis, so
    short fragments weigh most and the number is far too low. Kept under this name to be comparable with published ones.
    """
    return sum(not tag.any() for tag in tags.values())


def expected_overlap_curves(parts: Items[Fragment], *, length: int) -> Floats:
    """Return the expected average overlap (len(TAGS), length) at lengths 0 .. length - 1.

    `length` is that of the longest video: a lost run goes on with 0 until there.

    Column n is the mean over frames 1..n, so the frame of the start does not count; column 0 is 1. NaN where no
    fragment with weight is known up to that length. All tags at once: two products of (tags, F) with (F, L).
    """
    values, known = np.zeros((len(parts), length)), np.zeros((len(parts), length))
    for row, part in enumerate(parts):
        values[row, : len(part.overlap)] = part.overlap
        known[row, : length if part.failed else len(part.overlap)] = 1
    values[:, 0] = 0
    mean = values.cumsum(axis=1) / np.maximum(np.arange(length), 1)
    weight = np.stack([part.weight for part in parts], axis=1)  # (len(TAGS), F)
    with np.errstate(invalid="ignore"):
        curves = (weight @ (mean * known)) / (weight @ known)
    curves[:, 0] = 1
    return curves


def expected_average_overlap(curves: Floats, interval: tuple[int, int]) -> Floats:
    """Return the mean (T,) of curves (T, L) over the lengths low..high of `interval`, NaN where nothing is known.

    The toolkit's columns low - 1 .. high - 1: its curve starts with the length that it calls 1.
    """
    low, high = interval
    window = curves[:, low - 1 : high]
    known = np.isfinite(window)
    count = known.sum(axis=1)
    total = np.where(known, window, 0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(curves), np.nan), where=count > 0)


class Video(NamedTuple):
    """What one video contributes to a tracker's scores."""

    accuracy: Floats  # (n,) mean over the repetitions of the overlap of each frame, NaN where none counts
    lost: float  # failures, mean over the repetitions
    parts: list[Fragment]
    lengths: dict[str, int]  # rows of each result file
    notes: list[str]


def score_video(sequence: VOTSequence, paths: Items[Path], overlap: Overlap) -> Video:
    """Return what the result files of one video, one per repetition, contribute; each weighs 1 / repetitions."""
    runs = [read_trajectory(path) for path in paths]
    kept, parts = np.full((len(runs), len(sequence)), np.nan), []
    suspect = boxes = 0
    for row, run in enumerate(runs):
        for_accuracy, for_eao = _both_overlaps(sequence, run, overlap)
        kept[row, : len(for_accuracy)] = after_burn_in(for_accuracy, run.codes)
        parts += fragments(sequence, for_eao, run.failures, share=1 / len(runs))
        suspect += int((for_eao == 0).sum())
        boxes += int((run.codes[: len(for_eao)] == REGION).sum())
    length = min(len(sequence), max(len(run.codes) for run in runs))
    counted = np.isfinite(kept[:, :length])
    number = counted.sum(axis=0)
    total = np.where(counted, kept[:, :length], 0).sum(axis=0)
    accuracy = np.divide(total, number, out=np.full(length, np.nan), where=number > 0)
    notes = [] if suspect <= SUSPECT_SHARE * boxes else [
        f"{sequence.name}: {suspect} of {boxes} boxes do not touch the ground truth although no failure is recorded "
        "there; this result was made on other images or with other ground truth"]
    return Video(accuracy, float(np.mean([len(run.failures) for run in runs])), parts,
                 {path.name: len(run.codes) for path, run in zip(paths, runs, strict=True)}, notes)


def _both_overlaps(sequence: VOTSequence, run: Trajectory, overlap: Overlap) -> tuple[Floats, Floats]:
    """Return the overlaps for accuracy (cut at width and height) and for EAO (cut one pixel before)."""
    size = sequence.image_wh
    for_accuracy = overlaps(sequence.regions, run, bound_wh=size, overlap=overlap)
    if size is None or overlap == "exact":
        return for_accuracy, for_accuracy
    inner = (size[0] - 1, size[1] - 1)
    length = len(for_accuracy)
    reach = np.maximum(np.nan_to_num(run.regions[:length]), sequence.regions[:length]).max(axis=1)
    near = np.flatnonzero((reach > inner).any(axis=1) & (run.codes[:length] == REGION))
    for_eao = for_accuracy.copy()
    if len(near):
        part = Trajectory(run.codes[near], run.regions[near])
        for_eao[near] = overlaps(sequence.regions[near], part, bound_wh=inner)
    return for_accuracy, for_eao


def mean_known(values: Floats) -> float:
    """Return the mean of the values that are known, NaN where none is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
