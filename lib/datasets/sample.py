"""The record that a data set hands to training: one sample, or a batch of them."""

from __future__ import annotations

from typing import Any, NamedTuple


class Sample(NamedTuple):
    """One training pair with its targets; S = 25 for a search side of 255. A batch is a Sample of tensors (B, ...).

    Pixels stay uint8 until they are on the device; channels are B, G, R.
    """

    template: Any  # uint8 (3, 127, 127)
    search: Any  # uint8 (3, 255, 255)
    cls_target: Any  # float32 (S, S), 1 at the object's centre cells, else 0
    ltrb_target: Any  # float32 (4, S, S), px from each grid point to the left, top, right and bottom side of the box
    weight: Any  # float32 (S, S), 1 where the grid point lies inside the box
    box_xyxy: Any  # float32 (4,), the true box in search px; NaN in a negative pair (the object is not in the search)
    unreadable: tuple[str, ...] = ()  # crops that had to be replaced to make this sample (or batch): "path: reason"

    def to(self, device: Any) -> Sample:
        """Return the batch on `device`, copied while the host goes on when it lies in pinned memory."""
        return Sample._make([*(field.to(device, non_blocking=True) for field in self[:-1]), self.unreadable])
