"""The commands `train` and `pretrain`: from a YAML file to a run that begins or goes on (`Trainer.run`).

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

from lib import distributed
from lib.checkpoint import find_weights, import_pretrained, load_weights, pixels_of, read_checkpoint, where_else
from lib.cli import as_argv
from lib.config import Config, PretrainConfig
from lib.config_file import load_config
from lib.distributed import EXIT_STOPPED, StopRequest, World, on_main
from lib.errors import EXIT_USER_ERROR, UserError
from lib.files import MAIN
from lib.log import RunLog, check_logger, run_folder
from lib.models.pretrained import TORCHVISION, Pixels
from lib.models.timm_trunk import fetch_weights
from lib.options import TrainOptions
from lib.training import checkpoints
from lib.training.checkpoints import Progress
from lib.training.stage import branch_of, check_schedule
from lib.training.tasks import BRANCHES, Classification, Task, Tracking
from lib.training.trainer import Trainer

log = logging.getLogger(__name__)

TIMM = "timm:"  # before a name in TRAIN.PRETRAIN: weights by timm's own loading
_LOST = re.compile(r"Connection (closed|reset|refused)|Broken pipe|gloo|NCCL", re.IGNORECASE)


def main(options: TrainOptions) -> int:
    """Return the exit code of `tracking/train_ocean.py`; started by torchrun, or starting it for several processes."""
    return _reporting(options, Tracking, Config)


def pretrain(options: TrainOptions) -> int:
    """Return the exit code of `tracking/pretrain.py`, as `main`."""
    return _reporting(options, Classification, PretrainConfig)


def _reporting(options: TrainOptions, task: type[Tracking] | type[Classification], kind: type[Config]) -> int:
    try:
        return _run(options, task, kind)
    except UserError:
        if distributed.reports_errors():
            raise
        return EXIT_USER_ERROR  # another process of the job has told it
    except (RuntimeError, torch.OutOfMemoryError) as error:
        text = _known_failure(error)
        if not text:
            raise
        if distributed.reports_errors():
            raise UserError(text) from error
        return distributed.EXIT_FAILED


def _run(options: TrainOptions, task: type[Tracking] | type[Classification], kind: type[Config]) -> int:
    cfg = load_config(options.cfg, overrides=[*options.overrides, *_as_overrides(options)], kind=kind)
    place = str(options.cfg)
    check_schedule(cfg.TRAIN, place=place)
    _check_start(cfg, place=place, frozen_start=task.frozen_start)
    gpus = cfg.gpu_numbers()
    if options.gpus is not None:
        place = "--gpus"
    if not distributed.under_torchrun():
        if options.gpus is not None:
            distributed.check_gpus(gpus, place=place, several="--nproc N")
        processes = options.nproc or (len(gpus) if options.gpus is not None else 1)
        if processes > 1:
            return distributed.launch(MAIN, [task.command, *as_argv(options)], processes=processes,
                                      max_restarts=options.max_restarts)
    world = distributed.join(gpus, place=place)
    code = train(cfg, world, task)
    distributed.leave()
    return code


def train(cfg: Config, world: World, task: Any = Tracking) -> int:
    """Return 0 after training to END_EPOCH, EXIT_STOPPED after a stop on request; every process of the job calls it."""
    with RunLog(main=world.is_main) as run_log, ExitStack() as stack:
        _log_devices(cfg, world)
        _set_determinism(cfg)
        work: Task = BRANCHES.get(branch_of(cfg.TRAIN), task)(cfg)
        torch.manual_seed(cfg.TRAIN.SEED)
        model = work.build()
        snapshot = Path(cfg.CHECKPOINT_DIR)
        on_main(lambda: stack.enter_context(checkpoints.sole_writer(snapshot)), world)
        source = on_main(lambda: _resume_path(cfg.TRAIN.RESUME, snapshot), world)
        checkpoint = checkpoints.read_resumable(source) if source else None
        progress = _load_start(model, cfg, checkpoint, pairs=len(work.dataset), source=str(source),
                               pairs_per_step=cfg.TRAIN.BATCH * cfg.TRAIN.ACCUMULATE * world.size)
        folder = on_main(lambda: _open_run(cfg, run_log, checkpoint), world)
        trainer = Trainer(cfg, world, work, model, progress=progress, folder=folder, checkpoint=checkpoint)
        stack.callback(trainer.close)
        on_main(lambda: checkpoints.set_aside(snapshot, after=checkpoints.place_of(checkpoint)), world)
        if progress.step >= trainer.total:
            log.info("all %d epochs are done already; nothing to train", cfg.TRAIN.END_EPOCH)
            return 0
        stop = stack.enter_context(StopRequest(world))
        if not trainer.run(stop):
            log.info("stopped on request after step %d; start again with --resume auto", progress.step)
            return EXIT_STOPPED
        skipped, replaced = trainer.skipped, len(trainer.monitor.unreadable)
        log.info("done: %d epochs, %d steps%s%s", cfg.TRAIN.END_EPOCH, progress.step,
                 f", {skipped} of them skipped as not finite" if skipped else "",
                 f", {replaced} unreadable pictures replaced" if replaced else "")
        return 0


def _load_start(model: Any, cfg: Config, checkpoint: dict[str, Any] | None, *, pairs: int, pairs_per_step: int,
                source: str) -> Progress:
    """Fill the model from the checkpoint (whose file is `source`) or from PRETRAIN; return where training begins.

    pairs: of an epoch; pairs_per_step: over all processes.
    """
    train = cfg.TRAIN
    progress = Progress(max(1, pairs // pairs_per_step), pairs_per_step)
    progress.step = train.START_EPOCH * progress.steps_per_epoch
    if checkpoint is not None:
        checkpoints.check_same(checkpoint, cfg, pairs_per_step=pairs_per_step, source=source)
        load_weights(model, checkpoint.get("raw_state_dict", checkpoint["state_dict"]), source=source)
        progress.continue_from(checkpoint)
        log.info("going on from %s, after epoch %d and %d steps of the next", source,
                 *divmod(progress.step, progress.steps_per_epoch))
    elif train.PRETRAIN:
        source, given = str(train.PRETRAIN), train.PRETRAIN_INPUT
        if source.startswith(TIMM):
            content = fetch_weights(source.removeprefix(TIMM))
        else:
            source = str(_pretrained_path(source))
            content = read_checkpoint(source)
        if (branch := branch_of(train)) and not any("connect_model." in name for name in content["state_dict"]):
            raise UserError(f"TRAIN.PRETRAIN: {source} is no tracker; TRAIN.{branch} needs the checkpoint of one")
        pixels = Pixels(given.ORDER, given.MEAN, given.STD) if given else pixels_of(content, source=source)
        log.info("%s", import_pretrained(model, content["state_dict"], source=source, pixels=pixels))
    return progress


def _pretrained_path(name: str) -> Path:
    """Return the file of TRAIN.PRETRAIN: a path, a name in pretrain/, or weights that come with the project."""
    for path in (Path(name), Path("pretrain") / name, find_weights(name)):
        if path.is_file():
            return path
    raise UserError(f"TRAIN.PRETRAIN: neither {name} nor {Path('pretrain') / name} exists ({where_else(name)}); put "
                    f"the file there, or set TRAIN.PRETRAIN=False to begin with random weights")


def _check_start(cfg: Config, *, place: str, frozen_start: bool = True) -> None:
    """Raise UserError, before any work, for missing weights or checkpoints, or a trunk resting at random ones."""
    train, snapshot = cfg.TRAIN, Path(cfg.CHECKPOINT_DIR)
    check_logger(cfg.LOGGER)
    frozen, thaw = ("ever", "without lora") if train.BACKBONE_OPTIONS.get("lora") else (
        f"{train.UNFIX_EPOCH} epochs" if train.UNFIX_EPOCH > train.START_EPOCH else "", "by TRAIN.UNFIX_EPOCH=0")
    if train.RESUME and train.RESUME != "auto":
        _resume_path(train.RESUME, snapshot)
    elif train.RESUME and checkpoints.saved_checkpoints(snapshot):
        return
    elif train.PRETRAIN:
        if not str(train.PRETRAIN).startswith(TIMM):
            _pretrained_path(str(train.PRETRAIN))
    elif (branch := branch_of(train)) and not train.RANDOM_TRUNK:
        raise UserError(f"{place}: TRAIN.{branch} trains beside a trained tracker; name its checkpoint in "
                        f"TRAIN.PRETRAIN")
    elif frozen_start and frozen and not train.RANDOM_TRUNK:
        name = TORCHVISION.get(train.BACKBONE)
        remedy = "name pretrained weights in TRAIN.PRETRAIN" if name is None else (
            f"fetch ImageNet's once by `mkdir -p pretrain && python -c \"import torch, torchvision as tv; torch.save("
            f"tv.models.{name}(weights='IMAGENET1K_V1').state_dict(), 'pretrain/{name}.pth')\"`, then set "
            f"TRAIN.PRETRAIN={name}.pth")
        raise UserError(f"{place}: TRAIN.PRETRAIN is False: the trunk would be frozen at random weights for "
                        f"{frozen}; {remedy}, or train it from the start {thaw}, or say that it is meant so by "
                        f"TRAIN.RANDOM_TRUNK=True")


def _resume_path(wish: bool | str, snapshot: Path) -> Path | None:
    """Return the checkpoint to go on from; after torchrun's restart always the newest, if there is one.

    wish: TRAIN.RESUME; a folder stands for the newest checkpoint in it.
    """
    if distributed.restart_count() > 0 and checkpoints.saved_checkpoints(snapshot):
        wish = "auto"
    if not wish:
        return None
    path = snapshot if wish == "auto" else find_weights(str(wish))
    if not path.exists():
        read_checkpoint(path)  # raises, naming the nearest file
    if not path.is_dir():
        return path
    newest = checkpoints.newest_intact(path)
    if newest is None and wish != "auto":
        raise UserError(f"TRAIN.RESUME: no checkpoint in {path} (expected checkpoint_e<N>.pth); name the folder or "
                        f"file to go on from, or 'auto' to begin anew where there is none")
    if newest is None:
        log.info("--resume auto: no checkpoint in %s yet; starting at the beginning", path)
    return newest


def _open_run(cfg: Config, run_log: RunLog, checkpoint: dict[str, Any] | None) -> Path:
    """Return the run's folder: the checkpoint's if its run goes on where it stopped, else a new one. Rank 0 only.

    What goes on elsewhere, or from the midst of a run, is another run: the curves of the first stay as they are.
    """
    goes_on = checkpoint is not None and checkpoints.is_end_of_run(checkpoint, Path(cfg.CHECKPOINT_DIR))
    folder = run_folder(cfg.OUTPUT_DIR, cfg.TRAIN.MODEL, run=checkpoint["run"] if checkpoint and goes_on else "")
    run_log.open_file(folder)
    log.info("log and %s: %s", "TensorBoard" if cfg.LOGGER == "tensorboard" else cfg.LOGGER, folder)
    return folder


def _set_determinism(cfg: Config) -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # must be set before CUDA's first matrix product
    torch.use_deterministic_algorithms(cfg.TRAIN.DETERMINISTIC)
    torch.set_flush_denormal(True)  # such numbers, which settled attention makes, slow a CPU fourfold
    torch.backends.cudnn.benchmark = not cfg.TRAIN.DETERMINISTIC
    torch.autograd.set_detect_anomaly(cfg.TRAIN.DETECT_ANOMALY)


def _log_devices(cfg: Config, world: World) -> None:
    cuda, gpus = world.device.type == "cuda", len(cfg.gpu_numbers())
    log.info("%d process(es), this one on %s%s", world.size, world.device,
             "" if cuda else ", as there is no CUDA device")
    if world.size == 1 and gpus > 1 and cuda:
        log.info("GPUS lists %d devices, one process uses one: start with --gpus %s for all", gpus, cfg.GPUS)


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
