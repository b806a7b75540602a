"""Suggested contracts: the file that is written imports, makes a contract, and accepts the data it was made from."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from data.drafts import imported
from hypothesis import given, settings
from hypothesis import strategies as st

from meguri.base.errors import DataError
from meguri.data.draft import TAKEN, Draft
from meguri.data.spec import Field, Rule
from meguri.data.suggest import limits, suggest

START = datetime(2024, 1, 1, tzinfo=UTC)
NAMES = st.text(min_size=1, max_size=8) | st.sampled_from(
    [*sorted(TAKEN), "class", "_x", "a b", 'q"', "Row", "列", "reason"]
)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "Int64": st.integers(-(2**63), 2**63 - 1),
    "UInt8": st.integers(0, 255),
    "Int16": st.integers(-(2**15), 2**15 - 1),
    "Float64": st.floats(allow_infinity=False),
    "Float32": st.floats(allow_infinity=False, width=32),
    "String": st.text(max_size=5) | st.sampled_from(["AB", "CD", '"', "\\", "\n"]),
    "Boolean": st.booleans(),
    "Date": st.dates(),
}


@st.composite
def tables(draw: st.DrawFn) -> pl.DataFrame:
    count = draw(st.integers(1, 40))
    columns = [
        pl.Series("at", [START + timedelta(hours=draw(st.integers(0, 9))) for _ in range(count)]).cast(
            pl.Datetime("us", "UTC")
        ),
        pl.Series("id", [f"r{i}" for i in range(count)]),
    ]
    names = draw(st.lists(NAMES.filter(lambda n: n not in ("at", "id")), min_size=1, max_size=5, unique=True))
    for name in names:
        kind = draw(st.sampled_from(sorted(KINDS)))
        values = draw(st.lists(st.none() | KINDS[kind], min_size=count, max_size=count))
        columns.append(pl.Series(name, values, dtype=getattr(pl, kind), strict=False))
    return pl.DataFrame(columns)


@given(tables())
@settings(max_examples=60)
def test_what_is_written_makes_a_contract_that_accepts_the_data(table: pl.DataFrame) -> None:
    features = [name for name in table.columns if name not in ("at", "id", "reason", "y")]
    if not features or all(name in ("class", "label") for name in features):
        return
    contract = imported(suggest(table, "any rows", key=["id"]).python())
    checked = contract.check(table)
    assert checked.quarantined.is_empty()
    assert checked.rows.height == table.height
    assert set(contract.types) == set(table.columns) - {"reason"}
    assert contract.time == "at"


def flights(count: int = 400) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "flight_id": range(count),
            "asked_at": [START + timedelta(hours=i) for i in range(count)],
            "booked": [date(2023, 1, 1)] * count,
            "origin": ["JFK", "LGA"] * (count // 2),
            "code": [f"{chr(65 + i % 26)}{chr(65 + i // 26)}" for i in range(count)],
            "note": [None, "x"] * (count // 2),
            "delay": [float(i % 50) for i in range(count)],
            "price": [Decimal("1.5")] * count,
            "tags": [[1]] * count,
            "kind": pl.Series(["a"] * count, dtype=pl.Categorical),
            "late": [i % 3 == 0 for i in range(count)],
        }
    )


def test_guesses_and_what_is_said_of_them() -> None:
    draft = suggest(flights(), "flights")
    assert (draft.key, draft.time, draft.label, draft.task) == (("flight_id",), "asked_at", "late", "binary")
    text = draft.python()
    assert "# Left out: tags, as a contract has no List(Int64)." in text
    assert 'origin: str = pa.Field(isin=["JFK", "LGA"])  # a closed list?' in text
    assert 'code: str = pa.Field(str_matches="^[A-Z]{2}$")' in text
    assert "delay: float = pa.Field(ge=0.0, le=54.0)  # seen 0 to 49" in text
    assert "missing in 50.00% of the rows" in text
    assert 'time="asked_at",  # a guess: when a row is known; or is it booked?' in text
    assert "how long after its time is the label known?" in text
    contract = imported(text)
    assert contract.check(flights().drop("tags")).quarantined.is_empty()
    assert contract.check(flights().with_columns(origin=pl.lit("EWR"))).rows.is_empty()


def test_parts_that_are_named_are_not_guessed() -> None:
    draft = suggest(flights().drop("late"), "flights", key=["code", "asked_at"], time="booked", label="delay")
    assert (draft.key, draft.time, draft.label, draft.task) == (("code", "asked_at"), "booked", "delay", "regression")
    assert imported(draft.python()).label == "delay"
    assert suggest(flights().drop("late"), label="origin").task == "multiclass"


def test_a_key_of_several_columns_is_the_fewest_that_tell_rows_apart() -> None:
    rows = pl.DataFrame(
        {
            "day": [START + timedelta(days=i // 20) for i in range(400)],
            "shop": [f"s{i % 20 % 5}" for i in range(400)],
            "till": [i % 20 // 5 for i in range(400)],
            "amount": [float(i % 7) for i in range(400)],
        }
    )
    assert suggest(rows).key == ("day", "shop", "till")
    twice = suggest(pl.concat([rows, rows.head(3)]))
    assert twice.key == ("day", "shop", "till")
    assert "unsure: 6 rows" in twice.python()
    assert "unsure: no column is called like one" in twice.python()


def test_what_no_contract_accepts_is_told() -> None:
    rows = flights().with_columns(delay=pl.when(pl.col("flight_id") == 3).then(math.inf).otherwise("delay"))
    text = suggest(rows).python()
    assert "1 infinite values will be quarantined" in text
    assert imported(text).check(rows).quarantined.height == 1
    naive = flights().with_columns(pl.col("asked_at").dt.replace_time_zone(None))
    assert "without a zone: read as UTC" in suggest(naive).python()


@pytest.mark.parametrize(
    ("table", "given", "match"),
    [
        (pl.DataFrame({"a": []}), {}, "no rows"),
        (pl.DataFrame({"a": [1], "b": [2]}), {}, "needs a time"),
        (pl.DataFrame({"at": [START], "a": [1]}), {"label": "b"}, "no column 'b'"),
        (pl.DataFrame({"at": [START], "a": [1.5], "b": [True]}), {"time": "at", "key": []}, None),
        (pl.DataFrame({"at": [START], "id": [1]}), {}, "feature"),
        (pl.DataFrame({"at": [None, START], "a": [1.5, 2.5]}), {"time": "at"}, "can be a key"),
    ],
)
def test_tables_that_give_no_contract(table: pl.DataFrame, given: dict[str, Any], match: str | None) -> None:
    if match is None:
        assert suggest(table, **given).key == ("at",)
        return
    with pytest.raises(DataError, match=match):
        suggest(table, **given)


@given(st.integers(-(2**70), 2**70), st.integers(0, 2**70))
def test_limits_of_whole_numbers_are_never_inside(low: int, span: int) -> None:
    below, above = limits(low, low + span, whole=True)
    assert below <= low <= low + span <= above
    assert below >= 0 or low < 0
    assert above - below <= 1.5 * span + max(abs(low), abs(low + span)) + 10


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_limits_of_floats_are_never_inside(one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    below, above = limits(low, high, whole=False)
    assert below <= low <= high <= above
    assert below >= 0 or low < 0


def test_a_draft_with_everything() -> None:
    draft = Draft(
        "class",
        (
            Field("id", "Int32", unique=True),
            Field("at", "Datetime", description='when "it" was'),
            Field("x y", "Float64", nullable=True, required=False, default=0.5),
            Field(
                "long",
                "String",
                coerce=True,
                checks=(Rule("isin", {"allowed_values": [f"value {i}" for i in range(30)]}),),
            ),
            Field("site", "String"),
            Field("y", "Int64", nullable=True),
        ),
        ("id",),
        "at",
        "y",
        "36h",
        "site",
        "regression",
        ("x y",),
        {"long": "told " * 30},
    )
    contract = imported(draft.python())
    spec = contract.to_spec()
    assert (contract.name, contract.group, spec["label_after"], contract.features) == (
        "Class",
        "site",
        "1d12h",
        ("x y",),
    )
    by_name = {field["name"]: field for field in spec["fields"]}
    assert by_name["x y"]["default"] == 0.5
    assert not by_name["x y"]["required"]
    assert len(by_name["long"]["checks"][0]["args"]["allowed_values"]) == 30
    assert by_name["at"]["description"] == 'when "it" was'
    assert max(map(len, draft.python().splitlines())) < 200


def test_no_name_of_pandera_is_taken_by_surprise() -> None:
    import pandera.polars as pa

    assert {name for name in dir(pa.DataFrameModel) if not name.startswith("_")} <= TAKEN
