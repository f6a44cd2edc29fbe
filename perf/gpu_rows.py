"""What perf/gpu.py finds out: one function for each kind of row, each returning what was found by name."""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
import torch.distributed as dist
import yaml
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


from lib import commands
from lib.benchmarks import Sequence
from lib.checkpoint import load_model
from lib.config_file import load_config
from lib.datasets.stores import crop_name
from lib.distributed import World, available_cpus, die_with_parent, join, leave
from lib.errors import UserError
from lib.images import read_image
from lib.models.models import build_model
from lib.models.ocean import Ocean_
from lib.testing.batched import Job, Lockstep
from lib.tools.export import export
from lib.tools.export_graph import Check, Pair, write_graphs
from lib.tools.measure import FrameTimer, calibrate_bn
from lib.tracker.ocean import OceanTracker, TrackerState
from lib.tracker.onnx import load_onnx
from lib.tracker.params import TrackerParams
from lib.training.checkpoints import Progress
from lib.training.tasks import Tracking
from lib.training.trainer import Trainer
from perf.sweep import STEADY, lockstep, reference_style, write_sequences

ROOT = Path(__file__).resolve().parents[1]
Found = Mapping[str, Any]
SLIM: dict[str, Any] = {"backbone": "ResNetSmall", "channels": 16, "towernum": 1,
                        "backbone_options": {"width": 4, "layers": [1, 1, 2], "expansion": 1}}


@dataclass(frozen=True)
class Sizes:
    """How much is done, where, and from what data."""

    model: dict[str, Any] = field(default_factory=dict)  # keywords of build_model for what is only timed
    weights: str = "OceanSmall"  # of the conformance: trained ones
    frames: int = 40  # of a sequence
    sequences: int = 32
    steps: int = 20  # of a training
    crops: int = 300
    most: int = 10**6  # largest batch
    compiles: bool = True  # False: torch.compile without generating code
    device: str = "cuda"
    folder: str = ""
    data: str = ""

    def compiler(self, **options: Any) -> Callable[..., Any]:
        """Return torch.compile with options."""
        return partial(torch.compile, **(options if self.compiles else {"backend": "eager"}))

    def jobs(self, count: int) -> list[Sequence]:
        """Return sequences of JPEGs; of more than eight some are the same pictures."""
        count, root = min(count, self.most), Path(tempfile.mkdtemp(dir=self.folder))
        own = write_sequences(root, count=min(count, 8), frames=self.frames)
        return [replace(own[number % 8], name=f"s{number:03d}") for number in range(count)]


FULL = Sizes()
TINY = Sizes(model=SLIM, weights="", frames=4, sequences=2, steps=2, crops=6, most=2, compiles=False)


def write_crops(sizes: Sizes) -> Path:
    """Return a folder of crops of 511 px and their index, as `prepare` makes them, of smooth noise."""
    root, rng = Path(sizes.folder) / "crops", np.random.default_rng(0)
    index: dict[str, Any] = {}
    for number in range(sizes.crops):
        video, frame = f"v{number % 20:02d}", number // 20
        index.setdefault(video, {}).setdefault("00", {})[f"{frame:06d}"] = [10.0, 20.0, 60.0, 80.0]
        path = root / "crop511" / video / crop_name(frame, 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.GaussianBlur(rng.integers(0, 256, (511, 511, 3), dtype=np.uint8), (0, 0), 3))
    (root / "train.json").write_text(json.dumps(index), encoding="utf-8")
    return root


def synchronize(sizes: Sizes) -> float:
    """Return the time once the device has done all that it was asked."""
    if sizes.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


# Conformance


