"""A diff of data: what has changed between two tables in columns, volume, missing values and distribution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import polars as pl

from meguri.base.chance import holm
from meguri.base.errors import DataError
from meguri.data.drift import MISSING, OTHER, Shift, Sketch, compare, tally
from meguri.data.statistics import Column, Profile, bar_edges, profile, unreadable

State = Literal["drifted", "moved", "steady", "added", "gone", "retyped"]

ALPHA = 0.01
LEAST = 0.1  # PSI or KS from which a shift that is no chance counts as drift: "worth a look" in the usual scale of PSI
NAMED = 30  # rows from which on texts, or whole numbers close together, that never repeat are taken to name the rows
_KINDS = {"boolean": "text"}  # compared value by value


@dataclass(frozen=True)
class Change:
    """What became of one column.

    ``state``: ``steady`` is what chance explains, ``moved`` is more than chance but small, ``drifted`` is more than
    chance and PSI or KS at least ``LEAST``; or it was ``added``, is ``gone`` or ``retyped``. ``p`` is adjusted over
    all columns (Holm). ``old`` and ``new`` have type, missing (a share), and mean, min and max where there are any.
    ``bars`` are shares of the rows for a picture: with ``edges``, or with ``labels``.
    """

    name: str
    kind: str
    state: State
    old: dict[str, Any] | None
    new: dict[str, Any] | None
    shift: Shift | None = None
    p: float | None = None
    bars: dict[str, list[Any]] | None = None


@dataclass(frozen=True)
class Diff:
    """Two tables side by side; the columns that changed most come first."""

    old: str
    new: str
    rows: tuple[int, int]
    alpha: float
    changes: tuple[Change, ...]

    def count(self, *states: State) -> int:
        """How many columns are in one of these states."""
        return sum(change.state in states for change in self.changes)

    @property
    def drifted(self) -> bool:
        """Whether a column drifted, or is there no more, or has another type."""
        return self.count("drifted", "gone", "retyped") > 0

    def to_dict(self) -> dict[str, Any]:
        """The diff as JSON values."""
        told = {"old": {"name": self.old, "rows": self.rows[0]}, "new": {"name": self.new, "rows": self.rows[1]}}
        columns = [{k: v for k, v in asdict(change).items() if v is not None} for change in self.changes]
        return {"format": 1, **told, "alpha": self.alpha, "drifted": self.drifted, "columns": columns}


def diff(old: Any, new: Any, *, names: tuple[str, str] = ("A", "B"), alpha: float = ALPHA) -> Diff:
    """Compare two tables (frames, lazy frames); ``old`` may be the sketches that a release keeps of its training rows.

    Of all columns together at most a share ``alpha`` of comparisons of equal tables calls any one changed: each column
    has one p-value (its own tests halved, Bonferroni), and these are adjusted by Holm. Rows count as independent;
    where they depend (days of one storm), chance reaches further than this says. Times, and texts and whole numbers that
    name the rows, are compared by what is missing only: two periods differ in them anyway. Raises DataError for a table without rows.
    """
    try:
        sides = _Side.of(old), _Side.of(new)
        for side, name in zip(sides, names, strict=True):
            if not side.rows:
                raise DataError("there are no rows to compare", where=name, fix="choose a longer period")
        wanted = [*sides[0].types, *(name for name in sides[1].types if name not in sides[0].types)]
        if isinstance(old, Mapping):  # a release knows its features only
            wanted = list(sides[0].types)
        both = [name for name in wanted if name in sides[0].types and name in sides[1].types]
        level = alpha / max(sum(1 + (sides[0].kinds[name] == "number") for name in both), 1)
        found = [_change(name, *sides, level) for name in wanted]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise unreadable(error, " or ".join(names)) from error
    judged = [i for i, change in enumerate(found) if change.shift is not None]
    for i, p in zip(judged, holm([_p(found[i]) for i in judged]), strict=True):
        found[i] = _judged(found[i], p, alpha)
    order = ["gone", "retyped", "drifted", "added", "moved", "steady"]
    found.sort(key=lambda change: (order.index(change.state), -_size(change)))
    return Diff(*names, (sides[0].rows, sides[1].rows), alpha, tuple(found))


def _p(change: Change) -> float:
    return 1.0 if change.shift is None else change.shift.p


def _size(change: Change) -> float:
    return 0.0 if change.shift is None else max(change.shift.psi, change.shift.ks or 0.0)


def _judged(change: Change, p: float, alpha: float) -> Change:
    state: State = "steady" if p > alpha else "drifted" if _size(change) >= LEAST else "moved"
    return Change(**{**change.__dict__, "state": state, "p": p})


@dataclass(frozen=True)
class _Side:
    """One of the two: a table with its profile, or sketches of its columns."""

    rows: int
    types: dict[str, str]
    kinds: dict[str, str]
    profile: Profile | None
    table: pl.DataFrame | pl.LazyFrame | None
    sketches: Mapping[str, Sketch] | None

    @classmethod
    def of(cls, given: Any) -> _Side:
        if isinstance(given, Mapping):
            rows = max((sum(one["counts"]) for one in given.values()), default=0)
            types = {name: "number" if "edges" in one else "text" for name, one in given.items()}
            return cls(rows, types, types, None, None, given)
        found = profile(given)
        types = {name: column.type for name, column in found.columns.items()}
        kinds = {name: _KINDS.get(column.kind, column.kind) for name, column in found.columns.items()}
        return cls(found.rows, types, kinds, found, given, None)

    def names_rows(self, name: str) -> bool:
        """Whether a column names the rows: texts, or whole numbers close together, of which none comes twice."""
        known = None if self.profile is None else self.profile.columns[name]
        if known is None or not known.distinct:
            return False
        there = known.rows - known.nulls
        alone = there >= NAMED and known.distinct >= 0.995 * there
        return alone and (known.kind == "text" or ("Int" in known.type and known.max - known.min <= 2 * there))

    def column(self, name: str, *, gaps: bool) -> pl.Series | Sketch:
        """The values of a column, or with ``gaps`` only where there are any; or its sketch."""
        if self.sketches is not None:
            return self.sketches[name]
        found = pl.DataFrame() if self.table is None else self.table.lazy().select(name).collect()
        values = found.to_series()
        if gaps:
            return pl.select(pl.when(values.is_not_null()).then(pl.lit("present"))).to_series()
        return values.dt.total_microseconds() / 1e6 if isinstance(values.dtype, pl.Duration) else values

    def summary(self, name: str) -> dict[str, Any] | None:
        """What is said of the column in a table."""
        if name not in self.types:
            return None
        if self.sketches is not None:
            *_, missing = counts = self.sketches[name]["counts"]
            return {"type": self.types[name], "missing": missing / max(sum(counts), 1)}
        known: Column | None = None if self.profile is None else self.profile.columns[name]
        if known is None:
            return None
        told = {"type": known.type, "missing": known.missing, "distinct": known.distinct}
        return told | {k: v for k in ("mean", "min", "max") if (v := getattr(known, k)) is not None}


def _change(name: str, old: _Side, new: _Side, level: float) -> Change:
    summaries = old.summary(name), new.summary(name)
    if name not in new.types:
        return Change(name, old.kinds[name], "gone", *summaries)
    if name not in old.types:
        return Change(name, new.kinds[name], "added", *summaries)
    if old.kinds[name] != new.kinds[name]:
        return Change(name, new.kinds[name], "retyped", *summaries)
    gaps = old.kinds[name] in ("time", "other") or (old.names_rows(name) and new.names_rows(name))
    if old.sketches is not None and summaries[0] is not None:
        summaries[0]["type"] = new.types[name]  # a sketch does not know it
    before, after = (side.column(name, gaps=gaps) for side in (old, new))
    if not isinstance(after, pl.Series):
        raise DataError("sketches can be compared with a table only", fix="name the training data first")
    shift = compare(before, after, level=level)
    return Change(name, old.kinds[name], "steady", *summaries, shift, None, _bars(before, after, shift))


def _bars(old: pl.Series | Sketch, new: pl.Series, shift: Shift) -> dict[str, list[Any]] | None:
    """The shares of rows in common bars: numbers of two tables over their range, all else by the cells compared."""
    if shift.edges is not None and isinstance(old, pl.Series):
        return _histograms(old, new)
    if shift.edges is not None:
        names = [f"{edge:.4g}" for edge in shift.edges]
        labels = [f"< {names[0]}", *(f"{a} … {b}" for a, b in pairwise(names)), f"≥ {names[-1]}"] if names else ["all"]
        labels.append(MISSING)
    else:
        labels = [*(shift.values or ()), OTHER, MISSING]
    shares = [[n / max(sum(counts), 1) for n in counts] for counts in (shift.old, shift.new)]
    kept = [i for i in range(len(labels)) if labels[i] not in (OTHER, MISSING) or shares[0][i] or shares[1][i]]
    return {
        "labels": [labels[i] for i in kept],
        "old": [shares[0][i] for i in kept],
        "new": [shares[1][i] for i in kept],
    }


def _histograms(old: pl.Series, new: pl.Series) -> dict[str, list[Any]] | None:
    parts = []
    for column in (old, new):
        values, counts = tally(column)
        here = np.isfinite(values)
        parts.append((values[here], counts[here], len(column)))
    if not all(len(values) for values, _, _ in parts):
        return None
    low, high = min(part[0][0] for part in parts), max(part[0][-1] for part in parts)
    ends = [values[np.searchsorted(np.cumsum(n), n.sum() * q)] for values, n, _ in parts for q in (0.01, 0.99 - 1e-9)]
    whole = old.dtype.is_integer() and new.dtype.is_integer()
    edges = bar_edges(float(low), float(high), float(min(ends)), float(max(ends)), whole=whole)
    shares = []
    for values, counts, rows in parts:
        bars = np.clip(np.searchsorted(edges, values, "right") - 1, 0, len(edges) - 2)
        shares.append((np.bincount(bars, weights=counts, minlength=len(edges) - 1) / rows).tolist())
    return {"edges": edges.tolist(), "old": shares[0], "new": shares[1]}
