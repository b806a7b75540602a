"""Drift: a small sketch of the training rows, and how far later rows have moved from it, feature by feature."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from meguri.base.errors import DataError
from meguri.record.stats import Floats, normal_quantile

BINS = 10
MOST_VALUES = 20  # a text feature keeps its commonest values, the rest is one
MISSING, OTHER = "missing", "other"


def sketch(table: pl.DataFrame, features: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What psi needs to know of the training rows, as JSON can hold it, for each feature.

    Numbers: up to 9 quantile edges and the counts of the bins between them, the lower edge
    belonging to its bin. Text and Booleans: the counts of the 20 commonest values and of all others. Missing ones apart.
    """
    return {name: _sketch(table[name]) for name in features}


def _sketch(column: pl.Series) -> dict[str, Any]:
    if column.dtype.is_numeric():
        values = _numbers(column)
        here = values[np.isfinite(values)]
        edges = np.unique(np.quantile(here, np.arange(1, BINS) / BINS, method="nearest")) if len(here) else np.zeros(0)
        edges = edges[edges > here.min()] if len(here) else edges  # an edge at the minimum has nothing below it
        return {"edges": edges.tolist(), "counts": _by_edges(values, edges)}
    text = column.cast(pl.String).alias("value")
    top = text.drop_nulls().value_counts().sort("count", "value", descending=[True, False]).head(MOST_VALUES)
    known = top["value"].to_list()
    return {"values": known, "counts": _by_values(text, known)}


def _numbers(column: pl.Series) -> Floats:
    return column.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()


def _by_edges(values: Floats, edges: Floats | Sequence[float]) -> list[int]:
    """Rows in each bin, then the missing ones."""
    missing = np.isnan(values)
    bins = np.searchsorted(np.asarray(edges, dtype=np.float64), values[~missing], "right")
    return [*np.bincount(bins, minlength=len(edges) + 1).tolist(), int(missing.sum())]


def _by_values(text: pl.Series, known: Sequence[str]) -> list[int]:
    """Rows of each known value, then all others, then the missing ones."""
    place = {value: i for i, value in enumerate(known)}
    counts = [0] * (len(known) + 2)
    for value, count in text.alias("value").value_counts().iter_rows():
        counts[-1 if value is None else place.get(value, len(known))] += count
    return counts


def psi(
    reference: Mapping[str, Mapping[str, Any]], table: pl.DataFrame, *, alpha: float | None = None
) -> dict[str, float]:
    """The population stability index of each feature of ``reference`` that ``table`` has; 0: as in training.

    sum (p - q) ln(p / q) over the bins, half a row added to each bin so that an empty one is no infinity. Without drift
    it is not 0 but about (1/n + 1/m) times a chi-squared variable with bins - 1 degrees of freedom (Yurdakul 2018), so a
    small table cries wolf. With ``alpha`` that variable's 1 - alpha quantile, shared over the features (Bonferroni), is
    taken off first: what is left above 0 is more than noise, for rows that are independent.
    """
    found = {}
    share = None if alpha is None else alpha / max(len(reference), 1)
    for name, old in reference.items():
        if name not in table.columns:
            continue
        column = table[name]
        new = (
            _by_edges(_numbers(column), old["edges"])
            if "edges" in old
            else _by_values(column.cast(pl.String), old["values"])
        )
        found[name] = _psi(np.asarray(old["counts"], dtype=np.float64), np.asarray(new, dtype=np.float64), share)
    return found


def _psi(old: Floats, new: Floats, alpha: float | None) -> float:
    some = old + new > 0
    old, new = old[some] + 0.5, new[some] + 0.5
    p, q = old / old.sum(), new / new.sum()
    value = float(((p - q) * np.log(p / q)).sum())
    if alpha is None:
        return value
    noise = (1 / float(old.sum()) + 1 / float(new.sum())) * chi2_quantile(1 - alpha, len(p) - 1)
    return max(0.0, value - noise)


def chi2_quantile(p: float, df: int) -> float:
    """The quantile of chi-squared, by Wilson and Hilferty's cube (1931): within 6 % in the upper tail."""
    if df < 1:
        return 0.0
    step = 2 / (9 * df)
    return df * float(max(1 - step + normal_quantile(p) * step**0.5, 0.0) ** 3)


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
