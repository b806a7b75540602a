"""A request's rows: the quick way takes nothing that the contract would not, and gives the same values."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meguri.base.clock import micros
from meguri.data.contract import Contract
from meguri.outlets.rest.faults import BadRowsError
from meguri.outlets.rest.rows import Reader, Rows

NOW = datetime(2024, 3, 1, 12, tzinfo=UTC)
COLUMNS = {
    "id": pa.Column(str),
    "at": pa.Column(pl.Datetime("us", "UTC")),
    "code": pa.Column(str, [pa.Check.str_matches("^[A-Z]{2}$"), pa.Check.notin(["XX"])]),
    "city": pa.Column(str, pa.Check.isin(["Nara", "Kyōto"]), nullable=True),
    "a/b ~c": pa.Column(float, pa.Check.in_range(-1, 1, include_max=False), nullable=True),
    "small": pa.Column(pl.Int8, [pa.Check.gt(-5), pa.Check.le(100)]),
    "big": pa.Column(pl.UInt64, nullable=True),
    "flag": pa.Column(bool, nullable=True),
    "shop": pa.Column(int),
    "label": pa.Column(bool, nullable=True),
}
ORDER = Contract(
    pa.DataFrameSchema(COLUMNS, name="Order"), key="id", time="at", label="label", label_after="1d", group="shop"
)
GOOD: dict[str, Any] = {"id": "o1", "at": "2024-03-01T10:00:00+09:00", "code": "AB", "city": "Kyōto", "a/b ~c": 0.5, "small": 7, "big": 3, "flag": True, "shop": 4}  # fmt: skip


def read(rows: Any, *, fast: bool = True, most: int = 100) -> Rows:
    reader = Reader(ORDER)
    assert reader.fast
    reader.fast = fast
    body = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
    return reader.read(body, now=micros(NOW), most=most)


def told(rows: Any, **more: Any) -> tuple[int, list[tuple[str, str]]]:
    with pytest.raises(BadRowsError) as error:
        read(rows, **more)
    return error.value.status, [(fault.pointer, fault.what) for fault in error.value.faults]


values = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.integers(-6, 101), st.floats(allow_nan=False), st.floats(-2, 2),
    st.text(max_size=3), st.sampled_from(["AB", "AB\n", "XX", "Nara", "2024-02-29", "2024-03-01T00:00:00Z", "7", "\ud800"]),
)  # fmt: skip


@given(st.lists(st.dictionaries(st.sampled_from([*GOOD, "more"]), values, max_size=3), min_size=1, max_size=3), st.sets(st.sampled_from([*GOOD]), max_size=1))  # fmt: skip
def test_both_ways_read_the_same(changes: list[dict[str, Any]], gone: set[str]) -> None:
    rows = [{**GOOD, "id": f"o{place}", **change} for place, change in enumerate(changes)]
    for name in gone:
        rows[0].pop(name)
    both = []
    for fast in (True, False):
        try:
            both.append(read(rows, fast=fast))
        except BadRowsError as error:
            both.append((error.status, error.faults))  # type: ignore[arg-type]
    quick, slow = both
    if isinstance(quick, Rows) and isinstance(slow, Rows):
        assert (quick.keys, quick.units, quick.times, quick.values) == (slow.keys, slow.units, slow.times, slow.values)
    else:
        assert quick == slow


def test_one_row_or_many() -> None:
    one, many = read(GOOD), read([GOOD, {**GOOD, "id": "o2"}])
    assert (one.one, many.one) == (True, False)
    assert many.keys == ("o1", "o2")
    assert one.units == ("4",)
    assert one.times == (int(datetime(2024, 3, 1, 1, tzinfo=UTC).timestamp() * 1e6),)
    assert one.values == {name: (GOOD[name],) for name in ORDER.features}


def test_what_may_be_left_out() -> None:
    short = {name: GOOD[name] for name in ("id", "code", "small", "shop")}
    rows = read(short)
    assert rows.times == (int(NOW.timestamp() * 1e6),)
    assert rows.values["flag"] == (None,)
    assert read(short, fast=False).values == rows.values


def test_each_fault_is_named() -> None:
    assert told({**GOOD, "small": 101})[1][0][0] == "/small"
    status, faults = told([GOOD, {**GOOD, "id": "o2", "a/b ~c": 1.0, "code": "XX"}])
    assert status == 422
    assert {pointer for pointer, _ in faults} == {"/1/a~1b ~0c", "/1/code"}
    for time in ("0001-01-01T00:00:00+03:00", "9999-12-31T23:59:59-03:00", "soon", "2024-02-30"):
        assert told({**GOOD, "at": time})[1][0][0] == "/at"
    assert told({**GOOD, "code": None})[1][0][0] == "/code"
    short = {name: value for name, value in GOOD.items() if name != "code"}
    assert told(short) == (422, [("/code", "'code' is missing")])
    assert told({**GOOD, "small": "7"}) == (422, [("/small", 'small: expected Int8, found "7"')])
    assert told({**GOOD, "small": 7.5}) == (422, [("/small", "small: expected Int8, found 7.5")])
    assert told({**GOOD, "city": ["Nara"]}) == (422, [("/city", "'city' is no single value")])
    assert told([GOOD, GOOD])[1][0][1].startswith("duplicated key")
    assert told([GOOD, 3]) == (422, [("/1", "a row is a JSON object")])
    assert told([]) == (422, [("", "there is no row in the body")])
    assert told([GOOD] * 3, most=2)[0] == 413


@pytest.mark.parametrize("fast", [True, False])
def test_a_number_beyond_what_a_model_can_hold_is_a_fault(fast: bool) -> None:
    """It would be infinite in the model's 32 bits. What is a little below the bound, null and what no model sees stays."""
    columns: dict[str, Any] = {
        "id": pa.Column(str),
        "at": pa.Column(pl.Datetime("us", "UTC")),
        "free": pa.Column(float, nullable=True),
        "low": pa.Column(float, pa.Check.gt(0)),
        "wide": pa.Column(float, pa.Check.in_range(-1e308, 1e308)),
        "short": pa.Column(pl.Float32),
        "unseen": pa.Column(float),
    }
    features = ["free", "low", "wide", "short"]
    contract = Contract(pa.DataFrameSchema(columns, name="Wide"), key="id", time="at", features=features)
    reader = Reader(contract)
    assert reader.fast
    good = {"id": "o1", "free": None, "low": 3.4028235e38, "wide": -3.4028235e38, "short": 1, "unseen": 1e300}

    def ask(**change: float) -> list[tuple[str, str]]:
        try:
            rows = reader.read(json.dumps({**good, **change}).encode(), now=micros(NOW), most=1)
        except BadRowsError as error:
            return [(fault.pointer, fault.what) for fault in error.faults]
        assert all(abs(np.float32(value[0] or 0)) < np.inf for value in rows.values.values())
        return []

    reader.fast = fast
    assert ask() == []
    assert ask(free=1e300) == [("/free", "free: in_range(-3.4028235e+38, 3.4028235e+38)")]
    assert ask(free=-3.5e38)[0][0] == "/free"
    assert ask(low=1e39) == [("/low", "low: le(3.4028235e+38)")]
    assert ask(wide=-1e39) == [("/wide", "wide: in_range(-3.4028235e+38, 3.4028235e+38)")]
    assert ask(short=1e39) == [("/short", "short: infinite")]
    table = pl.DataFrame(
        [{**good, "at": NOW, "free": free, "short": short} for free in (1e300, -1.0) for short in (1e39, 2.0)]
    )
    table = table.with_columns(pl.Series("id", ["a", "b", "c", "d"]), pl.col("short").cast(pl.Float32))
    checked = contract.check(table, labelled=False)
    assert checked.rows["id"].to_list() == ["d"]
    assert checked.quarantined["reason"].to_list() == [
        "free: in_range(-3.4028235e+38, 3.4028235e+38); short: infinite",
        "free: in_range(-3.4028235e+38, 3.4028235e+38)",
        "short: infinite",
    ]


