"""What the gate says: pass, fail or unsure, with the figures and one sentence that gives the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from meguri.base.errors import GateError
from meguri.base.money import money
from meguri.record.stats import MIN_BLOCKS, Estimate

Result = Literal["pass", "fail", "unsure"]


@dataclass(frozen=True)
class Check:
    """One guard metric or slice: ``worse`` when the upper limit of its gain lies below -margin; None: too few rows."""

    name: str
    metric: str
    margin: float
    rows: int
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    worse: bool | None = None


@dataclass(frozen=True)
class Verdict:
    """What the gate says. ``gain`` > 0: the challenger is better, in the metric's unit; ``low`` and ``high`` limit it.

    ``level`` is the probability with which each limit may be wrong, after the test-set budget; ``blocks`` the
    effective number of independent blocks; ``rows_needed`` is there when the result is unsure and more rows help.
    ``currency`` is there when the metric is money.
    """

    result: Result
    reason: str
    metric: str
    gain: float
    low: float | None
    high: float | None
    rows: int
    rows_needed: int | None
    checks: tuple[Check, ...] = ()
    margin: float = 0.0
    level: float = 0.05
    blocks: float = 0.0
    currency: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON can hold it."""
        return asdict(self) | {"checks": [asdict(check) for check in self.checks]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Verdict:
        """What ``to_dict`` gave; GateError for anything else."""
        try:
            return cls(**{**value, "checks": tuple(Check(**check) for check in value["checks"])})
        except (TypeError, KeyError) as error:
            raise GateError(f"this is no verdict: {error}", fix="judge again") from error


def tell(
    main: Estimate,
    *,
    metric: str,
    margin: float,
    level: float,
    checks: tuple[Check, ...],
    needed: int | None,
    alone: bool,
    currency: str | None = None,
) -> Verdict:
    """The verdict that limits and checks lead to, with its reason; the rules are ``judge``'s."""

    def size(value: float, of: str = metric) -> str:
        return money(value, currency) if of == "value" and currency else f"{value:.3g}"

    def amount(gain: float, of: str = metric) -> str:
        return "the same as" if gain == 0 else f"{size(abs(gain), of)} {'better' if gain > 0 else 'worse'} than"

    low, high = main.limits(level)
    worse = [check for check in checks if check.worse]
    rival = "the best constant answer" if alone else "the champion"
    sure = f"{100 * (1 - level):.4g} % confidence"
    what = f"{words(metric)} is {amount(main.value)} {rival} on {main.rows:,} rows"
    accepted = "" if alone else f", where {size(margin)} is accepted"
    more = f"; about {needed:,} rows would settle it" if needed else ""
    result: Result = "unsure"
    if main.blocks >= MIN_BLOCKS and high < -margin:
        result, reason = "fail", f"{what}, with {sure} at least {size(-high)} worse{accepted}"
    elif worse:
        named = "; ".join(
            f"{words(c.metric)}{'' if c.name == c.metric else f' where {c.name}'} is {amount(c.gain or 0.0, c.metric)} {rival}"
            f" on {c.rows:,} rows"
            for c in worse
        )
        result, reason = "fail", f"shown worse than its margin allows: {named}"
    elif main.blocks < MIN_BLOCKS:
        shown = f"{main.blocks:.2g} independent blocks of time or groups, and {MIN_BLOCKS} are the least"
        reason = f"{what}, but they make {shown}{more}"
    elif low > -margin:
        worst = "no worse" if low == 0 else f"at most {size(-low)} worse{accepted}"
        bound = f"at least {size(low)} better" if low > 0 else worst
        result, reason = "pass", f"{what}, with {sure} {bound}"
    else:
        reason = f"{what}, but with {sure} it may be anything from {amount(low)} to {amount(high)} it{more}"
    return Verdict(
        result,
        reason,
        metric,
        main.value,
        finite(low),
        finite(high),
        main.rows,
        needed if result == "unsure" else None,
        checks,
        margin,
        level,
        main.blocks,
        currency if metric == "value" else None,
    )


def finite(value: float) -> float | None:
    """The number, or None where JSON has none."""
    return value if math.isfinite(value) else None


def words(metric: str) -> str:
    """The metric's name as people write it."""
    if metric == "value":
        return "value per answer"
    return metric.replace("_", " ") if metric not in ("auc", "mae", "rmse") else metric.upper()
