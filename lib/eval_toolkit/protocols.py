"""How a benchmark is scored, one-pass evaluation, VOT's restart protocol or GOT-10k's average overlap, and the one
record that all scores come in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence as Items
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib.benchmarks import Benchmark, Sequence, VOTSequence, layout_of, read_stamp
from lib.benchmarks.facts import EAO_INTERVALS
from lib.benchmarks.vot import find_trajectories
from lib.errors import UserError, listed
from lib.eval_toolkit import ope, vot
from lib.eval_toolkit.ope import PRECISION_AT, THRESHOLDS, Convention, Flags, Floats, LengthRule
from lib.eval_toolkit.presence import Frames, presence_by_sequence
from lib.eval_toolkit.results import Mismatch, Rows, check_complete, first_box_notes, read_rows

LESS_IS_BETTER = {"robustness": 3, "lost_number": 1}  # scores that are no shares of 1, with their digits shown
_OVERLAPS = {"counted": "counted in pixels, as the pysot toolkit and TraX do", "exact": "exact areas (shapely)"}


@dataclass(frozen=True)
class Scoring:
    """What the scores of a kind of benchmark are called, and where they are shown."""

    name: str
    unit: str  # what a video with its target is called
    titles: Mapping[str, str]  # the scores by name, those that rank first, and how a table calls them
    in_sequence_table: tuple[str, ...]
    in_attribute_tables: tuple[str, ...]
    counts: Mapping[str, str]
    """What is counted beside the scores, and how a table calls it; length_mismatches, which all may have, come last."""
    setting: str  # the fact that stands beside every row of a CSV; "" for none
    options: frozenset[str]  # names of the scoring options that mean something here
    counts_in_csv: bool = True


_LENGTH_DIFFERS = {"length_mismatches": "Length differs"}
ONE_PASS = Scoring(
    "OPE", "sequence", {"success": "Success", "precision": "Precision", "norm_precision": "Norm. prec."},
    ("success", "precision"), ("success", "precision"),
    {"invalid_rows": "Invalid rows", "broken_boxes": "Broken boxes", "repaired_boxes": "Repaired", **_LENGTH_DIFFERS},
    "convention", frozenset({"convention", "length", "origin", "html", "embed"}))
RESTART = Scoring(
    "VOT", "video", {"eao": "EAO", "accuracy": "Accuracy", "robustness": "Robustness", "lost_number": "Lost"},
    ("accuracy", "lost_number"), ("eao",), {"runs": "Runs", **_LENGTH_DIFFERS}, "overlap", frozenset({"overlap"}),
    counts_in_csv=False)
AVERAGE_OVERLAP = Scoring(
    "AO", "sequence", {"ao": "AO", "sr50": "SR0.5", "sr75": "SR0.75"}, ("ao", "sr50", "sr75"), (), {}, "",
    frozenset({"origin"}))
ALL_OPTIONS = ONE_PASS.options | RESTART.options | AVERAGE_OVERLAP.options


class Part(NamedTuple):
    """Scores on the sequences, or the frames, that have an attribute."""

    values: dict[str, float]
    curves: dict[str, Floats]
    sequences: int | None = None
    frames: int | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreSummary:
    """The scores of one tracker on S sequences of a benchmark. Shares are in 0..1; NaN is a score that is not known."""

    scoring: Scoring
    tracker: str
    display: str = ""  # the tracker's name for people, where it is another one
    tuned_on: str = ""  # the benchmark that the tracker's settings were tuned on, "" where its results do not tell
    names: tuple[str, ...]  # the S sequences that were scored
    frames: tuple[int, ...]  # scored frames of each of them
    expected: int  # number of sequences of the whole benchmark
    missing: tuple[str, ...]  # sequences of the benchmark that are not scored: not in the data set, or without a result
    values: dict[str, float]  # scores by name (`Scoring.titles`), those that rank first
    curves: dict[str, Floats]  # (T,) behind the scores, over `ope.THRESHOLDS`; the EAO's over lengths 0 .. T - 1
    by_sequence: dict[str, Floats]  # (S,) each
    dropped: dict[str, Flags] = field(default_factory=dict)  # (S,) by score: left out of its mean by the convention
    by_attribute: dict[str, Part] = field(default_factory=dict)
    conditions: tuple[str, ...] = ()  # by which rules it was scored, in words
    facts: dict[str, Any] = field(default_factory=dict)  # the same as plain values
    counts: dict[str, int] = field(default_factory=dict)
    odd: dict[str, dict[str, int]] = field(default_factory=dict)  # what of the counts lies in which sequences
    mismatches: tuple[Mismatch, ...] = ()
    notes: tuple[str, ...] = ()
    presence: Mapping[str, Frames] = field(default_factory=dict)  # what presence is judged by, by sequence
    rows: Mapping[str, Rows] = field(default_factory=dict)  # what was scored of each sequence, where it was asked for

    @property
    def name(self) -> str:
        """Return the tracker's name for people."""
        return self.display or self.tracker

    @property
    def label(self) -> str:
        """Return the tracker's name with what its settings were tuned on, so that no score of it stands without."""
        return f"{self.name} (tuned on {self.tuned_on})" if self.tuned_on else self.name

    @property
    def headline(self) -> dict[str, float]:
        """Return the scores that checkpoints are compared by; an EAO that no video is long enough for is 0."""
        own = {name: value for name, value in self.values.items() if name != "lost_number"}
        return own | {name: 0.0 for name, value in own.items() if name == "eao" and math.isnan(value)}

    @property
    def rank(self) -> tuple[float, ...]:
        """Return what sorts summaries, the best first; a score that is not known comes last."""
        return tuple(math.inf if math.isnan(value) else value if name in LESS_IS_BETTER else -value
                     for name, value in self.values.items())


