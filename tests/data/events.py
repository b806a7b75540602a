"""Random histories of events, and what each feature means, computed record by record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from hypothesis import strategies as st

from meguri.data.features import Feature, recorded

NOON = datetime(2013, 4, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
UTC_TIME = pl.Datetime("us", "UTC")
RECORD = {
    "origin": pl.String,
    "carrier": pl.String,
    "id": pl.Int64,
    "at": UTC_TIME,
    "known_at": UTC_TIME,
    "delay": pl.Float64,
}
RECORD |= {"seats": pl.Int64, "full": pl.Boolean}
ROW = {"row": pl.Int64, "asked_at": UTC_TIME, "origin": pl.String, "carrier": pl.String}


def minute(number: float | None) -> datetime | None:
    """So many minutes after noon."""
    return None if number is None else NOON + number * MINUTE


def records(*given: tuple[Any, ...]) -> pl.DataFrame:
    """Records of (origin, carrier, id, at, known_at, delay), the times in minutes after noon."""
    found = [(o, c, i, minute(at), minute(known), d, None, None) for o, c, i, at, known, d in given]
    return pl.DataFrame(found, schema=RECORD, orient="row")


def rows(*given: tuple[Any, ...]) -> pl.DataFrame:
    """Rows of (asked_at in minutes after noon, origin, carrier)."""
    return pl.DataFrame([(n, minute(at), o, c) for n, (at, o, c) in enumerate(given)], schema=ROW, orient="row")


ENTITY = st.tuples(st.sampled_from(["JFK", "EWR", None]), st.sampled_from(["UA", "AA", None]))
DELAY = st.none() | st.sampled_from([0.0, -0.0, 0.1, -7.3, 1e6, 1e-7, math.nan]) | st.floats(-1e4, 1e4)


@st.composite
def histories(draw: st.DrawFn) -> pl.DataFrame:
    """Records with ties, nulls, repeats, corrections that come late and events that move in time or to another entity."""
    found: list[tuple[Any, ...]] = []
    for _ in range(draw(st.integers(0, 14))):
        if found and draw(st.integers(0, 3)) == 0:
            old = draw(st.sampled_from(found))
            if draw(st.booleans()):
                found.append(old)
                continue
            key, number = (old[0], old[1]), old[2]
            key = draw(st.just(key) | ENTITY)
        else:
            key, number = draw(ENTITY), draw(st.none() | st.integers(0, 4))
        at = draw(st.none() | st.integers(0, 20))
        known = draw(st.none() | st.integers(at or 0, 30))
        more = draw(DELAY), draw(st.none() | st.integers(-5, 500)), draw(st.none() | st.booleans())
        found.append((*key, number, minute(at), minute(known), *more))
    table = pl.DataFrame(found, schema=RECORD, orient="row")
    return table.sample(fraction=1, shuffle=True, seed=draw(st.integers(0, 99)))


@st.composite
def questions(draw: st.DrawFn) -> pl.DataFrame:
    """Rows in any order, some of one moment, some without one."""
    asked = st.tuples(
        st.none() | st.integers(-2, 45), st.sampled_from(["JFK", "EWR", "LGA", None]), st.sampled_from(["UA", None])
    )
    return rows(*draw(st.lists(asked, max_size=8)))


def _nulls_first(values: Any) -> tuple[Any, ...]:
    clean = (None if isinstance(value, float) and math.isnan(value) else value for value in values)
    return tuple((value is not None, value) for value in clean)


def value_at(
    feature: Feature, group: list[Feature], table: list[dict[str, Any]], row: Mapping[str, Any], now: datetime
) -> Any:
    """What a feature means. ``group`` are the features that the same join brings: they choose between equals together."""
    events, moment = feature.events, None if row["asked_at"] is None else min(row["asked_at"], now)
    columns = sorted({other.column for other in group if other.column is not None})
    known_at = (
        (lambda r: r[events.known])
        if isinstance(events.known, str)
        else lambda r: r[events.at] and r[events.at] + events.known
    )
    seen = [] if moment is None else [r for r in table if known_at(r) is not None and known_at(r) <= moment]
    windowed = feature.kind not in ("last", "age")
    if isinstance(events.known, str) and events.id:
        seen.sort(
            key=lambda r: _nulls_first(
                (
                    known_at(r),
                    r[events.at],
                    *((r[k] for k in events.keys) if windowed else ()),
                    *([] if windowed else (r[i] for i in events.id)),
                    *(r[c] for c in columns),
                )
            )
        )
        versions: dict[Any, dict[str, Any]] = {}
        for number, record in enumerate(seen):
            identity = tuple(record[name] for name in (*events.scope, *events.id))
            versions[(*identity, number) if any(record[i] is None for i in events.id) else identity] = record
        seen = list(versions.values())
    live = [
        r for r in seen if r[events.at] is not None and all(r[k] is not None and r[k] == row[k] for k in events.keys)
    ]
    if not windowed:
        order = (*(i for i in events.id), *columns)
        best = max(
            live, default=None, key=lambda r: _nulls_first((r[events.at], known_at(r), *(r[name] for name in order)))
        )
        if best is None or (feature.length is not None and best[events.at] <= moment - feature.length):
            return None
        return (moment - best[events.at]).total_seconds() if feature.kind == "age" else _clean(best[feature.column])
    recent = [r for r in live if r[events.at] > moment - feature.length]
    if feature.kind == "count":
        return len(recent)
    values = [value for r in recent if (value := _clean(r[feature.column])) is not None]
    exact = feature.column != "delay"
    scale = 1 if exact else 10**feature.decimals
    whole = [int(value) if exact else math.floor(value * scale + 0.5) for value in values]
    if feature.kind == "sum":
        return sum(whole) if exact else sum(whole) / scale
    if feature.kind == "mean":
        return sum(whole) / (len(whole) * scale) if whole else None
    spread = len(whole) * sum(w * w for w in whole) - sum(whole) ** 2
    return math.sqrt(float(spread) / float(len(whole) * (len(whole) - 1) * scale * scale)) if len(whole) > 1 else None


def _clean(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def expected(
    asked: pl.DataFrame, features: Mapping[str, Any], table: pl.DataFrame, now: datetime
) -> dict[str, list[Any]]:
    """The features of the rows, each value by itself."""
    plain = table.to_dicts()
    found = recorded(features)

    def group(feature: Feature) -> list[Feature]:
        windowed = feature.kind not in ("last", "age")
        same = [f for f in found.values() if f.events is feature.events and (f.kind not in ("last", "age")) == windowed]
        return [f for f in same if not windowed or f.length == feature.length]

    return {
        name: [value_at(feature, group(feature), plain, row, now) for row in asked.iter_rows(named=True)]
        for name, feature in found.items()
    }
