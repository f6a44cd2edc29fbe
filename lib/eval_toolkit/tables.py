"""Tables and their four text forms: plain text, Markdown, LaTeX and CSV. Every name in them is escaped."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lib.errors import one_line

Cell = str | int | float | None  # a float is a score in 0..1, shown with three digits; None and NaN are a dash


@dataclass(frozen=True)
class Table:
    """A titled table. `best_in` says where the highest score stands out: in its "column", in its "row", or nowhere."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    best_in: str = ""


def as_text(tables: Sequence[Table], remarks: Sequence[str]) -> str:
    """Return tables for a terminal, columns aligned, remarks below."""
    return "\n\n".join([*map(_text_table, tables), "\n".join(one_line(remark) for remark in remarks)]) + "\n"


def _text_table(table: Table) -> str:
    body = [[one_line(shown(cell)) for cell in row] for row in table.rows]
    head = [one_line(column) for column in table.columns]
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
    numeric = [all(not isinstance(row[i], str) or _is_count(row[i]) for row in table.rows) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        placed = [cell.rjust(width) if right else cell.ljust(width)
                  for cell, width, right in zip(cells, widths, numeric, strict=True)]
        return "  ".join(placed).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([one_line(table.title), line(head), rule, *map(line, body)])


def _is_count(cell: Cell) -> bool:
    return isinstance(cell, str) and cell.replace("/", "").replace(".", "", 1).isdigit()


def as_markdown(tables: Sequence[Table], remarks: Sequence[str]) -> str:
    """Return tables in GitHub's Markdown under their titles, the best scores bold, remarks as a list."""
    parts = [f"### {_markdown_escape(table.title)}\n\n{markdown_table(table)}" for table in tables]
    parts.append("\n".join(f"- {_markdown_escape(remark)}" for remark in remarks))
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """Return one table in GitHub's Markdown without its title: the first column and words left, all else right."""
    rows = _marked(table, escape=_markdown_escape, mark=lambda cell: f"**{cell}**")
    right = [index > 0 and not any(_is_words(row[index]) for row in table.rows) for index in range(len(table.columns))]
    lines = [[_markdown_escape(column) for column in table.columns], ["---:" if r else "---" for r in right], *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _is_words(cell: Cell) -> bool:
    return isinstance(cell, str) and bool(cell) and cell[0] not in "+-0123456789"


def as_latex(tables: Sequence[Table], remarks: Sequence[str]) -> str:
    """Return tables as `tabular` environments that need no package, the best scores bold, remarks as comments."""
    parts = []
    for table in tables:
        rows = _marked(table, escape=_latex_escape, mark=lambda cell: rf"\textbf{{{cell}}}")
        head = " & ".join(_latex_escape(column) for column in table.columns)
        body = "\n".join(f"{' & '.join(row)} \\\\" for row in rows)
        parts.append(f"% {one_line(table.title)}\n\\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}\n\\hline\n"
                     f"{head} \\\\\n\\hline\n{body}\n\\hline\n\\end{{tabular}}")
    parts.append("\n".join(f"% {one_line(remark)}" for remark in remarks))
    return "\n\n".join(parts) + "\n"


def as_csv(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return one CSV table; scores keep six digits, None and NaN are empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if _unknown(cell) else f"{cell:.6f}" if isinstance(cell, float) else _csv_safe(cell)
                         for cell in row])
    return out.getvalue()


def _csv_safe(cell: Cell) -> Cell:
    """Return a cell that a spreadsheet does not take for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") else cell


def _marked(table: Table, *, escape: Callable[[str], str], mark: Callable[[str], str]) -> list[list[str]]:
    """Return the escaped cells with the highest score of each column or row marked."""
    best = best_cells(table)
    return [[mark(escape(shown(cell))) if (r, c) in best else escape(shown(cell)) for c, cell in enumerate(row)]
            for r, row in enumerate(table.rows)]


def best_cells(table: Table) -> set[tuple[int, int]]:
    """Return the positions of the highest scores, none where there is nothing to compare with."""
    scores = {(r, c): cell for r, row in enumerate(table.rows) for c, cell in enumerate(row)
              if isinstance(cell, float) and not _unknown(cell)}
    axis = {"column": 1, "row": 0}.get(table.best_in)
    if axis is None:
        return set()
    best: set[tuple[int, int]] = set()
    for line in {place[axis] for place in scores}:
        rivals = {place: round(score, 3) for place, score in scores.items() if place[axis] == line}
        if len(rivals) > 1:
            best |= {place for place, score in rivals.items() if score == max(rivals.values())}
    return best


def _unknown(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def shown(cell: Cell) -> str:
    """Return a cell's text."""
    if _unknown(cell):
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def _markdown_escape(text: str) -> str:
    escaped = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    # An underscore inside a word means nothing in Markdown, and most names have some.
    return re.sub(r"[\\|*`\[\]#]|(?<![^\W_])_|_(?![^\W_])", lambda match: f"\\{match[0]}", escaped)


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
          **{c: f"\\{c}" for c in "&%$#_{}"}}  # fmt: skip


def _latex_escape(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in one_line(text))
