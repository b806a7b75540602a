"""Contracts as they are defined and kept: wrong ones are refused, good ones survive as JSON, and pandera agrees with them."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date, datetime, timedelta
from typing import Any

import pandera.pandas
import pandera.polars as pa
import polars as pl
import pytest
from data.contracts import FLIGHTS, NOON, Flights, contract
from hypothesis import given, settings
from hypothesis import strategies as st

from meguri.base.errors import ContractError
from meguri.data.contract import Contract

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
