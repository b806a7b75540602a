"""The contract: good rows go on, bad rows are quarantined with a reason, wrong tables and wrong contracts are named."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pandera.pandas
import pandera.polars as pa
import polars as pl
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meguri.base.errors import ContractError
from meguri.data.contract import Contract
from meguri.data.spec import TYPES

NOON = datetime(2013, 4, 1, 12, tzinfo=UTC)


class Flights(pa.DataFrameModel):
    id: int
    time: datetime
    origin: str = pa.Field(isin=["EWR", "JFK", "LGA"], description="the airport it leaves from")
    distance: float = pa.Field(gt=0)
    temp: float = pa.Field(nullable=True, in_range={"min_value": -50, "max_value": 60})
    late: bool

    @pa.check("distance")
    def on_this_planet(cls, data: Any) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key) < 21_000)

    @pa.dataframe_check(error="frost at JFK")
    def warm(cls, data: Any) -> pl.LazyFrame:
        return data.lazyframe.select((pl.col("origin") != "JFK") | (pl.col("temp") > 0))


FLIGHTS = Contract(Flights, key="id", time="time", label="late", label_after="6h")


def rows(**columns: list[Any]) -> pl.DataFrame:
    """Good rows, as many as the columns given here, which replace the good values."""
    count = len(next(iter(columns.values()))) if columns else 2
    good = {
        "id": list(range(count)),
        "time": [NOON] * count,
        "origin": ["EWR"] * count,
        "distance": [100.0] * count,
        "temp": [20.0] * count,
        "late": [False] * count,
    }
    return pl.DataFrame(good | columns, strict=False)


def reasons(checked: Any) -> list[tuple[Any, str]]:
    return list(checked.quarantined.select("id", "reason").iter_rows())


def contract(column: Any, **roles: Any) -> Contract:
    """A contract with one column ``x`` of the given make, and the fewest others."""
    columns = {"id": pa.Column(int), "t": pa.Column(datetime), "x": column}
    return Contract(pa.DataFrameSchema(columns, name="Small"), **{"key": "id", "time": "t", **roles})


def small(x: Any) -> pl.DataFrame:
    series = pl.Series("x", x, strict=False) if not isinstance(x, pl.Series) else x.alias("x")
    return pl.DataFrame({"id": range(len(series)), "t": [NOON] * len(series)}).with_columns(series)


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


# --- wrong contracts


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ({"key": "idd"}, r"key='idd', and Flights has no column(.|\n)*did you mean 'id'"),
        ({"time": "thyme"}, r"time='thyme'(.|\n)*did you mean 'time'"),
        ({"label": "zzz"}, r"label='zzz'(.|\n)*it has id, time"),
        ({"group": "orign"}, r"did you mean 'origin'"),
        ({"features": ["tmp"]}, r"features='tmp'(.|\n)*did you mean 'temp'"),
        ({"key": []}, "needs a key"),
        ({"key": ["id", "id"]}, "key names a column twice"),
        ({"features": ["temp", "temp"]}, "features names a column twice"),
        ({"features": []}, "no feature left"),
        ({"time": "origin"}, "time='origin' is String"),
        ({"key": "temp"}, "key='temp' is a float"),
        ({"label": "id"}, "label='id' has another part"),
        ({"features": ["late"]}, "the label 'late' is among the features"),
        ({"label": "origin", "task": "regression"}, "'origin' is String, and the task is regression"),
    ],
)
def test_a_contract_with_a_wrong_part_is_refused(roles: dict[str, Any], said: str) -> None:
    with pytest.raises(ContractError, match=said) as error:
        Contract(Flights, **{"key": "id", "time": "time", "label": "late", **roles})
    assert error.value.where == "contract Flights"


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.Column(pl.List(pl.Int64)), r"has the type List"),
        (pa.Column(), "has no type"),
        (pa.Column(int, required=False), "nothing says what stands in its place"),
        (pa.Column(int, default=pl.lit(1)), "is no plain value"),
        (pa.Column(int, pa.Check.isin(["a"])), r"isin\(\['a'\]\) cannot be asked of 'x', which is Int64"),
        (pa.Column(str, pa.Check.str_matches("(?=a)")), "cannot be asked"),
        (pa.Column(int, pa.Check.ge("a")), "cannot be asked"),
        (pa.Column(int, pa.Check.ge(0, raise_warning=True)), "only warns"),
        (pa.Column(int, regex=True), "is a pattern"),
    ],
)
def test_what_has_no_meaning_in_a_contract_is_refused(column: Any, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        contract(column)


def test_a_default_for_a_label_and_a_column_named_reason_are_refused() -> None:
    with pytest.raises(ContractError, match="the label 'x' has a default"):
        contract(pa.Column(int, default=0), label="x", features=["id"])
    schema = pa.DataFrameSchema({"id": pa.Column(int), "t": pa.Column(datetime), "reason": pa.Column(str)})
    with pytest.raises(ContractError, match="quarantine writes"):
        Contract(schema, key="id", time="t")


@pytest.mark.parametrize("model", [None, pandera.pandas.DataFrameSchema({}), {"id": int}])
def test_another_kind_of_model_is_refused(model: Any) -> None:
    with pytest.raises(ContractError, match="needs a pandera model for polars"):
        Contract(model, key="id", time="t")


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


# --- as plain data


def test_a_contract_survives_json_without_its_own_functions() -> None:
    spec = json.loads(json.dumps(FLIGHTS.to_spec()))
    again = Contract.from_spec(spec)
    assert again.to_spec() == {**FLIGHTS.to_spec(), "custom": []}
    assert again.fields == FLIGHTS.fields
    assert (again.key, again.time, again.label, again.label_after) == (("id",), "time", "late", timedelta(hours=6))
    assert spec["custom"] == ["distance: on_this_planet", "frost at JFK"]
    assert repr(again) == "<Contract Flights: key=id, time=time, label=late after 6h, 3 features>"


def test_fields_say_what_a_rest_schema_needs() -> None:
    origin = FLIGHTS.fields[2]
    assert (origin.name, origin.type, origin.nullable, origin.required) == ("origin", "String", False, True)
    assert origin.checks[0].args == {"allowed_values": ["EWR", "JFK", "LGA"]}
    assert origin.description == "the airport it leaves from"


def test_a_contract_from_its_spec_needs_no_pandera() -> None:
    code = """
