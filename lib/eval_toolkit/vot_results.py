"""Trackers' results of the restart protocol, read, checked and scored into `VOTScores`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lib.benchmarks import Benchmark, VOTSequence, read_stamp
from lib.benchmarks.facts import EAO_INTERVALS
from lib.benchmarks.vot import REGION, Trajectory, find_trajectories, read_trajectory
from lib.errors import UserError
from lib.eval_toolkit.results import Mismatch, listed, stamped
from lib.eval_toolkit.vot import (
    TAGS,
    Floats,
    Fragment,
    Overlap,
    after_burn_in,
    expected_average_overlap,
    expected_overlap_curves,
    fragments,
    overlaps,
)

SUSPECT_SHARE = 0.1
"""Share of a video's boxes beside the ground truth, without a failure, above which the result is called suspect: the
protocol stops at the first such box, so this is a result of other images or other ground truth."""


@dataclass(frozen=True, eq=False)
class VOTScores:
    """Scores of one tracker on S videos. Overlaps are in 0..1."""

    tracker: str
    names: tuple[str, ...]
    """The S videos that were scored."""
    frames: tuple[int, ...]
    """Scored frames of each video: as many as ground truth and result both have."""
    repetitions: int
    """Runs per video; scores are means over them."""
    accuracy: float
    lost_number: float
    """Failures in all videos."""
    eao: dict[str, float | None]
    """Expected average overlap of all frames ("all") and by attribute; None where no video is long enough for it."""
    sequence_accuracy: Floats
    """(S,) NaN for a video that has no frame after the burn-in."""
    sequence_lost: Floats
    """(S,) failures in each video."""
    curve: Floats
    """(L,) expected average overlap of all frames at lengths 0 .. L - 1."""
    interval: tuple[int, int]
    overlap: Overlap
    expected: int
    missing: tuple[str, ...]
    mismatches: tuple[Mismatch, ...]
    notes: tuple[str, ...]
    tuned_on: str = ""
    """The benchmark that the tracker's settings were tuned on."""

    @property
    def label(self) -> str:
        """Return the tracker's name as it stands beside its scores."""
        return stamped(self.tracker, self.tuned_on)

    @property
    def robustness(self) -> float:
        """Return the failures per 100 frames: less is better."""
        return 100 * self.lost_number / sum(self.frames)


class _Video(NamedTuple):
    """What one video of a tracker contributes."""

    accuracy: Floats  # (n,) mean over the repetitions of the overlap of each frame, NaN where none counts
    lost: float
    parts: list[Fragment]
    mismatches: list[Mismatch]
    suspect: int  # boxes that do not touch the ground truth although no failure is recorded
    boxes: int
    repetitions: int


def score_vot(
    benchmark: Benchmark, folder: Path, *, overlap: Overlap = "counted", allow_missing: bool = False
) -> VOTScores:
    """Return the scores of the results `baseline/<video>/<video>_NNN.txt` in a tracker's folder.

    `overlap`: pixels counted as the pysot toolkit does, or exact areas (shapely). Raises UserError for missing videos
    (unless `allow_missing`) and for files that are no result of the restart protocol. A result of another length is
    cut, or cuts the ground truth, as the toolkit does, and is listed in `mismatches`.
    """
    if benchmark.missing and not allow_missing:
        raise UserError(f"{benchmark.source}: {len(benchmark.missing)} of {benchmark.expected} videos of "
                        f"{benchmark.name} are missing ({listed(benchmark.missing)}); score what is there with "
                        "--allow-missing")
    files = {sequence.name: find_trajectories(folder, sequence.name) for sequence in benchmark.sequences}
    lacking = tuple(name for name, paths in files.items() if not paths)
    if len(lacking) == len(files) or (lacking and not allow_missing):
        raise UserError(f"{folder}: no result of {len(lacking)} of {len(files)} videos ({listed(lacking)}); expected "
                        f"e.g. baseline/{lacking[0]}/{lacking[0]}_001.txt; score the rest with --allow-missing")
    scored = [sequence for sequence in benchmark.sequences if files[sequence.name]]
    assert all(isinstance(sequence, VOTSequence) for sequence in scored), benchmark.name
    videos = [_score_video(sequence, files[sequence.name], overlap)  # type: ignore[arg-type]
              for sequence in scored]
    curves = expected_overlap_curves([part for video in videos for part in video.parts],
                                     length=max(len(video.accuracy) for video in videos))
    interval = EAO_INTERVALS[benchmark.name]
    eao = expected_average_overlap(curves, interval)
    return VOTScores(
        folder.name, tuple(s.name for s in scored), tuple(len(video.accuracy) for video in videos),
        max(video.repetitions for video in videos),
        accuracy=_mean(np.concatenate([video.accuracy for video in videos])),
        lost_number=sum(video.lost for video in videos),
        eao={tag: float(value) if np.isfinite(value) else None for tag, value in zip(TAGS, eao, strict=True)},
        sequence_accuracy=np.array([_mean(video.accuracy) for video in videos]),
        sequence_lost=np.array([video.lost for video in videos]), curve=curves[0], interval=interval, overlap=overlap,
        expected=benchmark.expected, missing=(*benchmark.missing, *lacking),
        mismatches=tuple(m for video in videos for m in video.mismatches),
        notes=tuple(note for s, video in zip(scored, videos, strict=True) for note in _notes(s.name, video)),
        tuned_on=read_stamp(folder))


def _score_video(sequence: VOTSequence, paths: list[Path], overlap: Overlap) -> _Video:
    """Return what all repetitions of a video contribute; each weighs 1 / repetitions."""
    runs = [read_trajectory(path) for path in paths]
    cut = {True: "surplus rows left out", False: "ground truth cut to the result"}
    mismatches = [Mismatch(path.name, len(sequence), len(run.codes), cut[len(run.codes) > len(sequence)])
                  for path, run in zip(paths, runs, strict=True) if len(run.codes) != len(sequence)]
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
    lost = float(np.mean([len(run.failures) for run in runs]))
    return _Video(accuracy, lost, parts, mismatches, suspect, boxes, len(runs))


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


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _notes(name: str, video: _Video) -> list[str]:
    if video.suspect <= SUSPECT_SHARE * video.boxes:
        return []
    return [f"{name}: {video.suspect} of {video.boxes} boxes do not touch the ground truth although no failure is "
            "recorded there; this result was made on other images or with other ground truth"]
