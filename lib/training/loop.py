"""Training: from a YAML file to checkpoints, a log and TensorBoard. `main` sets up, `train_one_epoch` is the loop.

Exit codes: 0 done, 2 a user's error (told in one line), 75 stopped by SIGTERM or SIGINT with a checkpoint written,
1 anything else.
"""

from __future__ import annotations

import json
import logging
import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from tqdm import tqdm

from lib import distributed
from lib.checkpoint import import_pretrained, load_weights, read_checkpoint
from lib.cli import as_argv
from lib.config import Config, load_config
from lib.datasets.dataset import OceanDataset, build_dataset
from lib.datasets.mixing import StreamSampler
from lib.datasets.sample import Sample
from lib.distributed import EXIT_STOPPED, StopRequest, World, available_cpus, on_main
from lib.errors import EXIT_USER_ERROR, UserError
from lib.log import Board, RunLog, new_run_folder, old_run_folder
from lib.models.losses import ocean_loss
from lib.models.models import Ocean, build_model
from lib.models.ocean import OceanOutput
from lib.options import TrainOptions
from lib.training import checkpoints as resume
from lib.training.job import Job
from lib.training.loader import Feed, worker_share
from lib.training.monitor import Watch, watch_layers
from lib.training.schedule import check_schedule, learning_rate
from lib.training.stage import Stage, build_stage

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tracking" / "train_ocean.py"
_AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}
_LOST = re.compile(r"Connection (closed|reset|refused)|Broken pipe|gloo|NCCL", re.IGNORECASE)


def main(options: TrainOptions) -> int:
    """Return the exit code of `tracking/train_ocean.py`; started by torchrun, or starting it for several processes."""
    try:
        return _run(options)
    except UserError:
        if distributed.speaks():
            raise
        return EXIT_USER_ERROR  # another process of the job has told it
    except (RuntimeError, torch.OutOfMemoryError) as error:
        text = _known_failure(error)
        if not text:
            raise
        if distributed.speaks():
            raise UserError(text) from error
        return distributed.EXIT_FAILED


def _run(options: TrainOptions) -> int:
    cfg = load_config(options.cfg, overrides=[*options.overrides, *_as_overrides(options)])
    place = str(options.cfg)
    check_schedule(cfg.TRAIN, place=place)
    gpus = cfg.gpu_numbers()
    if options.gpus is not None:
        place = "--gpus"
    if not distributed.under_torchrun():
        if options.gpus is not None:
            distributed.check_gpus(gpus, place=place)
        processes = options.nproc or (len(gpus) if options.gpus is not None else 1)
        if processes > 1:
            return distributed.launch(SCRIPT, as_argv(options), processes=processes, max_restarts=options.max_restarts)
    world = distributed.join(gpus, place=place)
    code = train(cfg, world)
    distributed.leave()
    return code