def ranked(scores: Items[ScoreSummary]) -> list[ScoreSummary]:
    """Return the best first."""
    return sorted(scores, key=lambda s: (s.rank, s.tracker))


def scoring_of(dataset: str) -> Scoring:
    """Return how the benchmark of this name is scored."""
    return {"vot": RESTART, "got10k": AVERAGE_OVERLAP}.get(layout_of(dataset).protocol, ONE_PASS)


def is_one_pass(dataset: str) -> bool:
    """Return whether the test set has success and precision curves, which leads and the page are made of."""
    return scoring_of(dataset) is ONE_PASS


def check_scored_here(dataset: str) -> None:
    """Raise UserError for a test set that only its authors' server can score."""
    if layout_of(dataset).protocol == "server":
        raise UserError(f"--dataset {dataset}: only its server knows the ground truth, so checkpoints cannot be "
                        f"compared on it; use its validation set, and test_ocean.py for the checkpoint to submit")


def score_results(
    benchmark: Benchmark, folder: Path, *, tracker: str = "", convention: str | None = None,
    length: LengthRule | None = None, overlap: vot.Overlap | None = None, origin: int | None = None,
    allow_missing: bool = False, keep_rows: bool = False,
) -> ScoreSummary:
    """Return the scores of the result files in a tracker's folder, by the benchmark's protocol.

    tracker: its name where that is not the folder's. convention: of one-pass evaluation where it is not the benchmark's
    own; `length` overrides its rule for results of another length. overlap: VOT's, pixels counted or exact areas.
    origin: 0 or 1, of the files, where it is not the data set's. keep_rows: fill `ScoreSummary.rows`.
    Raises UserError for missing sequences (unless `allow_missing`), broken files and whatever the convention refuses.
    """
    scoring, tracker = scoring_of(benchmark.name), tracker or folder.name
    rows: dict[str, Rows] = {}
    if scoring is RESTART:
        files = {s.name: paths for s in benchmark.sequences if (paths := find_trajectories(folder, s.name))}
        check_complete(benchmark, folder, files, allow_missing=allow_missing, example="baseline/{0}/{0}_001.txt")
        scored = [sequence for sequence in benchmark.sequences if sequence.name in files]
        fields = restart_fields(benchmark.name, scored, files, overlap or "counted")
    else:
        pooled = scoring is AVERAGE_OVERLAP
        rules = ope.CONVENTIONS["got10k" if pooled else convention or layout_of(benchmark.name).convention]
        rules = replace(rules, length="error" if pooled else length or rules.length)
        rows = read_rows(benchmark, folder, rules, origin=origin, allow_missing=allow_missing)
        scored = [sequence for sequence in benchmark.sequences if sequence.name in rows]
        own = [rows[sequence.name] for sequence in scored]
        fields = average_overlap_fields(scored, own) if pooled else one_pass_fields(scored, own, rules, tracker=tracker)
    names = tuple(sequence.name for sequence in scored)
    return ScoreSummary(
        scoring=scoring, tracker=tracker, tuned_on=read_stamp(folder), names=names, expected=benchmark.expected,
        missing=(*benchmark.missing, *(name for name in benchmark.names if name not in names)),
        presence=presence_by_sequence(rows), rows=rows if keep_rows else {}, **fields)


