"""The tracker against numbers worked out by hand and against a plain re-statement of OCEAN section 5."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from otb_trees import shared
from tracker_stubs import (
    NO_TEMPLATE,
    PLAIN,
    Oracle,
    Scripted,
    answer,
    small_checkpoint,
    small_model,
    square_frames,
    write_squares,
)

from lib.benchmarks import Sequence
from lib.boxes import iou_xywh
from lib.config_file import load_config
from lib.crops import grid_points, score_side
from lib.errors import UserError
from lib.images import decode_ahead, read_image
from lib.models.ocean import OceanOutput
from lib.testing.batched import Job, Lockstep, Track
from lib.tracker.ocean import OceanTracker, SearchCrop, TrackerState, advance, as_bgr, search_crop
from lib.tracker.params import TrackerParams, find_tracker_params
from lib.tracker.scoring import (
    NonFiniteOutput,
    Peak,
    Prediction,
    cosine_window,
    find_peak,
    shape_penalty,
)

ROOT = Path(__file__).resolve().parents[1]


def state_of(centre: tuple[float, float], size: tuple[float, float], *, search: int = 255) -> TrackerState:
    return TrackerState(np.array(centre), np.array(size), 1.0, search, np.array([1.0, 2.0, 3.0]), NO_TEMPLATE)


def prediction_of(side: int = 25, batch: int = 1) -> Prediction:
    return Prediction(np.full((batch, side, side), 0.1, np.float32), np.full((batch, 4, side, side), 10, np.float32))


# ---- the pieces, by hand


@pytest.mark.parametrize(("search", "side"), [(255, 25), (271, 27), (287, 29)])
def test_grid_is_centred_on_the_crop(search: int, side: int) -> None:
    assert score_side(search) == side
    points = grid_points(search)
    assert points[side // 2] == search // 2
    assert points[0] == search // 2 - 8 * (side // 2)
    assert np.diff(points).tolist() == [8.0] * (side - 1)


def test_window_is_one_in_the_middle_and_zero_at_the_border() -> None:
    window = cosine_window(25)
    assert window[12, 12] == pytest.approx(1)
    assert np.abs(window[0]).max() == 0
    assert window[6, 12] == pytest.approx(0.5 - 0.5 * math.cos(2 * math.pi * 6 / 24))


def test_penalty_by_hand() -> None:
    # target 30 x 30: padded side 60. A box 60 x 30: p = 45, sqrt(105 * 75) = 88.74; s_c = 1.479, r_c = 2.
    box = np.array([60.0, 30.0]).reshape(1, 2, 1, 1)
    s_c = math.sqrt(105 * 75) / 60
    assert shape_penalty(box, np.array([[30.0, 30.0]]), penalty_k=0.1)[0, 0, 0] == pytest.approx(
        math.exp(-(2 * s_c - 1) * 0.1)
    )
    # Half the size and the same aspect: s_c = 2, r_c = 1. The same box: no penalty. An empty box: nothing left.
    for (w, h), expected in {(15, 15): math.exp(-0.1), (30, 30): 1.0, (0, 0): 0.0, (0, 30): 0.0}.items():
        box = np.array([w, h], np.float64).reshape(1, 2, 1, 1)
        assert shape_penalty(box, np.array([[30.0, 30.0]]), penalty_k=0.1)[0, 0, 0] == pytest.approx(expected)


def test_peak_by_hand() -> None:
    prediction = prediction_of()
    prediction.score[0, 12, 13] = 0.8
    prediction.ltrb[0, :, 12, 13] = [10, 20, 30, 40]
    peak = find_peak(prediction, np.array([[40.0, 60.0]]), search_size=255, params=PLAIN)
    # The cell's point is (127 + 8, 127); the box runs from 125 to 165 and from 107 to 167: centre (145, 137).
    assert peak.offset_xy.tolist() == [[18, 10]]
    assert peak.box_wh.tolist() == [[40, 60]]
    assert peak.score == pytest.approx([0.8])
    assert peak.rate == pytest.approx([0.8])


def test_peak_is_the_first_of_equals_and_the_window_decides_where_scores_do_not() -> None:
    even = find_peak(prediction_of(), np.array([[20.0, 20.0]]), search_size=255, params=PLAIN)
    assert even.offset_xy.tolist() == [[-96, -96]]  # the top left cell
    windowed = TrackerParams(penalty_k=0.0, lr=1.0, window_influence=0.3)
    middle = find_peak(prediction_of(), np.array([[20.0, 20.0]]), search_size=255, params=windowed)
    assert middle.offset_xy.tolist() == [[0, 0]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["score", "ltrb"])
def test_a_network_that_returns_nonsense_is_told_by_row(value: float, where: str) -> None:
    prediction = prediction_of(batch=3)
    getattr(prediction, where)[1, ..., 4, 7] = value
    with pytest.raises(NonFiniteOutput) as caught:
        find_peak(prediction, np.full((3, 2), 20.0), search_size=255, params=PLAIN)
    assert caught.value.rows == (1,)


def test_the_rate_enters_twice() -> None:
    peak = Peak(np.array([[10.0, -5.0]]), np.array([[80.0, 20.0]]), np.array([0.5]), np.array([0.9]))
    new = advance(state_of((100, 100), (20, 40)), SearchCrop(np.empty(0, np.uint8), 2.0, (640, 480)), peak)
    assert new.centre_xy.tolist() == [105, 97.5]
    # Seen at rate 0.5: 40 * 0.5 + 0.5 * 20 = 30, then 20 * 0.5 + 0.5 * 30 = 25; 10 -> 25 -> 32.5.
    assert new.size_wh.tolist() == [25, 32.5]
    assert new.score == 0.9
    assert new.box_xywh.tolist() == [92.5, 81.25, 25, 32.5]


def test_a_target_stays_in_the_image_and_keeps_ten_pixels() -> None:
    peak = Peak(np.array([[-500.0, 900.0]]), np.array([[2000.0, 1.0]]), np.array([1.0]), np.array([1.0]))
    new = advance(state_of((100, 100), (20, 12)), SearchCrop(np.empty(0, np.uint8), 1.0, (640, 480)), peak)
    assert new.centre_xy.tolist() == [0, 480]
    assert new.size_wh.tolist() == [640, 10]
    # The corner is cut at 0, the size is not: kept for parity with the published results.
    assert new.box_xywh.tolist() == [0, 475, 640, 10]


def test_half_a_pixel_of_the_search_side_goes_away_from_zero() -> None:
    # w = h = 95.25: s_z = 190.5, side = 190.5 * 255 / 127 = 382.5, which to even would be 382.
    state = state_of((500, 500), (95.25, 95.25))
    image = np.zeros((1000, 1000, 3), np.uint8)
    crop = search_crop(state, image)
    assert crop.scale == 127 / 190.5
    image[:, 500 - 192] = 255  # c = (383 + 1) / 2 = 192, so the first column is 308; for 382 it is 309 (308.5, to even)
    assert search_crop(state, image).pixels[:, 0].max() > 0


@pytest.mark.parametrize(("box", "search"), [((50, 50, 20, 20), 271), ((50, 50, 60, 60), 255)])
def test_small_targets_get_the_larger_search_crop(box: tuple[float, ...], search: int) -> None:
    # 20 * 20 / (640 * 480) = 0.0013 and 60 * 60 / (640 * 480) = 0.0117, around 0.004
    tracker = OceanTracker(Scripted([]), TrackerParams(small_sz=255, big_sz=271))
    assert tracker.init(np.zeros((480, 640, 3), np.uint8), box).search_size == search


def test_params_of_the_benchmarks_are_the_published_ones() -> None:
    table = {
        "OTB2015": (0.087, 0.408, 0.366, 271, 271, 0.94),
        "OTB2013": (0.087, 0.408, 0.366, 271, 271, 0.94),
        "VOT2018": (0.021, 0.730, 0.321, 255, 271, 0.93),
        "VOT2019": (0.062, 0.765, 0.380, 255, 271, 0.94),
        "GOT10K": (0.022, 0.799, 0.118, 255, 255, 0.94),
        "LASOT": (0.11, 0.7, 0.20, 255, 255, 0.94),
        "SOMETHING": (0.062, 0.765, 0.38, 255, 255, 0.94),
    }
    for name, row in table.items():
        p, _ = find_tracker_params(name, root=ROOT / "experiments" / "test")
        assert (p.penalty_k, p.lr, p.window_influence, p.small_sz, p.big_sz, p.ratio) == row, name


# ---- a whole frame, written down a second time, cell by cell


def plain_subwindow(image: np.ndarray, cx: float, cy: float, side: int, out: int, fill: np.ndarray) -> np.ndarray:
    left, top = round(cx - (side + 1) / 2), round(cy - (side + 1) / 2)  # Python rounds halves to even
    pad = 2 * side + max(image.shape)
    big = np.empty((image.shape[0] + 2 * pad, image.shape[1] + 2 * pad, 3), np.uint8)
    big[:] = fill.astype(np.uint8)
    big[pad : pad + image.shape[0], pad : pad + image.shape[1]] = image
    patch = big[pad + top : pad + top + side, pad + left : pad + left + side]
    return patch if side == out else cv2.resize(patch, (out, out), interpolation=cv2.INTER_LINEAR)


def plain_frame(
    cx: float, cy: float, w: float, h: float, *, image: np.ndarray, fill: np.ndarray, search: int, output: OceanOutput,
    p: TrackerParams,
) -> tuple[np.ndarray, list[float]]:
    """One frame by OCEAN section 5, step by step: the crop, and the new (cx, cy, w, h)."""
    s_z = math.sqrt((w + 0.5 * (w + h)) * (h + 0.5 * (w + h)))
    scale = 127 / s_z
    s_x = s_z + (search - 127) / scale
    side = int(s_x) + (s_x - int(s_x) >= 0.5)
    crop = plain_subwindow(image, cx, cy, side, search, fill)
    score = torch.sigmoid(output.cls)[0, 0].numpy()
    if output.cls_aligned is not None:
        score = p.ratio * score + (1 - p.ratio) * torch.sigmoid(output.cls_aligned)[0, 0].numpy()
    count = len(score)
    assert count == (search - 127) // 8 + 1 + 8
    hanning = [0.5 - 0.5 * math.cos(2 * math.pi * n / (count - 1)) for n in range(count)]
    tw, th = w * scale, h * scale
    best, found = -math.inf, (0.0,) * 6
    for i in range(count):
        for j in range(count):
            gx, gy = ((k - count // 2) * 8 + search // 2 for k in (j, i))
            left, top, right, bottom = (float(v) for v in output.ltrb[0, :, i, j])
            x1, y1, x2, y2 = gx - left, gy - top, gx + right, gy + bottom
            bw, bh = x2 - x1, y2 - y1
            padded = [math.sqrt((a + (a + b) / 2) * (b + (a + b) / 2)) for a, b in ((bw, bh), (tw, th))]
            ratio = (tw / th) / (bw / bh)
            s_c = max(padded[0] / padded[1], padded[1] / padded[0])
            r_c = max(ratio, 1 / ratio)
            penalty = math.exp(-(r_c * s_c - 1) * p.penalty_k)
            value = penalty * float(score[i, j])
            ranked = value * (1 - p.window_influence) + hanning[i] * hanning[j] * p.window_influence
            if ranked > best:
                best, found = ranked, ((x1 + x2) / 2, (y1 + y2) / 2, bw, bh, penalty, float(score[i, j]))
    bx, by, bw, bh, penalty, at = found
    rate = penalty * at * p.lr
    height, width = image.shape[:2]
    new = [cx + (bx - search // 2) / scale, cy + (by - search // 2) / scale]
    for old, seen in ((w, bw), (h, bh)):
        new.append(old * (1 - rate) + rate * (seen / scale * rate + (1 - rate) * old))
    limits = [(0, width), (0, height), (10, width), (10, height)]
    return crop, [max(low, min(high, v)) for v, (low, high) in zip(new, limits, strict=True)]


def random_output(rng: np.random.Generator, search: int, *, aligned: bool) -> OceanOutput:
    side = score_side(search)

    def draw(*shape: int, low: float, high: float) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32))

    cls = draw(1, 1, side, side, low=-6, high=3)
    ltrb = draw(1, 4, side, side, low=5, high=80)
    return OceanOutput(ltrb, cls, draw(1, 1, side, side, low=-6, high=3) if aligned else None)


@pytest.mark.parametrize("search", [255, 271, 287])
@pytest.mark.parametrize("aligned", [False, True])
def test_whole_frames_equal_the_plain_statement(search: int, aligned: bool) -> None:
    rng = np.random.default_rng(search + aligned)
    p = TrackerParams(penalty_k=0.087, lr=0.408, window_influence=0.366, small_sz=search, big_sz=search, ratio=0.9)
    outputs = [random_output(rng, search, aligned=aligned) for _ in range(6)]
    network = Scripted(outputs)
    tracker = OceanTracker(network, p)
    images = [rng.integers(0, 255, (180, 240, 3), dtype=np.uint8) for _ in range(7)]
    state = tracker.init(images[0], [8.0, 100.5, 37.25, 52.0])
    fill = np.array([images[0][..., c].mean() for c in range(3)])
    expected = [8.0 + 37.25 / 2, 100.5 + 26.0, 37.25, 52.0]
    for image, output in zip(images[1:], outputs, strict=True):
        crop, expected = plain_frame(*expected, image=image, fill=fill, search=search, output=output, p=p)
        state = tracker.track(state, image)
        assert np.array_equal(network.seen[-1][0].permute(1, 2, 0).numpy(), crop)
        assert [*state.centre_xy, *state.size_wh] == pytest.approx(expected, rel=1e-9)
        corner = [max(0, expected[0] - expected[2] / 2), max(0, expected[1] - expected[3] / 2)]
        assert state.box_xywh == pytest.approx([*corner, *expected[2:]], rel=1e-9)


def test_the_template_is_the_context_square_in_bgr_without_normalisation() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (120, 160, 3), dtype=np.uint8)
    network = Scripted([])
    OceanTracker(network, PLAIN).init(image, [100, 20, 40, 60])
    side = round(math.sqrt((40 + 50) * (60 + 50)))
    expected = plain_subwindow(image, 120, 50, side, 127, image.reshape(-1, 3).mean(0))
    assert network.seen[0].dtype == torch.float32
    assert np.array_equal(network.seen[0][0].permute(1, 2, 0).numpy(), expected)


@settings(max_examples=25, deadline=None)
@given(
    centre=st.tuples(st.floats(-50, 300), st.floats(-50, 250)), size=st.tuples(st.floats(10, 200), st.floats(10, 200)),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_state_is_always_inside_the_image(
    centre: tuple[float, float], size: tuple[float, float], seed: int
) -> None:
    output = random_output(np.random.default_rng(seed), 255, aligned=False)
    old = state_of(centre, size)
    new = OceanTracker(Scripted([output]), PLAIN).track(old, np.zeros((200, 240, 3), np.uint8))
    assert (new.centre_xy >= 0).all()
    assert (new.centre_xy <= [240, 200]).all()
    assert (new.size_wh >= 10).all()
    assert (new.size_wh <= [240, 200]).all()
    assert old.centre_xy.tolist() == list(centre)  # the old state is untouched
    assert old.size_wh.tolist() == list(size)


def test_a_perfect_network_is_followed_to_the_pixel() -> None:
    frames = list(square_frames(25))
    tracker = OceanTracker(Oracle(), PLAIN)
    state = tracker.init(*frames[0])
    for image, box in frames[1:]:
        state = tracker.track(state, image)
        # Cropping to whole pixels and resizing cost the reference's geometry up to about a pixel.
        assert np.abs(state.centre_xy - (box[:2] + box[2:] / 2)).max() < 1.5
        assert iou_xywh(state.box_xywh, box) > 0.8


# ---- images


def test_gray_and_other_images() -> None:
    gray = np.random.default_rng(0).integers(0, 255, (40, 50), dtype=np.uint8)
    colour = np.stack([gray] * 3, axis=2)
    for image in (gray, gray[..., None], colour, np.dstack([colour, gray]), gray.astype(np.uint16) * 256 + 7):
        assert np.array_equal(as_bgr(image), colour)
    for image in (colour.astype(np.float32), np.zeros((4, 5, 2), np.uint8), np.zeros((0, 5, 3), np.uint8)):
        with pytest.raises(UserError, match="cannot be tracked in"):
            as_bgr(image)
    tracker = OceanTracker(Scripted([answer()]), PLAIN)
    assert np.isfinite(tracker.track(tracker.init(gray, [5, 5, 12, 12]), gray).box_xywh).all()


@pytest.mark.parametrize("box", [[0, 0, 0, 10], [0, 0, 10, -1], [np.nan, 0, 5, 5], [0, 0, np.inf, 5], [1, 2, 3]])
def test_a_first_box_without_a_size_is_refused(box: list[float]) -> None:
    with pytest.raises(UserError, match="first box"):
        OceanTracker(Scripted([]), PLAIN).init(np.zeros((40, 50, 3), np.uint8), box)


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    cv2.imwrite(str(whole), np.random.default_rng(0).integers(0, 255, (60, 80), dtype=np.uint8))
    assert read_image(whole).shape == (60, 80, 3)  # gray becomes colour
    data = whole.read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image", encoding="utf-8")
    reasons = {"cut": "cut short", "empty": r"\(0 bytes\)", "text": "not an image", "gone": "no such file"}
    for name, why in reasons.items():
        with pytest.raises(UserError, match=rf"{name}\.jpg: .*{why}"):
            read_image(tmp_path / f"{name}.jpg")


def test_decoding_ahead_keeps_the_order_and_complains_in_time(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(6)]
    for index, path in enumerate(paths[:5]):
        cv2.imwrite(str(path), np.full((4, 4, 3), index, np.uint8))
    with ThreadPoolExecutor(3) as pool:
        images = decode_ahead(paths, pool, ahead=4)
        assert [int(next(images).max()) for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(UserError, match=r"5\.png"):
            next(images)


# ---- many sequences at once


def jobs_of(root: Path, names: dict[str, int], *, trackers: tuple[int, ...] = (0,)) -> list[Job]:
    jobs = []
    for number, (name, count) in enumerate(write_squares(root, names) and names.items()):
        frames = tuple(root / name / "img" / f"{i + 1:04d}.jpg" for i in range(count))
        jobs.append(Job(Sequence(name, frames, np.array([[60.0, 50.0, 30.0 + number, 30.0]])), trackers))
    return jobs


def one_by_one(tracker: OceanTracker, job: Job) -> np.ndarray:
    sequence = job.sequence
    state = tracker.init(read_image(sequence.frames[0]), sequence.boxes_xywh[0])
    boxes = [sequence.boxes_xywh[0]]
    for path in sequence.frames[1:]:
        state = tracker.track(state, read_image(path))
        boxes.append(state.box_xywh)
    return np.stack(boxes)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_lockstep_gives_the_boxes_of_one_by_one(tmp_path: Path, batch: int) -> None:
    # Sequences join and leave at different times; half of the targets are "small", so two search sizes are mixed; a
    # second tracker follows some of them on the same images.
    params = TrackerParams(small_sz=255, big_sz=271)
    trackers = [OceanTracker(small_model(seed=seed), params) for seed in (1, 2)]
    jobs = jobs_of(tmp_path, {"one": 1, "a": 9, "b": 4, "c": 12, "d": 6})
    jobs[1] = Job(replace(jobs[1].sequence, boxes_xywh=np.array([[60.0, 50.0, 10.0, 12.0]])), (0, 1))
    jobs[4] = Job(replace(jobs[4].sequence, boxes_xywh=np.array([[60.0, 50.0, 11.0, 12.0]])), (1,))
    tracks = list(Lockstep(trackers, batch=batch).follow(iter(jobs)))
    assert sorted((t.job.sequence.name, t.tracker) for t in tracks) == [
        ("a", 0), ("a", 1), ("b", 0), ("c", 0), ("d", 1), ("one", 0)
    ]  # fmt: skip
    assert {trackers[0].init(read_image(s.frames[0]), s.boxes_xywh[0]).search_size
            for s in (job.sequence for job in jobs)} == {255, 271}
    for track in tracks:
        expected = one_by_one(trackers[track.tracker], track.job)
        assert track.boxes_xywh.shape == expected.shape
        assert np.abs(track.boxes_xywh - expected).max() < 1e-3
        assert track.boxes_xywh[0].tolist() == track.job.sequence.boxes_xywh[0].tolist()
        assert np.isfinite(track.scores).all()
        assert track.seconds > 0


def test_a_job_is_asked_for_only_when_a_place_is_free(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, {"a": 3, "b": 6, "c": 2})
    log: list[str] = []

    def queue() -> object:
        for job in jobs:
            log.append(f"take {job.sequence.name}")
            yield job

    tracker = OceanTracker(Oracle(), PLAIN)
    for track in Lockstep([tracker], batch=2).follow(queue()):
        log.append(f"done {track.job.sequence.name}")
    assert log == ["take a", "take b", "done a", "take c", "done c", "done b"]


def test_every_frame_is_watched_once(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, {"a": 3, "b": 5})
    seen: list[tuple[str, int]] = []
    tracker = OceanTracker(Oracle(), PLAIN)
    lockstep = Lockstep([tracker], batch=2, watcher=lambda job, i, *_: seen.append((job.sequence.name, i)))
    assert len(list(lockstep.follow(iter(jobs)))) == 2
    assert sorted(seen) == [("a", 0), ("a", 1), ("a", 2), *(("b", i) for i in range(5))]


def test_every_image_is_decoded_once_for_all_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []
    monkeypatch.setattr("lib.images.read_image", lambda path: decoded.append(path) or read_image(path))
    jobs = [replace(job, trackers=(0, 1, 2)) for job in jobs_of(tmp_path, {"a": 3, "b": 5})]
    tracks = list(Lockstep([OceanTracker(Oracle(), PLAIN) for _ in range(3)], batch=2).follow(iter(jobs)))
    assert len(tracks) == 6
    assert sorted(decoded) == sorted(path for job in jobs for path in job.sequence.frames)


def test_lockstep_names_sequence_and_frame_of_what_is_wrong(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, {"a": 4, "b": 4})
    jobs[1].sequence.frames[2].write_text("no image", encoding="utf-8")
    with pytest.raises(UserError, match=r"b: frame 3 of 4 \(0003.jpg\): .*not an image"):
        list(Lockstep([OceanTracker(Oracle(), PLAIN)], batch=2).follow(iter(jobs)))
    broken = answer(batch=1)
    broken.cls[0, 0, 3, 3] = float("nan")
    network = Scripted([answer(), broken])
    with pytest.raises(UserError, match=r"a: frame 3 of 4 \(0003.jpg\): the network returned NaN"):
        list(Lockstep([OceanTracker(network, PLAIN)]).follow(iter(jobs[:1])))
    empty = Job(Sequence("a", jobs[0].sequence.frames, np.zeros((1, 4))))
    with pytest.raises(UserError, match=r"a: frame 1 of 4 .*first box"):
        list(Lockstep([OceanTracker(Oracle(), PLAIN)]).follow(iter([empty])))


@pytest.mark.parametrize(("image", "box", "said"), [
    (None, [1, 1, 9, 9], "cv2.imread returns None"),
    (np.zeros((40, 50, 3)), [1, 1, 9, 9], "type float64 cannot be tracked"),
    ([[1, 2]], [1, 1, 9, 9], "no image"),
    ("gray", [], "px with a positive size"),
    ("gray", None, "px with a positive size"),
    ("gray", ["a", 1, 2, 3], "px with a positive size"),
    ("gray", [1, 2, float("nan"), 4], "px with a positive size"),
    ("gray", [1, 2, 0, 4], "px with a positive size"),
    ("gray", [[1, 2, 3, 4]], "px with a positive size"),
    ("gray", [0.2, 0.3, 0.05, 0.05], "not shares of the image"),
])
def test_what_is_no_image_or_no_box_is_said_in_one_line(image: object, box: object, said: str) -> None:
    tracker = OceanTracker(Oracle(), PLAIN)
    gray = np.zeros((40, 50), np.uint8)
    with pytest.raises(UserError, match=said):
        tracker.init(gray if isinstance(image, str) else image, box)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"cv2\.imread"):
        tracker.track(tracker.init(gray, [5, 5, 9, 9]), None)  # type: ignore[arg-type]


def test_a_target_of_less_than_a_pixel_in_width_is_followed() -> None:
    tracker = OceanTracker(small_model(), PLAIN)
    state = tracker.init(np.zeros((40, 50), np.uint8), [5, 5, 1, 0.01])
    assert np.isfinite(tracker.track(state, np.zeros((40, 50, 3), np.uint8)).box_xywh).all()


def test_targets_of_several_search_sizes_advance_together() -> None:
    tracker = OceanTracker(small_model(seed=3), replace(PLAIN, big_sz=271))
    frames = list(square_frames(3, step=2.0))
    image, box = frames[0]
    states = [tracker.init(image, box), tracker.init(image, [5, 5, 10, 12]), tracker.init(image, [9, 70, 40, 33])]
    assert [state.search_size for state in states] == [255, 271, 255]
    together = tracker.track_batch(states, [frames[1][0]] * 3)
    for state, new in zip(states, together, strict=True):
        np.testing.assert_allclose(new.box_xywh, tracker.track(state, frames[1][0]).box_xywh, atol=1e-3)


def test_weights_bring_their_settings(tmp_path: Path) -> None:
    small_checkpoint(tmp_path / "mine.pth")
    assert OceanTracker.from_weights(tmp_path / "mine.pth").params == TrackerParams()
    (tmp_path / "mine.yaml").write_text("TEST: {lr: 0.25}", encoding="utf-8")
    assert OceanTracker.from_weights(tmp_path / "mine.pth").params == TrackerParams(lr=0.25)
    assert OceanTracker.from_weights(tmp_path / "mine.pth", params=PLAIN).params is PLAIN
    shipped = OceanTracker.from_weights("OceanSmall")
    assert (shipped.params.small_sz, shipped.params.tuned_on) == (287, "held-out videos")


def test_two_sequences_share_a_tracker_without_touching_each_other() -> None:
    tracker = OceanTracker(small_model(seed=3), PLAIN)
    a, b = list(square_frames(6, step=1.0)), list(square_frames(6, step=4.0, side=20))

    def alone(frames: list[tuple[np.ndarray, np.ndarray]]) -> list[list[float]]:
        state, boxes = tracker.init(*frames[0]), []
        for image, _ in frames[1:]:
            state = tracker.track(state, image)
            boxes.append(state.box_xywh.tolist())
        return boxes

    expected = [alone(a), alone(b)]
    states, boxes = [tracker.init(*a[0]), tracker.init(*b[0])], [[], []]
    for index in range(1, 6):
        for which, frames in enumerate((a, b)):
            states[which] = tracker.track(states[which], frames[index][0])
            boxes[which].append(states[which].box_xywh.tolist())
    assert boxes == expected


def test_reduced_precision_stays_near() -> None:
    frames = list(square_frames(4))
    tracks: list[np.ndarray] = []
    for amp in ("none", "bf16"):
        tracker = OceanTracker(small_model(seed=3), PLAIN, amp=amp)
        state = tracker.track(tracker.init(*frames[0]), frames[1][0])
        tracks.append(state.size_wh)
    assert tracks[0] != pytest.approx(tracks[1], rel=1e-12)  # it was really used
    assert tracks[0] == pytest.approx(tracks[1], rel=0.05)


def test_real_frames_of_a_random_network_stay_finite() -> None:
    folder = shared("OTB_sample", "Deer", "img")
    frames = tuple(sorted(folder.glob("*.jpg"))[:5])
    tracker = OceanTracker(small_model(), find_tracker_params("OTB2015", root=ROOT / "experiments" / "test")[0])
    job = Job(Sequence("Deer", frames, np.array([[305.0, 4, 95, 65]])))
    track: Track = next(iter(Lockstep([tracker]).follow(iter([job]))))
    assert np.isfinite(track.boxes_xywh).all()
    assert track.boxes_xywh[0].tolist() == [305, 4, 95, 65]


def test_the_search_sizes_of_training_and_testing_agree() -> None:
    train = load_config(ROOT / "experiments" / "train" / "Ocean.yaml").TRAIN
    assert (train.TEMPLATE_SIZE, train.STRIDE) == (127, 8)
    assert score_side(train.SEARCH_SIZE) == 25
