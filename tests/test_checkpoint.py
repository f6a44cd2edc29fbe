"""Checkpoints: every form in the wild loads strictly, nothing in a file runs, and each fault has its one line."""

import os
import pickle
import resource
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from lib.checkpoint import (
    WEIGHTS_ROOT,
    checkpoint_name,
    import_pretrained,
    load_model,
    load_weights,
    read_checkpoint,
    save_checkpoint,
)
from lib.errors import UserError
from lib.models.models import Ocean, build_model
from lib.models.pretrained import IMAGENET, split_last_block

SMALL = {"backbone": "ResNetSmall", "channels": 8, "towernum": 1, "backbone_options": {"width": 2}}


def small_model(*, align: bool = False) -> Ocean:
    torch.manual_seed(0)
    return build_model(**SMALL, align=align)


def saved(tmp_path: Path, *, align: bool = False) -> Path:
    """Return the path of a checkpoint in the form that training writes."""
    model = small_model(align=align)
    path = tmp_path / "checkpoint_e3.pth"
    save_checkpoint(path, {"epoch": 3, "arch": "Ocean", "state_dict": model.state_dict(), "model": model.spec,
                           "optimizer": {"param_groups": [{"lr": np.float64(0.005)}]}})
    return path


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("align", [False, True])
def test_a_saved_model_comes_back(tmp_path: Path, align: bool) -> None:
    path = saved(tmp_path, align=align)
    assert read_checkpoint(path)["epoch"] == 3
    model = load_model(path)
    assert not model.training
    assert same_weights(model, small_model(align=align))
    assert str(model.load_report) == f"{path}: {len(model.state_dict())} tensors loaded"


@pytest.mark.parametrize(("backbone", "options"), [
    ("ResNetSmall_single", {}),
    ("ResNetSmall_MHSA", {"heads": 2, "templ": True, "separate_template": True}),
    ("ViT_small", {"dim": 8, "depth": 1, "heads": 2, "joint": True}),
])
def test_the_checkpoint_says_which_backbone_it_is_of(tmp_path: Path, backbone: str, options: dict) -> None:
    model = build_model(backbone=backbone, backbone_options=options, channels=8, towernum=1)
    save_checkpoint(tmp_path / "a.pth", {"state_dict": model.state_dict(), "model": model.spec})
    loaded = load_model(tmp_path / "a.pth")
    assert loaded.spec == model.spec
    assert same_weights(loaded, model)


@pytest.mark.parametrize("prefix", ["", "module.", "feature_extractor.", "module.feature_extractor."])
@pytest.mark.parametrize("bare", [False, True])
def test_forms_in_the_wild(tmp_path: Path, prefix: str, bare: bool) -> None:
    weights = {prefix + name: tensor for name, tensor in small_model().state_dict().items()
               if not name.endswith("num_batches_tracked")}
    path = tmp_path / "wild.pth"
    torch.save(weights if bare else {"epoch": 1, "arch": "Ocean", "state_dict": weights, "optimizer": {}}, path)
    model = build_model(**SMALL)
    report = load_weights(model, read_checkpoint(path)["state_dict"], source=path.name)
    assert same_weights(model, small_model())
    assert report.prefixes == tuple(p + "." for p in prefix.split(".") if p)
    assert len(report.missing) + report.loaded == len(model.state_dict())
    assert all(name.endswith("num_batches_tracked") for name in report.missing)
    assert "not in the file: " not in str(report)
    assert (f"prefix {prefix.replace('.f', '. and f')} removed" in str(report)) == bool(prefix)


def test_reference_checkpoints_with_numpy_rates_and_the_old_container(tmp_path: Path) -> None:
    checkpoint = {"epoch": 20, "arch": "Ocean", "state_dict": small_model().state_dict(),
                  "optimizer": {"param_groups": [{"lr": np.float64(1e-5)}]}}
    torch.save(checkpoint, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "old.pth")["optimizer"]["param_groups"][0]["lr"] == 1e-5


def test_reference_checkpoint_is_ocean_on_resnet50(tmp_path: Path) -> None:
    model = build_model(align=True)
    torch.save({"state_dict": {"module." + n: t for n, t in model.state_dict().items()}}, tmp_path / "reference.pth")
    loaded = load_model(tmp_path / "reference.pth")
    assert loaded.align_head is not None
    assert same_weights(loaded, model)