def one_pass_fields(scored: Items[Sequence], own: Items[Rows], rules: Convention, *, tracker: str) -> dict[str, Any]:
    """Return the fields of `ScoreSummary` that a convention of one-pass evaluation gives sequences and their rows."""
    lengths = [len(row.truth) for row in own]
    truth = np.concatenate([row.truth for row in own])
    errors = ope.frame_errors(truth, np.concatenate([row.boxes for row in own]), rules)
    errors = ope.leave_out(errors, np.concatenate([row.absent for row in own]))
    odd = {name: {s.name: row.odd[name] for s, row in zip(scored, own, strict=True)} for name in own[0].odd}
    mismatches = tuple(row.mismatch for row in own if row.mismatch is not None)
    return {
        **curve_fields(ope.curves(errors, lengths), rules, lengths, [s.attributes for s in scored]),
        "odd": odd, "mismatches": mismatches, "notes": first_box_notes(tracker, own),
        "counts": {**{name: sum(each.values()) for name, each in odd.items()}, "length_mismatches": len(mismatches)},
        "conditions": (f"convention {rules.name} ({rules.toolkit}); results of another length: {rules.length}",),
        "facts": {"convention": rules.name, "toolkit": rules.toolkit, "length_rule": rules.length, "thresholds": {
            key: THRESHOLDS[name].tolist() for key, name in (
                ("overlap", "success"), ("distance_px", "precision"), ("norm_distance", "norm_precision"))}},
    }  # fmt: skip


def curve_fields(
    each: Mapping[str, Floats], rules: Convention, frames: Items[int], attributes: Items[Items[str]]
) -> dict[str, Any]:
    """Return the fields of `ScoreSummary` that follow from curves (S, T) by score, frames and attributes of each."""

    def part(picked: Items[int]) -> Part:
        means = {name: ope.mean_curve(curve[picked], rules) for name, curve in each.items()}
        # The area under success; precision at 20 px, or at 0.2 of the target's size.
        values = {name: float(mean.mean() if name == "success" else mean[PRECISION_AT]) for name, mean in means.items()}
        return Part(values, means, len(picked), sum(frames[i] for i in picked))

    whole = part(range(len(frames)))
    having = {name: [i for i, own in enumerate(attributes) if name in own]
              for name in sorted({name for own in attributes for name in own})}
    return {
        "frames": tuple(frames), "values": whole.values, "curves": whole.curves,
        "by_sequence": {name: curve.mean(axis=1) if name == "success" else curve[:, PRECISION_AT]
                        for name, curve in each.items()},
        "by_attribute": {name: part(picked) for name, picked in having.items()},
        "dropped": {name: curve.sum(axis=1) <= 0 for name, curve in each.items()} if rules.drops_zero_curves else {},
    }  # fmt: skip


