"""The data set as a whole: samples that depend on seed and number alone, and what happens to crops that are broken."""

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from crop_trees import write_source
from torch.utils.data import DataLoader

from lib.config import Config, DatasetConfig, SourceConfig, TrainConfig
from lib.crops import context_side
from lib.datasets.dataset import OceanDataset, Sample, build_dataset, build_source
from lib.errors import UserError
from lib.images import decode

EVERYTHING = {"FLIP": 0.5, "ROTATION": 0.5, "GRAY": 0.3, "BLUR": 0.3, "CUTOUT": 0.3}


def config_for(root: Path, *, train: dict | None = None, **keys: object) -> Config:
    source = SourceConfig(PATH=str(root / "crop511"), ANNOTATION=str(root / "train.json"), RANGE=2, USE=10)
    dataset = DatasetConfig(SOURCES={"MINE": source}, **keys)
    return Config(TRAIN=TrainConfig(WHICH_USE=["MINE"], **(train or {})), DATASET=dataset)


@pytest.fixture
def root(tmp_path):
    write_source(tmp_path)
    return tmp_path


def same(a: Sample, b: Sample) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a[:-1], b[:-1], strict=True)) and a.unreadable == b.unreadable


def test_a_sample_has_the_promised_shapes_and_types(root):
    sample = build_dataset(config_for(root))[3]
    expected = {"template": (3, 127, 127), "search": (3, 255, 255), "cls_target": (25, 25), "ltrb_target": (4, 25, 25),
                "weight": (25, 25), "box_xyxy": (4,)}
    for name, shape in expected.items():
        field = getattr(sample, name)
        assert tuple(field.shape) == shape
        assert field.dtype == (torch.uint8 if name in ("template", "search") else torch.float32)
    assert sample.unreadable == ()


def test_targets_belong_to_the_box(root):
    dataset = build_dataset(config_for(root, **EVERYTHING))
    for n in range(20):
        sample = dataset[n]
        x1, y1, x2, y2 = sample.box_xyxy.tolist()
        rows, columns = np.nonzero(sample.cls_target.numpy())
        assert np.hypot(columns.mean() * 8 + 31 - (x1 + x2) / 2, rows.mean() * 8 + 31 - (y1 + y2) / 2) <= 4 * 2**0.5 + 1
        inside = sample.ltrb_target[:, sample.weight > 0]
        if inside.numel():
            assert inside.sum(0).numpy() == pytest.approx(np.full(inside.shape[1], x2 - x1 + y2 - y1), abs=1e-3)


def test_the_object_is_as_large_as_the_geometry_says(root):
    dataset = build_dataset(config_for(root, SHIFTs=0.0, SCALEs=0.0))
    rows = json.loads((root / "train.json").read_text(encoding="utf-8"))
    sizes = [np.subtract(box[2:], box[:2]) for video in rows.values() for t in video.values() for box in t.values()]
    expected = {tuple(np.round(size * 127 / context_side(size) * 254 / 255, 2)) for size in sizes}
    boxes = [dataset[n].box_xyxy.numpy().astype(float) for n in range(12)]
    found = {tuple(np.round(box[2:] - box[:2], 2)) for box in boxes}
    assert found <= expected
    assert len(found) == 6


def test_sample_n_is_a_function_of_seed_and_n(root):
    first, again = build_dataset(config_for(root, **EVERYTHING)), build_dataset(config_for(root, **EVERYTHING))
    for n in (0, 7, 123, 10**9):
        assert same(first[n], again[n])
    again[5]
    assert same(first[3], again[3]), "what was asked for before changes nothing"
    assert not same(first[3], first[13]), "the next round has new samples"
    other = build_dataset(config_for(root, train={"SEED": 1}, **EVERYTHING))
    assert not same(first[3], other[3])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same_samples(root, workers):
    dataset = build_dataset(config_for(root, **EVERYTHING))
    loader = DataLoader(
        dataset, sampler=range(40, 52), batch_size=None, num_workers=workers, worker_init_fn=one_thread,
        collate_fn=unchanged)
    for n, sample in zip(range(40, 52), loader, strict=True):
        assert same(sample, dataset[n])


def unchanged(sample: Sample) -> Sample:
    return sample


def one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)


def test_the_length_is_the_pairs_of_an_epoch(root, tmp_path):
    assert len(build_dataset(config_for(root))) == 10


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "small", "flipped"])
def test_a_broken_crop_stops_the_run_and_is_named(root, damage):
    for path in (root / "crop511").rglob("*.jpg"):
        break_crop(path, damage)
    with pytest.raises(UserError) as caught:
        build_dataset(config_for(root, MAX_UNREADABLE=0.0))[0]
    message = str(caught.value)
    assert str(root / "crop511" / "part") in message
    assert "MAX_UNREADABLE allows 0" in message
    assert "\n" not in message


