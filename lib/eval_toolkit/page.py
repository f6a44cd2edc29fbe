"""The report as one self-contained HTML file: tables that need no script, and curves and a player that do.

The page loads nothing from a network: plotly's script, ours and all data are inside; images are inside with `--embed`
or referenced from the data set. Its content policy forbids everything else.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lib.benchmarks import Benchmark, Sequence as Target, load_benchmark, without_origin
from lib.benchmarks.facts import attribute_code
from lib.boxes import Boxes, iou_xywh
from lib.errors import UserError, one_line, package
from lib.eval_toolkit import report
from lib.eval_toolkit.bootstrap import METRICS, paired_differences
from lib.eval_toolkit.ope import THRESHOLDS
from lib.eval_toolkit.protocols import Part, ScoreSummary, ranked
from lib.eval_toolkit.tables import Cell, Table, best_cells, shown
from lib.files import atomic_write

BOX_UNIT = 0.25  # boxes travel as 16-bit integers in quarters of a pixel, to 8191 px; finer than a screen shows
NO_BOX = -32768
NO_OVERLAP = 255
OVERLAP_STEPS = 200  # overlaps travel as one byte, in steps of 0.005
EMBEDDED_SIDE = 320
EMBEDDED_QUALITY = 70


class Images(NamedTuple):
    """The images of a sequence as the page finds them: URLs, and the size of the original where they were shrunk."""

    urls: tuple[str, ...]
    original_wh: tuple[int, int] | None = None


def write_page(
    path: Path, benchmark: Benchmark, scores: Sequence[ScoreSummary], *, dataset_dir: Path, embed: int = 0,
    speeds: Mapping[str, float] | None = None,
) -> str:
    """Write the page of trackers' scores, which hold their rows, whole or not at all; return why it has no images.

    The images are those in `dataset_dir`; without any, the player shows boxes alone and says so. `embed` puts up to so
    many frames, worst sequences first, into the file. `speeds` are frames per second by tracker. Raises UserError for a
    broken image or a folder that cannot be written.
    """
    scores = ranked(scores)
    worst = worst_first(scores)
    images: dict[str, Images] = {}
    no_images = ""
    try:
        frames = load_benchmark(benchmark.name, dataset_dir, images=True)
    except UserError as error:
        no_images = str(error)
    else:
        images = referenced_images(frames, path)
        if embed:
            images |= embedded_images(frames, [str(row[0]) for row in worst.rows], limit=embed)
    data = {**page_data(benchmark, scores, images), "no_images": no_images}
    with atomic_write(path) as file:
        file.write(_page(benchmark, scores, worst, data, speeds=speeds))
    return no_images


def worst_first(scores: Sequence[ScoreSummary]) -> Table:
    """Return the table of sequences, the lowest mean success of all trackers first; of several, the mean is told."""
    table = report.sequence_table(scores)

    def mean(row: Sequence[Cell]) -> float:
        found = [cell for cell in row[2::2] if isinstance(cell, float)]
        return sum(found) / len(found)

    columns, rows = table.columns, sorted(table.rows, key=mean)
    if len(scores) > 1:
        columns = (*columns[:2], "Mean success", *columns[2:])
        rows = [(*row[:2], mean(row), *row[2:]) for row in rows]
    return Table("Scores by sequence, worst first", columns, tuple(rows), table.best_in)


def _page(benchmark: Benchmark, scores: Sequence[ScoreSummary], worst: Table, data: Mapping[str, Any], *,
          speeds: Mapping[str, float] | None) -> str:
    """Return the whole HTML text."""
    facts, plotly = scores[0].facts, package("plotly.offline", needed_by="the HTML report")
    # A name in one line cannot forge another; every other text is escaped, Markup excepted.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                              finalize=lambda value: one_line(value) if type(value) is str else value)
    environment.globals.update(shown=shown, best_cells=best_cells)
    return environment.from_string(_asset("report.html")).render(
        title=f"{benchmark.name}: {', '.join(s.name for s in scores[:3])}{' …' if len(scores) > 3 else ''}",
        heading=f"Tracking results on {benchmark.name}",
        subtitle=f"{len(scores)} tracker{'s' if len(scores) > 1 else ''}, {len(benchmark.sequences)}/"
                 f"{benchmark.expected} sequences, {benchmark.num_frames} frames, convention {facts['convention']} "
                 f"({facts['toolkit']})",
        conditions=report.conditions(benchmark, scores), warnings=report.warnings(benchmark, scores),
        stamps=[f"{s.name}: settings tuned on {s.tuned_on}" for s in scores if s.tuned_on],
        summary=report.summary_table(scores, speeds=speeds),
        differences=[*report.difference_tables(scores), *report.presence_tables(scores, by_sequence=True)],
        attributes=report.attribute_tables(scores), videos=worst,
        style=Markup(_asset("report.css")), script=Markup(_asset("report.js")), plotly=Markup(plotly.get_plotlyjs()),
        # "<" would end the script element early wherever a name holds "</script"; in JSON its escape means the same.
        data=Markup(json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")),
    )  # fmt: skip


def _asset(name: str) -> str:
    return (resources.files("lib.eval_toolkit") / "assets" / name).read_text(encoding="utf-8")


def page_data(benchmark: Benchmark, scores: Sequence[ScoreSummary], images: Mapping[str, Images]) -> dict[str, Any]:
    """Return everything the page's script draws, as plain values."""
    attributes = report.attributes_of(scores)
    parts = [[s.by_attribute.get(name) for name in attributes] for s in scores]
    return {
        "dataset": benchmark.name,
        "thresholds": {name: THRESHOLDS[name].tolist() for name in scores[0].curves},
        "trackers": [_tracker_data(s) for s in scores],
        "attributes": {"names": attributes, "codes": [attribute_code(name) for name in attributes],
                       "sequences": [max(p.sequences or 0 for p in column if p) for column in zip(*parts, strict=True)],
                       "parts": [[None if p is None else _part_data(p) for p in own] for own in parts]},
        "differences": [d._asdict() for metric in METRICS for d in paired_differences(scores, metric=metric)],
        "videos": [_video_data(sequence, scores, images.get(sequence.name)) for sequence in benchmark.sequences
                   if any(sequence.name in s.rows for s in scores)],
        "units": {"box": BOX_UNIT, "no_box": NO_BOX, "overlap_steps": OVERLAP_STEPS, "no_overlap": NO_OVERLAP},
    }  # fmt: skip


