from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from meguri.base.errors import DataError
from meguri.record.drift import chi2_quantile, features_table, psi, sketch


def table(count: int, seed: int = 0, shift: float = 0.0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "wind": rng.normal(size=count) + shift,
            "hour": rng.integers(0, 24, count),
            "origin": rng.choice(["EWR", "JFK", "LGA"], count, p=[0.5, 0.3, 0.2]),
            "rain": rng.random(count) < 0.1,
        }
    )


FEATURES = ["wind", "hour", "origin", "rain"]


def test_the_same_rows_have_not_drifted_and_the_sketch_is_json() -> None:
    reference = json.loads(json.dumps(sketch(table(5000), FEATURES)))
    assert psi(reference, table(5000)) == dict.fromkeys(FEATURES, 0.0)
    assert len(reference["wind"]["edges"]) == 9
    assert reference["origin"]["values"] == ["EWR", "JFK", "LGA"]
    assert all(sum(one["counts"]) == 5000 for one in reference.values())


def test_a_shift_of_one_deviation_is_the_index_known_for_it() -> None:
    reference = sketch(table(50_000), ["wind"])
    edges = np.array([-np.inf, *stats.norm.ppf(np.arange(1, 10) / 10), np.inf])
    p, q = np.full(10, 0.1), np.diff(stats.norm.cdf(edges - 1))
    assert psi(reference, table(50_000, 1, shift=1.0))["wind"] == pytest.approx(
        ((p - q) * np.log(p / q)).sum(), rel=0.05
    )


def test_a_small_table_does_not_cry_wolf() -> None:
    reference = sketch(table(2000), FEATURES)
    plain = [max(psi(reference, table(50, seed)).values()) for seed in range(1, 201)]
    sure = [max(psi(reference, table(50, seed), alpha=0.05).values()) for seed in range(1, 201)]
    assert np.mean(np.array(plain) > 0.1) > 0.5
    assert np.mean(np.array(sure) > 0) < 0.1
    assert psi(reference, table(50, 1, shift=3.0), alpha=0.05)["wind"] > 1


def test_missing_new_and_rare_values() -> None:
    reference = sketch(pl.DataFrame({"x": [1.0, None, float("nan"), 2.0], "t": ["a", "b", None, "a"]}), ["x", "t"])
    assert reference == {
        "x": {"edges": [2.0], "counts": [1, 1, 2]},
        "t": {"values": ["a", "b"], "counts": [2, 1, 0, 1]},
    }
    many = pl.DataFrame({"t": ["new"] * 500, "x": [float("inf")] * 500})
    assert all(value > 1 for value in psi(reference, many).values())
    wide = sketch(pl.DataFrame({"count": [f"v{i:03}" for i in range(100)]}), ["count"])
    assert wide["count"]["values"] == [f"v{i:03}" for i in range(20)]
    assert wide["count"]["counts"][20:] == [80, 0]


def test_features_without_any_value_or_with_one() -> None:
    empty = pl.DataFrame(
        {"x": [None, None], "t": [None, None], "c": [7, 7]}, schema={"x": pl.Float64, "t": pl.String, "c": pl.Int64}
    )
    reference = sketch(empty, ["x", "t", "c"])
    assert psi(reference, empty) == {"x": 0.0, "t": 0.0, "c": 0.0}
    assert psi(reference, empty, alpha=0.01) == {"x": 0.0, "t": 0.0, "c": 0.0}
    assert reference["c"]["edges"] == []


def test_only_features_that_are_there() -> None:
    assert list(psi(sketch(table(100), FEATURES), table(100).select("hour"))) == ["hour"]


@settings(max_examples=40, deadline=None)
@given(st.permutations(list(range(60))), st.floats(0.1, 10), st.floats(-5, 5))
def test_order_and_scale_do_not_matter(order: list[int], scale: float, shift: float) -> None:
    old, new = table(60), table(60, 3, 1.0)
    plain = psi(sketch(old, ["wind"]), new)["wind"]
    scaled = [t[order].with_columns(pl.col("wind") * scale + shift) for t in (old, new)]
    assert psi(sketch(scaled[0], ["wind"]), scaled[1])["wind"] == pytest.approx(plain)
    assert plain >= 0


def test_features_come_back_from_the_ledgers_json() -> None:
    rows = table(300, 2)
    texts = [json.dumps(row) for row in rows.iter_rows(named=True)]
    reference = sketch(rows, FEATURES)
    assert psi(reference, features_table([*texts, None], reference)) == dict.fromkeys(FEATURES, 0.0)
    assert features_table(['{"wind": null}'], reference).rows() == [(None, None, None, None)]
    assert features_table([], reference).is_empty()
    for broken in ("{", "[1]", "3"):
        with pytest.raises(DataError, match="no JSON object"):
            features_table([broken], reference)


@pytest.mark.parametrize("df", [1, 3, 9, 30])
@pytest.mark.parametrize("p", [0.95, 0.99, 0.9995])
def test_the_chi_squared_quantile_is_near_scipys(p: float, df: int) -> None:
    assert chi2_quantile(p, df) == pytest.approx(stats.chi2.ppf(p, df), rel=0.06)
    assert chi2_quantile(p, 0) == 0
