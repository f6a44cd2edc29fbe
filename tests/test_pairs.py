"""The index, the order of tracks, the drawing of pairs and the stream of sample numbers."""

import json
import logging
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lib.datasets.index import is_below, load_index, read_arrays, write_arrays
from lib.datasets.mixing import Mixture, StreamSampler, generator, mix, shares, shuffled
from lib.errors import UserError

BOX = [1.0, 2.0, 11.5, 22.25]


def write_index(folder: Path, content: object) -> Path:
    path = folder / "train.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_the_index_holds_what_the_json_says_in_rising_order_of_frames(tmp_path):
    path = write_index(tmp_path, {"b/é": {"01": {"000007": BOX, "000003": [0, 0, 4, 8]}}, "a": {"00": {"12": BOX}}})
    index = load_index(path)
    assert [index.video(t) for t in range(2)] == ["b/é", "a"]
    assert index.track_numbers.tolist() == [1, 0]
    assert index.rows(0) == (0, 2)
    assert index.frames.tolist() == [3, 7, 12]
    assert index.size_wh(0).tolist() == [4, 8]
    assert index.size_wh(1).tolist() == [10.5, 20.25]


def test_the_second_load_maps_the_arrays_and_a_changed_json_is_read_again(tmp_path, monkeypatch):
    path = write_index(tmp_path, {"a": {"00": {"1": BOX}}})
    load_index(path)
    with monkeypatch.context() as patch:
        patch.setattr("lib.datasets.index.build_index", lambda path: pytest.fail("the JSON was read again"))
        index = load_index(path)
    assert index.num_tracks == 1
    assert not index.frames.flags.writeable, "mapped arrays are shared: nobody may write to them"
    write_index(tmp_path, {"a": {"00": {"1": BOX}, "01": {"1": BOX, "2": BOX}}})
    assert load_index(path).num_tracks == 2


@pytest.mark.parametrize("damage", [b"", b"OKARRAY1", b"nothing of the kind", b"OKARRAY1" + b"\xff" * 100])
def test_a_damaged_cache_is_made_again(tmp_path, damage):
    path = write_index(tmp_path, {"a": {"00": {"1": BOX}}})
    load_index(path)
    (tmp_path / "train.json.arrays").write_bytes(damage)
    assert load_index(path).num_tracks == 1


def test_a_mapped_index_travels_to_another_process_as_a_path(tmp_path):
    path = write_index(tmp_path, {f"v{k}": {"00": {str(n): BOX for n in range(100)}} for k in range(100)})
    index = load_index(path)
    data = pickle.dumps(index)
    assert len(data) < 1000
    assert np.array_equal(pickle.loads(data).frames, index.frames)


def test_without_a_place_for_the_cache_the_index_stays_in_memory(tmp_path, monkeypatch, caplog):
    path = write_index(tmp_path, {"a": {"00": {"1": BOX}}})

    def refuse(*_args, **_kwargs):
        raise UserError("train.json.arrays: cannot be written (Read-only file system)")

    monkeypatch.setattr("lib.datasets.index.write_arrays", refuse)
    with caplog.at_level(logging.WARNING):
        assert load_index(path).num_tracks == 1
    assert "Read-only" in caplog.text