def _part_data(part: Part | ScoreSummary) -> dict[str, Any]:
    return {**part.values, "curves": {name: curve.round(5).tolist() for name, curve in part.curves.items()}}


def _tracker_data(s: ScoreSummary) -> dict[str, Any]:
    family, epoch = epoch_of(s.name)
    return {"id": s.tracker, "name": s.name, "short": s.name if epoch is None else f"{family} e{epoch}",
            "family": family, "epoch": epoch, **_part_data(s)}


def epoch_of(tracker: str) -> tuple[str, int | None]:
    """Return the family and the epoch in a name such as `Ocean_checkpoint_e12`; the name and None without one."""
    match = re.fullmatch(r"(.*?)_?(?:checkpoint)?_?e(\d+)", tracker)
    return (match[1] or "checkpoint", int(match[2])) if match else (tracker, None)


def _video_data(sequence: Target, scores: Sequence[ScoreSummary], images: Images | None) -> dict[str, Any]:
    """Return the frames of one sequence: images, true boxes, and each tracker's boxes and overlaps."""
    runs: list[dict[str, str] | None] = []
    for row in (s.rows.get(sequence.name) for s in scores):
        if row is None:
            runs.append(None)
            continue
        truth, boxes = row.truth[row.lead_in :], row.boxes[row.lead_in :]
        runs.append({"boxes": encode_boxes(without_origin(boxes, sequence.origin)),
                     "overlaps": encode_overlaps(truth, boxes)})
    return {
        "name": sequence.name, "frames": len(sequence), "truth": encode_boxes(sequence.boxes_xywh), "runs": runs,
        "images": images.urls if images else [], "original": images.original_wh if images else None,
    }  # fmt: skip


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


def referenced_images(benchmark: Benchmark, page: Path) -> dict[str, Images]:
    """Return the images of each sequence as URLs that hold as long as page and data set keep their places."""
    base = page.resolve().parent
    found = {}
    for sequence in benchmark.sequences:
        if sequence.frames:
            folder = quote(Path(os.path.relpath(sequence.frames[0].parent.resolve(), base)).as_posix())
            found[sequence.name] = Images(tuple(f"{folder}/{quote(frame.name)}" for frame in sequence.frames))
    return found


def embedded_images(benchmark: Benchmark, names: Sequence[str], *, limit: int) -> dict[str, Images]:
    """Return the images of sequences in the order of their names as small JPEGs, to lie inside the page.

    As many whole sequences as `limit` frames allow, the first in any case; UserError for an image that is unreadable.
    """
    by_name = {sequence.name: sequence for sequence in benchmark.sequences if sequence.frames}
    found: dict[str, Images] = {}
    for name in names:
        if name not in by_name or (found and len(by_name[name].frames) > limit):
            continue
        frames = by_name[name].frames[:limit]
        found[name] = _shrunk(frames)
        limit -= len(frames)
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