def conformance(sizes: Sizes, *, tf32: bool = False, batch: int = 1, onnx: bool = False, compiled: bool = False,
                **options: Any) -> Found:
    """Return the largest differences from the CPU in float32, one sequence at a time.

    one_frame_px: of a box, where each frame is given the CPU's state of the frame before; box_px: in the whole run, in
    which differences feed on themselves; score.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.manual_seed(0)
    model: Any = load_model(sizes.weights) if sizes.weights else calibrate_bn(build_model(**sizes.model))
    jobs, params = sizes.jobs(max(batch, 2)), TrackerParams()
    reference = follow(OceanTracker(copy.deepcopy(model), params), jobs, batch=1)
    if onnx:
        try:
            model = as_onnx(model, sizes)
        except UserError as error:  # a package or its part for the GPU is not there
            return {"skipped": str(error)}
        options = {"device": "cpu"}  # ONNX Runtime moves the arrays itself
    tracker = OceanTracker(model, params, **{"device": sizes.device, **options})
    if compiled:
        tracker._track = sizes.compiler(options={"freezing": True})(tracker.model.track)
    own = follow(tracker, jobs, batch=batch)
    worst = 0.0
    for job in jobs[:2]:
        states = reference[job.name]
        template = tracker.init(read_image(job.frames[0]), job.boxes_xywh[0]).template
        for before, after, path in zip(states, states[1:], job.frames[1:], strict=False):
            box = tracker.track(replace(before, template=template), read_image(path)).box_xywh
            worst = max(worst, float(np.abs(box - after.box_xywh).max()))
    pairs = [(a, b) for job in jobs for a, b in zip(reference[job.name], own[job.name], strict=True)]
    whole = max(float(np.abs(a.box_xywh - b.box_xywh).max()) for a, b in pairs)
    return {"one_frame_px": f"{worst:.2g}", "box_px": f"{whole:.2g}",
            "score": f"{max(abs(a.score - b.score) for a, b in pairs):.2g}", "frames": len(pairs)}


def follow(tracker: OceanTracker, jobs: list[Sequence], *, batch: int) -> dict[str, list[TrackerState]]:
    """Return the states of each sequence."""
    seen: dict[str, list[TrackerState]] = {job.name: [] for job in jobs}

    def note(job: Job, _index: int, _image: Any, states: dict[int, TrackerState]) -> None:
        seen[job.sequence.name].append(states[0])

    list(Lockstep([tracker], batch=batch, watcher=note).follow(map(Job, jobs)))
    return seen


def as_onnx(model: Ocean_, sizes: Sizes) -> Ocean_:
    """Return a model exported as float32 and opened by ONNX Runtime on the device; UserError where it cannot."""
    rng, root = np.random.default_rng(0), Path(tempfile.mkdtemp(dir=sizes.folder))
    pair = Pair(*(rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (127, 255)))
    options: Any = SimpleNamespace(out=root, checkpoint=Path(__file__), opset=19, tolerance=())
    folder = export(write_graphs(model, root, opset=19), options, "fp32", [], Check.of(model, [pair]))
    return load_onnx(folder, device=sizes.device)


# Tracking


def track_one(sizes: Sizes, *, way: str) -> Found:
    """Return the speed of one sequence: crop, network and scoring; as the reference: its eager loop, decoding too."""
    model: Any = calibrate_bn(build_model(**sizes.model))
    if way == "as the reference":
        jobs, device = sizes.jobs(1), torch.device(sizes.device)
        reference_style(model.to(device), jobs, STEADY, device)
        begin = time.perf_counter()
        reference_style(model, jobs, STEADY, device)
        return {"frames_per_second": round((sizes.frames - 1) / (time.perf_counter() - begin), 1)}
    tracker = OceanTracker(model, STEADY, device=sizes.device)
    if way != "eager":
        mode = {"mode": "reduce-overhead"} if way == "CUDA graph" else {"options": {"freezing": True}}
        tracker._track = sizes.compiler(**mode)(tracker.model.track)
    timer = FrameTimer(tracker)
    timer.seconds(5)
    low, median, high = (1000 * np.percentile(timer.seconds(5 * sizes.frames), [10, 50, 90])).tolist()
    return {"frames_per_second": round(1000 / median, 1), "ms": f"{median:.2f} ({low:.2f} .. {high:.2f})"}


def lockstep_speed(sizes: Sizes, *, batch: int, checkpoints: int = 1) -> Found:
    """Return the speed of sequences that advance together, decoding included; each checkpoint's frames count."""
    model = calibrate_bn(build_model(**sizes.model))
    trackers = [OceanTracker(copy.deepcopy(model), STEADY, device=sizes.device) for _ in range(checkpoints)]
    jobs = sizes.jobs(max(batch, sizes.sequences))
    lockstep(trackers, [replace(job, frames=job.frames[:4]) for job in jobs[:batch]], batch=batch)
    begin = time.perf_counter()
    lockstep(trackers, jobs, batch=batch)
    seconds, frames = time.perf_counter() - begin, sum(len(job.frames) - 1 for job in jobs) * checkpoints
    # OTB2015 has 59,040 frames.
    return {"frames_per_second": round(frames / seconds, 1),
            "minutes_for_OTB2015": round(59_040 * checkpoints * seconds / frames / 60, 1)}


