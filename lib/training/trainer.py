"""The training loop, and what it does between steps: report, draw, save, judge a step that is not finite."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from lib.config import Config
from lib.datasets.mixing import StreamSampler
from lib.device import number_format
from lib.distributed import StopRequest, World, available_cpus, from_main, gather
from lib.errors import UserError
from lib.log import PROGRESS, Board, duration
from lib.training.checkpoints import Progress, check_finite, write_checkpoint
from lib.training.loader import DevicePrefetcher, advice, worker_share
from lib.training.monitor import GRAD_NORM, StepMonitor, StepSummary, dump_batch, first_bad_step, values_text
from lib.training.stage import build_stage, learning_rate, prepare_model
from lib.training.tasks import Task

log = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 100  # steps without a usable gradient after which NONFINITE skip gives up


class Trainer:
    """A run: the model, its data and how far it is. `run` trains; `close` ends the loader processes and the log."""

    def __init__(self, cfg: Config, world: World, task: Task, model: nn.Module, *, progress: Progress,
                 folder: Path, checkpoint: Mapping[str, Any] | None = None) -> None:
        """Begin at `progress` with the state of `checkpoint`, whose weights `model` has already.

        task: what is learned, and from what. folder: of the run, whose name is the run's; rank 0 writes to it.
        """
        train = cfg.TRAIN
        self.cfg, self.world, self.task, self.progress, self.run_name = cfg, world, task, progress, folder.name
        self.total = train.END_EPOCH * progress.steps_per_epoch
        self.model = prepare_model(model, cfg, world)
        self.stage = build_stage(self.model, train, epoch=progress.epoch, world=world)
        self.dtype = number_format(train.AMP, world.device)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=train.AMP == "fp16")
        if checkpoint is not None:
            self.stage.load_optimizer(checkpoint["optimizer"], checkpoint["optimizer_names"])
            self.scaler.load_state_dict(checkpoint["scaler"])
        workers = worker_share(cfg.WORKERS, world=world)
        log.info("%d %s an epoch in %d steps of %d", len(task.dataset), task.unit, progress.steps_per_epoch,
                 progress.pairs_per_step)
        log.info("loader processes: %d for each training process (WORKERS is %d for all %d; this machine has %d CPUs)",
                 workers, cfg.WORKERS, world.local_size, len(available_cpus()))
        self.folder = folder if world.is_main else None
        self.board = Board(self.folder, first_step=progress.step, logger=cfg.LOGGER)
        self.board.text("config", yaml.safe_dump(cfg.as_dict(), sort_keys=False), progress.step)
        self.board.compare_by(cfg.summary() | {"pairs per step": progress.pairs_per_step})
        self.batches = DevicePrefetcher(task.dataset, self._sampler(world.rank, progress.step, self.total),
                                        workers=workers, device=world.device, timeout=train.DATA_TIMEOUT)
        self.bar = tqdm(total=self.total, initial=progress.step, unit="step", dynamic_ncols=True,
                        disable=None if world.is_main else True)
        self.monitor = StepMonitor(world, max_unreadable=cfg.DATASET.MAX_UNREADABLE, pairs_per_epoch=len(task.dataset),
                                   pairs_per_step=progress.pairs_per_step)
        self.ema = {name: value.clone() for name, value in self.model.state_dict().items()} if train.EMA else {}
        if checkpoint is not None:
            for name, value in self.ema.items():
                value.copy_(checkpoint["state_dict"][name])
        self.skipped = self.skipped_in_a_row = 0
        self.seconds_per_step = 0.0

    def run(self, stop: StopRequest) -> bool:
        """Train until END_EPOCH and return True, or until all processes agree to stop, save, and return False.

        The host waits for the device only every PRINT_FREQ steps and before a checkpoint.
        """
        train, progress = self.cfg.TRAIN, self.progress
        while progress.step < self.total:
            epoch = self.begin_epoch()
            start, end = epoch * progress.steps_per_epoch, (epoch + 1) * progress.steps_per_epoch
            while progress.step < end:
                self.stage.set_rate(learning_rate(train, epoch=epoch, step=progress.step - start,
                                                  steps_per_epoch=progress.steps_per_epoch))
                batches = [next(self.batches) for _ in range(train.ACCUMULATE)]
                output = self.take_step(batches)
                progress.step += 1

                stopping = stop.agreed()
                saving = (stopping or progress.step == end
                          or (train.SAVE_EVERY > 0 and progress.step % train.SAVE_EVERY == 0))
                if saving or progress.step % self.cfg.PRINT_FREQ == 0:
                    self.report()
                if progress.step == end:
                    self.end_epoch(batches[-1], output)
                if saving:
                    self.save(required=stopping)
                if stopping and progress.step < self.total:
                    return False
        return True

    def begin_epoch(self) -> int:
        """Return the number of the next step's epoch, from 0, after changing what trains if it begins another stage."""
        epoch = self.progress.epoch
        self.stage = build_stage(self.model, self.cfg.TRAIN, epoch=epoch, world=self.world, before=self.stage)
        self.stage.train_mode()
        if self.world.is_main:
            log.info("epoch %d/%d: %s", epoch + 1, self.cfg.TRAIN.END_EPOCH, self.stage.describe())
        self.monitor.restart_clock()
        return epoch

    def take_step(self, batches: Sequence[Any]) -> Any:
        """Take one step of the optimizer on the mean loss of batches on the device; return the output for the last.

        The statistics of BatchNorm and the mean over positive cells are those of each batch: where they matter, several
        batches are not exactly one of their size.
        """
        train, world, stage, parts = self.cfg.TRAIN, self.world, self.stage, len(batches)
        # Dropout, where a backbone has it, draws from the step's own seed: the same after a resume.
        torch.manual_seed((train.SEED * 1_000_003 + self.progress.step) * world.size + world.rank)
        statistics = [buffer.clone() for buffer in self.model.buffers()] if train.NONFINITE == "skip" else []
        stage.optimizer.zero_grad(set_to_none=True)
        found: list[dict[str, Tensor]] = []
        for batch in batches:
            with stage.accumulating(len(found) < parts - 1):
                with torch.autocast(world.device.type, dtype=self.dtype, enabled=self.dtype is not None):
                    output = self.task.predict(stage.module, batch, self._pixels)
                losses = self.task.losses(output, batch)
                self.scaler.scale(losses["total"] / parts).backward()
            found.append({name: loss.detach() for name, loss in losses.items()})
        self.scaler.unscale_(stage.optimizer)
        norm = get_total_norm([p.grad for p in stage.parameters() if p.grad is not None])
        if train.CLIP_GRAD > 0:
            clip_grads_with_norm_(stage.parameters(), train.CLIP_GRAD, norm)
        values = {name: torch.stack([losses[name] for losses in found]).mean() for name in found[0]} | {GRAD_NORM: norm}
        if self._is_usable(values):
            self.scaler.step(stage.optimizer)
            self.monitor.add(self.progress.step, values)
            self._average_weights()
        else:  # the batches must leave no trace, in BatchNorm's statistics neither
            for buffer, before in zip(self.model.buffers(), statistics, strict=True):
                buffer.copy_(before)
        self.scaler.update()
        self.monitor.add_unreadable([text for batch in batches for text in batch.unreadable])
        return output

    def _average_weights(self) -> None:
        """Move the average of weights and statistics towards the model's; at first faster than EMA says.

        The decay min(EMA, (1 + n) / (10 + n)) after n steps is that of TensorFlow's ExponentialMovingAverage.
        """
        if not self.ema:
            return
        decay = min(self.cfg.TRAIN.EMA, (1 + self.progress.step) / (10 + self.progress.step))
        weights = self.model.state_dict()
        names = [name for name, average in self.ema.items() if average.is_floating_point()]
        get_ema_multi_avg_fn(decay)([self.ema[name] for name in names], [weights[name] for name in names], 0)
        for name in self.ema.keys() - names:  # BatchNorm's counters
            self.ema[name].copy_(weights[name])

    def report(self) -> None:
        """Wait for the device, check that every number since the last report is finite, and log the averages."""
        summary = self.monitor.summarize(waited=self.batches.waited)
        if summary is None:
            return
        bad = first_bad_step(summary.values, overflow_ok=self.scaler.is_enabled())
        if bad is not None:
            self._stop_diverged(summary.first + bad[1], bad[0], values_text(summary.values[bad], summary.means))
        if self.world.is_main:
            self._log(summary)
        formats = {name: self.cfg.DATASET.SOURCES[name].FORMAT for name in self.cfg.TRAIN.WHICH_USE}
        self.monitor.hint_if_data_bound(advice(self.batches.workers, world=self.world, formats=formats))

    def _log(self, summary: StepSummary) -> None:
        progress, means, rates = self.progress, summary.means, self.stage.rates()
        per_step = summary.seconds / summary.values.shape[1]
        norm, pairs = means.pop(GRAD_NORM), progress.pairs_per_step / per_step
        values = {f"loss/{name}": value for name, value in means.items()}
        values |= {f"rate/{name}": rate for name, rate in rates.items()}
        values |= {GRAD_NORM: norm, "pairs_per_second": pairs, "data_wait": summary.data_wait}
        if self.world.device.type == "cuda":
            values["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self.world.device) / 2**30
        self.board.scalars(values, progress.step)
        self.seconds_per_step = 0.7 * self.seconds_per_step + 0.3 * per_step if self.seconds_per_step else per_step
        left = duration((self.total - progress.step) * self.seconds_per_step)
        parts = " ".join(f"{name} {value:.4f}" for name, value in means.items() if name != "total")
        text = (f"loss {means['total']:.4f} ({parts})  grad {norm:.3g}  rate {max(rates.values()):.3g}  "
                f"{pairs:.1f} {self.task.unit}/s  data {100 * summary.data_wait:.0f}%")
        epoch, step = divmod(progress.step - 1, progress.steps_per_epoch)
        place = f"epoch {epoch + 1}/{self.cfg.TRAIN.END_EPOCH}  step {step + 1}/{progress.steps_per_epoch}"
        PROGRESS.info("%s  %s  left %s", place, text, left)
        self.bar.set_postfix_str(f"{place}  {text}", refresh=False)
        self.bar.update(progress.step - self.bar.n)

    def end_epoch(self, batch: Any, output: Any) -> None:
        """Write the epoch's picture, of its last batch, and what the task measures of the weights that are saved."""
        if self.world.is_main and (picture := self.task.picture(batch, output)) is not None:
            self.board.picture(self.task.unit, picture, self.progress.step)
        scores = self.task.evaluate(self.model, self.ema, self.world, self._pixels)
        if scores and self.world.is_main:
            self.board.scalars({f"val/{name}": value for name, value in scores.items()}, self.progress.step)
            log.info("epoch %d/%d: %s", self.progress.epoch, self.cfg.TRAIN.END_EPOCH,
                     "  ".join(f"{name} {value:.4f}" for name, value in scores.items()))

    def save(self, *, required: bool = False) -> None:
        """Write a checkpoint; call `report` before it. When it cannot be written the one before stays.

        Then the run stops with a UserError, or goes on when ON_SAVE_ERROR says so and it is not `required`.
        Weights that are not finite are never written and always stop the run.
        """
        problem, fatal = "", True
        if self.world.is_main:
            try:
                check_finite(self.model.state_dict(), place=f"after step {self.progress.step}")
                fatal = required or self.cfg.TRAIN.ON_SAVE_ERROR == "stop"
                path = write_checkpoint(Path(self.cfg.CHECKPOINT_DIR), self.checkpoint(),
                                        keep_last=self.cfg.TRAIN.KEEP_LAST)
                log.info("saved %s", path)
            except UserError as error:
                problem = str(error)
            self.board.flush()
        problem, fatal = from_main((problem, fatal), self.world)
        if problem and fatal:
            raise UserError(problem)
        if problem:
            log.warning("%s; training goes on without this checkpoint (TRAIN.ON_SAVE_ERROR continue)", problem)
        self.monitor.restart_clock()

    def checkpoint(self) -> dict[str, Any]:
        """Return a checkpoint in the reference's keys (the first four), with what a resume needs besides."""
        progress = self.progress
        return {
            "epoch": progress.epoch, "arch": self.cfg.TRAIN.MODEL,
            "state_dict": self.ema or self.model.state_dict(), "optimizer": self.stage.optimizer.state_dict(),
            "optimizer_names": list(self.stage.names), "scaler": self.scaler.state_dict(), "model": self.model.spec,
            **self.task.record(),
            "config": self.cfg.as_dict(), "step": progress.step, "steps_per_epoch": progress.steps_per_epoch,
            "pairs_per_step": progress.pairs_per_step, "samples": progress.samples, "run": self.run_name,
            "torch": str(torch.__version__), **({"raw_state_dict": self.model.state_dict()} if self.ema else {}),
        }

    def close(self) -> None:
        self.bar.close()
        self.batches.close()
        self.board.close()

    def _pixels(self, crops: Tensor) -> Tensor:
        """Return uint8 crops as the network's float32, in the memory format of CHANNELS_LAST."""
        last = self.cfg.TRAIN.CHANNELS_LAST
        return crops.to(torch.float32, memory_format=torch.channels_last if last else torch.contiguous_format)

    def _sampler(self, rank: int, first: int, last: int) -> StreamSampler:
        """Return the sample numbers of a rank in the steps first .. last - 1 of the run, a list for each batch."""
        train = self.cfg.TRAIN
        sampler = StreamSampler(train.BATCH, rank=rank, world=self.world.size, start=self.progress.start)
        sampler.set_position(first * train.ACCUMULATE, last * train.ACCUMULATE)
        return sampler

    def _is_usable(self, values: dict[str, Tensor]) -> bool:
        """Return whether to take the step. With NONFINITE stop always, without waiting: `report` finds the fault.

        With skip it waits for the device and for the other ranks, and a step that is not finite in any is left out.
        """
        if self.cfg.TRAIN.NONFINITE == "stop":
            return True
        own = torch.stack([value.detach().float() for value in values.values()])
        rows = gather(own, self.world).cpu().double().numpy()[:, None]
        bad = first_bad_step(rows, overflow_ok=self.scaler.is_enabled())
        if bad is None:
            self.skipped_in_a_row = 0
            return True
        self.skipped += 1
        self.skipped_in_a_row += 1
        step, text = self.progress.step, values_text(rows[bad], values)
        if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            self._stop_diverged(step, bad[0], f"{text}; {self.skipped_in_a_row} steps in a row were skipped")
        if self.world.is_main:
            log.warning("%s: not finite (%s); step skipped, the %d. of this run %s", self._place(step), text,
                        self.skipped, self._dump(step, bad[0]))
        return False

    def _stop_diverged(self, step: int, rank: int, values: str) -> None:
        where = f"rank {rank}, " if self.world.size > 1 else ""
        text = (f"{self._place(step)}: loss or gradient is not finite ({where}{values}); lower the rate, or clip with "
                f"TRAIN.CLIP_GRAD ")
        raise UserError(from_main(text + self._dump(step, rank) if self.world.is_main else "", self.world))

    def _place(self, step: int) -> str:
        epoch, within = divmod(step, self.progress.steps_per_epoch)
        return f"epoch {epoch + 1} step {within + 1}"

    def _dump(self, step: int, rank: int) -> str:
        """Write the batch that a rank had in a step for inspection and return where it is. Rank 0 only."""
        assert self.folder is not None
        path = self.folder / f"not_finite_e{step // self.progress.steps_per_epoch + 1}_s{step + 1}_rank{rank}.npz"
        numbers = [number for batch in self._sampler(rank, step, step + 1) for number in batch]
        return dump_batch(path, self.task.dataset, numbers)

