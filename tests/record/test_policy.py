"""What another policy would have earned, from logged propensities."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meguri.base.errors import DataError, GateError
from meguri.record.policy import (
    cross_fitted,
    doubly_robust,
    doubly_robust_gain,
    effective_samples,
    importance_weights,
    ips,
    snips,
)

# By hand: weights 2, 1, 0.5, 0; weighted rewards 2, 0, 0.5, 0.
REWARD, LOGGED, TARGET = [1.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.5, 0.2], [0.5, 0.5, 0.25, 0.0]


def log(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logged, target = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5])
    action = rng.choice(3, n, p=logged)
    return rng.normal(np.array([1.0, 2.0, 4.0])[action], 1.0), logged[action], target[action]


def test_by_hand() -> None:
    assert importance_weights(LOGGED, TARGET).tolist() == [2.0, 1.0, 0.5, 0.0]
    assert ips(REWARD, LOGGED, TARGET).value == pytest.approx(2.5 / 4)
    assert snips(REWARD, LOGGED, TARGET).value == pytest.approx(2.5 / 3.5)
    # q of the action .5 each, of the policy .6 each: .6 + mean(2 * .5, -.5, .25, 0)
    dr = doubly_robust(REWARD, LOGGED, TARGET, [0.5] * 4, [0.6] * 4)
    assert dr.value == pytest.approx(0.6 + 0.75 / 4)
    assert dr.effective == pytest.approx(3.5**2 / 5.25)
    assert (dr.largest_weight, dr.mean_weight, dr.rows) == (2.0, 0.875, 4)
    assert not dr.enough
    assert (dr.low, dr.high) == (-math.inf, math.inf)


def test_the_same_policy_is_its_mean_with_a_plain_z_interval() -> None:
    reward = np.random.default_rng(0).normal(size=500)
    value = snips(reward, np.full(500, 0.3), np.full(500, 0.3))
    assert value.value == pytest.approx(reward.mean())
    assert value.error == pytest.approx(reward.std(ddof=1) / math.sqrt(500))
    assert value.high - value.value == pytest.approx(1.959964 * value.error, rel=1e-5)
    assert value.effective == pytest.approx(500)


def test_intervals_hold_about_as_often_as_they_say() -> None:
    truth, estimates = 0.2 * 1 + 0.3 * 2 + 0.5 * 4, {0.2: 1.0, 0.3: 2.0, 0.5: 4.0}
    held = np.zeros(3)
    for seed in range(200):
        reward, logged, target = log(seed, 1000)
        taken = np.array([estimates[float(t)] for t in target])
        values = (
            ips(reward, logged, target),
            snips(reward, logged, target),
            doubly_robust(reward, logged, target, taken, np.full(1000, truth)),
        )
        held += [value.low <= truth <= value.high for value in values]
        assert values[2].error < values[0].error
    assert (held >= 180).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.floats(-100, 100), scale=st.floats(0.1, 100))
def test_snips_follows_shift_scale_and_order(seed: int, shift: float, scale: float) -> None:
    reward, logged, target = log(seed, 300)
    value = snips(reward, logged, target)
    order = np.random.default_rng(seed).permutation(300)
    moved = snips(reward[order] * scale + shift, logged[order], target[order])
    wanted = np.array([value.value, value.low, value.high]) * scale + shift
    assert np.allclose([moved.value, moved.low, moved.high], wanted, rtol=1e-7, atol=1e-7)


def test_bernstein_holds_without_normality_and_is_wider() -> None:
    rng = np.random.default_rng(1)
    reward = (rng.random(2000) < 0.2).astype(float)
    logged, target = np.full(2000, 0.5), rng.choice([0.0, 1.0], 2000)
    normal = ips(reward, logged, target)
    bound = ips(reward, logged, target, largest_weight=2.0, reward_range=(0.0, 1.0))
    assert bound.interval == "bernstein"
    assert bound.enough
    assert bound.low < normal.low < normal.high < bound.high
    log4, spread = math.log(4 / 0.05), (target / logged * reward).var(ddof=1)
    assert bound.high - bound.value == pytest.approx(math.sqrt(2 * spread * log4 / 2000) + 7 * 2 * log4 / (3 * 1999))
    assert not ips([1.0], [0.5], [0.5], largest_weight=1.0, reward_range=(0, 1)).enough


def test_bernstein_bounds_must_be_whole_and_true() -> None:
    with pytest.raises(GateError, match="both bounds"):
        ips(REWARD, LOGGED, TARGET, largest_weight=2.0)
    with pytest.raises(DataError, match="break their bounds"):
        ips(REWARD, LOGGED, TARGET, largest_weight=1.0, reward_range=(0, 1))
    with pytest.raises(DataError, match="break their bounds"):
        ips(REWARD, LOGGED, TARGET, largest_weight=2.0, reward_range=(0, 0.5))


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.1, math.nan, math.inf])
def test_bad_propensities_are_refused_with_their_row(bad: float) -> None:
    with pytest.raises(DataError, match="logged propensity") as caught:
        ips(REWARD, [0.25, bad, 0.5, 0.2], TARGET)
    assert caught.value.where == "row 1"
    if bad != 0:
        with pytest.raises(DataError, match="target propensity"):
            snips(REWARD, LOGGED, [0.5, 0.5, bad, 0.0])


def test_other_shapes_and_values_are_refused() -> None:
    with pytest.raises(DataError, match="logged propensities and"):
        ips(REWARD, LOGGED[:3], TARGET)
    with pytest.raises(DataError, match="rewards"):
        ips(REWARD[:3], LOGGED, TARGET)
    with pytest.raises(DataError, match="rewards"):
        ips([math.nan, 0, 1, 1], LOGGED, TARGET)
    with pytest.raises(DataError, match="shape"):
        ips([REWARD], LOGGED, TARGET)
    with pytest.raises(DataError, match="action estimates"):
        doubly_robust(REWARD, LOGGED, TARGET, [0.5], [0.5] * 4)
    with pytest.raises(DataError, match="none of the logged actions"):
        snips(REWARD, LOGGED, [0.0] * 4)
    with pytest.raises(DataError):
        ips([], [], [])
    with pytest.raises(GateError, match="alpha"):
        snips(REWARD, LOGGED, TARGET, alpha=0)


def test_effective_samples() -> None:
    assert effective_samples(np.ones(7)) == pytest.approx(7)
    assert effective_samples(np.array([5.0, 0.0])) == pytest.approx(1)
    assert effective_samples(np.zeros(3)) == 0


def test_a_gain_over_another_policy_is_of_the_rows_on_which_they_differ() -> None:
    # weights 2, 1, .5, 0 against 2, 1, 0, 5: apart 0, 0, .5, -5; q of the action .5, of the policies .6 and .4
    value = doubly_robust_gain(REWARD, LOGGED, TARGET, [0.5, 0.5, 0.0, 1.0], [0.5] * 4, [0.6] * 4, [0.4] * 4)
    assert value.value == pytest.approx(0.2 + (0.5 * 0.5 - 5 * 0.5) / 4)
    assert value.effective == pytest.approx(5.5**2 / (0.25 + 25))
    with pytest.raises(DataError, match="never differ"):
        doubly_robust_gain(REWARD, LOGGED, TARGET, TARGET, [0.5] * 4, [0.6] * 4, [0.6] * 4)
    with pytest.raises(DataError, match="one finite number"):
        doubly_robust_gain(REWARD, LOGGED, TARGET, [0.5] * 4, [0.5] * 3, [0.6] * 4, [0.4] * 4)


def test_a_row_is_estimated_from_other_rows() -> None:
    rng = np.random.default_rng(3)
    table = rng.normal(size=(500, 3))
    table[::7, 2] = np.nan
    arms = rng.integers(0, 2, 500)
    reward = 3 + 2 * table[:, 0] + arms * table[:, 1]
    made = cross_fitted(table, reward, arms, 2)
    assert np.abs(made[np.arange(500), arms] - reward).max() < 0.2
    assert np.abs(made[:, 1] - made[:, 0] - table[:, 1]).max() < 0.2
    changed = reward.copy()
    changed[4] += 1e6
    assert cross_fitted(table, changed, arms, 2)[4].tolist() == made[4].tolist()
    assert np.isfinite(cross_fitted(table, reward, np.zeros(500, dtype=np.int64), 2)).all()
    assert cross_fitted(np.empty((4, 0)), np.array([1.0, 1, 1, 1]), np.array([0, 1, 0, 1]), 2).tolist() == [[1, 1]] * 4