# Training


def training(sizes: Sizes, *, name: str, batch: int, amp: str = "auto", compiled: bool = False) -> Found:
    """Return pairs per second of whole steps, everything training, from JPEGs and of one batch that stays there."""
    batch = min(batch, sizes.most)
    with tempfile.TemporaryDirectory(dir=sizes.folder) as folder:
        data = f"{{PATH: {sizes.data}/crop511, ANNOTATION: {sizes.data}/train.json, RANGE: 5, USE: 100000}}"
        keys = [f"TRAIN.BATCH={batch}", f"TRAIN.AMP={amp}", f"TRAIN.CHANNELS_LAST={amp != 'none'}",
                "TRAIN.UNFIX_EPOCH=0", "TRAIN.WHICH_USE=[CROPS]", f"DATASET.CROPS={data}",
                f"WORKERS={len(available_cpus())}"]
        if sizes.model:
            kind = "ViT_small" if "ViT" in name else "ResNetSmall" + name.removeprefix("Ocean").replace("_align", "")
            options = {"dim": 16, "depth": 3, "heads": 2} if "ViT" in name else sizes.model["backbone_options"]
            keys += [f"TRAIN.BACKBONE={kind}", f"TRAIN.BACKBONE_OPTIONS={json.dumps(options)}", "TRAIN.CHANNELS=8",
                     "TRAIN.TOWERNUM=1", "WORKERS=1"]
        cfg = load_config(ROOT / "experiments" / "train" / f"{name}.yaml", overrides=keys)
        task = Tracking(cfg)
        trainer = Trainer(cfg, World(device=torch.device(sizes.device)), task, task.build(), folder=Path(folder),
                          progress=Progress(steps_per_epoch=10**6, pairs_per_step=batch))
        try:
            return speed_of(trainer, sizes, compiled=compiled)
        finally:
            trainer.close()


def speed_of(trainer: Trainer, sizes: Sizes, *, compiled: bool) -> Found:
    """Return the speed of a trainer's steps."""
    trainer.begin_epoch()
    trainer.stage.set_rate(1e-5)
    if compiled:
        trainer.stage.module = sizes.compiler()(trainer.stage.module)
    resident = next(trainer.batches)

    def steps(next_batch: Callable[[], Any]) -> float:
        begin = synchronize(sizes)
        for _ in range(sizes.steps):
            trainer.take_step([next_batch()])
        return synchronize(sizes) - begin

    for _ in range(3):
        trainer.take_step([resident])
    pairs = sizes.steps * trainer.cfg.TRAIN.BATCH
    alone = steps(lambda: resident)
    steps(lambda: next(trainer.batches))  # what was loaded beforehand is used up
    trainer.batches.waited()
    loading = steps(lambda: next(trainer.batches))
    return {"pairs_per_second": round(pairs / loading, 1), "on_resident_data": round(pairs / alone, 1),
            "data_wait": f"{trainer.batches.waited() / loading:.0%}", "loaders": trainer.batches.workers,
            "amp": str(trainer.dtype or "float32").removeprefix("torch.")}


def interrupted(sizes: Sizes, *, number: signal.Signals) -> Found:
    """Return how the end of a training that was interrupted and went on differs from one left in peace.

    All with the deterministic operators, so that not a bit may differ.
    """
    ends = []
    for name, stop in (("whole", 0), ("interrupted", number)):
        folder = Path(tempfile.mkdtemp(dir=sizes.folder))
        code = one_life(folder, stop)
        if stop:
            assert code != 0, "it ended before it could be interrupted"
            code = one_life(folder, 0)
        assert code == 0, f"the {name} training ended with exit code {code}"
        ends.append(torch.load(folder / "snapshot" / "checkpoint_e3.pth", weights_only=True, map_location="cpu"))
    whole, other = (end["state_dict"] for end in ends)
    gap = max(float((whole[key].double() - other[key].double()).abs().max()) for key in whole)
    return {"same_bits": gap == 0, "largest_difference": gap, "steps": ends[0]["step"]}


