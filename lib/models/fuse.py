"""A model made faster for tracking: each BatchNorm becomes part of the convolution before it."""

from __future__ import annotations

import copy
import itertools
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Model = TypeVar("Model", bound=nn.Module)


def fuse_for_inference(model: Model) -> Model:
    """Return a copy in eval mode that computes the same to rounding, without BatchNorm layers behind convolutions.

    `model` stays as it is. The copy's parameters have other names: it is for use, not for saving or training.
    """
    fused = copy.deepcopy(model).eval()
    for parent in list(fused.modules()):
        names = list(parent._modules)
        for name, after in itertools.pairwise(names):
            conv, norm = parent._modules[name], parent._modules[after]
            # In the trunks, the neck and the head a norm is registered right after the convolution that feeds it.
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent._modules[name] = fuse_conv_bn_eval(conv, norm)
                parent._modules[after] = nn.Identity()
    return fused.requires_grad_(False)
