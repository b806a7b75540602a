"""How wide an interval must be so that it holds at every look: asymptotic confidence sequences for a mean.

"WS" below is Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic
confidence sequences", Annals of Statistics 2024.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meguri.base.errors import GateError

Floats = NDArray[np.float64]

MOST_UNITS = 2**50  # nobody has more; beyond it the answer to "how many more?" is "it will not settle"


@lru_cache(maxsize=256)
def peak(alpha: float) -> float:
    """The x = n rho^2 at which ``sqrt((1 + 1/x) log((1 + x) / alpha^2))`` is least; no unit.

    There log((1 + x) / alpha^2) = x, which WS (appendix on tuning rho) solve by Lambert's W and iteration solves too.
    GateError unless 0 < alpha < 1.
    """
    if not 0 < alpha < 1:
        raise GateError(f"alpha is {alpha}, not between 0 and 1", fix="give the share of false claims, such as 0.05")
    x = 1.0
    for _ in range(200):
        x = math.log1p(x) - 2 * math.log(alpha)
    return x


def widening(units: ArrayLike, *, alpha: float = 0.05, expected: float = 5000.0) -> Floats:
    """How many standard errors a two-sided interval reaches to each side, so that it holds at all looks together.

    ``units``: any shape, the units seen so far, > 0; ``expected``: the number of units at which it is to be narrowest,
    counted the same way. Gives the same shape, no unit. WS, theorem 2.2 (Robbins' normal mixture):
    sqrt(2 (n rho^2 + 1) / (n rho^2) log(sqrt(n rho^2 + 1) / alpha)), rho^2 = peak(alpha) / expected.
    A fixed-horizon z interval has 1.96 here at alpha .05; this has 3.03 at ``expected`` units and more elsewhere.
    GateError for alpha outside (0, 1) or ``expected`` not above 0.
    """
    x = _clock(units, alpha, expected)
    return np.sqrt((1 + 1 / x) * (np.log1p(x) - 2 * math.log(alpha)))


def widening_one_sided(units: ArrayLike, *, alpha: float = 0.05, expected: float = 5000.0) -> Floats:
    """As ``widening``, for a single limit that is wrong at any look with probability at most ``alpha``.

    WS, appendix on one-sided sequences: sqrt(2 (n rho^2 + 1) / (n rho^2) log(1 + sqrt(n rho^2 + 1) / (2 alpha))), tuned like the
    two-sided one at twice alpha. GateError for alpha outside (0, .5) or ``expected`` not above 0.
    """
    x = _clock(units, 2 * alpha, expected)
    return np.sqrt((1 + 1 / x) * 2 * np.log1p(np.sqrt(1 + x) / (2 * alpha)))


def _clock(units: ArrayLike, alpha: float, expected: float) -> Floats:
    if not expected > 0:
        raise GateError(f"expected is {expected} units", fix="give about how many units an arm will have at the end")
    with np.errstate(divide="ignore"):
        return np.maximum(np.asarray(units, dtype=np.float64) * (peak(alpha) / expected), 1e-300)


def units_to_reach(
    half: float, error: float, units: float, *, alpha: float = 0.05, expected: float = 5000.0
) -> float | None:
    """The number of units at which the two-sided interval reaches only ``half`` to each side, at the present variance.

    ``half`` and ``error`` (the standard error at the present ``units``) are in the metric's unit; the error falls as
    1 / sqrt(units). Gives at least ``units``; None when that many units never come (half 0 or almost).
    """

    def reach(n: float) -> float:
        return error * math.sqrt(units / n) * float(widening(n, alpha=alpha, expected=expected))

    if not half > 0 or not math.isfinite(error) or reach(MOST_UNITS) > half:
        return None
    low = high = units
    while reach(high) > half:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if reach(middle) > half else (low, middle)
    return high