def test_align_means_what_it_says(tmp_path: Path) -> None:
    path = saved(tmp_path, align=True)
    without = load_model(path, align=False)
    assert without.align_head is None
    assert without.spec["align"] is False
    assert "not used: align_head.rpn_conv.conv.weight" in str(without.load_report)
    assert load_model(path, align=True).align_head is not None
    with pytest.raises(UserError, match="without the object-aware branch") as error:
        load_model(saved(tmp_path, align=False), align=True)
    assert "--align False" in one_line(error)


def test_another_architecture_is_one_line_with_names_and_counts(tmp_path: Path) -> None:
    weights = small_model().state_dict()
    weights["neck.extra"] = torch.zeros(3)
    del weights["connect_model.adjust"]
    weights["connect_model.cls_pred.bias"] = torch.zeros(7)
    model = small_model()
    with pytest.raises(UserError) as error:
        load_weights(model, weights, source="x.pth")
    text = one_line(error)
    assert "x.pth: weights of another architecture" in text
    assert "missing: connect_model.adjust" in text
    assert "unexpected: neck.extra" in text
    assert "connect_model.cls_pred.bias 7 instead of 1" in text
    assert same_weights(model, small_model())
    with pytest.raises(UserError, match=r"and \d+ more"):
        load_weights(build_model(), small_model().state_dict(), source="x.pth")


def test_missing_modules_are_not_accepted(tmp_path: Path) -> None:
    weights = {n: t for n, t in small_model().state_dict().items() if not n.startswith("connect_model.cls_tower")}
    with pytest.raises(UserError, match=r"missing: connect_model\.cls_tower\.0\.weight"):
        load_weights(small_model(), weights, source="x.pth")


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    weights = small_model().state_dict()
    weights["neck.downsample.0.weight"] = weights["neck.downsample.0.weight"] * float("nan")
    with pytest.raises(UserError, match=r"not finite in neck\.downsample\.0\.weight"):
        load_weights(small_model(), weights, source="x.pth")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_file(tmp_path: Path, share: float, zipped: bool) -> None:
    whole = tmp_path / "whole.pth"
    torch.save({"state_dict": small_model().state_dict()}, whole, _use_new_zipfile_serialization=zipped)
    content = whole.read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(content[:int(len(content) * share)])
    with pytest.raises(UserError, match=r"cut\.pth") as error:
        read_checkpoint(path)
    one_line(error)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes_never_end_in_a_traceback(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "damaged.pth"
    content = {"epoch": 1, "state_dict": {"a.weight": torch.zeros(2, 3)}, "optimizer": {"lr": np.float64(0.1)}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    whole, random, refused = path.read_bytes(), np.random.RandomState(0), 0
    for _ in range(150):
        damaged = bytearray(whole)
        for place in random.randint(0, min(len(whole), 900), 5):
            damaged[place] = random.randint(256)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except UserError as error:
            refused += "\n" not in str(error)
    assert refused > 50


class Bomb:
    """A pickle of this runs a command where pickles are trusted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_is_never_executed(tmp_path: Path, save: Callable) -> None:
    path, trace = tmp_path / "bomb.pth", tmp_path / "trace"
    save({"state_dict": Bomb(trace)}, path)
    with pytest.raises(UserError, match="nothing in it was executed") as error:
        read_checkpoint(path)
    one_line(error)
    assert not trace.exists()


@pytest.mark.parametrize(("content", "message"), [
    ([1, 2], "holds a list"),
    ({"state_dict": {}}, "it is empty"),
    ({"state_dict": {"neck": 3}}, "not a state dict"),
    ({"state_dict": [1]}, "state_dict is a list"),
    ({"state_dict": {"a": torch.zeros(1)}, "model": {"bakcbone": "x"}}, "bakcbone"),
    ({"state_dict": {"a": torch.zeros(1)}, "model": {"backbone": "ResNet51"}}, "did you mean ResNet50"),
    ({"state_dict": {"a": torch.zeros(1)}, "model": 7}, "'model' is 7"),
])
def test_files_that_hold_something_else(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "odd.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match=message) as error:
        load_model(path)
    assert str(path) in one_line(error)


def test_text_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("not a checkpoint\n" * 9)
    for name in ("text.pth", "nowhere.pth"):
        with pytest.raises(UserError, match=name) as error:
            read_checkpoint(tmp_path / name)
        one_line(error)


def test_a_missing_file_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    for path, words in {
        "OceanSmal": "did you mean OceanSmall?", "checkpoint_e2.pth": "did you mean checkpoint_e3.pth?",
        "nowhere/checkpoint_e20.pth": "no .pth file in nowhere/", str(tmp_path): "a folder",
    }.items():
        with pytest.raises(UserError) as error:
            read_checkpoint(path)
        assert one_line(error).startswith(f"{path}: ")
        assert words in str(error.value)


def test_shipped_weights_are_known_by_name_and_bring_their_settings(tmp_path: Path) -> None:
    model = load_model("OceanSmall")
    assert model.params_file == WEIGHTS_ROOT / "OceanSmall.yaml"
    assert "not in the file" not in str(model.load_report)
    assert read_checkpoint("OceanSmall")["model"] == model.spec
    assert load_model(saved(tmp_path)).params_file is None


def test_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)  # not installed
    with pytest.raises(UserError, match=r"a\.safetensors: .*pip install safetensors"):
        read_checkpoint(path)
    package = types.ModuleType("safetensors.torch")
    package.load_file = lambda path: small_model().state_dict()
    monkeypatch.setitem(sys.modules, "safetensors", types.ModuleType("safetensors"))
    monkeypatch.setitem(sys.modules, "safetensors.torch", package)
    assert read_checkpoint(path)["state_dict"].keys() == small_model().state_dict().keys()
    package.load_file = lambda path: 1 / 0
    with pytest.raises(UserError, match="truncated or not a checkpoint"):
        read_checkpoint(path)


def test_full_disk_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(UserError, match="cannot be written") as error:
            save_checkpoint(path, {"state_dict": build_model(backbone="ResNetSmall", channels=8).state_dict()})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "File too large" in one_line(error)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]  # noqa: PTH208


def test_names() -> None:
    assert checkpoint_name(20) == "checkpoint_e20.pth"
    assert checkpoint_name(3, step=120) == "checkpoint_e3_s120.pth"


def torchvision_resnet50() -> nn.Module:
    """Return torchvision's ResNet-50 with random weights and random statistics."""
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None).eval()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0, 0.2)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.uniform_(part.weight, 0.3, 0.8)
            nn.init.normal_(part.bias, 0, 0.2)
    return network


