"""The contract at the doors where no whole row passes: answers that go out, labels that people bring."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
import pytest
from data.tables import contract_of, field
from hypothesis import given
from hypothesis import strategies as st

from meguri.base.errors import ContractError
from meguri.data import doors
from meguri.data.contract import Contract


def contract(kind: str, *checks: tuple[str, dict[str, Any]], **more: Any) -> Contract:
    fields = [field("id", "Int64"), field("t", "Datetime"), field("x", "Float64"), field("y", kind, *checks)]
    return contract_of(fields, label="y", features=["x"], **more)


FARE = contract("Float64", ("ge", {"min_value": 0}), ("isin", {"allowed_values": [0.0, 5.0, 9.5]}), task="regression")
SPAM = contract("Boolean", task="binary")


def given_answers(*scores: float | None) -> pl.DataFrame:
    names = [f"k{n}" for n in range(len(scores))]
    return pl.DataFrame(
        {"prediction_id": names, "key": names, "score": scores, "answer": None, "more": 1}, strict=False
    )


def test_an_estimate_keeps_the_bounds_of_the_label() -> None:
    checked = doors.answers(given_answers(7.25, -0.01, math.inf, math.nan, 0.0), FARE)
    assert checked.rows["key"].to_list() == ["k0", "k4"], "what lies between the values that were seen is no fault"
    assert checked.quarantined.select("key", "reason").rows() == [
        ("k1", "score: ge(0)"),
        ("k2", "score: infinite"),
        ("k3", "score: infinite"),
    ]
    assert "prediction_id" not in checked.quarantined.columns


@given(st.lists(st.floats(-2, 2)))
def test_a_chance_lies_between_0_and_1(scores: list[float]) -> None:
    table = given_answers(*scores).cast({"score": pl.Float64})
    checked = doors.answers(table, SPAM)
    assert checked.rows.equals(table.filter(pl.col("score").is_between(0, 1)))
    assert checked.rows.height + checked.quarantined.height == table.height


@pytest.mark.parametrize(
    ("kind", "values", "good", "reasons"),
    [
        ("Boolean", [1, 0, 2, None], [True, False, None], ["y: cannot be read as Boolean"]),
        ("Float64", ["5", "9.50", "-1", "free"], [5.0, 9.5], ["y: ge(0)", "y: cannot be read as Float64"]),
        ("Int64", [1.0, 1.5, 3.0], [1, 3], ["y: cannot be read as Int64"]),
        ("String", ["a", "c", None], ["a", None], ["y: isin(['a', 'b'])"]),
    ],
)
def test_labels_have_the_labels_type_and_keep_its_checks(
    kind: str, values: list[Any], good: list[Any], reasons: list[str]
) -> None:
    checks: dict[str, Any] = {"Float64": ("ge", {"min_value": 0}), "String": ("isin", {"allowed_values": ["a", "b"]})}
    task = {"Float64": "regression", "Int64": "regression", "String": "multiclass"}.get(kind, "binary")
    found = contract(kind, *([checks[kind]] if kind in checks else []), task=task)
    table = pl.DataFrame({"key": [f"k{n}" for n in range(len(values))], "value": values})
    checked = doors.labels(table, found)
    assert checked.rows["value"].to_list() == good
    assert checked.quarantined["reason"].to_list() == reasons
    assert checked.rows.height + checked.quarantined.height == table.height


def test_what_can_be_no_labels_at_all_is_an_error() -> None:
    bare = contract_of([field("id", "Int64"), field("t", "Datetime"), field("x", "Float64")])
    with pytest.raises(ContractError, match="names no label"):
        doors.labels(pl.DataFrame({"key": ["a"], "value": [1]}), bare)
    for value in ([1], "yes"):
        with pytest.raises(ContractError, match="these are no labels 'y': expected Boolean, found"):
            doors.labels(pl.DataFrame({"key": ["a"], "value": [value]}), SPAM)
