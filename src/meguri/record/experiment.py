"""An online experiment of arm B (challenger) against arm A (champion), read at any time, as often as one likes.

A row is a unit, that is, what was split between the arms (a person, not a visit): units must be independent of each
other, and the planned split must not change while the experiment runs. Every interval holds at all looks together
with probability 1 - alpha, asymptotically, so to stop as soon as it decides is no error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from meguri.base.errors import DataError, GateError
from meguri.record.difference import covariate_tables, difference, moments
from meguri.record.sequence import units_to_reach, widening, widening_one_sided
from meguri.record.srm import ALPHA as SRM_ALPHA
from meguri.record.srm import Srm, srm

Floats = NDArray[np.float64]
Kind = Literal["rate", "mean", "ratio", "value"]
Decision = Literal["better", "worse", "equal enough", "unsure"]
GuardState = Literal["worse", "held", "unsure"]

# A skewed difference is not yet normal. Arms of 80:20 with long tails claim 4 % at this limit (bench/ab.py).
MOST_SKEW = 0.25
MEASURABLE = 1e-12  # a spread smaller than this part of the values is rounding


@dataclass(frozen=True)
class Plan:
    """What is settled before the first unit.

    ``alpha``: the share of experiments of equal arms in which a difference is ever claimed, two-sided. ``expected``:
    about how many units an arm will have when the experiment is decided; there the interval is narrowest. ``share``:
    the part of the units that B gets. Nothing is claimed before an arm has ``minimum`` units, and ``events``
    successes and failures are to be expected of it (for other metrics: effective units, see ``read_metric``).
    """

    alpha: float = 0.05
    expected: int = 5000
    share: float = 0.5
    minimum: int = 100
    events: int = 20
    srm_alpha: float = SRM_ALPHA

    def __post_init__(self) -> None:
        if not (0 < self.alpha < 0.5 and 0 < self.share < 1 and 0 < self.srm_alpha < 1):
            raise GateError(
                f"alpha {self.alpha}, share {self.share}, srm_alpha {self.srm_alpha}",
                fix="give shares above 0 and below 1 (alpha below .5)",
            )
        if self.expected <= 0 or self.minimum < 2 or self.events < 1:
            raise GateError(
                f"expected {self.expected}, minimum {self.minimum}, events {self.events}",
                fix="expect at least 1 unit, and demand at least 2 units and 1 event",
            )


@dataclass(frozen=True)
class Metric:
    """What is compared. ``minimum_effect`` and ``margin`` are differences in the metric's own unit (a rate: 0.01).

    ``minimum_effect``: a smaller difference does not matter. ``margin``: how much worse B may be where this metric is
    a guardrail. ``unit`` is for sentences only ("JPY", "ms"); a rate is told in points.
    """

    name: str
    kind: Kind = "mean"
    higher_is_better: bool = True
    minimum_effect: float = 0.0
    margin: float = 0.0
    unit: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("rate", "mean", "ratio", "value"):
            raise GateError(f"unknown kind {self.kind!r}", where=self.name, fix="rate, mean, ratio or value")
        if not (0 <= self.minimum_effect < math.inf and 0 <= self.margin < math.inf):
            raise GateError("a minimum effect or a margin below 0", where=self.name, fix="give its size, 0 or more")


@dataclass(frozen=True)
class Arm:
    """One arm's units: ``values`` (n,); ``denominators`` (n,) for a ratio; ``covariates`` (n,) or (n, k).

    Covariates must have been settled before the unit was split; NaN there says that nothing is known.
    """

    values: Floats
    denominators: Floats | None = None
    covariates: Floats | None = None


@dataclass(frozen=True)
class Reading:
    """One metric: B - A as ``estimate``, between ``low`` and ``high``, all in the metric's unit.

    ``value_a`` and ``value_b`` are the arms' plain values, ``error`` the standard error of the estimate, ``kept`` the
    part of the variance that covariates left. ``enough``: the minimum was reached; before, the interval is infinite.
    ``more_units``: about how many more units per arm settle it if estimate and variance stay, or, before the minimum,
    how many that needs; None: it cannot be said.
    """

    metric: Metric
    estimate: float
    low: float
    high: float
    error: float
    value_a: float
    value_b: float
    units_a: int
    units_b: int
    kept: float
    enough: bool
    decision: Decision
    safe_to_stop: bool
    more_units: int | None

    @property
    def gain(self) -> tuple[float, float, float]:
        """Estimate, low and high, turned so that above 0 is better."""
        if self.metric.higher_is_better:
            return self.estimate, self.low, self.high
        return -self.estimate, -self.high, -self.low


@dataclass(frozen=True)
class Guard:
    """A guardrail: ``worse`` when the gain lies below -margin for sure, ``held`` when above it for sure.

    ``loses_at_least`` and ``loses_at_most`` are one-sided limits of how much worse B is, in the metric's unit.
    """

    reading: Reading
    state: GuardState
    loses_at_least: float
    loses_at_most: float


@dataclass(frozen=True)
class Report:
    """The whole experiment: the ``primary`` metric, the guardrails, the split, and what follows from all three.

    ``decision`` is the primary's, but ``worse`` where a guardrail is worse for sure, and ``unsure`` where the split is
    not as planned, as the arms are then not comparable.
    """

    primary: Reading
    guards: tuple[Guard, ...]
    srm: Srm
    decision: Decision
    safe_to_stop: bool
    more_units: int | None
    plan: Plan = field(default_factory=Plan)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values; limits may be infinite."""
        return asdict(self)


