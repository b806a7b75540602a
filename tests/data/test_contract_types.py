"""The contract's types: casts that change no value are made, any other is named."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest
from data.contracts import contract, reasons, small

from meguri.base.errors import ContractError
from meguri.data.contract import Contract
from meguri.data.spec_polars import TYPES

# --- types


@pytest.mark.parametrize(
    ("kind", "found", "kept"),
    [
        (float, [1, 2], [1.0, 2.0]),
        (int, [1.0, float("nan")], [1, None]),
        (pl.Int8, [1, 2], [1, 2]),
        (bool, [1, 0], [True, False]),
        (int, [True, False], [1, 0]),
        (pl.Float32, [0.5, 1.5], [0.5, 1.5]),
        (float, pl.Series(["1.50", "2.25"]).cast(pl.Decimal(5, 2)), [1.5, 2.25]),
        (str, [None, None], [None, None]),
        (str, pl.Series(["a", "b"], dtype=pl.Categorical), ["a", "b"]),
        (str, pl.Series(["a", "b"], dtype=pl.Enum(["a", "b"])), ["a", "b"]),
        (datetime, [date(2013, 1, 1)], [datetime(2013, 1, 1, tzinfo=UTC)]),
        (datetime, [datetime(2013, 1, 1, 6)], [datetime(2013, 1, 1, 6, tzinfo=UTC)]),
        (date, [datetime(2013, 1, 1)], [date(2013, 1, 1)]),
        (pl.Datetime("us", "Asia/Tokyo"), [datetime(2013, 1, 1, tzinfo=UTC)], [datetime(2013, 1, 1, tzinfo=UTC)]),
    ],
)
def test_casts_that_change_no_value_are_made(kind: Any, found: Any, kept: list[Any]) -> None:
    checked = contract(pa.Column(kind, nullable=True)).check(small(found))
    assert checked.rows["x"].to_list() == kept
    assert checked.quarantined.is_empty()


def test_a_time_in_another_zone_is_the_same_moment_in_utc() -> None:
    tokyo = pl.Series([datetime(2013, 4, 1, 9)]).dt.replace_time_zone("Asia/Tokyo")
    assert contract(pa.Column(datetime)).check(small(tokyo)).rows["x"].to_list() == [datetime(2013, 4, 1, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("kind", "found", "said"),
    [
        (float, ["12,5"], r"'x': expected Float64, found String, such as '12,5'"),
        (int, [1.0, 1.5], r"expected Int64, found Float64 with values that would change, such as 1.5"),
        (pl.Int8, [1000], r"would change, such as 1000"),
        (bool, [2], r"would change, such as 2"),
        (float, [2**53 + 1], r"would change, such as 9007199254740993"),
        (date, [datetime(2013, 1, 1, 6)], r"expected Date, found Datetime"),
        (str, [1], r"expected String, found Int64"),
        (int, [[1]], r"expected Int64, found List"),
        (datetime, ["2013-01-01"], r"expected Datetime, found String"),
    ],
)
def test_a_retyped_column_is_an_error_with_an_example(kind: Any, found: Any, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        contract(pa.Column(kind)).check(small(found))


@pytest.mark.parametrize(
    ("kind", "found", "kept", "reason"),
    [
        (int, ["1", "two"], [1], "x: cannot be read as Int64"),
        (float, ["1.5", "-"], [1.5], "x: cannot be read as Float64"),
        (int, [1.0, 1.5], [1], "x: cannot be read as Int64"),
        (str, [1, 2], ["1", "2"], None),
        (
            datetime,
            ["2013-01-01T00:00:00", "soon"],
            [datetime(2013, 1, 1, tzinfo=UTC)],
            "x: cannot be read as Datetime",
        ),
        (date, ["2013-01-01", "soon"], [date(2013, 1, 1)], "x: cannot be read as Date"),
    ],
)
def test_coerce_reads_row_by_row(kind: Any, found: Any, kept: list[Any], reason: str | None) -> None:
    checked = contract(pa.Column(kind, coerce=True, nullable=True)).check(small(found))
    assert checked.rows["x"].to_list() == kept
    assert checked.quarantined["reason"].to_list() == ([reason] if reason else [])
    if reason:
        assert checked.quarantined["x"].to_list() == found[1:]


def test_coerce_has_limits() -> None:
    with pytest.raises(ContractError, match="expected Boolean, found String"):
        contract(pa.Column(bool, coerce=True)).check(small(["true"]))


def test_categories_become_text_and_a_closed_list_a_check() -> None:
    made = contract(pa.Column(pl.Enum(["a", "b"])))
    checked = made.check(small(["a", "c"]))
    assert checked.rows["x"].to_list() == ["a"]
    assert checked.quarantined["reason"].item() == "x: isin(['a', 'b'])"
    assert contract(pa.Column(pl.Categorical)).types["x"] == pl.String


def test_a_date_may_be_the_time() -> None:
    schema = pa.DataFrameSchema({"id": pa.Column(int), "t": pa.Column(date), "x": pa.Column(int)})
    checked = Contract(schema, key="id", time="t").check(small([1]).with_columns(t=date(2013, 4, 1)))
    assert checked.rows["t"].item() == datetime(2013, 4, 1, tzinfo=UTC)


def test_checks_of_the_users_own_see_the_types_that_the_model_declares() -> None:
    def early(data: Any) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key) < datetime(2014, 1, 1))

    def tokyo(data: Any) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key).dt.hour() == 9)

    def listed(data: Any) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key).to_physical() == 0)

    naive = contract(pa.Column(datetime, pa.Check(early, name="early")))
    times = [datetime(2013, 1, 1), datetime(2015, 1, 1)]
    assert naive.check(small(times)).quarantined["reason"].to_list() == ["x: early"]
    zoned = contract(pa.Column(pl.Datetime("ns", "Asia/Tokyo"), pa.Check(tokyo)))
    assert zoned.check(small([datetime(2013, 1, 1)])).quarantined.is_empty()
    first = contract(pa.Column(pl.Enum(["a", "b"]), pa.Check(listed, name="first")))
    assert reasons(first.check(small(["a", "b", "?"]))) == [(1, "x: first"), (2, "x: isin(['a', 'b'])")]


@pytest.mark.parametrize("name", list(TYPES))
def test_every_type_has_a_contract(name: str) -> None:
    made = contract(pa.Column(TYPES[name], nullable=True))
    assert made.check(small([None])).rows.schema["x"] == TYPES[name]


def test_numbers_of_other_libraries_and_patterns_in_checks_are_plain() -> None:
    import re

    import numpy as np

    made = contract(pa.Column(int, [pa.Check.ge(np.int64(1)), pa.Check.isin({3, 1, 2})]))
    assert made.fields[2].checks[0].args == {"min_value": 1}
    assert made.fields[2].checks[1].args == {"allowed_values": [1, 2, 3]}
    assert contract(pa.Column(str, pa.Check.str_matches(re.compile("a")))).fields[2].checks[0].args == {"pattern": "a"}
    flagged = contract(pa.Column(str, pa.Check.str_matches(re.compile("a", re.I))))
    assert flagged.fields[2].checks == ()
    assert len(flagged.to_spec()["custom"]) == 1