import json, sys
from datetime import UTC, datetime
import polars as pl
from meguri.data.contract import Contract
contract = Contract.from_spec(json.load(sys.stdin))
row = {"id": [1, 2], "time": [datetime(2013, 1, 1, tzinfo=UTC)] * 2, "origin": ["JFK", "?"],
       "distance": [1, 2], "temp": [None, 1.0]}
checked = contract.check(pl.DataFrame(row), labelled=False)
assert (checked.rows.height, checked.quarantined.height) == (1, 1)
print([name for name in ("pandera", "pandas", "pyarrow") if name in sys.modules])
"""
    spec = json.dumps(FLIGHTS.to_spec())
    done = subprocess.run([sys.executable, "-c", code], input=spec, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"fields": [{}]},
        {"time": "gone"},
        {"label_after": "soon"},
        {"fields": None},
        {"fields": [{"name": "x", "type": "Complex", "checks": []}]},
    ],
)
def test_a_damaged_spec_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ContractError):
        Contract.from_spec({**FLIGHTS.to_spec(), **change})


# --- against pandera itself

NUMBERS = st.integers(-3, 3)
WORDS = st.text("ab", max_size=3)
DAYS = st.dates(date(2013, 1, 1), date(2013, 1, 5))
MOMENTS = st.datetimes(datetime(2013, 1, 1), datetime(2013, 1, 3))


def bounds(values: st.SearchStrategy[Any]) -> st.SearchStrategy[pa.Check]:
    one = [values.map(make) for make in (pa.Check.ge, pa.Check.gt, pa.Check.le, pa.Check.lt, pa.Check.eq, pa.Check.ne)]
    lists = st.lists(values, min_size=1, max_size=3)
    between = st.builds(
        lambda ends, low, high: pa.Check.in_range(min(ends), max(ends), include_min=low, include_max=high),
        st.tuples(values, values).filter(lambda ends: ends[0] != ends[1]),
        st.booleans(),
        st.booleans(),
    )
    return st.one_of(*one, lists.map(pa.Check.isin), lists.map(pa.Check.notin), between)


TEXT_CHECKS = st.one_of(
    st.sampled_from(["a", "^b", "[ab]b", "a$"]).map(pa.Check.str_matches),
    st.sampled_from(["a", "bb", "^a"]).map(pa.Check.str_contains),
    WORDS.map(pa.Check.str_startswith),
    WORDS.map(pa.Check.str_endswith),
    st.builds(lambda low, more: pa.Check.str_length(low, low + more), st.integers(0, 2), st.integers(0, 2)),
    st.integers(0, 3).map(lambda size: pa.Check.str_length(max_value=size)),
    st.integers(0, 3).map(lambda size: pa.Check.str_length(exact_value=size)),
)
COLUMNS = st.one_of(
    st.tuples(st.sampled_from([pl.Int64, pl.Int16, pl.Int8]), st.lists(bounds(NUMBERS), max_size=3), st.just(NUMBERS)),
    st.tuples(
        st.sampled_from([pl.Float64, pl.Float32]),
        st.lists(bounds(NUMBERS.map(float)), max_size=3),
        st.just(st.one_of(NUMBERS.map(float), st.floats(-3, 3, width=32))),
    ),
    st.tuples(st.just(pl.String), st.lists(st.one_of(bounds(WORDS), TEXT_CHECKS), max_size=3), st.just(WORDS)),
    st.tuples(st.just(pl.Boolean), st.lists(st.booleans().map(pa.Check.eq), max_size=1), st.just(st.booleans())),
    st.tuples(st.just(pl.Date), st.lists(bounds(DAYS), max_size=2), st.just(DAYS)),
    st.tuples(st.just(pl.Datetime("us")), st.lists(bounds(MOMENTS), max_size=2), st.just(MOMENTS)),
)


def by_pandera(schema: pa.DataFrameSchema, table: pl.DataFrame) -> list[int]:
    """The ids of the rows that pandera itself finds good."""
    try:
        schema.validate(table, lazy=True)
    except pa.errors.SchemaErrors as errors:
        masks = [error.check_output["check_output"] for error in errors.schema_errors]
        return table.filter(pl.all_horizontal(masks))["id"].to_list()
    return table["id"].to_list()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_pandera_and_the_contract_and_its_spec_find_the_same_rows_good(data: st.DataObject) -> None:
    kind, checks, values = data.draw(COLUMNS)
    nullable, unique = data.draw(st.booleans()), data.draw(st.booleans())
    found = data.draw(st.lists(st.none() | values, min_size=1, max_size=12))
    columns = {
        "id": pa.Column(int),
        "t": pa.Column(datetime),
        "x": pa.Column(kind, checks, nullable=nullable, unique=unique),
    }
    schema = pa.DataFrameSchema(columns)
    made = Contract(schema, key="id", time="t")
    table = pl.DataFrame({"id": range(len(found)), "t": [NOON.replace(tzinfo=None)] * len(found)})
    table = table.with_columns(pl.Series("x", found, dtype=kind))
    spec = json.loads(json.dumps(made.to_spec()))
    assert spec["custom"] == []
    expected = by_pandera(schema, table)
    for door in (made, Contract.from_spec(spec)):
        checked = door.check(table)
        assert checked.rows["id"].to_list() == expected
        assert sorted([*checked.rows["id"], *checked.quarantined["id"]]) == table["id"].to_list()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=12), st.randoms())
def test_keys_of_good_rows_are_unique_and_nothing_is_lost_whatever_the_order(keys: list[Any], random: Any) -> None:
    made = contract(pa.Column(int), key="id")
    random.shuffle(keys)
    table = pl.DataFrame(keys, schema=["id", "x"], orient="row").with_columns(t=pl.lit(NOON))
    checked = made.check(table)
    assert checked.rows["id"].is_unique().all()
    assert checked.rows.height + checked.quarantined.height == table.height
    agreed = {key for key, _ in keys if len({x for other, x in keys if other == key}) == 1}
    assert set(checked.rows["id"]) == agreed


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
