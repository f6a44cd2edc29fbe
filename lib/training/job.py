"""A training job's state, and what it does between steps: tell, draw, save."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lib.config import Config
from lib.crops import cells_to_px
from lib.datasets.dataset import OceanDataset
from lib.datasets.sample import Sample
from lib.distributed import StopRequest, World, from_main, gather
from lib.errors import UserError
from lib.log import PROGRESS, Board, duration, training_picture
from lib.models.models import Ocean
from lib.models.ocean import OceanOutput
from lib.training import checkpoints as resume
from lib.training.loader import Feed, advice
from lib.training.monitor import MAX_SKIPPED_IN_A_ROW, Look, Watch, dump_batch, first_bad_step, values_text
from lib.training.stage import Stage

log = logging.getLogger(__name__)

PICTURED = 4  # pairs in the picture of an epoch


@dataclass
class Job:
    """What lives as long as the run. `step` counts the steps done, over all epochs."""

    cfg: Config
    world: World
    model: Ocean
    dataset: OceanDataset
    folder: Path | None  # the run's TensorBoard folder; rank 0 only
    run: str  # its name, the same in every process
    steps: int  # per epoch
    step: int
    start: int  # of the stream: the number of the first sample of step 0
    scaler: torch.amp.GradScaler
    feed: Feed
    watch: Watch
    board: Board
    stop: StopRequest
    bar: tqdm[Any]
    seconds_per_step: float = 0.0
    skipped: int = field(default=0)
    skipped_in_a_row: int = field(default=0)

    @property
    def pairs_per_step(self) -> int:
        """Return the pairs of one step over all processes."""
        return self.cfg.TRAIN.BATCH * self.world.size

    @property
    def total(self) -> int:
        """Return the steps of the whole run."""
        return self.cfg.TRAIN.END_EPOCH * self.steps

    def pixels(self, crops: Tensor) -> Tensor:
        """Return uint8 crops as the network's float32, in the memory format of CHANNELS_LAST."""
        last = self.cfg.TRAIN.CHANNELS_LAST
        return crops.to(torch.float32, memory_format=torch.channels_last if last else torch.contiguous_format)

    def look(self, stage: Stage) -> None:
        """Wait for the device, check that every number since the last look is finite, and tell the averages."""
        found = self.watch.look(waited=self.feed.waited)
        if found is None:
            return
        look, rows, first = found
        bad = first_bad_step(rows, names=self.watch.names, overflow_ok=self.scaler.is_enabled())
        if bad is not None:
            rank, index = bad
            self._diverged(first + index, rank, values_text(rows[rank, index], self.watch.names))
        if self.world.is_main:
            self._tell(look, stage)
        formats = {name: self.cfg.DATASET.SOURCES[name].FORMAT for name in self.cfg.TRAIN.WHICH_USE}
        self.watch.hint_if_data_bound(advice(self.feed.workers, world=self.world, formats=formats))

    def _tell(self, look: Look, stage: Stage) -> None:
        pairs = look.steps * self.pairs_per_step / look.seconds
        values = {f"loss/{name}": value for name, value in look.means.items() if name != "grad_norm"}
        values |= {f"rate/{name}": rate for name, rate in stage.rates().items()}
        values |= {"grad_norm": look.means["grad_norm"], "pairs_per_second": pairs, "data_wait": look.wait}
        if self.world.device.type == "cuda":
            values["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self.world.device) / 2**30
        self.board.scalars(values, self.step)
        per_step = look.seconds / look.steps
        self.seconds_per_step = 0.7 * self.seconds_per_step + 0.3 * per_step if self.seconds_per_step else per_step
        done = (self.step - 1) % self.steps + 1
        losses = {name: value for name, value in look.means.items() if name not in ("total", "grad_norm")}
        parts = " ".join(f"{name} {value:.4f}" for name, value in losses.items())
        text = (f"loss {look.means['total']:.4f} ({parts})  grad {look.means['grad_norm']:.3g}  "
                f"rate {max(stage.rates().values()):.3g}  {pairs:.1f} pairs/s  data {100 * look.wait:.0f}%")
        place = f"epoch {(self.step - 1) // self.steps + 1}/{self.cfg.TRAIN.END_EPOCH}  step {done}/{self.steps}"
        left = duration((self.total - self.step) * self.seconds_per_step)
        PROGRESS.info("%s  %s  left %s", place, text, left)
        self.bar.set_postfix_str(f"{place}  {text}", refresh=False)
        self.bar.update(self.step - self.bar.n)

    def draw(self, batch: Sample, output: OceanOutput) -> None:
        """Write the epoch's picture: the first pairs of its last batch with boxes and score map. Rank 0 only."""
        if not self.world.is_main:
            return
        score = output.cls[:PICTURED, 0].detach().float().sigmoid().cpu().numpy()
        ltrb = output.ltrb[:PICTURED].detach().float().cpu().numpy()
        template, search, box = (t[:PICTURED].cpu().numpy() for t in (batch.template, batch.search, batch.box_xyxy))
        picture = training_picture(template, search, box, best_boxes(ltrb, score, search.shape[-1]), score)
        self.board.picture("pairs", picture, self.step)

    def save(self, stage: Stage, *, required: bool = False) -> None:
        """Write a checkpoint; call `look` before it. When it cannot be written the one before stays.

        Then the run stops with a UserError, or goes on when ON_SAVE_ERROR says so and it is not `required`.
        Weights that are not finite are never written and always stop the run.
        """
        problem, fatal = "", True
        if self.world.is_main:
            try:
                resume.check_finite(self.model.state_dict(), place=f"after step {self.step}")
                fatal = required or self.cfg.TRAIN.ON_SAVE_ERROR == "stop"
                path = resume.write_checkpoint(Path(self.cfg.CHECKPOINT_DIR), self._content(stage),
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
        self.watch.restart_clock()

    def _content(self, stage: Stage) -> dict[str, Any]:
        """Return a checkpoint in the reference's keys (the first four), with what a resume needs besides."""
        return {
            "epoch": self.step // self.steps, "arch": self.cfg.TRAIN.MODEL, "state_dict": self.model.state_dict(),
            "optimizer": stage.optimizer_state(), "optimizer_names": list(stage.names),
            "scaler": self.scaler.state_dict(), "model": self.model.spec, "config": self.cfg.as_dict(),
            "step": self.step, "steps_per_epoch": self.steps, "pairs_per_step": self.pairs_per_step,
            "samples": self.start + self.step * self.pairs_per_step, "run": self.run, "torch": str(torch.__version__),
        }

    def usable(self, losses: dict[str, Tensor], norm: Tensor) -> bool:
        """Return whether to take the step. With NONFINITE stop always, without waiting: `look` finds the fault.

        With skip it waits for the device and for the other ranks, and a step that is not finite in any is left out.
        """
        if self.cfg.TRAIN.NONFINITE == "stop":
            return True
        values = torch.stack([*losses.values(), norm.to(losses["total"].dtype)]).detach()
        rows = gather(values, self.world).cpu().double().numpy()[:, None]
        names = (*losses, "grad_norm")
        bad = first_bad_step(rows, names=names, overflow_ok=self.scaler.is_enabled())
        if bad is None:
            self.skipped_in_a_row = 0
            return True
        self.skipped += 1
        self.skipped_in_a_row += 1
        text = values_text(rows[bad[0], 0], names)
        if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            self._diverged(self.step, bad[0], f"{text}; {self.skipped_in_a_row} steps in a row were skipped")
        if self.world.is_main:
            log.warning("%s: not finite (%s); step skipped, the %d. of this run %s", self._place(self.step), text,
                        self.skipped, self._dump(self.step, bad[0]))
        return False

    def _diverged(self, step: int, rank: int, values: str) -> None:
        where = f"rank {rank}, " if self.world.size > 1 else ""
        text = (f"{self._place(step)}: loss or gradient is not finite ({where}{values}); lower the rate, or clip with "
                f"TRAIN.CLIP_GRAD ")
        raise UserError(from_main(text + self._dump(step, rank) if self.world.is_main else "", self.world))

    def _place(self, step: int) -> str:
        return f"epoch {step // self.steps + 1} step {step % self.steps + 1}"

    def _dump(self, step: int, rank: int) -> str:
        assert self.folder is not None
        path = self.folder / f"not_finite_e{step // self.steps + 1}_s{step + 1}_rank{rank}.npz"
        return dump_batch(path, self.dataset, self._numbers(step, rank))

    def _numbers(self, step: int, rank: int) -> list[int]:
        """Return the numbers of the samples that a rank had in a step, as StreamSampler gives them out."""
        first = self.start + step * self.pairs_per_step + rank
        return list(range(first, first + self.pairs_per_step, self.world.size))


def best_boxes(ltrb: np.ndarray[Any, Any], score: np.ndarray[Any, Any], search: int) -> np.ndarray[Any, Any]:
    """Return the boxes_xyxy (B, 4) in search px predicted at each map's highest score.

    ltrb (B, 4, S, S) px, score (B, S, S), search: the crop's side.
    """
    side = score.shape[-1]
    cells = score.reshape(len(score), -1).argmax(1)
    left, top, right, bottom = ltrb.reshape(len(ltrb), 4, -1)[np.arange(len(ltrb)), :, cells].T
    grid_x, grid_y = (cells_to_px(cell, side=side, search_size=search) for cell in (cells % side, cells // side))
    return np.stack([grid_x - left, grid_y - top, grid_x + right, grid_y + bottom], axis=1)