@torch.no_grad()
@pytest.mark.parametrize("style", ["pytorch", "caffe"])
def test_imported_trunk_equals_torchvisions_layers(style: str) -> None:
    theirs = torchvision_resnet50()
    model = build_model(backbone_options={"style": style}, channels=8, towernum=1).eval()
    if style == "caffe":  # the stride moves from the 3x3 into the first 1x1
        for layer in (theirs.layer2, theirs.layer3):
            layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    report = import_pretrained(model, theirs.state_dict(), source="resnet50.pth")
    ours = model.features
    assert report.loaded == len(ours.state_dict())
    assert all(name.startswith(("features.features.layer4.", "features.features.fc.")) for name in report.skipped)

    bgr = torch.randint(0, 256, (1, 3, 127, 127)).float()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET.mean, IMAGENET.std))
    stem = theirs.relu(theirs.bn1(F.conv2d((bgr.flip(1) - mean) / std, theirs.conv1.weight, stride=2)))
    trunk = ours.features
    (own_stem, layer1, layer2), layer3 = ours(bgr)
    torch.testing.assert_close(own_stem, stem, rtol=1e-4, atol=1e-4)
    close(layer1, theirs.layer1(theirs.maxpool(own_stem)))
    # Our strided 3x3s have their centres on cells 1, 3, 5 ..., torchvision's on 0, 2, 4 ...: the same on a map moved by
    # one, but for what torchvision's zeros at the upper and left border reach in four blocks.
    close(layer2[..., 4:, 4:], theirs.layer2(layer1[..., 1:, 1:])[..., 4:, 4:])
    # Stride 1 with dilation 2 computes torchvision's strided map at every second cell.
    close(layer3[..., ::2, ::2], theirs.layer3(layer2))
    assert trunk.layer2[0].downsample[0].weight.count_nonzero() == theirs.layer2[0].downsample[0].weight.count_nonzero()


