"""The report as one self-contained HTML file: tables that need no script, and curves and a player that do.

The page loads nothing from a network: plotly's script, ours and all data are inside; images are inside with `--embed`
or referenced from the data set. Its content policy forbids everything else.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from lib.benchmarks import Benchmark
from lib.errors import UserError, one_line
from lib.eval_toolkit.html_data import Images, embedded_images, page_data, referenced_images
from lib.eval_toolkit.ope import DEFAULT_CONVENTION, LengthRule
from lib.eval_toolkit.report import (
    attribute_tables,
    conditions,
    difference_tables,
    rank,
    sequence_table,
    summary_table,
    warnings,
)
from lib.eval_toolkit.results import OPEScores, Rows, read_rows, rules_of, score_rows
from lib.eval_toolkit.tables import Cell, Table, best_cells
from lib.files import atomic_write

_NO_ATTRIBUTES = "<p>The data set names no attributes of its sequences.</p>"


def write_report(
    path: Path, benchmark: Benchmark, scores: Sequence[OPEScores], rows: Sequence[Mapping[str, Rows]], *,
    frames: Benchmark | None = None, embed: int = 0, speeds: Mapping[str, float] | None = None,
) -> Path:
    """Return `path` after writing the report of trackers' scores and rows there, whole or not at all.

    `rows[i]` are those that `scores[i]` was made from. `frames` is the benchmark read with its images, where it has
    them; without, the player shows boxes alone. `embed` puts up to so many frames, worst sequences first, into the
    file. `speeds` are frames per second by tracker. Raises UserError for a broken image or a folder that cannot be
    written.
    """
    assert len(scores) == len(rows), (len(scores), len(rows))
    ranked = rank(scores)
    of = {id(score): own for score, own in zip(scores, rows, strict=True)}
    worst = worst_first(ranked)
    images: dict[str, Images] = {}
    if frames is not None:
        images = referenced_images(frames, path)
        if embed:
            images |= embedded_images(frames, [str(row[0]) for row in worst.rows], limit=embed)
    data = page_data(benchmark, ranked, [of[id(score)] for score in ranked], images)
    with atomic_write(path) as file:
        file.write(_page(benchmark, ranked, worst, data, speeds=speeds))
    return path


def write_report_of(
    path: Path, benchmark: Benchmark, folders: Sequence[Path], *, convention: str = DEFAULT_CONVENTION,
    length: LengthRule | None = None, origins: Sequence[int | None] | None = None, allow_missing: bool = False,
    frames: Benchmark | None = None, embed: int = 0, speeds: Mapping[str, float] | None = None,
) -> Path:
    """Return `path` after writing the report of the result files in trackers' folders; see `write_report`."""
    rules = rules_of(convention, length=length)
    rows = [read_rows(benchmark, folder, rules, origin=origin, allow_missing=allow_missing)
            for folder, origin in zip(folders, origins or [None] * len(folders), strict=True)]
    scores = [score_rows(benchmark, folder, own, rules) for folder, own in zip(folders, rows, strict=True)]
    return write_report(path, benchmark, scores, rows, frames=frames, embed=embed, speeds=speeds)


def worst_first(scores: Sequence[OPEScores]) -> Table:
    """Return the table of sequences, the lowest mean success of all trackers first; of several, the mean is told."""
    table = sequence_table(scores)

    def mean(row: Sequence[Cell]) -> float:
        found = [cell for cell in row[2::2] if isinstance(cell, float)]
        return sum(found) / len(found)

    columns, rows = table.columns, sorted(table.rows, key=mean)
    if len(scores) > 1:
        columns = (*columns[:2], "Mean success", *columns[2:])
        rows = [(*row[:2], mean(row), *row[2:]) for row in rows]
    return Table("Scores by sequence, worst first", columns, tuple(rows), table.best_in)


def _page(benchmark: Benchmark, scores: Sequence[OPEScores], worst: Table, data: Mapping[str, Any], *,
          speeds: Mapping[str, float] | None) -> str:
    """Return the whole HTML text."""
    rules = scores[0].convention
    warned = warnings(benchmark, scores)
    return Template(_asset("report.html")).substitute(
        title=_escape(f"{benchmark.name}: {', '.join(s.label for s in scores[:3])}"
                      f"{' …' if len(scores) > 3 else ''}"),
        heading=_escape(f"Tracking results on {benchmark.name}"),
        subtitle=_escape(f"{len(scores)} tracker{'s' if len(scores) > 1 else ''}, {len(benchmark.sequences)}/"
                         f"{benchmark.expected} sequences, {benchmark.num_frames} frames, convention {rules.name} "
                         f"({rules.toolkit})"),
        conditions=_list_items(conditions(benchmark, scores)),
        warnings=_list_items(warned or ["none: nothing is missing, invalid or repaired"]),
        warned="warned" if warned else "",
        summary=as_html(summary_table(scores, speeds=speeds), identity="summary-table"),
        differences="\n".join(as_html(table, identity="lead-table") for table in difference_tables(scores)),
        attributes="\n".join(as_html(table, identity=f"attribute-table-{index}")
                             for index, table in enumerate(attribute_tables(scores))) or _NO_ATTRIBUTES,
        videos=as_html(worst, identity="video-table", first_as_button=True, bars=True),
        style=_asset("report.css"), script=_asset("report.js"), plotly=_plotly_script(),
        # "<" would end the script element early wherever a name holds "</script"; in JSON its escape means the same.
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    )  # fmt: skip


def as_html(table: Table, *, identity: str, first_as_button: bool = False, bars: bool = False) -> str:
    """Return a table as an HTML element that our script can sort, its best scores bold.

    `first_as_button` lets the first column open the player; `bars` draws a score as a bar behind its number.
    """
    # A long header may break after an underscore.
    names = [_escape(column).replace("_", "_<wbr>") for column in table.columns]
    head = "".join(f'<th scope="col"><button type="button">{name}</button></th>' for name in names)
    best = best_cells(table)
    rows = []
    for r, row in enumerate(table.rows):
        first = _escape(_text(row[0]))
        if first_as_button:
            first = f'<button type="button" class="open" data-name="{first}">{first}</button>'
        cells = "".join(f"<td{_attributes(cell, best=(r, c) in best, bar=bars)}>{_escape(_text(cell))}</td>"
                        for c, cell in enumerate(row[1:], start=1))
        rows.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return (f'<table class="sortable" id="{identity}"><caption>{_escape(table.title)}</caption><thead><tr>{head}</tr>'
            f"</thead><tbody>\n{chr(10).join(rows)}\n</tbody></table>")


def _text(cell: Cell) -> str:
    if cell is None:
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def _attributes(cell: Cell, *, best: bool, bar: bool) -> str:
    """Return a cell's attributes: what it is sorted by, with more digits than it shows, and how it looks."""
    if not isinstance(cell, float | int):
        return ""
    look = ' class="best"' if best else ""
    if bar and isinstance(cell, float):
        look = f' class="bar" style="--v:{cell:.3f}"'
    return f'{look} data-value="{cell!r}"'


def _list_items(texts: Sequence[str]) -> str:
    return "\n".join(f"<li>{_escape(text)}</li>" for text in texts)


def _escape(text: str) -> str:
    return html.escape(one_line(text), quote=True)


def _asset(name: str) -> str:
    return (resources.files("lib.eval_toolkit") / "assets" / name).read_text(encoding="utf-8")


def _plotly_script() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError("the HTML report needs plotly; pip install plotly") from error
    return str(get_plotlyjs())