def average_overlap_fields(scored: Items[Sequence], own: Items[Rows]) -> dict[str, Any]:
    """Return the fields of `ScoreSummary` that GOT-10k's toolkit gives sequences and their rows."""
    overlaps = [ope.counted_overlaps(s.file_xywh, row.boxes, image_wh=s.image_wh, absent=s.absent)
                for s, row in zip(scored, own, strict=True)]
    pooled = np.concatenate(overlaps)
    each = [ope.average_overlap(overlap) for overlap in overlaps]
    without_size = [sequence.name for sequence in scored if sequence.image_wh is None]
    return {
        "frames": tuple(len(overlap) for overlap in overlaps), "values": ope.average_overlap(pooled),
        "curves": {"ao": (pooled[:, None] > THRESHOLDS["ao"]).sum(axis=0) / max(len(pooled), 1)},
        "by_sequence": {name: np.array([values[name] for values in each]) for name in AVERAGE_OVERLAP.titles},
        "conditions": ("as the got10k toolkit: frames pooled, without the first ones and those in which the target is "
                       "not visible",),
        "notes": (f"image size unknown, overlaps not cut at the border: {listed(without_size)}",) if without_size
                 else (),
    }  # fmt: skip


def restart_fields(
    dataset: str, scored: Items[Sequence], files: Mapping[str, Items[Path]], overlap: vot.Overlap
) -> dict[str, Any]:
    """Return the fields of `ScoreSummary` that the restart protocol gives videos and their result files."""
    videos = [vot.score_video(s, files[s.name], overlap) for s in scored if isinstance(s, VOTSequence)]
    frames = tuple(len(video.accuracy) for video in videos)
    by_tag = vot.expected_overlap_curves([part for video in videos for part in video.parts], length=max(frames))
    low, high = EAO_INTERVALS[dataset]
    eao = dict(zip(vot.TAGS, vot.expected_average_overlap(by_tag, (low, high)).tolist(), strict=True))
    lost = np.array([video.lost for video in videos])
    failures = sum(lost.tolist())
    mismatches = tuple(Mismatch(name, len(s), found, "surplus rows left out" if found > len(s) else
                                "ground truth cut to the result")
                       for s, video in zip(scored, videos, strict=True)
                       for name, found in video.lengths.items() if found != len(s))
    unknown = [f"no EAO, as no video is as long as {low} frames"] if math.isnan(eao["all"]) else []
    return {
        "frames": frames, "curves": {"eao": by_tag[0]},
        "values": {"eao": eao["all"], "accuracy": vot.mean_known(np.concatenate([v.accuracy for v in videos])),
                   "robustness": 100 * failures / sum(frames), "lost_number": failures},
        "by_sequence": {"accuracy": np.array([vot.mean_known(video.accuracy) for video in videos]),
                        "robustness": 100 * lost / np.array(frames), "lost_number": lost},
        "by_attribute": {tag: Part({"eao": eao[tag]}, {"eao": curve})
                         for tag, curve in zip(vot.TAGS[1:], by_tag[1:], strict=True)},
        "conditions": (
            f"restart protocol as the pysot toolkit scores it: EAO over lengths {low} to {high}, burn-in {vot.BURN_IN} "
            f"frames, overlap {_OVERLAPS[overlap]}; Robustness (failures per 100 frames) and Lost: less is better",
            "Empty (pysot) is that toolkit's number, which weighs whole videos; No attribute is over such frames"),
        "facts": {"interval": [low, high], "burn_in": vot.BURN_IN, "overlap": overlap},
        "counts": {"runs": max(len(video.lengths) for video in videos), "length_mismatches": len(mismatches)},
        "mismatches": mismatches, "notes": (*(note for video in videos for note in video.notes), *unknown),
    }  # fmt: skip
