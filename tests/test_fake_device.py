"""Nothing mixes devices and nothing waits for the GPU in secret: shown on fake CUDA tensors, without a GPU.

torch's fake tensors have a device, a shape and a type, and no numbers: what needs a number (`.item()`, a shape that
depends on data) raises, and so does an operator whose arguments lie on two devices. `NoWaiting` adds what torch lets
pass: copies between host and device. Autograd has no fake GPU, so a whole step of training runs on `meta` tensors,
which have no numbers either, under the same watch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from train_helpers import RESNET, SLIM_MODELS, tiny_yaml

from lib.config import PretrainConfig
from lib.config_file import load_config
from lib.datasets.classes import Labelled
from lib.datasets.dataset import Sample
from lib.device import Link, number_format
from lib.distributed import World
from lib.models.losses import ocean_loss
from lib.models.models import Classifier, build_model
from lib.models.ocean import Ocean_
from lib.tracker.ocean import OceanTracker, search_crop
from lib.tracker.params import TrackerParams
from lib.training import tasks
from lib.training.checkpoints import Progress
from lib.training.trainer import Trainer

FAULTS = (RuntimeError, NotImplementedError, AssertionError)  # of torch's fake and meta tensors, and of NoWaiting


class NoWaiting(TorchDispatchMode):
    """A context in which an operator raises when it copies between devices or has tensors on several of them.

    A CPU scalar beside tensors of a device is fine: it goes along as an argument of the kernel.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        copies = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        devices = {t.device.type for t in tensors if copies or t.dim() or t.device.type != "cpu"}
        assert len(devices) < 2, f"{func} {'copies between' if copies else 'has tensors on'} {sorted(devices)}"
        return result


def on_fake_cuda(model: nn.Module) -> nn.Module:
    """Return the model with fake tensors of the first GPU in place of its own; inside a FakeTensorMode."""
    for part in model.modules():
        for table in (part._parameters, part._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cuda")
                    table[name] = nn.Parameter(fake) if table is part._parameters else fake  # type: ignore[assignment]
    return model


class StandIn:
    """Takes the place of `torch.cuda` for a `Link` and notes what is called, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def Stream(self, _device: Any) -> Any:
        return self._stream("side")

    def current_stream(self, _device: Any) -> Any:
        return self._stream("main")

    def _stream(self, name: str) -> Any:
        return SimpleNamespace(name=name, wait_stream=lambda other: self.calls.append(f"{name} waits for {other.name}"))

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.calls.append(f"begin on {stream.name}")
        yield
        self.calls.append(f"end on {stream.name}")

    def Event(self, *, enable_timing: bool = False) -> Any:
        self.calls.append("timing event" if enable_timing else "event")
        return SimpleNamespace(record=lambda stream: self.calls.append(f"record on {stream.name}"),
                               synchronize=lambda: self.calls.append("host waits"))


@contextlib.contextmanager
def autocast_to(dtype: torch.dtype | None) -> Iterator[None]:
    """A context with CUDA's autocast on, which `torch.autocast` refuses without a GPU."""
    torch.set_autocast_enabled("cuda", dtype is not None)
    torch.set_autocast_dtype("cuda", dtype or torch.float16)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)


def batch_on(device: str, size: int = 2) -> Sample:
    """Return a batch of the training on a device."""
    z, x = (torch.zeros(size, 3, side, side, dtype=torch.uint8, device=device) for side in (127, 255))
    cells = torch.zeros(size, 25, 25, device=device)
    return Sample(z, x, cells, torch.zeros(size, 4, 25, 25, device=device), cells, torch.zeros(size, 4, device=device))


@pytest.mark.parametrize("name", SLIM_MODELS)
def test_forward_and_losses_stay_on_the_device(name: str) -> None:
    if name == "timm":
        pytest.importorskip("timm", reason="the package timm is not here")
    real = build_model(**SLIM_MODELS[name], channels=8, towernum=1)
    with FakeTensorMode():
        model, batch = on_fake_cuda(real), batch_on("cuda")
        for dtype in (None, torch.bfloat16):
            with NoWaiting(), autocast_to(dtype):
                output = model(batch.template.float(), batch.search.float())
            with NoWaiting():
                losses = ocean_loss(output, cls_target=batch.cls_target, ltrb_target=batch.ltrb_target,
                                    weight=batch.weight)
            assert {loss.device.type for loss in losses.values()} == {"cuda"}
            assert output.cls.dtype == torch.float32


