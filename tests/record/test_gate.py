from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meguri.base.errors import GateError
from meguri.record.evaluation import Evaluation
from meguri.record.gate import Verdict, judge

START = datetime(2013, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def pair(
    gain: float = 0.0, *, days: int = 30, per: int = 20, seed: int = 0, spread: float = 0.2, groups: int = 0
) -> tuple[Evaluation, Evaluation]:
    """Challenger and champion of a regression whose paired gain in mean absolute error is ``gain``."""
    rng = np.random.default_rng(seed)
    n = days * per
    difference = rng.normal(size=n) * spread
    difference += gain - difference.mean()
    rows = pl.DataFrame(
        {
            "key": [f"k{i:05}" for i in range(n)],
            "time": [START + DAY * (i // per) + timedelta(minutes=i % per) for i in range(n)],
            "group": [f"g{i}" for i in rng.integers(0, groups, n)]
            if groups
            else pl.Series([None] * n, dtype=pl.String),
            "label": np.zeros(n),
            "score": np.full(n, 10.0),
            "slice origin": np.where(np.arange(n) % 2 == 0, "EWR", "JFK"),
        }
    )
    old = rows.with_columns(score=10 + difference)
    return Evaluation({}, rows, "regression", ("origin",)), Evaluation({}, old, "regression", ("origin",))


def mae(new: Evaluation, old: Evaluation | None, **more: Any) -> Verdict:
    return judge(new, old, **{"metric": "mae", "margin": 0.05, "block": DAY, **more})


@pytest.mark.parametrize(("gain", "result"), [(0.1, "pass"), (0.0, "pass"), (-0.05, "unsure"), (-0.1, "fail")])
def test_the_verdict_follows_the_gain(gain: float, result: str) -> None:
    verdict = mae(*pair(gain))
    assert verdict.result == result
    assert verdict.gain == pytest.approx(gain, abs=1e-12)
    assert verdict.low is not None
    assert verdict.high is not None
    assert verdict.low < verdict.gain < verdict.high
    assert (verdict.rows, verdict.metric, verdict.margin, verdict.level) == (600, "mae", 0.05, 0.05)
    assert verdict.blocks == pytest.approx(30)


def test_reasons_are_sentences_with_numbers() -> None:
    assert (
        mae(*pair(0.1)).reason
        == "MAE is 0.1 better than the champion on 600 rows, with 95 % confidence at least 0.0818 better"
    )
    near = mae(*pair(0.0)).reason
    assert near.startswith("MAE is ")
    assert near.endswith("worse, where 0.05 is accepted")
    bad = mae(*pair(-0.1)).reason
    assert "with 95 % confidence at least" in bad
    assert "worse, where 0.05 is accepted" in bad
    unsure = mae(*pair(-0.05))
    assert "it may be anything from" in unsure.reason
    assert f"about {unsure.rows_needed:,} rows would settle it" in unsure.reason


def test_the_same_answers_are_the_same() -> None:
    new, _ = pair()
    verdict = mae(new, new)
    assert (verdict.result, verdict.gain, verdict.low, verdict.high) == ("pass", 0.0, 0.0, 0.0)
    assert verdict.reason == "MAE is the same as the champion on 600 rows, with 95 % confidence no worse"


def test_few_blocks_are_never_judged_and_say_how_many_rows_they_lack() -> None:
    verdict = mae(*pair(5.0, days=6))
    assert verdict.result == "unsure"
    assert verdict.rows_needed == 200
    assert "6 independent blocks of time or groups, and 10 are the least; about 200 rows" in verdict.reason
    one = mae(*pair(5.0, days=1))
    assert (one.result, one.low, one.high, one.rows_needed) == ("unsure", None, None, 200)


def test_few_groups_are_not_judged_either() -> None:
    assert mae(*pair(5.0, groups=4)).result == "unsure"
    assert mae(*pair(0.1, groups=40)).result == "pass"


def test_rows_that_depend_by_group_count_for_less() -> None:
    new, old = pair(0.0, groups=30)
    shift = pl.col("group").str.slice(1).cast(pl.Float64) / 100
    by_group = replace(old, rows=old.rows.with_columns(score=pl.col("score") + shift - shift.mean()))
    ungrouped = [replace(e, rows=e.rows.with_columns(group=pl.lit(None, pl.String))) for e in (new, by_group)]
    wide, narrow = mae(new, by_group), mae(*ungrouped)
    assert wide.gain == pytest.approx(narrow.gain)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)  # type: ignore[operator]


def test_without_a_length_of_block_rows_in_a_row_are_a_block() -> None:
    assert mae(*pair(0.1), block=None).blocks == pytest.approx(24, abs=0.1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), gain=st.floats(-0.2, 0.2), groups=st.sampled_from([0, 25]))
def test_swapping_the_two_turns_the_gain(seed: int, gain: float, groups: int) -> None:
    new, old = pair(gain, seed=seed, groups=groups)
    one, other = mae(new, old), mae(old, new)
    assert (other.gain, other.low, other.high) == pytest.approx((-one.gain, -one.high, -one.low))  # type: ignore[operator]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), shuffled=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(seed: int, shuffled: Any) -> None:
    new, old = pair(0.0, seed=seed, groups=20)
    order = list(range(600))
    shuffled.shuffle(order)
    moved = replace(new, rows=new.rows[order]), replace(old, rows=old.rows[order[::-1]])
    assert mae(*moved).to_dict() == mae(new, old).to_dict()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    gain=st.floats(-0.2, 0.2),
    margins=st.lists(st.floats(0.001, 0.3), min_size=2, max_size=5),
)
def test_a_wider_margin_never_makes_it_harder(seed: int, gain: float, margins: list[float]) -> None:
    order = {"fail": 0, "unsure": 1, "pass": 2}
    new, old = pair(gain, seed=seed)
    results = [order[mae(new, old, margin=margin).result] for margin in sorted(margins)]
    assert results == sorted(results)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), gain=st.floats(-0.2, 0.2))
