"""The schedule's numbers are those of OCEAN section 4 and of TracKit's policies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lib.config import LearningRateConfig, ScheduleKwargs, TrainConfig, WarmupConfig
from lib.errors import UserError
from lib.training.stage import check_schedule, epoch_rates, learning_rate, rate_factor, spaced_rates

COLD = WarmupConfig(IFNOT=False)


def test_the_papers_twenty_epochs() -> None:
    rates = [learning_rate(TrainConfig(), epoch=epoch) for epoch in range(20)]
    np.testing.assert_allclose(rates[:5], [0.001, 0.0013797, 0.0019037, 0.0026265, 0.0036239], rtol=1e-4)
    np.testing.assert_allclose(rates[5:], np.logspace(math.log10(0.005), math.log10(0.00001), 15), rtol=1e-12)
    assert (rates[5], rates[19]) == (pytest.approx(0.005), pytest.approx(0.00001))


def test_a_group_has_its_own_rate_where_the_schedule_starts() -> None:
    train = TrainConfig()
    assert rate_factor(train, train.BASE_LR) == 1
    assert rate_factor(train, train.BASE_LR * train.LAYERS_LR) == pytest.approx(0.1)


@pytest.mark.parametrize(("policy", "numbers", "expected"), [
    ("step", {"start_lr": 1.0, "end_lr": None, "mult": 0.1, "step": 2}, [1, 1, 0.1, 0.1, 0.01]),
    ("step", {"start_lr": 1.0, "end_lr": 0.01, "step": 2}, [1, 1, 0.1, 0.1, 0.01]),  # 5 // 2 changes lead to end_lr
    ("multi-step", {"start_lr": 1.0, "end_lr": None, "mult": 0.5, "steps": [1, 3]}, [1, 0.5, 0.5, 0.25, 0.25]),
    ("multi-step", {"start_lr": 1.0, "end_lr": 0.01, "steps": [2, 4]}, [1, 1, 0.1, 0.1, 0.01]),
    ("linear", {"start_lr": 1.0, "end_lr": 0.2}, [1, 0.8, 0.6, 0.4, 0.2]),
    ("cos", {"start_lr": 1.0, "end_lr": 0.5}, [1, 0.952254, 0.827254, 0.672746, 0.547746]),
    ("log", {"start_lr": 1.0, "end_lr": 0.0001}, [1, 0.1, 0.01, 0.001, 0.0001]),
])
def test_each_policy_by_hand(policy: str, numbers: dict, expected: list[float]) -> None:
    np.testing.assert_allclose(spaced_rates(policy, ScheduleKwargs(**numbers), epochs=5), expected, rtol=1e-5)


def test_one_cycle_rises_to_its_peak_and_falls_to_its_end_within_the_run() -> None:
    kwargs = ScheduleKwargs(start_lr=0.1, end_lr=0.001, pct_start=0.25)
    train = TrainConfig(END_EPOCH=3, WARMUP=COLD, LR=LearningRateConfig(TYPE="onecycle", KWARGS=kwargs))
    rates = [learning_rate(train, epoch=e, step=s, steps_per_epoch=7) for e in range(3) for s in range(7)]
    assert rates[0] == pytest.approx(0.1 / 25)
    assert int(np.argmax(rates)) == 5
    assert rates[5] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(0.001)
    assert (np.diff(rates[:6]) > 0).all()
    assert (np.diff(rates[5:]) < 0).all()


def test_keys_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(UserError, match=r"x.yaml: LR.TYPE onecycle.*IFNOT=False"):
        check_schedule(TrainConfig(LR=LearningRateConfig(TYPE="onecycle")), place="x.yaml")
    with pytest.raises(UserError, match="EPOCH 5 leaves no epoch"):
        check_schedule(TrainConfig(END_EPOCH=5), place="x.yaml")
    check_schedule(TrainConfig(END_EPOCH=5, WARMUP=COLD), place="x.yaml")


@given(policy=st.sampled_from(["log", "step", "multi-step", "linear", "cos"]), epochs=st.integers(1, 60),
       warm=st.integers(0, 10), start=st.floats(1e-6, 10), end=st.floats(1e-6, 10))
def test_every_epoch_has_a_positive_finite_rate(policy: str, epochs: int, warm: int, start: float, end: float) -> None:
    kwargs = ScheduleKwargs(start_lr=start, end_lr=end)
    train = TrainConfig(END_EPOCH=epochs + warm, WARMUP=WarmupConfig(EPOCH=warm),
                        LR=LearningRateConfig(TYPE=policy, KWARGS=kwargs))
    rates = epoch_rates(train)
    assert rates.shape == (epochs + warm,)
    assert np.isfinite(rates).all()
    assert (rates > 0).all()
    assert rates[warm] == pytest.approx(start)
