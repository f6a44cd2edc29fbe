"""What a model costs and reaches on this machine: parameters, FLOPs, time per frame, memory and scores.

`compare`, `export` and `tune` measure with what stands here, so that their tables can be laid side by side. `margin`
tells how well a checkpoint discriminates, without tracking.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from lib.benchmarks import Benchmark, Sequence as Video, load_benchmark
from lib.crops import TEMPLATE_SIZE, Image, grid_points
from lib.distributed import available_cpus
from lib.errors import UserError, did_you_mean
from lib.eval_toolkit.protocols import score_results
from lib.eval_toolkit.tables import Table, as_text
from lib.files import check_output, write_whole
from lib.images import read_image
from lib.models.ocean import Ocean_
from lib.options import MarginOptions
from lib.testing.batched import Job
from lib.testing.results import ResultFolder, RunRecord
from lib.testing.run import Candidate, open_with_params, run_jobs
from lib.tracker.ocean import OceanTracker, TrackerState, search_crop
from lib.tracker.scoring import Floats

ROUNDS = 5  # models take turns, so that a busy moment of the machine does not fall on one of them
WARM_UP_FRAMES = 3
BUSY_LOAD = 0.5  # from here on other processes slow a measurement noticeably
Values = dict[str, float]  # scores by name, the one that decides first
_ROOT = Path(__file__).resolve().parents[2]


class Cost(NamedTuple):
    """What a model costs on any machine. A multiplication with its addition counts as two FLOPs."""

    parameters: int
    template_flops: int  # of a template crop, once per sequence
    search_flops: int  # of a search crop, each frame


class Speed(NamedTuple):
    """Milliseconds per frame: the median is the figure, the 10th and 90th percentile are its spread."""

    low: float
    median: float
    high: float


def count_cost(model: Ocean_, *, search_size: int) -> Cost:
    """Return a model's cost in eval mode at `search_size` px: convolutions and products; the rest is below 1%."""
    device = next(model.parameters()).device
    z, x = (torch.zeros(1, 3, side, side, device=device) for side in (TEMPLATE_SIZE, search_size))
    # The counter does not know the CPU's fused attention; its plain form makes the same products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as of_template:
            template = model.template(z)
        with FlopCounterMode(display=False) as of_search:
            model.track(x, template)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, of_template.get_total_flops(), of_search.get_total_flops())


def calibrate_bn(model: Ocean_) -> Ocean_:
    """Return `model`, its BatchNorm statistics set from one batch of noise, in eval mode.

    Untrained weights overflow with those they start from; a model that is only timed must give finite numbers.
    """
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    momenta = [part.momentum for part in norms]
    generator, device = torch.Generator().manual_seed(0), next(model.parameters()).device
    z, x = (torch.rand(2, 3, side, side, generator=generator).to(device) * 255 for side in (TEMPLATE_SIZE, 255))
    for part in norms:
        part.momentum = None  # the statistics become those of this one batch
    with torch.no_grad():
        model.train()(z, x)
    for part, momentum in zip(norms, momenta, strict=True):
        part.momentum = momentum
    model.eval()
    return model


class FrameTimer:
    """One frame, followed again and again: each `seconds` does the work of a frame, whatever the weights."""

    def __init__(self, tracker: OceanTracker, *, width: int = 640, height: int = 480) -> None:
        self.tracker = tracker
        self.image: Image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        box_xywh = np.array([width * 0.4, height * 0.4, width * 0.15, height * 0.2])
        self.state = tracker.init(self.image, box_xywh)

    def peak_bytes(self, before: int | None) -> int | None:
        """Return the most memory that model and frame take: on a GPU, or of the process beyond `watch_memory`'s before.

        None where the system does not tell. Weights that give no finite numbers are fine here.
        """
        for _ in range(WARM_UP_FRAMES):
            self.tracker.predict([self.state], [search_crop(self.state, self.image)])()
        if self.tracker.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.tracker.device)
        most = most_memory()
        return None if before is None or most is None else most - before

    def seconds(self, frames: int) -> list[float]:
        """Return the seconds of each of `frames`: crop, network, scoring. One more goes before, as caches are cold."""
        taken = []
        for _ in range(frames + 1):
            start = time.perf_counter()
            self.tracker.track(self.state, self.image)  # ends with numbers on the host, so a GPU is waited for
            taken.append(time.perf_counter() - start)
        return taken[1:]