def test_more_is_needed_than_there_is(seed: int, gain: float) -> None:
    verdict = mae(*pair(gain, seed=seed, spread=0.8))
    assert (verdict.rows_needed is not None) == (verdict.result == "unsure")
    assert verdict.rows_needed is None or verdict.rows_needed > verdict.rows
    assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict


def test_no_verdict() -> None:
    good = mae(*pair()).to_dict()
    for bad in ({}, {**good, "extra": 1}, {**good, "checks": [{"name": "x"}]}, {**good, "checks": 3}):
        with pytest.raises(GateError, match="no verdict"):
            Verdict.from_dict(bad)


def test_no_margin_at_all_asks_for_better() -> None:
    assert mae(*pair(0.1), margin=0.0).result == "pass"
    verdict = mae(*pair(0.01), margin=0.0)
    assert verdict.result == "unsure"
    assert verdict.rows_needed is not None
    assert verdict.rows_needed > 600
    zero = mae(*pair(0.0), margin=0.0)
    assert (zero.result, zero.rows_needed) == ("unsure", None)


def test_only_shared_rows_count() -> None:
    new, old = pair(0.1)
    verdict = mae(replace(new, rows=new.rows.head(500)), replace(old, rows=old.rows.tail(500)))
    assert verdict.rows == 400


def test_only_rows_after_a_moment_count() -> None:
    assert mae(*pair(0.1), after=START + 10 * DAY + timedelta(minutes=5)).rows == 20 * 20 - 6
    with pytest.raises(GateError, match="share no rows later than 2014-01-01"):
        mae(*pair(), after=datetime(2014, 1, 1, tzinfo=UTC))


def test_what_cannot_be_compared() -> None:
    new, old = pair()
    with pytest.raises(GateError, match="share no rows"):
        mae(new, replace(old, rows=old.rows.with_columns(key=pl.col("key") + "x")))
    with pytest.raises(GateError, match=r"another label.*'k00000'"):
        mae(new, replace(old, rows=old.rows.with_columns(label=pl.lit(1.0))))
    with pytest.raises(GateError, match="twice"):
        mae(new, replace(old, rows=pl.concat([old.rows, old.rows])))
    with pytest.raises(GateError, match="cannot be compared"):
        mae(new, replace(old, task="binary"))
    with pytest.raises(GateError, match="did you mean 'rmse'"):
        mae(new, old, metric="rmsee")
    with pytest.raises(GateError, match="is none to judge"):
        mae(new, old, guards={"auc": 0.1})
    with pytest.raises(GateError, match="no slice 'dest'"):
        mae(new, old, slices=["dest"])
    for wrong in ({"margin": -1}, {"margin": float("nan")}, {"alpha": 0}, {"alpha": 0.5}):
        with pytest.raises(GateError, match="impossible"):
            mae(new, old, **wrong)
    lost = new.rows.with_columns(score=pl.lit(float("inf")))
    with pytest.raises(GateError, match="MAE cannot be told"):
        mae(replace(new, rows=lost), old)


# guards and slices