def read_metric(metric: Metric, a: Arm, b: Arm, plan: Plan = Plan()) -> Reading:
    """Compare one metric, with an asymptotic confidence sequence about the difference of two means.

    A rate, a mean and a value are means per unit. A ratio is sum(values) / sum(denominators), each unit's part in it
    linearised as (y - R d) / mean(d) (the delta method; Deng, Knoblich and Lu, KDD 2018). The standard error is
    Welch's, after covariates (``difference.difference``); the interval reaches ``sequence.widening`` of it, on the
    clock of the harmonic mean of the arms' sizes, in which the difference gathers information whatever the split.
    Normality is asked of a rate by n min(p, 1 - p) >= ``plan.events`` in the smaller arm, p the pooled rate; of other
    metrics by n (mean |y - m|)^2 / mean (y - m)^2 >= ``plan.events`` (and so of a ratio's denominators), and by the
    skewness of the difference, (m3_B / n_B^2 - m3_A / n_A^2) / error^3 with the third central moments m3, of at most
    MOST_SKEW: equal arms cancel theirs, and heavy tails alone make a studentized mean no more often too large.
    DataError for values that are not finite, not 0 or 1 in a rate, or of other shapes.
    """
    arms = [_checked(metric, name, arm) for name, arm in (("A", a), ("B", b))]
    units = len(arms[0].values), len(arms[1].values)
    tables = covariate_tables(a.covariates, b.covariates, units, metric.name)
    parts = [_linear(arm) for arm in arms]
    found = difference(*(moments(part.rows, table) for part, table in zip(parts, tables, strict=True)))
    shift = parts[1].value - parts[0].value
    estimate = shift + float(found.estimate)
    error = float(found.error)
    short = _short_of(metric, arms, parts, plan)
    enough = short <= 1 and math.isfinite(error)
    low, high = -math.inf, math.inf
    if enough:
        reach = error * float(widening(_harmonic(units), alpha=plan.alpha, expected=plan.expected))
        low, high = estimate - reach, estimate + reach
    decision = _decide(metric, low, high)
    more = None
    if decision == "unsure":
        more = _more_units(metric, estimate, error, units, short, plan)
    return Reading(
        metric, estimate, low, high, error, parts[0].value, parts[1].value, *units, float(found.kept), enough,
        decision, decision != "unsure", 0 if decision != "unsure" else more,
    )  # fmt: skip


def read_guard(metric: Metric, a: Arm, b: Arm, plan: Plan = Plan(), *, alpha: float | None = None) -> Guard:
    """Is B worse by more than ``metric.margin``? A one-sided sequence each way, wrong with at most ``alpha`` each.

    ``alpha`` is the plan's if not given. Errors as ``read_metric``.
    """
    reading = read_metric(metric, a, b, plan)
    least, most = -math.inf, math.inf
    if reading.enough:
        clock = _harmonic((reading.units_a, reading.units_b))
        wide = widening_one_sided(clock, alpha=plan.alpha if alpha is None else alpha, expected=plan.expected)
        loss = -reading.gain[0]
        least, most = loss - reading.error * float(wide), loss + reading.error * float(wide)
    state: GuardState = "worse" if least > metric.margin else "held" if most < metric.margin else "unsure"
    return Guard(reading, state, least, most)


def read_experiment(
    primary: Metric,
    a: Arm,
    b: Arm,
    guards: Sequence[tuple[Metric, Arm, Arm]] = (),
    *,
    plan: Plan = Plan(),
    assigned: tuple[int, int] | None = None,
    srm_before: float = 1.0,
) -> Report:
    """Read the primary metric, all guardrails and the split.

    ``assigned`` counts the units given to A and to B, also those that left no value; the arms' sizes if not given.
    ``srm_before`` is the split's p-value at the look before. alpha is divided among the guardrails, so that any false
    "worse" among them has probability at most alpha. Errors as ``read_metric`` and ``srm``.
    """
    reading = read_metric(primary, a, b, plan)
    read = tuple(read_guard(m, ga, gb, plan, alpha=plan.alpha / len(guards)) for m, ga, gb in guards)
    counts = assigned or (reading.units_a, reading.units_b)
    split = srm(counts, (1 - plan.share, plan.share), alpha=plan.srm_alpha, before=srm_before)
    if split.found:
        return Report(reading, read, split, "unsure", False, None, plan)
    if any(guard.state == "worse" for guard in read):
        return Report(reading, read, split, "worse", True, 0, plan)
    return Report(reading, read, split, reading.decision, reading.safe_to_stop, reading.more_units, plan)


