"""Networks whose answer is known, a moving square to follow, and small checkpoints, for the tests of tracking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from lib.checkpoint import save_checkpoint
from lib.models.models import Ocean, build_model
from lib.models.ocean import Ocean_, OceanOutput, TemplateFeatures
from lib.tracker.params import TrackerParams

NO_TEMPLATE = TemplateFeatures(torch.zeros(1, 1, 7, 7), (torch.zeros(1, 1, 5, 5),) * 3, (torch.zeros(1, 1, 5, 5),) * 3)


class Scripted(Ocean_):
    """Returns the given outputs one after the other and remembers what it was shown."""

    def __init__(self, outputs: list[OceanOutput]) -> None:
        super().__init__()
        self.outputs = iter(outputs)
        self.seen: list[torch.Tensor] = []

    def template(self, z: torch.Tensor) -> TemplateFeatures:
        self.seen.append(z.clone())
        return NO_TEMPLATE

    def track(self, x: torch.Tensor, template: TemplateFeatures) -> OceanOutput:
        self.seen.append(x.clone())
        return next(self.outputs)


class Oracle(Ocean_):
    """Finds the red square in the search crop and answers with its exact box, as a perfectly trained network would."""

    def template(self, z: torch.Tensor) -> TemplateFeatures:
        return NO_TEMPLATE

    def track(self, x: torch.Tensor, template: TemplateFeatures) -> OceanOutput:
        side = (x.shape[-1] - 127) // 8 + 9
        points = (torch.arange(side) - side // 2) * 8.0 + x.shape[-1] // 2
        ltrb, cls = torch.full((len(x), 4, side, side), 1.0), torch.full((len(x), 1, side, side), -20.0)
        for row, crop in enumerate(x):
            red = (crop[2] - crop[1]).clamp(min=0) / 200
            across, down = red.sum(0), red.sum(1)
            px = torch.arange(x.shape[-1], dtype=torch.float32) + 0.5
            cx, cy = (across * px).sum() / across.sum(), (down * px).sum() / down.sum()
            w, h = across.max(), down.max()
            width, height = red.sum() / w, red.sum() / h
            ltrb[row, 0], ltrb[row, 2] = points - (cx - width / 2), cx + width / 2 - points
            ltrb[row, 1], ltrb[row, 3] = (points - (cy - height / 2))[:, None], (cy + height / 2 - points)[:, None]
            cls[row, 0, (points - cy).abs().argmin(), (points - cx).abs().argmin()] = 20.0
        return OceanOutput(ltrb, cls, None)


def answer(
    *, side: int = 25, ltrb: tuple[float, ...] = (10, 10, 10, 10), aligned: bool = False, batch: int = 1
) -> OceanOutput:
    """Return an output that is the same in every cell: logit 0 (score 0.5) and the given distances."""
    maps = torch.tensor(ltrb).view(1, 4, 1, 1).expand(batch, 4, side, side).clone()
    zeros = torch.zeros(batch, 1, side, side)
    return OceanOutput(maps, zeros, zeros.clone() if aligned else None)


def square_frames(count: int, *, size_wh: tuple[int, int] = (240, 180), side: int = 30, step: float = 3.0,
                  ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return images of a red square that moves over a gray ground, each with its box (4,), origin 0."""
    for index in range(count):
        image = np.full((size_wh[1], size_wh[0], 3), 90, np.uint8)
        x, y = round(60 + step * index), round(50 + 0.5 * step * index)
        image[y : y + side, x : x + side] = (20, 20, 220)
        yield image, np.array([x, y, side, side], np.float64)


def small_model(*, seed: int = 0, align: bool = False, online: bool = False) -> Ocean:
    """Return a slim Ocean with random weights."""
    torch.manual_seed(seed)
    return build_model(backbone="ResNetSmall", backbone_options={"width": 4}, channels=16, towernum=1, align=align,
                       online=online, online_pixels="raw")


def small_checkpoint(path: Path, *, seed: int = 0, align: bool = False, online: bool = False,
                     scale: float = 1.0) -> Path:
    """Save a slim Ocean; `scale` multiplies the box branch's weights, which far above 1 overflow to infinity."""
    model = small_model(seed=seed, align=align, online=online)
    with torch.no_grad():
        model.connect_model.bbox_pred.weight.mul_(scale)
    state = {"epoch": 1, "arch": "Ocean", "state_dict": model.state_dict(), "model": model.spec}
    save_checkpoint(path, state)
    return path


def write_squares(root: Path, names: dict[str, int], *, gray: bool = False) -> Path:
    """Write OTB-form sequences of the moving square: name -> number of frames. Returns `root`."""
    for number, (name, count) in enumerate(names.items()):
        (root / name / "img").mkdir(parents=True)
        rows = []
        for index, (image, box) in enumerate(square_frames(count, step=2.0 + number)):
            pixels = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if gray else image
            cv2.imwrite(str(root / name / "img" / f"{index + 1:04d}.jpg"), pixels)
            rows.append(box + np.array([1, 1, 0, 0]))
        text = "".join(",".join(f"{v:g}" for v in row) + "\n" for row in rows)
        (root / name / "groundtruth_rect.txt").write_text(text, encoding="utf-8")
    return root


PLAIN = TrackerParams(penalty_k=0.0, lr=1.0, window_influence=0.0, small_sz=255, big_sz=255, ratio=0.9)
