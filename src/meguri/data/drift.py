"""Drift: how far rows have moved from others, column by column, and how far chance alone would have moved them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from meguri.base.chance import chi2_quantile, chi2_tail, kolmogorov_quantile, kolmogorov_tail
from meguri.base.errors import DataError
from meguri.data.statistics import starts

Floats = NDArray[np.float64]
Sketch = dict[str, Any]

BINS = 10
MOST_VALUES = 20  # a text feature keeps its commonest values, the rest is one
MISSING, OTHER = "missing", "other"
DENSE = 20  # rows expected in each cell of each table from which on chi-squared is exact enough (docs/decisions/0007)
FEWEST, RAREST = 5, 0.01  # rows, share: a rarer value of a sketch was among its commonest by luck, and joins the others
DRAWS, MOST_DRAWS = 2000, 200_000
_MOST_ROWS = 10**9  # NumPy's limit for a hypergeometric draw


def sketch(table: pl.DataFrame, features: Sequence[str]) -> dict[str, Sketch]:
    """What psi needs to know of the training rows, as JSON can hold it, for each feature.

    Numbers: the edges of about 10 cells with equally many rows, a value that fills a cell being one of its own, and
    their counts, the lower edge belonging to its cell. Text and Booleans: the counts of the 20 commonest values and
    of all others. Missing ones apart.
    """
    return {name: _sketch(table[name]) for name in features}


def _sketch(column: pl.Series) -> Sketch:
    values, counts = tally(column)
    if column.dtype.is_numeric():
        edges = _edges(values, counts)
        return {"edges": edges.tolist(), "counts": _by_edges(values, counts, edges, len(column))}
    known = _commonest(values, counts)
    return {"values": known, "counts": _by_values(values, counts, known, len(column))}


def tally(column: pl.Series) -> tuple[Any, NDArray[np.int64]]:
    """The distinct values and how often each comes, missing ones (null, NaN) left out.

    Numbers: as floats, ascending. All else: as a list of texts, in any order.
    """
    if column.dtype.is_numeric():
        column = column.cast(pl.Float64).fill_nan(None)
        found = column.drop_nulls().alias("value").value_counts().sort("value")
        return found["value"].to_numpy(), found["count"].to_numpy().astype(np.int64)
    found = column.cast(pl.String).drop_nulls().alias("value").value_counts(name="n")
    return found["value"].to_list(), found["n"].to_numpy().astype(np.int64)


def _edges(values: Floats, counts: NDArray[np.int64]) -> Floats:
    finite = np.isfinite(values)
    found: Floats = values[finite][starts(counts[finite], BINS)][1:]
    return found


def _commonest(values: Sequence[str], counts: NDArray[np.int64]) -> list[str]:
    ranked = sorted(zip((-counts).tolist(), values, strict=True))
    return [value for _, value in ranked[:MOST_VALUES]]


def _by_edges(values: Floats, counts: NDArray[np.int64], edges: Floats | Sequence[float], rows: int) -> list[int]:
    """Rows in each cell, then the missing ones."""
    cells = np.searchsorted(np.asarray(edges, dtype=np.float64), values, "right")
    filled = np.bincount(cells, weights=counts, minlength=len(edges) + 1)
    return [*filled.astype(np.int64).tolist(), rows - int(counts.sum())]


def _by_values(values: Sequence[str], counts: NDArray[np.int64], known: Sequence[str], rows: int) -> list[int]:
    """Rows of each known value, then all others, then the missing ones."""
    place = {value: i for i, value in enumerate(known)}
    filled = [0] * (len(known) + 1)
    for value, count in zip(values, counts.tolist(), strict=True):
        filled[place.get(value, len(known))] += count
    return [*filled, rows - int(counts.sum())]


def counts_in(old: Sketch | Mapping[str, Any], column: pl.Series) -> list[int]:
    """The rows of ``column`` in each cell of a sketch."""
    if "edges" in old:
        numbers = column if column.dtype.is_numeric() else column.cast(pl.Float64, strict=False)
        return _by_edges(*tally(numbers), old["edges"], len(column))
    return _by_values(*tally(column.cast(pl.String)), old["values"], len(column))


def psi(
    reference: Mapping[str, Mapping[str, Any]], table: pl.DataFrame, *, alpha: float | None = None
) -> dict[str, float]:
    """The population stability index of each feature of ``reference`` that ``table`` has; 0: as in training.

    sum (p - q) ln(p / q) over the cells, half a row added to each so that an empty one is no infinity. Without drift
    it is not 0 but about (1/n + 1/m) times a chi-squared variable with cells - 1 degrees of freedom (Yurdakul 2018), so
    a small table cries wolf. With ``alpha`` that variable's 1 - alpha quantile, shared over the features (Bonferroni),
    is taken off first: what is left above 0 is more than noise, for rows that are independent.
    """
    found = {}
    for name, old in reference.items():
        if name in table.columns:
            counts, new = _used(old["counts"], counts_in(old, table[name]))
            value, _ = indices(counts, new)
            noise = 0.0
            if alpha is not None:
                noise = _scale(counts, new) * chi2_quantile(1 - alpha / len(reference), len(counts) - 1)
            found[name] = max(0.0, float(value) - noise)
    return found


def _used(old: Sequence[float], new: Sequence[float]) -> tuple[Floats, Floats]:
    """Both counts without the cells that are empty in both."""
    counts, others = np.asarray(old, dtype=np.float64), np.asarray(new, dtype=np.float64)
    some = counts + others > 0
    return counts[some], others[some]


def indices(old: Floats, new: Floats) -> tuple[Any, Any]:
    """PSI and the Jensen-Shannon divergence (Lin 1991, in bits: 0 to 1) of counts of shape (…, cells)."""
    p, q = (counts + 0.5 for counts in (old, new))
    p, q = p / p.sum(axis=-1, keepdims=True), q / q.sum(axis=-1, keepdims=True)
    middle = (p + q) / 2
    halves = p * np.log2(p / middle) + q * np.log2(q / middle)
    return ((p - q) * np.log(p / q)).sum(axis=-1), halves.sum(axis=-1) / 2


def _scale(old: Floats, new: Floats) -> float:
    """What a chi-squared variable is multiplied by to be PSI under chance: 1/n + 1/m, the added half rows counted."""
    return float(1 / (old.sum() + 0.5 * len(old)) + 1 / (new.sum() + 0.5 * len(new)))


@dataclass(frozen=True)
class Shift:
    """How far a column has moved, beside what chance reaches (its 1 - level quantile), and the p-value of it all.

    ``edges`` (numbers) or ``values`` (text) say what the cells of ``old`` and ``new`` are; the last one is missing
    values, and with values the one before all others. ``ks`` is None where there are no numbers to order.
    """

    psi: float
    psi_noise: float
    js: float
    js_noise: float
    ks: float | None
    ks_noise: float | None
    p: float
    old: tuple[int, ...]
    new: tuple[int, ...]
    edges: tuple[float, ...] | None = None
    values: tuple[str, ...] | None = None


def compare(old: pl.Series | Mapping[str, Any], new: pl.Series, *, level: float) -> Shift:
    """Compare two columns, or a sketch with a column; rows count as independent.

    The cells come from both columns together (equally many rows each; the 20 commonest values), so that neither is
    fitted better than the other. PSI and Jensen-Shannon: chi-squared where each cell is expected to hold ``DENSE`` rows
    of each table, else random tables with the same margins (a permutation test, Fisher 1935: valid at any size).
    Numbers also by the two-sample Kolmogorov-Smirnov distance of all their values, ties included: its limit law then
    errs on the safe side (Noether 1963). ``level`` is what the quantiles of chance leave above them.
    """
    if not isinstance(old, pl.Series):
        return _against(old, new, level)
    if old.dtype.is_numeric() and new.dtype.is_numeric():
        values, ours, theirs = _together(old, new)
        edges = _edges(values, ours + theirs)
        counts = [_by_edges(values, n, edges, len(column)) for n, column in ((ours, old), (theirs, new))]
        return _shift(counts[0], counts[1], _distance(ours, theirs), level, {"edges": tuple(edges.tolist())})
    names, ours, theirs = _together(old.cast(pl.String), new.cast(pl.String))
    known = _commonest(names, ours + theirs)
    counts = [_by_values(names, n, known, len(column)) for n, column in ((ours, old), (theirs, new))]
    return _shift(counts[0], counts[1], None, level, {"values": tuple(known)})


def _against(old: Mapping[str, Any], new: pl.Series, level: float) -> Shift:
    """A sketch was made without the new rows: rare values are lumped, and the distance is known at its edges only."""
    if "edges" in old:
        counts = counts_in(old, new)
        known, others = (np.asarray(n[:-1], dtype=np.int64) for n in (old["counts"], counts))
        return _shift(old["counts"], counts, _distance(known, others), level, {"edges": tuple(old["edges"])})
    fewest = max(FEWEST, RAREST * sum(old["counts"][:-1]))
    kept = [i for i, n in enumerate(old["counts"][:-2]) if n >= fewest]
    names = [old["values"][i] for i in kept]
    *_, missing = old["counts"]
    counts = [*(old["counts"][i] for i in kept), sum(old["counts"][:-1]) - sum(old["counts"][i] for i in kept), missing]
    return _shift(counts, counts_in({"values": names}, new), None, level, {"values": tuple(names)})


def _together(old: pl.Series, new: pl.Series) -> tuple[Any, NDArray[np.int64], NDArray[np.int64]]:
    """The values of both, and how often each comes in either; numbers ascending."""
    number = old.dtype.is_numeric()
    tables = []
    for name, column in (("old", old), ("new", new)):
        values, counts = tally(column)
        tables.append(
            pl.DataFrame({"value": pl.Series(values, dtype=pl.Float64 if number else pl.String), name: counts})
        )
    both = pl.concat(tables, how="diagonal").group_by("value").agg(pl.col("old", "new").sum()).sort("value")
    values = both["value"].to_numpy() if number else both["value"].to_list()
    return values, both["old"].to_numpy().astype(np.int64), both["new"].to_numpy().astype(np.int64)


def _distance(old: NDArray[np.int64], new: NDArray[np.int64]) -> tuple[float, float] | None:
    """The largest gap between the shares of rows up to each value, and the size that its law has: nm / (n + m)."""
    n, m = int(old.sum()), int(new.sum())
    if not n or not m:
        return None
    return float(np.abs(np.cumsum(old) / n - np.cumsum(new) / m).max()), n * m / (n + m)


def _shift(
    old: Sequence[int], new: Sequence[int], distance: tuple[float, float] | None, level: float, cells: dict[str, Any]
) -> Shift:
    ours, theirs = _used(old, new)
    value, js = (float(found) for found in indices(ours, theirs))
    expected = (ours + theirs) * min(ours.sum(), theirs.sum()) / max(float((ours + theirs).sum()), 1.0)
    if len(ours) < 2 or not ours.sum() or not theirs.sum():
        p, noise, js_noise = 1.0, 0.0, 0.0
    elif expected.min() >= DENSE or ours.sum() + theirs.sum() >= _MOST_ROWS:
        scale, df = _scale(ours, theirs), len(ours) - 1
        p, noise = chi2_tail(value / scale, df), scale * chi2_quantile(1 - level, df)
        js_noise = noise / (8 * math.log(2))
    else:
        p, noise, js_noise = _drawn(ours, theirs, value, level)
    ks = ks_noise = None
    if distance is not None:
        ks, size = distance
        ks_noise = min(1.0, kolmogorov_quantile(1 - level) / math.sqrt(size))
        p = min(1.0, 2 * min(p, kolmogorov_tail(ks * math.sqrt(size))))
    return Shift(value, noise, js, js_noise, ks, ks_noise, p, tuple(old), tuple(new), **cells)


def _drawn(old: Floats, new: Floats, value: float, level: float) -> tuple[float, float, float]:
    """The p-value of a PSI, and what chance reaches in PSI and JS, by tables drawn with the same margins.

    Few draws, and more only while the value is among the largest (Besag and Clifford 1991).
    """
    pool, rng = (old + new).astype(np.int64), np.random.default_rng(0)
    for count in (DRAWS, min(math.ceil(8 / level), MOST_DRAWS)):
        drawn = rng.multivariate_hypergeometric(pool, int(new.sum()), count, method="marginals")
        values, others = indices((pool - drawn).astype(np.float64), drawn.astype(np.float64))
        reached = int((values >= value * (1 - 1e-9)).sum())
        if reached >= 10 or level * DRAWS >= 8:
            break
    noise, js_noise = (float(np.quantile(found, 1 - level, method="higher")) for found in (values, others))
    return (1 + reached) / (count + 1), noise, js_noise


def features_table(texts: Iterable[str | None], reference: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """The features that a ledger keeps as JSON, one column for each of ``reference``; rows without features are left out.

    Raises DataError for text that is no JSON object.
    """
    try:
        rows = [json.loads(text) for text in texts if text is not None]
        columns = {name: [row.get(name) for row in rows] for name in reference}
    except (ValueError, AttributeError) as error:
        raise DataError(f"features in the ledger are no JSON object: {error}", where="ledger") from error
    return pl.DataFrame([_column(name, values, "edges" in reference[name]) for name, values in columns.items()])


def _column(name: str, values: list[Any], number: bool) -> pl.Series:
    if not number:
        texts = [None if v is None else ("true" if v else "false") if isinstance(v, bool) else str(v) for v in values]
        return pl.Series(name, texts, dtype=pl.String)
    return pl.Series(name, values, dtype=pl.Float64, strict=False)
