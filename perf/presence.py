"""Fit the presence score of `lib.tracker.presence`, and say how well it tells lost from held on videos left out.

    python perf/presence.py --resume OceanSmall OceanLite --data held_out=data/held_out absent_fit=data/absent_fit \
        drifting=data/drifting absent_long=data/absent_long --traces data/presence

Each checkpoint follows each video; what it saw of each frame is kept in `--traces`, so that a second call fits at once.
A logistic model with a small L2 penalty is fitted on all frames but the first of each video, and but those after RUN
lost ones in a row; for the table the videos of one name are left out once, for all checkpoints and data together. With
checkpoints that have a presence branch, the model with it is fitted, too. Prints the table and the lines for
lib/tracker/presence.py. `--judge`
fits nothing and judges the coefficients that are in force on these videos.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.benchmarks import load_benchmark
from lib.boxes import iou_xywh
from lib.checkpoint import find_weights
from lib.errors import UserError, run
from lib.eval_toolkit.presence import LOST_BELOW, Frames, judge
from lib.files import atomic_write, read_json
from lib.testing.batched import Job, Lockstep
from lib.testing.run import params_for
from lib.tracker.ocean import OceanTracker
from lib.tracker.presence import Trace, seen

L2 = 0.01  # of weights of standardised evidence
RUN = 60  # a box that sits on something else for good says no more
STEPS = 50  # of Newton's method; it needs some ten
SEEN = ("score", "similarity", "colour", "suspicion", "likeness", "overlap", "absent")
Video = dict[str, Any]  # a list of each, NaN as None


def follow(name: str, dataset: str, folder: Path) -> dict[str, Video]:
    """Return by video what a checkpoint saw of each frame after the first."""
    benchmark = load_benchmark(dataset, folder, images=True)
    params, _ = params_for(None, dataset, arch="Ocean", checkpoint=find_weights(Path(name)))
    videos: dict[str, Video] = {s.name: {key: [] for key in SEEN} for s in benchmark.sequences}

    def note(job: Job, index: int, _image: Any, states: dict[int, Any]) -> None:
        if not index:
            return
        state, truth, video = states[0], job.sequence, videos[job.sequence.name]
        box = truth.boxes_xywh[index]
        known = np.isfinite(box).all() and (box[2:] > 0).all()
        video["score"].append(state.score)
        for key in SEEN[1:5]:
            value = getattr(state.trace, key)
            video[key].append(value if np.isfinite(value) else None)
        video["overlap"].append(float(iou_xywh(state.box_xywh[None], box[None])[0]) if known else None)
        video["absent"].append(truth.absent is not None and bool(truth.absent[index]))

    tracker = OceanTracker.from_weights(name, params=params)
    for _ in Lockstep([tracker], watcher=note).follow(map(Job, benchmark.sequences)):
        pass
    return videos


def traces_of(video: Video) -> list[Trace]:
    """Return the traces that a video leaves behind."""
    traces: list[Trace] = []
    for row in zip(*(video[key] for key in SEEN[:5]), strict=True):
        score, similarity, colour, suspicion, likeness = (np.nan if value is None else value for value in row)
        traces.append(seen(score, similarity, colour, suspicion, traces[-1] if traces else None, likeness=likeness))
    return traces


def early(lost: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which of a video's frames (N,) are held, or lost but not for more than RUN frames in a row."""
    since = np.arange(len(lost)) - np.maximum.accumulate(np.where(lost, -1, np.arange(len(lost))))
    return since <= RUN


def fit(evidence: NDArray[np.float64], held: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return bias and weights (1 + F,) of the logistic model of evidence (N, F), by Newton's method."""
    mean, spread = evidence.mean(axis=0), evidence.std(axis=0) + 1e-9
    rows = np.hstack([np.ones((len(evidence), 1)), (evidence - mean) / spread])
    penalty = 2 * L2 * np.diag([0.0] + [1.0] * evidence.shape[1])
    weights = np.zeros(rows.shape[1])
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-rows @ weights))
        slope = rows.T @ (chance - held) / len(rows) + penalty @ weights
        curvature = (rows * (chance * (1 - chance))[:, None]).T @ rows / len(rows) + penalty
        weights -= np.linalg.solve(curvature, slope)
    scaled = weights[1:] / spread
    return np.concatenate([[weights[0] - scaled @ mean], scaled])


def main() -> None:
    """Follow, fit and print as the command line says."""
    parser = argparse.ArgumentParser(description="Fit the presence score.")
    parser.add_argument("--resume", nargs="+", required=True, help="checkpoints, or names of shipped weights")
    parser.add_argument("--data", nargs="+", required=True, metavar="DATASET=FOLDER")
    parser.add_argument("--traces", type=Path, required=True, help="folder for what was seen of each frame")
    parser.add_argument("--judge", action="store_true", help="do not fit: judge the coefficients in force")
    args = parser.parse_args()
    rows, frames, owner, group, counts = [], [], [], [], []
    for name in args.resume:
        for dataset, folder in (word.split("=", 1) for word in args.data):
            path = args.traces / f"{Path(name).stem}_{dataset}.json"
            if not path.is_file():
                with atomic_write(path) as file:
                    json.dump(follow(name, dataset, Path(folder)), file)
            for title, video in dict(read_json(path)).items():
                overlap = np.array(video["overlap"], np.float64)
                absent = np.array(video["absent"], bool)
                fitted = early(absent | (overlap < LOST_BELOW))
                for k in np.flatnonzero(absent | np.isfinite(overlap)):
                    frames.append((0.0 if absent[k] else overlap[k], absent[k]))
                    counts.append(fitted[k])
                    owner.append(title)
                    group.append(f"{Path(name).stem} {dataset}")
                kept = traces_of(video)
                rows += [kept[k] for k in np.flatnonzero(absent | np.isfinite(overlap))]
    overlap, absent = (np.array(column) for column in zip(*frames, strict=True))
    owners, groups, used = np.array(owner), np.array(group), np.array(counts)
    lost = Frames(overlap, overlap, absent.astype(bool)).lost
    if not lost.any() or lost.all():
        raise UserError("--data: no frame is lost, or every one is; expected videos with both")
    unknown: dict[str, Any] = {"likeness": np.nan, "likenesses": np.nan}
    models = {"WITH_BRANCH": rows} if np.isfinite([row.likeness for row in rows]).all() else {}
    models["COEFFICIENTS"] = [row._replace(**unknown) for row in rows]
    unknown |= {"similarity": np.nan, "similarities": np.nan}
    models["WITHOUT_SIMILARITY"] = [row._replace(**unknown) for row in rows]
    for title, told in models.items():
        values, presence = np.array([row.evidence for row in told]), np.array([row.presence for row in told])
        if not args.judge:
            for video in dict.fromkeys(owner):
                own = owners == video
                weights = fit(values[~own & used], ~lost[~own & used])
                presence[own] = 1 / (1 + np.exp(-weights[0] - values[own] @ weights[1:]))
            print(f"{title} = ({', '.join(f'{value:.4f}' for value in fit(values[used], ~lost[used]))})")
        print("checkpoint and data | AUROC | precision | recall | calibration error | lost | frames")
        for name in [*dict.fromkeys(group), "all"]:
            own = (groups == name) | (name == "all")
            scores = judge(Frames(presence[own], overlap[own], absent[own].astype(bool)))
            print(f"{name} | {' | '.join(f'{value:.3f}' for value in scores.values())} | {lost[own].sum()} | "
                  f"{own.sum()}")


if __name__ == "__main__":
    run(main)
