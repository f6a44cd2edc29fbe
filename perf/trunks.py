"""What trunks cost and how well they keep to the tracker's grid: the rows of docs/MODELS.md.

    python perf/trunks.py --trunks ResNet50 timm:convnext_atto timm:convnext_atto:8
    python perf/trunks.py --trunks timm:convnext_atto timm:resnet50:dilated OceanLite --pictures A.jpg B.jpg

A trunk is a BACKBONE, timm:NAME with :8 for stride 8 alone or :dilated, or trained weights. Cost is that of the trunk
with its last block for one search crop of 255 px: parameters, FLOPs, and crops a second of processor time (the best of
three after one, random weights).

With pictures: crops moved by 8 and by 16 px against their maps moved by 1 and 2 cells. The number for a map is the
mean change of its inner 15 x 15 cells, over that without moving the cells back: 0 is exact, 1 as bad as not knowing of
the move. With trained weights also the score's: its mean change (0..1) in the inner 15 x 15 cells, and how far the peak
goes astray at most. Each picture is scaled to 303 px; its middle is the template.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lib.checkpoint import find_weights, load_model
from lib.images import read_image
from lib.models.models import Ocean, build_model
from lib.tools.measure import calibrate_bn, commit, machine


def model_of(word: str) -> Ocean:
    if find_weights(word).is_file():
        return load_model(word)
    backbone, *rest = word.split(":")
    strides = [8] if "8" in rest else [8, 16]
    options = {"name": rest[0], "strides": strides, "dilated": "dilated" in rest} if rest else {}
    torch.manual_seed(0)
    return build_model(backbone=backbone, backbone_options=options, channels=32, towernum=2).eval()


def deep(model: Ocean, crop: Tensor) -> Tensor:
    """Return the map behind the trunk's last block."""
    tail, found = model.features_single or model.features_mhsa, model.features(crop)[1]
    return found if tail is None else tail(found)


def cost(model: Ocean) -> list[str]:
    """Return million parameters, GFLOP, channels and crops a second."""
    crop = torch.rand(1, 3, 255, 255) * 255
    calibrate_bn(model)
    parts = [model.features, model.features_single, model.features_mhsa]
    parameters = sum(p.numel() for part in parts if part is not None for p in part.parameters())
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        channels = deep(model, crop).shape[1]
    taken = []
    for _ in range(3):
        start = time.process_time()
        deep(model, crop)
        taken.append(time.process_time() - start)
    flops = counter.get_total_flops()
    return [f"{parameters / 1e6:.2f}", f"{flops / 1e9:.2f}", str(channels), f"{1 / min(taken):.1f}"]


def moved_and_back(maps: dict[int, Tensor], shift: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the inner cells of (1, C, S, S) for the crop `shift` px further down, for the first one, and unmoved."""
    low = maps[0].shape[-1] // 2 - 7
    rows = [(maps[shift], low), (maps[0], low + shift // 8), (maps[0], low)]
    moved, back, still = (tensor[..., start:start + 15, low:low + 15] for tensor, start in rows)
    return moved, back, still


def peak(score: Tensor) -> Tensor:
    return torch.tensor(divmod(int(score.argmax()), score.shape[-1]))


def grid(model: Ocean, pictures: list[Tensor], *, trained: bool) -> list[str]:
    """Return what a move of the crop changes."""
    cells = []
    for shift in (8, 16):
        changes, scores, astray = [], [], 0
        for picture in pictures:
            crops = {by: picture[..., by:by + 255, 24:279] for by in (0, shift)}
            moved, back, still = moved_and_back({by: deep(model, crop) for by, crop in crops.items()}, shift)
            changes.append(float((moved - back).abs().mean() / (moved - still).abs().mean()))
            if trained:
                template = model.template(picture[..., 88:215, 88:215])
                score = {by: model.track(crop, template).cls.sigmoid() for by, crop in crops.items()}
                moved, back, _ = moved_and_back(score, shift)
                scores.append(float((moved - back).abs().mean()))
                astray = max(astray, int((peak(moved) - peak(back)).abs().max()))
        cells.append(f"{sum(changes) / len(changes):.3f}")
        if trained:
            cells.append(f"score {sum(scores) / len(scores):.3f}, peak astray by {astray}")
    return cells


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--trunks", nargs="+", required=True)
parser.add_argument("--pictures", nargs="+", type=Path, default=[])
args = parser.parse_args()
found = [torch.from_numpy(read_image(path).copy()).permute(2, 0, 1)[None].float() for path in args.pictures]
found = [torch.nn.functional.interpolate(p, size=(303, 303), mode="bilinear", antialias=True) for p in found]
print("trunk | map by 8 px | by 16 px" if found else "trunk | M parameters | GFLOP | channels | crops/s", flush=True)
with torch.no_grad():
    for word in args.trunks:
        model = model_of(word)
        row = grid(model, found, trained=find_weights(word).is_file()) if found else cost(model)
        print(" | ".join([word, *row]), flush=True)
print(f"{machine(torch.device('cpu'))}; commit {commit()}")
