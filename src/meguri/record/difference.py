"""The difference of two arms' means, its noise lessened by what was known of each unit before the experiment.

Everything here works on moments, with any leading axes (many experiments at once); ``moments`` makes them from rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from meguri.base.errors import DataError

Floats = NDArray[np.float64]

SAME = 1e-9  # a covariate whose deviation is below this part of its size is constant but for rounding
UNITS_PER_COVARIATE = 10  # an arm with fewer units for each covariate is left unadjusted: the slopes would be noise


@dataclass(frozen=True)
class Moments:
    """One arm: ``units``, ``mean`` (..., 1 + k) and unbiased ``covariance`` (..., 1 + k, 1 + k).

    Entry 0 is the metric, the other k are the covariates, in their own units.
    """

    units: int
    mean: Floats
    covariance: Floats


@dataclass(frozen=True)
class Difference:
    """B - A: ``estimate`` and standard ``error``, both (...) in the metric's unit.

    ``kept``, (...): the part of the plain difference's variance that is left after adjustment, 1 without any.
    """

    estimate: Floats
    error: Floats
    kept: Floats


def moments(values: Floats, covariates: Floats) -> Moments:
    """From rows: ``values`` (n,) and ``covariates`` (n, k), finite. Below 2 units the covariance is infinite."""
    table = np.column_stack([values, covariates])
    n, width = table.shape
    if n < 2:
        mean = table.mean(axis=0) if n else np.full(width, np.nan)
        return Moments(n, mean, np.full((width, width), np.inf))
    mean = table.mean(axis=0)
    centred = table - mean
    return Moments(n, mean, centred.T @ centred / (n - 1))


def difference(a: Moments, b: Moments, *, adjust: bool = True) -> Difference:
    """B - A with the covariates' chance difference taken out.

    Estimate: (y_B - y_A) - theta' (x_B - x_A), with the theta that makes its estimated variance least,
    (S_A / n_A + S_B / n_B)^-1 (s_A / n_A + s_B / n_B), S and s the covariances of x with x and with y. With equal arms
    it is the theta of CUPED (Deng, Xu, Kohavi and Walker, WSDM 2013, section 3.2); with unequal ones or other slopes
    in each arm it is, asymptotically, Lin's interacted regression (Annals of Applied Statistics 2013), which never
    loses precision. The variance y'y - theta's is Welch's without covariates, and is scaled by
    (n - 2) / (n - 2 - k) for the k slopes estimated. Collinear and constant covariates are harmless (pseudo-inverse).
    """
    k = a.mean.shape[-1] - 1
    total = a.units + b.units
    gap = b.mean - a.mean
    if min(a.units, b.units) < 2:
        shape = gap[..., 0].shape
        return Difference(gap[..., 0], np.full(shape, np.inf), np.ones(shape))
    noise = a.covariance / a.units + b.covariance / b.units
    plain = noise[..., 0, 0]
    few = min(a.units, b.units) < UNITS_PER_COVARIATE * (k + 1)
    if not adjust or k == 0 or few or not np.isfinite(noise).all():
        return Difference(gap[..., 0], np.sqrt(plain), np.ones_like(plain))
    size = np.sqrt(np.maximum(np.diagonal(noise, axis1=-2, axis2=-1)[..., 1:], 0.0))
    size = np.where(size > 0, size, 1.0)
    between = noise[..., 1:, 1:] / (size[..., :, None] * size[..., None, :])
    along = noise[..., 1:, 0] / size
    theta = (np.linalg.pinv(between, rcond=1e-10, hermitian=True) @ along[..., None])[..., 0]
    left = np.maximum(plain - (theta * along).sum(axis=-1), 0.0) * ((total - 2) / (total - 2 - k))
    estimate = gap[..., 0] - (theta * gap[..., 1:] / size).sum(axis=-1)
    # Useless covariates cost k degrees of freedom; then the plain difference is the better one.
    worth = left < plain
    kept = np.divide(left, plain, out=np.ones_like(plain), where=worth)
    return Difference(np.where(worth, estimate, gap[..., 0]), np.sqrt(np.where(worth, left, plain)), kept)


def covariate_tables(a: Floats | None, b: Floats | None, units: tuple[int, int], where: str) -> tuple[Floats, Floats]:
    """Covariates of both arms, (n_A, k) and (n_B, k), made fit for ``difference``: finite, centred, none constant.

    A missing value (NaN) becomes the mean of both arms' known ones, and a column more says that it was missing. That
    is unbiased, as both were settled before the units were split. DataError for infinite values, other lengths, or one arm
    without.
    """
    if a is None and b is None:
        return np.empty((units[0], 0)), np.empty((units[1], 0))
    if a is None or b is None:
        raise DataError("only one arm has covariates", where=where, fix="give the same covariates for both arms")
    tables = [np.asarray(t, dtype=np.float64) for t in (a, b)]
    tables = [t[:, None] if t.ndim == 1 else t for t in tables]
    for name, table, n in zip("AB", tables, units, strict=True):
        if table.ndim != 2 or len(table) != n or table.shape[1] != tables[0].shape[1]:
            raise DataError(
                f"covariates of arm {name} have shape {table.shape}, for {n} units and {tables[0].shape[1]} columns",
                where=where,
                fix="give one row for each unit, and the same columns for both arms",
            )
        if np.isinf(table).any():
            raise DataError(
                f"a covariate of arm {name} is infinite", where=where, fix="make it missing (NaN) or cap it"
            )
    both = np.concatenate(tables)
    columns = []
    for column in both.T:
        gone = np.isnan(column)
        if gone.all():
            continue
        known = column[~gone]
        scale = float(np.abs(known).max())
        filled = np.where(gone, 0.0, column - known.mean())
        if filled.std() > SAME * scale:
            columns.append(filled)
        if gone.any():
            columns.append(gone - gone.mean())
    made = np.column_stack(columns) if columns else np.empty((len(both), 0))
    return made[: units[0]], made[units[0] :]
