"""Measure the gate by simulation: how often it passes a challenger that is a margin worse, and one that is two margins better.

Run: python bench/gate.py [repeats]. One JSON line for each case, one core. A false-pass case is ok when its rate is at
most alpha within two Monte-Carlo standard errors, a power case when at least 80 % pass with the rows the gate asked for.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402

from meguri import Value  # noqa: E402
from meguri.record.budget import Budget  # noqa: E402
from meguri.record.evaluation import Evaluation  # noqa: E402
from meguri.record.gate import judge  # noqa: E402

ALPHA = 0.05
FRAUD = Value("JPY", {True: {True: 120, False: -5}, False: {True: -200, False: 0}})
START = datetime(2013, 1, 1, tzinfo=UTC)
Draw = Callable[[np.random.Generator, int], np.ndarray]


def normal(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.normal(size=count)


def bad_days(rng: np.random.Generator, count: int) -> np.ndarray:
    """Mean 0, deviation 1, and a long tail of days on which the challenger does badly."""
    return 1 - rng.exponential(size=count)


@dataclass(frozen=True)
class World:
    """Rows on days (and in groups) whose paired loss difference has deviation 1 and effects of day and group."""

    days: int
    per_day: int = 20
    groups: int = 0
    day: float = 0.0
    group: float = 0.0
    draw: Draw = normal

    def times(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The day of each row, and its moment."""
        day = np.repeat(np.arange(self.days), np.maximum(rng.poisson(self.per_day, self.days), 1))
        return day, day * 86_400_000_000 + rng.integers(0, 86_400_000_000, len(day))

    def frame(self, moments: np.ndarray, group: np.ndarray | None = None) -> pl.DataFrame:
        n = len(moments)
        return pl.DataFrame(
            {
                "key": np.arange(n).astype(str),
                "time": pl.Series(moments).cast(pl.Duration("us")) + START,
                "group": pl.Series([None] * n, dtype=pl.String) if group is None else pl.Series(group).cast(pl.String),
            }
        )

    def pair(self, rng: np.random.Generator, gain: float) -> tuple[Evaluation, Evaluation]:
        """Challenger and champion whose true gain in mean absolute error is ``gain``."""
        day, moments = self.times(rng)
        n = len(day)
        difference = gain + self.draw(rng, n) + self.day * self.draw(rng, self.days)[day]
        group = None
        if self.groups:
            group = rng.integers(0, self.groups, n)
            difference += self.group * self.draw(rng, self.groups)[group]
        rows = self.frame(moments, group).with_columns(label=pl.lit(0.0), score=pl.lit(100.0))
        old = rows.with_columns(score=100.0 + difference)
        return Evaluation({}, rows, "regression"), Evaluation({}, old, "regression")


def line(**facts: object) -> bool:
    print(json.dumps(facts), flush=True)
    return bool(facts["ok"])


def false_pass(
    name: str, repeats: int, pairs: Iterator[tuple[Evaluation, Evaluation]], *, metric: str, margin: float
) -> bool:
    """The share of challengers, each truly one margin worse, that pass."""
    begun, passed, rows = time.process_time(), 0, 0
    for seed in range(repeats):
        new, old = next(pairs)
        verdict = judge(new, old, metric=metric, margin=margin, alpha=ALPHA, block=timedelta(days=1), seed=seed)
        passed += verdict.result == "pass"
        rows += verdict.rows
    rate, error = passed / repeats, math.sqrt(ALPHA * (1 - ALPHA) / repeats)
    seconds = round(time.process_time() - begun, 1)
    return line(
        case=f"false pass: {name}",
        rate=rate,
        alpha=ALPHA,
        repeats=repeats,
        rows=rows // repeats,
        ok=rate <= ALPHA + 2 * error,
        cpu_s=seconds,
    )


def power(name: str, repeats: int, world: World, margin: float) -> bool:
    """A first look on few rows; where it is unsure, a second look on as many new rows as it asked for."""
    begun, asked, passed, at_once = time.process_time(), [], 0, 0
    rng = np.random.default_rng(7)
    for seed in range(repeats):
        first = judge(*world.pair(rng, 2 * margin), metric="mae", margin=margin, block=timedelta(days=1), seed=seed)
        at_once += first.result == "pass"
        if first.rows_needed is None:
            continue
        asked.append(first.rows_needed)
        more = first.rows_needed / first.rows
        wider = replace(world, days=math.ceil(world.days * more), groups=math.ceil(world.groups * more))
        second = judge(*wider.pair(rng, 2 * margin), metric="mae", margin=margin, block=timedelta(days=1), seed=seed)
        passed += second.result == "pass"
    rate = passed / len(asked)
    rows = [int(q) for q in np.quantile(asked, [0.1, 0.5, 0.9])]
    seconds = round(time.process_time() - begun, 1)
    return line(
        case=f"power: {name}",
        rate=round(rate, 4),
        repeats=repeats,
        unsure=len(asked),
        passed_at_once=at_once,
        asked_p10_p50_p90=rows,
        ok=rate >= 0.8,
        cpu_s=seconds,
    )


def differences(world: World, gain: float, seed: int = 1) -> Iterator[tuple[Evaluation, Evaluation]]:
    rng = np.random.default_rng(seed)
    while True:
        yield world.pair(rng, gain)


