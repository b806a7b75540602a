"""How often chance alone gives so much: tails of chi-squared and of Kolmogorov's distance, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache


def chi2_tail(x: float, df: float) -> float:
    """P(X >= x) for chi-squared with ``df`` degrees of freedom: the upper regularised incomplete gamma function.

    By its series below the mean and by its continued fraction above it (DLMF 8.7.3 and 8.9.2, Lentz's method).
    """
    if df < 1 or x < 1e-300:
        return 1.0
    a, x = df / 2, x / 2
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        count = a
        while term > 1e-16 * total:
            count += 1
            term *= x / count
            total += term
        return max(0.0, 1 - total * scale)
    b = x + 1 - a
    c, d = 1e300, 1 / b
    value = d
    for i in range(1, 10_000):
        step = -i * (i - a)
        b += 2
        d, c = 1 / (step * d + b), b + step / c
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return min(1.0, value * scale)


@lru_cache(maxsize=4096)
def chi2_quantile(p: float, df: float) -> float:
    """The quantile of chi-squared for ``p`` in (0, 1), by bisection on ``chi2_tail``; 0 without degrees of freedom."""
    if df < 1:
        return 0.0
    low, high = 0.0, df + 10.0
    while chi2_tail(high, df) > 1 - p:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if chi2_tail(middle, df) > 1 - p else (low, middle)
    return (low + high) / 2


def kolmogorov_tail(x: float) -> float:
    """P(K >= x) for Kolmogorov's distribution (Kolmogorov 1933, Smirnov 1939), by the series that converges there."""
    if x < 0.2:
        return 1.0  # 1 - 1e-12 at the most
    if x < 1.2:  # Jacobi's form of the same function
        root = math.sqrt(2 * math.pi) / x
        return 1 - root * sum(math.exp(-((2 * k - 1) ** 2) * math.pi**2 / (8 * x * x)) for k in range(1, 6))
    return 2 * sum((1.0 if k % 2 else -1.0) * math.exp(-2 * k * k * x * x) for k in range(1, 12))


@lru_cache(maxsize=4096)
def kolmogorov_quantile(p: float) -> float:
    """The quantile of Kolmogorov's distribution for ``p`` in (0, 1), by bisection."""
    low, high = 0.0, 12.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if kolmogorov_tail(middle) > 1 - p else (low, middle)
    return (low + high) / 2


def holm(values: Sequence[float]) -> list[float]:
    """P-values of one family adjusted (Holm 1979): those at most alpha hold together, wrong with probability alpha."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, most = [0.0] * len(values), 0.0
    for place, i in enumerate(order):
        most = max(most, min(1.0, (len(values) - place) * values[i]))
        adjusted[i] = most
    return adjusted
