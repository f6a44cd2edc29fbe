"""What a run says when it waits for data: once, in words, with the key that helps."""

import logging

import pytest
import torch

from lib.distributed import World
from lib.training import loader, monitor as monitors
from lib.training.loader import advice
from lib.training.monitor import StepMonitor


@pytest.mark.parametrize(("workers", "local_size", "formats", "words"), [
    (0, 1, {"VID": "crop511"}, "raise WORKERS (now 0 per process; this machine has 8 CPUs)"),
    (7, 1, {"VID": "raw"}, "raise WORKERS (now 7"), (2, 2, {"VID": "raw"}, "raise WORKERS (now 2"),
    (4, 2, {"COCO": "packed", "VID": "raw"}, "set DATASET.VID.FORMAT to crop511"),
    (8, 1, {"COCO": "packed", "VID": "crop511"}, "set DATASET.VID.FORMAT to packed"),
    (8, 1, {"COCO": "packed", "SYN": "synthetic"}, "lower DATASET.COLOR"),
])
def test_the_advice_names_a_key_that_can_still_help(monkeypatch, workers, local_size, formats, words):
    monkeypatch.setattr(loader, "available_cpus", lambda: list(range(8)))
    assert words in advice(workers, world=World(size=local_size, local_size=local_size), formats=formats)


@pytest.mark.parametrize(("wait", "said"), [(0.02, 1), (0.0, 0)])
def test_a_run_bound_by_data_says_so_once(monkeypatch, caplog, wait, said):
    monkeypatch.setattr(monitors, "DATA_BOUND_AFTER", 0.0)
    monitor = StepMonitor(World(), max_unreadable=0.0, pairs_per_epoch=1, pairs_per_step=1)
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            monitor.add(step, {"total": torch.tensor(1.0), "grad_norm": torch.tensor(1.0)})
            assert monitor.summarize(waited=lambda: wait) is not None
            monitor.hint_if_data_bound("raise WORKERS")
    assert len(caplog.messages) == said
    assert all("of the time is spent waiting for data; raise WORKERS" in text for text in caplog.messages)
