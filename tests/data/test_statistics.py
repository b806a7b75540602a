"""Profiles: what polars and NumPy say of the whole table at once, whatever it is cut into."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meguri.base.errors import DataError
from meguri.data import statistics
from meguri.data.statistics import QUANTILES, Profile, profile, scan

NUMBERS = st.lists(
    st.none() | st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, 1.0, -0.0, math.nan]), max_size=60
)


def slices(table: pl.DataFrame, rows: int) -> Any:
    return iter(table.iter_slices(rows)) if table.height else iter([table])


@given(NUMBERS, st.integers(1, 30))
def test_numbers_are_what_numpy_says_however_they_are_cut(values: list[float | None], rows: int) -> None:
    table = pl.DataFrame({"x": values}, schema={"x": pl.Float64})
    found = profile(slices(table, rows)).columns["x"]
    here = np.array([v for v in values if v is not None and not math.isnan(v)])
    assert (found.rows, found.nulls) == (len(values), sum(v is None for v in values))
    assert found.nan == sum(v is not None and math.isnan(v) for v in values)
    assert found.distinct == len(np.unique(here))
    assert found.approximate == []
    if not len(here):
        assert found.min is found.max is found.mean is None
        return
    assert (found.min, found.max) == (here.min(), here.max())
    assert found.mean == pytest.approx(here.mean(), abs=1e-6)
    assert found.std == (pytest.approx(here.std(ddof=1), abs=1e-5) if len(here) > 1 else None)
    assert (found.zeros, found.negative) == ((here == 0).sum(), (here < 0).sum())
    assert list(found.quantiles.values()) == np.quantile(here, QUANTILES, method="inverted_cdf").tolist()
    assert found.histogram is not None
    assert sum(found.histogram["counts"]) == len(here)
    assert found.histogram["edges"] == sorted(found.histogram["edges"])
    assert sum(n for _, n in found.commonest) <= len(here)
    assert found == profile(table).columns["x"] or len(here) > 1  # sums in another order may differ in the last digit


@given(st.lists(st.none() | st.text(max_size=3), max_size=40), st.integers(1, 9))
def test_texts_are_counted_one_by_one(values: list[str | None], rows: int) -> None:
    found = profile(slices(pl.DataFrame({"x": values}, schema={"x": pl.String}), rows)).columns["x"]
    here = [v for v in values if v is not None]
    assert (found.kind, found.distinct, found.empty) == ("text", len(set(here)), here.count(""))
    assert all(here.count(value) == n for value, n in found.commonest)
    if here:
        lengths = [len(v) for v in here]
        mean = pytest.approx(sum(lengths) / len(lengths))
        assert found.lengths == {"min": min(lengths), "max": max(lengths), "mean": mean}


def every_type() -> pl.DataFrame:
    at = datetime(2024, 2, 29, 12, tzinfo=UTC)
    return pl.DataFrame(
        {
            "flag": [True, False, None],
            "small": pl.Series([1, 2, None], dtype=pl.UInt8),
            "huge": pl.Series([1, 2, 2**100], dtype=pl.Int128),
            "price": pl.Series([Decimal("1.50"), None, Decimal("2.25")]),
            "single": pl.Series([1.5, math.inf, None], dtype=pl.Float32),
            "at": [at, at + timedelta(hours=1), None],
            "naive": pl.Series([at.replace(tzinfo=None)] * 3).cast(pl.Datetime("ns")),
            "tokyo": pl.Series([at] * 3).dt.convert_time_zone("Asia/Tokyo"),
            "day": [date(2024, 2, 29), date(1600, 1, 1), None],
            "wait": [timedelta(seconds=90), timedelta(seconds=30), None],
            "clock": [at.time(), at.time(), None],
            "kind": pl.Series(["a", "b", "a"], dtype=pl.Enum(["a", "b"])),
            "list": [[1], [2], None],
            "nothing": [None, None, None],
        }
    )


def test_every_type_has_a_profile_that_json_can_hold() -> None:
    found = profile(every_type())
    assert Profile.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
    columns = found.columns
    assert [column.kind for column in columns.values()] == (
        ["boolean"] + ["number"] * 4 + ["time"] * 4 + ["number"] + ["text"] * 2 + ["other"] * 2
    )
    assert columns["flag"].commonest == [[False, 1], [True, 1]]
    assert columns["at"].max == "2024-02-29T13:00:00+00:00"
    assert columns["naive"].min == "2024-02-29T12:00:00"
    assert columns["tokyo"].min == "2024-02-29T12:00:00+00:00"
    assert columns["tokyo"].type == "Datetime Asia/Tokyo"
    assert (columns["day"].min, columns["day"].quantiles["0.5"]) == ("1600-01-01", "1600-01-01")
    assert (columns["wait"].mean, columns["price"].mean) == (60, 1.875)
    assert (columns["single"].infinite, columns["single"].max, columns["single"].missing) == (
        1,
        1.5,
        pytest.approx(1 / 3),
    )
    assert columns["kind"].commonest == [["a", 2], ["b", 1]]
    assert (columns["list"].nulls, columns["list"].distinct) == (1, None)
    assert columns["nothing"].missing == 1


def test_many_values_are_approximate_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "EXACT", 1000)
    monkeypatch.setattr(statistics, "HASHES", 4096)
    monkeypatch.setattr(statistics, "ROWS", 3000)
    rng = np.random.default_rng(0)
    n = 40_000
    x = np.where(rng.random(n) < 0.3, 0.0, np.exp(2 * rng.normal(size=n)))
    at = pl.Series(np.arange(n) * 60_000_000).cast(pl.Datetime("us", "UTC"))
    found = profile(pl.DataFrame({"x": x, "id": [f"u{i}" for i in range(n)], "at": at})).columns
    assert found["x"].approximate == ["distinct", "commonest", "quantiles", "histogram"]
    assert found["x"].distinct == pytest.approx(len(np.unique(x)), rel=0.06)
    assert found["x"].commonest == [[0.0, int((x == 0).sum())]]
    assert found["x"].zeros == (x == 0).sum()
    assert found["x"].mean == pytest.approx(x.mean())
    assert found["x"].std == pytest.approx(x.std(ddof=1))
    for q, value in found["x"].quantiles.items():
        assert (x <= value).mean() == pytest.approx(float(q), abs=0.005) or value == 0
    assert found["x"].histogram is not None
    assert sum(found["x"].histogram["counts"]) == n
    assert found["id"].approximate == ["distinct", "commonest"]
    assert found["id"].distinct == pytest.approx(n, rel=0.06)
    assert found["at"].max == "1970-01-28T18:39:00+00:00"


def test_up_to_a_million_the_number_of_values_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "EXACT", 1000)
    monkeypatch.setattr(statistics, "ROWS", 3000)
    found = profile(pl.DataFrame({"id": [f"u{i % 7000}" for i in range(20_000)]})).columns["id"]
    assert (found.distinct, found.approximate) == (7000, ["commonest"])


def test_numbers_that_a_float_cannot_sum() -> None:
    found = profile(pl.DataFrame({"x": [1.7e308, 1.7e308, -1.7e308], "i": [2**62, -(2**62), 0]})).columns
    assert (found["x"].mean, found["x"].std, found["x"].max) == (pytest.approx(1.7e308 / 3), None, 1.7e308)
    assert (found["i"].min, found["i"].max) == (-(2**62), 2**62)
    json.dumps([found["x"].histogram, found["i"].histogram], allow_nan=False)


def test_a_profile_is_the_same_each_time() -> None:
    values = np.random.default_rng(7).lognormal(0, 9, 5_000)
    assert len({profile(pl.DataFrame({"x": values})).columns["x"].mean for _ in range(20)}) == 1


def test_whole_numbers_get_bars_of_whole_numbers() -> None:
    days = profile(pl.DataFrame({"day": [*range(1, 32)]})).columns["day"].histogram
    assert days is not None
    assert days["counts"] == [1] * 31
    far = profile(pl.DataFrame({"x": [*range(1000), 10**9]})).columns["x"].histogram
    assert far is not None
    assert far["edges"][-1] < 1100


@pytest.mark.parametrize("kind", ["path", "text", "lazy", "csv", "folder", "pandas", "batches"])
def test_one_table_in_any_form(kind: str, tmp_path: Path) -> None:
    table = pl.DataFrame({"a": [1, 2, 2], "b": ["x", None, "y"]})
    table.write_parquet(tmp_path / "t.parquet")
    (tmp_path / "parts").mkdir()
    for place, part in enumerate(table.iter_slices(2)):
        part.write_parquet(tmp_path / "parts" / f"{place}.parquet")
    table.write_csv(tmp_path / "t.csv")
    table.write_csv(tmp_path / "t.tsv", separator="\t")
    forms: dict[str, Any] = {
        "path": tmp_path / "t.parquet",
        "text": str(tmp_path / "t.tsv"),
        "lazy": table.lazy(),
        "csv": tmp_path / "t.csv",
        "folder": tmp_path / "parts",
        "pandas": table.to_pandas(),
        "batches": table.iter_slices(2),
    }
    assert profile(forms[kind]) == profile(table)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_an_empty_table_has_columns(suffix: str, tmp_path: Path) -> None:
    empty = pl.DataFrame(schema={"a": pl.Int64, "b": pl.String})
    path = tmp_path / f"t.{suffix}"
    empty.write_parquet(path) if suffix == "parquet" else empty.write_csv(path)
    found = profile(path)
    assert (found.rows, list(found.columns)) == (0, ["a", "b"])
    assert found.columns["a"].missing == 0


def test_what_is_damaged_is_said_so(tmp_path: Path) -> None:
    good = tmp_path / "t.parquet"
    pl.DataFrame({"a": range(100_000)}).write_parquet(good)
    whole = good.read_bytes()
    for broken in (b"", b"PAR1", whole[:-10], whole[: len(whole) // 2], whole[:4] + b"\0" * 5000 + whole[5004:]):
        good.write_bytes(broken)
        with pytest.raises(DataError, match="cannot be read") as error:
            profile(good)
        assert "t.parquet" in str(error.value)
    with pytest.raises(DataError, match="no such file"):
        scan(tmp_path / "none.parquet")
    with pytest.raises(DataError, match="same columns"):
        profile(iter([pl.DataFrame({"a": [1]}), pl.DataFrame({"b": [1]})]))


@pytest.mark.parametrize(
    "value", [{}, {"format": 2}, {"format": 1, "rows": 1}, {"format": 1, "rows": 1, "columns": [{"name": "x"}]}]
)
def test_json_that_is_no_profile(value: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="no profile"):
        Profile.from_dict(value)
