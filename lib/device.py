"""What a device can do, and copies to and from it that neither side waits for: pinned memory, streams, events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)


def has_bf16(device: torch.device) -> bool:
    """Return whether a device is made for bfloat16: others only imitate it, a CPU at half the speed of float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


def number_format(amp: str, device: torch.device) -> torch.dtype | None:
    """Return the type that autocast is to compute in, None for float32; amp: "none", "bf16", "fp16", or "auto".

    "auto" is bf16 where the device is made for it. Says what "auto" took, and warns of an imitated bf16.
    """
    made = amp in ("auto", "bf16") and has_bf16(device)
    if amp == "auto":
        amp = "bf16" if made else "none"
        log.info("number format: %s; AMP=none gives float32 on every machine",
                 "bf16 with float32 weights" if made else "float32, as this device has no bf16 instructions")
    elif amp == "bf16" and not made:
        log.warning("AMP bf16 on a device without bf16 instructions is slower than float32; AMP=auto avoids that")
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(amp)


class Link:
    """The way between the host and one device. On the CPU there is none, and what goes in comes out."""

    def __init__(self, device: torch.device, cuda: Any = None) -> None:
        """Make the way to `device`; `cuda` stands in for `torch.cuda`, which a GPU needs and the CPU does not."""
        self.device = device
        self._cuda = torch.cuda if device.type == "cuda" else cuda
        self._side: Any = None  # the stream of `load`

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return memory of the host, pinned where a GPU is to copy from or to it behind the host's back."""
        return torch.empty(shape, dtype=dtype, pin_memory=self.device.type == "cuda")

    def load(self, batch: Any) -> Any:
        """Return a batch of pinned tensors on the device, copied while the step before may still run.

        batch: a named tuple; its fields that are tensors go there.
        """
        if self._cuda is None:
            return batch
        self._side = self._side or self._cuda.Stream(self.device)
        with self._cuda.stream(self._side):
            moved = batch._make(field.to(self.device, non_blocking=True) if isinstance(field, Tensor) else field
                                for field in batch)
        current = self._cuda.current_stream(self.device)
        current.wait_stream(self._side)
        for field in moved:
            if isinstance(field, Tensor):
                field.record_stream(current)  # the memory was taken on the other stream
        return moved

    def fetch(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Begin to copy a tensor to the host; return what waits for the copy, and for nothing asked later."""
        if self._cuda is None:
            return tensor.cpu
        host = self.empty(tensor.shape, tensor.dtype).copy_(tensor, non_blocking=True)
        ready = self._cuda.Event()
        ready.record(self._cuda.current_stream(self.device))

        def wait() -> Tensor:
            ready.synchronize()
            return host

        return wait

    def mark(self) -> Any:
        """Return an event with a time at the end of all work given to the device so far; None on the CPU."""
        if self._cuda is None:
            return None
        event = self._cuda.Event(enable_timing=True)
        event.record(self._cuda.current_stream(self.device))
        return event
