"""The interval of a difference between two trackers."""

from __future__ import annotations

import numpy as np
import pytest

from lib.eval_toolkit.bootstrap import paired_differences
from lib.eval_toolkit.ope import CONVENTIONS
from lib.eval_toolkit.protocols import ONE_PASS, ScoreSummary, curve_fields
from lib.eval_toolkit.report import difference_tables


def scores_of(
    tracker: str, values: list[float], names: list[str] | None = None, convention: str = "pysot"
) -> ScoreSummary:
    """Return scores whose success and precision on each sequence are `values`."""
    column = np.array(values)[:, None]
    curves = {name: np.repeat(column, size, axis=1) for name, size in (("success", 21), ("precision", 51))}
    names = names or [f"s{i}" for i in range(len(values))]
    count = len(values)
    return ScoreSummary(scoring=ONE_PASS, tracker=tracker, names=tuple(names), expected=count, missing=(),
                        **curve_fields(curves, CONVENTIONS[convention], [1] * count, [()] * count))


def test_a_constant_lead_has_no_width_however_much_sequences_differ() -> None:
    base = [0.1, 0.5, 0.9, 0.3] * 3
    (found,) = paired_differences([scores_of("a", [v + 0.05 for v in base]), scores_of("b", base)], metric="success")
    assert (found.first, found.second, found.sequences) == ("a", "b", 12)
    assert (found.value, found.low, found.high) == pytest.approx((0.05, 0.05, 0.05))
    assert found.is_clear


def test_the_interval_is_that_of_the_mean_difference() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(100), rng.random(100)
    (found,) = paired_differences([scores_of("a", a.tolist()), scores_of("b", b.tolist())], metric="precision")
    spread = 1.96 * (a - b).std() / np.sqrt(100)  # the bootstrap of a mean tends to the normal interval
    assert found.value == pytest.approx((a - b).mean())
    assert found.low == pytest.approx(found.value - spread, abs=0.01)
    assert found.high == pytest.approx(found.value + spread, abs=0.01)


def test_it_is_the_same_every_time_and_mirrored_for_the_other_order() -> None:
    a, b = scores_of("a", [0.1, 0.9, 0.4] * 4), scores_of("b", [0.3, 0.2, 0.8] * 4)
    (ab,), (ba,) = (paired_differences(pair, metric="success") for pair in ([a, b], [b, a]))
    assert paired_differences([a, b], metric="success") == [ab]
    assert (ba.value, ba.low, ba.high) == pytest.approx((-ab.value, -ab.high, -ab.low))
    assert not ab.is_clear


def test_only_sequences_common_to_all_count() -> None:
    a = scores_of("a", [0.9, 0.5], ["x", "y"])
    b = scores_of("b", [0.4, 0.1], ["y", "z"])
    (found,) = paired_differences([a, b], metric="success")
    assert (found.sequences, found.value) == (1, pytest.approx(0.1))
    assert paired_differences([a, scores_of("c", [1.0], ["w"])], metric="success") == []
    assert difference_tables([a, scores_of("c", [1.0], ["w"])]) == []


def test_a_convention_that_drops_failures_compares_the_means_it_reports() -> None:
    a, b = scores_of("a", [0.8, 0.0], convention="otb"), scores_of("b", [0.2, 0.4], convention="otb")
    (found,) = paired_differences([a, b], metric="success")
    assert found.value == pytest.approx(a.values["success"] - b.values["success"]) == pytest.approx(0.8 - 0.3)


def test_the_table_says_where_no_difference_is_clear() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(50)
    worse, alike = (a - 0.1).tolist(), (a + rng.normal(0, 0.1, 50) - 0.01).tolist()
    (table,) = difference_tables([scores_of("a", a.tolist()), scores_of("alike", alike), scores_of("worse", worse)])
    assert table.title == "Lead of a (paired bootstrap over 50 sequences)"
    assert "no clear difference" in str(table.rows[0][2])
    assert table.rows[1][1:3] == ("+0.100", "+0.100 .. +0.100")


@pytest.mark.parametrize("count", [1, 2, 9])
def test_few_sequences_have_a_difference_but_no_interval(count: int) -> None:
    a, b = scores_of("a", [0.9] * count), scores_of("b", [0.1] * count)
    (found,) = paired_differences([a, b], metric="success")
    assert (found.value, found.low, found.high, found.is_clear) == (pytest.approx(0.8), None, None, False)
    (table,) = difference_tables([a, b])
    assert table.rows[0][1:] == ("+0.800", "too few sequences (under 10)") * 2
    (found,) = paired_differences([scores_of("a", [0.9] * 10), scores_of("b", [0.1] * 10)], metric="success")
    assert found.is_clear
