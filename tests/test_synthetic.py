"""The synthetic source: exact boxes, the same pixels from the same seed, and test sequences in OTB's form."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lib.boxes import xywh_to_xyxy
from lib.crops import crop511, view_matrix
from lib.datasets import synthetic
from lib.datasets.synthetic import SyntheticSource, crop_of, held_out_scene, rendered, write_otb
from lib.datasets.synthetic.bodies import random_body, stamp, streak_kernel
from lib.datasets.synthetic.scene import Scene, random_scene
from lib.datasets.synthetic.textures import BANK_SIZE, pattern
from lib.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
BANK = (7, 2)


def plain(scene: Scene) -> Scene:
    """Return the scene under a camera that adds nothing that depends on the window drawn."""
    return replace(scene, optics=replace(scene.optics, shutter=0.0, defocus=0.0, coarse=1.0, grain=0.0, jpeg=0))


def scene(number: int, *, length: int = 60) -> Scene:
    return random_scene(7, 2, number, size_wh=(320, 240), length=length, difficulty=1.0)


def digest_of_pairs(numbers: list[int]) -> str:
    source, digest = SyntheticSource(seed=7), hashlib.sha256()
    for number in numbers:
        pair = source.pair(number, np.random.default_rng([1, number]))
        for crop in (pair.template(), pair.search()):
            digest.update(crop.image.tobytes() + np.round(crop.box_xyxy, 6).tobytes())
    return digest.hexdigest()


def test_pixels_depend_on_seed_and_track_alone() -> None:
    code = ("import sys; sys.path.insert(0, 'tests'); import test_synthetic as t; "
            "t.digest_of_pairs([8, 4]); print(t.digest_of_pairs([3, 5]))")
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest_of_pairs([3, 5])  # another process that drew other tracks before
    assert digest_of_pairs([3, 5]) != digest_of_pairs([3, 6])


@pytest.mark.parametrize("number", range(8))
def test_the_box_is_the_hull_of_what_is_drawn(number: int) -> None:
    target = scene(number).target
    for time in (0, 17, 43):
        canvas = np.zeros((480, 640, 3), np.uint8)
        pose = target.pose(time)
        pose[:, 2] += 120  # room on all sides
        white = replace(target.body, patches=tuple(np.full_like(p, 255) for p in target.body.patches))
        stamp(canvas, white, time=time, pose=pose)
        rows, columns = np.nonzero(canvas[..., 0] > 100)
        drawn = np.array([columns.min(), rows.min(), columns.max(), rows.max()]) - 120.0
        # A corner that runs out into a point may fall between two px: hence more than the half px of rounding.
        np.testing.assert_allclose(drawn, target.box_xyxy(time), atol=2.5)


def test_a_body_is_normalised_and_stays_so() -> None:
    body = random_body(BANK, np.random.default_rng(0))
    outline = body.outlines(0, np.eye(2, 3)).reshape(-1, 2)
    low, high = outline.min(axis=0), outline.max(axis=0)
    assert np.prod(high - low) == pytest.approx(1)
    np.testing.assert_allclose(low + high, 0, atol=1e-9)
    again = body.normalised()
    assert (again.scale, again.shift) == (pytest.approx(body.scale), pytest.approx(body.shift))


def test_a_window_shows_what_the_whole_frame_shows() -> None:
    drawn = plain(scene(2))
    whole, part = drawn.frame(11), drawn.frame(11, window=(40, 24, 200, 184))
    difference = cv2.absdiff(whole[24:184, 40:200], part)
    assert part.shape == (160, 160, 3)
    assert difference.mean() < 0.5  # vertices and textures are rounded to fractions of a px from another corner


def test_a_view_needs_no_more_than_its_part_of_the_crop() -> None:
    drawn, matrix = plain(scene(2)), view_matrix((100.0, 130.0, 355.0, 385.0), out_size=255)
    views = []
    for crop in (crop_of(drawn, 9), crop_of(drawn, 9, np.array([100.0, 130.0, 355.0, 385.0]))):
        assert crop.to_image is not None
        whole = np.vstack([matrix, [0, 0, 1]]) @ np.vstack([cv2.invertAffineTransform(crop.to_image), [0, 0, 1]])
        views.append(cv2.warpAffine(crop.image, whole[:2], (255, 255), borderMode=cv2.BORDER_CONSTANT,
                                    borderValue=crop.fill))
    assert cv2.absdiff(*views).mean() < 0.5
    small = crop_of(drawn, 9, np.array([240.0, 240.0, 270.0, 270.0])).image
    assert small.size < crop_of(drawn, 9).image.size / 10
    beside = crop_of(drawn, 9, np.array([-900.0, -900.0, -800.0, -800.0]))  # wholly outside the frame
    assert min(beside.image.shape) >= 3


def test_an_easy_scene_has_no_faults_and_larger_targets() -> None:
    for number in range(20):
        easy = random_scene(7, 2, number, size_wh=(320, 240), length=60, difficulty=0.0)
        assert easy.front == ()
        assert (easy.optics.shutter, easy.optics.grain, easy.optics.jpeg, easy.optics.shade) == (0, 0, 0, None)
        assert np.sqrt(np.prod(easy.box_xywh(0)[2:])) > 30


@pytest.mark.parametrize("number", [0, 1, 4])
def test_the_crop_is_the_prepared_crop_of_the_frame(number: int) -> None:
    drawn = plain(scene(number))
    crop = crop_of(drawn, 9)
    assert crop.to_image is not None
    got = cv2.warpAffine(crop.image, crop.to_image, (511, 511), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                         borderMode=cv2.BORDER_CONSTANT, borderValue=crop.fill)
    frame, box_xywh = drawn.frame(9), drawn.box_xywh(9)
    wanted = crop511(frame, xywh_to_xyxy(box_xywh), fill=crop.fill)
    assert cv2.absdiff(got, wanted)[130:380, 130:380].mean() < 3
    np.testing.assert_allclose(crop.box_xyxy[:2] + crop.box_xyxy[2:], 510)  # centred on px 255
    size = crop.box_xyxy[2:] - crop.box_xyxy[:2]
    assert size[0] / size[1] == pytest.approx(box_xywh[2] / box_xywh[3])


def test_pairs_show_the_target_within_the_range() -> None:
    source = SyntheticSource(seed=7, length=50, frame_range=10)
    distances = []
    for track in range(40):
        pair = source.pair(track, np.random.default_rng(track))
        first, second = pair.template.args[1], pair.search.args[1]
        assert pair.template.args[0].number == track
        assert 0 <= first < 50
        assert 0 <= second < 50
        distances.append(abs(first - second))
        drawn = random_scene(7, synthetic.TRAINING, track, size_wh=(320, 240), length=50, difficulty=1.0)
        assert drawn.covered(second) <= 0.95
    assert max(distances) <= 10
    assert len(set(distances)) > 5


def test_covered_counts_what_lies_before_the_target_and_outside_the_frame() -> None:
    drawn = scene(0)
    alone = replace(drawn, front=())
    assert replace(alone, front=(drawn.target,)).covered(5) == pytest.approx(1)
    assert replace(alone, front=(replace(drawn.target, opacity=0.25),)).covered(5) == pytest.approx(
        alone.covered(5) + 0.25, abs=0.2)
    x, _, w, _ = alone.box_xywh(5)
    assert replace(alone, size_wh=(int(x + w / 2) + 1, 240)).covered(5) == pytest.approx(0.5, abs=0.1)


def test_targets_move_turn_and_change_but_not_too_fast() -> None:
    speeds, changes = [], []
    for number in range(30):
        boxes = np.array([scene(number).box_xywh(t) for t in range(60)])
        assert np.isfinite(boxes).all()
        assert (boxes[:, 2:] > 3).all()
        side = np.sqrt(boxes[:, 2] * boxes[:, 3])
        centre = boxes[:, :2] + boxes[:, 2:] / 2
        speeds.append(np.hypot(*np.diff(centre, axis=0).T).max() / side.mean())
        changes.append(side.max() / side.min())
    assert 0.05 < np.median(speeds) < 0.5
    assert max(speeds) < 1  # a search window shows twice the target's side around it
    assert 1.05 < np.median(changes) < 3


def test_streaks_are_sums_to_one_along_the_movement() -> None:
    assert streak_kernel(np.array([0.6, 0.6])) is None
    kernel = streak_kernel(np.array([9.0, 0.0]))
    assert kernel is not None
    assert kernel.sum() == pytest.approx(1)
    assert kernel.sum(axis=1).argmax() == len(kernel) // 2
    assert (kernel.sum(axis=0) > 0.02).sum() >= 8


def test_held_out_scenes_share_nothing_with_training() -> None:
    for index in (1, 12):
        assert not np.array_equal(pattern((7, synthetic.TRAINING), index), pattern((7, synthetic.TESTING), index))
    hidden = [held_out_scene(7, 0, length=40).covered(t) for t in range(40)]
    assert hidden[0] <= synthetic.CLEAR
    for index in range(BANK_SIZE):
        image = pattern(BANK, index)
        assert (image.min(), image.max()) == (0, 255)


def test_sequences_are_written_as_otb_does(tmp_path: Path) -> None:
    done: list[int] = []
    names = write_otb(tmp_path, num=2, length=3, seed=7, progress=done.append)
    assert names == ["Synthetic01", "Synthetic02"]
    assert sum(done) == 6
    rows = np.loadtxt(tmp_path / "Synthetic02" / "groundtruth_rect.txt", delimiter=",")
    frames = list(rendered(held_out_scene(7, 1, length=3), 3))
    np.testing.assert_allclose(rows - [1, 1, 0, 0], [box for _, box in frames], atol=0.0051)  # 1-based, two decimals
    image = cv2.imread(str(tmp_path / "Synthetic02" / "img" / "0003.jpg"))
    assert image.shape == (240, 320, 3)
    assert cv2.absdiff(image, frames[2][0]).mean() < 12

    assert sorted(path.name for path in tmp_path.iterdir()) == names  # nothing half done is left beside them


def test_sequences_are_kept_only_while_they_are_what_is_asked_for(tmp_path: Path) -> None:
    def written(**settings: float) -> dict[str, int]:
        write_otb(tmp_path, **{"num": 2, "length": 3, "seed": 7, **settings})  # type: ignore[arg-type]
        return {path.parent.parent.name: path.stat().st_mtime_ns for path in tmp_path.glob("*/img/0001.jpg")}

    first = written()
    (tmp_path / ".Synthetic02.part" / "img").mkdir(parents=True)  # as after a kill
    assert written() == first
    easier = written(difficulty=0.5)
    assert not easier.items() & first.items()
    one = written(difficulty=0.5, num=1)
    assert one.items() <= easier.items()
    assert list(one) == ["Synthetic01"]
    (tmp_path / "Synthetic02").mkdir()
    with pytest.raises(UserError, match=r"Synthetic02: not written by the renderer"):
        written()
    assert (tmp_path / "Synthetic02").is_dir()
    with pytest.raises(UserError, match="at least 2"):
        written(length=1)


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_otb(tmp_path / "file", num=1, length=2, seed=7)
