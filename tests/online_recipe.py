"""Weights, maps and boxes behind the reference's golden numbers of the online branch, from names and seeds alone."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor, nn


def normal(seed: int | str, shape: tuple[int, ...]) -> np.ndarray:
    """Return standard normal numbers; a text seeds by its CRC-32."""
    number = zlib.crc32(seed.encode()) if isinstance(seed, str) else seed
    return np.random.RandomState(number).standard_normal(shape)


def fill_classifier(classifier: nn.Module) -> None:
    """Fill a classifier by the recipe: tables and solver near their beginnings, convolutions with noise."""
    d = 0.1 * np.arange(100).reshape(1, 100, 1, 1)
    centres = {"log_step_length": (np.log(0.9), 0.02), "filter_reg": (1.0, 0.05), "filter_conv.bias": (0.0, 0.005),
               "label_map_predictor.weight": (np.exp(-0.5 * (d / 0.85) ** 2), 0.01),
               "target_mask_predictor.0.weight": (3 * np.tanh(2 - d), 0.1),
               "spatial_weight_predictor.weight": (1.0, 0.1)}
    values = {}
    for name, tensor in classifier.state_dict().items():
        noise = normal(f"g5/classifier.{name}", tuple(tensor.shape))
        centre, spread = next((value for end, value in centres.items() if name.endswith(end)),
                              (0.0, np.sqrt(2 / np.prod(tensor.shape[1:]))))
        values[name] = torch.from_numpy((centre + spread * noise).astype(np.float32))
    classifier.load_state_dict(values)


def trunk_map(seed: int, count: int, *, side: int = 13, channels: int = 1024) -> Tensor:
    """Return layeronline's output made up, (count, channels, side, side), not negative, smooth over the cells."""
    n = normal(seed, (count, channels, side + 2, side + 2))
    smooth = sum(n[:, :, i:i + side, j:j + side] for i in range(3) for j in range(3)) / 3.0
    return torch.from_numpy(np.maximum(smooth, 0.0).astype(np.float32))


def boxes(seed: int, count: int, *, size: int = 224) -> Tensor:
    """Return target boxes x, y, w, h in px of a crop of `size`, (count, 4)."""
    u = np.random.RandomState(seed).uniform(size=(count, 4))
    wh = size * (0.15 + 0.2 * u[:, 2:])
    return torch.from_numpy(np.concatenate([size * (0.35 + 0.3 * u[:, :2]) - wh / 2, wh], axis=1).astype(np.float32))
