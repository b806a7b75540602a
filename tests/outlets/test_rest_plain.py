"""The check of single values says what the contract says of a table: the same values, the same faults, in the same words."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meguri.base.errors import ContractError
from meguri.data import plain, reasons, spec_polars
from meguri.data.contract import Contract
from meguri.data.spec import KINDS, RULES, Field, Rule
from meguri.outlets.rest.faults import BadRowsError, Judge

NOW = datetime(2024, 3, 1, 12, tzinfo=UTC)
WHOLE = [kind for kind in KINDS if "Int" in kind]
DAYS, MOMENTS = ["2024-02-29", "2024-03-01"], ["2024-02-29T00:00:00Z", "2024-03-01T09:00:00.25+09:00", "2024-03-01"]
TEXTS = [
    "",
    "a",
    "ab",
    "AB",
    "b\n",
    "日本",
    "7",
    "+7",
    "007",
    "7.5",
    "-1e-5",
    "1e400",
    "inf",
    "-NaN",
    "x",
    "300",
    " 7",
    "٣",
]
PATTERNS = ["a", "^[A-Z]{2}$", r"^\w+$", "b$", r"\d", "^$", "^[^0-9]*$"]
numbers = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, -0.25, 100, 127, 0.1]))


def natural(kind: str) -> st.SearchStrategy[Any]:
    """JSON values that a column of the kind can read, and a few next to its bounds."""
    if kind in WHOLE:
        low, high = plain.bounds(kind)
        small = st.integers(max(low, -3), 3)
        return st.one_of(small, small.map(float), st.sampled_from([low, high] if high < 2**63 else [0, 5]))
    return {
        "Boolean": st.one_of(st.booleans(), st.sampled_from([0, 1, 1.0])),
        "Float32": st.one_of(numbers, st.sampled_from([1e39, 0.30000001, 16777217])),
        "Float64": st.one_of(numbers, st.sampled_from([math.inf, -0.0, 2**60])),
        "String": st.sampled_from(TEXTS),
        "Date": st.sampled_from(DAYS),
        "Datetime": st.sampled_from(MOMENTS),
    }[kind]


def bounds(kind: str) -> st.SearchStrategy[Any]:
    if kind in WHOLE:
        return st.one_of(st.integers(0, 3), st.sampled_from([0.5, 2.0]))
    few = {"Boolean": st.booleans(), "String": st.sampled_from(TEXTS), "Date": st.sampled_from(DAYS), "Datetime": st.sampled_from(MOMENTS)}  # fmt: skip
    return few.get(kind, numbers)


@st.composite
def rules(draw: st.DrawFn, kind: str) -> Rule:
    text = ["str_matches", "str_contains", "str_startswith", "str_endswith", "str_length"] if kind == "String" else []
    name = draw(st.sampled_from(["ge", "gt", "le", "lt", "eq", "ne", "in_range", "isin", "notin", *text]))
    one = bounds(kind) if kind not in WHOLE or name not in ("isin", "notin") else st.integers(0, 3)
    if name in ("isin", "notin"):
        word = "allowed_values" if name == "isin" else "forbidden_values"
        return Rule(name, {word: draw(st.lists(one, min_size=1, max_size=3))})
    if name == "in_range":
        low, high = sorted(draw(st.lists(st.integers(0, 3), min_size=2, max_size=2))) if "Int" in kind or "Float" in kind else sorted(draw(st.lists(one, min_size=2, max_size=2)))  # fmt: skip
        return Rule(name, {"min_value": low, "max_value": high, "include_min": draw(st.booleans())})
    if name in ("str_matches", "str_contains"):
        return Rule(name, {"pattern": draw(st.sampled_from(PATTERNS))})
    if name in ("str_startswith", "str_endswith"):
        return Rule(name, {"string": draw(st.sampled_from(["", "a", "b", "日"]))})
    if name == "str_length":
        return Rule(name, draw(st.sampled_from([{"min_value": 1}, {"max_value": 2}, {"exact_value": 2}])))
    word = "value" if name in ("eq", "ne") else "min_value" if name[0] == "g" else "max_value"
    return Rule(name, {word: draw(one)})


@st.composite
def fields(draw: st.DrawFn, name: str, kinds: list[str]) -> Field:
    kind = draw(st.sampled_from(kinds))
    default = draw(st.none() | bounds(kind)) if kind not in WHOLE else draw(st.none() | st.integers(0, 3))
    nullable = draw(st.booleans())
    return Field(
        name,
        kind,
        nullable=nullable,
        required=draw(st.booleans()) or not (nullable or default is not None),
        unique=draw(st.booleans()),
        coerce=draw(st.booleans()) and kind not in ("Boolean", "Date", "Datetime"),
        default=default,
        checks=tuple(draw(st.lists(rules(kind), max_size=3))),
    )


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    key = draw(fields("id", ["String", "Int8", "UInt64", "Boolean", "Date", "Datetime"]))
    more = [draw(fields(name, list(KINDS))) for name in ("x", "y")]
    keys = draw(st.sampled_from([["id"], ["id", "x"]])) if not more[0].is_float else ["id"]
    made = [key, Field("at", "Datetime", nullable=True), *more, Field("z", "Int64", nullable=True, required=False)]
    spec = {
        "format": 1, "name": "Made", "key": keys, "time": "at", "label": None, "label_after": "0s", "group": None, "task": "binary",
        "features": ["y", "z"], "strict": draw(st.booleans()), "unique": draw(st.sampled_from([[], [["x", "y"]]])),
        "fields": [field.to_dict() for field in made], "custom": [],
    }  # fmt: skip
    found = Contract.from_spec(json.loads(json.dumps(spec)))
    for field in found.fields:
        spec_polars.prove(field)
    return found


def series(field: Field, values: list[Any]) -> pl.Series:
    """A column as a table would hold what JSON says."""
    if field.type in ("Date", "Datetime"):
        read = plain.Column(field).read
        return pl.Series(field.name, [None if v is None else read(v) for v in values], dtype=field.dtype)
    if field.is_float:
        values = [v if v is None or isinstance(v, str) else float(v) for v in values]
    elif field.type in WHOLE and not any(isinstance(v, str) for v in values):
        values = [None if v is None else int(v) for v in values]  # one float would make floats of them all
    if len({type(value) for value in values if value is not None}) > 1:
        values = [None if value is None else float(value) for value in values]
    return pl.Series(field.name, values)


def by_frames(contract: Contract, rows: list[dict[str, Any]]) -> Any:
    table = pl.DataFrame(
        [
            series(field, [row.get(field.name) for row in rows])
            for field in contract.fields
            if field.required or any(field.name in row for row in rows)
        ]
    )
    table = table.with_columns(pl.col("at").fill_null(NOW))
    checked = contract.check(table, labelled=False)
    found, masks, _ = contract.faults(table, now=None, labelled=False)
    masks |= reasons.key_masks(found, contract.key)
    masks |= reasons.unique_masks(found, contract.groups(labelled=False), masks.get(plain.REPEAT))
    told = [(place, why) for place in range(len(rows)) for why, mask in masks.items() if mask[place]]
    assert len({place for place, _ in told}) == checked.quarantined.height
    return told or (
        {name: checked.rows[name].to_list() for name in contract.kinds},
        contract.key_of(checked.rows).to_list(),
    )


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_contract_and_the_plain_check_say_the_same(data: st.DataObject) -> None:
    contract = data.draw(contracts())
    columns: dict[str, st.SearchStrategy[Any]] = {"at": st.none()}
    for field in contract.fields:
        if field.name != "at":
            text = field.coerce and data.draw(st.booleans())
            other = st.integers(-3, 3) if field.type == "String" else st.sampled_from(TEXTS)
            values = (other if text else natural(field.type)) | st.none()
            columns[field.name] = data.draw(st.sampled_from([values, st.just(data.draw(values))]))
    rows = data.draw(st.lists(st.fixed_dictionaries(columns), min_size=1, max_size=5))
    for field in contract.fields:  # what need not be there is there in none of the rows, or in some
        if not field.required or field.nullable:
            for row in rows:
                if row[field.name] is None and data.draw(st.booleans()):
                    del row[field.name]
    expected = by_frames(contract, rows)
    judge = Judge(contract)
    try:
        values = judge.values(rows, one=False, now=NOW)
    except BadRowsError as error:
        told = [(int(fault.pointer.split("/")[1]), fault.what) for fault in error.faults]
        assert told == expected
    else:
        assert isinstance(expected, tuple), expected
        assert values == expected[0]
        assert [list(map(type, column)) for column in values.values()] == [list(map(type, column)) for column in expected[0].values()]  # fmt: skip
        from meguri.outlets.rest.rows import _key

        keys = zip(*(values[name] for name in contract.key), strict=True)
        assert [_key(key[0] if len(key) == 1 else key) for key in keys] == expected[1]


@given(st.one_of(st.floats(allow_nan=False), st.integers(-(2**63), 2**63 - 1), st.booleans()))
def test_numbers_are_spelled_as_polars_casts_them(value: float | bool) -> None:
    assert plain.spelled(value) == pl.Series([value]).cast(pl.String)[0]


def test_every_check_has_its_two_forms() -> None:
    assert set(spec_polars.CHECKS) == set(RULES)
    for name in RULES:
        args = {"isin": {"allowed_values": ["a"]}, "notin": {"forbidden_values": ["a"]}, "in_range": {"min_value": "a", "max_value": "b"}}  # fmt: skip
        text = {"pattern": "a"} if name in ("str_matches", "str_contains") else {"string": "a"}
        given = args.get(name, text if name.startswith("str_") else {"value": "a"})
        given = {"exact_value": 1} if name == "str_length" else given
        assert len(plain.Column(Field("x", "String", checks=(Rule(name, given),))).checks) == 1


def test_a_pattern_that_cannot_be_read_is_refused() -> None:
    field = Field("x", "String", checks=(Rule("str_matches", {"pattern": "(?=a)b"}),))
    with pytest.raises(ContractError, match="look-around"):
        plain.Column(field)


def test_days_are_compared_with_days() -> None:
    column = plain.Column(Field("x", "Date", checks=(Rule("ge", {"min_value": "2024-03-01"}),)))
    assert column.faults(date(2024, 2, 29)) == ["x: ge('2024-03-01')"]
    assert column.faults(date(2024, 3, 1)) == []
