"""Tracking with the online branch: each piece by hand, the reference's trajectory, state, commands, bad inputs."""

import dataclasses
import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from tracker_stubs import Oracle, small_checkpoint, small_model, square_frames, write_squares
from vot_trees import make_video, square

from lib import commands
from lib.benchmarks import Sequence
from lib.benchmarks.vot import FAILURE, INIT, read_trajectory
from lib.crops import grid_points
from lib.errors import UserError
from lib.models.models import build_model
from lib.testing.batched import Job, Lockstep
from lib.tracker import ocean
from lib.tracker.ocean import OceanTracker, SearchCrop, TrackerState
from lib.tracker.online import (
    Look,
    OnlineState,
    OnlineTracker,
    _on_cells,
    box_in_crop,
    cut,
    judge,
    reweighted,
    views,
)
from lib.tracker.params import OnlineParams, TrackerParams, find_tracker_params, load_tracker_params
from lib.tracker.scoring import NonFiniteOutput, Peak, Prediction, cosine_window, find_peak, shape_penalty

QUICK = OnlineParams(penalty_k=0.05, lr=0.3, window_influence=0.3, net_opt_iter=4, net_opt_update_iter=1,
                     net_opt_hn_iter=1, train_skipping=3)


@pytest.fixture(scope="module")
def tracker() -> OnlineTracker:
    return OnlineTracker(small_model(seed=3, online=True), QUICK)


def relative_error(value: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(np.asarray(value) - wanted).max() / np.abs(wanted).max())


def follow(tracker: OceanTracker, frames: list[tuple[np.ndarray, np.ndarray]]) -> list[TrackerState]:
    states = [tracker.init(*frames[0])]
    for image, _ in frames[1:]:
        states.append(tracker.track(states[-1], image))
    return states


# ---- the reference


def test_crops_flags_slots_and_views_are_the_references(golden: dict[str, np.ndarray], recipe: ModuleType) -> None:
    image, box = recipe.video_frame(0)
    for index, (y, x, scale) in enumerate(golden["patch_cases"]):
        crop = cut(image, (x, y), side=224 * scale, out_size=224)
        assert list(crop.corners) == golden[f"patch_coords/{index}"].tolist()
        assert relative_error(crop.pixels[::8, ::8, ::-1].transpose(2, 0, 1), golden[f"patch/{index}"]) < 1e-5
    found = [judge(scores, wh, scale=float(scale), params=OnlineParams()) for scores, wh, scale in zip(
        golden["locate_maps"], golden["locate_target_hw"][:, ::-1], golden["locate_scale"], strict=True)]
    assert found == golden["locate_flag"].tolist()
    weights, slot = np.full(3, 1 / 3), None
    for rate, wanted, index in zip(*(golden[f"memory_{key}"] for key in ("rates", "weights", "index")), strict=True):
        weights, slot = reweighted(weights, slot, rate=float(rate), size=6)
        assert slot == index
        assert relative_error(weights, wanted[:len(weights)]) < 1e-5
    big = cut(image, box[:2] + box[2:] / 2, side=448 * float(golden["track_init_scale"]), out_size=448).pixels
    pixels, shifts = views(big, recipe.shifts(41))
    assert relative_error(pixels[:, ::16, ::16, ::-1].transpose(0, 3, 1, 2), golden["track_init_patches"]) < 1e-5
    assert shifts[:, ::-1].tolist() == golden["track_init_shift_yx"][:23].tolist()


