"""Ways to see the future, each planted and each refused; and what does not is let through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest
from data.contracts import FLIGHTS, NOON, rows

from meguri.base.errors import DataError, MeguriError
from meguri.data import leak
from meguri.data.build import build
from meguri.data.features import Events, Features
from meguri.data.warehouse import Warehouse

COUNT = 60
NOW = NOON + timedelta(days=30)
HOURS = pl.datetime_range(NOON, NOON + timedelta(hours=COUNT - 1), "1h", time_unit="us", time_zone="UTC", eager=True)
WEATHER = Events("weather", by="origin", at="hour", known="1h")
SKY: dict[str, Any] = {"by": "origin", "at": "hour", "known": "1h"}


def weather(**columns: Any) -> pl.DataFrame:
    table = pl.DataFrame({"hour": HOURS, "temp": [float(i * 7 % 23) for i in range(COUNT)]})
    return table.with_columns(origin=pl.lit("JFK")).with_columns(**columns)


def asked(**columns: Any) -> pl.DataFrame:
    times, miles = list(HOURS + timedelta(minutes=90)), [100.0 + i for i in range(COUNT)]
    found = rows(time=times, distance=miles, origin=["JFK"] * COUNT).drop("temp")
    return found.with_columns(**columns)


@pytest.fixture(params=["frames", "warehouse"])
def sources(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Any]:
    """The same tables as frames and in a warehouse."""
    tables = {"weather": weather(), "airports": pl.DataFrame({"origin": ["JFK"], "height": [4.0]})}
    if request.param == "frames":
        yield tables
        return
    with closing(Warehouse("duckdb:///warehouse", tmp_path)) as warehouse:
        for name, table in tables.items():
            warehouse.write(name, table)
        yield warehouse


def both(features: Features, given: Any, rows: pl.DataFrame | None = None) -> None:
    """What a build refuses, the check refuses."""
    table = asked() if rows is None else rows
    for look in (build, leak.check):
        with pytest.raises(MeguriError) as caught:
            look(table, features, given, contract=FLIGHTS, now=NOW)
        assert caught.value.fix
        assert caught.value.where
        print(caught.value)
    raise caught.value


def test_what_does_not_leak_is_let_through(sources: Any) -> None:
    cooler = Events(
        sql="select w.hour, w.origin, w.temp - a.height as above from weather w join airports a on w.origin = a.origin",
        of=[WEATHER, "airports"],
        **SKY,
    )
    features: Features = {
        "temp": WEATHER.last("temp"),
        "day": WEATHER.mean("temp", over="1d"),
        "above": cooler.last("above"),
        "far": lambda distance, above: (distance > 120) & (above > 0),
    }
    found = build(asked(), features, sources, contract=FLIGHTS, now=NOW)
    assert found["above"].to_list() == [temp - 4 for temp in found["temp"].to_list()]
    counts = leak.check(found, features, sources, contract=FLIGHTS, now=NOW, moments=3)
    assert set(counts) == set(features)
    assert min(counts.values()) > COUNT
    leak.clock(features, sources, now=NOW)


def test_sql_that_aggregates_over_the_whole_table(sources: Any) -> None:
    against = Events(sql="select hour, origin, temp - avg(temp) over () as odd from weather", of=[WEATHER], **SKY)
    with pytest.raises(DataError, match="'odd' sees the future"):
        both({"odd": against.last("odd")}, sources)


def test_sql_that_looks_at_the_next_row(sources: Any) -> None:
    ahead = Events(sql="select hour, origin, lead(temp) over (order by hour) as soon from weather", of=[WEATHER], **SKY)
    with pytest.raises(DataError, match="'soon' sees the future"):
        both({"soon": ahead.last("soon")}, sources)


def test_sql_that_dates_its_records_back(sources: Any) -> None:
    early = Events(
        sql="select hour - interval '6h' as hour, origin, temp from weather"
        if isinstance(sources, dict)
        else "select hour - interval 6 hour as hour, origin, temp from weather",
        of=[WEATHER],
        **SKY,
    )
    with pytest.raises(DataError, match="'temp' sees the future"):
        both({"temp": early.last("temp")}, sources)


def test_sql_that_reads_a_table_nobody_named(sources: Any) -> None:
    hidden = Events(sql="select w.hour, w.origin, a.height from weather w, airports a", of=[WEATHER], **SKY)
    with pytest.raises(DataError, match=r"airports|cannot be run"):
        both({"height": hidden.last("height")}, sources)


def test_sql_may_name_its_own_parts(sources: Any) -> None:
    parts = Events(sql="with warm as (select * from weather where temp > 3) select * from warm", of=[WEATHER], **SKY)
    found = build(asked(), {"warm": parts.last("temp")}, sources, contract=FLIGHTS, now=NOW)
    assert found["warm"].min() > 3  # type: ignore[operator]


@pytest.mark.parametrize(
    "function",
    [
        lambda distance: distance - distance.mean(),
        lambda distance: distance.rank(),
        lambda distance: distance.shift(-1),
        lambda distance: distance.cum_sum(),
    ],
)
def test_a_function_of_other_rows(function: Any) -> None:
    with pytest.raises(DataError, match="depends on other rows"):
        both({"f": function}, {})


def test_a_function_of_what_is_known_with_the_label() -> None:
    landed = pl.when(pl.int_range(pl.len()) < 35).then(pl.col("time"))
    table = asked(late=pl.when(pl.int_range(pl.len()) < 35).then("late"), landed_at=landed)
    with pytest.raises(DataError, match="'landed_at', which no row has whose label 'late' is awaited"):
        both({"taxi": lambda time, landed_at: (landed_at - time).dt.total_minutes()}, {}, table)
    some = table.with_columns(landed_at=pl.col("time"))
    build(some, {"taxi": lambda time, landed_at: (landed_at - time).dt.total_minutes()}, {}, contract=FLIGHTS, now=NOW)


@pytest.mark.parametrize("zone", [None, "America/New_York"])
def test_a_record_that_is_known_before_it_happened(zone: str | None) -> None:
    """As when one of the two times is local."""
    table = weather(known_at=pl.col("hour").dt.offset_by("-4h"))
    events = Events("weather", by="origin", at="hour", known="known_at")
    if zone is not None:
        table = table.with_columns(pl.col("hour", "known_at").dt.convert_time_zone(zone))
    with pytest.raises(DataError, match="60 of 60 records are known before they happened"):
        both({"temp": events.last("temp")}, {"weather": table})


@pytest.mark.parametrize("kind", ["naive", "date", "text"])
def test_a_time_that_says_no_zone(kind: str) -> None:
    hour = pl.col("hour")
    made = {"naive": hour.dt.replace_time_zone(None), "date": hour.dt.date(), "text": hour.dt.to_string()}
    for name, events in (("hour", WEATHER), ("told", Events("weather", by="origin", at="hour", known="told"))):
        table = weather(told=pl.col("hour")).with_columns(made[kind].alias(name))
        with pytest.raises(DataError, match=f"'{name}' is .* which says no zone"):
            both({"temp": events.last("temp")}, {"weather": table})


def test_a_warehouse_time_that_says_no_zone(tmp_path: Any) -> None:
    with closing(Warehouse("duckdb:///warehouse", tmp_path)) as warehouse:
        warehouse.write("weather", weather(hour=HOURS.dt.replace_time_zone(None)))
        with pytest.raises(DataError, match="says no zone"):
            both({"temp": WEATHER.last("temp")}, warehouse)


def test_a_local_time_that_was_read_as_utc(sources: Any) -> None:
    """East of Greenwich the latest records lie in the future of the clock."""
    features: Features = {"temp": WEATHER.last("temp")}
    leak.clock(features, sources, now=HOURS[-1])
    with pytest.raises(DataError, match="9 records happen after now") as caught:
        leak.clock(features, sources, now=HOURS[-1] - timedelta(hours=9))
    assert "local time" in str(caught.value)


def test_a_negative_known_moment_cannot_be_smuggled_in_by_sql(sources: Any) -> None:
    """The SQL's own column says when its records were known; what its tables knew decides."""
    cast = "hour as told"
    sneaky = Events(
        sql=f"select hour, origin, {cast}, temp from weather", of=[WEATHER], by="origin", at="hour", known="told"
    )
    with pytest.raises(DataError, match="'temp' sees the future"):
        both({"temp": sneaky.last("temp")}, sources, asked(time=pl.col("time") - timedelta(minutes=60)))


def test_little_is_no_sign_of_a_leak() -> None:
    one = asked().head(1)
    build(one, {"f": lambda distance: distance - distance.mean()}, {}, contract=FLIGHTS, now=NOW)
    with pytest.raises(DataError, match="depends on other rows"):
        build(asked().head(2), {"f": lambda distance: distance - distance.mean()}, {}, contract=FLIGHTS, now=NOW)

    def nan(distance: pl.Series) -> pl.Series:
        return distance * float("nan")

    build(asked().head(2), {"f": nan}, {}, contract=FLIGHTS, now=NOW)
    assert leak.check(asked().clear(), {"f": nan}, {}, contract=FLIGHTS, now=NOW) == {"f": 0}
    assert isinstance(NOW, datetime)
