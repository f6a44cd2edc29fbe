"""`python -m lib.datasets.prepare`: raw data sets to training data, one command per source."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from lib.datasets.prepare import check, coco, pack, pascal, select, videos, youtube_bb
from lib.datasets.prepare.cut import Cutter
from lib.datasets.prepare.finish import CROPS, INDEX, MANIFEST, Summary, finish, write_preview, yaml_snippet
from lib.datasets.prepare.journal import Journal
from lib.datasets.prepare.records import Filters, Task, safe_name
from lib.datasets.prepare.work import cut_all, default_jobs
from lib.errors import UserError, run

Reader = Callable[[Path, argparse.Namespace], Sequence[Task]]

READERS: dict[str, Reader] = {
    "COCO": lambda root, given: coco.tasks(
        root, split=given.split, annotation=given.annotation, pictures=given.pictures),
    "DET": lambda root, given: pascal.det_tasks(root, split=given.split),
    "GOT10K": lambda root, given: videos.got10k_tasks(root, split=given.split),
    "LASOT": lambda root, given: videos.lasot_tasks(root, split=given.split),
    "TRACKINGNET": lambda root, given: videos.trackingnet_tasks(root, split=given.split),
    "VID": lambda root, given: pascal.vid_tasks(root, split=given.split),
    "VIDEOS": lambda root, given: videos.plain_tasks(root, split=given.split, origin=given.origin),
    "VOC": lambda root, given: pascal.voc_tasks(root, split=given.split),
    "YTB": lambda root, given: youtube_bb.tasks(root, split=given.split),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 when the data are prepared; raise UserError for what only the user can mend."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    other = {"check": check.main, "pack": pack.main, "select": select.main}.get(words[0] if words else "")
    return other(words[1:]) if other else prepare(parse(words))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the checked command line."""
    parser = argparse.ArgumentParser(prog="python -m lib.datasets.prepare", description=__doc__,
                                     epilog="also: prepare check FOLDER, pack FOLDER, select INDEX; see their --help")
    parser.add_argument("source", type=str.upper, choices=sorted(READERS), help="the data set")
    parser.add_argument("--root", type=Path, required=True, help="the raw data, as its archive unpacks")
    parser.add_argument("--out", type=Path, required=True, help="folder for crops, index and manifest, e.g. data/coco")
    parser.add_argument("--split", default="", help="which part of the archive (default: the training part)")
    parser.add_argument("--annotation", default="", help="COCO: the JSON below root, where it is not the official one")
    parser.add_argument("--pictures", default="", help="COCO: the folder of pictures below root")
    parser.add_argument("--origin", type=int, choices=(0, 1), default=0, help="VIDEOS: number of the first px")
    parser.add_argument("--no-crops", action="store_true", help="write the index alone, to train with FORMAT: raw")
    parser.add_argument("--jobs", type=int, default=default_jobs(), help="processes (default: all %(default)s cores)")
    parser.add_argument("--quality", type=int, default=95, help="JPEG quality of the crops (default %(default)s)")
    for name, default, text in (
        ("min_side", Filters.min_side, "leave out boxes with a side of fewer px"),
        ("max_area", Filters.max_area, "leave out boxes that cover more of the picture"),
        ("max_aspect", Filters.max_aspect, "leave out boxes whose longer side is more times the shorter"),
        ("min_visible", Filters.min_visible, "leave out boxes of which less is inside the picture or visible"),
    ):
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=float, default=default, help=f"{text} (default %(default)s)")
    for flag, text in (("absent", "of objects called out of sight (GOT10K, LASOT, YTB)"),
                       ("border", "that touch the picture's edge"), ("occluded", "called occluded (VID, DET)"),
                       ("generated", "called generated (VID)")):
        parser.add_argument(f"--{flag}", choices=("keep", "drop"), default=getattr(Filters, flag),
                            help=f"what becomes of boxes {text} (default %(default)s)")
    given = parser.parse_args(arguments)
    for flag, value, low, high in (
        ("--jobs", given.jobs, 1, 1024), ("--quality", given.quality, 1, 100), ("--min-side", given.min_side, 1, 1e6),
        ("--max-area", given.max_area, 0, 100), ("--max-aspect", given.max_aspect, 1, 1e6),
        ("--min-visible", given.min_visible, 0, 1),
    ):
        if not low <= value <= high:
            raise UserError(f"{flag} {value:g}: expected {low:g} to {high:g}")
    return given


def prepare(given: argparse.Namespace) -> int:
    """Return 0 when the crops, index and manifest of a source are written."""
    if not given.root.is_dir():
        raise UserError(f"{given.root}: no such folder; expected {given.source} as its archive unpacks")
    filters = Filters(**{field.name: getattr(given, field.name) for field in fields(Filters)})
    settings = {
        "source": given.source, "root": str(given.root.resolve()), "split": given.split,
        "annotation": given.annotation, "pictures": given.pictures, "origin": given.origin, "quality": given.quality,
        "crops": not given.no_crops, **asdict(filters),
    }
    with Journal(given.out, settings) as journal:
        tasks = READERS[given.source](given.root, given)
        _check_names(tasks, given.root)
        crops = None if given.no_crops else given.out / CROPS
        cut_all(tasks, Cutter(given.root, crops, filters, given.quality), journal, jobs=given.jobs)
        summary = finish(given.out, journal, settings)
        if not summary.crops:
            raise UserError(f"{given.out}: not one usable box in {len(tasks)} tasks; {_dropped(summary)}")
        write_preview(given.out, journal, root=given.root if given.no_crops else None)
    _report(summary, given)
    return 0


def _check_names(tasks: Sequence[Task], root: Path) -> None:
    """Refuse names that would lead out of the folder of crops, or that two tasks share."""
    seen: set[str] = set()
    for task in tasks:
        if safe_name(task.name, place=str(root)) in seen:
            raise UserError(f"{root}: two videos are called '{task.name}'; rename one")
        seen.add(task.name)


def _dropped(summary: Summary) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.dropped.most_common())
    faults = f"; {len(summary.faults)} faults, the first: {summary.faults[0]}" if summary.faults else ""
    return f"left out: {reasons or 'none'}{faults}"


def _report(summary: Summary, given: argparse.Namespace) -> None:
    """Print what was made and what to paste into the YAML."""
    print(f"{given.source}: {summary.crops} {'boxes' if given.no_crops else 'crops'} of {summary.tracks} objects on "
          f"{summary.frames} frames of {summary.videos} videos or stills, {summary.bytes / 1e6:.1f} MB")
    total = sum(summary.dropped.values())
    print(f"left out: {total} boxes ({total / (total + summary.crops):.1%})")
    for reason, count in summary.dropped.most_common():
        print(f"  {count:8d}  {reason}")
    for fault in summary.faults[:10]:
        print(f"  broken: {fault}")
    if len(summary.faults) > 10:
        print(f"  ... and {len(summary.faults) - 10} more, see {given.out / 'journal.jsonl'}")
    print(f"written: {given.out / INDEX}, {given.out / MANIFEST}, {given.out / 'preview.png'}")
    path, form = (given.root, "raw") if given.no_crops else (given.out / CROPS, "crop511")
    print("below DATASET of the training's YAML:")
    print(yaml_snippet(given.source, path, given.out, form=form, crops=summary.crops), end="")


if __name__ == "__main__":
    run(main)
