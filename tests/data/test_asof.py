"""Joins as of a moment: against the meaning of each feature, whatever the order, the ties and the corrections."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data.events import MINUTE, NOON, expected, histories, minute, questions, records, rows
from data.servers import opened
from hypothesis import given, settings
from hypothesis import strategies as st

from meguri.base.errors import DataError
from meguri.data.build import compute, latest
from meguri.data.features import Events, Feature, Features, recorded
from meguri.data.warehouse import Warehouse

LATE = NOON + timedelta(days=2)

PLAIN = Events("records", by="origin", at="at", known="3m")
LOGGED = Events("records", by="origin", at="at", known="known_at")
CORRECTED = Events("records", by="origin", at="at", known="known_at", id="id")
PAIR = CORRECTED.by("origin", "carrier")
FEATURES: Features = {
    "plain": PLAIN.last("delay"),
    "plain_recent": PLAIN.last("delay", within="5m"),
    "plain_seats": PLAIN.last("seats"),
    "plain_mean": PLAIN.mean("delay", over="7m"),
    "plain_pair": PLAIN.by("carrier", "origin").sum("seats", over="7m"),
    "logged": LOGGED.last("delay"),
    "logged_age": LOGGED.age(within="9m"),
    "last": CORRECTED.last("delay"),
    "last_full": CORRECTED.last("full"),
    "age": PAIR.age(),
    "count": CORRECTED.count(over="6m"),
    "sum": CORRECTED.sum("delay", over="6m"),
    "mean": CORRECTED.mean("delay", over="6m"),
    "std": CORRECTED.std("delay", over="6m"),
    "share": PAIR.mean("full", over="11m"),
    "seats": PAIR.sum("seats", over="11m"),
    "spread": PAIR.std("seats", over="11m"),
    "coarse": PAIR.sum("delay", over="11m", decimals=0),
}


def made(asked: pl.DataFrame, features: Features, sources: Any, now: datetime = LATE, **more: Any) -> pl.DataFrame:
    return compute(asked, features, sources, time="asked_at", now=now, **more)


def same(found: pl.DataFrame, wanted: dict[str, list[Any]]) -> None:
    for name, values in wanted.items():
        assert found[name].to_list() == values, name


@given(histories(), questions(), st.integers(-1, 40))
@settings(max_examples=100)
def test_every_feature_is_what_it_means(table: pl.DataFrame, asked: pl.DataFrame, now: int) -> None:
    moment = NOON + now * MINUTE
    found = made(asked, FEATURES, {"records": table}, now=moment)
    assert found.select(asked.columns).equals(asked)
    same(found, expected(asked, FEATURES, table, moment))


@given(histories(), questions(), st.integers(0, 99))
def test_nothing_depends_on_the_other_rows_or_the_order_of_the_records(
    table: pl.DataFrame, asked: pl.DataFrame, seed: int
) -> None:
    """The prefix of history that is read depends on the rows; the values do not, to the last bit."""
    whole = made(asked, FEATURES, {"records": table})
    shuffled = table.sample(fraction=1, shuffle=True, seed=seed)
    for place in range(asked.height):
        alone = made(asked[place : place + 1], FEATURES, {"records": shuffled.lazy()})
        assert alone.equals(whole[place : place + 1])


@given(histories(), st.integers(0, 40))
def test_latest_is_build_with_now_as_every_moment(table: pl.DataFrame, now: int) -> None:
    moment = NOON + now * MINUTE
    for keys, found in latest(FEATURES, {"records": table}, now=moment).items():
        assert found.select(keys).null_count().sum_horizontal().sum() == 0
        assert not found.select(keys).is_duplicated().any()
        asked = found.select(keys).with_columns(asked_at=pl.lit(moment, pl.Datetime("us", "UTC")))
        group = {name: feature for name, feature in FEATURES.items() if name in found.columns}
        whole = asked.with_columns(pl.lit(None, pl.String).alias(k) for k in {"origin", "carrier"} - set(keys))
        assert made(whole, group, {"records": table}, now=moment).select(found.columns).equals(found)


@given(histories(), questions(), st.integers(0, 40))
@settings(max_examples=6)
def test_the_warehouse_gives_the_same_values(
    tmp_path_factory: pytest.TempPathFactory, table: pl.DataFrame, asked: pl.DataFrame, now: int
) -> None:
    moment = NOON + now * MINUTE
    asked = asked.drop_nulls("asked_at")
    with Warehouse("duckdb:///warehouse", tmp_path_factory.mktemp("w")) as warehouse:
        warehouse.write("records", table)
        here = made(asked, FEATURES, {"records": table}, now=moment)
        assert made(asked, FEATURES, warehouse, now=moment).equals(here)
        try:
            there = made(asked, FEATURES, warehouse, now=moment, engine="warehouse")
        except DataError:  # some events were moved back in time: their last one is not asked of the warehouse
            group = {
                name: feature
                for name, feature in recorded(FEATURES).items()
                if feature.kind not in ("last", "age") or feature.events is PLAIN
            }
            here = here.select(*asked.columns, *group)
            there = made(asked, group, warehouse, now=moment, engine="warehouse")
        assert there.equals(here)


@pytest.mark.parametrize("engine", ["duckdb", "postgres", "spark", "bigquery"])
def test_each_engine_gives_the_same_values(engine: str, tmp_path: Path) -> None:
    dice = random.Random(4)
    times = [dice.randrange(60) for _ in range(500)]
    given = [
        (dice.choice(["JFK", "EWR", None]), dice.choice(["UA", "AA"]), i if i % 3 else None, at, at + i % 20, i * 0.1)
        for i, at in enumerate(times)
    ]
    table = records(*given).with_columns(seats=pl.int_range(500), full=pl.int_range(500) % 3 == 0)
    table = pl.concat(
        [table, table.head(50).with_columns(pl.col("known_at") + 5 * MINUTE, delay=pl.lit(None, pl.Float64))]
    )
    asked = rows(*[(dice.randrange(90), dice.choice(["JFK", "EWR", "LGA", None]), "UA") for _ in range(200)])
    found = {name: one for name, one in FEATURES.items() if isinstance(one, Feature)}
    if engine == "bigquery":  # the emulator's NUMERIC has 18 digits, and squares need more; BigQuery's has 38
        found = {name: one for name, one in found.items() if one.kind != "std"}
    with opened(engine, tmp_path) as warehouse:
        warehouse.write("records", table)
        here = made(asked, found, {"records": table})
        assert made(asked, found, warehouse).equals(here)
        assert made(asked, found, warehouse, engine="warehouse").equals(here)
        odd = Events(
            sql="SELECT *, delay - avg(delay) OVER () AS odd FROM records", of=[PLAIN], by="origin", at="at", known="3m"
        )
        cut = made(asked, {"odd": odd.last("odd")}, warehouse, cut=minute(30))
        whole = made(asked, {"odd": odd.last("odd")}, warehouse)
        assert not cut.equals(whole)
        left = table.filter(pl.col("at") <= minute(27))
        assert cut["odd"].to_list() == pytest.approx(
            made(asked, {"odd": odd.last("odd")}, {"records": left})["odd"].to_list(), nan_ok=True
        )


def test_a_value_is_not_there_before_it_is_known() -> None:
    table = records(("JFK", "UA", 1, 0, 10, 5.0))
    found = made(
        rows((9, "JFK", "UA"), (10, "JFK", "UA"), (11, "EWR", "UA")), {"d": CORRECTED.last("delay")}, {"records": table}
    )
    assert found["d"].to_list() == [None, 5.0, None]


def test_a_late_correction_does_not_rewrite_what_was_known() -> None:
    table = records(("JFK", "UA", 1, 0, 1, 5.0), ("JFK", "UA", 2, 2, 3, 7.0), ("JFK", "UA", 1, 0, 8, 50.0))
    asked = rows((2, "JFK", "UA"), (4, "JFK", "UA"), (9, "JFK", "UA"))
    features: Features = {"d": CORRECTED.last("delay"), "s": CORRECTED.sum("delay", over="1h")}
    found = made(asked, features, {"records": table})
    assert found["d"].to_list() == [
        5.0,
        7.0,
        7.0,
    ]  # the correction is of an older event, and does not become the last one
    assert found["s"].to_list() == [5.0, 12.0, 57.0]


def test_an_event_that_is_taken_back_is_gone_from_then_on() -> None:
    table = records(("JFK", "UA", 1, 0, 1, 5.0), ("JFK", "UA", 2, 2, 3, 7.0), ("JFK", "UA", 2, None, 6, None))
    asked = rows((4, "JFK", "UA"), (6, "JFK", "UA"))
    features: Features = {"d": CORRECTED.last("delay"), "n": CORRECTED.count(over="1h"), "a": CORRECTED.age()}
    found = made(asked, features, {"records": table})
    assert found["d"].to_list() == [7.0, 5.0]
    assert found["n"].to_list() == [2, 1]
    assert found["a"].to_list() == [120.0, 360.0]


def test_sums_do_not_drift() -> None:
    """A huge value that has left the window leaves nothing behind."""
    table = records(("JFK", "UA", 1, 0, 0, 1e15), ("JFK", "UA", 2, 5, 5, 0.1), ("JFK", "UA", 3, 6, 6, 0.2))
    found = made(
        rows((8, "JFK", "UA")),
        {"s": PLAIN.sum("delay", over="6m"), "m": PLAIN.mean("delay", over="6m")},
        {"records": table},
    )
    assert found["s"].to_list() == [0.1]
    assert found["m"].to_list() == [0.1]


def test_no_tie_is_lost_or_doubled() -> None:
    table = records(*[("JFK", "UA", i, 1, 1, 1.0) for i in range(1000)])
    asked = rows(*[(5, "JFK", "UA")] * 1000)
    found = made(asked, {"n": PLAIN.count(over="1h"), "c": CORRECTED.count(over="1h")}, {"records": table})
    assert found.height == 1000
    assert found["n"].unique().to_list() == [1000]
    assert found["c"].unique().to_list() == [1000]


def test_a_rounded_value_is_rounded_at_the_end() -> None:
    table = records(("JFK", "UA", 1, 0, 0, 1.0), ("JFK", "UA", 2, 0, 0, 1.0), ("JFK", "UA", 3, 0, 0, 2.0))
    features: Features = {"m": PLAIN.mean("delay", over="1h").round(2), "d": PLAIN.last("delay").round(1)}
    found = made(rows((5, "JFK", "UA")), features, {"records": table})
    assert found.select("m", "d").row(0) == (1.33, 2.0)


def test_entities_meet_across_types_of_one_kind() -> None:
    table = records(("JFK", "UA", 7, 0, 0, 1.0)).with_columns(
        pl.col("origin").cast(pl.Categorical), gate=pl.lit(3, pl.Int16)
    )
    features: Features = {"d": PLAIN.last("delay"), "g": PLAIN.by("gate").last("delay")}
    asked = rows((5, "JFK", "UA")).with_columns(gate=pl.lit(3, pl.Int64))
    assert made(asked, features, {"records": table}).select("d", "g").row(0) == (1.0, 1.0)
    with pytest.raises(DataError, match="'gate' as String, and the events as Int16"):
        made(asked.with_columns(gate=pl.lit("3")), features, {"records": table})


def test_values_that_cannot_be_added_are_refused() -> None:
    table = records(("JFK", "UA", 1, 0, 0, float("inf")))
    asked = rows((5, "JFK", "UA"))
    with pytest.raises(DataError, match="as large as inf"):
        made(asked, {"s": PLAIN.sum("delay", over="1h")}, {"records": table})
    with pytest.raises(DataError, match="needs numbers"):
        made(asked, {"s": PLAIN.sum("carrier", over="1h")}, {"records": table})
    vast = table.with_columns(delay=pl.lit(1e20), seats=pl.lit(2**62))
    assert made(asked, {"s": PLAIN.sum("delay", over="1h")}, {"records": vast})["s"].to_list() == [1e20]
    with pytest.raises(DataError, match="cannot be exact"):
        made(asked, {"s": PLAIN.std("delay", over="1h")}, {"records": vast})
    with pytest.raises(DataError, match="cannot be exact"):
        made(asked, {"s": PLAIN.sum("seats", over="1h")}, {"records": pl.concat([vast, vast])})


def test_decimals_and_no_features_at_all() -> None:
    table = records(("JFK", "UA", 1, 0, 0, 1.5)).with_columns(price=pl.lit("12.35").str.to_decimal(scale=2))
    features: Features = {"p": PLAIN.last("price"), "s": PLAIN.sum("price", over="1h")}
    asked = rows((5, "JFK", "UA"))
    assert made(asked, features, {"records": table}).select("p", "s").row(0) == (12.35, 12.35)
    assert made(asked, {}, {}).equals(asked)


def test_rows_that_lack_what_is_asked_are_refused() -> None:
    asked, sources = rows((5, "JFK", "UA")), {"records": records()}
    with pytest.raises(DataError, match="no column 'asked_at'"):
        made(asked.drop("asked_at"), {"d": PLAIN.last("delay")}, sources)
    with pytest.raises(DataError, match="no column 'origin'"):
        made(asked.drop("origin"), {"d": PLAIN.last("delay")}, sources)
    with pytest.raises(DataError, match="is no time"):
        made(asked.with_columns(asked_at=pl.lit(5)), {"d": PLAIN.last("delay")}, sources)


def test_a_warehouse_says_what_it_refuses(tmp_path: Path) -> None:
    with Warehouse("duckdb:///warehouse", tmp_path) as warehouse:
        asked = rows((8, "JFK", "UA"))
        warehouse.write("records", records(("JFK", "UA", 1, 5, 3, 1.0)))
        with pytest.raises(DataError, match="known before they happened"):
            made(asked, {"d": LOGGED.last("delay")}, warehouse, engine="warehouse")
        warehouse.write("records", records(("JFK", "UA", 1, 3, 3, 1.0), ("JFK", "UA", 1, 2, 4, 1.0)))
        with pytest.raises(DataError, match="moved back in time"):
            made(asked, {"d": CORRECTED.last("delay")}, warehouse, engine="warehouse")
        with pytest.raises(DataError, match="needs numbers"):
            made(asked, {"d": CORRECTED.mean("carrier", over="1h")}, warehouse, engine="warehouse")
        assert made(asked, {"d": CORRECTED.last("delay")}, warehouse)["d"].to_list() == [1.0]
    assert minute(None) is None
