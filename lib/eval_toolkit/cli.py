"""The command line of `bin/eval.py`: score trackers on a benchmark and print what they are worth."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from lib.benchmarks import KNOWN_LAYOUTS, Benchmark, load_benchmark
from lib.errors import UserError
from lib.eval_toolkit.html_data import EMBEDDED_FRAMES
from lib.eval_toolkit.kinds import Kind, check_options, default_convention, kind_of
from lib.eval_toolkit.ope import CONVENTIONS, DEFAULT_CONVENTION
from lib.eval_toolkit.report import FORMATS
from lib.eval_toolkit.results import find_trackers
from lib.eval_toolkit.submission import is_submitted, pack_submission
from lib.files import atomic_write


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 after printing the scores asked for on the command line; UserError for what cannot be scored."""
    args = _parser().parse_args(argv)
    check_options(args.dataset, args)
    kind = kind_of(args.dataset)
    folders = find_trackers(args.tracker_result_dir, args.trackers, dataset=args.dataset)
    benchmark = load_benchmark(args.dataset, args.dataset_dir, images=False)
    if is_submitted(args.dataset):
        return _pack_all(benchmark, folders, args)
    scores = _score_all(benchmark, folders, args)
    print(kind.render(benchmark, scores, form=args.format, by_sequence=args.show_video_level), end="")
    if args.format in ("csv", "json"):
        # The output proper must stay a table that a program can read; what was odd is still said.
        print("\n".join(kind.remarks(benchmark, scores)), file=sys.stderr)
    out = args.out or (args.tracker_result_dir[0] / "_eval" if args.vis else None)
    if out is not None:
        for path in _write(out, benchmark, kind, scores, with_plots=args.vis):
            print(f"wrote {path}", file=sys.stderr)
    if args.html is not None:
        print(f"wrote {_write_html(benchmark, folders, args)}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eval.py", description="Score trackers' result files: one-pass evaluation, for VOT the restart protocol.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dataset_dir", type=Path, required=True,
                        help="the data set's folder or its parent; annotations suffice, images are not needed")
    parser.add_argument("--dataset", required=True,
                        help=f"OTB2015 (= OTB100), OTB50, OTB2013, VOT2015 to VOT2019, {', '.join(KNOWN_LAYOUTS)}, or "
                             "any folder of videos with a ground-truth file")
    parser.add_argument("--tracker_result_dir", type=Path, nargs="+", required=True, metavar="DIR",
                        help="holds <tracker>/<Sequence>.txt, for VOT <tracker>/baseline/<video>/<video>_001.txt; with "
                             "several, such as yours and published ones, their trackers come into one table")
    parser.add_argument("--trackers", nargs="+", default=["*"], metavar="NAME", help="names of folders, or globs")
    parser.add_argument("--convention", choices=list(CONVENTIONS),
                        help="whose rules decide on broken rows, first frames and lengths; "
                             f"if not given, that of the benchmark's authors where there is one, else "
                             f"{DEFAULT_CONVENTION}")
    parser.add_argument("--length", choices=["error", "truncate", "fit"],
                        help="what to do with results of another length (instead of the convention's rule): refuse "
                             "them, cut the ground truth to them, or count missing rows as failures")
    parser.add_argument("--origin", nargs="+", default=[], metavar="[NAME=]0|1",
                        help="pixel origin of the result files, of all or of the named trackers, where it is not the "
                             "data set's own (OTB: 1)")
    parser.add_argument("--overlap", choices=["counted", "exact"],
                        help="VOT: pixels counted as the toolkits do (if not given), or exact areas by shapely")
    parser.add_argument("--allow-missing", action="store_true", help="score although sequences are missing")
    parser.add_argument("--show_video_level", action="store_true", help="print the scores of every sequence")
    parser.add_argument("--vis", action="store_true",
                        help="write success, precision and attribute plots (PNG and PDF) to --out, by default "
                             "_eval in the first --tracker_result_dir")
    parser.add_argument("--html", type=Path, metavar="FILE",
                        help="write one self-contained page: tables, curves and a player of every video")
    parser.add_argument("--embed", type=_positive, nargs="?", default=0, const=EMBEDDED_FRAMES, metavar="FRAMES",
                        help="with --html: put up to so many frames (the worst videos) into the page as small JPEGs, "
                             f"{EMBEDDED_FRAMES} if no number is given; the others are referenced from the data set")
    parser.add_argument("--num", type=_positive, default=1, help="processes that read and score at once")
    parser.add_argument("--format", choices=list(FORMATS), default="text", help="what is printed")
    parser.add_argument("--out", type=Path, help="folder to write the scores to, in every format")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of processes; expected 1 or more")
    return value


