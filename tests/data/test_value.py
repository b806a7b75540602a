"""What a contract says of money: what it refuses, and that it goes with the contract."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import numpy as np
import pandera.polars as pa
import pytest
from data.contracts import FLIGHTS, Flights, contract
from hypothesis import given
from hypothesis import strategies as st

from meguri import Contract, Value
from meguri.base.errors import ContractError

LATE = {True: {True: 120, False: -5}, False: {True: -200, False: 0}}
FARES = {a: {b: 10 if a == b else -1 for b in "abc"} for a in "abc"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((LATE,), "the currency is {True"),
        ((None, LATE), "the currency is None"),
        (("yen", LATE), "the currency is 'yen'"),
        (("JPY",), "no table and no over and under"),
        (("JPY", None, -1.0), "no table and no under"),
        (("JPY", None, None, -1), "no table and no over"),
        (("JPY", None, 2.5, -1), "an error costs money"),
        (("JPY", None, 0, 0), "an error costs money"),
        (("JPY", None, "-1", -1), "over is '-1'"),
        (("JPY", LATE, -1, -1), "a table and prices"),
        (("JPY", LATE, None, None, float("inf")), "abstained is inf"),
        (("JPY", LATE, None, None, True), "abstained is True"),
        (("JPY", [120, -5]), "the table is"),
        (("JPY", {True: 120, False: -5}), "the table is"),
        (("JPY", {True: {True: 120}}), "fewer than two answers"),
        (("JPY", {True: LATE[True], False: {False: 0}}), "the answer 'false' is worth where 'true' came true"),
        (("JPY", {"a": {"a": 1, "b": 0}}), "the answer 'b' is worth where 'a' came true"),
        (("JPY", {**LATE, True: {True: float("nan"), False: 0}}), "'true' for 'true' is nan"),
        (("JPY", {True: LATE[True], False: {True: 200, False: 0}}), "answer 'false' is worth more than the right one"),
    ],
)
def test_what_is_missing_or_no_money_is_refused(given: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ContractError, match=said) as error:
        Value(*given)
    assert error.value.fix


TEXTS = pa.Column(str, pa.Check.isin(["a", "b", "c"]))


@pytest.mark.parametrize(
    ("column", "task", "value", "said"),
    [
        (pa.Column(bool), "binary", Value("JPY", over=-1, under=-1), "task is binary"),
        (pa.Column(float), "regression", Value("JPY", LATE), "task is regression"),
        (pa.Column(bool), "binary", Value("JPY", FARES), "it has 3 answers"),
        (pa.Column(bool), "binary", Value("JPY", {a: dict.fromkeys("ab", 0) for a in "ab"}), "'a' is no value of 'x'"),
        (pa.Column(bool), "binary", Value("JPY", {a: dict.fromkeys((1, "yes"), 0) for a in (1, "yes")}), "no value of"),
        (TEXTS, "multiclass", Value("JPY", {a: dict.fromkeys("abcd", 0) for a in "abcd"}), "'d' is no value of 'x'"),
        (TEXTS, "multiclass", Value("JPY", {a: dict.fromkeys("ab", 0) for a in "ab"}), "says nothing of 'c'"),
        (TEXTS, "multiclass", {"currency": "JPY"}, "value is {'currency'"),
    ],
)
def test_what_does_not_suit_the_label_is_refused(column: Any, task: str, value: Any, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        contract(column, label="x", features=["id"], task=task, value=value)


def test_a_contract_without_a_label_has_no_value() -> None:
    with pytest.raises(ContractError, match="there is no label"):
        contract(pa.Column(int), value=Value("JPY", LATE))


@pytest.mark.parametrize(
    ("column", "task", "value"),
    [
        (pa.Column(bool), "binary", Value("JPY", LATE, abstained=-30)),
        (pa.Column(int), "binary", Value("EUR", {1: {1: 2.5, 0: -1}, 0: {1: -9, 0: 0}})),
        (pa.Column(str), "binary", Value("EUR", {a: dict.fromkeys(("ham", "spam"), 0) for a in ("ham", "spam")})),
        (TEXTS, "multiclass", Value("USD", FARES)),
        (pa.Column(int, pa.Check.isin([1, 2])), "multiclass", Value("USD", {a: {1: 0, 2: 0} for a in (1, 2)})),
        (pa.Column(float), "regression", Value("JPY", over=-2.5, under=-4)),
    ],
)
def test_the_value_goes_with_the_contract(column: Any, task: str, value: Value) -> None:
    made = contract(column, label="x", features=["id"], task=task, value=value)
    again = Contract.from_spec(json.loads(json.dumps(made.to_spec())))
    assert again.value == value == Value(**value.to_spec())
    assert again.to_spec() == made.to_spec()


def test_a_contract_of_before_there_was_money_goes_on_loading() -> None:
    spec = FLIGHTS.to_spec()
    assert "value" not in spec
    assert Contract.from_spec(spec).value is None
    worth = Contract(
        Flights, key="id", time="time", label="late", label_after=timedelta(hours=6), value=Value("JPY", LATE)
    )
    assert {**worth.to_spec(), "value": None} == {**spec, "value": None}
    with pytest.raises(ContractError, match="no contract that this version"):
        Contract.from_spec({**spec, "value": {"currency": "JPY", "price": 1}})


MONEY = st.floats(-1000, 1000).map(lambda money: round(money, 2))


@given(
    right=st.tuples(MONEY, MONEY), lost=st.tuples(st.floats(0.01, 500), st.floats(0.01, 500)), chance=st.floats(0, 1)
)
def test_from_the_threshold_on_the_positive_answer_is_worth_more(
    right: tuple[float, float], lost: tuple[float, float], chance: float
) -> None:
    yes, no = right
    value = Value("JPY", {True: {True: yes, False: no - lost[0]}, False: {True: yes - lost[1], False: no}})
    positive = chance * yes + (1 - chance) * (no - lost[0])
    negative = chance * (yes - lost[1]) + (1 - chance) * no
    if abs(chance - value.threshold) > 1e-6:
        assert (chance > value.threshold) == (positive > negative)
    with pytest.raises(ContractError, match="only two classes"):
        Value("JPY", FARES).threshold  # noqa: B018


@given(labels=st.lists(st.integers(-20, 20), min_size=1, max_size=30), over=st.integers(0, 9), under=st.integers(1, 9))
def test_no_constant_estimate_earns_more_than_the_best(labels: list[int], over: int, under: int) -> None:
    value, y = Value("JPY", over=-over, under=-under), np.array(labels, dtype=float)
    best = value.earned(y, np.full(len(y), value.best(y))).sum()
    assert best >= max(value.earned(y, np.full(len(y), float(s))).sum() for s in range(-21, 22)) - 1e-9
