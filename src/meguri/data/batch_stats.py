"""What is remembered of a batch: small robust statistics of its columns, their pairs and its rows, as JSON can hold them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from datetime import datetime
from itertools import combinations, permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from meguri.base.clock import moment
from meguri.data.contract import Contract

FORMAT = 1
LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)  # the quantiles that are kept
SAMPLE = 128  # distinct values of a column, and distinct rows, that are kept as hashes
LONG = 64  # letters of a text, or of its shape, that are kept
PAIRED = 32  # columns that are held against each other
MEASURED = 100_000  # rows of a larger batch from which its statistics are made
PLACES = 5  # decimals that are told apart
OFTEN = 0.1  # of the rows: a sum that holds in fewer is none
SUMMED = 2_000  # rows in which sums are looked for
LOOKED = 20_000  # rows from which pairs are learned
FEWEST = 20  # values from which anything of two columns, or of neighbours, is learned
CALENDAR = ("year", "month", "day", "weekday", "week", "ordinal_day")
_DAY = 86_400_000_000

Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]
Stats = dict[str, Any]


def measure(rows: pl.DataFrame, contract: Contract, *, now: datetime) -> Stats:
    """The statistics of ``rows``, which the contract has checked; ``now`` is when they were read.

    ``scalars`` has for each measure its value by column, or by two columns. ``quantiles``, ``hours`` (of the day, UTC)
    and ``values`` are by column; ``values`` keeps the distinct values with the smallest hashes and their counts, so
    that two batches keep the same ones (a bottom-k sketch: Cohen and Kaplan 2007). ``couples`` is that of two text
    columns, ``shapes`` of what texts look like, ``content`` of whole rows, times left out. ``readings`` says how many
    values of a column are its own: one that many rows of one moment share, such as the weather's, is one reading. Of a
    larger batch 100,000 rows are measured, evenly spread, and for pairs 20,000 rows of the first 32 columns.
    """
    count, newest = rows.height, _highest(rows[contract.time])
    rows = rows.gather_every(-(-count // MEASURED))
    times = [name for name in rows.columns if rows[name].dtype.is_temporal()]
    numbers = [name for name in rows.columns if rows[name].dtype.is_numeric()]
    texts = [name for name in rows.columns if name not in times and name not in numbers]
    hashes = {name: _hashed(rows[name]) for name in rows.columns}
    values = {name: _sketch(hashes[name], rows[name].is_not_null().to_numpy()) for name in rows.columns}
    calendar = {name: parts for name in numbers if (parts := _calendar(rows, name, contract.time))}
    several = [name for name in rows.columns if name not in times and _distinct(values[name]) > 1]
    whole = [np.where(rows[name].is_null().to_numpy(), np.uint64(0), hashes[name]) for name in several]
    content = np.zeros(rows.height, dtype=np.uint64)
    for part in whole:
        content = _mixed(content * np.uint64(31) + part)
    few = [name for name in texts[:PAIRED] if 1 < _distinct(values[name]) <= rows.height / 4]
    couples: dict[str, dict[str, Any]] = {name: {} for name in few}
    for one, other in [(one, other) for one in few for other in texts[:PAIRED] if other not in few or one < other]:
        there = (rows[one].is_not_null() & rows[other].is_not_null()).to_numpy()
        couples[one][other] = _sketch(_mixed(hashes[one] * np.uint64(31) + hashes[other]), there)
    scalars: dict[str, dict[str, Any]] = {
        "rows": {"": float(np.log(count))},
        "nulls": {name: _root(rows[name].null_count() / rows.height) for name in rows.columns},
        "distinct": {name: float(np.log1p(_distinct(values[name]))) for name in rows.columns},
        "commonest": {name: _root(_commonest(rows[name])) for name in rows.columns if name not in times},
        "calendar": calendar,
        "sums": _sums(rows, [name for name in numbers if name not in calendar][:PAIRED]),
        **_of_numbers(rows.sort(contract.time, maintain_order=True), numbers),
        **_of_times(rows, times, now),
        **_pairs(rows, [name for name in rows.columns if name not in calendar][:PAIRED]),
    }
    return {
        "format": FORMAT,
        "rows": count,
        "weekday": _middle(rows[contract.time]).isoweekday(),
        "newest": moment(newest).isoformat(),
        "scalars": _short(scalars),
        "readings": {name: _readings(rows[name], hashes[name], hashes[contract.time]) for name in rows.columns},
        "quantiles": {name: q for name in numbers if name not in calendar and (q := _quantiles(rows[name]))},
        "hours": {name: _hours(rows[name]) for name in times if isinstance(rows[name].dtype, pl.Datetime)},
        "values": {name: kept for name, kept in values.items() if name not in times and name not in calendar},
        "names": {name: _names(rows[name]) for name in texts if 0 < _distinct(values[name]) <= SAMPLE},
        "shapes": {name: _sketch(_text_hashes(_shape(rows[name]))) for name in texts if rows[name].dtype == pl.String},
        "couples": couples,
        "content": _sketch(content) if several else None,
    }


def _short(value: Any) -> Any:
    """Numbers to five digits: more would only be noise, and bytes."""
    return {k: _short(v) for k, v in value.items()} if isinstance(value, dict) else float(f"{value:.5g}")


def hash_of(text: str) -> int:
    """The hash that ``values`` keeps of a text."""
    return int(_text_hashes(pl.Series([text]))[0] >> np.uint64(32))


# values as hashes that are the same in every process and version


def _mixed(bits: Hashes) -> Hashes:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014): neighbours become strangers."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _hashed(column: pl.Series) -> Hashes:
    if column.dtype == pl.String:
        return _text_hashes(column)
    if column.dtype.is_temporal():
        column = column.cast(pl.Datetime("us")).to_physical() if column.dtype == pl.Date else column.to_physical()
    floats = column.cast(pl.Float64).fill_null(0).to_numpy() + 0.0  # -0 is 0
    return _mixed(floats.view(np.uint64) + np.uint64(0x9E3779B97F4A7C15))


def _text_hashes(column: pl.Series) -> Hashes:
    unique = column.drop_nulls().unique()
    crc = pl.Series([zlib.crc32(text.encode()) for text in unique], dtype=pl.UInt64)
    return _mixed(column.replace_strict(unique, crc, default=0, return_dtype=pl.UInt64).to_numpy().copy())


def _sketch(hashes: Hashes, there: npt.NDArray[np.bool_] | None = None) -> dict[str, Any]:
    """The smallest hashes and their counts; ``below`` is the bound under which none is left out."""
    short, counts = np.unique((hashes if there is None else hashes[there]) >> np.uint64(32), return_counts=True)
    below = 2**32 if len(short) <= SAMPLE else int(short[SAMPLE])
    kept = {str(key): int(count) for key, count in zip(short[:SAMPLE], counts[:SAMPLE], strict=True)}
    return {"below": below, "distinct": len(short), "counts": kept}


def _distinct(sketch: dict[str, Any]) -> int:
    return int(sketch["distinct"])


def _names(column: pl.Series) -> dict[str, str]:
    return {str(hash_of(text)): text for text in column.drop_nulls().cast(pl.String).unique() if len(text) <= LONG}


def _shape(column: pl.Series) -> pl.Series:
    """Each text with its letters as a or A, its digits as 9, what is not ASCII as ?, and what repeats once."""
    rules = (r"[^\x00-\x7F]+", "?"), (r"[A-Z]+", "A"), (r"[a-z]+", "a"), (r"\d+", "9"), (r"\s+", "_")
    for pattern, short in rules:
        column = column.str.replace_all(pattern, short)
    return column.drop_nulls().str.slice(0, LONG)


# one column


def _root(share: float) -> float:
    """arcsin √share, in which sampling noise is the same everywhere (Anscombe 1948)."""
    return float(np.arcsin(np.sqrt(min(max(share, 0.0), 1.0))))


def _fisher(correlation: float) -> float:
    """artanh of a correlation, in which sampling noise is the same everywhere; ±1 is cut to ±0.999."""
    return float(np.arctanh(np.clip(np.nan_to_num(correlation), -0.999, 0.999)))


def _middle(column: pl.Series) -> datetime:
    middle = column.sort()[len(column) // 2]
    assert isinstance(middle, datetime)
    return middle


def _highest(column: pl.Series) -> datetime:
    highest = column.max()
    assert isinstance(highest, datetime)
    return highest


def _readings(column: pl.Series, hashes: Hashes, times: Hashes) -> int:
    """How many different values there are, each counted once for each time; nulls are none."""
    there = column.is_not_null().to_numpy()
    return max(1, len(np.unique(_mixed(_mixed(hashes[there]) + times[there]))))


def _commonest(column: pl.Series) -> float:
    counts = column.drop_nulls().value_counts()["count"]
    return float(counts.max()) / float(counts.sum()) if len(counts) else 0.0  # type: ignore[arg-type]


def _quantiles(column: pl.Series) -> list[float]:
    floats = column.drop_nulls().cast(pl.Float64).to_numpy()
    return [float(q) for q in np.quantile(floats, LEVELS)] if len(floats) else []


def _calendar(rows: pl.DataFrame, name: str, time: str) -> dict[str, float]:
    """In which share of the rows the column is the year, month, day or week of the time, in UTC, where it mostly is."""
    if not rows[name].dtype.is_integer():
        return {}
    parts = [(pl.col(name) == getattr(pl.col(time).dt, part)()).mean().alias(part) for part in CALENDAR]
    shares = rows.select(parts).row(0, named=True)
    return {part: _root(share) for part, share in shares.items() if share is not None and share >= 0.5}


def _of_numbers(rows: pl.DataFrame, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Shares of zeros, of values below zero, of the lowest and highest; decimals; and how alike neighbours in time are."""
    found: dict[str, dict[str, Any]] = {
        name: {} for name in ("zeros", "negatives", "decimals", "lowest", "highest", "smooth")
    }
    for name in names:
        floats = rows[name].drop_nulls().cast(pl.Float64).to_numpy()
        if not len(floats):
            continue
        found["zeros"][name] = _root(float(np.mean(floats == 0)))
        found["negatives"][name] = _root(float(np.mean(floats < 0)))
        if rows[name].dtype.is_float():
            found["decimals"][name] = {str(places): _root(_finer(floats, places)) for places in range(PLACES)}
        found["lowest"][name] = _root(float(np.mean(floats == floats.min())))
        found["highest"][name] = _root(float(np.mean(floats == floats.max())))
        ranks = _ranks(floats)
        if len(floats) >= FEWEST and ranks[1:].std() and ranks[:-1].std():
            found["smooth"][name] = _fisher(float(np.corrcoef(ranks[1:], ranks[:-1])[0, 1]))
    return found