def test_all_faults_of_all_rows_are_told_at_once_in_their_order() -> None:
    rows = [
        {**GOOD, "id": "o0", "small": 300, "a/b ~c": 1.5, "shop": [4], "code": 7},
        GOOD,
        {"id": "o2", "at": "soon", "code": "XX", "flag": 2, "small": None, "more": {"any": "thing"}},
        {**GOOD, "id": "o3", "big": -1},
    ]
    assert told(rows) == (
        422,
        [
            ("/0/code", "code: expected String, found 7"),
            ("/0/small", "small: expected Int8, found 300"),
            ("/0/shop", "'shop' is no single value"),
            ("/0/a~1b ~0c", "a/b ~c: in_range(-1, 1, include_max=False)"),
            ("/2/at", 'at: expected Datetime, found "soon"'),
            ("/2/flag", "flag: expected Boolean, found 2"),
            ("/2/shop", "'shop' is missing"),
            ("/2/code", "code: notin(['XX'])"),
            ("/2/small", "small: null"),
            ("/3/big", "big: expected UInt64, found -1"),
        ],
    )


def test_a_row_that_cannot_be_read_is_not_held_against_what_needs_it_whole() -> None:
    columns = {name: COLUMNS[name] for name in ("id", "at", "small", "shop")}
    schema = pa.DataFrameSchema(columns, unique=["small", "shop"], strict=True, name="Sum")
    reader = Reader(Contract(schema, key="id", time="at", label=None))

    def faults(*rows: dict[str, Any]) -> list[tuple[str, str, str | None]]:
        with pytest.raises(BadRowsError) as error:
            reader.read(json.dumps(rows).encode(), now=micros(NOW), most=100)
        return [(fault.pointer, fault.what, fault.column) for fault in error.value.faults]

    whole = {"id": "a", "small": 1, "shop": 2}
    assert reader.read(json.dumps(whole).encode(), now=micros(NOW), most=100).values == {"small": (1,), "shop": (2,)}
    assert faults(whole, whole | {"id": "b"}) == [(f"/{n}/id", "small, shop: not unique", None) for n in (0, 1)]
    broken = {"id": "c", "small": "1", "x:y": 1}
    assert faults(whole, whole | {"id": "a"}, broken) == [
        ("/1/id", "duplicated key (the same row again)", None),
        ("/2/small", 'small: expected Int8, found "1"', "small"),
        ("/2/shop", "'shop' is missing", "shop"),
        ("/2/x:y", "'x:y' is not in the contract, which is strict", None),
    ]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b'{"id": NaN}', b'{"id": Infinity}', b"[" * 100_000, b'{"id": 1} x', b"null,"]
)
def test_what_is_no_json(body: bytes) -> None:
    assert told(body)[0] == 400


def test_a_body_that_is_one_value() -> None:
    for body in (b"null", b"3", b'"row"', b"true"):
        assert told(body)[0] == 422
