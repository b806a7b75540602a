"""Is the experiment split as planned? A test of the sample ratio that holds at every look.

Lindon and Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022: the Bayes factor of a
Dirichlet-multinomial alternative against the planned shares is a martingale when the shares are true, so that it ever
exceeds 1 / alpha with probability at most alpha (Ville).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meguri.base.errors import DataError, GateError

Floats = NDArray[np.float64]

ALPHA = 0.001
# How closely the alternative clusters about the planned shares: 100 is a deviation of 5 points about one half. Real
# mismatches are small: 52:48 is found after 11,700 units on average, with a flat prior (2) after 14,500.
CONCENTRATION = 100.0

_lgamma = np.frompyfunc(math.lgamma, 1, 1)


@dataclass(frozen=True)
class Srm:
    """``p``: the anytime-valid p-value; ``found``: it is at most ``alpha``; ``counts`` seen and ``shares`` planned."""

    p: float
    found: bool
    counts: tuple[int, ...]
    shares: tuple[float, ...]
    alpha: float = ALPHA


def srm_log_bayes(counts: ArrayLike, shares: Sequence[float], *, concentration: float = CONCENTRATION) -> Floats:
    """The log Bayes factor against the planned ``shares``; ``counts`` (..., arms) gives (...), natural log.

    log Gamma(c) / Gamma(c + n) + sum_i [log Gamma(c s_i + n_i) / Gamma(c s_i) - n_i log s_i], with
    n_i counts, s_i planned shares, c ``concentration``. DataError for counts that are negative, not whole or not one
    an arm; GateError for shares that are not above 0 or do not sum to 1, or a concentration not above 0.
    """
    seen = np.asarray(counts, dtype=np.float64)
    plan = np.asarray(shares, dtype=np.float64)
    if plan.ndim != 1 or len(plan) < 2 or not (plan > 0).all() or abs(float(plan.sum()) - 1) > 1e-9:
        raise GateError(f"planned shares {tuple(shares)}", fix="give each arm a share above 0; together they are 1")
    if not concentration > 0 or not math.isfinite(concentration):
        raise GateError(f"concentration {concentration}", fix="give a number above 0, such as 100")
    if seen.ndim == 0 or seen.shape[-1] != len(plan) or not (np.isfinite(seen) & (seen >= 0) & (seen % 1 == 0)).all():
        raise DataError("counts are not whole numbers, one an arm", fix=f"count the units of each of {len(plan)} arms")
    prior = concentration * plan
    gain = _log_gamma(prior + seen) - _log_gamma(prior) - seen * np.log(plan)
    total: Floats = gain.sum(axis=-1) + math.lgamma(concentration) - _log_gamma(concentration + seen.sum(axis=-1))
    return total


def _log_gamma(x: ArrayLike) -> Floats:
    return np.asarray(_lgamma(np.asarray(x, dtype=np.float64)), dtype=np.float64)


def srm(
    counts: Sequence[int],
    shares: Sequence[float] = (0.5, 0.5),
    *,
    alpha: float = ALPHA,
    concentration: float = CONCENTRATION,
    before: float = 1.0,
) -> Srm:
    """Test units counted (one number an arm) against the planned shares; look as often as you like.

    ``before``: the p-value of the look before. The smallest so far is valid too, so a mismatch once found
    stays found. Errors as ``srm_log_bayes``; GateError for alpha outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise GateError(f"alpha is {alpha}, not between 0 and 1", fix="give the share of false alarms, such as 0.001")
    evidence = float(srm_log_bayes(counts, shares, concentration=concentration))
    p = min(before, math.exp(-max(evidence, 0.0)))
    return Srm(p, p <= alpha, tuple(int(n) for n in counts), tuple(float(s) for s in shares), alpha)
