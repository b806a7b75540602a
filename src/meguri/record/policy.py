"""What another policy would have earned, from rows logged by the policy that acted and its propensities.

Off-policy evaluation for a policy that does not look at what it was rewarded for: each row is one action, the
probability with which it was taken, and the probability with which the other policy would have taken it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meguri.base.errors import DataError, GateError
from meguri.record.stats import normal_quantile

Floats = NDArray[np.float64]
Estimator = Literal["ips", "snips", "dr"]

FOLDS = 5
MIN_EFFECTIVE = 50.0  # effective samples below which no normal interval is given


@dataclass(frozen=True)
class PolicyValue:
    """The mean reward per row of the other policy, ``value``, between ``low`` and ``high``, in the reward's unit.

    ``effective`` is the effective sample size, ``largest_weight`` the largest w = target / logged, ``mean_weight``
    their mean, near 1 where the propensities are right (on average the weights of any policy that the logged one
    covers are 1). ``enough``: the interval may be trusted; without that a normal one is infinite.
    """

    estimator: Estimator
    interval: Literal["normal", "bernstein"]
    value: float
    low: float
    high: float
    error: float
    alpha: float
    rows: int
    effective: float
    largest_weight: float
    mean_weight: float
    enough: bool


def importance_weights(logged: ArrayLike, target: ArrayLike) -> Floats:
    """w = target / logged, (n,), of the action taken in each row, both probabilities (n,).

    DataError where a logged propensity is 0, below, above 1 or missing, a target's is not in [0, 1], or shapes differ.
    """
    done, wanted = _column("logged propensities", logged), _column("target propensities", target)
    if done.shape != wanted.shape or not len(done):
        raise DataError(
            f"{len(done)} logged propensities and {len(wanted)} of the target", fix="give one of each for every row"
        )
    for name, column, bad in (
        ("logged propensity", done, ~((done > 0) & (done <= 1))),
        ("target propensity", wanted, ~((wanted >= 0) & (wanted <= 1))),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(
                f"a {name} is {column[row]}, in {int(bad.sum())} of {len(column)} rows",
                where=f"row {row}",
                fix="log the probability with which the action was taken, above 0 and at most 1"
                if column is done
                else "give the probability with which the target policy takes the logged action, from 0 to 1",
            )
    return wanted / done


def effective_samples(weights: Floats) -> float:
    """(sum w)^2 / sum w^2 (Kish 1965; Owen, Monte Carlo theory, methods and examples, section 9.3); 0 for no weight."""
    top = float(weights.max(initial=0.0))
    if top <= 0:
        return 0.0
    scaled = weights / top
    return float(scaled.sum() ** 2 / (scaled @ scaled))


def ips(
    rewards: ArrayLike,
    logged: ArrayLike,
    target: ArrayLike,
    *,
    alpha: float = 0.05,
    largest_weight: float | None = None,
    reward_range: tuple[float, float] | None = None,
) -> PolicyValue:
    """Inverse propensity scoring: mean(w r) (Horvitz and Thompson 1952), all arrays (n,). Unbiased.

    The interval is normal; given ``largest_weight`` (a bound known beforehand, not the largest seen) and
    ``reward_range``, it is the empirical Bernstein bound of Maurer and Pontil (COLT 2009, theorem 4) for each side at
    alpha / 2, which holds for any number of rows: sqrt(2 v log(4 / alpha) / n) + 7 R log(4 / alpha) / (3 (n - 1)), v
    the sample variance of w r and R its range. Errors as ``importance_weights``; DataError for rewards that are
    missing or outside the range, or weights above the bound; GateError for one of the two bounds alone.
    """
    weights, gained = _rows(rewards, logged, target)
    parts = weights * gained
    if largest_weight is None and reward_range is None:
        return _normal("ips", float(parts.mean()), parts - parts.mean(), weights, gained, alpha)
    if largest_weight is None or reward_range is None:
        raise GateError(
            "a Bernstein interval needs both bounds", where="ips", fix="give largest_weight and reward_range"
        )
    low, high = reward_range
    if float(weights.max()) > largest_weight or float(gained.min()) < low or float(gained.max()) > high:
        raise DataError(
            f"weights up to {weights.max():.6g} and rewards from {gained.min():.6g} to {gained.max():.6g} break their bounds",
            where="ips",
            fix="give bounds that were known before the rows",
        )
    made = _normal("ips", float(parts.mean()), parts - parts.mean(), weights, gained, alpha)
    n, scope = len(parts), largest_weight * (max(high, 0.0) - min(low, 0.0))
    if n < 2:
        return PolicyValue(**{**vars(made), "interval": "bernstein"})
    log = math.log(4 / alpha)
    reach = float(parts.std(ddof=1)) * math.sqrt(2 * log / n) + 7 * scope * log / (3 * (n - 1))
    return PolicyValue(
        **{**vars(made), "interval": "bernstein", "low": made.value - reach, "high": made.value + reach, "enough": True}
    )


def snips(rewards: ArrayLike, logged: ArrayLike, target: ArrayLike, *, alpha: float = 0.05) -> PolicyValue:
    """Self-normalised IPS: sum(w r) / sum(w) (Swaminathan and Joachims, NIPS 2015), all arrays (n,).

    Steadier than IPS, its bias vanishing as 1 / n; the normal interval's error is the delta method's, from
    w (r - value) / mean(w). Errors as ``ips``; DataError where every weight is 0.
    """
    weights, gained = _rows(rewards, logged, target)
    mean = float(weights.mean())
    if mean <= 0:
        raise DataError("the target policy takes none of the logged actions", fix="log a policy that explores")
    value = float((weights * gained).mean()) / mean
    return _normal("snips", value, weights * (gained - value) / mean, weights, (gained - value) / mean, alpha)


def doubly_robust(
    rewards: ArrayLike,
    logged: ArrayLike,
    target: ArrayLike,
    action_estimates: ArrayLike,
    policy_estimates: ArrayLike,
    *,
    alpha: float = 0.05,
) -> PolicyValue:
    """Doubly robust: mean(q_target + w (r - q_taken)) (Dudik, Langford and Li, ICML 2011), all arrays (n,).

    ``action_estimates``: the estimated reward of the action taken; ``policy_estimates``: that of the target policy,
    sum over actions of its probability times the estimate. Estimates must come from other rows, or from cross-fitting.
    Errors as ``ips``.
    """
    weights, gained = _rows(rewards, logged, target)
    taken, policy = _column("action estimates", action_estimates), _column("policy estimates", policy_estimates)
    for name, column in (("action", taken), ("policy", policy)):
        if len(column) != len(weights) or not np.isfinite(column).all():
            raise DataError(f"{name} estimates are not one finite number for each row", fix="estimate every row")
    parts = policy + weights * (gained - taken)
    return _normal("dr", float(parts.mean()), parts - parts.mean(), weights, gained - taken, alpha)


def doubly_robust_gain(
    rewards: ArrayLike,
    logged: ArrayLike,
    target: ArrayLike,
    baseline: ArrayLike,
    action_estimates: ArrayLike,
    policy_estimates: ArrayLike,
    baseline_estimates: ArrayLike,
    *,
    alpha: float = 0.05,
) -> PolicyValue:
    """How much more the target policy earns per row than the ``baseline`` policy: two ``doubly_robust`` values on the same rows.

    All arrays (n,): as there, and the baseline's probability of the action taken and its estimated reward. What both would have
    done alike cancels, so the interval is that of the rows on which they differ; the weights told are |w - w_baseline|.
    Errors as ``ips``; DataError where the two never differ.
    """
    weights, gained = _rows(rewards, logged, target)
    apart = weights - importance_weights(logged, baseline)
    if not apart.any():
        raise DataError(
            "the two policies never differ in the logged rows", fix="ask for a policy that does something else"
        )
    columns = (action_estimates, policy_estimates, baseline_estimates)
    taken, policy, other = (_column("estimates", column) for column in columns)
    if not all(len(column) == len(weights) and np.isfinite(column).all() for column in (taken, policy, other)):
        raise DataError("estimates are not one finite number for each row", fix="estimate every row")
    parts = policy - other + apart * (gained - taken)
    return _normal("dr", float(parts.mean()), parts - parts.mean(), np.abs(apart), gained - taken, alpha)


def cross_fitted(table: Floats, rewards: Floats, arms: NDArray[np.int64], count: int) -> Floats:
    """Each row's estimated reward under each arm, (n, count), from a linear model of each arm fitted on other rows.

    ``table`` (n, k): what is known of a row before it was answered, NaN for what is not; ``arms`` (n,): who answered, 0 to count - 1.
    Every fifth row is estimated from the other four fifths (cross-fitting; Chernozhukov et al., Econometrics Journal 2018). Columns
    are scaled, a missing value is the mean with a column that says so, and slopes are drawn to 0 by a ridge of one row's weight a
    column. An arm without rows is estimated by all rows. A bad model costs width, never truth: the propensities are known.
    """
    gone = np.isnan(table)
    known = np.where(gone, 0.0, table).sum(axis=0) / np.maximum((~gone).sum(axis=0), 1)
    filled = np.column_stack([np.where(gone, known, table), gone[:, gone.any(axis=0)]]) - 0.0
    filled -= filled.mean(axis=0)
    size = filled.std(axis=0)
    design = np.column_stack([np.ones(len(filled)), filled[:, size > 0] / size[size > 0]])
    ridge = np.eye(design.shape[1])
    ridge[0, 0] = 0.0
    fold, made = np.arange(len(rewards)) % FOLDS, np.empty((len(rewards), count))
    for out in range(FOLDS):
        for arm in range(count):
            used = (fold != out) & (arms == arm)
            used = used if used.any() else fold != out
            x, y = design[used], rewards[used]
            mean = float(y.mean()) if len(y) else 0.0
            slopes = np.linalg.lstsq(x.T @ x + ridge, x.T @ (y - mean), rcond=None)[0]
            made[fold == out, arm] = mean + design[fold == out] @ slopes
    return made


def _normal(
    name: Estimator, value: float, influence: Floats, weights: Floats, residuals: Floats, alpha: float
) -> PolicyValue:
    """z errors to each side of a mean, from each row's influence on it, (n,), with mean 0.

    Where rewards are rare, hardly one has been seen at a large weight, and the influences' own second moment is mostly
    too small: 95 % intervals for clicks of 0.5 % then hold in as few as 76 of 100 simulated logs. So that of weights
    and residuals apart, mean(w^2) mean(e^2), stands for it where it is larger; they then hold in 98 and more.
    """
    if not 0 < alpha < 1:
        raise GateError(f"alpha is {alpha}, not between 0 and 1", fix="give a share such as 0.05")
    n = len(weights)
    effective = effective_samples(weights)
    enough = n > 1 and effective >= MIN_EFFECTIVE
    apart = float((weights * weights).mean()) * float((residuals * residuals).mean())
    error = math.sqrt(max(float((influence * influence).mean()), apart) / (n - 1)) if n > 1 else math.inf
    reach = normal_quantile(1 - alpha / 2) * error if enough else math.inf
    return PolicyValue(
        name, "normal", value, value - reach, value + reach, error, alpha, n, effective, float(weights.max()),
        float(weights.mean()), enough,
    )  # fmt: skip


def _column(name: str, values: ArrayLike) -> Floats:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1:
        raise DataError(f"{name} have shape {column.shape}", fix="give one number for each row")
    return column


def _rows(rewards: ArrayLike, logged: ArrayLike, target: ArrayLike) -> tuple[Floats, Floats]:
    weights, gained = importance_weights(logged, target), _column("rewards", rewards)
    if len(gained) != len(weights) or not np.isfinite(gained).all():
        raise DataError(
            f"{len(gained)} rewards for {len(weights)} rows, or one that is not finite", fix="give one for each row"
        )
    return weights, gained
