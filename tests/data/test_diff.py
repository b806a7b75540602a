"""Diffs: what changed is found and said, what chance explains is not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

from meguri.base.errors import DataError
from meguri.data.diff import diff
from meguri.data.drift import sketch


def table(count: int, rng: np.random.Generator, shift: float = 0.0) -> pl.DataFrame:
    """Columns with ties, spikes, skew, rare categories and gaps."""
    rows = pl.DataFrame(
        {
            "wind": rng.normal(size=count) + shift,
            "stars": rng.integers(1, 6, count),
            "rain": np.where(rng.random(count) < 0.93, 0.0, rng.exponential(size=count)),
            "amount": np.exp(2 * rng.normal(size=count)).round(2),
            "carrier": rng.choice(list("abcdefgh"), count, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.015, 0.005]),
            "word": [f"v{i}" for i in rng.zipf(1.5, count)],
            "rare": rng.random(count) < 0.01,
        }
    )
    return rows.with_columns(pl.when(pl.Series(rng.random(count) > 0.1)).then(pl.col("amount", "word")))


def test_two_samples_of_one_distribution_seem_to_differ_as_rarely_as_stated() -> None:
    rng = np.random.default_rng(11)
    alpha, flagged = 0.05, 0
    for _ in range(200):
        n, m = np.exp(rng.uniform(np.log(30), np.log(3000), 2)).astype(int)
        found = diff(table(n, rng), table(m, rng), alpha=alpha)
        flagged += found.count("steady") < len(found.changes)
    assert flagged <= 200 * alpha + 3 * np.sqrt(200 * alpha * (1 - alpha))


def test_a_shift_of_half_a_deviation_is_found_in_500_rows() -> None:
    rng = np.random.default_rng(5)
    found = [diff(table(500, rng), table(500, rng, 0.5)).changes[0] for _ in range(40)]
    assert [(one.name, one.state) for one in found] == [("wind", "drifted")] * 40


def test_a_small_shift_of_many_rows_has_moved_but_not_drifted() -> None:
    rng = np.random.default_rng(5)
    found = diff(table(50_000, rng), table(50_000, rng, 0.05))
    assert {one.name: one.state for one in found.changes if one.state != "steady"} == {"wind": "moved"}
    assert not found.drifted


def test_every_kind_of_change_is_told_worst_first() -> None:
    rng = np.random.default_rng(5)
    old = table(800, rng).with_columns(
        gone=pl.lit(1),
        at=pl.lit(datetime(2024, 1, 1, tzinfo=UTC)),
        tags=pl.lit([1, 2]),
        wait=pl.duration(minutes="stars"),
    )
    new = (
        table(600, rng, 2.0)
        .with_columns(
            stars=pl.col("stars").cast(pl.String), at=pl.lit(None, pl.Datetime("us", "UTC")), tags=pl.lit([1, 2])
        )
        .with_columns(wait=pl.duration(minutes=3), added=pl.lit(2.5))
    )
    found = diff(old, new.lazy(), names=("January", "February"))
    states = {one.name: one.state for one in found.changes}
    assert [one.state for one in found.changes[:2]] == ["gone", "retyped"]
    assert states["stars"] == "retyped"
    assert states["at"] == states["wind"] == states["wait"] == "drifted"
    assert states["added"] == "added"
    assert states["tags"] == states["carrier"] == "steady"
    assert found.drifted
    kept = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (kept["old"], kept["new"]["rows"], kept["drifted"]) == ({"name": "January", "rows": 800}, 600, True)
    wind = next(one for one in kept["columns"] if one["name"] == "wind")
    assert wind["new"]["mean"] - wind["old"]["mean"] == pytest.approx(2, abs=0.3)
    assert sum(wind["bars"]["old"]) == pytest.approx(1)
    at = next(one for one in kept["columns"] if one["name"] == "at")
    assert (at["new"]["missing"], at["bars"]["labels"]) == (1, ["present", "missing"])


def test_whole_numbers_and_floats_are_both_numbers() -> None:
    rng = np.random.default_rng(5)
    old = table(300, rng).select("stars")
    found = diff(old, old.cast(pl.Float64)).changes[0]
    assert (found.state, found.old, found.new) != ("retyped", None, None)
    assert found.state == "steady"
    assert [side["type"] for side in (found.old, found.new) if side] == ["Int64", "Float64"]


def test_texts_that_name_the_rows_are_no_drift_until_they_come_again() -> None:
    names = pl.DataFrame({"id": [f"sample-{n:04}" for n in range(600)]})
    found = diff(names.head(250), names.tail(350))
    assert (found.drifted, found.changes[0].state) == (False, "steady")
    assert diff(names.head(250), names.tail(350).with_columns(id=pl.lit("sample-0001"))).drifted
    assert diff(names.head(250), names.tail(350).with_columns(id=pl.lit(None, pl.String))).drifted


def test_running_numbers_of_rows_and_times_are_no_drift() -> None:
    rng = np.random.default_rng(5)
    old, new = (table(400, rng).with_row_index("id", offset=at) for at in (0, 400))
    times = [part.with_columns(at=pl.from_epoch("id", time_unit="s")) for part in (old, new)]
    found = diff(*times)
    assert found.count("steady") == len(found.changes) == 9
    gaps = times[1].with_columns(id=pl.when(pl.col("id") % 3 > 0).then("id"))
    assert [one.name for one in diff(times[0], gaps).changes if one.state == "drifted"] == ["id"]
    yen = [pl.DataFrame({"yen": rng.integers(0, most, 400)}) for most in (10**9, 2 * 10**9)]
    assert diff(*yen).drifted


def test_training_is_compared_by_its_sketch() -> None:
    rng = np.random.default_rng(5)
    train = table(4000, rng)
    reference = json.loads(json.dumps(sketch(train, ["wind", "rain", "carrier", "word"])))
    same = diff(reference, table(500, rng))
    assert (len(same.changes), same.count("steady"), same.rows) == (4, 4, (4000, 500))
    moved = diff(reference, table(500, rng, 0.7))
    assert (moved.changes[0].name, moved.changes[0].state) == ("wind", "drifted")
    bars: dict[str, list[Any]] = moved.changes[0].bars or {}
    assert bars["labels"][0].startswith("< ")
    assert sum(bars["new"]) == pytest.approx(1)
    assert diff(sketch(train.select(x=pl.lit(1)), ["x"]), train.select(x=pl.lit(1))).changes[0].bars is not None
    with pytest.raises(DataError, match="sketches"):
        diff(train, reference)


def test_a_column_without_any_value_has_no_histogram() -> None:
    none = pl.DataFrame({"x": [None] * 60}, schema={"x": pl.Float64})
    found = diff(none, pl.DataFrame({"x": [1.0] * 60})).changes[0]
    assert (found.bars, found.state) == (None, "drifted")


def test_tables_that_cannot_be_compared(tmp_path: Any) -> None:
    some = pl.DataFrame({"x": [1]})
    with pytest.raises(DataError, match="no rows"):
        diff(some, some.clear(), names=("a", "b"))
    path = tmp_path / "t.parquet"
    pl.DataFrame({"x": range(50_000)}).write_parquet(path)
    lazy = pl.scan_parquet(path)
    raw = path.read_bytes()
    path.write_bytes(raw[:50] + b"\0" * 3000 + raw[3050:])
    with pytest.raises(DataError, match="cannot be read"):
        diff(some, lazy)