def train(cfg: Config, world: World) -> int:
    """Return 0 after training to END_EPOCH, EXIT_STOPPED after a stop on request; every process of the job calls it."""
    with ExitStack() as stack:
        run_log = stack.enter_context(RunLog(main=world.is_main))
        _say_device(cfg, world)
        _set_determinism(cfg)
        torch.manual_seed(cfg.TRAIN.SEED)
        model = build_model(**cfg.model_options())
        dataset = build_dataset(cfg)
        snapshot = Path(cfg.CHECKPOINT_DIR)
        on_main(lambda: stack.enter_context(resume.sole_writer(snapshot)) and None, world)
        source = on_main(lambda: _resume_path(cfg), world)
        checkpoint = resume.read_resumable(source) if source else None
        steps = max(1, len(dataset) // (cfg.TRAIN.BATCH * world.size))
        first = _place_weights(model, cfg, checkpoint, source, steps=steps, pairs=cfg.TRAIN.BATCH * world.size)
        run = on_main(lambda: _open_run(cfg, run_log, checkpoint), world)
        on_main(lambda: resume.set_aside(snapshot, after=resume.place_of(checkpoint)), world)
        samples = checkpoint["samples"] if checkpoint else 0
        job = _assemble(cfg, world, _to_device(model, cfg, world), dataset, run=run, steps=steps, first=first,
                        samples=samples, stack=stack)
        return _epochs(job, checkpoint)


def _epochs(job: Job, checkpoint: dict[str, Any] | None) -> int:
    """Return the exit code after the epochs that are left."""
    if job.step >= job.total:
        log.info("all %d epochs are done already; nothing to train", job.cfg.TRAIN.END_EPOCH)
        return 0
    stage = build_stage(job.model, job.cfg.TRAIN, epoch=job.step // job.steps, world=job.world)
    if checkpoint is not None:
        stage.load_optimizer(checkpoint["optimizer"], checkpoint["optimizer_names"])
        job.scaler.load_state_dict(checkpoint["scaler"])
    while job.step < job.total:
        epoch = job.step // job.steps
        if job.world.is_main:
            log.info("epoch %d/%d: %s", epoch + 1, job.cfg.TRAIN.END_EPOCH, stage.describe())
        if not train_one_epoch(job, stage, epoch):
            log.info("stopped on request after step %d; start again with --resume auto", job.step)
            job.stop.finish()
            return EXIT_STOPPED
        if job.step < job.total:
            stage = build_stage(job.model, job.cfg.TRAIN, epoch=epoch + 1, world=job.world, before=stage)
    job.stop.finish()
    log.info("done: %d epochs, %d steps%s%s", job.cfg.TRAIN.END_EPOCH, job.step,
             f", {job.skipped} of them skipped as not finite" if job.skipped else "",
             f", {job.watch.unreadable} unreadable crops replaced" if job.watch.unreadable else "")
    return 0


def train_one_epoch(job: Job, stage: Stage, epoch: int) -> bool:
    """Return True after the steps of `epoch` (from 0) that are left, False if asked to stop before the run's end.

    The host waits for the device only at each look, every PRINT_FREQ steps and before each checkpoint.
    """
    train, start, end = job.cfg.TRAIN, epoch * job.steps, (epoch + 1) * job.steps
    stage.train_mode()
    job.watch.restart_clock()
    while job.step < end:
        stage.set_rate(learning_rate(train, epoch=epoch, step=job.step - start, steps_per_epoch=job.steps))
        batch = next(job.feed)
        output = take_step(job, stage, batch)
        job.step += 1

        stopping = job.stop.agreed()
        saving = stopping or job.step == end or (train.SAVE_EVERY > 0 and job.step % train.SAVE_EVERY == 0)
        if saving or job.step % job.cfg.PRINT_FREQ == 0:
            job.look(stage)
        if job.step == end:
            job.draw(batch, output)
        if saving:
            job.save(stage, required=stopping)
        if stopping and job.step < job.total:
            return False
    return True


def take_step(job: Job, stage: Stage, batch: Sample) -> OceanOutput:
    """Return the network's output for a batch on the device, after one step of the optimizer on its loss."""
    train, model = job.cfg.TRAIN, job.model
    # Dropout, where a backbone has it, draws from the step's own seed: the same after a resume.
    torch.manual_seed((train.SEED * 1_000_003 + job.step) * job.world.size + job.world.rank)
    statistics = [buffer.clone() for buffer in model.buffers()] if train.NONFINITE == "skip" else []
    with torch.autocast(job.world.device.type, dtype=_AMP.get(train.AMP), enabled=train.AMP in _AMP):
        output = stage.module(job.pixels(batch.template), job.pixels(batch.search))
    losses = ocean_loss(output, cls_target=batch.cls_target, ltrb_target=batch.ltrb_target, weight=batch.weight)
    stage.optimizer.zero_grad(set_to_none=True)
    job.scaler.scale(losses["total"]).backward()
    job.scaler.unscale_(stage.optimizer)
    norm = get_total_norm([p.grad for p in stage.parameters() if p.grad is not None])
    if train.CLIP_GRAD > 0:
        clip_grads_with_norm_(stage.parameters(), train.CLIP_GRAD, norm)
    if job.usable(losses, norm):
        job.scaler.step(stage.optimizer)
        job.watch.add(job.step, losses, norm)
    else:  # the batch must leave no trace, in BatchNorm's statistics neither
        for buffer, before in zip(model.buffers(), statistics, strict=True):
            buffer.copy_(before)
    job.scaler.update()
    job.watch.add_unreadable(batch.unreadable)
    return output


def _place_weights(model: Ocean, cfg: Config, checkpoint: dict[str, Any] | None, source: Path | None, *, steps: int,
                   pairs: int) -> int:
    """Return the step to begin with, after filling the model from the checkpoint, or from PRETRAIN."""
    if checkpoint is not None:
        resume.check_same(checkpoint, cfg, pairs_per_step=pairs, source=str(source))
        load_weights(model, checkpoint["state_dict"], source=str(source))
        first = resume.position_after(checkpoint, steps_per_epoch=steps)
        log.info("going on from %s, after epoch %d and %d steps of the next", source, first // steps, first % steps)
        return first
    if cfg.TRAIN.PRETRAIN:
        path = Path(str(cfg.TRAIN.PRETRAIN))
        nearby = Path("pretrain") / path
        if not path.is_file() and not nearby.is_file():
            raise UserError(f"TRAIN.PRETRAIN: neither {path} nor {nearby} exists; put the weights there, or set "
                            f"TRAIN.PRETRAIN=False to begin with random ones")
        path = path if path.is_file() else nearby
        log.info("%s", import_pretrained(model, read_checkpoint(path)["state_dict"], source=str(path)))
    elif cfg.TRAIN.UNFIX_EPOCH > cfg.TRAIN.START_EPOCH:
        log.warning("the backbone is frozen for %d epochs at random weights; name pretrained ones in TRAIN.PRETRAIN, "
                    "or set TRAIN.UNFIX_EPOCH=0", cfg.TRAIN.UNFIX_EPOCH)
    return cfg.TRAIN.START_EPOCH * steps


def _resume_path(cfg: Config) -> Path | None:
    """Return the checkpoint to go on from; after torchrun's restart always the newest, if there is one."""
    wish = cfg.TRAIN.RESUME
    if wish == "auto" or distributed.restart_count() > 0:
        newest = resume.newest_intact(Path(cfg.CHECKPOINT_DIR))
        if newest is None and wish == "auto":
            log.info("--resume auto: no checkpoint in %s yet; starting at the beginning", cfg.CHECKPOINT_DIR)
        if newest is not None or wish == "auto":
            return newest
    return Path(wish) if isinstance(wish, str) and wish else None


def _open_run(cfg: Config, run_log: RunLog, checkpoint: dict[str, Any] | None) -> str:
    """Return the run's name: the checkpoint's, whose folder is gone on with, or a new one. Rank 0 only."""
    if checkpoint is None:
        folder = new_run_folder(cfg.OUTPUT_DIR, cfg.TRAIN.MODEL)
    else:
        folder = old_run_folder(cfg.OUTPUT_DIR, cfg.TRAIN.MODEL, run=checkpoint["run"])
    run_log.open_file(folder)
    log.info("log and TensorBoard: %s", folder)
    return folder.name


def _to_device(model: Ocean, cfg: Config, world: World) -> Ocean:
    if cfg.TRAIN.SYNC_BN:
        if world.device.type != "cuda":
            raise UserError("TRAIN.SYNC_BN: works on GPUs only, and this run is on the CPU; set TRAIN.SYNC_BN=False")
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        assert isinstance(converted, Ocean)
        model = converted
    if cfg.TRAIN.DETECT_ANOMALY:
        watch_layers(model)
    model = model.to(world.device)
    return model.to(memory_format=torch.channels_last) if cfg.TRAIN.CHANNELS_LAST else model


def _assemble(cfg: Config, world: World, model: Ocean, dataset: OceanDataset, *, run: str, steps: int, first: int,
              samples: int, stack: ExitStack) -> Job:
    """Return the job, at step `first` and sample `samples` of the stream; `stack` ends its parts."""
    workers = worker_share(cfg.WORKERS, world=world)
    log.info("%d pairs an epoch in %d steps of %d", len(dataset), steps, cfg.TRAIN.BATCH * world.size)
    log.info("loader processes: %d for each training process (WORKERS is %d for all %d; this machine has %d CPUs)",
             workers, cfg.WORKERS, world.local_size, len(available_cpus()))
    # With the pairs per step unchanged the stream's start stays where it was.
    start = max(0, samples - first * cfg.TRAIN.BATCH * world.size) if samples else 0
    sampler = StreamSampler(cfg.TRAIN.BATCH, rank=world.rank, world=world.size, start=start)
    sampler.set_position(first, cfg.TRAIN.END_EPOCH * steps)
    folder = Path(cfg.OUTPUT_DIR) / cfg.TRAIN.MODEL / run if world.is_main else None
    board = Board(folder, first_step=first)
    stack.callback(board.close)
    board.text("config", yaml.safe_dump(cfg.as_dict(), sort_keys=False), first)
    board.compare_by(cfg.summary() | {"pairs per step": cfg.TRAIN.BATCH * world.size})
    feed = Feed(dataset, sampler, workers=workers, device=world.device, timeout=cfg.TRAIN.DATA_TIMEOUT)
    stack.callback(feed.close)
    bar = tqdm(total=cfg.TRAIN.END_EPOCH * steps, initial=first, unit="step", dynamic_ncols=True,
               disable=None if world.is_main else True)
    stack.callback(bar.close)
    scaler = torch.amp.GradScaler(world.device.type, enabled=cfg.TRAIN.AMP == "fp16")
    watch = Watch(world, max_unreadable=cfg.DATASET.MAX_UNREADABLE, pairs_per_epoch=len(dataset),
                  pairs_per_step=cfg.TRAIN.BATCH * world.size)
    stop = stack.enter_context(StopRequest(world))
    return Job(cfg, world, model, dataset, folder, run, steps, first, start, scaler, feed, watch, board, stop, bar)


def _set_determinism(cfg: Config) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # must be set before CUDA's first matrix product
    torch.use_deterministic_algorithms(cfg.TRAIN.DETERMINISTIC)
    torch.backends.cudnn.benchmark = not cfg.TRAIN.DETERMINISTIC
    torch.autograd.set_detect_anomaly(cfg.TRAIN.DETECT_ANOMALY)


def _say_device(cfg: Config, world: World) -> None:
    gpus = cfg.gpu_numbers()
    why = "" if world.device.type == "cuda" else ", as there is no CUDA device"
    log.info("%d process(es), this one on %s%s", world.size, world.device, why)
    if world.size == 1 and len(gpus) > 1 and world.device.type == "cuda":
        log.info("GPUS lists %d devices, one process uses one: start with --gpus %s for all", len(gpus), cfg.GPUS)


def _known_failure(error: BaseException) -> str:
    """Return one line for a failure whose cause is known, else ""."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else ""
    if isinstance(error, torch.OutOfMemoryError):
        return f"the GPU's memory is full ({text[:200]}); lower TRAIN.BATCH, or set TRAIN.AMP to bf16"
    if "does not have a deterministic implementation" in text:
        return f"TRAIN.DETERMINISTIC: {text[:200]}; leave --deterministic out, or train on the CPU"
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        what = f"{type(error).__name__}: {text[:200]}"
        return f"TRAIN.COMPILE: torch.compile failed on this machine ({what}); set TRAIN.COMPILE=False"
    if "returned nan values" in text:
        return f"--detect-anomaly: {text[:200]}"
    if distributed.under_torchrun() and _LOST.search(str(error)):
        return f"a process of the job is gone ({text[:160]}); start again with --resume auto, or use --max-restarts N"
    return ""


def _as_overrides(options: TrainOptions) -> list[str]:
    """Return the flags as KEY=VALUE; they win over the YAML and over the overrides."""
    flags = {"GPUS": options.gpus, "WORKERS": options.workers, "TRAIN.RESUME": options.resume,
             "TRAIN.DETERMINISTIC": options.deterministic or None,
             "TRAIN.DETECT_ANOMALY": options.detect_anomaly or None}
    return [f"{key}={json.dumps(value)}" for key, value in flags.items() if value is not None]
