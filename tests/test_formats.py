"""The same samples whatever form the data have: single crops, archives, the raw pictures; any workers, any ranks."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from raw_trees import write_picture
from torch.utils.data import DataLoader

from lib.config import Config, DatasetConfig, SourceConfig, TrainConfig
from lib.crops import context_side
from lib.datasets.dataset import OceanDataset, Sample, build_dataset
from lib.datasets.index import load_index
from lib.datasets.mixing import StreamSampler
from lib.datasets.prepare.__main__ import main
from lib.datasets.stores import load_pictures, pack_pictures, picture_path, reduction
from lib.errors import UserError

SWITCHES = {"FLIP": 0.5, "ROTATION": 0.3, "GRAY": 0.3}
COUNT = 24
_TIFF = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
EXIF_6 = b"\xff\xe1" + (8 + len(_TIFF)).to_bytes(2, "big") + b"Exif\0\0" + _TIFF  # "turn by 90 degrees clockwise"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Return a folder with raw videos of three objects, small to large, and everything prepared from them."""
    folder = tmp_path_factory.mktemp("formats")
    rng = np.random.default_rng(0)
    for video, (width, height) in enumerate(((24, 30), (90, 70), (300, 260))):
        raw = folder / "raw" / f"video {video}"
        noise = cv2.resize(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
        for frame in range(6):
            write_picture(raw / f"{frame + 1:08d}.jpg", np.roll(noise, 3 * frame, axis=1))
        rows = [f"{150 + 3 * frame},{100},{width},{height}" for frame in range(6)]
        (raw / "groundtruth.txt").write_text("\n".join(rows), encoding="utf-8")
    main(["got10k", "--root", str(folder / "raw"), "--out", str(folder), "--jobs", "1"])
    main(["pack", str(folder), "--jobs", "1"])
    return folder


def dataset(data: Path, form: str, *, seed: int = 5, **keys: object) -> OceanDataset:
    path = {"crop511": data / "crop511", "packed": data / "packed", "raw": data / "raw"}[form]
    source = SourceConfig(PATH=str(path), ANNOTATION=str(data / "train.json"), RANGE=3, USE=10, FORMAT=form)
    train = TrainConfig(WHICH_USE=["S"], SEED=seed, **keys)
    return build_dataset(Config(TRAIN=train, DATASET=DatasetConfig(SOURCES={"S": source}, **SWITCHES)))


def same(a: Sample, b: Sample) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a[:-1], b[:-1], strict=True))


def test_archives_give_the_same_bits(data):
    files, packed = dataset(data, "crop511"), dataset(data, "packed")
    assert all(same(files[n], packed[n]) for n in range(COUNT))


def test_raw_pictures_give_the_same_pairs_and_nearly_the_same_pixels(data):
    files, raw = dataset(data, "crop511"), dataset(data, "raw")
    for n in range(COUNT):
        a, b = files[n], raw[n]
        assert torch.equal(a.box_xyxy, b.box_xyxy)
        assert torch.equal(a.ltrb_target, b.ltrb_target)
        for x, y in ((a.template, b.template), (a.search, b.search)):
            assert (x.float() - y.float()).abs().mean() < 4, "a JPEG and another interpolation apart"


def test_clips_of_six_frames_come_from_each_form(data):
    files, packed, raw = (dataset(data, form, ONLINE="raw") for form in ("crop511", "packed", "raw"))
    for n in range(6):
        a, b = files[n], raw[n]
        assert same(a, packed[n])
        assert torch.equal(a.train_box, b.train_box)
        assert torch.equal(a.test_box, b.test_box)
        for x, y, (left, top, width, height) in zip(a.test, b.test, a.test_box.int().tolist(), strict=True):
            part = (slice(None), slice(max(top, 0), top + height), slice(max(left, 0), left + width))
            assert (x[part].float() - y[part].float()).abs().mean() < 6, "on the target; beyond the crop they differ"


def test_the_pixels_of_reduced_pictures_lie_where_they_should(data, monkeypatch):
    raw = dataset(data, "raw")
    reduced = [raw[n] for n in range(COUNT)]
    monkeypatch.setattr("lib.datasets.stores.reduction", lambda scale: 1)
    changed = 0
    for n in range(COUNT):
        whole = raw[n]
        x, y = whole.search.float().numpy(), reduced[n].search.float().numpy()
        if np.array_equal(x, y):
            continue
        changed += 1
        shifts = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
        distance = {s: np.abs(np.roll(y, s, (2, 1))[:, 2:-2, 2:-2] - x[:, 2:-2, 2:-2]).mean() for s in shifts}
        assert min(distance, key=distance.get) == (0, 0)
    assert changed >= COUNT // 4, "one object in three is large enough"


@pytest.mark.parametrize(("size", "expected"), [((24, 30), 1), ((90, 70), 1), ((160, 160), 2), ((300, 260), 4),
                                                ((2000, 1000), 8)])
