"""Weights and inputs made from names and shapes alone: the recipe behind the reference's golden outputs."""

import re
import zlib

import numpy as np
import torch
from torch import Tensor, nn

GAINS = {
    r"features\.features\.conv1\.weight": 1 / 128,
    r"features\..*\.bn3\.weight": 0.25,
    r"features\..*\.downsample\.1\.weight": 0.7,
    r"neck\.downsample\.1\.weight": 0.7,
    r"connect_model\.(cls|reg)_encode\.matrix.*_k\.1\.weight": 0.15,
    r"connect_model\.bbox_pred\.weight": 4.0,
    r"connect_model\.cls_pred\.weight": 8.0,
}
CONSTANTS = {"connect_model.adjust": 0.1, "connect_model.bias": 3.0}


def fill(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return the value of one entry of the state dict: normal numbers seeded by its name, scaled to keep magnitudes."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name in CONSTANTS:
        return torch.full(shape, CONSTANTS[name])
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    gain = next((g for pattern, g in GAINS.items() if re.fullmatch(pattern, name)), 1.0)
    if name.endswith("_dw.weight"):
        value = noise
    elif name.endswith("running_var"):
        value = 1 + 0.1 * np.abs(noise)
    elif name.endswith(".weight") and len(shape) == 4:
        value = gain * noise * np.sqrt(2.0 / np.prod(shape[1:]))
    elif name.endswith(".weight"):
        value = gain * (1 + 0.1 * noise)
    else:
        value = 0.1 * noise
    return torch.from_numpy(np.asarray(value, np.float32))


def fill_model(model: nn.Module) -> None:
    """Fill a model by the recipe and put it in eval mode."""
    model.load_state_dict({name: fill(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()})
    model.eval()


def crop(size: int, *, seed: int, batch: int = 1) -> Tensor:
    """Return noise crops (B, 3, size, size) in 0..255; seed 0 for the template and 1 for the search in the golden."""
    return torch.from_numpy(np.random.RandomState(seed).uniform(0, 255, (batch, 3, size, size)).astype(np.float32))
