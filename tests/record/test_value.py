"""Money as a metric: in evaluations, at the gate, and of a live release."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meguri import Evaluation, Value
from meguri.base.errors import DataError, GateError
from meguri.record.gate import judge
from meguri.record.live import live_estimate
from meguri.record.metrics import metric_of
from meguri.record.verdict import Verdict

START, DAY = datetime(2024, 1, 1, tzinfo=UTC), timedelta(days=1)
FRAUD = Value("JPY", {True: {True: 120, False: -5}, False: {True: -200, False: 0}})
NAMES = ["ant", "bee", "cow"]


def rows(label: list[Any], **answers: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    keys = [str(i) for i in range(len(label))]
    times = [START + timedelta(hours=i) for i in range(len(label))]
    known = pl.DataFrame({"key": keys, "time": times, "label": label})
    return known, pl.DataFrame({"key": keys, **answers})


def evaluation(label: list[Any], value: Value, *, task: str = "binary", **answers: Any) -> Evaluation:
    return Evaluation.scored(*rows(label, **answers), task=task, value=value)


PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(pairs=PAIRS, money=st.tuples(*[st.integers(0, 300)] * 4), scale=st.integers(1, 9))
def test_the_value_is_the_sum_over_the_confusion_matrix(
    pairs: list[tuple[bool, bool]], money: tuple[int, ...], scale: int
) -> None:
    caught, right, missed, alarm = money[0], money[1], -money[2], -money[3]
    table = {True: {True: caught, False: alarm}, False: {True: missed, False: right}}
    label, answer = zip(*pairs, strict=True)
    given_ = {"score": [0.5] * len(label), "answer": [str(a).lower() for a in answer]}
    found = evaluation(list(label), Value("JPY", table), **given_).metrics["value"]
    counts = {(a, y): pairs.count((y, a)) for a in (True, False) for y in (True, False)}
    total = sum(counts[a, y] * table[a][y] for a, y in counts)
    assert found == pytest.approx(total / len(pairs))
    more = {a: {y: scale * of for y, of in row.items()} for a, row in table.items()}
    assert evaluation(list(label), Value("EUR", more), **given_).metrics["value"] == pytest.approx(scale * found)


@given(pairs=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), min_size=1, max_size=40))
def test_many_classes(pairs: list[tuple[str, str]]) -> None:
    table = {a: {y: (9 if a == y else -len(a) * (1 + NAMES.index(y))) for y in NAMES} for a in NAMES}
    label, answer = zip(*pairs, strict=True)
    scores = [0.9] * len(pairs)
    found = evaluation(list(label), Value("JPY", table), task="multiclass", score=scores, answer=list(answer))
    assert found.metrics["value"] == pytest.approx(np.mean([table[a][y] for y, a in pairs]))


@given(errors=st.lists(st.floats(-50, 50), min_size=1, max_size=40))
def test_an_estimate_that_is_too_high_may_cost_less_than_one_too_low(errors: list[float]) -> None:
    found = evaluation([10.0] * len(errors), Value("JPY", over=-2, under=-3), task="regression",
                       score=[10 + error for error in errors])  # fmt: skip
    paid = [-2 * error if error > 0 else 3 * error for error in errors]
    assert found.metrics["value"] == pytest.approx(np.mean(paid), abs=1e-9)


def test_the_releases_own_answer_counts_and_else_the_likelier_one() -> None:
    given_: dict[str, Any] = {"score": [0.2, 0.2, 0.9, 0.9]}
    labels = [True, False, True, False]
    assert evaluation(labels, FRAUD, **given_).metrics["value"] == (-200 + 0 + 120 - 5) / 4
    low = evaluation(labels, FRAUD, **given_, answer=["true"] * 4)
    assert low.metrics["value"] == (120 - 5 + 120 - 5) / 4
    assert low.metrics["accuracy"] == 0.5


def test_a_class_that_the_contract_does_not_price_is_told() -> None:
    value = Value("JPY", {a: dict.fromkeys("ab", 0) for a in "ab"})
    for label, answer in ((["a", "c"], ["a", "a"]), (["a", "a"], ["a", "c"])):
        with pytest.raises(DataError, match="nothing of what 'c' is worth"):
            evaluation(label, value, task="multiclass", score=[0.5, 0.5], answer=answer)
    known, answers = rows(["ham", "spam"], score=[0.1, 0.9], answer=["ham", "spam"])
    with pytest.raises(DataError, match="nothing of what 'ham' is worth"):
        Evaluation.scored(known, answers, task="binary", classes=["ham", "spam"], value=value)


def test_an_answer_left_to_a_person_has_a_worth_of_its_own() -> None:
    known, answers = rows([True, True, False], score=[0.9, 0.6, 0.1], answer=["true", "true", "false"])
    joined = known.join(answers, on="key").rename({"key": "prediction_id"})
    joined = joined.with_columns(abstained=pl.Series([None, True, False]))
    priced = Value("JPY", FRAUD.table, abstained=-30)
    assert Evaluation.live(joined, task="binary", value=priced).metrics["value"] == (120 - 30 + 0) / 3
    assert Evaluation.live(joined, task="binary", value=FRAUD).metrics["value"] == (120 + 120 + 0) / 3
    per_unit = Value("JPY", over=-1, under=-1, abstained=-30)
    sold = joined.with_columns(label=pl.lit(1.0), answer=pl.lit(None, pl.String))
    assert Evaluation.live(sold, task="regression", value=per_unit).metrics["value"] == pytest.approx(-31 / 3)


def test_save_and_load(tmp_path: Path) -> None:
    made = evaluation([True, False], FRAUD, score=[0.9, 0.8], answer=["true", "false"])
    made.save(tmp_path / "e")
    again = Evaluation.load(tmp_path / "e")
    assert (again.value, again.metrics) == (FRAUD, made.metrics)
    assert again.rows.equals(made.rows)
    assert made.later_than(START).metrics["value"] == 0
    plain = json.loads((tmp_path / "e/evaluation.json").read_text())
    assert plain.pop("value")["currency"] == "JPY"
    (tmp_path / "e/evaluation.json").write_text(json.dumps(plain))  # one of before there was money
    assert Evaluation.load(tmp_path / "e").value is None


# the gate


def caught(share: float, *, seed: int = 5, count: int = 960, value: Value = FRAUD) -> Evaluation:
    """An hourly case, of which this share is answered right."""
    draw = np.random.default_rng(0)
    label = draw.random(count) < 0.3
    right = np.random.default_rng(seed).random(count) < share
    answer = [str(bool(a)).lower() for a in np.where(right, label, ~label)]
    return evaluation(label.tolist(), value, score=[0.5] * count, answer=answer)


def test_the_gate_judges_by_money_and_says_so() -> None:
    better = judge(caught(0.95), caught(0.7, seed=1), metric="value", margin=1, block=DAY)
    assert (better.result, better.currency) == ("pass", "JPY")
    assert better.gain == pytest.approx(caught(0.95).metrics["value"] - caught(0.7, seed=1).metrics["value"])
    assert "value per answer is" in better.reason
    assert better.reason.endswith("JPY better")
    worse = judge(caught(0.7, seed=1), caught(0.95), metric="value", margin=1, block=DAY)
    assert worse.result == "fail"
    assert worse.reason.endswith("JPY worse, where 1 JPY is accepted")
    assert Verdict.from_dict(json.loads(json.dumps(better.to_dict()))) == better
    guarded = judge(caught(0.7, seed=1), caught(0.95), metric="accuracy", margin=0.9, guards={"value": 1}, block=DAY)
    assert "value per answer is" in guarded.reason
    assert guarded.currency is None


def test_what_the_labels_alone_earn_changes_no_verdict() -> None:
    """The gate is paired: money that comes with a label, whatever was answered, is the same on both sides."""
    table = FRAUD.to_spec()["table"]
    moved = Value("JPY", {a: {"true": row["true"] + 1000, "false": row["false"] - 77} for a, row in table.items()})
    pairs = [(caught(0.8, value=v), caught(0.75, seed=1, value=v)) for v in (FRAUD, moved)]
    one, other = (judge(*pair, metric="value", margin=5, block=DAY).to_dict() for pair in pairs)
    assert [other[name] for name in ("gain", "low", "high")] == pytest.approx(
        [one[name] for name in ("gain", "low", "high")]
    )


def test_a_first_model_must_earn_more_than_the_best_constant_answer() -> None:
    good = judge(caught(1.0), None, metric="value", margin=1, block=DAY)
    assert good.result == "pass"
    assert "better than the best constant answer" in good.reason
    label = caught(0.5).rows["label"].to_numpy()
    always = max(np.where(label, 120, -5).mean(), np.where(label, -200, 0).mean())
    assert good.gain == pytest.approx(caught(1.0).metrics["value"] - always)
    assert judge(caught(0.6), None, metric="value", margin=1, block=DAY).result == "fail"


def test_few_rows_that_agree_do_not_exclude_a_dear_mistake() -> None:
    same = caught(0.9, count=200)
    assert judge(same, same, metric="value", margin=1, block=timedelta(hours=8)).result == "unsure"
    assert judge(same, same, metric="value", margin=50, block=timedelta(hours=8)).result == "pass"


def test_cheap_gains_on_many_rows_do_not_outshine_the_dear_mistake_that_these_rows_may_not_show() -> None:
    label = [i % 20 == 0 for i in range(600)]
    alarms = [str(y or i % 10 == 3).lower() for i, y in enumerate(label)]
    new, old = (
        evaluation(label, FRAUD, score=[0.5] * 600, answer=answer)
        for answer in ([str(y).lower() for y in label], alarms)
    )
    verdict = judge(new, old, metric="value", margin=0.5, block=DAY)
    assert verdict.gain == pytest.approx(0.5)  # a tenth of the rows, 5 each; none of 600 still allows 1.6 in misses
    assert verdict.result == "unsure"
    assert judge(new, old, metric="value", margin=2.5, block=DAY).result == "pass"


def test_classes_and_numbers_are_judged_by_money() -> None:
    draw, table = np.random.default_rng(2), {a: {y: 5 if a == y else -2 for y in NAMES} for a in NAMES}
    label = draw.choice(NAMES, 600)
    noisy = np.where(draw.random(600) < 0.5, label, draw.choice(NAMES, 600))
    many = [
        evaluation(label.tolist(), Value("JPY", table), task="multiclass", score=[0.5] * 600, answer=answer.tolist())
        for answer in (label, noisy)
    ]
    assert judge(*many, metric="value", margin=0.1, block=DAY).result == "pass"
    alone = judge(many[0], None, metric="value", margin=0.1, block=DAY)
    top = max(np.mean([table[a][y] for y in label]) for a in NAMES)
    assert alone.gain == pytest.approx(5 - top)
    y = draw.normal(size=600)
    numbers = [
        evaluation(y.tolist(), Value("JPY", over=-1, under=-4), task="regression", score=(y + shift).tolist())
        for shift in (0.1, -0.1)
    ]
    assert judge(*numbers, metric="value", margin=0.01, block=DAY).gain == pytest.approx(0.3)
    assert judge(numbers[0], None, metric="value", margin=0.01, block=DAY).result == "pass"


def test_money_needs_a_contract_that_speaks_of_it() -> None:
    plain = replace(caught(0.9), value=None)
    with pytest.raises(GateError, match="'value' is not known") as error:
        judge(plain, plain, metric="value", margin=1)
    assert "Contract(…, value=Value(…))" in str(error.value.fix)
    with pytest.raises(GateError, match="none to judge a regression model"):
        metric_of("value", "regression", FRAUD)


def test_the_live_value_has_limits() -> None:
    found = live_estimate(caught(0.9).rows, "binary", "value", block=DAY, level=0.05, value=FRAUD)
    assert found is not None
    assert found.value == pytest.approx(caught(0.9).metrics["value"])
    low, high = found.limits(0.05)
    assert low < found.value < high