@pytest.mark.parametrize("name", ["Ocean", "align", "templ", "joint ViT"])
def test_a_frame_of_tracking_stays_on_the_device_until_one_copy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several targets at once: crops in, template features joined, network, scores; then one copy to the host."""
    real, cuda = build_model(**SLIM_MODELS[name], channels=8, towernum=1).eval(), StandIn()
    image = np.zeros((90, 120, 3), np.uint8)
    tracker = OceanTracker(Ocean_(), TrackerParams(), device="cuda")
    tracker._link = Link(torch.device("cpu"), cuda)
    monkeypatch.setattr(tracker, "_pixels", lambda crops: torch.zeros(len(crops), *crops[0].shape, dtype=torch.uint8,
                                                                      device="cuda"))
    with FakeTensorMode():
        model: Any = on_fake_cuda(real)
        tracker.model, tracker._track = model, model.track
        with NoWaiting():
            states = [tracker.init(image, [10 * row, 20, 30, 40]) for row in range(2)]
            crops = [search_crop(state, image) for state in states]
            pixels = tracker._pixels([crop.pixels for crop in crops])
            maps, _ = tracker._maps(pixels, tracker._templates(states), states)
            assert (maps.device.type, len(maps), maps.shape[2:]) == ("cuda", 2, (25, 25))
            with pytest.raises(AssertionError, match=r"copy_.default copies between \['cpu', 'cuda'\]"):
                tracker.predict(states, crops)
        tracker.begin(states, [image, image])  # what it returns would wait for the answer
    assert cuda.calls == ["event", "record on main"]


@pytest.mark.parametrize("fault", [
    lambda t: t.sum().item(), lambda t: bool(t.sum() > 0), lambda t: t.cpu(), lambda t: t.sum().cpu(),
    lambda t: t.tolist(), lambda t: t.nonzero(), lambda t: t[t > 0], lambda t: t + torch.zeros(3),
    lambda t: torch.cat([t, torch.zeros(3)]), lambda t: torch.zeros(3).to(t.device)])
@pytest.mark.parametrize("device", ["cuda", "meta"])
def test_the_watch_sees_every_kind_of_fault(device: str, fault: Any) -> None:
    with FakeTensorMode() if device == "cuda" else contextlib.nullcontext(), NoWaiting():
        tensor = torch.zeros(3, device=device)
        assert (tensor * torch.tensor(2.0) + 1).device.type == device
        with pytest.raises(FAULTS):
            fault(tensor)


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Trainer]:
    """A trainer on `meta`, whose parameter is the name of its model and keys of TRAIN."""
    name, keys = getattr(request, "param", ("Ocean", {}))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # `meta` has none
    train = {"END_EPOCH": 1, "WARMUP": {"IFNOT": False}, "UNFIX_EPOCH": 0, "CLIP_GRAD": 1.0, "EMA": 0.9, "BATCH": 2}
    spec = {key.upper(): value for key, value in SLIM_MODELS[name].items()}
    cfg = load_config(tiny_yaml(tmp_path, **{**train, **spec, **keys}))
    task = tasks.Tracking(cfg, dataset=[])
    made = Trainer(cfg, World(device=torch.device("meta")), task, task.build(), folder=tmp_path,
                   progress=Progress(steps_per_epoch=9, pairs_per_step=2))
    made.begin_epoch()
    yield made
    made.close()


EVERY = [(name, {}) for name in SLIM_MODELS if name != "timm"]


@pytest.mark.parametrize("trainer", [*EVERY, ("Ocean", {"OPTIMIZER": "AdamW", "CHANNELS_LAST": True, "ACCUMULATE": 2})],
                         indirect=True, ids=[*(name for name, _ in EVERY), "AdamW"])
def test_a_step_of_training_does_not_wait(trainer: Trainer) -> None:
    """From batches on the device through losses, backward, clipping and optimizer to the average of the weights."""
    with NoWaiting():
        trainer.take_step([batch_on("meta")] * trainer.cfg.TRAIN.ACCUMULATE)
    trained = {p.grad is not None and p.grad.device.type for p in trainer.stage.parameters()}
    assert trained == {"meta"}


def test_a_classifiers_step_does_not_wait() -> None:
    mixing = pytest.importorskip("timm.data", reason="the package timm is not here").Mixup
    work = tasks.Classification.__new__(tasks.Classification)  # without its pictures
    work.cfg, work._mix = PretrainConfig(), mixing(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=10)
    model = Classifier(backbone="ResNetSmall_MHSA", backbone_options=RESNET, num_classes=10).to("meta")
    batch = Labelled(torch.zeros(4, 3, 127, 127, dtype=torch.uint8, device="meta"),
                     torch.zeros(4, dtype=torch.int64, device="meta"))
    with NoWaiting():
        losses = work.losses(work.predict(model, batch, Tensor.float), batch)
        losses["total"].backward()
    assert model.classifier.weight.grad is not None


def _spoil(monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    def loss(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
        losses = ocean_loss(*args, **kwargs)
        return {name: fault(value) for name, value in losses.items()}

    monkeypatch.setattr(tasks, "ocean_loss", loss)


@pytest.mark.parametrize("fault", [lambda loss: loss * (loss.item() > 0), lambda loss: (loss * torch.ones(1)).sum(),
                                   lambda loss: loss + torch.tensor([0.5]).to(loss.device).sum()],
                         ids=["item", "constant on the CPU", "copy to the device"])
def test_a_fault_in_the_step_is_found(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    _spoil(monkeypatch, fault)
    with NoWaiting(), pytest.raises(FAULTS):
        trainer.take_step([batch_on("meta")])


@pytest.mark.parametrize("trainer", [("Ocean", {"NONFINITE": "skip"})], indirect=True)
def test_skipping_steps_waits_as_its_key_says(trainer: Trainer) -> None:
    with NoWaiting(), pytest.raises(FAULTS):
        trainer.take_step([batch_on("meta")])


def test_a_batch_comes_to_the_device_beside_the_step_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = StandIn()
    monkeypatch.setattr(Tensor, "to", lambda tensor, *_, **__: cuda.calls.append("copy") or tensor)
    monkeypatch.setattr(Tensor, "record_stream", lambda _tensor, stream: cuda.calls.append(f"kept for {stream.name}"))
    link, batch = Link(torch.device("cpu"), cuda), batch_on("cpu")
    assert all(moved is field for moved, field in zip(link.load(batch), batch, strict=True))
    assert cuda.calls == ["begin on side", *["copy"] * 6, "end on side", "main waits for side", *["kept for main"] * 6]


def test_an_answer_comes_to_the_host_when_it_is_asked_for() -> None:
    cuda = StandIn()
    maps = torch.rand(2, 5, 25, 25)
    wait = Link(torch.device("cpu"), cuda).fetch(maps)
    assert cuda.calls == ["event", "record on main"]
    assert torch.equal(wait(), maps)
    assert cuda.calls == ["event", "record on main", "host waits"]


def test_the_time_between_step_and_batch_is_measured_on_the_main_stream() -> None:
    cuda = StandIn()
    Link(torch.device("cpu"), cuda).mark()
    assert cuda.calls == ["timing event", "record on main"]


def test_on_the_cpu_nothing_is_copied() -> None:
    link, batch, maps = Link(torch.device("cpu")), batch_on("cpu"), torch.rand(3)
    assert link.load(batch) is batch
    assert link.fetch(maps)() is maps
    assert link.mark() is None
    assert not link.empty((2, 3), torch.uint8).is_pinned()


@pytest.mark.parametrize(("amp", "made", "dtype", "said"), [
    ("none", True, None, ""), ("fp16", True, torch.float16, ""), ("bf16", True, torch.bfloat16, ""),
    ("auto", True, torch.bfloat16, "number format: bf16"), ("auto", False, None, "number format: float32"),
    ("bf16", False, torch.bfloat16, "slower than float32")])
def test_bf16_is_taken_by_itself_only_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, amp: str, made: bool, dtype: Any, said: str,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: made)
    with caplog.at_level("INFO"):
        assert number_format(amp, torch.device("cpu")) == dtype
    assert bool(caplog.messages) == bool(said)
    assert said in caplog.text


def test_a_compiled_tracker_has_its_weights_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: (function.__name__, options))
    tracker = OceanTracker(Ocean_(), TrackerParams(), compiled=True)
    assert tracker._track == ("track", {"options": {"freezing": True}})