def test_twelve_frames_are_the_references(golden: dict[str, np.ndarray], recipe: ModuleType,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags, slots, iterations, chosen cells and crops exactly; centre and size to 0.01 px."""
    model = build_model(online=True)
    model.load_state_dict({name: torch.from_numpy(np.asarray(recipe.fill(name, tuple(tensor.shape))))
                           for name, tensor in model.state_dict().items()})
    params = OnlineParams(penalty_k=0.06, lr=0.644, window_influence=0.484, big_sz=287, online_ratio=0.7)
    tracker = OnlineTracker(model, params)
    monkeypatch.setattr(tracker, "draws", lambda image, box: (recipe.shifts(41), recipe.kept(42)))
    fused = []

    def spy(prediction: Prediction, target_wh: np.ndarray, *, search_size: int, params: TrackerParams,
            blend: tuple[np.ndarray, float]) -> Peak:
        box_wh = prediction.ltrb[:, :2].astype(np.float64) + prediction.ltrb[:, 2:]
        penalty = shape_penalty(box_wh, target_wh, penalty_k=params.penalty_k)
        window = params.window_influence
        fused.append(0.7 * blend[0][0] + 0.3 * ((penalty * prediction.score)[0] * (1 - window)
                                                + cosine_window(25) * window))
        return find_peak(prediction, target_wh, search_size=search_size, params=params, blend=blend)

    state = tracker.init(*recipe.video_frame(0))
    assert relative_error(state.memory.boxes, golden["track_init_boxes"]) < 1e-5
    assert relative_error(state.memory.filters, golden["track_init_filter"]) < 2e-2
    monkeypatch.setattr(ocean, "find_peak", spy)
    for row in range(11):
        state = tracker.track(state, recipe.video_frame(row + 1)[0])
        look, memory = state.look, state.memory
        top, left, bottom, right = golden["track_coords"][row]
        assert look.middle_xy.tolist() == [(left + right - 1) / 2, (top + bottom - 1) / 2]
        assert look.scale == pytest.approx(golden["track_scale"][row])
        assert look.flag == golden["track_flag"][row]
        assert memory.iterations == golden["track_iterations"][row]
        assert memory.slot == 30 + row
        assert np.unravel_index(fused[row].argmax(), (25, 25)) == tuple(golden["track_peak_rc"][row])
        assert np.abs(state.centre_xy - golden["track_centre_xy"][row]).max() < 0.01
        assert np.abs(state.size_wh - golden["track_size_wh"][row]).max() < 0.01
        assert np.abs(memory.boxes[-1] - golden["track_target_box"][row]).max() < 0.01
        assert relative_error(memory.weights, golden["track_sample_weights"][row, :31 + row]) < 1e-5
        assert relative_error(look.scores, golden["track_scores"][row]) < 5e-3
        assert relative_error(memory.filters[0, ::16], golden["track_filter"][row]) < 2e-2
    assert relative_error(state.memory.filters, golden["track_last_filter"]) < 2e-2


# ---- the pieces, by hand


@pytest.mark.parametrize(("centre", "side", "out"), [((30.9, 20.2), 24, 24), ((2.5, 3.5), 31, 31), ((20, 20), 120, 40),
                                                     ((-3.7, 70.1), 9, 9)])
def test_a_crop_shows_the_pixels_that_the_formula_says(centre: tuple[float, float], side: int, out: int) -> None:
    image = np.random.RandomState(0).randint(0, 255, (50, 60, 3), np.uint8)
    crop = cut(image, centre, side=side, out_size=out)
    step = max(int(side / out - 0.1), 1)
    count = round(side / step)
    at = [int(value) for value in centre[::-1]]  # y, x
    cells = [[(value // step - (count - 1) // 2 + k) for k in range(count)] for value in at]
    rows, columns = ([min(max(k * step + value % step, value % step), size - 1 - (size - 1 - value % step) % step)
                      for k in axis] for axis, value, size in zip(cells, at, (50, 60), strict=True))
    assert crop.corners == (cells[0][0] * step, cells[1][0] * step, (cells[0][-1] + 1) * step,
                            (cells[1][-1] + 1) * step)
    wanted = image[rows][:, columns].astype(np.float32)
    if count != out:
        wanted = cv2.resize(wanted, (out, out))
    np.testing.assert_allclose(crop.pixels, wanted, atol=1e-3)


def test_views_are_moved_as_they_say() -> None:
    big = np.random.RandomState(1).uniform(0, 255, (448, 448, 3)).astype(np.float32)
    shares = np.random.RandomState(2).uniform(size=(18, 2))
    pixels, shifts = views(big, shares)
    assert pixels.shape == (23, 224, 224, 3)
    assert shifts[:5].tolist() == [[0, 0], [67, 67], [67, -67], [-67, 67], [-67, -67]]
    assert shifts[5].tolist() == np.trunc((shares[0, ::-1] - 0.5) * 224 / 3).tolist()
    for row, source in ((0, big), (2, big), (5, big[:, ::-1])):
        x, y = shifts[row].astype(int)
        assert np.array_equal(pixels[row], source[112 - y:336 - y, 112 - x:336 - x])


def test_a_box_in_the_crop_by_hand() -> None:
    # The middle of the target in crop px: (100 - 90) / 2 + 111.5 - (24 - 1) / 2 + 24 / 2.
    box = box_in_crop(np.array([100.0, 60.0]), np.array([48.0, 20.0]), middle_xy=np.array([90.0, 60.0]), scale=2.0)
    assert box.tolist() == [5 + 111.5 - 11.5, 111.5 - 4.5, 24, 10]


def test_flags_by_hand() -> None:
    scores = np.full((14, 14), -0.1, np.float32)
    wh = np.array([40.0, 20.0])

    def flag(**cells: float) -> str:
        filled = scores.copy()
        for name, value in cells.items():
            row, column = map(int, name[1:].split("_"))
            filled[row, column] = value
        return judge(filled, wh, scale=1.0, params=OnlineParams())

    # Columns within 2.2 * 40 * 13 / 224 / 2 = 2.55 of the peak and rows within 1.28 are the target itself.
    assert flag() == "not_found"
    assert flag(c6_6=0.8) == "normal"
    assert flag(c6_6=0.8, c6_9=0.7) == "normal"
    assert flag(c6_6=0.8, c6_10=0.7) == "hard_negative"
    assert flag(c6_6=0.8, c8_6=0.7) == "hard_negative"
    assert flag(c6_6=0.8, c6_10=0.3) == "normal"
    assert flag(c0_0=0.8, c13_13=0.7) == "hard_negative"


def test_a_full_memory_gives_up_its_least_sample() -> None:
    weights, slot = reweighted(np.array([0.5, 0.5]), None, rate=0.02, size=3)
    assert slot == 2
    np.testing.assert_allclose(weights, np.array([0.5 / 0.98, 0.5 / 0.98, 0.02]) / (1 / 0.98 + 0.02))
    again, slot = reweighted(weights, slot, rate=0.0075, size=3)
    assert slot == 2, "the newest is the lightest"
    assert again.sum() == pytest.approx(1)
    assert again[2] / again[0] == pytest.approx(weights[2] / weights[0] / 0.9925)


@pytest.mark.parametrize("size", [255, 287])
def test_a_registered_map_peaks_where_the_target_is(size: int) -> None:
    """A target of 45 px that moved by 40: found there on Ocean's grid too, or pulled in as the reference has it."""
    target, scale = np.array([141.0, 104.0]), 4 * 45 / 224
    y, x = np.mgrid[0:14, 0:14]
    look = Look(np.zeros((14, 14), np.float32), torch.zeros(1), np.array([108.0, 106.0]), scale, "normal")
    at = (target - look.middle_xy) / scale / 16 + 7
    look.scores[:] = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 4)
    state = OnlineState(np.array([101.0, 99.0]), np.array([45.0, 45.0]), 1.0, size, np.zeros(3), None, memory=None,
                        look=look)
    crop = SearchCrop(np.empty(0, np.uint8), 127 / 90, (640, 480))
    placed = []
    for registered in (True, False):
        row, column = np.unravel_index(_on_cells(state, crop, registered=registered).argmax(), (size // 8 - 6,) * 2)
        px = grid_points(size)[[column, row]] - size // 2
        placed.append(state.centre_xy + px / crop.scale)
    assert np.abs(placed[0] - target).max() <= 4 / 1.4 + 0.2  # half a cell
    pull = (placed[1][0] - 101) / (placed[0][0] - 101)
    assert pull == pytest.approx({255: 0.79, 287: 0.91}[size], abs=0.08)


# ---- tracking


def test_the_map_of_an_untrained_network_follows_the_target(tracker: OnlineTracker) -> None:
    frames = list(square_frames(8, size_wh=(320, 240)))
    for state, (_, box) in zip(follow(OnlineTracker(tracker.model, OnlineParams(online_registered=True)), frames)[1:],
                               frames[1:], strict=True):
        row, column = np.unravel_index(state.look.scores.argmax(), (14, 14))
        seen = state.look.middle_xy + (np.array([column, row]) * 16 - 112) * state.look.scale
        assert np.abs(seen - box[:2] - box[2:] / 2).max() < box[2]


def test_at_a_share_of_zero_the_branch_changes_nothing(tracker: OnlineTracker) -> None:
    frames = list(square_frames(6))
    online = follow(OnlineTracker(tracker.model, dataclasses.replace(QUICK, online_ratio=0.0)), frames)
    plain = follow(OceanTracker(tracker.model, TrackerParams(penalty_k=0.05, lr=0.3, window_influence=0.3)), frames)
    assert [state.box_xywh.tolist() for state in online] == [state.box_xywh.tolist() for state in plain]
    assert len(online[-1].memory.samples) == 35


def test_a_perfect_network_stays_on_the_target_with_half_a_share() -> None:
    """The branch only moves which cell is chosen: boxes are still the network's, so every near cell gives the box."""
    model = small_model(seed=3, online=True)
    oracle = Oracle()
    oracle.classifier, oracle.features, oracle.online_pixels = model.classifier, model.features, "raw"
    frames = list(square_frames(8, size_wh=(320, 240)))
    for state, (_, box) in zip(follow(OnlineTracker(oracle, QUICK), frames)[1:], frames[1:], strict=True):
        assert np.abs(state.centre_xy - box[:2] - box[2:] / 2).max() < 2


def test_a_state_can_be_followed_twice_and_a_full_memory_stays_its_own(tracker: OnlineTracker) -> None:
    small = OnlineTracker(tracker.model, dataclasses.replace(QUICK, sample_memory_size=31))
    frames = list(square_frames(9))
    states = follow(small, frames)
    assert [len(state.memory.samples) for state in states] == [30, *[31] * 8]
    other = small.track(states[4], frames[8][0])  # another way on from the same state
    assert other.box_xywh.tolist() != states[5].box_xywh.tolist()
    again = [states[4]]
    for image, _ in frames[5:]:
        again.append(small.track(again[-1], image))
    for one, two in zip(again, states[4:], strict=True):
        assert one.box_xywh.tolist() == two.box_xywh.tolist()
        assert torch.equal(one.memory.filters, two.memory.filters)


def test_samples_do_not_keep_other_targets_in_memory(tracker: OnlineTracker) -> None:
    frames = list(square_frames(2))
    states = tracker.track_batch([tracker.init(*frames[0])] * 3, [frames[1][0]] * 3)
    newest = states[0].memory.samples[-1]
    assert newest.untyped_storage().nbytes() == newest.numel() * 4 == 169 * 32 * 4


def test_lockstep_order_and_neighbours_change_nothing(tracker: OnlineTracker, tmp_path: Path) -> None:
    root = write_squares(tmp_path, {"A": 7, "B": 5, "C": 6})
    jobs = [Job(Sequence(name, tuple(sorted((root / name / "img").glob("*.jpg"))), np.array([[60.0, 50, 30, 30]])))
            for name in "ABC"]
    runs = [{track.job.sequence.name: track.boxes_xywh
             for track in Lockstep([tracker], batch=batch).follow(iter(order))}
            for batch, order in ((1, jobs), (1, jobs[::-1]), (3, jobs))]
    for name in "ABC":
        assert np.array_equal(runs[0][name], runs[1][name])
        np.testing.assert_allclose(runs[2][name], runs[0][name], atol=0.01)


def test_object_aware_and_online_together() -> None:
    tracker = OnlineTracker(small_model(seed=3, align=True, online=True), QUICK)
    assert all(np.isfinite(state.box_xywh).all() for state in follow(tracker, list(square_frames(4))))


def test_small_targets_and_targets_outside_the_picture(tracker: OnlineTracker) -> None:
    image = np.random.RandomState(0).randint(0, 255, (120, 160, 3), np.uint8)
    for box in ([50, 40, 2, 3], [0.5, 0.5, 1, 1], [-20, -20, 25, 30], [150, 110, 60, 60], [10, 10, 150, 2]):
        state = tracker.track(tracker.init(image, box), image[::-1])
        assert np.isfinite(state.box_xywh).all()
    for box in ([160, 10, 20, 20], [-30, 10, 20, 20], [10, 130, 20, 20]):
        with pytest.raises(UserError, match="outside of the first frame, which is 160 x 120 px"):
            tracker.init(image, box)


def test_a_diverged_branch_is_told(tracker: OnlineTracker) -> None:
    frames = list(square_frames(2))
    state = tracker.init(*frames[0])
    broken = dataclasses.replace(state, memory=dataclasses.replace(state.memory, filters=state.memory.filters * np.nan))
    with pytest.raises(NonFiniteOutput) as caught:
        tracker.track_batch([state, broken], [frames[1][0]] * 2)
    assert caught.value.rows == (1,)


# ---- settings and commands


def test_published_settings_and_what_stands_in_for_them() -> None:
    params = {name: find_tracker_params(name, online=True)[0] for name in (
        "VOT2018", "VOT2019", "VOT2017", "OTB2015", "SYNTHETIC", "UAV123")}
    assert [(p.penalty_k, p.lr, p.window_influence, p.small_sz, p.big_sz, p.online_ratio) for p in (
        params["VOT2018"], params["VOT2019"])] == [(0.187, 0.8, 0.64, 271, 287, 0.5),
                                                    (0.06, 0.644, 0.484, 255, 287, 0.7)]
    assert params["VOT2017"] == params["VOT2018"]
    assert (params["OTB2015"].penalty_k, params["OTB2015"].tuned_on) == (0.087, "")
    assert params["SYNTHETIC"].lr == 0.25
    assert params["UAV123"] == OnlineParams()
    assert dataclasses.replace(params["VOT2018"], **{key.name: key.default for key in dataclasses.fields(
        TrackerParams)}) == OnlineParams()


def test_a_lost_target_teaches_the_filter_nothing_and_is_found_without_it(tracker: OnlineTracker) -> None:
    frames = list(square_frames(5))
    wary = OnlineTracker(tracker.model, dataclasses.replace(QUICK, lost_below=1.0))  # which no presence reaches
    states = follow(wary, frames)
    assert [state.away for state in states] == [0, 1, 2, 3, 4]
    first, last = states[0].memory, states[-1].memory
    assert (last.number, len(last.samples)) == (5, len(first.samples))
    assert last.filters is first.filters
    assert last.centre_xy is states[-1].centre_xy, "the filter goes on looking where the box rests"
    crops = [ocean.search_crop(state, frames[-1][0]) for state in states[1:3]]
    held = dataclasses.replace(states[1], away=0)
    assert wary.blend([held, states[2]], crops)[1].ravel().tolist() == [QUICK.online_ratio, 0.0]
    elsewhere = dataclasses.replace(held, centre_xy=np.array([90.0, 70.0]))
    found = wary.learn(last, states[-1].look, elsewhere, lost=True)
    assert (len(found.samples), found.centre_xy.tolist()) == (len(first.samples), [90, 70])
    assert len(wary.learn(last, states[-1].look, elsewhere).samples) == len(first.samples) + 1, "once it is held"


@pytest.mark.parametrize(("line", "message"), [
    ("sample_memory_size: 0", "greater than or equal to 30"), ("train_skipping: 0", "greater than or equal to 1"),
    ("sample_memory_size: 14 * 16", "'14 \\* 16'; .*valid integer.*nothing in it is evaluated"),
    ("learning_rate: torch.ones(1)", "valid number.*nothing in it is evaluated"), ("online_ratio: 1.5", "equal to 1"),
    ("hn_iter: 3", "unknown key"), ("learning_rate: 1", "less than 1"), ("net_opt_iter: -1", "equal to 0"),
])
def test_wrong_settings_are_one_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "OceanOnline.yaml"
    path.write_text(f"TEST:\n  lr: 0.5\n  {line}\n")
    with pytest.raises(UserError, match=message) as error:
        load_tracker_params(path, online=True)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_block_with_on_in_its_name_counts_online(tmp_path: Path) -> None:
    path = tmp_path / "VOT.yaml"
    path.write_text("TEST:\n  VOT2019: {lr: 0.5}\n  VOT2019ON: {lr: 0.25, online_ratio: 0.7}\n")
    assert load_tracker_params(path, dataset="VOT2019", online=True) == OnlineParams(lr=0.25, online_ratio=0.7)
    assert load_tracker_params(path, dataset="VOT2019") == TrackerParams(lr=0.5)


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_squares(Path("dataset/MINE"), {"A": 4, "B": 1})
    small_checkpoint(Path("snapshot/checkpoint_e1.pth"), online=True)
    small_checkpoint(Path("plain.pth"))
    Path("quick.yaml").write_text("TEST: {net_opt_iter: 2, train_skipping: 2, lr: 0.3, online_ratio: 0.3}")
    test = ["--resume", "snapshot/checkpoint_e1.pth", "--dataset", "MINE", "--params", "quick.yaml"]
    assert commands.call("test", [*test, "--online", "True"]) == 0
    identity = json.loads(Path("result/MINE/Ocean/run.json").read_text())["identity"]
    assert (identity["model"]["online"], identity["tracker"]["online_ratio"]) == (True, 0.3)
    assert len(Path("result/MINE/Ocean/B.txt").read_text().splitlines()) == 1
    with pytest.raises(UserError, match=r"holds results made with model\.online True instead of None"):
        commands.call("test", test)
    online = Path("result/MINE/Ocean/A.txt").read_bytes()
    assert commands.call("test", [*test, "--tracker_name", "Without"]) == 0
    identity = json.loads(Path("result/MINE/Without/run.json").read_text())["identity"]
    assert not [key for key in (*identity["model"], *identity["tracker"]) if "online" in key or "net_opt" in key]
    assert commands.call("sweep", ["--snapshot", "snapshot", *test[2:], "--online", "True", "--html", "False",
                                   "--batch", "2"]) == 0
    assert Path("result/MINE/Ocean_checkpoint_e1/A.txt").read_bytes() == online
    assert commands.call("track", ["dataset/MINE/A/img", "--init", "60,50,30,30", *test[:2], *test[4:], "--online",
                                   "True", "--save_video", "False", "--out", "out"]) == 0
    regions = [square(40 + 40 * (index == 2), 30) for index in range(8)]  # lost in the third frame, begun again
    make_video(Path("dataset/VOT2018"), "bag", regions, images=True)
    assert commands.call("test", [*test[:2], "--dataset", "VOT2018", *test[4:], "--online", "True"]) == 0
    codes = read_trajectory(Path("result/VOT2018/Ocean/baseline/bag/bag_001.txt")).codes
    assert (codes[0], codes[2], codes[7]) == (INIT, FAILURE, INIT)
    for words, message in ((["--resume", "plain.pth", *test[2:]], "without the online branch"),
                           (["--tracker", "opencv:MIL", *test[2:4]], "opencv:MIL has none"),
                           (["--arch", "OceanONNX", *test], "an exported model has no online branch")):
        with pytest.raises(UserError, match=message) as error:
            commands.call("test", [*words, "--online", "True", "--tracker_name", "Other"])
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="margin is that of a frame"):
        commands.call("margin", ["--online", "True", *test[:4]])
