"""Is an experiment split as planned?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import dirichlet_multinomial, multinomial

from meguri.base.errors import DataError, GateError
from meguri.record.srm import srm, srm_log_bayes


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(0, 5000), min_size=2, max_size=4), c=st.floats(1, 1000))
def test_the_bayes_factor_is_dirichlet_multinomial_over_multinomial(counts: list[int], c: float) -> None:
    shares = np.arange(1, len(counts) + 1) / sum(range(1, len(counts) + 1))
    n = sum(counts)
    reference = dirichlet_multinomial.logpmf(counts, c * shares, n) - multinomial.logpmf(counts, n, shares)
    assert float(srm_log_bayes(counts, shares.tolist(), concentration=c)) == pytest.approx(reference, abs=1e-6)


def test_many_experiments_at_once_are_each_alone() -> None:
    counts = np.random.default_rng(0).integers(0, 1000, (3, 4, 2))
    every = srm_log_bayes(counts, (0.5, 0.5))
    assert every.shape == (3, 4)
    assert every[1, 2] == pytest.approx(float(srm_log_bayes(counts[1, 2], (0.5, 0.5))))


def test_a_split_of_52_to_48_is_found_at_50_000_units_and_healthy_ones_are_not() -> None:
    assert srm((26_000, 24_000)).found
    for b in np.random.default_rng(0).binomial(50_000, 0.5, 200):
        assert not srm((50_000 - int(b), int(b))).found


def test_an_unequal_plan_is_kept_to() -> None:
    assert not srm((9_000, 1_000), (0.9, 0.1)).found
    assert srm((5_000, 5_000), (0.9, 0.1)).found
    assert srm((0, 0)).p == 1


def test_a_mismatch_once_found_stays_found() -> None:
    first = srm((26_000, 24_000))
    later = srm((500_000, 500_000), before=first.p)
    assert later.p == first.p
    assert later.found


def test_the_bayes_factor_has_mean_one_under_the_plan() -> None:
    n = 60
    hits = np.arange(n + 1)
    chance = np.array([math.comb(n, int(k)) * 0.3**k * 0.7 ** (n - k) for k in hits])
    factors = np.exp(srm_log_bayes(np.stack([n - hits, hits], axis=1), (0.7, 0.3)))
    assert float(chance @ factors) == pytest.approx(1.0)


@pytest.mark.parametrize("shares", [(0.5, 0.6), (1.0, 0.0), (1.0,), (math.nan, 0.5)])
def test_impossible_shares_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(GateError):
        srm_log_bayes([1, 2], shares)


def test_impossible_counts_and_levels_are_refused() -> None:
    for counts in ([1, -1], [1.5, 2], [1, 2, 3], [math.nan, 1]):
        with pytest.raises(DataError):
            srm_log_bayes(counts, (0.5, 0.5))
    with pytest.raises(GateError):
        srm((1, 2), alpha=0)
    with pytest.raises(GateError):
        srm((1, 2), concentration=0)