def _score_all(benchmark: Benchmark, folders: Sequence[Path], args: argparse.Namespace) -> list[Any]:
    """Return the scores of every tracker, computed in `--num` processes."""
    origins = _origins(args.origin, [folder.name for folder in folders])
    calls = [(benchmark, folder, args, origin) for folder, origin in zip(folders, origins, strict=True)]
    if args.num == 1 or len(calls) == 1:
        return [_score(call) for call in calls]
    with ProcessPoolExecutor(min(args.num, len(calls))) as pool:
        return list(pool.map(_score, calls))


def _score(call: tuple[Benchmark, Path, argparse.Namespace, int | None]) -> Any:
    benchmark, folder, args, origin = call
    return kind_of(args.dataset).score(benchmark, folder, args, origin)


def _origins(options: Sequence[str], trackers: Sequence[str]) -> list[int | None]:
    """Return the pixel origin that `--origin` gives each tracker, None where it says nothing."""
    default: int | None = None
    named: dict[str, int] = {}
    for option in options:
        name, _, value = option.rpartition("=")
        if value not in ("0", "1") or (name and name not in trackers):
            raise UserError(f"--origin {option}: expected 0, 1, or NAME=0 with NAME one of {', '.join(trackers)}")
        if name:
            named[name] = int(value)
        else:
            default = int(value)
    return [named.get(name, default) for name in trackers]


def _pack_all(benchmark: Benchmark, folders: Sequence[Path], args: argparse.Namespace) -> int:
    """Return 0 after writing the archive of every tracker for the benchmark's server."""
    origins = _origins(args.origin, [folder.name for folder in folders])
    for folder, origin in zip(folders, origins, strict=True):
        archive = (args.out or args.tracker_result_dir[0]) / f"{benchmark.name}_{folder.name}.zip"
        said = pack_submission(benchmark, folder, archive, origin=origin, allow_missing=args.allow_missing)
        print("\n".join([f"wrote {archive}", *said]))
    return 0


def _write_html(benchmark: Benchmark, folders: Sequence[Path], args: argparse.Namespace) -> Path:
    """Return the page written for `--html`; the player shows boxes alone where the data set has no images."""
    # Imported here: only the page needs it.
    from lib.eval_toolkit.html_report import write_report_of

    try:
        frames = load_benchmark(args.dataset, args.dataset_dir, images=True)
    except UserError as error:
        print(f"note: the page shows boxes without images ({error})", file=sys.stderr)
        frames = None
    return write_report_of(
        args.html, benchmark, folders, length=args.length,
        convention=args.convention or default_convention(args.dataset),
        origins=_origins(args.origin, [folder.name for folder in folders]), allow_missing=args.allow_missing,
        frames=frames, embed=args.embed)


def _write(out: Path, benchmark: Benchmark, kind: Kind, scores: Sequence[Any], *, with_plots: bool) -> list[Path]:
    """Return the files written to `out`: the scores in every format, and plots if asked for."""
    written = []
    for form, suffix in FORMATS.items():
        path = out / f"scores.{suffix}"
        with atomic_write(path) as file:
            file.write(kind.render(benchmark, scores, form=form, by_sequence=True))
        written.append(path)
    if with_plots:
        written += kind.save_plots(out, scores, dataset=benchmark.name)
    return written
