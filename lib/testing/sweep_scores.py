"""What a sweep tells: progress, each checkpoint's scores as soon as it is whole, the table, and TensorBoard."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lib.eval_toolkit.protocols import LESS_IS_BETTER, ScoreSummary, is_one_pass, ranked, score_results
from lib.eval_toolkit.report import difference_tables
from lib.eval_toolkit.tables import Table, as_csv, as_markdown, as_text
from lib.files import read_json, write_whole
from lib.log import Board, check_logger
from lib.testing.results import RECEIPTS
from lib.testing.run import say_speed
from lib.testing.sweep_plan import Entry, Sweep, in_order, training_run

BOARD_FILE = "board.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """A checkpoint whose every sequence is done."""

    entry: Entry
    summary: ScoreSummary
    frames_per_second: float
    sha256: str


class Scoreboard:
    """Follows what all workers write, and scores each checkpoint once, when it is whole."""

    def __init__(self, sweep: Sweep, bar: tqdm[Any], *, convention: str) -> None:
        self._sweep = sweep
        self._bar = bar
        self._convention = convention
        self._seen: dict[Entry, dict[str, float]] = {}
        self._scored: dict[Entry, Scored] = {}
        self._earlier: list[Entry] | None = None

    def look(self) -> None:
        self._sweep.refresh()
        self.update()

    def update(self) -> None:
        """Look for new results: say their speed, move the bar, and score the checkpoints that have become whole."""
        for entry in self._sweep.entries:
            if entry in self._scored:
                continue
            first_look = entry not in self._seen
            seen = self._seen.setdefault(entry, {})
            for sequence in self._sweep.sequences:
                if sequence.name in seen or (seconds := self._sweep.folders[entry].seconds(sequence)) is None:
                    continue
                seen[sequence.name] = seconds
                if not first_look:
                    say_speed(entry.name, sequence.name, frames=len(sequence), seconds=seconds)
                self._bar.update(len(sequence))
            if first_look and seen:
                _log.info("%s: %d of %d sequences are done already", entry.name, len(seen), len(self._sweep.sequences))
            if len(seen) == len(self._sweep.sequences):
                self._score(entry, seconds=sum(seen.values()))
        self._bar.total = self._sweep.benchmark.num_frames * len(self._sweep.entries)

    def _score(self, entry: Entry, *, seconds: float) -> None:
        scored = self._scored[entry] = self._scored_of(entry, seconds=seconds)
        values = ", ".join(f"{name} {value:.3f}" for name, value in scored.summary.headline.items())
        _log.info("%s: %s, %.1f frames/s", scored.summary.label, values, scored.frames_per_second)
        self._to_board(scored)
        self.write()

    def _scored_of(self, entry: Entry, *, seconds: float) -> Scored:
        benchmark, folder = self._sweep.benchmark, self._sweep.folders[entry]
        summary = score_results(benchmark, folder.path, convention=self._convention,
                                allow_missing=bool(benchmark.missing))
        return Scored(entry, summary, benchmark.num_frames / max(seconds, 1e-9), folder.record.sha256)

    def _to_board(self, scored: Scored) -> None:
        """Add the scores at their epoch to the training run's logger, once."""
        entry, dataset, given = scored.entry, self._sweep.benchmark.name, self._sweep.options.log_dir
        place = (given, "tensorboard") if given else training_run(entry.path)
        if entry.epoch is None or place is None or (given is None and not place[0].is_dir()):
            return
        run, logger = place
        folder, values = self._sweep.folders[entry], scored.summary.headline
        told = {"run": folder.record.key, "folder": str(run.resolve()), "convention": self._convention, **values}
        path = folder.path / RECEIPTS / BOARD_FILE
        if path.is_file() and read_json(path) == told:
            return
        check_logger(logger)
        board = Board(run, logger=logger)
        # The HParams tab shows the first five scalars of the alphabet. A test set's capital comes before all losses;
        # what is compared less often stays behind.
        board.scalars({f"{name}/{dataset}" if name == "norm_precision" else f"{dataset}/{name}": value
                       for name, value in values.items()}, entry.epoch)
        board.close()
        write_whole(path, json.dumps(told))

    def rows(self) -> list[Scored]:
        """Return what the table holds, by epoch: the checkpoints of this sweep, and those of earlier ones."""
        if self._earlier is None:
            self._earlier = self._sweep.earlier()
            for entry in self._earlier:
                seconds = sum(self._sweep.folders[entry].seconds(s) or 0.0 for s in self._sweep.sequences)
                self._scored[entry] = self._scored_of(entry, seconds=seconds)
        mine = {entry.name for entry in self._sweep.entries}
        others = [entry for entry in self._earlier if entry.name not in mine]
        return [self._scored[entry] for entry in in_order([*self._sweep.entries, *others]) if entry in self._scored]

    def best(self) -> Scored | None:
        """Return the checkpoint of the highest first score, then second; None before any is whole."""
        return min(self.rows(), key=lambda scored: scored.summary.rank, default=None)

    def tables(self) -> list[Table]:
        """Return a row per checkpoint, the best marked, and how sure its lead is, where that can be told."""
        best, rows = self.best(), self.rows()
        cells = tuple((
            f"{s.summary.label} (best)" if s is best else s.summary.label,
            # The table marks the highest number of a column, which must not be that of a score where less is better.
            *(f"{value:.3f}" if name in LESS_IS_BETTER else value for name, value in s.summary.headline.items()),
            f"{s.frames_per_second:.1f}", f"{len(s.summary.names)}/{s.summary.expected}") for s in rows)
        scores = (name.replace("_", " ").capitalize() for name in _names(rows))
        columns = ("Checkpoint", *scores, "Frames/s", "Sequences")
        table = Table(f"{self._sweep.benchmark.name} by checkpoint", columns, cells, best_in="column")
        if not is_one_pass(self._sweep.benchmark.name):
            return [table]
        return [table, *difference_tables(ranked([scored.summary for scored in rows]))]

    def remarks(self) -> list[str]:
        """Return what must be said beside the table: what was scored, how, and what is missing."""
        benchmark = self._sweep.benchmark
        sources = sorted({self._sweep.folders[entry].record.params_source for entry in self._sweep.entries})
        rules = f", convention {self._convention}" if is_one_pass(benchmark.name) else ""
        said = [f"{benchmark.name}: {len(benchmark.sequences)}/{benchmark.expected} sequences, {benchmark.num_frames} "
                f"frames{rules}; tracker settings: {', '.join(sources) or 'none yet'}"]
        if benchmark.missing:
            said.append(benchmark.missing_text())
        unfinished = [entry.name for entry in self._sweep.entries if entry not in self._scored]
        if unfinished:
            said.append(f"not whole yet: {', '.join(unfinished)}")
        return said

    def text(self) -> str:
        return as_text(self.tables(), self.remarks())

    def write(self) -> Path:
        """Write the table as Markdown, CSV and JSON beside the folders of results; return the Markdown's path."""
        rows = self.rows()
        texts = {
            ".md": as_markdown(self.tables(), self.remarks()),
            ".csv": as_csv(("checkpoint", "epoch", *_names(rows), "frames_per_second", "sequences", "expected",
                            "sha256", "tuned_on"),
                           [[s.entry.name, s.entry.epoch, *s.summary.headline.values(), round(s.frames_per_second, 2),
                             len(s.summary.names), s.summary.expected, s.sha256, s.summary.tuned_on] for s in rows]),
            ".json": json.dumps(self._json(rows), indent=1, allow_nan=False) + "\n",
        }
        stem = self._sweep.stem
        for suffix, text in texts.items():
            write_whole(stem.with_name(stem.name + suffix), text)
        return stem.with_name(f"{stem.name}.md")

    def _json(self, rows: list[Scored]) -> dict[str, Any]:
        best = self.best()
        return {
            "dataset": self._sweep.benchmark.name, "convention": self._convention,
            "best": best.entry.name if best else None, "ranked_by": next(iter(_names(rows)), None),
            "remarks": self.remarks(),
            "checkpoints": [{
                "name": s.entry.name, "epoch": s.entry.epoch, "path": str(s.entry.path), "sha256": s.sha256,
                "tracker": s.entry.tracker,
                "tuned_on": s.summary.tuned_on,
                **{name: None if math.isnan(value) else value for name, value in s.summary.headline.items()},
                "frames_per_second": s.frames_per_second,
                "sequences": len(s.summary.names), "expected": s.summary.expected,
            } for s in rows],
        }

    def write_page(self) -> Path | None:
        """Write the page with curves and a player, and return its path; None where the test set has no such curves."""
        benchmark, rows = self._sweep.benchmark, self.rows()
        if not rows or not is_one_pass(benchmark.name):
            return None
        from lib.eval_toolkit.page import write_page  # only the page needs it

        scores = [score_results(benchmark, self._sweep.folders[scored.entry].path, convention=self._convention,
                                allow_missing=bool(benchmark.missing), keep_rows=True) for scored in rows]
        page = self._sweep.stem.with_name(f"{self._sweep.stem.name}.html")
        write_page(page, benchmark, scores, dataset_dir=Path(self._sweep.options.dataset_dir),
                   speeds={s.entry.name: s.frames_per_second for s in rows})
        return page


def _names(rows: list[Scored]) -> list[str]:
    return list(rows[0].summary.headline) if rows else []
