"""The gate on models that name a class, and on first models, which have no champion."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from meguri.base.errors import GateError
from meguri.record.evaluation import Evaluation
from meguri.record.gate import judge

START = datetime(2013, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def classes(count: int = 800, noise: float = 0.0, seed: int = 0, positive: float = 0.3) -> Evaluation:
    rng = np.random.default_rng(seed)
    label = rng.random(count) < positive
    signal = 1.5 * (label - 0.5) + rng.normal(size=count) + noise * np.random.default_rng(seed + 1).normal(size=count)
    rows = pl.DataFrame(
        {
            "key": np.arange(count).astype(str),
            "time": [START + timedelta(hours=i) for i in range(count)],
            "group": pl.Series([None] * count, dtype=pl.String),
            "label": label,
            "score": 1 / (1 + np.exp(-signal)),
        }
    )
    return Evaluation({}, rows, "binary")


@pytest.mark.parametrize("metric", ["log_loss", "brier", "auc", "accuracy"])
def test_every_metric_of_classes_is_judged(metric: str) -> None:
    sharp, blurred = classes(), classes(noise=2.0)
    better = judge(sharp, blurred, metric=metric, margin=0.01, block=DAY)
    worse = judge(blurred, sharp, metric=metric, margin=0.01, block=DAY)
    assert (better.result, worse.result) == ("pass", "fail")
    assert better.gain > 0 > worse.gain


def test_auc_limits_are_delongs_for_independent_rows() -> None:
    sharp, blurred = classes(3000), classes(3000, noise=1.0)
    verdict = judge(sharp, blurred, metric="auc", margin=0.01)
    y, a, b = (e.to_numpy() for e in (sharp.rows["label"], sharp.rows["score"], blurred.rows["score"]))
    places = [np.array([[(s > t) + 0.5 * (s == t) for t in v[~y]] for s in v[y]], dtype=float) for v in (a, b)]
    gap = places[0] - places[1]
    error = math.sqrt(gap.mean(1).var(ddof=1) / y.sum() + gap.mean(0).var(ddof=1) / (~y).sum())
    assert verdict.gain == pytest.approx(gap.mean())
    assert verdict.gain - verdict.low == pytest.approx(1.645 * error, rel=0.35)  # type: ignore[operator]


def test_one_class_alone_has_no_auc() -> None:
    new = classes(positive=0.0)
    with pytest.raises(GateError, match="AUC cannot be told from 800 rows"):
        judge(new, new, metric="auc", margin=0.01)
    verdict = judge(new, new, metric="brier", margin=0.01, block=DAY, guards={"auc": 0.01})
    assert verdict.checks[0].worse is None


def test_agreement_on_few_rows_does_not_exclude_rare_errors() -> None:
    few = classes(200)
    assert judge(few, few, metric="accuracy", margin=0.01, block=timedelta(hours=8)).result == "unsure"
    assert judge(classes(800), classes(800), metric="accuracy", margin=0.01, block=DAY).result == "pass"


def test_a_first_model_must_beat_the_base_rate() -> None:
    good = judge(classes(), None, metric="log_loss", margin=0.1, block=DAY, guards={"auc": 0.01})
    assert good.result == "pass"
    assert "better than the best constant answer" in good.reason
    assert good.checks == ()
    useless = classes()
    useless = replace(useless, rows=useless.rows.with_columns(score=pl.lit(0.9)))
    bad = judge(useless, None, metric="log_loss", margin=9.0, block=DAY)
    assert bad.result == "fail"
    assert "accepted" not in bad.reason
    assert judge(useless, None, metric="auc", margin=0.1, block=DAY).result == "unsure"


@pytest.mark.parametrize("metric", ["mae", "rmse"])
def test_a_first_regression_must_beat_the_constant(metric: str) -> None:
    rng = np.random.default_rng(0)
    label = rng.normal(size=800)
    rows = classes().rows.with_columns(label=label, score=label + 0.3 * rng.normal(size=800))
    turned = rows.with_columns(score=-pl.col("score"))
    assert judge(Evaluation({}, rows, "regression"), None, metric=metric, margin=0.1, block=DAY).result == "pass"
    assert judge(Evaluation({}, turned, "regression"), None, metric=metric, margin=0.1, block=DAY).result == "fail"


def three(right: float, seed: int, chance: bool = True) -> Evaluation:
    rng = np.random.default_rng(seed)
    label = np.random.default_rng(0).choice(["a", "b", "c"], 800, p=[0.5, 0.3, 0.2])
    answer = np.where(rng.random(800) < right, label, "c")
    frame = (
        classes()
        .rows.drop("label", "score")
        .with_columns(
            label=pl.Series(label),
            answer=pl.Series(answer),
            score=pl.lit(right),
            chance=pl.Series(np.where(answer == label, right, (1 - right) / 2)),
        )
    )
    return Evaluation({}, frame if chance else frame.with_columns(chance=pl.lit(None, pl.Float64)), "multiclass")


@pytest.mark.parametrize("metric", ["accuracy", "brier", "log_loss"])
def test_many_classes(metric: str) -> None:
    assert judge(three(0.9, 1), three(0.6, 2), metric=metric, margin=0.02, block=DAY).result == "pass"
    assert judge(three(0.6, 1), three(0.9, 2), metric=metric, margin=0.02, block=DAY).result == "fail"
    assert judge(three(0.9, 1), None, metric=metric, margin=0.02, block=DAY).result == "pass"


def test_log_loss_of_many_classes_needs_all_probabilities() -> None:
    for champion in (None, three(0.6, 2)):
        with pytest.raises(GateError, match="log loss needs the probabilities of all classes"):
            judge(three(0.9, 1, chance=False), champion, metric="log_loss", margin=0.02)
