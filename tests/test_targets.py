"""The targets, by numbers worked out by hand."""

import numpy as np
import pytest

from lib.crops import grid_points, score_side
from lib.datasets.targets import box_targets, empty_targets, nearest_cell, reference_cell


@pytest.mark.parametrize(
    ("search", "side", "first", "last"), [(255, 25, 31, 223), (271, 27, 31, 239), (287, 29, 31, 255)])
def test_the_grid_of_each_search_size(search, side, first, last):
    assert score_side(search) == side
    points = grid_points(search)
    assert (points[0], points[-1], points[side // 2]) == (first, last, search // 2)
    assert set(np.diff(points)) == {8}


def test_a_centred_box():
    cls, ltrb, weight = box_targets([107, 117, 147, 137], search_size=255)  # 40 x 20 around 127
    assert cls.dtype == ltrb.dtype == weight.dtype == np.float32
    assert cls.sum() == 13  # the diamond of radius 2: 1 + 3 + 5 + 3 + 1
    assert cls[12, 14] == cls[10, 12] == cls[13, 13] == 1
    assert cls[11, 14] == cls[12, 15] == 0
    assert ltrb[:, 12, 12].tolist() == [20, 10, 20, 10]
    assert ltrb[:, 12, 13].tolist() == [28, 10, 12, 10]  # one cell to the right: farther from the left side
    assert ltrb[:, 13, 12].tolist() == [20, 18, 20, 2]
    assert weight.sum() == 5 * 3  # px 111 .. 143 across and 119 .. 135 down
    assert weight[11:14, 10:15].all()


def test_a_grid_point_on_a_side_has_no_weight():
    _, ltrb, weight = box_targets([119, 119, 135, 135], search_size=255)
    assert ltrb[0, 12, 11] == 0
    assert weight.sum() == 1


def test_a_box_without_a_grid_point_has_a_centre_but_no_weight():
    cls, _, weight = box_targets([128, 128, 134, 134], search_size=255)
    assert weight.sum() == 0
    assert cls.sum() == 13
    assert cls[12 + 2, 12] == 1, "the centre 131 is as near to 127 as to 135; halves go up"


@pytest.mark.parametrize(("centre", "cell"), [((127, 127), (12, 12)), ((130.9, 127), (12, 12)), ((131, 123), (13, 12)),
                                              ((122.9, 135), (11, 13)), ((31, 223), (0, 24)), ((0, 300), (-4, 34))])
def test_the_nearest_cell(centre, cell):
    x, y = centre
    assert nearest_cell([x - 5, y - 9, x + 5, y + 9], search_size=255) == cell


def test_an_object_outside_the_map_has_no_positive_cell():
    cls, _, weight = box_targets([-200, -200, -150, -150], search_size=255)
    assert cls.sum() == weight.sum() == 0


def test_the_reference_rule_truncates_the_shift():
    assert reference_cell((0, 0), search_size=255) == (12, 12)
    assert reference_cell((7.9, -7.9), search_size=255) == (12, 12)
    assert reference_cell((8, -16.5), search_size=255) == (11, 14)
    cls = box_targets([107, 117, 147, 137], search_size=255, centre_cell=(11, 14)).cls
    assert cls[14, 11] == 1
    assert cls.sum() == 13
    assert cls[12, 12] == 0


def test_a_pair_without_the_object_has_no_targets():
    cls, ltrb, weight = empty_targets(271)
    assert cls.shape == weight.shape == (27, 27)
    assert ltrb.shape == (4, 27, 27)
    for field in (cls, ltrb, weight):
        assert not field.any()
