from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from meguri.record import stats as ours
from meguri.record.stats import MIN_BLOCKS, MOST_BLOCKS, Estimate, group_blocks, resamples_for, time_blocks


@settings(deadline=None)
@given(p=st.floats(1e-6, 1 - 1e-6), df=st.floats(1, 500))
def test_students_t_is_scipys(p: float, df: float) -> None:
    ours.t_quantile.cache_clear()
    assert ours.t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-7, abs=1e-9)


@settings(deadline=None)
@given(x=st.floats(-50, 50), df=st.floats(1, 1000))
def test_the_t_distribution_is_scipys(x: float, df: float) -> None:
    assert ours.t_cdf(x, df) == pytest.approx(stats.t.cdf(x, df), abs=1e-7)


def test_the_normal_quantile() -> None:
    assert ours.normal_quantile(0.95) == pytest.approx(1.6448536)


def days(count: int, per: int) -> np.ndarray:
    return np.repeat(np.arange(count), per)


def test_blocks_of_time_have_no_gaps_and_join_neighbours() -> None:
    day = 86_400_000_000
    assert time_blocks(np.array([0, 1, day, 5 * day, 5 * day + 1]), day).tolist() == [0, 0, 1, 2, 2]
    many = time_blocks(np.arange(1000) * day, day)
    assert many.max() == MOST_BLOCKS - 1
    assert np.all(np.diff(many) >= 0)
    assert np.bincount(many).max() == 5


@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (5, 5), (100, 20), (2500, 50), (1_000_000, MOST_BLOCKS)])
def test_without_a_length_rows_make_equal_blocks(rows: int, blocks: int) -> None:
    codes = time_blocks(np.arange(rows), None)
    assert codes.max() + 1 == blocks
    sizes = np.bincount(codes)
    assert sizes.max() - sizes.min() <= 1


def test_groups_become_numbers_and_a_missing_one_is_a_group() -> None:
    assert group_blocks(["b", None, "a", "b", ""]).tolist() == [3, 0, 2, 3, 1]
    assert group_blocks([f"{i:04}" for i in range(1000)]).max() == MOST_BLOCKS - 1


def test_one_block_knows_nothing() -> None:
    estimate = Estimate.of(0.3, np.array([1.0, -1.0]), [np.zeros(2, dtype=np.int64)], seed=0)
    assert estimate.limits(0.05) == (-math.inf, math.inf)
    assert estimate.blocks == 1


def test_no_rows_know_nothing() -> None:
    estimate = Estimate.of(0.0, np.zeros(0), [np.zeros(0, dtype=np.int64)], seed=0)
    assert estimate.reach(0.05, -1) == math.inf


def test_rows_that_do_not_differ_leave_what_one_unseen_row_could_change() -> None:
    blocks = [days(20, 10)]
    assert Estimate.of(0.0, np.zeros(200), blocks, seed=0).limits(0.05) == (0.0, 0.0)
    low, high = Estimate.of(0.0, np.zeros(200), blocks, seed=0, unit=1.0).limits(0.05)
    assert -low == high
    assert high == pytest.approx(-math.log(0.05) / 200, rel=0.1)  # the rule of three


@pytest.mark.parametrize("count", [0, 1, 2, 5, 20, 100])
@pytest.mark.parametrize("level", [0.05, 0.01, 0.0025])
def test_the_limit_of_a_count_is_no_nearer_than_the_exact_poisson_limit(count: int, level: float) -> None:
    rows = 4000
    losses = np.zeros(rows)
    losses[np.random.default_rng(5).choice(rows, count, replace=False)] = 1.0
    estimate = Estimate.of(0.0, losses - losses.mean(), [np.arange(rows) // 20], seed=0, unit=1.0)
    exact = stats.chi2.ppf(1 - level, 2 * count + 2) / 2 - count
    assert estimate.reach(level, 1) * rows >= exact * 0.95


def test_the_standard_error_of_independent_rows_is_the_usual_one() -> None:
    rng = np.random.default_rng(0)
    losses = rng.normal(size=20_000)
    estimate = Estimate.of(losses.mean(), losses - losses.mean(), [np.arange(20_000) // 100], seed=0)
    assert estimate.error == pytest.approx(1 / math.sqrt(20_000), rel=0.15)


def test_two_way_errors_add_up() -> None:
    rng = np.random.default_rng(0)
    day, group = days(60, 60), rng.integers(0, 60, 3600)
    losses = rng.normal(size=60)[day] + rng.normal(size=60)[group] + 0.1 * rng.normal(size=3600)
    pull = losses - losses.mean()
    alone = [Estimate.of(0.0, pull, [axis], seed=0).error for axis in (day, group)]
    both = Estimate.of(0.0, pull, [day, group], seed=0)
    assert both.error == pytest.approx(math.hypot(*alone), rel=0.05)
    assert both.blocks == pytest.approx(min(60, 3600**2 / np.sum(np.bincount(group) ** 2)))


def test_two_ways_of_independent_rows_cost_little() -> None:
    rng = np.random.default_rng(1)
    pull = rng.normal(size=6000)
    pull -= pull.mean()
    one = Estimate.of(0.0, pull, [days(60, 100)], seed=0)
    two = Estimate.of(0.0, pull, [days(60, 100), rng.integers(0, 100, 6000)], seed=0)
    assert one.error <= two.error < 1.2 * one.error


def test_uneven_blocks_count_for_less() -> None:
    codes = np.concatenate([np.zeros(900, dtype=np.int64), np.arange(1, 11).repeat(10)])
    pull = np.random.default_rng(0).normal(size=1000)
    assert Estimate.of(0.0, pull - pull.mean(), [codes], seed=0).blocks < 1.3


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), blocks=st.integers(2, 40), level=st.sampled_from([0.05, 0.01, 0.001]))
def test_turning_the_sign_turns_the_limits(seed: int, blocks: int, level: float) -> None:
    rng = np.random.default_rng(seed)
    codes = days(blocks, 5)
    pull = rng.exponential(size=len(codes))
    value, pull = pull.mean(), pull - pull.mean()
    low, high = Estimate.of(value, pull, [codes], seed=seed).limits(level)
    turned_low, turned_high = Estimate.of(-value, -pull, [codes], seed=seed).limits(level)
    assert (turned_low, turned_high) == pytest.approx((-high, -low))
    assert low <= value <= high


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_smaller_level_reaches_further(seed: int) -> None:
    pull = np.random.default_rng(seed).normal(size=300)
    estimate = Estimate.of(0.0, pull - pull.mean(), [days(30, 10)], seed=seed)
    reaches = [estimate.reach(level, -1) for level in (0.2, 0.05, 0.01, 0.001)]
    assert reaches == sorted(reaches)


def test_limits_hold_with_few_skewed_blocks() -> None:
    rng, wrong, repeats = np.random.default_rng(3), 0, 400
    for seed in range(repeats):
        effect = 1 - rng.exponential(size=MIN_BLOCKS + 5)
        losses = rng.normal(size=(MIN_BLOCKS + 5) * 10) + effect.repeat(10)
        estimate = Estimate.of(losses.mean(), losses - losses.mean(), [days(MIN_BLOCKS + 5, 10)], seed=seed)
        wrong += estimate.limits(0.05)[0] > 0
    assert wrong / repeats <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats)


def test_small_levels_get_more_resamples_up_to_a_limit() -> None:
    assert [resamples_for(level) for level in (0.05, 0.001, 1e-9)] == [2000, 10_000, 20_000]
