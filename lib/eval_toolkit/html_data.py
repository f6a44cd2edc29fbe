"""What the report's page holds beside its tables: curves, boxes and overlaps of every frame, and where images are."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from lib.benchmarks import Benchmark, attribute_code, without_origin
from lib.benchmarks import Sequence as Target
from lib.boxes import Boxes, iou_xywh
from lib.errors import UserError
from lib.eval_toolkit.bootstrap import METRICS, paired_differences
from lib.eval_toolkit.ope import (
    DISTANCE_THRESHOLDS,
    NORM_DISTANCE_THRESHOLDS,
    OVERLAP_THRESHOLDS,
    mean_curve,
)
from lib.eval_toolkit.report import attributes_of
from lib.eval_toolkit.results import OPEScores, Rows, stamped

BOX_UNIT = 0.25
"""Boxes travel as 16-bit integers in quarters of a pixel, which reach to 8191 px; finer than a screen shows."""
NO_BOX = -32768
NO_OVERLAP = 255
OVERLAP_STEPS = 200
"""Overlaps travel as one byte, in steps of 0.005."""
EMBEDDED_FRAMES = 2000
"""How many frames `--embed` puts into the page unless told otherwise: about 25 MB."""
EMBEDDED_SIDE = 320
EMBEDDED_QUALITY = 70


@dataclass(frozen=True)
class Images:
    """The images of a sequence as the page finds them: URLs, and the size of the original where they were shrunk."""

    urls: tuple[str, ...]
    original_wh: tuple[int, int] | None = None


def page_data(
    benchmark: Benchmark, scores: Sequence[OPEScores], rows: Sequence[Mapping[str, Rows]], images: Mapping[str, Images]
) -> dict[str, Any]:
    """Return everything the page's script draws, as plain values; `rows` belong to `scores`, one by one."""
    attributes = attributes_of(scores)
    parts = [[s.with_attribute(name) for name in attributes] for s in scores]
    shown = {s.tracker: s.label for s in scores}
    return {
        "dataset": benchmark.name,
        "thresholds": {"success": OVERLAP_THRESHOLDS.tolist(), "precision": DISTANCE_THRESHOLDS.tolist(),
                       "norm_precision": NORM_DISTANCE_THRESHOLDS.tolist()},
        "trackers": [_tracker_data(s) for s in scores],
        "attributes": {"names": attributes, "codes": [attribute_code(name) for name in attributes],
                       "sequences": [max(len(p.names) for p in column if p) for column in zip(*parts, strict=True)],
                       "success": [[None if p is None else p.success for p in own] for own in parts],
                       "precision": [[None if p is None else p.precision for p in own] for own in parts]},
        "differences": [d._replace(first=shown[d.first], second=shown[d.second])._asdict()
                        for metric in METRICS for d in paired_differences(scores, metric=metric)],
        "videos": [_video_data(sequence, scores, rows, images.get(sequence.name)) for sequence in benchmark.sequences
                   if any(sequence.name in own for own in rows)],
        "units": {"box": BOX_UNIT, "no_box": NO_BOX, "overlap_steps": OVERLAP_STEPS, "no_overlap": NO_OVERLAP},
    }  # fmt: skip


def _tracker_data(s: OPEScores) -> dict[str, Any]:
    family, epoch = epoch_of(s.tracker)
    curves = {name: mean_curve(curve, s.convention).round(5).tolist() for name, curve in s.curves._asdict().items()}
    short = s.label if epoch is None else stamped(f"{family} e{epoch}", s.tuned_on)
    return {"name": s.label, "short": short, "success": s.success, "precision": s.precision,
            "norm_precision": s.norm_precision, "curves": curves, "family": stamped(family, s.tuned_on), "epoch": epoch}


def epoch_of(tracker: str) -> tuple[str, int | None]:
    """Return the family and the epoch in a name such as `Ocean_checkpoint_e12`; the name and None without one."""
    match = re.fullmatch(r"(.*?)_?(?:checkpoint)?_?e(\d+)", tracker)
    return (match[1] or "checkpoint", int(match[2])) if match else (tracker, None)


