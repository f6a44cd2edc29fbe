"""What a training learns: boxes and scores from pairs, the online branch from clips, or classes from pictures.

All else (processes, schedules, resume, checkpoints, TensorBoard) is the same and does not know which it is.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, Subset

from lib.boxes import xywh_to_xyxy
from lib.config import Config, PretrainConfig
from lib.crops import cells_to_px
from lib.datasets.classes import ClassDataset, Labelled, open_pictures
from lib.datasets.dataset import ClipSample, Sample, build_dataset
from lib.distributed import World, gather, gather_texts
from lib.errors import UserError
from lib.log import training_picture
from lib.models.losses import ocean_loss, online_loss, presence_loss
from lib.models.models import Classifier, build_model
from lib.models.ocean import OceanOutput
from lib.models.pretrained import OURS

log = logging.getLogger(__name__)

PICTURED = 4  # pairs in the picture of an epoch
ToFloat = Callable[[Tensor], Tensor]  # uint8 crops to the network's input


class Task(Protocol):
    """A data set, a model, a loss, and what is measured at an epoch's end."""

    unit: str  # what the data set counts
    dataset: Any
    frozen_start: bool  # the trunk may rest at first, so it must have weights

    def build(self) -> nn.Module:
        """Return the model with random weights; it has `spec` and `trunk_layers()`."""

    def predict(self, module: nn.Module, batch: Any, to_float: ToFloat) -> Any:
        """Return the output for a batch on the device."""

    def losses(self, output: Any, batch: Any) -> dict[str, Tensor]:
        """Return scalars by name; "total" is what is minimised."""

    def picture(self, batch: Any, output: Any) -> NDArray[Any] | None:
        """Return a picture of a batch for TensorBoard, or None."""

    def evaluate(self, model: nn.Module, average: Mapping[str, Tensor], world: World,
                 to_float: ToFloat) -> dict[str, float]:
        """Return scores by name of the model, or of its averaged weights where there are some; all ranks call it."""

    def record(self) -> dict[str, Any]:
        """Return what a checkpoint says besides."""


