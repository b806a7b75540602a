"""A/B tests and estimates of other splits as they are read from a ledger: do the intervals hold, and what do covariates bring?

Run: python bench/ab_ledger.py [repeats]. One JSON line a case. Each repeat writes answers and events to a SQLite ledger of its own,
and asks ``ab.look`` or ``ab_estimate.estimate``, which is what the commands do.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl

from meguri.base.ids import prediction_ids
from meguri.loop import ab, ab_estimate
from meguri.record import rollout
from meguri.record.experiment import Plan
from meguri.record.ledger import Event, Experiment, open_ledger

BEGAN = datetime(2024, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
UNITS, LOOKS = 2000, 10
PLAN = Plan(expected=1000)
FIELD = SimpleNamespace(name="level", dtype=pl.Float64())
CONTRACT = SimpleNamespace(task="binary", features=("level", "site"), fields=(FIELD,))
RELEASE = SimpleNamespace(contract=CONTRACT)


def line(**facts: Any) -> bool:
    print(json.dumps(facts), flush=True)
    return bool(facts["ok"])


def answered(
    ledger: Any, units: Sequence[int], at: datetime, release: str, share: float, rows: dict[int, str] | None = None
) -> None:
    table = pl.DataFrame(
        {
            "prediction_id": prediction_ids(len(units), at),
            "key": [f"{n}-{at}" for n in units],
            "unit": [str(n) for n in units],
            "features": pl.Series([(rows or {}).get(n) for n in units], dtype=pl.String),
        }
    ).with_columns(
        **{name: pl.lit(at).cast(pl.Datetime("us", "UTC")) for name in ("time", "due", "made_at")},
        release=pl.lit(release), arm=pl.lit("champion" if release == "a" else "challenger"), outlet=pl.lit("rest"),
        propensity=pl.lit(share), score=pl.lit(0.5),
    )  # fmt: skip
    ledger.write_predictions(table)


def spent(ledger: Any, units: Sequence[int], at: datetime, values: np.ndarray) -> None:
    ledger.write_events([Event(f"{n}-{at}", str(n), at, "buy", float(values[n])) for n in units])


def begun(ledger: Any, metric: str, before: str) -> Experiment:
    detail = {
        "champion": "a", "challenger": "b", "began": BEGAN.isoformat(), "plan": asdict(PLAN), "promote": False,
        "metric": asdict(ab.metric_of(metric, "binary")), "guards": [], "before": before,
    }  # fmt: skip
    rollout.promote(ledger, "rest", "a", at=BEGAN - 30 * DAY, why="first", by="bench")
    rollout.promote(ledger, "rest", "a", at=BEGAN, why="test", by="bench", challengers={"b": 0.5})
    test = Experiment("t", BEGAN, "rest", "running", detail)
    ledger.write_experiment(test)
    return test


Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray, np.ndarray]]  # before, after, was there: (units,)


def normal(rng: np.random.Generator, known: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of deviation 1 that correlate by .7 with those before; a part of the units was there before."""
    before = rng.standard_normal(UNITS)
    after = 0.7 * before + math.sqrt(0.51) * rng.standard_normal(UNITS)
    return 10 + before, 10 + after, rng.random(UNITS) < known


