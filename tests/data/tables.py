"""Contracts and random dirty tables, on which a contract must say the same wherever it is asked."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
from hypothesis import strategies as st

from meguri.data.contract import Contract

DAY = datetime(2013, 4, 1, tzinfo=UTC)
NOW = DAY + timedelta(days=2)


def field(name: str, kind: str, *checks: tuple[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    rules = [{"name": rule, "args": args, "message": more.get("message")} for rule, args in checks]
    more.pop("message", None)
    return {"name": name, "type": kind, "nullable": False, "checks": rules, **more}


def contract_of(fields: list[dict[str, Any]], **more: Any) -> Contract:
    spec = {"format": 1, "name": "Dirty", "key": ["id"], "time": "t", "label": None, "label_after": "0s", "group": None}
    spec |= {"features": [fields[-1]["name"]], "task": "regression", "strict": False, "unique": [], "fields": fields}
    return Contract.from_spec({**spec, **more})


FIELDS = [
    field("id", "Int64"),
    field("part", "String"),
    field("t", "Datetime", ("ge", {"min_value": "2013-04-01T00:00:00+00:00"})),
    field("f", "Float64", ("in_range", {"min_value": -5, "max_value": 6.5, "include_max": False}), nullable=True),
    field("g", "Float32", ("le", {"max_value": 0.1}), ("notin", {"forbidden_values": [0.5, 2]}), nullable=True),
    field("n", "Int16", ("gt", {"min_value": -3}), ("ne", {"value": 7}), coerce=True),
    field("s", "String", ("str_length", {"min_value": 1, "max_value": 3}), ("str_matches", {"pattern": r"[a-c\d].?$"})),
    field(
        "u",
        "String",
        ("str_startswith", {"string": "a"}),
        ("str_endswith", {"string": "%"}),
        unique=True,
        nullable=True,
    ),
    field("b", "Boolean", ("eq", {"value": True}), nullable=True, message="must; be so"),
    field("d", "Date", ("isin", {"allowed_values": ["2013-04-01", "2013-04-02"]}), nullable=True),
    field("o", "Int64", ("lt", {"max_value": 5}), required=False, default=1),
    field("late", "Int64", ("isin", {"allowed_values": [0, 1]})),
]
DIRTY = contract_of(FIELDS, key=["id", "part"], label="late", features=["f"], unique=[["n", "s"]])

_texts = st.sampled_from(
    ["a", "b%", "ab", "abcd", "c", "", "1", "٣", "é", "a\nb", "e\u0301a", "a_%", "a%", 'q"', "a,'%", "x;y"]
)
_floats = st.sampled_from(
    [0.0, -0.0, 0.1, 1.5, 6.5, -5.0, 2.0, 0.5, float("nan"), float("inf"), -float("inf"), 1e300, 1e-50, 7.0]
)
_numbers = st.sampled_from([0, 1, 2, 7, -3, 100, 32767])
_moments = st.sampled_from([DAY, DAY + timedelta(days=1), DAY + timedelta(days=3), DAY - timedelta(seconds=1)])
_days = st.sampled_from([date(2013, 4, 1), date(2013, 4, 2), date(2014, 1, 1)])

VALUES: dict[str, Any] = {
    "id": st.sampled_from([1, 2, 3]),
    "part": st.sampled_from(["x", "y"]),
    "t": _moments,
    "f": _floats,
    "g": _floats,
    "n": _numbers,
    "s": _texts,
    "u": _texts,
    "b": st.booleans(),
    "d": _days,
    "o": _numbers,
    "late": st.sampled_from([0, 1, 2]),
    "extra": _texts,
}
# Types that a column may come in; a value that the contract's type cannot hold then breaks the table as a whole.
TYPES: dict[str, list[Any]] = {
    "id": [pl.Int64, pl.Int32, pl.Float64],
    "part": [pl.String, pl.Categorical],
    "t": [pl.Datetime("us", "UTC"), pl.Datetime("us"), pl.Datetime("ms", "UTC")],
    "f": [pl.Float64, pl.Float64, pl.Float32],
    "g": [pl.Float64, pl.Float32],
    "n": [pl.Int64, pl.Int16, pl.Float64, pl.Int32],
    "s": [pl.String],
    "u": [pl.String],
    "b": [pl.Boolean, pl.Int8, pl.Float64],
    "d": [pl.Date, pl.Datetime("us"), pl.Datetime("us", "UTC")],
    "o": [pl.Int64, pl.Float32, pl.Null],
    "late": [pl.Int64, pl.Float64, pl.Int8],
    "extra": [pl.String],
}


def _as(column: pl.Series, kind: Any) -> pl.Series:
    if kind == pl.Null:
        return pl.repeat(None, len(column), dtype=pl.Null, eager=True).alias(column.name)
    if kind == pl.Datetime("us") and column.dtype != pl.Date:
        return column.dt.replace_time_zone(None)
    if kind.is_integer() or kind.is_float() or kind == pl.Boolean:
        return column.cast(kind, strict=False)
    return column.cast(kind)


def _clean(number: int) -> dict[str, Any]:
    """A good row, like no other."""
    own = {"id": number, "part": "x", "t": DAY, "f": 1.5, "g": 0.0, "n": 10 + number, "s": "a", "u": f"a{number}%"}
    return {**own, "b": True, "d": date(2013, 4, 1), "o": 1, "late": 0, "extra": "a"}


@st.composite
def dirty(draw: Any, min_size: int = 1, max_size: int = 12) -> pl.DataFrame:
    """A table for ``DIRTY``: good rows, some of whose columns are at fault; rows come again whole or changed; types differ."""
    gone = draw(st.sets(st.sampled_from(["o", "extra"])))
    names = [name for name in VALUES if name not in gone]
    faulty = draw(st.sets(st.sampled_from(names), max_size=4))
    cell = {name: st.just(...) | st.just(...) | VALUES[name] | st.none() for name in names if name in faulty}
    cells = draw(st.lists(st.fixed_dictionaries(cell), min_size=min_size, max_size=max_size))
    rows = []
    for number, changes in enumerate(cells):
        good = {name: value for name, value in _clean(number).items() if name in names}
        rows.append(good | {name: value for name, value in changes.items() if value is not ...})
    rows = draw(st.permutations(rows + draw(st.lists(st.sampled_from(rows), max_size=3)))) if rows else []
    retyped = draw(st.sets(st.sampled_from(names), max_size=3))
    columns = []
    for name in names:
        kind = draw(st.sampled_from(TYPES[name])) if name in retyped else TYPES[name][0]
        values = [row[name] for row in rows]
        if kind.is_float() and TYPES[name][0].is_integer() and draw(st.booleans()):
            values = [*values[1:], 1.5]
        columns.append(
            _as(pl.Series(name, values, dtype=None if 1.5 in values else TYPES[name][0], strict=False), kind)
        )
    return pl.DataFrame(columns)


def told(contract: Contract, found: pl.DataFrame, why: list[str | None], *, labelled: bool) -> list[tuple[str, Any]]:
    """Each row in the contract's types with its reason, sorted: the same whichever of two equal rows was the first."""
    fitted, _, _ = contract.faults(found, now=None, labelled=labelled)
    return sorted((repr(row), reason or "") for row, reason in zip(fitted.iter_rows(), why, strict=True))


def expected(contract: Contract, found: pl.DataFrame, **how: Any) -> list[tuple[str, Any]]:
    """What ``Contract.check`` says of each row, in the same form."""
    checked = contract.check(found, **how)
    good = [(repr(row), "") for row in checked.rows.iter_rows()]
    if checked.quarantined.is_empty():
        return sorted(good)
    why = checked.quarantined["reason"].to_list()
    return sorted([*good, *told(contract, checked.quarantined.drop("reason"), why, labelled=how.get("labelled", True))])
