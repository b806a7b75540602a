"""The contract: good rows go on, bad rows are quarantined with a reason, wrong tables are named."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pandera.polars as pa
import polars as pl
import pyarrow
import pytest
from data.contracts import FLIGHTS, NOON, contract, reasons, rows, small
from hypothesis import given
from hypothesis import strategies as st

from meguri.base.errors import ContractError
from meguri.data.contract import Contract

# --- good rows


@pytest.mark.parametrize("kind", ["polars", "pandas", "arrow"])
def test_good_rows_pass_in_the_types_of_the_contract(kind: str) -> None:
    table = rows(extra=["x", "y"])
    given_table = {"polars": table, "pandas": table.to_pandas(), "arrow": table.to_arrow()}[kind]
    checked = FLIGHTS.check(given_table)
    assert dict(checked.rows.schema) == FLIGHTS.types
    assert checked.rows.height == 2
    assert checked.quarantined.is_empty()
    assert checked.quarantined.columns == [*FLIGHTS.types, "reason"]


def test_unlabelled_rows_need_no_label_and_lose_it() -> None:
    assert FLIGHTS.check(rows().drop("late"), labelled=False).rows.columns == list(FLIGHTS.types)[:-1]
    assert "late" not in FLIGHTS.check(rows(), labelled=False).rows.columns


def test_a_row_that_awaits_its_label_is_good() -> None:
    assert FLIGHTS.check(rows(late=[None, True])).rows["late"].to_list() == [None, True]


def test_a_table_is_not_changed_by_a_check() -> None:
    table = rows(temp=[float("nan"), 1.0])
    before = table.clone()
    FLIGHTS.check(table)
    assert table.equals(before)


# --- bad rows


def test_each_bad_row_has_all_its_reasons() -> None:
    table = rows(
        id=[1, 2, 3, 4, 5, 6, 7, None],
        origin=["XXX", None, "EWR", "EWR", "EWR", "JFK", "EWR", "LGA"],
        distance=[0.0, 1.0, None, float("inf"), 30_000.0, 1.0, float("nan"), 1.0],
        temp=[99.0, 1.0, 1.0, None, 1.0, -5.0, float("nan"), 1.0],
    )
    checked = FLIGHTS.check(table)
    assert reasons(checked) == [
        (1, "origin: isin(['EWR', 'JFK', 'LGA']); distance: gt(0); temp: in_range(-50, 60)"),
        (2, "origin: null"),
        (3, "distance: null"),
        (4, "distance: infinite; distance: on_this_planet"),
        (5, "distance: on_this_planet"),
        (6, "frost at JFK"),
        (7, "distance: null"),
        (None, "id: null"),
    ]
    assert checked.rows.is_empty()


def test_quarantined_rows_stay_as_they_came() -> None:
    found = FLIGHTS.check(rows(origin=["XXX"], time=[date(2013, 4, 1)])).quarantined
    assert found.select("origin", "time").row(0) == ("XXX", date(2013, 4, 1))


def test_the_same_row_again_stays_once_and_a_contested_key_not_at_all() -> None:
    table = rows(id=[1, 1, 2, 2, 3, 4, 4, 4], distance=[1.0, 1.0, 2.0, 9.0, 3.0, 4.0, 4.0, 5.0])
    checked = FLIGHTS.check(table)
    assert checked.rows["id"].to_list() == [1, 3]
    assert reasons(checked) == [
        (1, "duplicated key (the same row again)"),
        *[(key, "duplicated key") for key in (2, 2, 4, 4, 4)],
    ]


def test_nulls_in_a_key_are_not_held_to_be_the_same() -> None:
    assert reasons(FLIGHTS.check(rows(id=[None, None, 1]))) == [(None, "id: null")] * 2


def test_a_label_from_the_future_is_quarantined() -> None:
    table = rows(time=[NOON, NOON + timedelta(hours=1), NOON + timedelta(hours=1)], late=[True, True, None])
    checked = FLIGHTS.check(table, now=NOON)
    assert reasons(checked) == [(1, "late: label from the future")]
    assert FLIGHTS.check(table).quarantined.is_empty()
    assert FLIGHTS.check(table, now=NOON, labelled=False).quarantined.is_empty()


def test_unique_columns_and_groups_of_columns() -> None:
    columns = {"id": pa.Column(int), "t": pa.Column(datetime), "a": pa.Column(str, unique=True), "b": pa.Column(int)}
    schema = pa.DataFrameSchema(columns, unique=["t", "b"])
    table = pl.DataFrame({"id": [1, 2, 3, 4, 4], "t": [NOON] * 5, "a": ["x", "x", "y", "z", "z"], "b": [1, 2, 2, 3, 3]})
    checked = Contract(schema, key="id", time="t").check(table)
    assert reasons(checked) == [
        (1, "a: not unique"),
        (2, "a: not unique; t, b: not unique"),
        (3, "t, b: not unique"),
        (4, "duplicated key (the same row again)"),
    ]
    assert checked.rows["id"].to_list() == [4]


def test_several_groups_of_unique_columns() -> None:
    columns = {name: pa.Column(int) for name in ("id", "a", "b")} | {"t": pa.Column(datetime)}
    schema = pa.DataFrameSchema(columns, unique=["id"])
    assert (
        Contract(schema, key="id", time="t").check(small([1, 2]).rename({"x": "a"}).with_columns(b=1)).rows.height == 2
    )


def test_a_binary_label_of_numbers_is_zero_or_one() -> None:
    made = contract(pa.Column(float), label="x", features=["id"])
    assert made.check(small([0.0, 1.0, 2.0, None, float("nan")])).quarantined["reason"].to_list() == ["x: isin([0, 1])"]
    own = contract(pa.Column(int, pa.Check.isin([1, 2])), label="x", features=["id"])
    assert own.check(small([1, 2])).quarantined.is_empty()


def test_reasons_are_worded_for_a_person() -> None:
    many = contract(pa.Column(int, pa.Check.isin(range(20))))
    assert many.check(small([99])).quarantined["reason"].item() == "x: isin([0, 1, 2, 3, 4, 5, 6, 7, … 12 more])"
    named = contract(pa.Column(int, pa.Check.ge(0, error="a fare; below zero")))
    assert named.check(small([-1])).quarantined["reason"].item() == "x: a fare, below zero"
    length = contract(pa.Column(str, pa.Check.str_length(2, 3)))
    assert length.check(small(["a"])).quarantined["reason"].item() == "x: str_length(min_value=2, max_value=3)"
    half = contract(pa.Column(float, pa.Check.in_range(0, 1, include_max=False)))
    assert half.check(small([1.0])).quarantined["reason"].item() == "x: in_range(0, 1, include_max=False)"


# --- columns that may be missing


def test_defaults_stand_in_for_nulls_and_for_a_missing_column() -> None:
    made = contract(pa.Column(int, pa.Check.ge(0), default=7, required=False))
    assert made.check(small([1, None])).rows["x"].to_list() == [1, 7]
    assert made.check(small([1, 2]).drop("x")).rows["x"].to_list() == [7, 7]
    moment = contract(pa.Column(datetime, default=datetime(2013, 1, 1)))
    assert moment.check(small([None, NOON])).rows["x"][0] == datetime(2013, 1, 1, tzinfo=UTC)


def test_an_optional_column_that_may_be_null_is_filled_with_nulls() -> None:
    checked = contract(pa.Column(str, required=False, nullable=True)).check(small([1]).drop("x"))
    assert checked.rows.schema["x"] == pl.String
    assert checked.quarantined.columns == ["id", "t", "reason"]


# --- wrong tables


def test_all_that_is_wrong_with_the_columns_is_said_at_once() -> None:
    with pytest.raises(ContractError) as error:
        FLIGHTS.check(rows(temp=["cold", "warm"]).rename({"distance": "distances"}).drop("late"))
    text = str(error.value)
    assert "breaks the contract Flights: 3 columns are wrong" in text
    assert "'distance' is gone; was it renamed to 'distances'?" in text
    assert "'temp': expected Float64, found String, such as 'cold'" in text
    assert "'late' is gone\n" in text
    assert "schema.py" in text


@pytest.mark.parametrize("table", [rows().clear(), pd.DataFrame(), rows().clear().to_pandas(), pyarrow.table({})])
def test_an_empty_table_is_an_error(table: Any) -> None:
    with pytest.raises(ContractError, match="the table has no rows"):
        FLIGHTS.check(table)


def test_a_strict_contract_takes_no_other_column() -> None:
    schema = pa.DataFrameSchema({"id": pa.Column(int), "t": pa.Column(datetime), "x": pa.Column(int)}, strict=True)
    with pytest.raises(ContractError, match="'y': not in the contract, which is strict"):
        Contract(schema, key="id", time="t").check(small([1]).with_columns(y=1))


def test_a_check_of_the_whole_table_is_an_error_of_the_table() -> None:
    def busy(data: Any) -> bool:
        return bool(data.lazyframe.collect().height > 2)

    made = contract(pa.Column(int, pa.Check(busy, error="at least three rows")))
    with pytest.raises(ContractError, match="all its rows: 'x: at least three rows'"):
        made.check(small([1, 2]))
    assert made.check(small([1, 2, 3])).rows.height == 3
    listed = contract(pa.Column(int, pa.Check.unique_values_eq([1, 2])))
    with pytest.raises(ContractError, match="unique_values_eq"):
        listed.check(small([1, 1]))


def test_a_check_that_fails_to_run_is_named() -> None:
    def broken(data: Any) -> pl.LazyFrame:
        raise RuntimeError

    with pytest.raises(ContractError, match="'x: broken' could not be asked: RuntimeError"):
        contract(pa.Column(int, pa.Check(broken, name="broken"))).check(small([1]))


def test_checks_of_the_whole_table_may_name_a_label_that_is_left_out() -> None:
    def right(data: Any) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col("x") < pl.col("id") + 10)

    def odd(data: Any) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key) % 2 == 1)

    columns = {"id": pa.Column(int), "t": pa.Column(datetime), "x": pa.Column(int, pa.Check(odd, name="odd"))}
    schema = pa.DataFrameSchema(columns, checks=pa.Check(right, name="right"))
    made = Contract(schema, key="id", time="t", label="x", features=["id"], task="regression")
    assert made.check(small([1, 2]).drop("x"), labelled=False).rows.height == 2
    assert made.check(small([50, 1])).quarantined["reason"].to_list() == ["x: odd; right"]


def test_a_check_of_single_values() -> None:
    made = contract(pa.Column(int, pa.Check(lambda value: value % 2 == 0, element_wise=True, name="even")))
    assert made.check(small([2, 4])).rows.height == 2
    assert made.to_spec()["custom"] == ["x: even"]


# --- keys


def test_the_key_as_text() -> None:
    schema = pa.DataFrameSchema(
        {"a": pa.Column(str), "n": pa.Column(int), "t": pa.Column(datetime), "x": pa.Column(int, nullable=True)}
    )
    table = pl.DataFrame(
        {"a": ["x|y", "x", "\\|"], "n": [1, 2, 3], "t": [NOON, NOON + timedelta(microseconds=5), NOON]}
    )
    checked = Contract(schema, key=["a", "n", "t"], time="t").check(table.with_columns(x=1)).rows
    assert Contract(schema, key=["a", "n", "t"], time="t").key_of(checked).to_list() == [
        "x\\|y|1|2013-04-01T12:00:00Z",
        "x|2|2013-04-01T12:00:00.000005Z",
        "\\\\\\||3|2013-04-01T12:00:00Z",
    ]
    assert Contract(schema, key="a", time="t").key_of(checked).to_list() == ["x|y", "x", "\\|"]


@given(st.lists(st.tuples(st.text("a|\\", max_size=4), st.text("a|\\", max_size=4)), min_size=1, unique=True))
def test_no_two_keys_have_one_text(keys: list[tuple[str, str]]) -> None:
    schema = pa.DataFrameSchema(
        {"a": pa.Column(str), "b": pa.Column(str), "t": pa.Column(datetime), "x": pa.Column(int)}
    )
    table = pl.DataFrame(keys, schema=["a", "b"], orient="row")
    assert Contract(schema, key=["a", "b"], time="t").key_of(table).n_unique() == len(keys)