def _finer(floats: Floats, places: int) -> float:
    """The share of values that need more decimals than ``places``."""
    scaled = floats * 10.0**places
    return float(np.mean(np.abs(scaled - np.round(scaled)) > 1e-9 * np.maximum(1.0, np.abs(scaled))))


def _of_times(rows: pl.DataFrame, names: Iterable[str], now: datetime) -> dict[str, dict[str, float]]:
    """How many times are ahead of now, and days (as arsinh) from the oldest, the middle and the newest until now."""
    found: dict[str, dict[str, float]] = {"ahead": {}, "oldest": {}, "middle": {}, "newest": {}}
    at = int(moment(now).timestamp() * 1e6)
    for name in names:
        micros = rows[name].drop_nulls().cast(pl.Datetime("us")).to_physical().to_numpy()
        if len(micros):
            found["ahead"][name] = _root(float(np.mean(micros > at)))
            for which, level in (("oldest", 0.0), ("middle", 0.5), ("newest", 1.0)):
                found[which][name] = float(np.arcsinh((at - np.quantile(micros, level)) / _DAY))
    return found


def _hours(column: pl.Series) -> list[float]:
    counts = np.bincount(column.drop_nulls().dt.hour().to_numpy(), minlength=24)
    return [float(share) for share in np.round(counts / max(counts.sum(), 1), 5)]