def one_life(folder: Path, stop: int) -> int:
    """Return the exit code of a small training in `folder`, which gets a signal once it has saved."""
    tree = {"WORKERS": 0, "OUTPUT_DIR": str(folder / "logs"), "CHECKPOINT_DIR": str(folder / "snapshot"),
            "TRAIN": {"END_EPOCH": 3, "BATCH": 4, "UNFIX_EPOCH": 0, "BACKBONE": "ResNetSmall", "CHANNELS": 8,
                      "TOWERNUM": 1, "WARMUP": {"IFNOT": False}, "SAVE_EVERY": 1, "WHICH_USE": ["SYN"],
                      "BACKBONE_OPTIONS": SLIM["backbone_options"], "DETERMINISTIC": True, "RESUME": "auto"},
            "DATASET": {"SYN": {"FORMAT": "synthetic", "USE": 12, "RANGE": 5}}}
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump({"OCEAN": tree}), encoding="utf-8")
    child = get_context("fork").Process(target=_train, args=(["--cfg", str(path)],))
    child.start()
    while stop and child.is_alive() and not list((folder / "snapshot").glob("checkpoint_e*.pth")):
        time.sleep(0.01)
    if stop and child.is_alive():
        os.kill(child.pid or 0, stop)
    child.join()
    return child.exitcode or 0


def _train(arguments: list[str]) -> None:
    die_with_parent(signal.SIGKILL)
    os.dup2(2, 1)
    sys.exit(commands.call("train", arguments))


# Several processes


def one_rank(sizes: Sizes) -> Found:
    """Return the difference of gradients with and without DistributedDataParallel, one process of a job (NCCL)."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    world = join([0], place="perf/gpu.py")
    ones = torch.ones(2, device=sizes.device)
    dist.all_reduce(ones)
    alone = gradients(sizes, slice(0, 4), wrap=lambda model: model)
    own = gradients(sizes, slice(0, 4), wrap=DistributedDataParallel)
    backend = dist.get_backend_config()
    leave()
    return {"backend": str(backend), "device": str(world.device), "gradient": f"{difference(alone, own):.2g}",
            "sum_is_right": bool((ones == 1).all())}


def two_ranks(sizes: Sizes) -> Found:
    """Return the difference of two ranks' gradients, half a batch each through gloo, from one process's with all."""
    context, path = get_context("fork"), Path(tempfile.mkdtemp(dir=sizes.folder))
    ranks = [context.Process(target=_rank, args=(sizes, rank, str(path))) for rank in range(2)]
    for child in ranks:
        child.start()
    for child in ranks:
        child.join()
    assert [child.exitcode for child in ranks] == [0, 0], f"exit codes {[child.exitcode for child in ranks]}"
    alone = gradients(sizes, slice(0, 4), wrap=lambda model: model)
    found = [torch.load(path / f"{rank}.pth", weights_only=True) for rank in range(2)]
    return {"gradient": f"{max(difference(alone, own) for own in found):.2g}",
            "ranks_differ_by": difference(*found)}


def _rank(sizes: Sizes, rank: int, folder: str) -> None:
    die_with_parent(signal.SIGKILL)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    own = gradients(sizes, slice(2 * rank, 2 * rank + 2), wrap=DistributedDataParallel)
    torch.save(own, f"{folder}/{rank}.pth")
    dist.destroy_process_group()


def gradients(sizes: Sizes, part: slice, *, wrap: Callable[[nn.Module], nn.Module]) -> list[Tensor]:
    """Return the gradients of a slim network on part of a batch of four; its loss is a mean over the batch."""
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = calibrate_bn(build_model(**SLIM)).to(sizes.device)
    z, x = (torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(side)) * 255 for side in (127, 255))
    wrapped = wrap(model)  # must outlive the backward pass, which is when it averages
    output = wrapped(z[part].to(sizes.device), x[part].to(sizes.device))
    (output.cls.mean() + output.ltrb.log().mean()).backward()
    return [p.grad.detach().cpu() for p in model.parameters() if p.grad is not None]


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    """Return the largest difference of gradients, over the largest of their values."""
    largest = max(float(a.abs().max()) for a in one)
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True)) / largest
