from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from meguri.base.chance import chi2_quantile, chi2_tail, holm, kolmogorov_quantile, kolmogorov_tail


@given(st.floats(0, 2000), st.integers(1, 500))
def test_the_tail_of_chi_squared_is_scipys(x: float, df: int) -> None:
    assert chi2_tail(x, df) == pytest.approx(stats.chi2.sf(x, df), rel=1e-8, abs=1e-13)


@pytest.mark.parametrize("df", [1, 3, 9, 30])
@pytest.mark.parametrize("p", [0.5, 0.95, 0.9995])
def test_the_quantile_of_chi_squared_is_scipys(p: float, df: int) -> None:
    assert chi2_quantile(p, df) == pytest.approx(stats.chi2.ppf(p, df))
    assert chi2_quantile(p, 0) == 0
    assert chi2_tail(3.0, 0) == 1


@given(st.floats(0, 10))
def test_the_tail_of_kolmogorov_is_scipys(x: float) -> None:
    assert kolmogorov_tail(x) == pytest.approx(stats.kstwobign.sf(x), abs=1e-11)


def test_the_quantile_of_kolmogorov_is_scipys() -> None:
    for p in (0.5, 0.95, 0.99999):
        assert kolmogorov_quantile(p) == pytest.approx(stats.kstwobign.ppf(p))


@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_never_lowers_and_keeps_the_order(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(a >= v for a, v in zip(adjusted, values, strict=True))
    assert all(a <= 1 for a in adjusted)
    order = sorted(range(len(values)), key=values.__getitem__)
    assert all(adjusted[a] <= adjusted[b] for a, b in pairwise(order))
    if values:
        assert math.isclose(min(adjusted), min(1.0, min(values) * len(values)))


def test_holm_of_a_known_family() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
