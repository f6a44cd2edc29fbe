"""Success, precision and attribute plots as PNG and PDF, by matplotlib alone (no LaTeX, no display)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.eval_toolkit.ope import DISTANCE_THRESHOLDS, NORM_DISTANCE_THRESHOLDS, OVERLAP_THRESHOLDS, Floats, mean_curve
from lib.eval_toolkit.report import attributes_of, rank
from lib.eval_toolkit.results import OPEScores
from lib.files import atomic_write

_STYLES = ("-", "--", "-.", ":")
_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colours, which the colour-blind can tell apart."""


def save_plots(folder: Path, scores: Sequence[OPEScores], *, dataset: str) -> list[Path]:
    """Return the files written to `folder`: success, precision, normalised precision and attributes, PNG and PDF."""
    ranked = rank(scores)
    figures = {
        "success": _curve_figure(
            ranked, f"Success plots of OPE on {dataset}", "Overlap threshold", "Success rate", OVERLAP_THRESHOLDS,
            [(mean_curve(s.curves.success, s.convention), s.success) for s in ranked]),
        "precision": _curve_figure(
            ranked, f"Precision plots of OPE on {dataset}", "Location error threshold (px)", "Precision",
            DISTANCE_THRESHOLDS, [(mean_curve(s.curves.precision, s.convention), s.precision) for s in ranked]),
        "norm_precision": _curve_figure(
            ranked, f"Normalised precision plots of OPE on {dataset}", "Normalised location error threshold",
            "Precision", NORM_DISTANCE_THRESHOLDS,
            [(mean_curve(s.curves.norm_precision, s.convention), s.norm_precision) for s in ranked]),
    }  # fmt: skip
    if attributes_of(ranked):
        figures["attributes"] = _attribute_figure(ranked, dataset)
    return [save_figure(folder / f"{name}.{suffix}", figure)
            for name, figure in figures.items() for suffix in ("png", "pdf")]


def _curve_figure(
    scores: Sequence[OPEScores], title: str, x_label: str, y_label: str, thresholds: Floats,
    lines: Sequence[tuple[Floats, float]],
) -> Figure:
    """Return a figure with one mean curve per tracker, the best first in the legend, with its score."""
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.add_subplot()
    order = sorted(range(len(scores)), key=lambda i: -lines[i][1])
    for place, index in enumerate(order):
        curve, score = lines[index]
        axes.plot(thresholds, curve, linewidth=2, **style(place),
                  label=f"[{score:.3f}] {plain(scores[index].label)}")
    axes.set(title=plain(title), xlabel=x_label, ylabel=y_label, ylim=(0, 1),
             xlim=(float(thresholds[0]), float(thresholds[-1])))
    finish(axes)
    return figure


def _attribute_figure(scores: Sequence[OPEScores], dataset: str) -> Figure:
    """Return a figure of success by attribute, one group of bars per attribute."""
    names = attributes_of(scores)
    figure = Figure(figsize=(max(6.4, 1.3 * len(names)), 4.8), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(scores)
    for place, s in enumerate(scores):
        parts = [s.with_attribute(name) for name in names]
        axes.bar(np.arange(len(names)) - 0.4 + width * (place + 0.5), [part.success if part else 0.0 for part in parts],
                 width, color=_PALETTE[place % len(_PALETTE)], label=f"[{s.success:.3f}] {plain(s.label)}")
    axes.set_xticks(np.arange(len(names)), [plain(name) for name in names], rotation=30, ha="right")
    axes.set(title=plain(f"Success by attribute on {dataset}"), ylabel="Success", ylim=(0, 1))
    finish(axes)
    return figure


def style(place: int) -> dict[str, Any]:
    """Return the colour and the dashes of the n-th line, as keywords of `Axes.plot`."""
    return {"color": _PALETTE[place % len(_PALETTE)], "linestyle": _STYLES[place // len(_PALETTE) % len(_STYLES)]}


def finish(axes: Axes) -> None:
    """Add grid and legend to axes whose lines are drawn."""
    axes.grid(visible=True, linestyle=":", linewidth=0.6)
    axes.set_axisbelow(True)
    # A label starts with the score, never with a tracker's underscore, which matplotlib would take for "not shown".
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, fontsize="small")


def plain(text: str) -> str:
    """Return text that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")


def save_figure(path: Path, figure: Figure) -> Path:
    """Return `path` after writing the figure to it, PNG or PDF by its suffix."""
    with atomic_write(path, mode="wb") as file:
        # Without a date, the same scores give the same file.
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else {}
        figure.savefig(file, format=path.suffix[1:], dpi=150, metadata=metadata)
    return path