def close(one: Tensor, other: Tensor) -> None:
    scale = float(other.abs().max())
    torch.testing.assert_close(one / scale, other / scale, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_half_precision_weights_of_the_trunk() -> None:
    theirs = torchvision_resnet50().half()
    exact, model = (build_model(backbone_options={"style": "caffe"}, channels=8, towernum=1).eval() for _ in range(2))
    kept = {n: t for n, t in theirs.state_dict().items() if not n.startswith(("layer4", "fc"))}
    import_pretrained(model, kept, source="resnet50_fp16.pth")
    import_pretrained(exact, {n: t.float() for n, t in kept.items()}, source="resnet50.pth")
    assert same_weights(model.features, exact.features)
    assert [model(torch.zeros(1, 3, 127, 127), torch.zeros(1, 3, side, side)).cls.shape[-1]
            for side in (255, 271, 287)] == [25, 27, 29]


def test_pretrained_forms_are_told_apart() -> None:
    theirs = torchvision_resnet50().state_dict()
    first, second, third = (build_model(channels=8, towernum=1) for _ in range(3))
    import_pretrained(first, theirs, source="resnet50.pth")
    trunk = {f"module.features.{n}": t for n, t in first.features.features.state_dict().items()}
    import_pretrained(second, trunk, source="imagenet.model")
    assert same_weights(first.features, second.features)
    report = import_pretrained(third, first.state_dict(), source="checkpoint_e20.pth")
    assert same_weights(first, third)
    assert report.loaded == len(first.state_dict())


def test_pretrained_weights_of_another_trunk() -> None:
    theirs = torchvision_resnet50().state_dict()
    with pytest.raises(UserError, match=r"resnet50\.pth.*another architecture"):
        import_pretrained(small_model(), theirs, source="resnet50.pth")
    with pytest.raises(UserError, match=r"missing"):
        import_pretrained(build_model(), {"fc.weight": torch.zeros(3)}, source="fc.pth")


@torch.no_grad()
@pytest.mark.parametrize("form", ["whole", "torchvision"])
def test_single_block_with_converted_weights_is_resnet50(form: str) -> None:
    one = build_model(channels=8, towernum=1).eval()
    split = build_model(backbone="ResNet_single", channels=8, towernum=1).eval()
    if form == "torchvision":
        theirs = torchvision_resnet50().state_dict()
        import_pretrained(one, theirs, source="resnet50.pth")
    report = import_pretrained(split, theirs if form == "torchvision" else one.state_dict(), source="x.pth")
    assert not any("layer3.5" in name for name in report.skipped)
    split.load_state_dict(split_last_block(one.state_dict()))  # neck and head as well
    z, x = 255 * torch.rand(1, 3, 127, 127), 255 * torch.rand(1, 3, 255, 255)
    for ours, theirs_ in zip(split(z, x)[:2], one(z, x)[:2], strict=True):
        assert torch.equal(ours, theirs_)


def test_a_single_block_that_is_to_be_new_takes_no_weights() -> None:
    model = build_model(backbone="ResNet_single", backbone_options={"new_block": True}, channels=8, towernum=1)
    before = {name: tensor.clone() for name, tensor in model.features_single.state_dict().items()}
    report = import_pretrained(model, torchvision_resnet50().state_dict(), source="resnet50.pth")
    assert sum("layer3.5." in name for name in report.skipped) == 18
    assert all(torch.equal(before[name], tensor) for name, tensor in model.features_single.state_dict().items())
    assert not any(model.features_single is part for part in nn.ModuleDict(model.trunk_layers()).modules())


def test_a_trained_ocean_takes_new_parts() -> None:
    base = build_model(channels=8, towernum=1)
    model = build_model(backbone="ResNet_MHSA", backbone_options={"separate_template": True}, channels=8, towernum=1,
                        align=True)
    report = import_pretrained(model, base.state_dict(), source="checkpoint_e20.pth")
    assert {name.split(".")[0] for name in report.missing} == {"align_head", "features_mhsa", "features_mhsa_z"}
    assert len(report.skipped) == 18
    assert same_weights(base.connect_model, model.connect_model)
    assert same_weights(base.features.features.layer2, model.features.features.layer2)
    half = {name: tensor for name, tensor in model.state_dict().items() if name != "align_head.rpn_cls.bias"}
    with pytest.raises(UserError, match=r"missing: align_head\.rpn_cls\.bias"):
        import_pretrained(model, half, source="checkpoint_e20.pth")


def test_attention_block_stays_new_beside_the_imported_trunk() -> None:
    model = build_model(backbone="ResNet_MHSA", channels=8, towernum=1)
    before = {name: tensor.clone() for name, tensor in model.features_mhsa.state_dict().items()}
    report = import_pretrained(model, torchvision_resnet50().state_dict(), source="resnet50.pth")
    assert report.loaded == len(model.features.state_dict())
    assert sum("layer3.5." in name for name in report.skipped) == 18
    assert all(torch.equal(before[name], tensor) for name, tensor in model.features_mhsa.state_dict().items())