def decide(low: float, high: float, minimum_effect: float = 0.0) -> Decision:
    """What limits of the gain say: ``equal enough`` within the minimum effect, else ``better`` or ``worse`` beside 0."""
    if -minimum_effect < low and high < minimum_effect:
        return "equal enough"
    return "better" if low > 0 else "worse" if high < 0 else "unsure"


def _decide(metric: Metric, low: float, high: float) -> Decision:
    limits = (low, high) if metric.higher_is_better else (-high, -low)
    return decide(*limits, metric.minimum_effect)


def _harmonic(units: tuple[int, int]) -> float:
    return 2 / (1 / units[0] + 1 / units[1])


def _more_units(
    metric: Metric, estimate: float, error: float, units: tuple[int, int], short: float, plan: Plan
) -> int | None:
    """Units missing per arm (their mean, the split kept): to the minimum, or from there until the interval decides."""
    grown: float | None = short
    if short <= 1:
        now = _harmonic(units)
        target = max(abs(estimate), metric.minimum_effect - abs(estimate))
        then = units_to_reach(target, error, now, alpha=plan.alpha, expected=plan.expected)
        grown = None if then is None else then / now
    elif not math.isfinite(short):  # of a metric that has not varied only the minimum is known
        return plan.minimum - min(units) if min(units) < plan.minimum else None
    return None if grown is None else max(math.ceil((grown - 1) * sum(units) / 2), 1)


@dataclass(frozen=True)
class _Part:
    """An arm's value, each unit's part in it, (n,), with mean 0, and the size of the numbers it was computed from."""

    value: float
    rows: Floats
    size: float


def _linear(arm: Arm) -> _Part:
    if not len(arm.values):
        return _Part(math.nan, arm.values, 0.0)
    mean, size = float(arm.values.mean()), float(np.abs(arm.values).max())
    if arm.denominators is None:
        return _Part(mean, arm.values - mean, size)
    below = float(arm.denominators.mean())
    if below <= 0:
        return _Part(math.nan, np.full(len(arm.values), np.nan), 0.0)
    return _Part(mean / below, (arm.values - mean / below * arm.denominators) / below, size / below)


def _short_of(metric: Metric, arms: list[Arm], parts: list[_Part], plan: Plan) -> float:
    """How many times the units it takes until the normal approximation may be trusted: at most 1 when it may."""
    small = min(len(arm.values) for arm in arms)
    if small < 2:
        return math.inf
    grown = plan.minimum / small
    # Both arms are pooled, as an arm may have no event at all, and just that must be found out.
    if metric.kind == "rate":
        rate = float(np.concatenate([arm.values for arm in arms]).mean())
        even = min(rate, 1 - rate)
        return max(grown, plan.events / (small * even)) if even > 0 else math.inf
    rows = np.concatenate([part.rows for part in parts])
    top = float(np.abs(rows).max())
    if not top > MEASURABLE * max(part.size for part in parts):  # constant, or no number
        return math.inf
    grown = max(grown, plan.events / (small * _effective(rows / top)))
    for arm in arms:
        if arm.denominators is not None:
            grown = max(grown, plan.events / (small * _effective(arm.denominators)))
    scaled = [part.rows / top for part in parts]
    second = sum(float((x * x).mean()) / len(x) for x in scaled)
    lean = [float((x * x * x).mean()) / len(x) / len(x) for x in scaled]
    return max(grown, (lean[1] - lean[0]) ** 2 / second**3 / MOST_SKEW**2)


def _effective(rows: Floats) -> float:
    """The part of the units that count, (sum |x|)^2 / (n sum x^2): 1 when all are equally large."""
    return float(np.abs(rows).mean()) ** 2 / float((rows * rows).mean())


def _checked(metric: Metric, name: str, arm: Arm) -> Arm:
    where = f"{metric.name}, arm {name}"
    values = np.asarray(arm.values, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise DataError("values are not one finite number for each unit", where=where, fix="drop or fill missing ones")
    if metric.kind == "rate" and not np.isin(values, (0.0, 1.0)).all():
        raise DataError("a rate's values are not all 0 or 1", where=where, fix="use kind 'mean' or 'ratio'")
    if (metric.kind == "ratio") != (arm.denominators is not None):
        raise DataError("a ratio needs denominators, and nothing else has them", where=where, fix="use kind 'ratio'")
    if arm.denominators is None:
        return Arm(values, None, arm.covariates)
    below = np.asarray(arm.denominators, dtype=np.float64)
    if below.shape != values.shape or not (np.isfinite(below) & (below >= 0)).all():
        raise DataError("denominators are not one number of 0 or more for each unit", where=where, fix="check them")
    return Arm(values, below, arm.covariates)