@pytest.mark.parametrize(("content", "words"), [
    ("", ["not JSON", "line 1 column 1"]),
    ("[]", ["[]", "expected {video"]),
    ('{"a": {"00": {"1": [1, 2, 3, 4]}}', ["not JSON"]),
    ('{"a": {"00": {"1": [1, 2, 3, 4]}}} x', ["line 1 column 36"]),
    ('{"a": {"00": {"1": [1, 2, 3, 4]}}}}', ["line 1 column 35"]),
    ('{"a": {"00": {"1": [1, 2, 3, 4]}},\n "b" {}}', ["line 2 column 6"]),
    ('{"a": {"00": {"1": [1, 2, oops, 4]}}}', ["line 1 column 27"]),
    ({}, ["no track"]),
    ({"a": {}}, ["no track"]),
    ({"a": {"00": {}}}, ["no track"]),
    ({"a": {"1": BOX}}, ["'a'", "boxes, not tracks"]),
    ({"a": {"00": {"1": BOX}, "0": {"1": BOX}}}, ["'a'", "track '0' stands twice"]),
    ('{"a": {"00": {"1": [1, 2, 3, 4], "1": [1, 2, 3, 4]}}}', ["'a'", "'00'", "frame '1'", "same frame"]),
    ({"a": {"00": []}}, ["'a'", "'00'", "[]"]),
    ({"a": 3}, ["'a'", "3"]),
    ({"a": {"first": {"1": BOX}}}, ["'a'", "'first'", "not a number"]),
    ({"a": {"00": {"1": BOX, "x": BOX}}}, ["'a'", "'00'", "'x'"]),
    ({"a": {"00": {"1": BOX, "-4": BOX}}}, ["'-4'"]),
    ({"a": {"00": {"1": BOX, "01": BOX}}}, ["'01'", "same frame as '1'"]),
    ({"a": {"00": {"99999999999": BOX}}}, ["'99999999999'"]),
    ({"a": {"00": {"1": [1, 2, 3]}}}, ["frame '1'", "[1, 2, 3]"]),
    ({"a": {"00": {"1": None}}}, ["frame '1'", "None"]),
    ({"a": {"00": {"1": [1, 2, "3", 4]}}}, ["frame '1'", "'3'"]),
    ({"a": {"00": {"1": [1, 1, 1, 4]}, "07": {"5": [9, 2, 3, 4]}}}, ["'a'", "'00'", "'000001'", "x1 < x2", "1 more"]),
    ('{"a": {"00": {"1": [1, 2, NaN, 4]}}}', ["'000001'", "finite"]),
    ('{"a": {"00": {"1": [1, 2, 1e999, 4]}}}', ["'000001'", "finite"]),
    ({"../a": {"00": {"1": BOX}}}, ["'../a'", "below the crop folder"]),
    ({"/etc/a": {"00": {"1": BOX}}}, ["'/etc/a'"]),
    ({"a\nb": {"00": {"1": BOX}}}, [r"'a\nb'"]),
    ('{"a": {"00": {"1": [1, 2, 3, 4]}}, "a": {"00": {"1": [1, 2, 3, 4]}}}', ["'a'", "twice"]),
    ('{"a": ' + "[" * 100_000, ["not usable JSON"]),
])
def test_a_faulty_index_is_one_clear_line(tmp_path, content, words):
    path = write_index(tmp_path, content)
    with pytest.raises(UserError) as caught:
        load_index(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_few_boxes_that_are_none_are_told_and_kept_for_the_training_to_count(tmp_path, caplog):
    bad = {"a": {"00": {"1": BOX, "2": [1, 2, float("nan"), 4]}}, "b": {"01": {"1": [9, 2, 3, 4]}}}
    path = write_index(tmp_path, bad)
    with caplog.at_level("WARNING"):
        assert load_index(path).num_tracks == 2
    assert "video 'a' track '00' frame '000002': box [1.0, 2.0, nan, 4.0]" in caplog.text
    assert "1 more such boxes" in caplog.text


def test_other_files_in_place_of_an_index(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        load_index(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        load_index(tmp_path)
    (tmp_path / "latin.json").write_bytes('{"é'.encode("latin-1") + b'"}')
    with pytest.raises(UserError, match="UTF-8"):
        load_index(tmp_path / "latin.json")


def test_names_and_numbers_come_through(tmp_path):
    content = {f"vidéo {k}": {"00": {str(n): [n, 2, n + 10.5, 30] for n in range(k, k + 3)}} for k in range(5)}
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    index = load_index(path)
    assert index.frames.tolist() == [n for k in range(5) for n in range(k, k + 3)]
    assert index.video(4) == "vidéo 4"


@pytest.mark.parametrize(("name", "fine"), [("a", True), ("a/b é", True), ("", False), ("a//b", False), ("a/..", False),
                                            ("./a", False), ("C:/a", False), ("a\\b", False), ("a/", False)])
def test_names_that_stay_below_their_folder(name, fine):
    assert is_below(name) == fine


def test_arrays_come_back_as_they_went(tmp_path):
    arrays = {"a": np.arange(7, dtype=np.int32), "none": np.empty((0, 4), np.float32), "b": np.eye(3)[::2]}
    write_arrays(tmp_path / "x", arrays, note={"key": 1})
    found, note = read_arrays(tmp_path / "x")
    assert note == {"key": 1}
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut short"):
        read_arrays(tmp_path / "x")


def test_the_search_frame_is_within_range_by_number_and_uniform(tmp_path):
    frames = [0, 1, 2, 10, 11, 30]
    index = load_index(write_index(tmp_path, {"a": {"00": {str(n): BOX for n in frames}}}))
    counts: Counter[tuple[int, int]] = Counter()
    rng = np.random.default_rng(0)
    for _ in range(6000):
        template, search = index.draw(0, rng, frame_range=9)
        counts[frames[template], frames[search]] += 1
    allowed = {(a, b) for a in frames for b in frames if abs(a - b) <= 9}
    assert set(counts) == allowed
    for a in frames:
        of_template = {b: n for (t, b), n in counts.items() if t == a}
        assert sum(of_template.values()) == pytest.approx(1000, abs=150)
        for n in of_template.values():
            assert n == pytest.approx(1000 / len(of_template), abs=120)


@given(size=st.integers(1, 300), key=st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_a_shuffle_is_a_permutation(size, key):
    assert sorted(shuffled(k, size, key=key) for k in range(size)) == list(range(size))


@pytest.mark.parametrize("size", [2, 3, 5, 10, 37])
def test_every_place_of_a_shuffle_is_equally_likely(size):
    keys = 3000
    counts = np.zeros((size, size))
    for key in range(keys):
        for place in range(size):
            counts[place, shuffled(place, size, key=mix(1, key))] += 1
    chi_square = ((counts - keys / size) ** 2 / (keys / size)).sum()
    freedom = (size - 1) ** 2
    assert chi_square < freedom + 6 * np.sqrt(2 * freedom) + 10


def test_a_large_shuffle_needs_no_table_and_leaves_no_order():
    values = np.array([shuffled(k, 600_000, key=7) for k in range(5000)])
    assert len(set(values.tolist())) == 5000
    assert abs(np.corrcoef(values, np.arange(5000))[0, 1]) < 0.06
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.06


def test_each_round_has_use_pairs_of_each_source_in_a_fresh_order():
    mixture = Mixture([7, 3], [5, 4], seed=1)
    rounds = [[mixture[n] for n in range(r * 10, r * 10 + 10)] for r in range(4)]
    for picks in rounds:
        assert Counter(pick.source for pick in picks) == {0: 7, 1: 3}
    assert len({tuple(pick.source for pick in picks) for picks in rounds}) > 1
    assert len({tuple(picks) for picks in rounds}) == 4


def test_every_track_is_used_once_before_any_is_used_twice():
    mixture = Mixture([7, 3], [5, 4], seed=3)
    for source, use, tracks in ((0, 7, 5), (1, 3, 4)):
        used = [mixture[n].track for n in range(200) if mixture[n].source == source]
        assert len(used) == 20 * use
        counts = Counter(used)  # 20 rounds are a whole number of laps over the tracks
        assert set(counts) == set(range(tracks))
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_order_is_a_function_of_the_seed():
    same, other = Mixture([50], [50], seed=1), Mixture([50], [50], seed=2)
    first = [Mixture([50], [50], seed=1)[n] for n in range(50)]
    assert first == [same[n] for n in range(50)]
    assert first != [other[n] for n in range(50)]


def test_random_numbers_belong_to_seed_number_and_attempt():
    draws = {key: generator(key[0], key[1], attempt=key[2]).random(4).tobytes()
             for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 2**40, 0)]}
    assert len(set(draws.values())) == len(draws)
    assert generator(5, 9).random(4).tolist() == generator(5, 9).random(4).tolist()


@pytest.mark.parametrize(("total", "weights", "expected"), [
    (10, [1, 1], [5, 5]), (10, [1, 2], [4, 6]), (3, [1, 1000, 1], [1, 1, 1]),
    (600_000, [7, 11 / 3], [393_750, 206_250]),
])
def test_shares_add_up(total, weights, expected):
    found = shares(total, weights)
    assert sum(found) == total
    assert min(found) >= 1
    assert np.allclose(found, expected, atol=1.5)


@given(batch=st.integers(1, 5), world=st.integers(1, 5), first=st.integers(0, 7), steps=st.integers(0, 6),
       start=st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_the_ranks_share_the_stream_without_loss_or_double(batch, world, first, steps, start):
    numbers: list[int] = []
    for rank in range(world):
        sampler = StreamSampler(batch, rank=rank, world=world, start=start)
        sampler.set_position(first, first + steps)
        batches = list(sampler)
        assert len(batches) == len(sampler) == steps
        assert all(len(each) == batch for each in batches)
        numbers += [n for each in batches for n in each]
    total = batch * world
    assert sorted(numbers) == list(range(start + first * total, start + (first + steps) * total))


def test_epochs_follow_each_other_and_a_resumed_stream_goes_on_where_it_was():
    sampler = StreamSampler(4, rank=1, world=3)
    sampler.set_position(0, 16)
    whole = list(sampler)
    sampler.set_position(0, 8)
    first = list(sampler)
    sampler.set_position(8, 16)
    assert first + list(sampler) == whole
