"""Measure the online experiment by simulation: false claims, units until it stops, and the test of the split.

Run: python bench/ab.py [repeats]. One JSON line a case, one core. Each experiment is looked at 100 times over 20,000 units an
arm. All repeats are read at once with the library's own ``difference``, ``widening`` and ``srm_log_bayes`` on running
moments; for a few of them ``read_metric`` on the rows themselves must say the same at every tenth look.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")

import numpy as np  # noqa: E402

from meguri.record.difference import Moments, difference  # noqa: E402
from meguri.record.experiment import Arm, Metric, Plan, read_metric  # noqa: E402
from meguri.record.sequence import widening  # noqa: E402
from meguri.record.srm import ALPHA, srm, srm_log_bayes  # noqa: E402
from meguri.record.stats import normal_quantile  # noqa: E402

UNITS, LOOKS = 20_000, 100
PLAN = Plan()
Z = normal_quantile(1 - PLAN.alpha / 2)
EFFECT = (Z + normal_quantile(0.8)) * math.sqrt(2 / UNITS)  # in deviations: 80 % power for a fixed test of UNITS an arm
WATCHED = 3  # repeats whose rows are kept, to prove that the moments are read as the rows are
Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]  # (repeats, units) -> (repeats, units, 1 + k)


@dataclass(frozen=True)
class Run:
    """What every repeat did: (repeats,) whether and at how many units an arm each method first claimed something."""

    claimed: np.ndarray
    stopped: np.ndarray
    z_claimed: np.ndarray
    seconds: float


def simulate(repeats: int, draw_a: Draw, draw_b: Draw, *, kind: str = "mean", seed: int = 1) -> Run:
    """Look LOOKS times at ``repeats`` experiments; where an arm lacks the plan's minimum nothing is claimed."""
    begun, rng = time.process_time(), np.random.default_rng(seed)
    step = UNITS // LOOKS
    totals: list[tuple[np.ndarray, np.ndarray] | None] = [None, None]
    rows: list[list[np.ndarray]] = [[], []]
    stopped = np.full(repeats, 0)
    z_claimed = np.zeros(repeats, dtype=bool)
    for look in range(1, LOOKS + 1):
        n = look * step
        arms = []
        for i, draw in enumerate((draw_a, draw_b)):
            new = draw(rng, (repeats, step))
            rows[i].append(new[:WATCHED])
            sums, squares = new.sum(axis=1), new.swapaxes(1, 2) @ new
            before = totals[i]
            if before is not None:
                sums, squares = sums + before[0], squares + before[1]
            totals[i] = sums, squares
            mean = sums / n
            arms.append(Moments(n, mean, (squares - n * mean[:, :, None] * mean[:, None, :]) / (n - 1)))
        found = difference(*arms)
        reach = found.error * widening(n, alpha=PLAN.alpha, expected=PLAN.expected)
        enough = np.full(repeats, n >= PLAN.minimum)
        if kind == "rate":
            pooled = (arms[0].mean[:, 0] + arms[1].mean[:, 0]) / 2
            enough &= n * np.minimum(pooled, 1 - pooled) >= PLAN.events
        stopped = np.where((stopped == 0) & enough & (np.abs(found.estimate) > reach), n, stopped)
        z_claimed |= np.abs(found.estimate) > Z * found.error
        if look % 10 == 0:
            prove(kind, rows, enough, found.estimate, reach)
    claimed = stopped > 0
    return Run(claimed, np.where(claimed, stopped, UNITS), z_claimed, round(time.process_time() - begun, 1))


def prove(kind: str, rows: list[list[np.ndarray]], enough: np.ndarray, estimate: np.ndarray, reach: np.ndarray) -> None:
    """The library, given the rows, says what the moments said."""
    for i in range(min(WATCHED, len(estimate))):
        tables = [np.concatenate([part[i] for part in arm]) for arm in rows]
        arms = [Arm(t[:, 0], None, t[:, 1:] if t.shape[1] > 1 else None) for t in tables]
        reading = read_metric(Metric("m", "rate" if kind == "rate" else "mean"), *arms, plan=PLAN)
        assert reading.enough == enough[i], "the minimum differs"
        if enough[i]:
            limits = [estimate[i] - reach[i], estimate[i] + reach[i]]
            assert np.allclose([reading.low, reading.high], limits, rtol=0, atol=1e-9), "the limits differ"


def normal(shift: float) -> Draw:
    return lambda rng, shape: (rng.standard_normal(shape) + shift)[..., None]


