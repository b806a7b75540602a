from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from meguri.base.errors import DataError
from meguri.data.drift import compare, features_table, psi, sketch


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


@pytest.mark.parametrize("spike", [0.0, 5.0])
def test_a_column_that_is_nearly_always_the_same_is_not_overlooked(spike: float) -> None:
    def rain(seed: int, wet: float) -> pl.DataFrame:
        rng = np.random.default_rng(seed)
        return pl.DataFrame({"rain": np.where(rng.random(4000) < wet, rng.exponential(size=4000) + 5.1, spike)})

    reference = sketch(rain(0, 0.07), ["rain"])
    assert reference["rain"]["edges"]
    assert psi(reference, rain(1, 0.07), alpha=0.01)["rain"] == 0
    assert psi(reference, rain(2, 0.5), alpha=0.01)["rain"] > 0.5


KINDS = ["normal", "ties", "zeros", "skew", "cat", "zipf", "many", "rare"]


def drawn(kind: str, count: int, rng: np.random.Generator) -> pl.Series:
    """A column with the trouble that real ones have: ties, skew, rare and very many values, a tenth of it missing."""
    values = {
        "normal": lambda: rng.normal(size=count),
        "ties": lambda: rng.integers(0, 4, count) * 1.0,
        "zeros": lambda: np.where(rng.random(count) < 0.93, 0, rng.exponential(size=count)),
        "skew": lambda: np.exp(2 * rng.normal(size=count)),
        "cat": lambda: rng.choice(list("abcdefgh"), count, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.015, 0.005]),
        "zipf": lambda: [f"v{i}" for i in rng.zipf(1.5, count)],
        "many": lambda: [f"v{i}" for i in rng.integers(0, 1000, count)],
        "rare": lambda: rng.random(count) < 0.01,
    }[kind]()
    return pl.Series("x", values).set(pl.Series(rng.random(count) < 0.1), None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "m"), [(30, 30), (30, 3000), (500, 2000)])
def test_equal_columns_seem_to_differ_as_rarely_as_stated(kind: str, n: int, m: int) -> None:
    rng = np.random.default_rng(7)
    pairs = [compare(drawn(kind, n, rng), drawn(kind, m, rng), level=0.05) for _ in range(100)]
    assert sum(pair.p <= 0.05 for pair in pairs) <= 12  # 5 expected; more than 12 once in 700 times
    for value, noise in (("psi", "psi_noise"), ("js", "js_noise")):
        assert sum(getattr(pair, value) > getattr(pair, noise) for pair in pairs) <= 12


def test_chance_is_told_for_each_figure() -> None:
    rng = np.random.default_rng(3)
    old, new = pl.Series(rng.normal(size=4000)), pl.Series(rng.normal(size=4000) + 0.5)
    shift = compare(old, new, level=0.01)
    assert shift.psi == pytest.approx(0.25, abs=0.06)
    assert shift.ks == pytest.approx(stats.ks_2samp(old, new).statistic)
    assert shift.ks_noise == pytest.approx(stats.kstwobign.ppf(0.99) / np.sqrt(2000), rel=1e-6)
    assert shift.psi_noise == pytest.approx(stats.chi2.ppf(0.99, 9) / 2000, rel=0.02)
    assert 0 < shift.js_noise < shift.js < 1
    assert shift.p < 1e-50
    assert sum(shift.old) == sum(shift.new) == 4000


def test_a_comparison_does_not_depend_on_the_side() -> None:
    rng = np.random.default_rng(3)
    for kind in KINDS:
        a, b = drawn(kind, 300, rng), drawn(kind, 2000, rng)
        one, other = compare(a, b, level=0.01), compare(b, a, level=0.01)
        assert (one.psi, one.js, one.ks) == pytest.approx((other.psi, other.js, other.ks))
        assert one.old == other.new


def test_a_sketch_is_compared_like_the_rows_it_was_made_of() -> None:
    rng = np.random.default_rng(3)
    for kind in ("normal", "cat", "many"):
        old, same, other = (drawn(kind, 2000, rng) for _ in range(3))
        reference = sketch(pl.DataFrame({"x": old}), ["x"])["x"]
        assert compare(reference, same, level=0.01).p > 0.001
        if kind != "many":
            moved = other + 0.5 if kind == "normal" else other.replace("a", "b")
            assert compare(reference, moved, level=0.0001).p < 0.0001


def test_nothing_to_compare_is_no_difference() -> None:
    none = pl.Series("x", [None, None], dtype=pl.Float64)
    assert compare(none, none, level=0.01).p == 1
    assert compare(none, none, level=0.01).ks is None
    assert compare(pl.Series([1, 1]), pl.Series([1, 1, 1]), level=0.01).psi == 0
    assert compare(pl.Series(["a"] * 50), pl.Series([None] * 50, dtype=pl.String), level=0.01).p < 0.01