def test_a_guard_that_is_shown_worse_fails_what_would_pass() -> None:
    new, old = pair(0.1, spread=0.01)
    bad = np.where(np.arange(600) % 20 == 0, 29.4, 9.4)  # rarely, and far off: the mean is better, the square is not
    far = replace(new, rows=new.rows.with_columns(score=pl.Series(bad) - 0.4))
    assert mae(far, old).result == "pass"
    verdict = mae(far, old, guards={"rmse": 0.01})
    assert verdict.result == "fail"
    assert verdict.checks[0].worse
    assert verdict.reason.startswith("shown worse than its margin allows: RMSE is ")
    assert mae(far, old, guards={"rmse": 1.0}).result == "pass"


def test_a_slice_that_is_shown_worse_is_named() -> None:
    new, old = pair(0.2)
    split = new.rows.with_columns(score=pl.when(pl.col("slice origin") == "JFK").then(10.3).otherwise(9.5))
    verdict = mae(replace(new, rows=split), old, slices=["origin"])
    assert verdict.result == "fail"
    assert [(check.name, check.worse) for check in verdict.checks] == [("origin=EWR", False), ("origin=JFK", True)]
    assert "MAE where origin=JFK is" in verdict.reason


def test_a_slice_with_few_rows_is_not_judged() -> None:
    new, old = pair(0.1)
    rare = pl.when(pl.int_range(pl.len()) < 40).then(pl.lit("rare")).otherwise(pl.lit("usual"))
    marked = replace(new, rows=new.rows.with_columns(rare.alias("slice origin")))
    checks = mae(marked, old, slices=["origin"]).checks
    assert [(check.name, check.rows, check.worse) for check in checks] == [
        ("origin=rare", 40, None), ("origin=usual", 560, False),
    ]  # fmt: skip


def test_many_slices_need_more_to_veto() -> None:
    new, old = pair(0.0, spread=0.3)
    hurt = new.rows.with_columns(score=pl.when(pl.col("slice origin") == "JFK").then(10.09).otherwise(9.9))
    alone = mae(replace(new, rows=hurt), old, slices=["origin"])
    crowd = {"mae": 0.05, "rmse": 0.05}
    limits = (
        [check.high for check in alone.checks],
        [c.high for c in mae(replace(new, rows=hurt), old, slices=["origin"], guards=crowd).checks[2:]],
    )
    assert all(b > a for a, b in zip(*limits, strict=True))  # Holm: each limit is wider among more checks


def test_holm_goes_on_at_a_higher_level_after_each_rejection() -> None:
    new, old = pair(0.0, spread=0.3, seed=2)
    # one slice is hopelessly worse; the other is worse only at alpha, not at alpha / 2
    base = mae(new, old, slices=["origin"], alpha=0.05)
    jfk = pl.col("slice origin") == "JFK"
    reach_one = base.checks[1].high - base.checks[1].gain  # type: ignore[operator]
    shift = base.checks[1].gain + 0.05 + reach_one * 0.93  # type: ignore[operator]
    near = replace(new, rows=new.rows.with_columns(score=pl.when(jfk).then(10 + shift).otherwise(10.0)))
    both = replace(new, rows=new.rows.with_columns(score=pl.when(jfk).then(10 + shift).otherwise(15.0)))
    assert [check.worse for check in mae(near, old, slices=["origin"]).checks] == [False, False]
    assert [check.worse for check in mae(both, old, slices=["origin"]).checks] == [True, True]


def test_more_planned_uses_ask_for_more() -> None:
    new, old = pair(0.0, spread=0.4)
    lows = [mae(new, old, planned=planned).low for planned in (1, 5, 20)]
    assert lows == sorted(lows, reverse=True)  # type: ignore[type-var]
    assert lows[0] == mae(new, old).low
    verdict = mae(new, old, planned=5, uses=4)
    assert verdict.level == pytest.approx(0.01)
    assert "99 % confidence" in verdict.reason
    assert mae(new, old, planned=5, adaptive=True).level == pytest.approx(0.05 / 32)
    with pytest.raises(GateError, match="used 5 times"):
        mae(new, old, planned=5, uses=5)


# what bench/gate.py measures with 2,000 repeats, with a few


@pytest.mark.parametrize(("gain", "expected"), [(-1.0, (0.0, 0.12)), (2.0, (0.8, 1.0))])
def test_passes_at_a_margin_worse_and_at_two_better(gain: float, expected: tuple[float, float]) -> None:
    rng, margin, passed = np.random.default_rng(9), 0.1, 0
    base, _ = pair(days=36, per=10)
    for seed in range(120):
        difference = gain * margin + rng.normal(size=360) * 0.3 + (0.3 * rng.normal(size=36)).repeat(10)
        old = replace(base, rows=base.rows.with_columns(score=10 + difference))
        passed += mae(base, old, margin=margin, seed=seed).result == "pass"
    assert expected[0] <= passed / 120 <= expected[1]
