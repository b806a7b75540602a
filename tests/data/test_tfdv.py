"""TFDV's schemas: what goes out comes back, what cannot is said, and what others wrote is read."""

from __future__ import annotations

import math
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest
from data.drafts import imported
from hypothesis import given, settings
from hypothesis import strategies as st

from meguri.base.errors import DataError, MeguriError
from meguri.data import tfdv
from meguri.data.contract import Contract
from meguri.data.textproto import Word, parse, write

TEXT = st.text(max_size=6)
INTS = st.integers(-(2**31), 2**31 - 1)
FLOATS = st.floats(-1e6, 1e6)


@st.composite
def columns(draw: st.DrawFn) -> tuple[Any, dict[str, Any]]:
    kind = draw(st.sampled_from(["Int64", "Int32", "UInt8", "Float64", "Float32", "String", "Boolean", "Date"]))
    checks: list[Any] = []
    if kind in ("Int64", "Int32") and draw(st.booleans()):
        low, high = sorted(draw(st.tuples(INTS, INTS)))
        checks = [pa.Check.ge(low), pa.Check.le(high)]
    elif kind == "Float64" and draw(st.booleans()):
        low, high = sorted(draw(st.tuples(FLOATS, FLOATS)))
        checks = [pa.Check.ge(low), pa.Check.le(high)]
    elif kind == "String" and draw(st.booleans()):
        checks = [pa.Check.isin(draw(st.lists(TEXT, min_size=1, max_size=5, unique=True)))]
    nullable = draw(st.booleans())
    column = pa.Column(getattr(pl, kind), checks, nullable=nullable, required=not nullable or draw(st.booleans()))
    return column, {}


@given(
    st.dictionaries(TEXT.filter(lambda n: n not in ("at", "id", "reason")), columns(), min_size=1, max_size=4),
    st.booleans(),
)
@settings(max_examples=60)
def test_types_presence_and_domains_come_back(made: dict[str, Any], labelled: bool) -> None:
    own = {name: column for name, (column, _) in made.items()}
    schema = {
        "id": pa.Column(str),
        "at": pa.Column(pl.Datetime("us", "UTC")),
        **own,
        "alarm": pa.Column(bool, nullable=True),
    }
    label = {"label": "alarm", "label_after": "6h"} if labelled else {}
    contract = Contract(pa.DataFrameSchema(schema, name="Reading"), key=["id", "at"], time="at", **label)
    text, lost = tfdv.export(contract)
    again = imported(tfdv.draft(text).python())
    assert again.to_spec()["fields"] == contract.to_spec()["fields"]
    assert {**again.to_spec(), "fields": 0} == {**contract.to_spec(), "fields": 0}
    assert tfdv.export(again)[0] == text
    assert all("that a key comes once" in one or "32 bits" in one for one in lost)


def test_what_tfdv_cannot_say_is_said() -> None:
    class Row(pa.DataFrameModel):
        id: int = pa.Field(unique=True)
        at: pl.Datetime = pa.Field(ge="2020-01-01")
        a: int = pa.Field(gt=0, lt=10, ne=5)
        b: float = pa.Field(gt=0.5, le=0.1)
        c: str = pa.Field(str_matches="^x", isin=["x", "y"], coerce=True)
        d: bool = pa.Field(isin=[True])
        e: int = pa.Field(isin=[1, 2, 3])
        f: int = pa.Field(isin=[1, 3])
        g: int = pa.Field(eq=4)
        h: float = pa.Field(in_range={"min_value": 0, "max_value": 1e40})
        i: str = pa.Field(default="none")

        class Config:
            strict = True
            unique = ["a", "b"]  # noqa: RUF012

        @pa.check("a")
        def odd(cls, data: Any) -> Any:
            return data.lazyframe.select(pl.col(data.key) % 2 == 1)

    contract = Contract(Row, key="id", time="at", features=["a", "b", "c"])
    text, lost = tfdv.export(contract)
    told = "\n".join(lost)
    for part in (
        "odd",
        "a, b: unique together",
        "a: ne(5)",
        "b: gt(0.5)",
        "b: max 0.1 exactly",
        "strict",
        "c: str_matches",
        "c: coerce",
    ):
        assert part in told, part
    for part in ("d: isin", "f: isin", "id: unique", "i: the default 'none'", "at: ge", "h: max 1e+40 exactly"):
        assert part in told, part
    assert "e:" not in told
    fields = {field.name: field for field in tfdv.draft(text).fields}
    assert [rule.args for rule in fields["a"].checks] == [{"min_value": 1}, {"max_value": 9}]
    assert [rule.args for rule in fields["g"].checks] == [{"min_value": 4}, {"max_value": 4}]
    assert imported(tfdv.draft(text).python()).features == ("a", "b", "c")


