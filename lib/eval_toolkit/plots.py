"""Curves and scores by attribute as PNG and PDF, by matplotlib alone (no LaTeX, no display)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.eval_toolkit.ope import THRESHOLDS, Floats
from lib.eval_toolkit.presence import joined, reliability
from lib.eval_toolkit.protocols import ScoreSummary, ranked
from lib.eval_toolkit.report import attribute_title, attributes_of
from lib.files import atomic_write

_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colours, which the colour-blind can tell apart."""
_DASHES = ("-", (0, (6, 2)), (0, (4, 1.5, 1, 1.5)), (0, (1.5, 1.2)), (0, (8, 1.5, 1, 1.5, 1, 1.5)))
"""Every line has its own, as colours are lost in print; their number and the colours' have no common divisor."""
_HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\")
_LOOKS = {
    "success": ("success", "Success plots of OPE", "Overlap threshold", "Success rate"),
    "precision": ("precision", "Precision plots of OPE", "Location error threshold (px)", "Precision"),
    "norm_precision": ("norm_precision", "Normalised precision plots of OPE", "Normalised location error threshold",
                       "Precision"),
    "ao": ("success", "Success plots", "Overlap threshold", "Success rate"),
    "eao": ("eao", "Expected average overlap", "Length (frames)", "Expected average overlap"),
}  # fmt: skip
"""Of each curve: name of the file, title and axes."""


def save_plots(folder: Path, scores: Sequence[ScoreSummary], *, dataset: str) -> list[Path]:
    """Return the files written to `folder`, PNG and PDF: each curve, and what there is by attribute."""
    scores = ranked(scores)
    names = attributes_of(scores)
    figures = {}
    for metric in scores[0].curves:
        file, title, *_ = _LOOKS[metric]
        figures[file] = figure = Figure(figsize=(6.4, 5.2), layout="constrained")
        _draw_curves(figure.add_subplot(), metric, scores, f"{title} on {dataset}")
        if names and metric in scores[0].scoring.in_attribute_tables:
            figures[f"{file}_by_attribute"] = _attribute_curves(metric, scores, names)
    if "success" in scores[0].scoring.in_attribute_tables and names:
        figures["attributes"] = _attribute_bars(scores, names, dataset)
    if any(s.presence for s in scores):
        figures["presence"] = _reliability_curves(scores, dataset)
    stamps = "; ".join(f"{s.name}: settings tuned on {s.tuned_on}" for s in scores if s.tuned_on)
    return [_save(folder / f"{name}.{suffix}", figure, stamps)
            for name, figure in figures.items() for suffix in ("png", "pdf")]


def _draw_curves(axes: Axes, metric: str, scores: Sequence[ScoreSummary], title: str, attribute: str = "") -> None:
    """Draw one mean curve per tracker, the best first in the legend, with its score; of one attribute if named."""
    parts = [s.by_attribute.get(attribute) if attribute else s for s in scores]
    lines = [(part.values[metric], part.curves[metric], place)
             for place, part in enumerate(parts) if part is not None and np.isfinite(part.values[metric])]
    for value, curve, place in sorted(lines, key=lambda line: -line[0]):
        axes.plot(_x(metric, curve), curve, linewidth=2, color=_PALETTE[place % len(_PALETTE)],
                  linestyle=_DASHES[place % len(_DASHES)], label=f"[{value:.3f}] {_plain(scores[place].name)}")
    x = _x(metric, max((s.curves[metric] for s in scores), key=len))
    if metric == "eao":
        low, high = scores[0].facts["interval"]
        axes.axvspan(low, high, color="0.9", label=f"interval {low} to {high}")
    _, _, x_label, y_label = _LOOKS[metric]
    axes.set(title=_plain(title), xlabel=x_label, ylabel=y_label, ylim=(0, 1), xlim=(float(x[0]), float(x[-1])))
    axes.grid(visible=True, linestyle=":", linewidth=0.6)
    axes.set_axisbelow(True)
    # A label starts with the score, never with a tracker's underscore, which matplotlib would take for "not shown".
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, fontsize="small", handlelength=3.5)


def _x(metric: str, curve: Floats) -> Floats:
    return THRESHOLDS[metric] if metric in THRESHOLDS else np.arange(1, len(curve) + 1, dtype=np.float64)


def _attribute_curves(metric: str, scores: Sequence[ScoreSummary], names: Sequence[str]) -> Figure:
    """Return a figure of small plots, one per attribute."""
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5 * columns, 4.2 * rows), layout="constrained")
    for place, name in enumerate(names):
        count = max((s.by_attribute[name].sequences or 0 for s in scores if name in s.by_attribute), default=0)
        title = f"{attribute_title(name) if metric == 'eao' else name}{f' ({count})' if count else ''}"
        _draw_curves(figure.add_subplot(rows, columns, place + 1), metric, scores, title, name)
    return figure


def _attribute_bars(scores: Sequence[ScoreSummary], names: Sequence[str], dataset: str) -> Figure:
    """Return a figure of success by attribute, one group of bars per attribute."""
    figure = Figure(figsize=(max(6.4, 1.3 * len(names)), 4.8), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(scores)
    for place, s in enumerate(scores):
        heights = [s.by_attribute[name].values["success"] if name in s.by_attribute else 0.0 for name in names]
        axes.bar(np.arange(len(names)) - 0.4 + width * (place + 0.5), heights, width, edgecolor="white", linewidth=0,
                 color=_PALETTE[place % len(_PALETTE)], hatch=_HATCHES[place % len(_HATCHES)],
                 label=f"[{s.values['success']:.3f}] {_plain(s.name)}")
    axes.set_xticks(np.arange(len(names)), [_plain(name) for name in names], rotation=30, ha="right")
    axes.set(title=_plain(f"Success by attribute on {dataset}"), ylabel="Success", ylim=(0, 1))
    axes.grid(visible=True, axis="y", linestyle=":", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(*axes.get_legend_handles_labels(), fontsize="small", loc="outside right upper")
    return figure


def _reliability_curves(scores: Sequence[ScoreSummary], dataset: str) -> Figure:
    """Return a figure of the reliability curve of each tracker that has presence; on the diagonal it is true."""
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    for place, s in enumerate(scores):
        if s.presence:
            mean, held, _ = reliability(joined(list(s.presence.values())))
            axes.plot(mean, held, marker="o", color=_PALETTE[place % len(_PALETTE)], label=_plain(s.name),
                      linestyle=_DASHES[place % len(_DASHES)])
    axes.set(title=_plain(f"Reliability of presence on {dataset}"), xlabel="Presence", ylabel="Share of held frames",
             xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize="small", handlelength=3.5)
    return figure


def _plain(text: str) -> str:
    """Return text that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")


def _save(path: Path, figure: Figure, stamps: str) -> Path:
    """Return `path` after writing the figure to it, PNG or PDF by its suffix."""
    if stamps:
        figure.supxlabel(_plain(stamps), fontsize="x-small", wrap=True)
    # Without a date, the same scores give the same file.
    metadata: dict[str, Any] = {"CreationDate": None} if path.suffix == ".pdf" else {}
    # TrueType fonts: publishers' checks refuse matplotlib's default, Type 3.
    with atomic_write(path, mode="wb") as file, mpl.rc_context({"pdf.fonttype": 42}):
        figure.savefig(file, format=path.suffix[1:], dpi=150, metadata=metadata)
    return path