def money(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-normal spending, of which the logarithms correlate by .7."""
    before, after, there = normal(rng)
    return np.exp(0.8 * (before - 10)), np.exp(0.8 * (after - 10)), there


def looks(name: str, repeats: int, draw: Draw, seed: int, kept: float | None) -> bool:
    """How often a test of equal releases claims something at any of LOOKS looks, with history and without it."""
    begin, rng = time.process_time(), np.random.default_rng(seed)
    claims = {"14d": 0, "0s": 0}
    left, widths = [], []
    for _ in range(repeats):
        before, after, there = draw(rng)
        in_b = rng.random(UNITS) < 0.5
        with tempfile.TemporaryDirectory() as folder:
            ledger = open_ledger(f"sqlite:///{Path(folder) / 'ledger.db'}")
            project: Any = SimpleNamespace(ledger=ledger, contract=CONTRACT, release=lambda _: RELEASE)
            tests = {"14d": begun(ledger, "event:buy:sum", "14d")}
            tests["0s"] = Experiment("u", BEGAN, "rest", "running", {**tests["14d"].detail, "before": "0s"})
            old = np.flatnonzero(there).tolist()
            answered(ledger, old, BEGAN - 3 * DAY, "a", 1.0)
            spent(ledger, old, BEGAN - 2 * DAY, before)
            for day, units in enumerate(np.array_split(np.arange(UNITS), LOOKS)):
                at = BEGAN + day * DAY + timedelta(hours=1)
                answered(ledger, units[~in_b[units]].tolist(), at, "a", 0.5)
                answered(ledger, units[in_b[units]].tolist(), at, "b", 0.5)
                spent(ledger, units.tolist(), at + timedelta(hours=1), after)
            last = {}
            for kind, test in tests.items():
                sure = [ab.look(project, test, now=BEGAN + day * DAY).report for day in range(1, LOOKS + 1)]
                claims[kind] += any(report.decision in ("better", "worse") for report in sure)
                last[kind] = sure[-1].primary
            left.append(last["14d"].kept)
            widths.append((last["14d"].high - last["14d"].low) / (last["0s"].high - last["0s"].low))
            ledger.close()
    rate, error = claims["14d"] / repeats, math.sqrt(PLAN.alpha * (1 - PLAN.alpha) / repeats)
    close = kept is None or abs(float(np.mean(left)) - kept) < 0.03
    return line(
        case=f"history: {name}", false_claims=rate, without=claims["0s"] / repeats, bar=PLAN.alpha,
        monte_carlo_error=round(error, 4), looks=LOOKS, units=UNITS, repeats=repeats, kept=round(float(np.mean(left)), 4),
        theory=kept, width=round(float(np.mean(widths)), 4), theory_width=None if kept is None else round(math.sqrt(kept), 4),
        ok=rate <= PLAN.alpha and close, cpu_s=round(time.process_time() - begin, 1),
    )  # fmt: skip


def estimates(name: str, repeats: int, share: float, rate: bool, seed: int) -> bool:
    """How often the intervals of a targeted rollout hold: b only in the north, where it is better, from logs of b at ``share``."""
    begin, rng = time.process_time(), np.random.default_rng(seed)
    held, narrow = {"ips": 0, "snips": 0, "dr": 0, "gain": 0}, []

    def mean(level: np.ndarray, north: np.ndarray, b: Any) -> Any:
        better = np.where(north, 0.06, -0.04) * b
        return 0.2 + 0.1 * np.tanh(level) + better if rate else 5 + level + 5 * better

    crowd, there = rng.standard_normal(10**6), rng.random(10**6) < 0.4
    truth = float(mean(crowd, there, there).mean())
    more = truth - float(mean(crowd, there, 0.0).mean())
    metric = ab.metric_of("event:buy" if rate else "event:buy:sum", "binary")
    for _ in range(repeats):
        level, north, b = rng.standard_normal(UNITS), rng.random(UNITS) < 0.4, rng.random(UNITS) < share
        expected = mean(level, north, b)
        value = (rng.random(UNITS) < expected) * 1.0 if rate else expected + rng.standard_normal(UNITS)
        with tempfile.TemporaryDirectory() as folder:
            ledger = open_ledger(f"sqlite:///{Path(folder) / 'ledger.db'}")
            project: Any = SimpleNamespace(ledger=ledger, contract=CONTRACT, release=lambda _: RELEASE)
            rollout.promote(ledger, "rest", "a", at=BEGAN, why="try", by="bench", challengers={"b": share})
            rows = {n: json.dumps({"level": level[n], "site": "north" if north[n] else "south"}) for n in range(UNITS)}
            for release, who, part in (("a", ~b, 1 - share), ("b", b, share)):
                answered(ledger, np.flatnonzero(who).tolist(), BEGAN + DAY, release, part, rows)
            spent(ledger, np.flatnonzero(value > 0).tolist() if rate else range(UNITS), BEGAN + 2 * DAY, value)
            found = ab_estimate.estimate(
                project, metric=metric, challenger=None, share=1.0, where=[ab_estimate.Condition.parse("site=north")],
                outlet="rest", now=BEGAN + 3 * DAY,
            )  # fmt: skip
            for kind, known in found.values.items():
                held[kind] += known.low <= truth <= known.high
            held["gain"] += found.gain.low <= more <= found.gain.high
            narrow.append(
                (found.values["dr"].high - found.values["dr"].low)
                / (found.values["snips"].high - found.values["snips"].low)
            )
            ledger.close()
    rates = {kind: count / repeats for kind, count in held.items()}
    bar = 0.95 - 2 * math.sqrt(0.95 * 0.05 / repeats)
    return line(
        case=f"another split: {name}", **rates, bar=round(bar, 4), units=UNITS, share=share, repeats=repeats, truth=round(truth, 4),
        gain_truth=round(more, 4), dr_width_of_snips=round(float(np.mean(narrow)), 3), ok=min(rates.values()) >= bar,
        cpu_s=round(time.process_time() - begin, 1),
    )  # fmt: skip


def main(repeats: int) -> int:
    good = looks("correlation .7", repeats, normal, 1, 0.51)
    good &= looks("correlation .7, half the units are new", repeats, lambda rng: normal(rng, 0.5), 2, 1 - 0.5 * 0.49)
    good &= looks("log-normal money", repeats, money, 3, None)
    good &= estimates("sums, logged at 50 %", repeats, 0.5, False, 4)
    good &= estimates("rates, logged at 20 %", repeats, 0.2, True, 5)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 300))
