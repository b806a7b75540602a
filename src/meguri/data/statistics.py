"""Statistics: what is in each column of a table, counted in one pass and bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from meguri.base.errors import DataError
from meguri.data.table import to_polars

Kind = Literal["number", "time", "text", "boolean", "other"]
Counts = NDArray[np.int64]

ROWS = 500_000  # of a batch: what is in memory at once
EXACT = 65_536  # different values that are counted one by one
HASHES = 1 << 20  # of values, kept where there are more: their number is exact up to here
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
COMMONEST = 10
BARS = 30


@dataclass(frozen=True)
class Column:
    """What one column holds; values are JSON values, times ISO 8601 text in UTC, durations seconds.

    ``distinct`` to ``commonest`` are of the values that are there: no null, NaN or infinity. A quantile q is the smallest
    value with a share of at least q up to it. ``histogram`` has ``edges`` and ``counts``, one fewer, each bar with its
    lower edge; with far outliers the first and the last bar hold all that lies beyond. ``approximate`` names what is
    not exact: in a column of more than 65,536 different values the quantiles, histogram and commonest values, and
    beyond 1,048,576 of them their number, which is then right to about 0.1 %.
    """

    name: str
    type: str
    kind: Kind
    rows: int
    nulls: int = 0
    nan: int = 0
    infinite: int = 0
    distinct: int | None = None
    min: Any = None
    max: Any = None
    mean: Any = None
    std: float | None = None
    quantiles: dict[str, Any] = field(default_factory=dict)
    zeros: int | None = None
    negative: int | None = None
    histogram: dict[str, list[Any]] | None = None
    commonest: list[list[Any]] = field(default_factory=list)
    empty: int | None = None
    lengths: dict[str, float] | None = None
    approximate: list[str] = field(default_factory=list)

    @property
    def missing(self) -> float:
        """The share of rows without a value: null or NaN."""
        return (self.nulls + self.nan) / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class Profile:
    """The statistics of a table, column by column."""

    rows: int
    columns: dict[str, Column]

    def to_dict(self) -> dict[str, Any]:
        """The profile as JSON values."""
        return {"format": 1, "rows": self.rows, "columns": [asdict(column) for column in self.columns.values()]}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Profile:
        """The profile that ``to_dict`` gave. Raises DataError for anything else."""
        try:
            if value["format"] != 1:
                raise ValueError(f"format {value['format']}")
            return cls(value["rows"], {column["name"]: Column(**column) for column in value["columns"]})
        except (KeyError, TypeError, ValueError) as error:
            what = f"this is no profile that this version of Meguri can read: {error}"
            raise DataError(what, fix="make it again: meguri data profile --json") from error


def scan(path: Path) -> pl.LazyFrame:
    """A Parquet file, a folder of them, or a CSV file, not read yet. Raises DataError when there is none."""
    if not path.exists():
        raise DataError("there is no such file", where=path, fix="name a Parquet or CSV file")
    if path.suffix.lower() in (".csv", ".tsv"):
        separator = "\t" if path.suffix.lower() == ".tsv" else ","
        found = pl.scan_csv(path, separator=separator, try_parse_dates=True, infer_schema_length=10_000)
    else:
        found = pl.scan_parquet(path / "**/*.parquet" if path.is_dir() else path)
    try:
        found.collect_schema()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise unreadable(error, path) from error
    return found


def unreadable(error: Exception, where: object) -> DataError:
    """The error for a table that is damaged or of another format."""
    what = f"the table cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}"
    return DataError(what, where=where, fix="give a whole Parquet or CSV file")


def profile(table: Any) -> Profile:
    """The statistics of a table, a lazy frame, a file's path, or batches (an iterator of frames), read once.

    About 500,000 rows are in memory at once, where the table itself is not. Raises DataError for what cannot be read.
    """
    where = table if isinstance(table, str | Path) else None
    tallies: dict[str, _Tally] = {}
    rows = 0
    try:
        for batch in _batches(scan(Path(table)) if isinstance(table, str | Path) else table):
            if not tallies:
                tallies = {name: _Tally(name, kind) for name, kind in batch.schema.items()}
            if list(tallies) != batch.columns:
                raise DataError("the batches do not have the same columns", fix="give batches of one table")
            rows += batch.height
            for name, tally in tallies.items():
                tally.add(batch[name])
    except (OSError, pl.exceptions.PolarsError) as error:
        if isinstance(error, DataError):
            raise
        raise unreadable(error, where) from error
    return Profile(rows, {name: tally.column() for name, tally in tallies.items()})


def _batches(table: Any) -> Iterator[pl.DataFrame]:
    if isinstance(table, Iterator):
        yield from (to_polars(batch) for batch in table)
    elif isinstance(table, pl.LazyFrame):
        yield to_polars(table.head(0).collect())  # an empty table has columns, too
        for batch in table.collect_batches(chunk_size=ROWS, maintain_order=False):
            yield to_polars(batch)
    else:
        whole = to_polars(table)
        yield from whole.iter_slices(ROWS) if whole.height else [whole]


class _Tally:
    """The values of one column, counted batch by batch: one by one while they are few, then in ever wider groups."""

    def __init__(self, name: str, dtype: pl.DataType) -> None:
        self.name, self.dtype, self.kind = name, dtype, kind_of(dtype)
        self.rows = self.nulls = self.nan = self.infinite = self.zeros = self.negative = self.empty = 0
        self.low: Any = None
        self.high: Any = None
        self.count, self.mean, self.squares = 0, 0.0, 0.0
        self.length_sum, self.lengths = 0, (math.inf, 0)
        self.counts: pl.DataFrame | None = None
        self.hashes: NDArray[np.uint64] | None = None  # of all values so far, once they are too many to count

    def add(self, column: pl.Series) -> None:
        """Count a batch of the column."""
        self.rows += len(column)
        self.nulls += column.null_count()
        if self.kind == "other":
            return
        values = _physical(column, self.kind).drop_nulls().alias("value")
        if values.dtype.is_float():
            finite = values.is_finite()
            if not finite.all():
                self.nan += int(values.is_nan().sum())
                self.infinite += int(values.is_infinite().sum())
                values = values.filter(finite)
            values = values + 0.0  # -0.0 is 0.0
        # in order, or sums of floats would end in other digits each time
        found = values.value_counts(name="n").cast({"n": pl.Int64}).sort("value")
        if not found.height:
            return
        self._measure(found)
        self._keep(found)

    def _measure(self, found: pl.DataFrame) -> None:
        values, counts = found["value"], found["n"]
        if self.kind in ("text", "boolean"):
            if self.kind == "text":
                lengths = values.str.len_chars()
                ends: tuple[Any, Any] = lengths.min(), lengths.max()
                self.lengths = min(self.lengths[0], ends[0]), max(self.lengths[1], ends[1])
                self.length_sum += int((lengths.cast(pl.Int64) * counts).sum())
                self.empty += int(counts.filter(lengths == 0).sum())
            self.count += int(counts.sum())
            return
        low: Any = values.min()
        high: Any = values.max()
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)
        self.zeros += int(counts.filter(values == 0).sum())
        self.negative += int(counts.filter(values < 0).sum())
        numbers, weights = values.cast(pl.Float64).to_numpy(), counts.to_numpy().astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # beyond what a float can say: then it is not said
            n = weights.sum()
            power = np.frexp(np.abs(numbers).max())[1]  # a sum may be too large for a float where its mean is not
            mean = np.ldexp(np.ldexp(numbers, -power) @ weights / n, power)
            gap, total = mean - self.mean, self.count + n  # parts put together: Chan, Golub and LeVeque (1979)
            self.squares += float((numbers - mean) ** 2 @ weights + gap * gap * self.count * n / total)
            self.mean += float(gap * n / total)
        self.count += int(n)

    def _keep(self, found: pl.DataFrame) -> None:
        if self.hashes is not None:
            self.hashes = _smallest(self.hashes, found["value"])
            if self.kind in ("number", "time"):
                found = found.cast({"value": pl.Float64})
        kept = (
            found if self.counts is None else pl.concat([self.counts, found]).group_by("value").agg(pl.col("n").sum())
        )
        if kept.height > EXACT:
            if self.hashes is None:
                self.hashes = _smallest(np.zeros(0, dtype=np.uint64), kept["value"])
            kept = kept.top_k(EXACT // 2, by="n") if self.kind == "text" else _grouped(kept)
        self.counts = kept

    def column(self) -> Column:
        """What was found."""
        known: dict[str, Any] = {"nulls": self.nulls, "nan": self.nan, "infinite": self.infinite}
        base = Column(self.name, type_name(self.dtype), self.kind, self.rows)
        if self.kind == "other":
            return Column(**{**asdict(base), **known})
        approximate = ["commonest"] if self.hashes is not None else []
        if self.hashes is None:
            known["distinct"] = 0 if self.counts is None else self.counts.height
        else:
            known["distinct"] = len(self.hashes)
            if len(self.hashes) == HASHES:
                known["distinct"] = round((HASHES - 1) / (int(self.hashes[-1]) / 2**64))
                approximate = ["distinct", *approximate]
        known["empty"] = self.empty if self.kind == "text" else None
        if self.counts is not None:
            known |= self._values(self.counts)
            if self.hashes is not None and self.kind in ("number", "time"):
                approximate += ["quantiles", "histogram"]
        return Column(**{**asdict(base), **known, "approximate": approximate})

    def _values(self, found: pl.DataFrame) -> dict[str, Any]:
        say = _saying(self.dtype)
        ranked = found.sort(["n", "value"], descending=[True, False]).head(COMMONEST)
        lossy = self.hashes is not None
        if lossy:  # a group of rare values is no value
            ranked = ranked.filter(pl.col("n") * (EXACT // 16) >= self.count) if self.kind != "text" else ranked
        known: dict[str, Any] = {"commonest": [[say(value), n] for value, n in ranked.iter_rows()]}
        if self.kind == "boolean":
            return known
        if self.kind == "text":
            low, high = self.lengths
            return {**known, "lengths": {"min": low, "max": high, "mean": self.length_sum / self.count}}
        ordered = found.sort("value")
        values, counts = ordered["value"], ordered["n"].to_numpy()
        upto = np.cumsum(counts)
        places = [min(int(np.searchsorted(upto, q * upto[-1] * (1 - 1e-12))), len(values) - 1) for q in QUANTILES]
        known["quantiles"] = {f"{q:g}": say(values[place]) for q, place in zip(QUANTILES, places, strict=True)}
        known["min"], known["max"] = say(self.low), say(self.high)
        known["mean"] = say(self.mean) if math.isfinite(self.mean) else None
        if self.kind == "number":
            known |= {"zeros": self.zeros, "negative": self.negative}
            if self.count > 1 and math.isfinite(self.squares):
                known["std"] = math.sqrt(self.squares / (self.count - 1))
        whole = self.dtype.is_integer()
        edges = bar_edges(float(self.low), float(self.high), values[places[0]], values[places[-1]], whole=whole)
        bars = np.clip(np.searchsorted(edges, values.cast(pl.Float64).to_numpy(), "right") - 1, 0, len(edges) - 2)
        filled = np.bincount(bars, weights=counts, minlength=len(edges) - 1).astype(np.int64)
        known["histogram"] = {"edges": [say(edge) for edge in edges.tolist()], "counts": filled.tolist()}
        return known


def _smallest(hashes: NDArray[np.uint64], values: pl.Series) -> NDArray[np.uint64]:
    """The smallest hashes of all values: how close they lie tells how many there are (Bar-Yossef et al. 2002)."""
    new = values.hash(0).to_numpy()
    if len(hashes) == HASHES:
        new = new[new < hashes[-1]]
    both = np.sort(np.concatenate([hashes, new]))  # np.unique hashes hashes, and takes twenty times as long
    apart: NDArray[np.uint64] = both[np.concatenate([[True], both[1:] != both[:-1]])]
    return apart[:HASHES]


def kind_of(dtype: pl.DataType) -> Kind:
    """What a column of this type is counted as."""
    if dtype == pl.Boolean:
        return "boolean"
    if dtype.is_numeric() or isinstance(dtype, pl.Duration):
        return "number"
    if isinstance(dtype, pl.Date | pl.Datetime):
        return "time"
    return "text" if isinstance(dtype, pl.String | pl.Categorical | pl.Enum | pl.Time) else "other"


def type_name(dtype: pl.DataType) -> str:
    """The type in few words: ``Int64``, ``Datetime UTC``."""
    return f"Datetime {dtype.time_zone or ''}".strip() if isinstance(dtype, pl.Datetime) else str(dtype)


def _physical(column: pl.Series, kind: Kind) -> pl.Series:
    if kind == "time":
        return column.cast(pl.Datetime("us")).to_physical() if column.dtype == pl.Date else column.to_physical()
    if isinstance(column.dtype, pl.Duration):
        return column.dt.total_microseconds() / 1e6
    if isinstance(column.dtype, pl.Decimal | pl.Int128 | pl.UInt128):
        return column.cast(pl.Float64)
    return column.cast(pl.String) if kind == "text" else column


def _saying(dtype: pl.DataType) -> Any:
    """How a value that was counted is written as a JSON value."""
    if not isinstance(dtype, pl.Date | pl.Datetime):
        return lambda value: value.item() if hasattr(value, "item") else value
    zone = UTC if isinstance(dtype, pl.Datetime) and dtype.time_zone else None
    start = datetime(1970, 1, 1, tzinfo=zone)

    def moment(value: float) -> str:
        try:
            at = start + timedelta(microseconds=round(value))
        except OverflowError:
            return f"{value / 31_556_952e6 + 1970:.0f}"  # a year that Python's calendar has not
        return at.date().isoformat() if dtype == pl.Date else at.isoformat()

    return moment


def starts(counts: Counts, cells: int) -> NDArray[np.bool_]:
    """Where each of about ``cells`` groups of ordered values begins, with about as many rows in each.

    A value that has a group's share of the rows is a group of its own, and the others share the rest.
    """
    heavy = counts * cells >= counts.sum()
    light = np.where(heavy, 0, counts)
    left = max(cells - int(heavy.sum()), 1)
    group = (np.cumsum(light) - light) * left // max(int(light.sum()), 1)
    first = np.ones(len(counts), dtype=bool)
    first[1:] = (group[1:] != group[:-1]) | heavy[1:] | heavy[:-1]
    return first


def _grouped(kept: pl.DataFrame) -> pl.DataFrame:
    """Neighbouring values as one, their mean; each group holds at most 1 / 65,536 of the rows, or one value."""
    ordered = kept.sort("value").cast({"value": pl.Float64})
    values, counts = ordered["value"].to_numpy(), ordered["n"].to_numpy()
    at = np.flatnonzero(starts(counts, EXACT // 2))
    sums = np.add.reduceat(counts, at)
    alone = np.diff([*at, len(values)]) == 1
    means = np.where(alone, values[at], np.add.reduceat(values * (counts / 1.0), at) / sums)
    return pl.DataFrame({"value": means, "n": sums})


def bar_edges(low: float, high: float, first: float, last: float, *, whole: bool) -> NDArray[np.float64]:
    """Edges of equal bars; where outliers lie far out, over the middle 98 % only."""
    if high - low > 4 * (last - first) > 0:
        low, high = float(first), float(last)
    if whole:
        step = 1 if high - low < 2 * BARS else math.ceil((high - low + 1) / BARS)
        return np.arange(low, high + 1 + step, step)[: math.floor((high - low) / step) + 2]
    if high <= low:
        return np.array([low - 0.5, low + 0.5])
    return 2 * np.linspace(low / 2, high / 2, BARS + 1)  # halves: their difference is never beyond a float
