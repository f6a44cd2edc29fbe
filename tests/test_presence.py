"""Presence from what a frame leaves behind, and coming back to a target that was lost; networks with known answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from tracker_stubs import PLAIN, Oracle, Scripted, answer, small_model, square_frames, write_squares
from vot_trees import make_video, square

from lib.benchmarks import Sequence, load_benchmark, read_presence
from lib.benchmarks.vot import FAILURE, INIT, REGION, UNKNOWN
from lib.datasets.synthetic import GONE, held_out_scene, with_absences, write_otb
from lib.errors import UserError
from lib.models.ocean import OceanOutput, TemplateFeatures
from lib.options import VideoOptions
from lib.testing.batched import Job, Lockstep
from lib.testing.results import ResultFolder, record_of
from lib.testing.run import Candidate, run_candidate
from lib.tools.run_video import run
from lib.tools.video_source import Source
from lib.tracker.ocean import OceanTracker
from lib.tracker.params import TrackerParams, load_tracker_params
from lib.tracker.presence import (
    COEFFICIENTS,
    FADES,
    FINGERPRINT,
    MODELS,
    SECOND,
    WITH_BRANCH,
    WITHOUT_SIMILARITY,
    Rival,
    Trace,
    colours_of,
    judged,
    rival_of,
    second_template,
    seen,
    settled,
    similarity_map,
    taken_over,
    views,
)
from lib.tracker.scoring import Peak, Prediction


@dataclass(frozen=True, eq=False)
class State:
    """What `settled` looks at."""

    centre_xy: np.ndarray
    score: float
    trace: Trace | None
    presence: float
    away: int = 0


LOST = replace(PLAIN, lost_below=0.3)


class Honest(Oracle):
    """Finds the square, and is sure of nothing where there is none: then it points 60 px to the right."""

    def track(self, x: torch.Tensor, template: TemplateFeatures) -> OceanOutput:
        side = (x.shape[-1] - 127) // 8 + 9
        parts = []
        for crop in x:
            if bool((crop[2] - crop[1] > 100).any()):
                parts.append(super().track(crop[None], template))
            else:
                ltrb = torch.tensor([-30.0, 30.0, 90.0, 30.0]).view(1, 4, 1, 1).repeat(1, 1, side, side)
                parts.append(OceanOutput(ltrb, torch.full((1, 1, side, side), -6.0), None))
        return OceanOutput(torch.cat([p.ltrb for p in parts]), torch.cat([p.cls for p in parts]), None)


def leaving() -> list[np.ndarray]:
    """Return 640 x 480 images of a red square at (60, 50) that is gone in four of them and comes back at (500, 350)."""
    images = []
    for index in range(20):
        image = np.full((480, 640, 3), 90, np.uint8)
        x, y = (60, 50) if index < 6 else (500, 350)
        if not 6 <= index < 10:
            image[y : y + 30, x : x + 30] = (20, 20, 220)
        images.append(image)
    return images


def followed(params: TrackerParams, images: list[np.ndarray]) -> list:
    tracker = OceanTracker(Honest(), params)
    states = [tracker.init(images[0], [60, 50, 30, 30])]
    for image in images[1:]:
        states.append(tracker.track(states[-1], image))
    return states


def test_a_target_that_leaves_is_waited_for_and_found_elsewhere() -> None:
    states = followed(LOST, leaving())
    assert all(state.presence > 0.9 for state in states[:6])
    for state in states[6:10]:  # gone: the box rests
        assert state.presence < 0.3
        assert state.box_xywh.tolist() == states[5].box_xywh.tolist()
    assert states[9].away == 4
    np.testing.assert_allclose(states[-1].box_xywh, [500, 350, 30, 30], atol=4)
    assert states[-1].presence > 0.9
    assert states[-1].away == 0
    off = followed(PLAIN, leaving())
    assert abs(off[-1].box_xywh[0] - 500) > 100  # without the key it is never found


def test_off_gives_the_same_boxes_to_the_bit_and_on_too_while_presence_is_high() -> None:
    images = [image for image, _ in square_frames(8)]
    for first, second in zip(followed(PLAIN, images), followed(LOST, images), strict=True):
        assert first.box_xywh.tobytes() == second.box_xywh.tobytes()


def test_in_lockstep_lost_targets_are_looked_for_as_alone(tmp_path: Path) -> None:
    for name, images in (("a", leaving()), ("b", [image for image, _ in square_frames(20, size_wh=(640, 480))])):
        (tmp_path / name).mkdir()
        for index, image in enumerate(images):
            cv2.imwrite(str(tmp_path / name / f"{index:02d}.png"), image)
    jobs = [Job(Sequence(name, tuple(sorted((tmp_path / name).iterdir())), np.array([[60.0, 50, 30, 30]])))
            for name in "ab"]
    found = {track.job.sequence.name: track
             for track in Lockstep([OceanTracker(Honest(), LOST)], batch=2).follow(iter(jobs))}
    alone = followed(LOST, leaving())
    np.testing.assert_allclose(found["a"].boxes_xywh[1:], [state.box_xywh for state in alone[1:]], atol=1e-6)
    np.testing.assert_allclose(found["a"].presence, [state.presence for state in alone], atol=1e-9)


def test_under_the_restart_protocol_a_new_start_forgets_that_it_was_lost(tmp_path: Path) -> None:
    images, away = leaving(), 10
    regions = [square(*((60, 50) if index < away else (500, 350)), side=30) for index in range(len(images))]
    folder = make_video(tmp_path / "VOT2018", "bag", regions, images=True, size=(640, 480)) / "color"
    for index, image in enumerate(images):
        cv2.imwrite(str(folder / f"{index + 1:08d}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    benchmark = load_benchmark("VOT2018", tmp_path, images=True)
    states: list = []
    loop = Lockstep([OceanTracker(Honest(), LOST)], watcher=lambda _job, _index, _image, now: states.append(now.get(0)))
    track, = loop.follow(map(Job, benchmark.sequences))
    # While the target is gone the box rests on its region; it comes back too far away for the first look around.
    assert track.codes is not None
    assert track.codes.tolist() == [INIT, *[REGION] * 9, FAILURE, *[UNKNOWN] * 4, INIT, *[REGION] * 4]
    assert [state.away for state in states[5:10]] == [0, 1, 2, 3, 4]
    assert all(state.away == 0 and state.presence > 0.9 for state in states[15:])


def test_a_video_says_held_lost_and_found_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = leaving()
    options = VideoOptions(source="clip", init=("60,50,30,30",), out=tmp_path, save_video=False)
    with caplog.at_level("INFO", logger="lib"):
        run(options, OceanTracker(Honest(), LOST), Source("clip", iter(images), 25.0, len(images), lambda: None),
            tmp_path)
    rows = np.loadtxt(tmp_path / "clip.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(rows[1:, 1:5], [state.box_xywh for state in followed(LOST, images)[1:]], atol=0.01)
    assert set(rows[6:10, 7]) == {1}
    assert "clip frame 7: lost" in caplog.text
    assert "found again" in caplog.text


def test_the_search_widens_to_the_whole_picture() -> None:
    images = leaving()
    state = OceanTracker(Honest(), LOST).init(images[0], [60, 50, 30, 30])
    assert views(state, images[0]) == [state]
    near = [views(replace(state, away=1), images[0])[1:]]
    distances = [np.hypot(*(view.centre_xy - state.centre_xy)) for away in range(1, 40)
                 for view in views(replace(state, away=away), images[0])[1:]]
    assert max(np.hypot(*(view.centre_xy - state.centre_xy)) for view in near[0]) < 200
    assert max(distances) > 600  # the far corner
    x, y = np.array([view.centre_xy for away in range(1, 40) for view in views(replace(state, away=away), images[0])]).T
    assert x.min() > 0
    assert x.max() < 640
    assert y.max() < 480


def test_similarity_is_the_cosine_at_each_place() -> None:
    torch.manual_seed(0)
    x, z = torch.randn(2, 3, 31, 31), torch.randn(2, 3, 7, 7)
    x[0, :, 4:11, 9:16] = 5 * z[0]
    found = similarity_map(x, z)
    assert found.shape == (2, 1, 25, 25)
    assert found[0, 0, 4, 9] == pytest.approx(1, abs=1e-5)
    patch = x[1, :, 10:17, 3:10].flatten()
    assert found[1, 0, 10, 3] == pytest.approx(float(torch.cosine_similarity(patch, z[1].flatten(), dim=0)), abs=1e-5)


def test_the_second_template_is_of_confident_frames_that_resemble_the_first() -> None:
    """In a search of 9 x 9 cells the found window is that two cells right of the middle; the template is 7 x 7."""
    torch.manual_seed(0)
    features, zf = torch.randn(1, 2, 9, 9), torch.randn(1, 2, 7, 7)
    peak = Peak(np.array([[8.0, -8.0]]), np.full((1, 2), 16.0), np.ones(1), np.ones(1))
    template = SimpleNamespace(zf=zf)
    before = OceanTracker(Oracle(), PLAIN).init(np.full((99, 99, 3), 90, np.uint8), [40, 40, 20, 20])
    before = replace(before, template=template)
    crop = SimpleNamespace(pixels=np.full((127, 127, 3), 90, np.uint8), scale=1.0)

    def after(first: float, second: float) -> torch.Tensor | None:
        maps = [np.full((1, 3, 3), value, np.float32) for value in (first, second)]
        prediction = Prediction(np.full((1, 3, 3), 0.99, np.float32), np.full((1, 4, 3, 3), 8, np.float32), *maps,
                                features=features)
        return judged(before, before, crop, prediction, peak, row=0).second

    shown = features[:, :, 0:7, 2:9]
    torch.testing.assert_close(after(1.0, 1.0), (1 - SECOND) * zf / zf.norm() + SECOND * shown / shown.norm())
    assert after(0.2, 1.0) is None  # it resembles the second, not the first
    assert after(0.4, -1.0) is None  # not confident
    prediction = Prediction(np.zeros((1, 3, 3), np.float32), np.zeros((1, 4, 3, 3), np.float32), features=features)
    later = second_template(replace(before, second=torch.zeros(1, 2, 7, 7)), prediction, (0, 2), row=0)
    torch.testing.assert_close(later, SECOND * shown / shown.norm())


def test_colours_of_a_box() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[10:20, 10:20] = (255, 0, 0)
    inside, beside = (colours_of(image, np.array(c), np.array([8.0, 8.0])) for c in ([14.5, 14.5], [30.0, 30.0]))
    assert inside.sum() == pytest.approx(1)
    assert (inside * beside).sum() == 0
    assert colours_of(image, np.array([-50.0, 500.0]), np.array([8.0, 8.0])).sum() == pytest.approx(1)  # outside
    lit = [colours_of(np.full((9, 9, 3), gain * np.array([60, 100, 20]), np.uint8), np.full(2, 4.0), np.full(2, 8.0))
           for gain in (1, 2)]
    assert np.sqrt(lit[0] * lit[1]).sum() == pytest.approx(1)  # brighter, but of the same colour


def test_presence_by_hand() -> None:
    first = seen(0.5, 0.8, 1.0, 0.0, None)
    trace = seen(0.5, 0.6, 0.8, 0.7, first)
    # Scores have logit 0. The colours' level is the mean of two frames, 0.9; the slow similarity is 0.8 - 0.02.
    bias, _, _, colour, suspicion, similarity, similarities = COEFFICIENTS
    logit = bias - 0.1 * colour + 0.7 * suspicion + 0.6 * similarity + 0.78 * similarities
    assert trace.presence == pytest.approx(1 / (1 + math.exp(-logit)))
    assert trace.plain == pytest.approx(1 / (1 + math.exp(-logit - 0.1 * colour + 0.18 * similarities)))
    branch = trace._replace(likeness=1.5, likenesses=-0.5)
    logit = WITH_BRANCH[0] + np.dot(WITH_BRANCH[1:], [0, 0, -0.1, 0.7, 0.6, 0.78, 1.5, -0.5])
    assert branch.presence == pytest.approx(1 / (1 + math.exp(-logit)))
    unknown = seen(0.5, math.nan, 0.8, 0.0, seen(0.5, math.nan, 1.0, 0.0, None))
    assert unknown.presence == pytest.approx(
        1 / (1 + math.exp(-WITHOUT_SIMILARITY[0] + 0.1 * WITHOUT_SIMILARITY[3])))
    for weights in MODELS:
        assert [weight < 0 for weight in weights[1:]] == [index == 3 for index in range(len(weights) - 1)]
    for _ in range(10):
        trace = seen(0.9, 0.9, 1.0, 0.2, trace)
    assert trace.colour_level == pytest.approx((1 + 0.8 + 3 * 1) / 5)  # of the first five alone
    assert trace.suspicion == pytest.approx(0.7 * FADES**10)


def test_a_box_that_goes_to_where_a_rival_was_is_suspect() -> None:
    """In a map of 5 x 5 cells boxes of 16 px score 0.9 in the middle, 0.8 one cell beside and 0.6 two cells above."""
    score = np.zeros((1, 5, 5), np.float32)
    score[0, 2, 2], score[0, 2, 3], score[0, 0, 2] = 0.9, 0.8, 0.6
    prediction = Prediction(score, np.full((1, 4, 5, 5), 8, np.float32))
    peak = Peak(np.zeros((1, 2)), np.full((1, 2), 16.0), np.ones(1), np.full(1, 0.9))
    found, offset_xy = rival_of(prediction, peak, row=0)
    assert (found, offset_xy.tolist()) == (pytest.approx(0.6), [0, -16])  # the nearer one is the target itself
    alone = prediction._replace(ltrb=np.full((1, 4, 5, 5), 80, np.float32))
    assert rival_of(alone, peak._replace(box_wh=np.full((1, 2), 160.0)), row=0)[0] == 0
    there = Rival(0.6, np.array([0, -16]))
    before = SimpleNamespace(centre_xy=np.zeros(2), size_wh=np.full(2, 16.0), away=0, rival=there)
    at = {xy: taken_over(before, np.array(xy)) for xy in ((0, -15), (0, -9), (0, -7), (0, 15), (14, -2))}
    assert at == {(0, -15): 0.6, (0, -9): 0.6, (0, -7): 0, (0, 15): 0, (14, -2): 0}


def test_a_tracker_that_goes_over_to_a_rival_doubts_it_from_then_on() -> None:
    def map_with(**logits: float) -> OceanOutput:
        output = answer(ltrb=(15, 15, 15, 15))
        output.cls.fill_(-20)
        for name, logit in logits.items():
            output.cls[0, 0, 12, {"target": 12, "rival": 18}[name]] = logit  # 48 px to the right in the crop
        return output

    network = Scripted([map_with(target=3, rival=1), map_with(rival=3), map_with(target=3), map_with(target=3)])
    tracker = OceanTracker(network, PLAIN)
    image = np.full((300, 300, 3), 90, np.uint8)
    states = [tracker.init(image, [135, 135, 30, 30])]
    for _ in range(4):
        states.append(tracker.track(states[-1], image))
    rival = 1 / (1 + math.exp(-1))
    assert [state.trace.suspicion for state in states[1:]] == pytest.approx([0, rival, FADES * rival, FADES**2 * rival])
    assert states[2].presence < states[1].presence - 0.1
    assert tracker.init(image, [135, 135, 30, 30]).trace is None  # a new start knows of no rival


def test_where_only_colours_speak_against_it_the_box_goes_on_and_elsewhere_must_be_better_without_them() -> None:
    def found(x: float, *, colour: float, similarity: float) -> State:
        trace = seen(0.9, similarity, colour, 0.0, seen(0.9, 0.8, 1.0, 0.0, None), alone=True)
        return State(centre_xy=np.array([x, 0.0]), score=0.9, trace=trace, presence=trace.presence)

    before = State(centre_xy=np.zeros(2), score=0.9, trace=None, presence=1.0)
    relit, gone = found(5, colour=0.0, similarity=0.5), found(5, colour=0.0, similarity=-0.5)
    assert relit.presence < 0.5
    after = settled(before, [relit], lost_below=0.5)
    assert (after.centre_xy[0], after.away, after.presence) == (5, 1, relit.presence)
    assert settled(before, [gone], lost_below=0.5).centre_xy[0] == 0
    alike, target = found(300, colour=0.9, similarity=0.45), found(300, colour=0.9, similarity=0.8)
    assert alike.presence > 0.75
    assert settled(after, [relit, alike], lost_below=0.5).centre_xy[0] == 5
    assert settled(after, [gone, alike, target], lost_below=0.5) .trace == target.trace


def test_a_network_with_features_tells_similarity() -> None:
    images = [image for image, _ in square_frames(3)]
    tracker = OceanTracker(small_model(), PLAIN)
    state = tracker.track(tracker.init(images[0], [60, 50, 30, 30]), images[1])
    assert state.trace is not None
    assert -1 <= state.trace.similarity <= 1
    assert 0 <= state.presence <= 1


def test_the_key_is_read_and_changes_no_record_while_it_is_off(tmp_path: Path) -> None:
    path = tmp_path / "on.yaml"
    path.write_text("TEST: {lost_below: 0.3}\n")
    assert load_tracker_params(path).lost_below == 0.3
    path.write_text("TEST: {lost_below: 1.5}\n")
    with pytest.raises(UserError, match=r"TEST.lost_below is 1.5"):
        load_tracker_params(path)
    facts = {"dataset": "OTB2015", "data_source": tmp_path}
    identity = record_of(path, params=TrackerParams(), **facts).identity
    assert "lost_below" not in identity["tracker"]
    assert record_of(path, params=LOST, **facts).identity["tracker"]["lost_below"] == 0.3


def test_results_of_other_numbers_are_refused_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "weights"
    source.touch()
    facts = {"dataset": "own", "data_source": tmp_path, "model": {"arch": "Ocean"}}
    there = ResultFolder(tmp_path / "out", record_of(source, **facts))
    there.open(replace=False, replace_unknown=False)
    there.result_path("a").write_text("1,2,3,4\n")
    monkeypatch.setattr("lib.testing.results.FINGERPRINT", "other")
    with pytest.raises(UserError, match=rf"presence {FINGERPRINT} instead of other; --fresh replaces these results"):
        ResultFolder(tmp_path / "out", record_of(source, **facts)).open(replace=False, replace_unknown=False)
    assert there.result_path("a").read_text() == "1,2,3,4\n"
    assert "presence" not in record_of(source, **{**facts, "model": {"tracker": "theirs"}}).identity


def test_rendered_targets_leave_and_come_back(tmp_path: Path) -> None:
    scene, absent = with_absences(held_out_scene(7, 0, length=100), seed=7, length=100)
    assert not any(absent[:20])
    assert 10 <= sum(absent) <= 60
    assert not absent[-1]
    assert all((scene.covered(time) > GONE) == gone for time, gone in enumerate(absent))
    write_otb(tmp_path, num=1, length=70, seed=7, absences=True)
    marks = (tmp_path / "Synthetic01" / "absent.txt").read_text().split()
    assert len(marks) == 70
    assert "1" in marks


def test_testing_writes_presence_beside_the_boxes(tmp_path: Path) -> None:
    write_squares(tmp_path / "data", {"Square": 5})
    benchmark = load_benchmark("own", tmp_path / "data", images=True)
    source = tmp_path / "weights"
    source.touch()
    folder = ResultFolder(tmp_path / "out", record_of(source, dataset="own", data_source=benchmark.source))
    run_candidate(Candidate(OceanTracker(Oracle(), PLAIN), folder), benchmark.sequences)
    presence = read_presence(tmp_path / "out", "Square", frames=5)
    assert presence is not None
    assert presence[0] == 1
    assert len((tmp_path / "out" / "Square.txt").read_text().splitlines()[0].split(",")) == 4