def _video_data(
    sequence: Target, scores: Sequence[OPEScores], rows: Sequence[Mapping[str, Rows]], images: Images | None
) -> dict[str, Any]:
    """Return the frames of one sequence: images, true boxes, and each tracker's boxes and overlaps."""
    runs: list[dict[str, str] | None] = []
    for own in rows:
        row = own.get(sequence.name)
        if row is None:
            runs.append(None)
            continue
        truth, boxes = row.truth[row.lead_in :], row.boxes[row.lead_in :]
        runs.append({"boxes": encode_boxes(without_origin(boxes, sequence.origin)),
                     "overlaps": encode_overlaps(truth, boxes)})
    success = [None if (place := _place(s, sequence.name)) is None else round(float(s.sequence_success[place]), 4)
               for s in scores]
    return {
        "name": sequence.name, "frames": len(sequence), "truth": encode_boxes(sequence.boxes_xywh), "runs": runs,
        "success": success, "images": list(images.urls) if images else [],
        "original": list(images.original_wh) if images and images.original_wh else None,
    }  # fmt: skip


def _place(s: OPEScores, name: str) -> int | None:
    return s.names.index(name) if name in s.names else None


def encode_boxes(boxes_xywh: Boxes) -> str:
    """Return boxes (N, 4) as base64 of little-endian 16-bit integers in BOX_UNIT; NO_BOX for a row with a NaN."""
    known = np.isfinite(boxes_xywh).all(axis=1)
    scaled = np.clip(np.nan_to_num(boxes_xywh) / BOX_UNIT, NO_BOX + 1, -NO_BOX - 1).round()
    scaled[~known] = NO_BOX
    return base64.b64encode(scaled.astype("<i2").tobytes()).decode("ascii")


def encode_overlaps(truth_xywh: Boxes, boxes_xywh: Boxes) -> str:
    """Return the overlap of each frame as base64 bytes; NO_OVERLAP where truth or prediction is no box."""
    overlap = np.clip(iou_xywh(truth_xywh, boxes_xywh), 0, 1)
    steps = np.round(np.nan_to_num(overlap) * OVERLAP_STEPS)
    steps[np.isnan(overlap) | (truth_xywh[:, 2:] <= 0).any(axis=1)] = NO_OVERLAP
    return base64.b64encode(steps.astype(np.uint8).tobytes()).decode("ascii")


def referenced_images(benchmark: Benchmark, report: Path) -> dict[str, Images]:
    """Return the images of each sequence as URLs that hold as long as report and data set keep their places."""
    base = report.resolve().parent
    found = {}
    for sequence in benchmark.sequences:
        if sequence.frames:
            folder = quote(Path(os.path.relpath(sequence.frames[0].resolve().parent, base)).as_posix())
            found[sequence.name] = Images(tuple(f"{folder}/{quote(frame.name)}" for frame in sequence.frames))
    return found


def embedded_images(benchmark: Benchmark, worst_first: Sequence[str], *, limit: int) -> dict[str, Images]:
    """Return the images of the worst sequences as small JPEGs, to lie inside the page.

    As many whole sequences as `limit` frames allow; the first one in any case, as far as they reach. Raises UserError
    for an image that cannot be read.
    """
    by_name = {sequence.name: sequence for sequence in benchmark.sequences if sequence.frames}
    found: dict[str, Images] = {}
    left = limit
    for name in worst_first:
        if name not in by_name or (found and len(by_name[name].frames) > left):
            continue
        frames = by_name[name].frames[:left]
        found[name] = _shrunk(frames)
        left -= len(frames)
    return found


def _shrunk(frames: Sequence[Path]) -> Images:
    import cv2  # only this needs it; a report without --embed is made without

    urls, size = [], (0, 0)
    for path in frames:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise UserError(f"{path}: cannot be read as an image; repair it, or leave out --embed")
        size = (image.shape[1], image.shape[0])
        scale = min(1.0, EMBEDDED_SIDE / max(size))
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, EMBEDDED_QUALITY])
        assert done, "an 8-bit image can always be encoded"
        urls.append("data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii"))
    return Images(tuple(urls), size)
