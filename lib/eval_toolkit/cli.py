"""The command `bin/eval.py`: score trackers on a benchmark and print what they are worth."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from lib.benchmarks import Benchmark, layout_of, load_benchmark
from lib.errors import UserError, die_with_parent
from lib.eval_toolkit.protocols import ALL_OPTIONS, ScoreSummary, score_results, scoring_of
from lib.eval_toolkit.report import FORMATS, remarks, render
from lib.eval_toolkit.results import find_trackers, pack_submission
from lib.files import check_output, write_whole
from lib.options import EvalOptions


def main(options: EvalOptions) -> int:
    """Return 0 after printing the scores that were asked for; UserError for what cannot be scored."""
    _check(options)
    trackers = find_trackers(options.tracker_result_dir, options.trackers, dataset=options.dataset)
    origins = _named(options.origin, trackers, flag="--origin", allowed=("0", "1"))
    labels = _named(options.labels, trackers, flag="--labels")
    benchmark = load_benchmark(options.dataset, options.dataset_dir, images=False)
    if options.list_missing:
        print("\n".join(benchmark.missing))
        return 0
    if layout_of(options.dataset).protocol == "server":
        return _pack_all(benchmark, trackers, origins, options)
    calls = [(benchmark, name, folder, options, origins.get(name)) for name, folder in trackers.items()]
    if options.num == 1 or len(calls) == 1:
        scores = [_score(call) for call in calls]
    else:
        with ProcessPoolExecutor(min(options.num, len(calls)), None, die_with_parent, (signal.SIGKILL,)) as pool:
            scores = list(pool.map(_score, calls))
    scores = [replace(s, display=labels.get(s.tracker, "")) for s in scores]
    print(render(benchmark, scores, form=options.format, by_sequence=options.show_video_level), end="")
    if options.format in ("csv", "json"):
        # The output proper must stay a table that a program can read; what was odd is still said.
        print("\n".join(remarks(benchmark, scores)), file=sys.stderr)
    for path in _write(benchmark, scores, options):
        print(f"wrote {path}", file=sys.stderr)
    return 0


def _check(options: EvalOptions) -> None:
    """Raise UserError for an option that means nothing on this benchmark, or without another one."""
    known = scoring_of(options.dataset).options
    for name in sorted(ALL_OPTIONS - known):
        if getattr(options, name):
            raise UserError(f"--{name}: means nothing for {options.dataset}; leave it out "
                            f"(here: {', '.join(f'--{name}' for name in sorted(known))})")
    for name, path in (("out", options.out), ("html", options.html)):
        if path is not None:
            check_output(path, flag=f"--{name}", folder=name == "out")
    if options.embed and options.html is None:
        raise UserError("--embed: puts images into the page; give --html FILE too, or leave it out")


def _named(given: Sequence[str], trackers: Mapping[str, Path], *, flag: str, allowed: Sequence[str] = ()
           ) -> dict[str, str]:
    """Return what NAME=VALUE words say of each tracker; where `allowed` lists the values, one alone says it of all."""
    found: dict[str, str] = {}
    for word in given:
        name, equals, value = word.rpartition("=")
        if (allowed and value not in allowed) or (name not in trackers and (equals or not allowed)) or not value:
            what = f"{', '.join(allowed)} or NAME={allowed[0]}" if allowed else "NAME=Display"
            raise UserError(f"{flag} {word}: expected {what} with NAME one of {', '.join(trackers)}")
        found |= {name: value} if equals else {own: value for own in trackers if own not in found}
    return found


def _score(call: tuple[Benchmark, str, Path, EvalOptions, str | None]) -> ScoreSummary:
    benchmark, tracker, folder, options, origin = call
    return score_results(
        benchmark, folder, tracker=tracker, convention=options.convention, length=options.length,
        overlap=options.overlap, origin=None if origin is None else int(origin), allow_missing=options.allow_missing,
        keep_rows=options.html is not None)


def _pack_all(
    benchmark: Benchmark, trackers: Mapping[str, Path], origins: Mapping[str, str], options: EvalOptions
) -> int:
    """Return 0 after writing the archive of every tracker for the benchmark's server."""
    for name, folder in trackers.items():
        archive = (options.out or options.tracker_result_dir[0]) / f"{benchmark.name}_{name}.zip"
        said = pack_submission(benchmark, folder, archive, allow_missing=options.allow_missing,
                               origin=int(origins[name]) if name in origins else None)
        print("\n".join([f"wrote {archive}", *said]))
    return 0


def _write(benchmark: Benchmark, scores: Sequence[ScoreSummary], options: EvalOptions) -> list[Path]:
    """Return the files written: the scores in every format, plots and the page, as far as asked for."""
    written = []
    out = options.out or (options.tracker_result_dir[0] / "_eval" if options.vis else None)
    if out is not None:
        for form, suffix in FORMATS.items():
            write_whole(out / f"scores.{suffix}", render(benchmark, scores, form=form, by_sequence=True))
            written.append(out / f"scores.{suffix}")
    if out is not None and options.vis:
        # Imported here: matplotlib takes half a second that only plots need.
        from lib.eval_toolkit.plots import save_plots

        written += save_plots(out, scores, dataset=benchmark.name)
    if options.html is not None:
        from lib.eval_toolkit.page import write_page

        why = write_page(options.html, benchmark, scores, dataset_dir=options.dataset_dir, embed=options.embed)
        if why:
            print(f"note: the page shows boxes without images ({why})", file=sys.stderr)
        written.append(options.html)
    return written
