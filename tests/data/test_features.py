"""Definitions: what they may say, and that one which would see the future is refused as it is written."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import polars as pl
import pytest
from data.contracts import FLIGHTS, NOON, rows

from meguri.base.errors import ContractError, DataError
from meguri.data.build import build
from meguri.data.features import Events, Feature, Features, functions, judge

WEATHER = Events("weather", by="origin", at="hour", known="1h")
TABLE = pl.DataFrame({"origin": ["JFK"], "hour": [NOON - timedelta(hours=2)], "temp": [7.5], "late": [True]})


def made(features: Features, **more: Any) -> pl.DataFrame:
    sources = more.pop("sources", {"weather": TABLE})
    found = rows(origin=["JFK", "EWR"]).drop("temp").with_columns(**more)
    return build(found, features, sources, contract=FLIGHTS, now=NOON + timedelta(days=1))


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({"known": "-1h"}, "nothing is known before it happens"),
        ({"known": timedelta(minutes=-1)}, "nothing is known before it happens"),
        ({"known": "1 hour"}, "neither a duration nor the name of a column"),
        ({"known": ""}, "neither a duration nor the name of a column"),
        ({"by": ()}, "events need an entity"),
        ({"table": None}, "a table, or sql"),
        ({"sql": "select 1"}, "a table, or sql"),
        ({"table": None, "sql": "select 1"}, "it may see the future"),
        ({"of": ["weather"]}, "there is none"),
    ],
)
def test_events_without_meaning_are_refused(how: dict[str, Any], what: str) -> None:
    given = {"table": "weather", "by": "origin", "at": "hour", "known": "1h"} | how
    with pytest.raises(ContractError, match=what) as caught:
        Events(**given)
    assert caught.value.fix
    assert caught.value.where


def test_sql_over_sql_is_refused() -> None:
    mild = Events(sql="select * from weather", of=[WEATHER], by="origin", at="hour", known="1h")
    with pytest.raises(ContractError, match="is SQL itself"):
        Events(sql="select 1", of=[mild], by="origin", at="hour", known="1h")


@pytest.mark.parametrize("length", ["-2h", "0s", timedelta(0), timedelta(hours=-1), "two hours"])
def test_a_window_begins_before_the_moment(length: Any) -> None:
    for make in (lambda: WEATHER.mean("temp", over=length), lambda: WEATHER.last("temp", within=length)):
        with pytest.raises(ContractError, match=r"does not lie before|is no length"):
            make()


def test_a_window_that_is_always_empty_is_refused() -> None:
    for make in (lambda: WEATHER.mean("temp", over="1h"), lambda: WEATHER.last("temp", within="30m")):
        with pytest.raises(ContractError, match="never has an event in it: a record of weather is known 1h later"):
            make()
    assert WEATHER.count(over="61m").length == timedelta(minutes=61)


def test_a_window_needs_to_tell_a_correction_from_an_event() -> None:
    logged = Events("weather", by="origin", at="hour", known="known_at")
    with pytest.raises(ContractError, match="cannot tell a corrected record") as caught:
        logged.mean("temp", over="2h")
    assert "id=" in str(caught.value)
    assert logged.last("temp").kind == "last"
    with pytest.raises(ContractError, match="decimals=13"):
        WEATHER.mean("temp", over="2h", decimals=13)
    with pytest.raises(ContractError, match="need an entity"):
        WEATHER.by()


def test_definitions_say_what_they_are() -> None:
    assert str(WEATHER.last("temp", within="90m")) == "last(temp) of weather by origin within 1h30m"
    assert str(WEATHER.by("origin", "runway").count(over="2h")) == "count() of weather by origin, runway over 2h"
    assert repr(WEATHER) == "<Events weather: by=origin, at=hour, known=hour + 1h>"
    logged = Events(sql="select *\n from weather", of=["weather"], by=["origin"], at="hour", known="known_at")
    assert repr(logged) == "<Events select * from weather: by=origin, at=hour, known=known_at>"
    assert WEATHER.mean("temp", over="2h").round(2).digits == 2


LABEL = Events("weather", by="origin", at="hour", known="1h").mean("late", over="1d")


@pytest.mark.parametrize(
    ("features", "what"),
    [
        ({"late": WEATHER.last("temp")}, "the name of the contract's label"),
        ({"late": lambda temp: temp}, "the name of the contract's label"),
        ({"time": WEATHER.last("temp")}, "the name of the contract's time"),
        ({"id": WEATHER.last("temp")}, "the name of the contract's key"),
        ({"often": LABEL}, "reads the label 'late' 1h after hour, and it is known 6h later"),
        ({"hint": lambda late: late}, "is made of the label 'late'"),
        ({"hint": lambda *late: late}, "takes [*]late"),
        ({"hint": 7}, "is a int"),
        ({"a": lambda b: b, "b": lambda a: a}, "wait for each other"),
    ],
)
def test_definitions_that_would_leak_are_refused(features: Any, what: str) -> None:
    with pytest.raises(ContractError, match=what) as caught:
        judge(features, FLIGHTS)
    assert caught.value.fix
    with pytest.raises(ContractError, match=what):
        made(features)


def test_past_labels_are_features_once_they_are_known() -> None:
    slow = Events("weather", by="origin", at="hour", known="6h")
    told = Events("weather", by="origin", at="hour", known="known_at", id="hour")
    judge({"often": slow.mean("late", over="1d"), "also": told.mean("late", over="1d")}, FLIGHTS)


def test_functions_are_called_with_columns_and_each_other() -> None:
    features: Features = {
        "hot": lambda warm, distance: warm & (distance > 0),
        "warm": lambda temp: temp > 5,
        "temp": WEATHER.last("temp"),
        "twice": lambda temp: [2 * value if value is not None else None for value in temp],
    }
    assert list(functions(features)) == ["warm", "hot", "twice"] or list(functions(features)) == [
        "warm",
        "twice",
        "hot",
    ]
    found = made(features)
    assert found.columns[-4:] == ["hot", "warm", "temp", "twice"]
    assert found["temp"].to_list() == [7.5, None]
    assert found["warm"].to_list() == [True, None]
    assert found["twice"].to_list() == [15.0, None]


def test_functions_that_fail_say_so() -> None:
    with pytest.raises(DataError, match="asks for 'gone', which no row has"):
        made({"f": lambda gone: gone})
    with pytest.raises(DataError, match="ZeroDivisionError"):
        made({"f": lambda distance: 1 // 0})
    with pytest.raises(DataError, match="gave 1 values for 2 rows"):
        made({"f": lambda distance: distance.head(1)})

    def told(distance: pl.Series) -> pl.Series:
        raise DataError("this distance is not known here")

    with pytest.raises(DataError, match="not known here"):
        made({"f": told})


def test_a_column_of_the_rows_is_never_replaced() -> None:
    with pytest.raises(DataError, match="have a column 'temp' already"):
        made({"temp": WEATHER.last("temp")}, temp=pl.lit(1.0))


def test_tables_and_columns_that_are_not_there() -> None:
    with pytest.raises(DataError, match="there is no table 'weather'"):
        made({"temp": WEATHER.last("temp")}, sources={"winds": TABLE})
    with pytest.raises(DataError, match="there is no column 'tmp'"):
        made({"temp": WEATHER.last("tmp")})


def test_sources_may_be_pandas_or_lazy() -> None:
    features: Features = {"temp": WEATHER.last("temp")}
    assert made(features, sources={"weather": TABLE.lazy()}).equals(made(features))
    assert made(features, sources={"weather": TABLE.to_pandas()}).equals(made(features))


def test_a_row_after_now_has_what_is_known_now() -> None:
    """A batch that is predicted a day ahead is predicted with what there is."""
    late = TABLE.with_columns(hour=pl.lit(NOON), temp=pl.lit(9.0))
    asked = rows(origin=["JFK", "JFK"]).drop("temp").with_columns(time=pl.lit(NOON + timedelta(hours=5)))
    features: Features = {"temp": WEATHER.last("temp"), "age": WEATHER.age()}
    sources = {"weather": pl.concat([TABLE, late])}
    found = build(asked, features, sources, contract=FLIGHTS, now=NOON)
    assert found["temp"].to_list() == [7.5, 7.5]
    assert found["age"].to_list() == [7200.0, 7200.0]
    assert build(asked, features, sources, contract=FLIGHTS, now=NOON + timedelta(hours=1))["temp"].to_list() == [
        9.0,
        9.0,
    ]


def test_no_rows_have_their_columns() -> None:
    asked = rows().drop("temp").clear()
    found = build(
        asked,
        {"temp": WEATHER.last("temp"), "n": WEATHER.count(over="2h")},
        {"weather": TABLE},
        contract=FLIGHTS,
        now=NOON,
    )
    assert found.columns[-2:] == ["temp", "n"]
    assert found.height == 0
    assert isinstance(WEATHER.last("temp"), Feature)