def with_covariate(shift: float, correlation: float) -> Draw:
    """Deviation 1 and a covariate of this correlation, known before."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        table = np.empty((*shape, 2))
        table[..., 1] = rng.standard_normal(shape)
        noise = rng.standard_normal(shape) * math.sqrt(1 - correlation**2)
        table[..., 0] = shift + correlation * table[..., 1] + noise
        return table

    return draw


def events(rate: float) -> Draw:
    return lambda rng, shape: (rng.random(shape) < rate)[..., None].astype(np.float64)


def line(**facts: object) -> bool:
    print(json.dumps(facts), flush=True)
    return bool(facts["ok"])


def false_claims(name: str, repeats: int, draw: Draw, *, kind: str = "mean", seed: int) -> bool:
    run = simulate(repeats, draw, draw, kind=kind, seed=seed)
    rate = float(run.claimed.mean())
    return line(
        case=f"false claims: {name}", rate=rate, bar=PLAN.alpha, z_test_at_each_look=float(run.z_claimed.mean()),
        looks=LOOKS, units_per_arm=UNITS, repeats=repeats, ok=rate <= PLAN.alpha, cpu_s=run.seconds,
    )  # fmt: skip


def spend(rng: np.random.Generator, units: int) -> np.ndarray:
    """Money: one unit in ten spends, and what it spends is log-normal with a long tail."""
    return np.where(rng.random(units) < 0.1, np.exp(1.5 * rng.standard_normal(units)), 0.0)


def false_claims_by_rows(name: str, repeats: int, share: float, looks: int = 20) -> bool:
    """Skewed values in unequal arms, read by ``read_metric`` on the rows at each look until it decides."""
    begun, rng, claimed, ever = time.process_time(), np.random.default_rng(6), 0, 0
    plan = Plan(share=share)
    metric = Metric("spend", "value")
    for _ in range(repeats):
        values, in_b = spend(rng, 2 * UNITS), rng.random(2 * UNITS) < share
        enough = False
        for look in range(1, looks + 1):
            seen = slice(0, 2 * UNITS * look // looks)
            reading = read_metric(metric, Arm(values[seen][~in_b[seen]]), Arm(values[seen][in_b[seen]]), plan)
            enough |= reading.enough
            if reading.safe_to_stop:
                claimed += 1
                break
        ever += enough
    rate, error = claimed / repeats, math.sqrt(PLAN.alpha * (1 - PLAN.alpha) / repeats)
    return line(
        case=f"false claims: {name}", rate=rate, bar=PLAN.alpha, monte_carlo_error=round(error, 4), looks=looks,
        repeats=repeats, reached_the_minimum=ever, ok=rate <= PLAN.alpha, cpu_s=round(time.process_time() - begun, 1),
    )  # fmt: skip


def power(repeats: int) -> bool:
    """Twice the effect of 80 % power: a fixed test planned for it would need 5,000 an arm."""
    plain = simulate(repeats, normal(0.0), normal(2 * EFFECT), seed=3)
    mean = float(plain.stopped.mean())
    good = line(
        case="units until it stops: twice the effect", mean_units_per_arm=round(mean, 1), bar=6241,
        p10_p50_p90=[int(q) for q in np.quantile(plain.stopped, [0.1, 0.5, 0.9])],
        stopped=float(plain.claimed.mean()), expected=PLAN.expected, repeats=repeats, ok=mean <= 6241, cpu_s=plain.seconds,
    )  # fmt: skip
    less = simulate(repeats, with_covariate(0.0, 0.7), with_covariate(2 * EFFECT, 0.7), seed=4)
    part = float(less.stopped.mean()) / mean
    return good & line(
        case="units until it stops: covariate of correlation .7", mean_units_per_arm=round(float(less.stopped.mean()), 1),
        part_of_plain=round(part, 4), bar=0.6, stopped=float(less.claimed.mean()), repeats=repeats, ok=part <= 0.6,
        cpu_s=less.seconds,
    )  # fmt: skip


def split(repeats: int, share: float, units: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """For each repeat: was a mismatch found at any look, and at how many units in all."""
    rng = np.random.default_rng(seed)
    step = units // LOOKS
    seen = rng.binomial(step, share, (repeats, LOOKS)).cumsum(axis=1)
    sizes = step * np.arange(1, LOOKS + 1)
    evidence = srm_log_bayes(np.stack([sizes - seen, seen], axis=-1), (0.5, 0.5))
    for i in range(WATCHED):
        p = 1.0
        for j in range(LOOKS):
            p = srm((int(sizes[j] - seen[i, j]), int(seen[i, j])), before=p).p
        assert math.isclose(p, math.exp(-max(float(evidence[i].max()), 0.0)), rel_tol=1e-9), "the p-values differ"
    over = evidence >= -math.log(ALPHA)
    return over.any(axis=1), np.where(over.any(axis=1), sizes[over.argmax(axis=1)], units)


def mismatches(repeats: int) -> bool:
    begun = time.process_time()
    found, when = split(repeats, 0.48, 50_000, 7)
    good = line(
        case="split 52:48 found within 50,000 units", rate=float(found.mean()), bar=0.999,
        mean_units=round(float(when.mean())), repeats=repeats, ok=float(found.mean()) >= 0.999,
        cpu_s=round(time.process_time() - begun, 1),
    )  # fmt: skip
    begun = time.process_time()
    rate = float(split(repeats, 0.5, 2 * UNITS, 8)[0].mean())
    return good & line(
        case="split false alarms", rate=rate, bar=0.01, alpha=ALPHA, looks=LOOKS, units=2 * UNITS, repeats=repeats,
        ok=rate <= 0.01, cpu_s=round(time.process_time() - begun, 1),
    )  # fmt: skip


def main(repeats: int) -> int:
    good = false_claims("means", repeats, normal(0.0), seed=1)
    good &= false_claims("rates of 10 %", repeats, events(0.1), kind="rate", seed=2)
    good &= false_claims("rates of 0.2 %", repeats, events(0.002), kind="rate", seed=5)
    good &= false_claims("means with a covariate", repeats, with_covariate(0.0, 0.7), seed=9)
    good &= false_claims_by_rows("skewed money", max(repeats // 10, 50), 0.5)
    good &= false_claims_by_rows("skewed money, arms 80:20", max(repeats // 10, 50), 0.2)
    good &= power(repeats)
    good &= mismatches(repeats)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000))
