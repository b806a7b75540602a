"""The sentence that a manager reads."""

from __future__ import annotations

import numpy as np
import pytest

from meguri.base.errors import GateError
from meguri.record.experiment import Arm, Metric, Report, read_experiment
from meguri.record.experiment_words import experiment_sentence

ORDERS = Metric("orders", "rate", minimum_effect=0.005)


def clicks(rate: float, n: int) -> Arm:
    return Arm(np.arange(n) < round(rate * n))


def normal(seed: int, n: int, mean: float) -> Arm:
    values = np.random.default_rng(seed).normal(size=n)
    return Arm(values - values.mean() + mean)


def report(a: float, b: float, n: int) -> Report:
    return read_experiment(ORDERS, clicks(a, n), clicks(b, n))


@pytest.mark.parametrize(
    ("read", "english", "japanese"),
    [
        (
            report(0.1, 0.112, 40_000),
            "B is better by 1.2 points, between 0.5 and 1.9: safe to stop.",
            "BはAより1.2ポイント良い(0.5から1.9の間)。止めても安全です。",
        ),
        (
            report(0.112, 0.1, 40_000),
            "B is worse by 1.2 points, between 0.5 and 1.9: safe to stop.",
            "BはAより1.2ポイント悪い(0.5から1.9の間)。止めても安全です。",
        ),
        (
            report(0.1, 0.1, 100_000),
            "B and A are equal enough: the difference is 0.00 points, between -0.45 and 0.45, within 0.50 points: safe to stop.",
            "BとAは同等とみなせます(差は0.00ポイント、-0.45から0.45の間、許容は0.50ポイント)。止めても安全です。",
        ),
    ],
)
def test_decided(read: Report, english: str, japanese: str) -> None:
    assert experiment_sentence(read) == english
    assert experiment_sentence(read, "ja") == japanese


def test_undecided() -> None:
    text = experiment_sentence(report(0.1, 0.11, 2000))
    assert text.startswith("Not sure yet: B - A is 1.0 points, between -2.")
    assert text.endswith(" more units per arm would settle it.")
    assert experiment_sentence(report(0.1, 0.11, 2000), "ja").endswith("件必要です。")
    early = experiment_sentence(report(0.1, 0.2, 40))
    assert early == "Too early to say; at least 94 more units per arm are needed."
    assert experiment_sentence(report(0.1, 0.2, 40), "ja") == "まだ判断できません。各群あと少なくとも94件必要です。"


def test_a_broken_split_is_all_that_is_said() -> None:
    read = read_experiment(ORDERS, clicks(0.1, 26_000), clicks(0.2, 24_000))
    assert experiment_sentence(read) == (
        "The split is not as planned (26,000 in A and 24,000 in B, planned 50:50): find the cause before comparing."
    )
    assert "26,000" in experiment_sentence(read, "ja")


def test_guardrails() -> None:
    slow = Metric("latency", "mean", higher_is_better=False, margin=0.5, unit="ms")
    orders = clicks(0.1, 40_000), clicks(0.12, 40_000)
    worse = read_experiment(ORDERS, *orders, [(slow, normal(1, 4000, 50), normal(2, 4000, 52))])
    assert experiment_sentence(worse) == "B is worse in latency by at least 1.93 ms (0.50 ms allowed): stop it."
    assert experiment_sentence(worse, "ja") == "Bはlatencyが少なくとも1.93ms(許容は0.50ms)悪い。止めてください。"
    unsettled = read_experiment(ORDERS, *orders, [(slow, normal(1, 4000, 50), normal(2, 4000, 50.5))])
    assert experiment_sentence(unsettled).endswith("safe to stop (latency not settled yet).")
    assert experiment_sentence(unsettled, "ja").endswith("(latencyは未確定)。")


def test_money_is_told_in_its_unit_and_other_languages_are_refused() -> None:
    spend = Metric("spend", "value", unit="JPY")
    values = np.random.default_rng(1).normal(size=3000) * 800
    read = read_experiment(spend, Arm(values + 12_000), Arm(values + 13_500))
    assert experiment_sentence(read).startswith("B is better by 1,500 JPY, between 1,4")
    with pytest.raises(GateError):
        experiment_sentence(read, "fr")  # type: ignore[arg-type]