# two columns


def _ranks(floats: Floats) -> Floats:
    """Ranks from 1 up; equal values share the mean of theirs."""
    _, places, counts = np.unique(floats, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


def _pairs(rows: pl.DataFrame, names: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """How columns go together.

    ``alone``: how often the one is null and the other is not. Numbers: ``rank`` correlation, how often the one is
    ``below`` the other and ``equal`` to it, and their ``ratio`` in the middle. Text with a number, and text with text: how
    much of the one the other tells (η² of ranks, Cramér's V), as ``tells``. ``together``: how many pairs of values there
    are for each value of the column with more of them (the log; 0 when one follows from the other).
    """
    rows = rows.select(names).gather_every(-(-rows.height // LOOKED))
    found: dict[str, dict[str, dict[str, float]]] = {
        name: {} for name in ("alone", "rank", "below", "equal", "ratio", "tells", "together")
    }

    def say(what: str, one: str, other: str, value: float) -> None:
        found[what].setdefault(one, {})[other] = value

    nulls = {name: rows[name].is_null().to_numpy() for name in names}
    for one, other in permutations(names, 2):
        if nulls[one].any():
            say("alone", one, other, float((nulls[one] & ~nulls[other]).sum()))
    numbers = [name for name in names if rows[name].dtype.is_numeric()]
    floats = {name: rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in numbers}
    whole = {name: _ranks(values) for name, values in floats.items()}
    for one, other in combinations(numbers, 2):
        both = np.isfinite(floats[one]) & np.isfinite(floats[other])
        a, b = floats[one][both], floats[other][both]
        if len(a) < FEWEST:
            continue
        say("below", one, other, _root(float(np.mean(a < b))))
        say("equal", one, other, _root(float(np.mean(a == b))))
        ranks = (whole[one], whole[other]) if both.all() else (_ranks(a), _ranks(b))
        if ranks[0].std() and ranks[1].std():
            say("rank", one, other, _fisher(float(np.corrcoef(*ranks)[0, 1])))
        above = (a > 0) & (b > 0)
        if above.mean() > 0.5:
            say("ratio", one, other, float(np.median(np.log(b[above] / a[above]))))
    codes = {name: _codes(rows[name]) for name in names}
    kinds = {name: len(np.unique(code)) for name, code in codes.items()}
    for one, other in combinations(names, 2):
        size = int(codes[other].max()) + 1
        pairs = len(np.unique(codes[one] * size + codes[other]))
        say("together", one, other, float(np.log(pairs / max(kinds[one], kinds[other]))))
    codes = {name: code for name, code in codes.items() if rows[name].dtype in (pl.String, pl.Boolean)}
    codes = {name: code for name, code in codes.items() if 1 < kinds[name] <= rows.height / 4}
    for other in numbers:
        there = np.isfinite(floats[other])
        ranked = _ranks(floats[other][there])
        if len(ranked) >= FEWEST:
            for one in codes:
                say("tells", one, other, _fisher(_told(codes[one][there], ranked)))
    for one, other in combinations(codes, 2):
        say("tells", one, other, _fisher(_cramer(codes[one], codes[other])))
    return found


def _sums(rows: pl.DataFrame, names: list[str]) -> dict[str, dict[str, float]]:
    """In which share of the rows a number is the sum of two others, where it often is: 12.5 hours - 12 hours is a delay."""
    rows = rows.gather_every(-(-rows.height // SUMMED))
    floats = np.array([rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in names])
    found: dict[str, dict[str, float]] = {}
    for one, other in combinations(range(len(names)), 2):
        total = floats[one] + floats[other]
        there = np.isfinite(floats + total).sum(axis=1)
        shares = (np.abs(floats - total) <= 1e-9 * np.maximum(1.0, np.abs(total))).sum(axis=1) / np.maximum(there, 1)
        for place in np.flatnonzero((there >= FEWEST) & (shares >= OFTEN)):
            if place not in (one, other):
                found.setdefault(names[place], {})[f"{names[one]} + {names[other]}"] = _root(float(shares[place]))
    return found


def _codes(column: pl.Series) -> npt.NDArray[np.int64]:
    """Each value as a small number; a null is 0."""
    return column.rank("dense").fill_null(0).cast(pl.Int64).to_numpy()


def _told(code: npt.NDArray[np.int64], ranks: Floats) -> float:
    """√η² of ranks: the share of their spread that lies between the groups (Kruskal and Wallis 1952), less chance."""
    counts = np.bincount(code)
    sums = np.bincount(code, weights=ranks)[counts > 0]
    counts = counts[counts > 0]
    spread, groups, n = float(((ranks - ranks.mean()) ** 2).sum()), len(counts), len(ranks)
    if not spread or n <= groups:
        return 0.0
    between = float((counts * (sums / counts - ranks.mean()) ** 2).sum()) / spread
    return float(np.sqrt(max(0.0, 1 - (1 - between) * (n - 1) / (n - groups))))


def _cramer(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> float:
    """Cramér's V, less chance (Bergsma 2013)."""
    _, a = np.unique(one, return_inverse=True)
    _, b = np.unique(other, return_inverse=True)
    r, k, n = int(a.max()) + 1, int(b.max()) + 1, len(a)
    if min(r, k) < 2 or n < 2:
        return 0.0
    cells, counts = np.unique(a * k + b, return_counts=True)
    expected = np.bincount(a)[cells // k] * np.bincount(b)[cells % k] / n
    chi2 = float((counts**2 / expected).sum()) - n
    phi = max(0.0, chi2 / n - (k - 1) * (r - 1) / (n - 1))
    smaller = min(k - (k - 1) ** 2 / (n - 1), r - (r - 1) ** 2 / (n - 1)) - 1
    return float(np.sqrt(min(1.0, phi / smaller))) if smaller > 0 else 0.0