def test_the_reduction_never_loses_detail(size, expected):
    scale = context_side(size) / 127
    assert reduction(scale) == expected
    assert expected == 8 or scale / (2 * expected) < 1 <= scale / expected or expected == 1


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("form", ["crop511", "packed"])
@pytest.mark.parametrize("workers", [(0,), (1,), (4,), (0, 0), (1, 1), (4, 4), (0, 3, 1)], ids=str)
def test_any_number_of_workers_and_ranks_gives_the_same_stream(data, form, workers):
    """`workers` of each rank; the last: machines that bring unequal numbers of both, and 10 pairs an epoch, not 9."""
    whole, world = dataset(data, "crop511"), len(workers)
    found: dict[int, Sample] = {}
    for rank, count in enumerate(workers):
        sampler = StreamSampler(3, rank=rank, world=world)
        sampler.set_position(1, 1 + 6 // world)
        loader = DataLoader(dataset(data, form), batch_sampler=sampler, num_workers=count, collate_fn=unchanged)
        for numbers, samples in zip(sampler, loader, strict=True):
            assert not found.keys() & set(numbers), "no pair twice"
            found.update(zip(numbers, samples, strict=True))
    first = 3 * world
    assert sorted(found) == list(range(first, first + 18)), "and none left out"
    assert all(same(sample, whole[n]) for n, sample in found.items())


def unchanged(samples: list[Sample]) -> list[Sample]:
    return samples


def test_a_damaged_record_names_itself(data, tmp_path):
    folder = tmp_path / "packed"
    folder.mkdir()
    for path in (data / "packed").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    archive = folder / "crops-00000.tar"
    content = bytearray(archive.read_bytes())
    for place in range(600, len(content), 5000):
        content[place] ^= 255
    archive.write_bytes(content)
    source = SourceConfig(PATH=str(folder), ANNOTATION=str(data / "train.json"), FORMAT="packed")
    config = Config(TRAIN=TrainConfig(WHICH_USE=["S"]), DATASET=DatasetConfig(SOURCES={"S": source}))
    with pytest.raises(UserError, match=r"crops-00000\.tar: video \d/00000\d\.00\.x\.jpg: damaged, its checksum"):
        [build_dataset(config)[n] for n in range(5)]
    archive.write_bytes(content[:-100])
    with pytest.raises(UserError, match=r"crops-00000\.tar: missing or not \d+ bytes"):
        build_dataset(config)


def test_archives_of_another_index_are_refused(data, tmp_path):
    text = (data / "train.json").read_text(encoding="utf-8").replace("000006", "000007")
    (tmp_path / "train.json").write_text(text, encoding="utf-8")
    source = SourceConfig(PATH=str(data / "packed"), ANNOTATION=str(tmp_path / "train.json"), FORMAT="packed")
    with pytest.raises(UserError, match="belongs to another index"):
        build_dataset(Config(TRAIN=TrainConfig(WHICH_USE=["S"]), DATASET=DatasetConfig(SOURCES={"S": source})))


def test_a_packed_data_set_travels_to_a_process_that_was_not_forked(data):
    packed = dataset(data, "packed")
    packed[0]
    assert same(pickle.loads(pickle.dumps(packed))[1], packed[1])


@pytest.mark.parametrize(("pictures", "packed"), [
    ({0: "a.jpg"}, "a.jpg"), ({3: "v/3.jpg", 12: "v/12.jpg"}, ["v/", 1, ".jpg"]),
    ({1: "v1/00000001.jpg", 2: "v1/00000002.jpg"}, ["v1/", 8, ".jpg"]),
    ({9: "v/0009.jpg", 10: "v/0010.jpg"}, ["v/", 4, ".jpg"]), ({0: "b.jpg", 1: "a.jpg"}, {"0": "b.jpg", "1": "a.jpg"}),
    ({}, {}),
])
def test_paths_of_pictures_in_short(pictures, packed):
    assert pack_pictures(pictures) == packed
    assert {frame: picture_path(packed, frame) for frame in pictures} == pictures


def test_a_part_of_the_index_trains_from_the_same_table_of_pictures(data, tmp_path):
    """`prepare select` writes such an index, and an index whose empty videos are left out is one."""
    whole = dataset(data, "raw").sources[0]
    index = json.loads((data / "train.json").read_text(encoding="utf-8"))
    del index["video 0"]
    (tmp_path / "train.json").write_text(json.dumps(index), encoding="utf-8")
    part = load_index(tmp_path / "train.json")
    pictures = load_pictures(data / "raw", data / "pictures.json", part)
    assert pictures.path(part, 0) == whole.store.path(whole.index, whole.index.rows(1)[0])


def test_a_picture_with_an_orientation_mark_is_read_as_it_is_seen(data, tmp_path):
    """The same in every form: `prepare` cut the crops from the picture as it is seen, too."""
    expected = dataset(data, "raw")
    seen = [expected[n].search for n in range(6)]
    for path in (data / "raw").rglob("*.jpg"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        turned = cv2.rotate(cv2.imread(str(path)), cv2.ROTATE_90_COUNTERCLOCKWISE)
        jpeg = cv2.imencode(".jpg", turned, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
        (tmp_path / path.parent.name / path.name).write_bytes(jpeg[:2] + EXIF_6 + jpeg[2:])
    source = expected.sources[0]
    other = replace(source, store=replace(source.store, root=tmp_path))
    marked = OceanDataset([other], [10], expected.settings, seed=5)
    for n, pixels in enumerate(seen):
        assert (marked[n].search.float() - pixels.float()).abs().mean() < 6


@pytest.mark.parametrize(("old", "new", "words"), [
    ("video 1", "video 9", "has no video 'video 1'"), ('"video 2"', '"video 3"', "has no video 'video 2'"),
    ("[", '["../', "names no pictures"), ("8,", '"8",', "names no pictures"),
])
def test_a_faulty_table_of_pictures_is_one_clear_line(data, tmp_path, old, new, words):
    index = dataset(data, "raw").sources[0].index
    text = (data / "pictures.json").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "pictures.json").write_text(text.replace(old, new).replace('"../"', '"../'), encoding="utf-8")
    with pytest.raises(UserError, match=words):
        load_pictures(data / "raw", tmp_path / "pictures.json", index)