FOREIGN = """
# written by hand, with what tensorflow_metadata's schema.proto allows
feature {
  name: "trip_id"  type: INT
  presence { min_fraction: 1.0 min_count: 1 }
  shape { dim { size: 1 } }
}
feature: <
  name: 'pick' "up_at"; type: INT, presence: {min_fraction: 1.0, min_count: 1}
  time_domain { integer_format: UNIX_SECONDS }
>
feature {
  name: "company" type: BYTES domain: "companies"
  presence { min_fraction: 0.75 }
  value_count { min: 1 max: 1 }
  distribution_constraints { min_domain_mass: 0.9 }
}
feature { name: "miles" type: FLOAT float_domain { min: 0 max: inf } annotation { comment: "how far" } }
feature { name: "code" type: INT int_domain { min: -0x10 max: 017 } skew_comparator { infinity_norm { threshold: 0.01 } } }
feature { name: "paid" type: BYTES bool_domain { true_value: "yes" false_value: "no" } }
feature { name: "day" type: INT time_domain { integer_format: UNIX_DAYS } }
feature { name: "when" type: BYTES time_domain { string_format: "%Y" } }
feature { name: "tips" type: INT not_in_environment: "SERVING" presence { min_count: 1 } }
feature { name: "words" type: BYTES value_count { min: 0 max: 10 } }
feature { name: "pixels" type: FLOAT shape { dim { size: 28 } dim { size: 28 } } }
feature { name: "nested" type: STRUCT struct_domain { feature { name: "x" } } }
feature { name: "old" type: INT lifecycle_stage: DEPRECATED }
feature { name: "older" type: INT deprecated: true }
sparse_feature { name: "s" index_feature { name: "i" } value_feature { name: "v" } }
string_domain { name: "companies" value: ["Blue \\"Cab\\"", 'T\\303\\241xi', "\\u30bf\\x41\\n"] }
default_environment: ["TRAINING", "SERVING"]
annotation { extra_metadata { [type.googleapis.com/some.Thing] { a: -1.5e3 b: -inf c: 2.5f } } }
"""


def test_a_schema_that_others_wrote() -> None:
    draft = tfdv.draft(FOREIGN, "taxi", key=["trip_id"])
    fields = {field.name: field for field in draft.fields}
    assert {name: field.type for name, field in fields.items()} == {
        "trip_id": "Int64",
        "pickup_at": "Datetime",
        "company": "String",
        "miles": "Float64",
        "code": "Int64",
        "paid": "Boolean",
        "day": "Date",
        "when": "Datetime",
        "tips": "Int64",
    }
    assert (draft.time, draft.label, draft.key) == ("pickup_at", "tips", ("trip_id",))
    assert fields["company"].checks[0].args == {"allowed_values": ['Blue "Cab"', "Táxi", "タA\n"]}
    assert (fields["company"].nullable, fields["company"].required, fields["miles"].required) == (True, True, False)
    assert [rule.args for rule in fields["miles"].checks] == [{"min_value": 0.0}]
    assert [rule.args for rule in fields["code"].checks] == [{"min_value": -16}, {"max_value": 15}]
    assert fields["miles"].description == "how far"
    text = draft.python()
    for part in (
        "Left out: words, a list",
        "Left out: pixels, an array",
        "Left out: nested, a structure",
        "Left out: old, which is deprecated",
        "Left out: older, which is deprecated",
        "Not taken over: sparse_feature",
        "skew_comparator is not taken over",
        "at least 0.75 of the rows",
        "written as yes and no",
        "UNIX_SECONDS",
    ):
        assert part in text, part
    assert imported(text).name == "Taxi"


def test_parts_that_a_schema_leaves_open_are_asked_for() -> None:
    bare = 'feature { name: "id" type: INT } feature { name: "at" type: BYTES } feature { name: "x" type: FLOAT }'
    with pytest.raises(DataError, match="what the key is") as error:
        tfdv.draft(bare)
    assert "--key COLUMN" in str(error.value)
    with pytest.raises(DataError, match="what the time is"):
        tfdv.draft(bare, key=["id"])
    with pytest.raises(DataError, match="no feature 'y'"):
        tfdv.draft(bare, key=["id"], time="at", label="y")
    with pytest.raises(DataError, match="no column is left"):
        tfdv.draft(bare, key=["id"], time="at", label="x")
    contract = imported(tfdv.draft(bare, key=["id"], time="at").python())
    assert contract.check(pl.DataFrame({"id": [1], "at": ["2024-01-01T00:00:00"], "x": [1.0]})).rows.height == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "feature",
        "feature {",
        "feature { name: }",
        "a: 'x",
        "a: [1, 2",
        "[x {",
        "a 1",
        "a: -b",
        "a: @",
        "a: " + "{b: " * 5000,
        "feature: 1",
        "feature { name: 'x' presence: 3 }",
        "feature {}",
        "feature { name: 'x' type: INT int_domain { min: 'a' } }",
    ],
    ids=range(16),
)
def test_text_that_is_no_schema(text: str) -> None:
    with pytest.raises(DataError):
        tfdv.draft(text, key=["x"], time="x")


@given(st.text(alphabet="{}<>[]:;,\"'\\ax1-#\n. ", max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        parse(text)
    except MeguriError:
        return


VALUES = (
    st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | TEXT
    | st.booleans().map(lambda b: Word(str(b).lower()))
)
NAMES = st.from_regex(r"[a-z_]{1,5}", fullmatch=True)


@given(
    st.recursive(
        st.dictionaries(NAMES, st.lists(VALUES, min_size=1, max_size=3), max_size=3),
        lambda inner: st.dictionaries(NAMES, st.lists(VALUES | inner, min_size=1, max_size=2), max_size=3),
        max_leaves=8,
    )
)
def test_messages_are_read_as_they_were_written(message: dict[str, list[Any]]) -> None:
    assert parse(write(message)) == message


def test_numbers_and_words() -> None:
    found = parse("a: .5 a: 1e3 a: 1. a: -0x1F a: 010 a: inf a: -Infinity b: nan c: TRUE c: -7 d: 08.5 # end")
    assert found["a"] == [0.5, 1000.0, 1.0, -31, 8, math.inf, -math.inf]
    assert math.isnan(found["b"][0])
    assert found["c"] == ["TRUE", -7]
    assert write({"t": [True, False]}) == "t: true\nt: false\n"