def rare_errors(world: World, share: float) -> Iterator[tuple[Evaluation, Evaluation]]:
    """Both are always right, but the challenger is wrong on this share of the rows: most test sets hold very few."""
    rng = np.random.default_rng(2)
    while True:
        _, moments = world.times(rng)
        rows = world.frame(moments).with_columns(label=pl.lit(True), score=pl.lit(1.0))
        wrong = rows.with_columns(score=np.where(rng.random(len(rows)) < share, 0.0, 1.0))
        yield Evaluation({}, wrong, "binary"), Evaluation({}, rows, "binary")


def dear_misses(world: World, missed: float, alarms: float) -> Iterator[tuple[Evaluation, Evaluation]]:
    """The challenger spares cheap false alarms on many rows and misses dear cases on very few, which most test sets hide."""
    rng = np.random.default_rng(5)
    while True:
        _, moments = world.times(rng)
        n = len(moments)
        label = rng.random(n) < 0.05
        alarm = ~label & (rng.random(n) < alarms / 0.95)
        miss = label & (rng.random(n) < missed / 0.05)
        rows = world.frame(moments).with_columns(label=pl.Series(label), score=pl.lit(0.5))
        new, old = (rows.with_columns(answer=pl.Series(answer)) for answer in (label & ~miss, label | alarm))
        yield Evaluation({}, new, "binary", value=FRAUD), Evaluation({}, old, "binary", value=FRAUD)


def rankings(world: World, noise: float, rng: np.random.Generator) -> Iterator[tuple[Evaluation, Evaluation]]:
    """Binary labels; the challenger's score is noisier by day and by row, so its AUC is lower."""
    while True:
        day, moments = world.times(rng)
        n = len(day)
        label = rng.random(n) < 0.3
        signal = rng.normal(size=n) + 1.2 * label + 0.5 * rng.normal(size=world.days)[day]
        blurred = signal + noise * (rng.normal(size=n) + 0.7 * rng.normal(size=world.days)[day])
        rows = world.frame(moments).with_columns(label=pl.Series(label), score=signal)
        yield Evaluation({}, rows.with_columns(score=blurred), "binary"), Evaluation({}, rows, "binary")


def auc_loss(noise: float) -> float:
    """The true loss in AUC of ``rankings``: two normal classes 1.2 apart, by P(X > Y) = Phi(d / sqrt(2 var))."""

    def area(variance: float) -> float:
        return 0.5 * (1 + math.erf(1.2 / math.sqrt(2 * variance) / math.sqrt(2)))

    return area(1.25) - area(1.25 + noise**2 * 1.49)


def spent_budget(repeats: int, world: World, margin: float, uses: int) -> bool:
    """The share of test sets on which any of several challengers, each one margin worse, passes."""
    begun, passed = time.process_time(), 0
    rng = np.random.default_rng(3)
    for seed in range(repeats):
        _, old = world.pair(rng, 0.0)
        shock = rng.normal(size=len(old.rows))
        for use in range(uses):
            own = shock * 0.5 + rng.normal(size=len(shock)) * 0.87
            new = replace(old, rows=old.rows.with_columns(score=100.0 + margin + (old.rows["score"] - 100.0) + own))
            if (
                judge(
                    new, old, metric="mae", margin=margin, block=timedelta(days=1), uses=use, planned=uses, seed=seed
                ).result
                == "pass"
            ):
                passed += 1
                break
    rate, error = passed / repeats, math.sqrt(ALPHA * (1 - ALPHA) / repeats)
    level = Budget(margin, ALPHA, uses).level
    return line(
        case=f"false pass: any of {uses} uses of one test set",
        rate=rate,
        alpha=ALPHA,
        level=level,
        repeats=repeats,
        ok=rate <= ALPHA + 2 * error,
        cpu_s=round(time.process_time() - begun, 1),
    )


def main(repeats: int) -> int:
    margin = 0.1
    alone, days = World(30), World(30, day=0.5)
    groups, both = World(30, groups=60, group=0.5), World(30, groups=60, day=0.5, group=0.5)
    few, tail = World(12, day=0.5), World(20, day=0.7, draw=bad_days)
    good = True
    worlds = {
        "independent rows": alone, "day effect": days, "group effect": groups, "day and group effect": both,
        "day effect, 12 days": few, "skewed days, 20 days": tail,
    }  # fmt: skip
    for name, world in worlds.items():
        good &= false_pass(name, repeats, differences(world, -margin), metric="mae", margin=margin)
    good &= false_pass("accuracy, rare errors", repeats, rare_errors(World(30), 0.005), metric="accuracy", margin=0.005)
    for missed, alarms in ((0.005, 0.0), (0.003, 0.1), (0.01, 0.3)):
        name, lost = f"value, misses {missed:g}, alarms {alarms:g}", 320 * missed - 5 * alarms
        good &= false_pass(name, repeats, dear_misses(World(30), missed, alarms), metric="value", margin=lost)
    noisy = rankings(World(20, 40), 0.6, np.random.default_rng(4))
    good &= false_pass("AUC, day effect", repeats, noisy, metric="auc", margin=auc_loss(0.6))
    good &= spent_budget(repeats // 4, alone, margin, 4)
    good &= power("independent rows", repeats, World(12), 0.03)
    good &= power("day effect", repeats, World(15, day=0.5), 0.1)
    good &= power("group effect", repeats, World(15, groups=40, group=0.5), 0.07)
    good &= power("day and group effect", repeats, World(15, groups=40, day=0.5, group=0.5), 0.1)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
