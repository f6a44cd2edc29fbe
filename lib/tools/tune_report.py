"""What a tuning study has found: the table, the settings as YAML, and Optuna's plots on one page."""

from __future__ import annotations

import html
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lib.files import atomic_write
from lib.tracker.params import TrackerParams

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """Settings and the scores that were reached with them."""

    name: str
    params: TrackerParams
    values: Mapping[str, float]  # scores by name, the one that is tuned for first


def table(lines: Sequence[Line], *, dataset: str, notes: Sequence[str]) -> str:
    """Return the Markdown table of the settings; the first line is the untuned one that others are compared with."""
    first, *others = lines[0].values
    head = ["settings", "penalty_k", "lr", "window_influence", "small_sz", "big_sz", "ratio", f"{dataset} {first}",
            "difference", *others, "tuned on"]
    rows = [head, ["---", *["--:"] * (len(head) - 2), "---"]]
    for line in lines:
        p = line.params
        gap = "" if line is lines[0] else f"{line.values[first] - lines[0].values[first]:+.3f}"
        scores = [f"{value:.3f}" for value in line.values.values()]
        rows.append([line.name, f"{p.penalty_k:g}", f"{p.lr:g}", f"{p.window_influence:g}", str(p.small_sz),
                     str(p.big_sz), f"{p.ratio:g}", scores[0], gap, *scores[1:], p.tuned_on or "nothing"])
    return "\n".join([*("| " + " | ".join(row) + " |" for row in rows), "", *notes])


def write_params(path: Path, line: Line, *, untuned: Line, comments: Sequence[str]) -> None:
    """Write settings as a file for `--params` or `experiments/test`, with both scores and where they come from."""
    keys = "\n".join(f"  {name}: {value}" for name, value in asdict(line.params).items())
    said = [*comments, _scores(line), f"untuned: {_scores(untuned)}"]
    with atomic_write(path) as file:
        file.write("".join(f"# {text}\n" for text in said) + f"TEST:\n{keys}\n")


def _scores(line: Line) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in line.values.items())


def write_plots(path: Path, study: Any, *, title: str) -> None:
    """Write Optuna's plots of a study as one page that needs no network; without plotly only a line to the log."""
    from optuna import visualization

    if not visualization.is_available():
        _log.warning("plotly is not installed, so there are no plots; pip install -e '.[tune]'")
        return
    parts: list[str] = []
    for name, figure in _figures(study, visualization).items():
        figure.update_layout(title=name)
        parts.append(figure.to_html(full_html=False, include_plotlyjs=not parts))
    if not parts:
        return
    with atomic_write(path) as file:
        file.write(f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"
                   f"</head><body><h1>{html.escape(title)}</h1>{''.join(parts)}</body></html>\n")


def _figures(study: Any, visualization: Any) -> Mapping[str, Any]:
    """Return the plots that the study has enough trials for."""
    import optuna

    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if not complete:
        return {}
    figures = {"Score by trial": visualization.plot_optimization_history(study),
               "Running score and pruning": visualization.plot_intermediate_values(study),
               "Score by setting": visualization.plot_slice(study)}
    if len(complete) > 1:
        figures["Settings together"] = visualization.plot_parallel_coordinate(study)
        figures["When trials ran"] = visualization.plot_timeline(study)
        # The default evaluator needs scikit-learn; this one does not.
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        figures["Which settings matter"] = visualization.plot_param_importances(study, evaluator=evaluator)
    return figures
