"""Mixing: shares of the sources and negative pairs."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from crop_trees import write_source

from lib.config import Config, DatasetConfig, SourceConfig, TrainConfig
from lib.datasets.dataset import build_dataset
from lib.datasets.index import build_index
from lib.datasets.mixing import distractor, draw_negative
from lib.datasets.stores import CropFiles, IndexedSource
from lib.errors import UserError
from lib.models.losses import ocean_loss
from lib.models.ocean import OceanOutput


def config_for(roots: dict[str, Path], *, use: dict[str, int] | None = None, weight: dict[str, float] | None = None,
               **keys: object) -> Config:
    sources = {
        name: SourceConfig(PATH=str(root / "crop511"), ANNOTATION=str(root / "train.json"), RANGE=2,
                           USE=(use or {}).get(name, 10), WEIGHT=(weight or {}).get(name, 1.0))
        for name, root in roots.items()
    }
    return Config(TRAIN=TrainConfig(WHICH_USE=list(roots)), DATASET=DatasetConfig(SOURCES=sources, **keys))


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    found = {}
    for name, tracks in (("A", 6), ("B", 4)):
        found[name] = tmp_path_factory.mktemp(name)
        write_source(found[name], tracks=tracks, frames=3, seed=len(found))
    return found


@pytest.mark.parametrize(("use", "weight", "pairs", "expected"), [
    ({"A": 30, "B": 10}, {}, 0, [30, 10]), ({"A": 30, "B": 10}, {"B": 2.0}, 0, [30, 20]),
    ({"A": 30, "B": 10}, {"A": 0.001}, 0, [1, 10]), ({"A": 30, "B": 10}, {}, 8, [6, 2]),
    ({"A": 30, "B": 10}, {"B": 3.0}, 100, [50, 50]),
])
def test_the_shares_of_an_epoch(roots, use, weight, pairs, expected):
    dataset = build_dataset(config_for(roots, use=use, weight=weight, PAIRS=pairs))
    assert len(dataset) == sum(expected)
    counts = Counter(dataset.mixture[n].source for n in range(len(dataset)))
    assert [counts[0], counts[1]] == expected


def test_too_few_pairs_for_the_sources(roots):
    with pytest.raises(UserError, match=r"DATASET\.PAIRS is 1; expected at least one for each of 2"):
        build_dataset(config_for(roots, PAIRS=1))


def test_a_negative_sample_has_no_target(roots):
    dataset = build_dataset(config_for(roots, NEGATIVE=0.4))
    samples = [dataset[n] for n in range(150)]
    negative = [sample for sample in samples if torch.isnan(sample.box_xyxy).all()]
    assert len(negative) / len(samples) == pytest.approx(0.4, abs=0.12)
    for sample in negative:
        for field in (sample.cls_target, sample.ltrb_target, sample.weight):
            assert not field.any()
    for sample in samples:
        assert bool(torch.isnan(sample.box_xyxy).any()) == (not bool(sample.cls_target.any()))
    again = build_dataset(config_for(roots, NEGATIVE=0.4))
    assert all(torch.equal(again[n].search, samples[n].search) for n in (3, 50, 149))


def test_a_share_of_zero_changes_nothing(roots):
    plain, none = build_dataset(config_for(roots)), build_dataset(config_for(roots, NEGATIVE_FROM="video"))
    assert all(torch.equal(plain[n].search, none[n].search) for n in range(5))
    assert not any(torch.isnan(plain[n].box_xyxy).any() for n in range(40))


def test_the_loss_of_a_batch_of_negatives_is_finite(roots):
    dataset = build_dataset(config_for(roots, NEGATIVE=1.0))
    batch = [torch.stack(field) for field in list(zip(*(dataset[n] for n in range(4)), strict=True))[:6]]
    output = OceanOutput(torch.ones(4, 4, 25, 25), torch.zeros(4, 1, 25, 25), None)
    losses = ocean_loss(output, cls_target=batch[2], ltrb_target=batch[3], weight=batch[4])
    assert all(torch.isfinite(value) for value in losses.values())


class Drawn:
    """A store that notes what is asked of it."""

    def read(self, index, row, view_xyxy=None, /):
        track = index.track_of(row)
        return index.video(track), int(index.track_numbers[track]), int(index.frames[row])


def source_of(folder: Path, tracks: dict) -> IndexedSource:
    path = folder / "train.json"
    path.write_text(json.dumps(tracks), encoding="utf-8")
    return IndexedSource("S", build_index(path), Drawn(), 5)


def negative(where: str, *arguments: object):
    return draw_negative(DatasetConfig(NEGATIVE=1.0, NEGATIVE_FROM=where), *arguments)


BOX = [100, 100, 140, 140]  # its crop shows 4 x 80 px around the centre: -41 .. 281
FAR, NEAR = [1000, 100, 1040, 140], [200, 200, 220, 220]


def test_the_other_object_is_of_another_video(tmp_path):
    source = source_of(tmp_path, {v: {"00": {"0": BOX}, "01": {"0": BOX}} for v in ("a", "b", "c")})
    rng = np.random.default_rng(0)
    found = Counter(negative("source", [source], [1], 0, 2, rng)()[0] for _ in range(200))
    assert set(found) == {"a", "c"}
    assert min(found.values()) > 60


def test_any_source_is_drawn_by_its_share(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    sources = [source_of(tmp_path / name, {f"{name}{k}": {"00": {"0": BOX}} for k in range(4)}) for name in "xy"]
    rng = np.random.default_rng(0)
    found = Counter(negative("any", sources, [3, 1], 0, 2, rng)()[0] for _ in range(800))
    assert set(found) == {"x0", "x1", "x3", "y0", "y1", "y2", "y3"}
    from_y = sum(count for name, count in found.items() if name[0] == "y")
    assert from_y / 800 == pytest.approx(1 / 4 / (1 - 3 / 4 / 4), abs=0.06), "own track excepted"


def test_an_object_of_the_same_video_where_the_target_is_out_of_sight(tmp_path):
    source = source_of(tmp_path, {"a": {
        "00": {str(k): BOX for k in range(5)},
        "01": {"0": FAR, "1": NEAR, "2": FAR, "7": NEAR},  # the target is not on frame 7
        "02": {str(k): NEAR for k in range(5)},
    }, "b": {"00": {"0": BOX}}})
    rng = np.random.default_rng(0)
    rows = {distractor(source.index, 0, rng) for _ in range(300)}
    frames = {(source.index.track_of(row), int(source.index.frames[row])) for row in rows - {None}}
    assert frames == {(1, 0), (1, 2), (1, 7)}
    assert {negative("video", [source], [1], 0, 0, rng)()[:2] for _ in range(100)} <= {("a", 1), ("b", 0)}
    assert distractor(source.index, 3, rng) is None, "video b has one object"


def test_a_source_with_one_video_stays_positive(tmp_path):
    source = source_of(tmp_path, {"a": {"00": {"0": BOX}, "01": {"0": NEAR}}})
    assert negative("any", [source], [1], 0, 0, np.random.default_rng(0)) is None


def test_crop_files_are_a_store(roots):
    store = CropFiles(roots["A"] / "crop511")
    index = build_index(roots["A"] / "train.json")
    assert store.read(index, 0).image.shape == (511, 511, 3)
