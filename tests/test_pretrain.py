"""Classifiers of the tracker's parts: data, training with its resume, and the way of the weights to a tracker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from train_helpers import same, snapshot, tiny_yaml

from lib import commands
from lib.checkpoint import import_pretrained, pixels_of, read_checkpoint
from lib.config import ClassesConfig
from lib.datasets.classes import CifarPictures, ClassDataset, FolderPictures, open_pictures
from lib.errors import UserError
from lib.models.models import BoTNet50, Classifier, build_model
from lib.models.pretrained import IMAGENET, OURS, Pixels, fold_stem

pytest.importorskip("timm", reason="the package timm is not here")
SLIM = {"width": 2, "layers": [1, 1, 2], "expansion": 1}


def write_classes(root: Path, *, classes: tuple[str, ...] = ("blue", "green", "red"), count: int = 8) -> Path:
    """Write pictures of one colour each into train/<class>/ and val/<class>/."""
    rng = np.random.default_rng(0)
    for part, number in (("train", count), ("val", 3)):
        for channel, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for index in range(number):
                picture = rng.integers(0, 60, (40, 48, 3), dtype=np.uint8)
                picture[..., channel] += 150
                cv2.imwrite(str(root / part / name / f"{index}.png"), picture)
    return root


def settings(root: Path, **keys: Any) -> ClassesConfig:
    return ClassesConfig(PATH=str(root), SIZE=31, AUGMENT="", **keys)


def pretrain_yaml(folder: Path, *, classes: dict[str, Any] | None = None, **train: Any) -> Path:
    """Return the YAML file of a training of 4 epochs of 3 steps on the colours in folder/classes."""
    pictures = {"PATH": str(folder / "classes"), "SIZE": 31, "AUGMENT": "", **(classes or {})}
    path = tiny_yaml(folder, top={"CLASSES": pictures},
                     **{"BACKBONE_OPTIONS": SLIM, "UNFIX_EPOCH": 0, "BATCH": 8, "OPTIMIZER": "AdamW", "BASE_LR": 0.01,
                        "LR": {"KWARGS": {"start_lr": 0.01, "end_lr": 0.001}}, "WARMUP": {"IFNOT": False}, **train})
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    tree["OCEAN"]["TRAIN"].pop("WHICH_USE")
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def test_a_folder_a_class_in_the_order_of_names_each_picture_once_an_epoch(tmp_path: Path) -> None:
    train, val = open_pictures(settings(write_classes(tmp_path)))
    assert train.classes == val.classes == ["blue", "green", "red"]
    data = ClassDataset(train, settings(tmp_path), seed=1, train=True)
    for n in range(len(data)):
        image, label, replaced = data[n]
        assert image.shape == (3, 31, 31)
        assert image.dtype == torch.uint8
        assert int(image.float().mean((1, 2)).argmax()) == label, "channels are B, G, R"
        assert replaced == ()
    for epoch in (0, 1):
        labels = [int(data[epoch * len(data) + n].label) for n in range(len(data))]
        assert sorted(labels) == sorted(train.labels)
    assert [int(data[n].label) for n in range(24)] != [int(data[24 + n].label) for n in range(24)]
    torch.testing.assert_close(data[5].image, ClassDataset(train, settings(tmp_path), seed=1, train=True)[5].image)


@pytest.mark.parametrize("form", ["cifar10", "cifar100"])
def test_cifar_in_its_binary_form(tmp_path: Path, form: str) -> None:
    skip, names = (1, "batches.meta.txt") if form == "cifar10" else (2, "fine_label_names.txt")
    rgb = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    rows = b"".join(bytes([9] * (skip - 1) + [label]) + rgb[label].tobytes() for label in (0, 1))
    for file in ([f"data_batch_{k}.bin" for k in range(1, 6)] if form == "cifar10" else ["train.bin"]):
        (tmp_path / file).write_bytes(rows)
    (tmp_path / names).write_text("cat\ndog\n", encoding="utf-8")
    found = CifarPictures(tmp_path, form, train=True)
    assert found.labels[:2] == [0, 1]
    np.testing.assert_array_equal(found.read(1)[..., ::-1], rgb[1].transpose(1, 2, 0))
    (tmp_path / "test_batch.bin").write_bytes(rows[:-1])
    (tmp_path / "test.bin").write_bytes(rows[:-1])
    with pytest.raises(UserError, match="not a whole number of pictures"):
        CifarPictures(tmp_path, form, train=False)


def test_what_no_classifier_can_be_trained_on_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such folder; expected train/<class>"):
        open_pictures(settings(tmp_path / "gone"))
    one = write_classes(tmp_path / "one", classes=("blue",))
    with pytest.raises(UserError, match=r"1 class folder\(s\); expected two or more"):
        open_pictures(settings(one))
    root = write_classes(tmp_path / "more")
    (root / "val" / "reed").mkdir()
    with pytest.raises(UserError, match=r"class\(es\) that train does not have \(reed\); did you mean red"):
        open_pictures(settings(root))
    (root / "train" / "reed").mkdir()
    with pytest.raises(UserError, match=r"no pictures in 1 folder\(s\) \(reed\)"):
        FolderPictures(root / "train")


def test_unreadable_pictures_are_replaced_named_and_counted(tmp_path: Path) -> None:
    broken = write_classes(tmp_path / "classes") / "train" / "red" / "0.png"
    broken.write_bytes(b"nothing")
    data = ClassDataset(open_pictures(settings(tmp_path / "classes"))[0], settings(tmp_path), seed=0, train=True)
    replaced = [text for n in range(24) for text in data[n].unreadable]
    assert len(replaced) == 1
    assert str(broken) in replaced[0]
    with pytest.raises(UserError, match=r"1 unreadable .*0 are tolerated.*red/0\.png"):
        commands.call("pretrain", ["--cfg", str(pretrain_yaml(tmp_path)), "DATASET.MAX_UNREADABLE=0"])


def test_unreadable_validation_pictures_are_left_out_named_and_bounded(tmp_path: Path) -> None:
    write_classes(tmp_path / "classes")
    words = ["--cfg", str(pretrain_yaml(tmp_path, END_EPOCH=1)), "DATASET.MAX_UNREADABLE=0.7"]
    for name in ("blue", "green"):
        for path in (tmp_path / "classes" / "val" / name).iterdir():
            path.write_bytes(b"nothing")
    assert commands.call("pretrain", words) == 0
    text = next((tmp_path / "logs").rglob("*_train.log")).read_text(encoding="utf-8")
    assert re.search(r"6 unreadable validation picture\(s\), 6 are tolerated: .*blue/0\.png", text)
    assert re.search(r"top1 [01]\.(000|333|667)\d?  top5 1\.0000", text), "three pictures of three classes are left"
    with pytest.raises(UserError, match=r"6 unreadable validation .*0 are tolerated.*raise DATASET\.MAX_UNREADABLE"):
        commands.call("pretrain", [*words[:2], "DATASET.MAX_UNREADABLE=0.001"])


def test_training_learns_what_is_easy_to_tell_apart(tmp_path: Path) -> None:
    write_classes(tmp_path / "classes")
    options = {"width": 8, "layers": [1, 1, 1], "expansion": 1}
    cfg = pretrain_yaml(tmp_path, END_EPOCH=10, BACKBONE_OPTIONS=options)
    assert commands.call("pretrain", ["--cfg", str(cfg)]) == 0
    text = next((tmp_path / "logs").rglob("*_train.log")).read_text(encoding="utf-8")
    assert float(re.findall(r"top1 ([\d.]+)  top5", text)[-1]) > 0.9


@pytest.mark.parametrize(("workers", "optimizer"), [(0, "AdamW"), (2, "AdamW"), (0, "timm:lamb"), (0, "timm:adan")])
def test_a_resume_is_exact(tmp_path: Path, workers: int, optimizer: str) -> None:
    """Lamb counts its steps in the groups, Adan does another thing in its first step."""
    write_classes(tmp_path / "classes")
    words = ["--cfg", str(pretrain_yaml(tmp_path, EMA=0.5, classes={"MIXUP": 0.2}, OPTIMIZER=optimizer)),
             f"WORKERS={workers}"]
    assert commands.call("pretrain", words) == 0
    whole = snapshot(tmp_path)
    assert whole["classes"] == ["blue", "green", "red"]
    for epoch in (3, 4):
        (tmp_path / "snapshot" / f"checkpoint_e{epoch}.pth").unlink()
    assert commands.call("pretrain", [*words, "--resume", "auto"]) == 0
    for key in ("state_dict", "raw_state_dict", "optimizer"):
        assert same(snapshot(tmp_path)[key], whole[key]), key


@pytest.mark.parametrize(("name", "words"), [
    ("timm:lam", "'lam' is no optimizer of timm that can be resumed exactly; did you mean lamb"),
    ("timm:adahessian", "'adahessian' is no optimizer of timm that can be resumed exactly"),
    ("Adam", "TRAIN.OPTIMIZER")])
def test_an_optimizer_that_is_not_there_is_one_line(tmp_path: Path, name: str, words: str) -> None:
    write_classes(tmp_path / "classes")
    with pytest.raises(UserError, match=words):
        commands.call("pretrain", ["--cfg", str(pretrain_yaml(tmp_path, OPTIMIZER=name))])


def test_a_tracker_takes_trunk_and_attention_and_rests_them(tmp_path: Path) -> None:
    write_classes(tmp_path / "classes")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "classes").symlink_to(tmp_path / "classes")
    options = {**SLIM, "positions": 5}
    assert commands.call("pretrain", ["--cfg", str(pretrain_yaml(
        tmp_path / "a", BACKBONE="ResNetSmall_MHSA", BACKBONE_OPTIONS=options, END_EPOCH=1))]) == 0
    file = tmp_path / "a" / "snapshot" / "checkpoint_e1.pth"
    theirs = read_checkpoint(file)["state_dict"]
    cfg = tiny_yaml(tmp_path, BACKBONE="ResNetSmall_MHSA", PRETRAIN=str(file), RANDOM_TRUNK=False, UNFIX_EPOCH=1,
                    END_EPOCH=2, BACKBONE_OPTIONS={**SLIM, "new_block": False, "separate_template": True})
    assert commands.call("train", ["--cfg", str(cfg)]) == 0
    resting, trained = (snapshot(tmp_path, f"checkpoint_e{epoch}.pth")["state_dict"] for epoch in (1, 2))
    block = "features_mhsa.features.layer."
    for name in ("features.features.conv1.weight", f"{block}conv2.query.weight", f"{block}bn2.running_mean"):
        torch.testing.assert_close(resting[name], theirs[name], msg=name)
    assert not torch.equal(trained[f"{block}conv2.query.weight"], theirs[f"{block}conv2.query.weight"])
    table = theirs[f"{block}conv2.rel_h"]
    assert table.shape[-1] == 5
    for part, side in (("features_mhsa", 31), ("features_mhsa_z", 15)):
        own = resting[f"{part}.features.layer.conv2.rel_h"]
        assert own.shape[-1] == side
        torch.testing.assert_close(own[..., [0, side // 2, -1]], table[..., [0, 2, 4]])


def test_new_attention_stays_new_and_a_file_without_attention_is_refused_where_it_is_asked_for() -> None:
    file = Classifier(backbone="ResNetSmall_MHSA", backbone_options=SLIM, num_classes=3).state_dict()
    model = build_model(backbone="ResNetSmall_MHSA", backbone_options=SLIM, channels=4, towernum=1)
    before = {name: tensor.clone() for name, tensor in model.features_mhsa.state_dict().items()}
    report = import_pretrained(model, file, source="mhsa.pth")
    assert same(dict(model.features_mhsa.state_dict()), before)
    assert "features_mhsa" in str(report)
    options = {**SLIM, "layers": [1, 1, 1]}
    plain = Classifier(backbone="ResNetSmall", backbone_options=options, num_classes=3).state_dict()
    asking = build_model(backbone="ResNetSmall_MHSA", backbone_options={**SLIM, "new_block": False}, channels=4)
    with pytest.raises(UserError, match=r"plain\.pth: .*missing: features_mhsa"):
        import_pretrained(asking, plain, source="plain.pth")


@pytest.mark.parametrize("pixels", [IMAGENET, Pixels("RGB", (127, 127, 127), (128, 128, 128)),
                                    Pixels("BGR", (104, 117, 123), (1, 1, 1))], ids=["imagenet", "lite", "caffe"])
def test_any_mean_std_and_order_fold_exactly(pixels: Pixels) -> None:
    torch.manual_seed(0)
    net = BoTNet50(num_classes=2, size=64).eval()
    bgr = torch.randint(0, 256, (2, 3, 64, 64)).float()
    given = bgr.flip(1) if pixels.order == "RGB" else bgr
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (pixels.mean, pixels.std))
    with torch.no_grad():
        expected = net.bn1(torch.nn.functional.conv2d((given - mean) / std, net.conv1.weight, stride=2))
        net.load_state_dict(fold_stem(net.state_dict(), pixels))
        found = net.bn1(torch.nn.functional.conv2d(bgr, net.conv1.weight, stride=2))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_the_files_of_other_botnets_are_read(tmp_path: Path) -> None:
    """They call the downsample branch `shortcut` and lie under `model_state_dict`; the last stage is left out."""
    net = BoTNet50(num_classes=10, size=64)
    torch.save({"model_state_dict": {name.replace("downsample", "shortcut"): tensor
                                     for name, tensor in net.state_dict().items()}}, tmp_path / "botnet.pth")
    model = build_model(channels=8, towernum=1)
    content = read_checkpoint(tmp_path / "botnet.pth")
    report = import_pretrained(model, content["state_dict"], source="botnet.pth", pixels=OURS)
    assert report.loaded == len(model.features.state_dict())
    torch.testing.assert_close(model.features.features.conv1.weight, net.conv1.weight)


@pytest.mark.parametrize("record", [{"order": "GRB", "mean": [0, 0, 0], "std": [1, 1, 1]}, {"order": "RGB"}, 5,
                                    {"order": "RGB", "mean": [0, 0, 0], "std": [1, 0, 1]}])
def test_a_record_of_the_input_that_makes_no_sense_is_refused(record: Any) -> None:
    with pytest.raises(UserError, match=r"net\.pth: its 'input'"):
        pixels_of({"input": record}, source="net.pth")


def test_prepare_cuts_objects_out_by_category(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    (tmp_path / "raw" / "images").mkdir(parents=True)
    images, boxes = [], []
    for number in range(12):
        picture = np.zeros((100, 120, 3), np.uint8)
        picture[20:60, 30:80, number % 2] = 250
        cv2.imwrite(str(tmp_path / "raw" / "images" / f"{number}.png"), picture)
        images.append({"id": number, "file_name": f"{number}.png"})
        boxes.append({"image_id": number, "category_id": number % 2, "bbox": [30, 20, 50, 40]})
        boxes.append({"image_id": number, "category_id": 2, "bbox": [0, 0, 8, 8]})
    text = json.dumps({"images": images, "annotations": boxes,
                       "categories": [{"id": k, "name": name} for k, name in enumerate(("blue", "green", "tiny"))]})
    (tmp_path / "raw" / "set.json").write_text(text, encoding="utf-8")
    words = ["--root", str(tmp_path / "raw"), "--out", str(tmp_path / "classes"), "--least", "3", "--val", "40"]
    assert commands.call("prepare classes", words) == 0
    assert "12 too small" in capsys.readouterr().out
    train, val = open_pictures(settings(tmp_path / "classes"))
    assert train.classes == ["blue", "green"]
    assert len(train.labels) + len(val.labels) == 12
    for source in (train, val):
        for index, label in enumerate(source.labels):
            picture = source.read(index)
            assert picture.shape == (60, 60, 3), "1.2 times the longer side"
            assert picture[10:50, 8:52, label].mean() > 200