def time_in_turns(timers: Sequence[Callable[[int], list[float]]], frames: int,
                  tick: Callable[[], object] = int) -> list[Speed]:
    """Return the speed of each timer (such as `FrameTimer.seconds`) over about `frames`; `tick` follows each turn."""
    seconds: list[list[float]] = [[] for _ in timers]
    for _ in range(ROUNDS):
        for timer, taken in zip(timers, seconds, strict=True):
            taken += timer(max(1, round(frames / ROUNDS)))
            tick()
    return [Speed(*np.percentile(np.asarray(taken) * 1000, [10, 50, 90]).tolist()) for taken in seconds]


def watch_memory() -> int | None:
    """Return the memory this process holds, and forget what it held before; None elsewhere than on Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _memory("VmRSS")


def most_memory() -> int | None:
    """Return the most memory this process has held since `watch_memory`, None elsewhere than on Linux."""
    return _memory("VmHWM")  # not getrusage's: a new process begins with that of the one that started it


def _memory(name: str) -> int | None:
    text = _told_by_linux("self/status", name)
    return int(text.split()[0]) * 1024 if text else None


def _told_by_linux(file: str, name: str) -> str:
    """Return what the first line `name: ...` of a file below /proc says, "" elsewhere than on Linux."""
    path = Path("/proc", file)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def machine(device: torch.device, *, busy: float = 0.0) -> str:
    """Return in one line what was measured on: processor or GPU, cores and threads, and torch's version.

    `busy` is `load()` before the measurement: what other processes had asked of the processor is said too.
    """
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else (
        _told_by_linux("cpuinfo", "model name") or platform.processor() or platform.machine())
    shared = f", shared with other work (load {busy:.1f} before the start)" if busy > BUSY_LOAD else ""
    cores, threads = len(available_cpus()), torch.get_num_threads()
    return f"{chip}, {cores} cores, {threads} threads, torch {torch.__version__}{shared}"


def load() -> float:
    """Return how many processes wanted the processor in the last minute, 0 where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def commit() -> str:
    """Return the short name of the commit that runs, "+" behind it when files differ from it; "unknown" without git."""
    if not (_ROOT / ".git").exists():
        return "unknown"  # installed: a git above it is another project's
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        return done.stdout.strip() or "unknown"
    return "unknown"


def load_videos(dataset: str, dataset_dir: Path, *, only: Sequence[str] = ()) -> Benchmark:
    """Return a test set with its images, of which `only` the named sequences; UserError when one is not there."""
    benchmark = load_benchmark(dataset, dataset_dir, images=True)
    for name in only:
        if name not in benchmark.names:
            raise UserError(f"{benchmark.source}: no sequence {name!r}{did_you_mean(name, benchmark.names)}")
    kept = tuple(video for video in benchmark.sequences if not only or video.name in only)
    return replace(benchmark, sequences=kept)


def follow_and_score(trackers: Sequence[OceanTracker], record: RunRecord, benchmark: Benchmark,
                     chunks: Iterable[Sequence[Video]], batch: int = 1, *,
                     on_frames: Callable[[int], object] = int) -> Iterator[tuple[int, list[Values]]]:
    """Return, after each chunk of videos, the number of videos done and each tracker's scores on them.

    They share the decoded images, and are scored as result files are; `on_frames` gets the number of frames just done.
    """
    everyone = tuple(range(len(trackers)))
    done: list[Video] = []

    def watch(_job: Job, _index: int, _image: Image, states: dict[int, TrackerState]) -> None:
        on_frames(len(states))

    with tempfile.TemporaryDirectory() as scratch:
        candidates = [Candidate(tracker, ResultFolder(Path(scratch) / f"candidate{row}", record))
                      for row, tracker in enumerate(trackers)]
        for chunk in chunks:
            for _ in run_jobs(candidates, [Job(video, everyone) for video in chunk], batch=batch, watcher=watch):
                pass
            done += chunk
            part = replace(benchmark, sequences=tuple(done), expected=len(done), missing=())
            yield len(done), [score_results(part, candidate.folder.path).headline for candidate in candidates]


# ---- how far the target stands out

_BATCH = 8  # crops that share a network call
_COLUMNS = 8  # of the picture of the worst frames


class Look(NamedTuple):
    """A frame: the highest score (0..1) in the true box and outside it, and the crop with the box and that cell."""

    on: float
    off: float
    picture: Image


