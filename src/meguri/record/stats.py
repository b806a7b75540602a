"""How sure a mean-like figure is when rows depend on each other by time and by group: a studentized block bootstrap in NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

RESAMPLES = 2000
MIN_BLOCKS = 10  # below this the variance between blocks is itself too uncertain to judge by (bench/gate.py)
MOST_BLOCKS = 200  # neighbours are joined beyond this: a longer block is never wrong, and 200 are plenty for a t value
# With few blocks and skewed ones even the studentized bootstrap is too narrow; 1 + WIDEN / blocks brings the measured
# false-pass rate of exponential day effects from 8 % to the stated 5 % (bench/gate.py, case "skewed days").
WIDEN = 2.0


def normal_quantile(p: float) -> float:
    """The standard normal quantile of ``p`` in (0, 1)."""
    return NormalDist().inv_cdf(p)


def t_cdf(x: float, df: float) -> float:
    """P(T <= x) for Student's t with ``df`` > 0 degrees of freedom, by the incomplete beta function (DLMF 8.17.22)."""
    tail = 0.5 * _beta(df / (df + x * x), df / 2, 0.5)
    return 1 - tail if x > 0 else tail


@lru_cache(maxsize=4096)
def t_quantile(p: float, df: float) -> float:
    """The quantile of Student's t for ``p`` in (0, 1), by bisection on ``t_cdf``."""
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (Lentz's method)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 400):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 / (1 + term * d), 1 + term / c
            value *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * value / a


def time_blocks(micros: Codes, length: int | None) -> Codes:
    """The number of each row's block of time, 0, 1, 2 … without gaps, neighbours joined beyond MOST_BLOCKS.

    ``length`` is in microseconds, counted from 1970. Without it rows that follow each other make equal blocks, as
    many as the square root of their number allows but at least 20 where the rows suffice; ``micros`` must ascend.
    """
    if length is not None:
        return _join(np.unique(micros // length, return_inverse=True)[1].astype(np.int64))
    n = len(micros)
    count = min(MOST_BLOCKS, n, max(20, math.isqrt(n)))
    return np.arange(n, dtype=np.int64) * count // max(n, 1)


def group_blocks(groups: Sequence[str | None] | NDArray[np.object_]) -> Codes:
    """The number of each row's group, groups that are neighbours by name joined beyond MOST_BLOCKS; None is one group."""
    names = np.asarray(["" if g is None else f"={g}" for g in groups])
    return _join(np.unique(names, return_inverse=True)[1].astype(np.int64))


def _join(codes: Codes) -> Codes:
    count = int(codes.max()) + 1 if len(codes) else 0
    return codes if count <= MOST_BLOCKS else codes * MOST_BLOCKS // count


@dataclass(frozen=True)
class Axis:
    """One kind of dependence: its standard error, its effective number of blocks, and sorted bootstrap t values."""

    error: float
    blocks: float
    draws: Floats

    @classmethod
    def of(cls, influence: Floats, codes: Codes, resamples: int, rng: np.random.Generator) -> Axis:
        """Resample whole blocks with replacement and studentize each resample by its own between-block variance.

        Blocks that do not overlap: Carlstein 1986 (Künsch 1989 for moving ones); why studentized: Götze and Künsch
        1996. The effective number of blocks (sum n)^2 / sum n^2 is Carter, Schnepel and Steigerwald's (2017).
        """
        sizes = np.bincount(codes).astype(np.float64)
        sums = np.bincount(codes, weights=influence)
        count, rows = len(sizes), float(sizes.sum())
        if count < 2:
            return cls(math.inf, float(count), np.zeros(1))
        scale = count / (count - 1)
        error = math.sqrt(scale * float(sums @ sums)) / rows
        picks = rng.integers(0, count, (resamples, count)) + np.arange(resamples)[:, None] * count
        weights = np.bincount(picks.ravel(), minlength=resamples * count).reshape(resamples, count).astype(np.float64)
        moments = weights @ np.stack([sizes, sums, sums * sums, sums * sizes, sizes * sizes], axis=1)
        mean = moments[:, 1] / moments[:, 0]
        squares = moments[:, 2] - 2 * mean * moments[:, 3] + mean * mean * moments[:, 4]
        spread = np.sqrt(scale * np.maximum(squares, 0.0)) / moments[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            draws = np.where(spread > 1e-9 * error, mean / spread, np.sign(mean) * np.inf)
        draws[np.isnan(draws)] = 0.0
        return cls(error, rows * rows / float(sizes @ sizes), np.sort(draws))

    def reach(self, level: float, side: int) -> float:
        """How far the limit lies from the value, below it (``side`` -1) or above it (+1), at one-sided ``level``.

        The wider of the bootstrap's own quantile and Student's with the effective number of blocks less one.
        """
        if not math.isfinite(self.error) or self.blocks < 1.01:
            return math.inf
        if self.error == 0:
            return 0.0
        count = len(self.draws)
        index = min(math.ceil((count + 1) * (1 - level)) - 1, count - 1)
        boot = self.draws[index] if side < 0 else -self.draws[count - 1 - index]
        return (
            float(max(boot, t_quantile(1 - level, math.floor(100 * self.blocks - 100) / 100)))
            * self.error
            * (1 + WIDEN / self.blocks)
        )


@dataclass(frozen=True)
class Estimate:
    """A figure that is nearly a mean over rows, with limits that hold when rows depend by time and by group."""

    value: float
    rows: int
    axes: tuple[Axis, ...]
    cross: float  # standard error by the cells of time x group; 0 with one axis
    unit: float  # the influence of one row that has any

    @classmethod
    def of(
        cls,
        value: float,
        influence: Floats,
        axes: Sequence[Codes],
        *,
        seed: int,
        unit: float = 0.0,
        resamples: int = RESAMPLES,
    ) -> Estimate:
        """From each row's influence on the value (mean 0, shape (n,)) and the block of each row, one array an axis.

        A metric that is no mean is linearised by its influence function, so that blocks need their sums only (Kline
        and Santos 2012 call it the score bootstrap; for AUC it is Obuchowski 1997). ``unit`` is the size of the
        influence of a row that has one: one more such row may have stayed unseen.
        """
        rng = np.random.default_rng(seed)
        n = len(influence)
        made = tuple(Axis.of(influence, codes, resamples, rng) for codes in axes)
        cross = 0.0
        if len(axes) == 2 and n:
            cells = np.unique(axes[0] * (axes[1].max() + 1) + axes[1], return_inverse=True)[1]
            sums = np.bincount(cells, weights=influence)
            cross = math.sqrt(float(sums @ sums)) / n
        return cls(value, n, made, cross, unit)

    @property
    def blocks(self) -> float:
        """The effective number of blocks on the axis that has the fewest."""
        return min(axis.blocks for axis in self.axes)

    @property
    def error(self) -> float:
        """The standard error, two-way when there are two axes."""
        return self._both([axis.error for axis in self.axes], self.cross)

    def _both(self, parts: list[float], cross: float) -> float:
        """One-way parts put together: time + group - cells (Cameron, Gelbach and Miller 2011), never below either.

        Limits are put together like variances, each with its own quantile (square and add: Zou and Donner 2008).
        """
        if len(parts) == 1:
            return parts[0]
        both = parts[0] ** 2 + parts[1] ** 2
        return math.sqrt(max(parts[0] ** 2, parts[1] ** 2, both - cross**2 if math.isfinite(both) else both))

    def reach(self, level: float, side: int) -> float:
        """How far the limit lies from the value, below (-1) or above (+1), at one-sided ``level``; infinite if unknown.

        On top of the bootstrap comes what one unseen row could change: where few rows differ, a variance estimated
        from them misses the rare bad row (none in n rows still allows 3 / n). For counts this is Garwood's exact
        Poisson limit in Cornish and Fisher's expansion; with many differing rows it vanishes like 1 / n.
        """
        if not self.rows:
            return math.inf
        z = normal_quantile(1 - level)
        step = self.unit / self.rows
        main = self._both([axis.reach(level, side) for axis in self.axes], z * self.cross)
        return math.hypot(main, z * step) + (z * z + 2) / 3 * step

    def limits(self, level: float) -> tuple[float, float]:
        """The lower and the upper limit, each wrong with probability at most ``level``."""
        return self.value - self.reach(level, -1), self.value + self.reach(level, 1)


def resamples_for(level: float) -> int:
    """How many resamples a quantile at ``level`` needs: 2,000, more for small levels, 20,000 at most.

    Beyond that the largest draw stands for the quantile, and Student's t takes over where it is wider.
    """
    return min(max(RESAMPLES, math.ceil(10 / level)), 20_000)