def break_crop(path: Path, damage: str) -> None:
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "small":
        cv2.imwrite(str(path), np.zeros((100, 90, 3), np.uint8))
    elif damage == "flipped":
        path.write_bytes(data[: len(data) // 2] + b"\xff\xd9" + data[len(data) // 2 + 2 :])
    else:
        path.write_bytes({"empty": b"", "text": b"no picture", "cut": data[: len(data) // 2]}[damage])


def test_tolerated_crops_are_replaced_named_and_always_by_the_same(root):
    bad = root / "crop511" / "part" / "video_0"
    broken = {str(path) for path in bad.glob("*.00.x.jpg")}
    for path in broken:
        Path(path).write_bytes(b"broken")
    dataset, again = (build_dataset(config_for(root, MAX_UNREADABLE=0.9)) for _ in range(2))
    replaced = 0
    for n in range(30):
        sample = dataset[n]
        assert same(sample, again[n])
        for text in sample.unreadable:
            path, _, reason = text.partition(": ")
            assert path in broken
            assert reason.startswith("not an image")
        replaced += len(sample.unreadable)
    assert 2 <= replaced <= 15, "one track of six is broken"


@pytest.mark.parametrize("box", [[10.0, float("nan"), 40.0, 40.0], [10.0, 20.0, -1.0, -1.0]])
def test_a_box_that_is_none_is_replaced_and_named_as_a_broken_crop_is(root, box):
    index = json.loads((root / "train.json").read_text(encoding="utf-8"))
    index["part/video_1"]["00"]["000003"] = box
    (root / "train.json").write_text(json.dumps(index), encoding="utf-8")
    dataset = build_dataset(config_for(root, MAX_UNREADABLE=0.9))
    told = {text for n in range(60) for text in dataset[n].unreadable}
    assert told
    assert all(text.startswith("MINE part/video_1 00 000003: box [10.0, ") for text in told), told


def test_links_are_followed(root):
    folder = root / "crop511" / "part" / "video_0"
    for number, path in enumerate(sorted(folder.glob("*.jpg"))):
        if number % 2:
            path.unlink()
        else:
            path.rename(root / path.name)
            path.symlink_to(root / path.name)
    dataset = build_dataset(config_for(root, MAX_UNREADABLE=0.9))
    told = {tuple(text.split(": ")) for n in range(30) for text in dataset[n].unreadable}
    assert {reason for _, reason in told} == {"No such file or directory"}
    assert not any(Path(path).is_symlink() for path, _ in told)


def test_a_source_without_one_good_crop_ends_whatever_is_tolerated(root):
    for path in (root / "crop511").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(UserError, match="none of the 100 pairs"):
        build_dataset(config_for(root, MAX_UNREADABLE=1.0))[0]


def test_sources_that_are_not_there_are_told_at_once_with_the_key_that_takes_the_others(root, tmp_path):
    config = config_for(root)
    mine = config.DATASET.SOURCES["MINE"]
    sources = {"MINE": mine, "FAR": mine.model_copy(update={"PATH": str(tmp_path / "far")}), "SYN": SourceConfig(
        FORMAT="synthetic"), "LOST": mine.model_copy(update={"ANNOTATION": str(tmp_path / "lost.json")})}

    def message(*names: str) -> str:
        given = Config(TRAIN=TrainConfig(WHICH_USE=list(names)), DATASET=DatasetConfig(SOURCES=sources))
        with pytest.raises(UserError) as caught:
            build_dataset(given)
        return str(caught.value)

    text = message("FAR", "MINE", "LOST", "SYN")
    for fact in ("2 of 4 sources", f"FAR (PATH '{tmp_path / 'far'}'", f"LOST (ANNOTATION '{tmp_path / 'lost.json'}'",
                 "TRAIN.WHICH_USE=[MINE,SYN]"):
        assert fact in text
    assert "TRAIN.WHICH_USE=[MINE,SYN]" in message("LOST"), "what is configured and there"
    sources = {"LOST": sources["LOST"]}
    assert "FORMAT: synthetic" in message("LOST")


def test_an_unknown_format_is_told_with_the_nearest(root):
    source = config_for(root).DATASET.SOURCES["MINE"].model_copy(update={"FORMAT": "crops511"})
    with pytest.raises(UserError, match=r"DATASET\.MINE\.FORMAT is 'crops511'; did you mean crop511"):
        build_source("MINE", source, place="OCEAN.DATASET.MINE")


def test_empty_videos_and_tracks_are_left_out_and_counted(root, caplog):
    path = root / "train.json"
    plain = build_dataset(config_for(root))
    index = json.loads(path.read_text(encoding="utf-8"))
    name = next(iter(index))
    index = {"none": {}, **index, "hollow": {"00": {}, "01": {}}, name: {"07": {}, **index[name]}}
    path.write_text(json.dumps(index), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        found = build_dataset(config_for(root))
    assert "3 videos or tracks without a frame are left out" in caplog.text
    assert all(same(plain[n], found[n]) for n in range(12))


def test_crops_of_another_suffix_are_found(root):
    expected = build_dataset(config_for(root))[0].template
    for path in (root / "crop511").rglob("*.jpg"):
        cv2.imwrite(str(path.with_suffix(".PNG")), cv2.imread(str(path)))
        path.unlink()
    assert torch.equal(build_dataset(config_for(root, MAX_UNREADABLE=0.0))[0].template, expected)


def test_no_source_is_an_error(root):
    with pytest.raises(UserError, match="WHICH_USE is empty"):
        build_dataset(config_for(root).model_copy(update={"TRAIN": TrainConfig(WHICH_USE=[])}))


def test_frames_in_steps_larger_than_the_range_are_pointed_out(tmp_path, caplog):
    write_source(tmp_path)
    index = {"a": {"00": {str(1000 * k): [0, 0, 9, 9] for k in range(5)}}}
    (tmp_path / "train.json").write_text(json.dumps(index), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        build_dataset(config_for(tmp_path))
    assert "MINE.RANGE is 2, but frames are numbered in steps of 1000" in caplog.text


def test_the_reference_rule_for_the_label_is_a_key(root):
    ours, reference = build_dataset(config_for(root)), build_dataset(config_for(root, CLS_TARGET="reference"))
    offsets = []
    for n in range(40):
        a, b = ours[n], reference[n]
        assert torch.equal(a.search, b.search)
        centre = ((b.box_xyxy[:2] + b.box_xyxy[2:]) / 2).tolist()
        rows, columns = np.nonzero(b.cls_target.numpy())
        offsets.append(np.hypot(columns.mean() * 8 + 31 - centre[0], rows.mean() * 8 + 31 - centre[1]))
    assert 6 < np.mean(offsets) < 10, "7.9 px on average, as measured on the reference code"


@pytest.mark.parametrize(("options", "words"), [
    ({"sede": 1}, ["OPTIONS.sede", "did you mean seed"]), ({"tracks": 0}, ["OPTIONS.tracks is 0", "equal to 1"]),
    ({"length": True}, ["OPTIONS.length is True"]), ({"size_wh": 320}, ["OPTIONS.size_wh is 320", "tuple"]),
])
def test_the_renderers_options_are_checked(options, words):
    source = SourceConfig(FORMAT="synthetic", OPTIONS=options)
    config = Config(TRAIN=TrainConfig(WHICH_USE=["S"]), DATASET=DatasetConfig(SOURCES={"S": source}))
    with pytest.raises(UserError) as caught:
        build_dataset(config)
    for word in words:
        assert word in str(caught.value)


def test_the_synthetic_source_gives_samples():
    source = SourceConfig(FORMAT="synthetic", USE=4, RANGE=5, OPTIONS={"tracks": 3, "length": 8, "size_wh": [160, 120]})
    dataset = build_dataset(Config(TRAIN=TrainConfig(WHICH_USE=["S"]), DATASET=DatasetConfig(SOURCES={"S": source})))
    assert same(dataset[1], dataset[1])
    assert dataset[1].weight.sum() > 0


def test_decoding_is_opencvs_to_the_last_bit():
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (101, 130, 3), dtype=np.uint8), (0, 0), 3)
    for quality in (50, 95):
        data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        assert np.array_equal(decode(data.tobytes()), cv2.imdecode(data, cv2.IMREAD_COLOR))
    gray = cv2.imencode(".jpg", picture[:, :, 0])[1]
    assert np.array_equal(decode(gray.tobytes()), cv2.imdecode(gray, cv2.IMREAD_COLOR))
    assert np.array_equal(decode(cv2.imencode(".png", picture)[1].tobytes()), picture)
    assert decode(data.tobytes(), reduce=2).shape == (51, 65, 3)
    assert decode(data.tobytes(), reduce=8).shape == (13, 17, 3)


def test_the_augmentation_can_be_given_by_hand(root):
    sources = build_dataset(config_for(root)).sources
    plain = OceanDataset(sources, [3], DatasetConfig(SHIFT=0.0, SCALE=0.0, SHIFTs=0.0, SCALEs=0.0, COLOR=0.0))
    box = plain[0].box_xyxy
    assert ((box[:2] + box[2:]) / 2).tolist() == pytest.approx([127, 127])
