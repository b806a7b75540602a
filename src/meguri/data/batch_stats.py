"""What is remembered of a batch: small robust statistics of its columns, their pairs and its rows, as JSON can hold them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from meguri.base.clock import moment
from meguri.data.batch_pairs import FEWEST, Codes, Flags, Floats, fisher, pairs, ranks, root, sums
from meguri.data.contract import Contract

FORMAT = 1
LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)  # the quantiles that are kept
SAMPLE = 128  # distinct values of a column, and distinct rows, that are kept as hashes
LONG = 64  # letters of a text, or of its shape, that are kept
PAIRED = 32  # columns that are held against each other
MEASURED = 100_000  # rows of a larger batch from which its statistics are made
PLACES = 5  # decimals that are told apart
LOOKED = 20_000  # rows from which pairs are learned
CALENDAR = ("year", "month", "day", "weekday", "week", "ordinal_day")
_HOUR = 3_600_000_000  # microseconds

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
    times = [name for name in rows.columns if rows[name].dtype in (pl.Date, pl.Datetime)]
    numbers = [name for name in rows.columns if rows[name].dtype.is_numeric()]
    texts = [name for name in rows.columns if name not in times and name not in numbers]
    there = {name: rows[name].is_not_null().to_numpy() for name in rows.columns}
    floats = {name: _floats(rows[name]) for name in [*times, *numbers]}
    hashes = {name: _hashed(rows[name]) for name in rows.columns}
    counted = {name: _counted(hashes[name][there[name]]) for name in rows.columns}
    kinds = {name: len(short) for name, (short, _) in counted.items()}
    calendar = _calendar(floats, rows[contract.time], [name for name in numbers if rows[name].dtype.is_integer()])
    measured = {name: floats[name][np.isfinite(floats[name])] for name in numbers}
    few = [name for name in texts[:PAIRED] if 1 < kinds[name] <= rows.height / 4]
    content = np.zeros(rows.height, dtype=np.uint64)
    for name in rows.columns:
        if name not in times and kinds[name] > 1:
            content = _mixed(content * np.uint64(31) + np.where(there[name], hashes[name], np.uint64(0)))
    scalars: dict[str, dict[str, Any]] = {
        "rows": {"": float(np.log(count))},
        "nulls": {name: root(1 - float(own.mean())) for name, own in there.items()},
        "distinct": {name: float(np.log1p(kind)) for name, kind in kinds.items()},
        "commonest": {
            name: root(float(counts.max() / counts.sum()) if len(counts) else 0.0)
            for name, (_, counts) in counted.items()
            if name not in times
        },
        "calendar": calendar,
        "sums": sums({name: floats[name] for name in [name for name in numbers if name not in calendar][:PAIRED]}),
        **_of_numbers(rows, {name: floats[name] for name in numbers}, np.argsort(floats[contract.time], kind="stable")),
        **_of_times({name: floats[name][there[name]] for name in times}, now),
        **_of_pairs(rows, [name for name in rows.columns if name not in calendar][:PAIRED], floats, hashes, there),
    }
    return {
        "format": FORMAT,
        "rows": count,
        "weekday": _middle(rows[contract.time]).isoweekday(),
        "newest": moment(newest).isoformat(),
        "scalars": _short(scalars),
        "readings": {name: _readings(hashes[name], hashes[contract.time], there[name]) for name in rows.columns},
        "quantiles": {
            name: np.quantile(own, LEVELS).tolist()
            for name, own in measured.items()
            if name not in calendar and len(own)
        },
        "hours": {name: _hours(floats[name][there[name]]) for name in times if rows[name].dtype == pl.Datetime},
        "values": {
            name: _sketch(*counted[name]) for name in rows.columns if name not in times and name not in calendar
        },
        "names": {name: _names(rows[name]) for name in texts if 0 < kinds[name] <= SAMPLE},
        "shapes": {name: _shapes(rows[name]) for name in texts if rows[name].dtype == pl.String},
        "couples": {name: _couples(name, texts[:PAIRED], few, hashes, there) for name in few},
        "content": _sketch(*_counted(content)) if content.any() else None,
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
    """A null has one, too."""
    return _mixed(np.array([zlib.crc32((text or "").encode()) for text in column.to_list()], dtype=np.uint64))


def _counted(hashes: Hashes, weights: Codes | None = None) -> tuple[Hashes, Codes]:
    """The distinct hashes in order, shortened, and how often each is there, or the sum of its weights."""
    if weights is None:
        return np.unique(hashes >> np.uint64(32), return_counts=True)
    short, places = np.unique(hashes >> np.uint64(32), return_inverse=True)
    return short, np.bincount(places, weights).astype(np.int64)


def _sketch(short: Hashes, counts: Codes) -> dict[str, Any]:
    """The smallest hashes and their counts; ``below`` is the bound under which none is left out."""
    below = 2**32 if len(short) <= SAMPLE else int(short[SAMPLE])
    return {"below": below, "keys": short[:SAMPLE].tolist(), "counts": counts[:SAMPLE].tolist()}


def _couples(
    one: str, texts: list[str], few: list[str], hashes: Mapping[str, Hashes], there: Mapping[str, Flags]
) -> dict[str, Any]:
    """The sketch of each text that goes with ``one``; of two that sort the rows into few groups only once."""
    found = {}
    for other in texts:
        if other not in few or one < other:
            both = _mixed(hashes[one] * np.uint64(31) + hashes[other])
            found[other] = _sketch(*_counted(both[there[one] & there[other]]))
    return found


def _names(column: pl.Series) -> dict[str, str]:
    texts = column.drop_nulls().cast(pl.String).unique()
    hashes = _text_hashes(texts) >> np.uint64(32)
    return {str(key): text for key, text in zip(hashes, texts, strict=True) if len(text) <= LONG}


def _shapes(column: pl.Series) -> dict[str, Any]:
    """The sketch of each text with its letters as a or A, its digits as 9, what is not ASCII as ?, and what repeats once."""
    counts = column.drop_nulls().value_counts()
    shapes = counts.to_series()
    for pattern, short in (
        (r"[^\x00-\x7F]+", "?"),
        (r"[A-Z]+", "A"),
        (r"[a-z]+", "a"),
        (r"[0-9]+", "9"),
        (r"[ \t-\r]+", "_"),
    ):
        shapes = shapes.str.replace_all(pattern, short)
    return _sketch(*_counted(_text_hashes(shapes.str.slice(0, LONG)), counts["count"].to_numpy()))


# columns


def _floats(column: pl.Series) -> Floats:
    """Numbers, or times in microseconds; NaN where one is null."""
    if column.dtype.is_temporal():
        column = column.cast(pl.Datetime("us")).to_physical()
    return column.cast(pl.Float64).fill_null(np.nan).to_numpy()


def _middle(column: pl.Series) -> datetime:
    middle = column.sort()[len(column) // 2]
    assert isinstance(middle, datetime)
    return middle


def _highest(column: pl.Series) -> datetime:
    highest = column.max()
    assert isinstance(highest, datetime)
    return highest


def _readings(hashes: Hashes, times: Hashes, there: Flags) -> int:
    """How many different values there are, each counted once for each time; nulls are none."""
    ordered = np.sort(_mixed(_mixed(hashes[there]) + times[there]))
    return 1 + int(np.count_nonzero(np.diff(ordered)))


def _calendar(floats: Mapping[str, Floats], time: pl.Series, names: list[str]) -> dict[str, dict[str, float]]:
    """In which share of the rows a column is the year, month, day or week of the time, in UTC, where it mostly is."""
    found: dict[str, dict[str, float]] = {}
    for part in CALENDAR if names else ():
        now = getattr(time.dt, part)().to_numpy()
        for name in names:
            own = np.isfinite(floats[name])
            share = float((floats[name] == now).sum() / max(1, own.sum()))
            if share >= 0.5:
                found.setdefault(name, {})[part] = root(share)
    return found


def _of_numbers(rows: pl.DataFrame, floats: Mapping[str, Floats], order: Codes) -> dict[str, dict[str, Any]]:
    """Shares of zeros, of values below zero, and of the lowest and highest of many; decimals; and how alike neighbours in
    time are.
    """
    found: dict[str, dict[str, Any]] = {
        name: {} for name in ("zeros", "negatives", "decimals", "lowest", "highest", "smooth")
    }
    for name, values in floats.items():
        own = values[order]
        own = own[np.isfinite(own)]
        if not len(own):
            continue
        found["zeros"][name] = root(float(np.mean(own == 0)))
        found["negatives"][name] = root(float(np.mean(own < 0)))
        if rows[name].dtype.is_float():
            found["decimals"][name] = {str(places): root(_finer(own, places)) for places in range(PLACES)}
        places = ranks(own)
        if len(np.unique(places)) >= FEWEST:
            found["lowest"][name] = root(float(np.mean(own == own.min())))
            found["highest"][name] = root(float(np.mean(own == own.max())))
        if len(own) >= FEWEST and np.ptp(places[1:]) and np.ptp(places[:-1]):
            found["smooth"][name] = fisher(float(np.corrcoef(places[1:], places[:-1])[0, 1]))
    return found


def _finer(floats: Floats, places: int) -> float:
    """The share of values that need more decimals than ``places``."""
    scaled = floats * 10.0**places
    return float(np.mean(np.abs(scaled - np.round(scaled)) > 1e-9 * np.maximum(1.0, np.abs(scaled))))


def _of_times(micros: Mapping[str, Floats], now: datetime) -> dict[str, dict[str, float]]:
    """How many times are ahead of now, and days (as arsinh) from the oldest, the middle and the newest until now."""
    found: dict[str, dict[str, float]] = {"ahead": {}, "oldest": {}, "middle": {}, "newest": {}}
    at = moment(now).timestamp() * 1e6
    for name, own in micros.items():
        if len(own):
            found["ahead"][name] = root(float(np.mean(own > at)))
            for which, when in (("oldest", own.min()), ("middle", np.median(own)), ("newest", own.max())):
                found[which][name] = float(np.arcsinh((at - when) / (24 * _HOUR)))
    return found


def _hours(micros: Floats) -> list[float]:
    counts = np.bincount((micros // _HOUR % 24).astype(np.int64), minlength=24)
    return [float(share) for share in np.round(counts / max(counts.sum(), 1), 5)]


def _of_pairs(
    rows: pl.DataFrame,
    names: list[str],
    floats: Mapping[str, Floats],
    hashes: Mapping[str, Hashes],
    there: Mapping[str, Flags],
) -> dict[str, dict[str, Any]]:
    step = -(-rows.height // LOOKED)
    own = {name: there[name][::step] for name in names}
    codes = {name: np.unique(np.where(own[name], hashes[name][::step], 0), return_inverse=True)[1] for name in names}
    groups = [name for name in names if rows[name].dtype in (pl.String, pl.Boolean)]
    groups = [name for name in groups if 1 < codes[name].max() + 1 <= len(codes[name]) / 4]
    return pairs({name: floats[name][::step] for name in names if rows[name].dtype.is_numeric()}, codes, own, groups)
