"""The restart protocol's scores by hand-computed numbers, and the pixel-counted overlap by drawing."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from vot_trees import square

from lib.benchmarks import VOTSequence
from lib.benchmarks.vot import (
    FAILURE,
    INIT,
    REGION,
    UNKNOWN,
    Trajectory,
    counted_overlap,
    exact_overlap,
    rectangle_corners,
)
from lib.eval_toolkit.vot import (
    TAGS,
    Fragment,
    after_burn_in,
    expected_average_overlap,
    expected_overlap_curves,
    fragments,
    overlaps,
)


def boxes(*rows: list[float]) -> np.ndarray:
    return rectangle_corners(np.array(rows, float))


# Overlap


def drawn(corners: np.ndarray) -> Iterator[tuple[int, int]]:
    """Return the pixels of a polygon, found row by row from its edges alone: slow, and nothing like the code tested."""
    points = [(math.floor(abs(x) + 0.5) * (1 if x >= 0 else -1), math.floor(abs(y) + 0.5) * (1 if y >= 0 else -1))
              for x, y in corners.tolist()]
    for y in range(min(p[1] for p in points), max(p[1] for p in points) + 1):
        crossings = []
        for (x1, y1), (x2, y2) in zip(points, points[-1:] + points[:-1], strict=True):
            if y1 != y2 and min(y1, y2) <= y <= max(y1, y2):
                crossings.append(int(x1 + (y - y1) / (y2 - y1) * (x2 - x1)))
        crossings.sort()
        while len(crossings) > 1:
            left, right = crossings[:2]
            crossings = crossings[1:] if left == right else crossings[2:]
            yield from ((x, y) for x in range(left, right + 1) if left != right)


def drawn_overlap(a: np.ndarray, b: np.ndarray, bound_wh: tuple[int, int] | None) -> float:
    first, second = set(drawn(a)), set(drawn(b))
    if bound_wh is not None:
        inside = {(x, y) for x in range(bound_wh[0] + 1) for y in range(bound_wh[1] + 1)}
        first, second = first & inside, second & inside
    return len(first & second) / len(first | second) if first | second else math.nan


corner = st.tuples(st.integers(0, 240), st.integers(0, 240)).map(lambda p: (p[0] / 8, p[1] / 8))
quadrilateral = st.lists(corner, min_size=4, max_size=4).map(lambda points: np.array(points, float))


@settings(max_examples=300, deadline=None)
@given(quadrilateral, quadrilateral)
def test_any_two_quadrilaterals_overlap_as_drawn(a: np.ndarray, b: np.ndarray) -> None:
    assume(np.ptp(np.floor(a), 0).all() and np.ptp(np.floor(b), 0).all())  # regions with an area
    got = counted_overlap(a[None], b[None], bound_wh=None)[0]
    low = np.floor(np.minimum(a.min(0), b.min(0)))
    if (np.ceil(np.minimum(a.max(0), b.max(0))) > np.floor(np.maximum(a.min(0), b.min(0)))).all():
        assert got == pytest.approx(drawn_overlap(a - low, b - low, None), nan_ok=True)
    else:
        assert got == 0  # regions whose bounding boxes only touch


@settings(max_examples=150, deadline=None)
@given(quadrilateral, quadrilateral, st.integers(4, 30), st.integers(4, 30))
def test_the_border_cuts_both_regions(a: np.ndarray, b: np.ndarray, width: int, height: int) -> None:
    got = counted_overlap(a[None], b[None], bound_wh=(width, height))[0]
    if got > 0:
        low = np.maximum(np.floor(np.minimum(a.min(0), b.min(0))), 0)
        bound = (width - int(low[0]), height - int(low[1]))
        assert got == pytest.approx(drawn_overlap(a - low, b - low, bound))


def test_counted_overlap_by_hand() -> None:
    # 2 x 2 boxes are 3 x 3 pixels: moved by 1 they share 6 of 12; exactly, half of each: 2 of 6.
    a, b = boxes([0, 0, 2, 2]), boxes([1, 0, 2, 2])
    assert counted_overlap(a, b, bound_wh=None) == pytest.approx([6 / 12])
    assert exact_overlap(a, b) == pytest.approx([2 / 6])
    # A diamond of radius 2 is 1 + 3 + 5 + 3 + 1 pixels less its two tips, a 5 x 5 square around it 25.
    diamond = np.array([[[2, 0], [4, 2], [2, 4], [0, 2]]], float)
    assert counted_overlap(diamond, boxes([0, 0, 4, 4]), bound_wh=None) == pytest.approx([11 / 25])
    assert exact_overlap(diamond, boxes([0, 0, 4, 4])) == pytest.approx([8 / 16])
    # Half a pixel goes away from zero: 0.5 .. 2.5 is 1 .. 3 on a grid that starts at 0.
    assert counted_overlap(boxes([0.5, 0.5, 2, 2]), boxes([0, 0, 3, 3]), bound_wh=None) == pytest.approx([9 / 16])


def test_regions_apart_do_not_overlap_and_the_border_counts() -> None:
    assert counted_overlap(boxes([0, 0, 2, 2]), boxes([9, 9, 2, 2]), bound_wh=None).tolist() == [0]
    # Cut at x = 10, the second box is 1 column of 3 pixels inside, all of it in the first one's 3 x 3.
    a, b = boxes([8, 0, 2, 2]), boxes([9, 0, 5, 2])
    assert counted_overlap(a, b, bound_wh=(10, 20)) == pytest.approx([6 / 9])
    assert counted_overlap(a, b, bound_wh=None) == pytest.approx([6 / 21])


def test_many_frames_at_once_are_each_alone() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 300, (400, 4, 2)), rng.uniform(0, 300, (400, 4, 2))
    one = [counted_overlap(a[i : i + 1], b[i : i + 1], bound_wh=(250, 250))[0] for i in range(400)]
    assert np.array_equal(counted_overlap(a, b, bound_wh=(250, 250)), one, equal_nan=True)


# Accuracy


def trajectory(codes: list[int], x: list[float]) -> Trajectory:
    regions = np.array([square(value, 0) for value in x]).reshape(-1, 4, 2)
    kept = np.array(codes, np.int8)
    return Trajectory(kept, np.where((kept == REGION)[:, None, None], regions, np.nan))


def video(length: int, tags: dict[str, list[int]] | None = None) -> VOTSequence:
    regions = np.array([square(0, 0)] * length).reshape(-1, 4, 2)
    flags = {name: np.array(values, bool) for name, values in (tags or {}).items()}
    return VOTSequence("v", (), np.zeros((length, 4)), origin=0, regions=regions, tags=flags, image_wh=None)


def test_the_burn_in_counts_from_each_start() -> None:
    codes = np.array([INIT, *[REGION] * 11, FAILURE, *[UNKNOWN] * 4, INIT, *[REGION] * 11], np.int8)
    overlap = np.where(codes == REGION, 0.5, np.nan)
    kept = np.flatnonzero(np.isfinite(after_burn_in(overlap, codes)))
    # Frame 0 starts: 10 and 11 are the first that count; the second start is frame 17: 27 and 28.
    assert kept.tolist() == [10, 11, 27, 28]


def test_frames_without_a_region_have_no_overlap() -> None:
    run = trajectory([INIT, REGION, FAILURE, UNKNOWN], [0, 10, 0, 0])
    got = overlaps(video(4).regions, run, bound_wh=None)
    # 21 x 21 pixels each, 11 columns shared.
    assert got[1] == pytest.approx(11 * 21 / (31 * 21))
    assert np.isnan(got[[0, 2, 3]]).all()
    assert len(overlaps(video(3).regions, run, bound_wh=None)) == 3


# Expected average overlap

A = [np.nan, 0.8, 0.6, 0.4]
B = [np.nan, 0.5, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, 0.9, 0.7]  # lost at frame 2, started again at 7
B_TAGS = {"occlusion": [0, 1, 1, 0, 0, 0, 0, 1, 1, 1], "size_change": [0] * 10}


def test_fragments_by_hand() -> None:
    whole, = fragments(video(4), np.array(A), np.array([], int))
    assert whole.overlap.tolist() == [0, 0.8, 0.6, 0.4]
    assert not whole.failed
    first, second = fragments(video(10, B_TAGS), np.array(B), np.array([2]))
    # The frame of the next start belongs to the fragment before it, too.
    assert first.overlap.tolist() == [0, 0.5, 0, 0, 0, 0, 0, 0]
    assert first.failed
    assert second.overlap.tolist() == [0, 0.9, 0.7]
    assert not second.failed
    by_tag = {tag: (first.weight[i], second.weight[i]) for i, tag in enumerate(TAGS)}
    assert by_tag["all"] == (1, 1)
    assert by_tag["occlusion"] == pytest.approx((3 / 8, 1))
    assert by_tag["size_change"] == by_tag["camera_motion"] == (0, 0)
    # pysot's "empty" is the number of told attributes that the video never has: size_change alone.
    assert by_tag["empty"] == pytest.approx((1 / 8, 1 / 3))
    assert by_tag["no_attribute"] == pytest.approx((5 / 8, 0))


def test_eao_by_hand() -> None:
    parts = [*fragments(video(4), np.array(A), np.array([], int)),
             *fragments(video(10, B_TAGS), np.array(B), np.array([2]))]
    curves = expected_overlap_curves(parts, length=10)
    # Length 1: 0.8, 0.5 (lost), 0.9. Length 2: means 0.7, 0.25, 0.8. Length 3: 0.6 and 0.5/3. Then the lost one alone.
    assert curves[0] == pytest.approx([1, 2.2 / 3, 1.75 / 3, (0.6 + 0.5 / 3) / 2, 0.5 / 4, 0.1, 0.5 / 6, 0.5 / 7,
                                       0.5 / 8, 0.5 / 9])
    occlusion = curves[TAGS.index("occlusion")]
    assert occlusion[2] == pytest.approx((0.25 * 3 / 8 + 0.8) / (3 / 8 + 1))
    # pysot's interval low..high is columns low - 1 .. high - 1.
    eao = dict(zip(TAGS, expected_average_overlap(curves, (2, 3)), strict=True))
    assert eao["all"] == pytest.approx((2.2 / 3 + 1.75 / 3) / 2)
    assert math.isnan(eao["size_change"])
    assert math.isnan(expected_average_overlap(curves[:1], (100, 356))[0])


def test_a_failure_near_the_end_does_not_end_its_fragment() -> None:
    # Lost at frame 6 of 10: the next start would be frame 11. At frame 5 of 10 it is frame 10, past the last one.
    only, = fragments(video(10), np.full(10, 0.5), np.array([6]))
    assert not only.failed
    assert len(only.overlap) == 10
    before, = fragments(video(10), np.full(10, 0.5), np.array([5]))
    assert before.failed
    assert len(before.overlap) == 10


def test_repetitions_share_their_weight() -> None:
    twice = [part for _ in range(2) for part in fragments(video(4), np.array(A), np.array([], int), share=0.5)]
    once = fragments(video(4), np.array(A), np.array([], int))
    other = Fragment(np.array([0, 0.2, 0.2]), False, np.ones(len(TAGS)))
    of_two, of_one = (expected_overlap_curves([*parts, other], length=4) for parts in (twice, once))
    assert of_two[0] == pytest.approx(of_one[0])