class Tracking:
    """The tracker: pairs of crops to boxes and scores."""

    unit, command, frozen_start = "pairs", "train", True

    def __init__(self, cfg: Config, dataset: Any = None) -> None:
        self.cfg, self.dataset = cfg, build_dataset(cfg) if dataset is None else dataset

    def build(self) -> nn.Module:
        """Return the model that TRAIN describes."""
        return build_model(**self.cfg.model_options())

    def predict(self, module: nn.Module, batch: Sample, to_float: ToFloat) -> OceanOutput:
        """Return the predictions for the batch's pairs."""
        output: OceanOutput = module(to_float(batch.template), to_float(batch.search))
        return output

    def losses(self, output: OceanOutput, batch: Sample) -> dict[str, Tensor]:
        """Return Ocean's losses."""
        return ocean_loss(output, cls_target=batch.cls_target, ltrb_target=batch.ltrb_target, weight=batch.weight)

    def picture(self, batch: Sample, output: OceanOutput) -> NDArray[Any]:
        """Return the first pairs of a batch with boxes and score map."""
        score = output.cls[:PICTURED, 0].detach().float().sigmoid().cpu().numpy()
        ltrb = output.ltrb[:PICTURED].detach().float().cpu().numpy()
        template, search, box = (t[:PICTURED].cpu().numpy() for t in (batch.template, batch.search, batch.box_xyxy))
        return training_picture(template, search, box, best_boxes(ltrb, score, search.shape[-1]), score)

    def evaluate(self, model: nn.Module, average: Mapping[str, Tensor], world: World,
                 to_float: ToFloat) -> dict[str, float]:
        """Return nothing: a tracker is tested by tracking."""
        return {}

    def record(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


class OnlineTracking(Tracking):
    """The online branch beside a resting tracker: clips of six frames to score maps, through the solver."""

    unit = "clips"

    def build(self) -> nn.Module:
        """Return the model that TRAIN describes, its forward pass that of the online branch."""
        model = build_model(**self.cfg.model_options())
        model.forward = model.learn_online  # type: ignore[assignment,method-assign]  # what DistributedDataParallel calls
        return model

    def predict(self, module: nn.Module, batch: ClipSample, to_float: ToFloat) -> list[Tensor]:  # type: ignore[override]
        """Return the score maps (B, 3, 18, 18) of the test frames under the first filter and after each iteration."""
        train, test = (to_float(crops.transpose(0, 1).flatten(0, 1)) for crops in (batch.train, batch.test))
        scores: list[Tensor] = module(train, test, batch.train_box.transpose(0, 1))
        return scores

    def losses(self, output: list[Tensor], batch: ClipSample) -> dict[str, Tensor]:  # type: ignore[override]
        """Return DiMP's losses."""
        return online_loss(output, batch.label)

    def picture(self, batch: ClipSample, output: list[Tensor]) -> NDArray[Any]:  # type: ignore[override]
        """Return the first frame to learn from and the first to find of some clips, with its box and score map."""
        score, train, test, box = (t[:PICTURED, 0].detach().cpu().numpy()
                                   for t in (output[-1], batch.train, batch.test, batch.test_box))
        return training_picture(train, test, xywh_to_xyxy(box), np.full_like(box, np.nan), score)


class PresenceTracking(Tracking):
    """The presence branch beside a resting tracker, on what the tracker takes for its target in pairs."""

    def build(self) -> nn.Module:
        """Return the model that TRAIN describes, its forward pass that of the presence branch."""
        model = build_model(**self.cfg.model_options())
        model.forward = model.learn_presence  # type: ignore[assignment,method-assign]  # as in `OnlineTracking`
        return model

    def losses(self, output: tuple[OceanOutput, Tensor], batch: Sample) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the losses of the branch."""
        return presence_loss(*output, ltrb_target=batch.ltrb_target)

    def picture(self, batch: Sample, output: tuple[OceanOutput, Tensor]) -> NDArray[Any]:  # type: ignore[override]
        """Return the first pairs of a batch with boxes and the map of the branch in place of the score's."""
        return super().picture(batch, output[0]._replace(cls=output[1].diagonal().permute(2, 0, 1)[:, None]))


# What trains beside a tracker, by the key of TRAIN that says so.
BRANCHES: dict[str, type[Tracking]] = {"ONLINE": OnlineTracking, "PRESENCE": PresenceTracking}


class Classification:
    """A classifier of the tracker's parts: pictures to classes. Mixing of pictures is timm's."""

    unit, command, frozen_start = "pictures", "pretrain", False

    def __init__(self, cfg: Any) -> None:
        self.cfg: PretrainConfig = cfg
        train, val = open_pictures(cfg.CLASSES)
        self.dataset, self.val = (ClassDataset(pictures, cfg.CLASSES, seed=cfg.TRAIN.SEED, train=pictures is train)
                                  for pictures in (train, val))
        self.classes = train.classes
        log.info("%d classes, %d pictures to train on, %d to validate on", len(self.classes), len(self.dataset),
                 len(self.val))
        self._mix: Any = None
        if cfg.CLASSES.MIXUP or cfg.CLASSES.CUTMIX:
            self._mix = importlib.import_module("timm.data").Mixup(
                mixup_alpha=cfg.CLASSES.MIXUP, cutmix_alpha=cfg.CLASSES.CUTMIX, num_classes=len(self.classes),
                label_smoothing=cfg.CLASSES.LABELSMOOTH)

    def build(self) -> nn.Module:
        """Return the classifier of TRAIN.BACKBONE."""
        return Classifier(backbone=self.cfg.TRAIN.BACKBONE, backbone_options=self.cfg.TRAIN.BACKBONE_OPTIONS,
                          num_classes=len(self.classes))

    def predict(self, module: nn.Module, batch: Labelled, to_float: ToFloat) -> tuple[Tensor, Tensor]:
        """Return the logits of the batch's pictures, mixed as the keys say, and the classes as they were mixed."""
        pixels, target = to_float(batch.image), batch.label
        if self._mix is not None:
            np.random.seed(torch.initial_seed() % 2**32)  # the step's own seed; timm draws from the global generator
            pixels, target = self._mix(pixels, target)
        return module(pixels), target

    def losses(self, output: tuple[Tensor, Tensor], batch: Labelled) -> dict[str, Tensor]:
        """Return the cross-entropy, with smoothed labels, and the share of pictures whose class came first."""
        logits, target = output[0].float(), output[1]
        smoothing = self.cfg.CLASSES.LABELSMOOTH if self._mix is None else 0.0  # the mixed ones are smooth already
        loss = F.cross_entropy(logits, target, label_smoothing=smoothing)
        return {"total": loss, "top1": (logits.argmax(1) == batch.label).float().mean()}

    def picture(self, batch: Labelled, output: Any) -> None:
        """Return nothing."""

    @torch.no_grad()
    def evaluate(self, model: nn.Module, average: Mapping[str, Tensor], world: World,
                 to_float: ToFloat) -> dict[str, float]:
        """Return top-1 and top-5 (0..1) on the validation pictures, each rank counting its share of them.

        Unreadable ones are left out, named and counted; raises UserError when they are more than MAX_UNREADABLE.
        """
        model.eval()
        unreadable: list[str] = []
        own = Subset(self.val, range(world.rank, len(self.val), world.size))
        hits = torch.zeros(3, dtype=torch.float64)
        for batch in DataLoader(own, batch_size=self.cfg.TRAIN.BATCH, collate_fn=_collate_labelled):
            pixels = to_float(batch.image.to(world.device))
            logits = functional_call(model, dict(average), (pixels,)) if average else model(pixels)
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices.cpu() == batch.label[:, None]
            hits += torch.tensor([best[:, 0].sum(), best.any(1).sum(), (batch.label >= 0).sum()], dtype=torch.float64)
            unreadable += batch.unreadable
        if texts := gather_texts(unreadable, world):
            allowed = int(self.cfg.DATASET.MAX_UNREADABLE * len(self.val))
            said = f"{len(texts)} unreadable validation picture(s), {allowed} are tolerated: {', '.join(texts[:5])}"
            if len(texts) > allowed:
                raise UserError(f"{said}; mend or remove them, or raise DATASET.MAX_UNREADABLE")
            log.warning("%s; left out of the scores", said)
        first, five, count = gather(hits, world).sum(0).tolist()
        return {"top1": first / count, "top5": five / count}

    def record(self) -> dict[str, Any]:
        """Return the classes, and what the trunk was trained on, for those who import it."""
        return {"classes": self.classes, "input": {"order": OURS.order, "mean": list(OURS.mean), "std": list(OURS.std)}}


def _collate_labelled(items: list[Labelled]) -> Labelled:
    return Labelled(torch.stack([item.image for item in items]), torch.stack([item.label for item in items]),
                    tuple(text for item in items for text in item.unreadable))


def best_boxes(ltrb: NDArray[Any], score: NDArray[Any], search: int) -> NDArray[Any]:
    """Return the boxes_xyxy (B, 4) in search px predicted at each map's highest score.

    ltrb (B, 4, S, S) px, score (B, S, S), search: the crop's side.
    """
    side = score.shape[-1]
    cells = score.reshape(len(score), -1).argmax(1)
    left, top, right, bottom = ltrb.reshape(len(ltrb), 4, -1)[np.arange(len(ltrb)), :, cells].T
    grid_x, grid_y = (cells_to_px(cell, side=side, search_size=search) for cell in (cells % side, cells // side))
    return np.stack([grid_x - left, grid_y - top, grid_x + right, grid_y + bottom], axis=1)