def margin(options: MarginOptions) -> int:
    """Print the share of frames with the peak on target, and the margin, of a checkpoint's videos; return 0.

    In every annotated frame the search crop is centred on the true box, with the template of the first frame. The peak
    is on target when the highest cell of the score map lies in the true box; the margin is the highest score in the
    box minus the highest outside. Window, penalty and drift play no part, so these tell whether the features
    discriminate. --out gets each video's frame of the smallest margin. Raises UserError.
    """
    if options.online:
        raise UserError("--online True: the margin is that of a frame by itself; leave it out")
    if options.out is not None:
        check_output(options.out, flag="--out", folder=False)
    benchmark = load_videos(options.dataset, options.dataset_dir, only=options.videos)
    tracker, _, _ = open_with_params(options, options.resume, benchmark.name)
    rows: list[tuple[str, ...]] = []
    scores: list[Floats] = []
    worst: list[tuple[float, str, Image]] = []
    for video in tqdm(benchmark.sequences, unit="video", leave=False, disable=None):
        looks = list(look_at(tracker, video, every=options.every))
        if not looks:
            continue
        scores.append(np.array([look[:2] for look in looks]))
        rows.append((video.name, *_summary(scores[-1])))
        least = min(looks, key=lambda look: look.on - look.off)
        worst.append((least.on - least.off, video.name, least.picture))
    if not rows:
        raise UserError(f"{benchmark.source}: no annotated frame after a first one; there is nothing to look at")
    rows.append(("all frames", *_summary(np.concatenate(scores))))
    columns = ("Video", "Frames", "Peak on target", "Margin", "Best on", "Best off")
    print(as_text([Table(f"{options.resume} on {benchmark.name}", columns, tuple(rows))], []), end="")
    if options.out is not None:
        pictures = [picture for _, _, picture in sorted(worst, key=lambda item: item[0])]
        write_whole(options.out, bytes(cv2.imencode(".png", contact_sheet(pictures))[1]))
    return 0


def look_at(tracker: OceanTracker, video: Video, *, every: int = 1) -> Iterator[Look]:
    """Return what the tracker sees in every `every`-th annotated frame after the first of a video."""
    first = tracker.init(read_image(video.frames[0]), video.boxes_xywh[0])
    seen = [index for index in range(1, len(video), every)
            if np.isfinite(video.boxes_xywh[index]).all() and (video.boxes_xywh[index, 2:] > 0).all()]
    for start in range(0, len(seen), _BATCH):
        boxes = video.boxes_xywh[seen[start:start + _BATCH]]
        states = [replace(first, centre_xy=box[:2] + box[2:] / 2, size_wh=box[2:]) for box in boxes]
        crops = [search_crop(state, read_image(video.frames[index]))
                 for state, index in zip(states, seen[start:start + _BATCH], strict=True)]
        maps = tracker.predict(states, crops)().score
        for box, crop, score in zip(boxes, crops, maps, strict=True):
            yield _judge(score, crop.pixels, box[2:] * crop.scale)


def _judge(score: NDArray[np.float32], pixels: Image, target_wh: Floats) -> Look:
    """Return what a score map (S, S) says of a target of (w, h) crop px in the middle of a search crop."""
    size = pixels.shape[0]
    points = grid_points(size)
    # A target between two cells has the nearest one: half a stride from the middle at most.
    inside = [np.abs(points - size // 2) <= max(side / 2, 4.0) for side in target_wh]
    on = np.outer(inside[1], inside[0])
    y, x = np.unravel_index(score.argmax(), score.shape)
    picture = pixels.copy()
    corner, far = ((size // 2 + sign * target_wh / 2).round().astype(int).tolist() for sign in (-1, 1))
    cv2.rectangle(picture, corner, far, (0, 255, 0), 1)
    cv2.circle(picture, (int(points[x]), int(points[y])), 4, (0, 0, 255), -1)
    return Look(float(score[on].max()), float(score[~on].max(initial=0.0)), picture)


def _summary(scores: Floats) -> tuple[str, ...]:
    """Return number of frames, share with the peak on target, and the means of margin, best on and best off."""
    on, off = scores.T
    return str(len(on)), *(f"{value:.3f}" for value in ((on > off).mean(), (on - off).mean(), on.mean(), off.mean()))


def contact_sheet(pictures: list[Image]) -> Image:
    """Return pictures in rows of eight, each brought to 192 px."""
    small = [cv2.resize(picture, (192, 192)) for picture in pictures]
    small += [np.zeros_like(small[0])] * (-len(small) % min(_COLUMNS, len(small)))
    wide = min(_COLUMNS, len(small))
    return np.vstack([np.hstack(small[start:start + wide]) for start in range(0, len(small), wide)])
