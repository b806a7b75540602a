"""Features as of a moment, in process: what was known then of each entity, by one as-of join for each kind."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import polars as pl

from meguri.base.errors import DataError
from meguri.data.features import Events, Feature
from meguri.data.sources import AT, KNOWN, MOMENT

# The column of the moments that are asked about, and of those at which a value changes.
T, CHANGE = "meguri_moment", "meguri_change"
END, COUNT, ROW = "meguri_end", "meguri_count", "meguri_row"

Tables = Mapping[tuple[Any, ...], pl.DataFrame]


def source(events: Events) -> tuple[Any, ...]:
    """What is the same for events that differ in their entity only."""
    return (events.table, events.sql, events.of, events.at, events.known, events.id, events.scope)


def grouped(found: Mapping[str, Feature]) -> dict[tuple[Any, ...], dict[str, Feature]]:
    """The features that one join brings: of the same events and entity, and over the same window if they have one."""
    groups: dict[tuple[Any, ...], dict[str, Feature]] = defaultdict(dict)
    for name, feature in found.items():
        window = None if feature.kind in ("last", "age") else feature.length
        groups[(source(feature.events), feature.events.keys, window)][name] = feature
    return groups


def values(asked: pl.DataFrame, found: Mapping[str, Feature], tables: Tables) -> pl.DataFrame:
    """A column for each feature, with its value for each row of ``asked`` (entities, and the moment ``meguri_moment``)."""
    order = None if asked[T].is_sorted() else asked[T].arg_sort()
    moments = asked if order is None else asked[order]
    columns = []
    for (key, keys, window), features in grouped(found).items():
        left, table = _aligned(moments.select(*keys, T), tables[key], keys, next(iter(features.values())).events)
        make = _latest if window is None else _sums
        changes = make(table, keys, features).drop_nulls(list(keys))  # an entity with a null in it is none
        joined = left.join_asof(changes, left_on=T, right_on=CHANGE, by=list(keys), check_sortedness=False)
        columns.append(joined.select(finish(feature, table.schema).alias(name) for name, feature in features.items()))
    if not columns:
        return pl.DataFrame()
    whole = pl.concat(columns, how="horizontal").select(list(found))
    return whole if order is None else whole[order.arg_sort()]


def _aligned(
    left: pl.DataFrame, table: pl.DataFrame, keys: tuple[str, ...], events: Events
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both sides with entities of one type."""
    for name in keys:
        asked, found = left.schema[name], table.schema[name]
        if asked != found:
            kinds = {_family(asked), _family(found)} - {None}
            if len(kinds) > 1:
                what = f"the rows have '{name}' as {asked}, and the events as {found}"
                raise DataError(what, where=f"events {events.name}", fix="make them one type, where either is read")
            kind = next(iter(kinds), None) or pl.String()
            left, table = left.with_columns(pl.col(name).cast(kind)), table.with_columns(pl.col(name).cast(kind))
    return left, table


def _family(kind: pl.DataType) -> pl.DataType | None:
    if isinstance(kind, pl.Categorical | pl.Enum):
        return pl.String()
    return None if kind == pl.Null else pl.Int64() if kind.is_integer() else kind


def _latest(table: pl.DataFrame, keys: tuple[str, ...], features: Mapping[str, Feature]) -> pl.DataFrame:
    """When the latest event of an entity changed, and its columns: it is the one that happened last of those known."""
    events = next(iter(features.values())).events
    columns = sorted({feature.column for feature in features.values() if feature.column is not None})
    table = ordered(table, keys, events, columns)
    withdrawn = None
    if isinstance(events.known, str):
        if events.id:
            table, withdrawn = _withdrawn(table, keys, events)
        table = table.filter(pl.col(AT).is_not_null())
    kept = table.filter(pl.col(AT) >= pl.col(AT).cum_max().over(keys)) if isinstance(events.known, str) else table
    kept = kept.with_columns(pl.col(KNOWN).alias(CHANGE))
    if withdrawn is not None:
        others = kept.join(withdrawn, on=keys, how="anti")
        kept = pl.concat([others, _swept(table.join(withdrawn, on=keys, how="semi"), keys)], how="diagonal").sort(
            CHANGE
        )
    times = [AT] if any(feature.kind == "age" or feature.length is not None for feature in features.values()) else []
    return kept.select(
        *keys, CHANGE, *times, *(plain(name, kept.schema[name]).alias(f"last {name}") for name in columns)
    )


def plain(name: str, kind: pl.DataType) -> pl.Expr:
    """The column as features have it: no NaN, no decimals."""
    value = pl.col(name)
    return value.cast(pl.Float64) if kind.is_decimal() else value.fill_nan(None) if kind.is_float() else value


def ordered(table: pl.DataFrame, keys: tuple[str, ...], events: Events, columns: list[str]) -> pl.DataFrame:
    """The records in the order in which they became known, then happened; between equals the greatest comes last."""
    times = [KNOWN, AT] if isinstance(events.known, str) else [KNOWN]
    if table.select(*keys, *times).is_duplicated().any():
        more = dict.fromkeys(name for name in (*events.id, *columns) if name not in keys)
        return table.sort([*times, *(plain(name, table.schema[name]) for name in more)])
    return table.sort(times)


def _withdrawn(table: pl.DataFrame, keys: tuple[str, ...], events: Events) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """The table with when each record was replaced, and the entities of which an event was moved back or taken away."""
    table = _versions(table, events)
    identity = [*events.scope, *(name for name in events.id if name not in events.scope)]
    moved = [pl.col(name).shift(-1).over(identity).ne_missing(pl.col(name)) for name in keys]
    later = pl.col(AT).shift(-1).over(identity)
    back = pl.col(END).is_not_null() & pl.any_horizontal((later < pl.col(AT)) | later.is_null(), *moved)
    found = table.filter(back & pl.col(AT).is_not_null()).select(keys).unique()
    return table, found if found.height else None


def _versions(table: pl.DataFrame, events: Events) -> pl.DataFrame:
    """The records, known in order, with when the next record of the same event took its place; without an id none does."""
    identity = list(dict.fromkeys([*events.scope, *events.id]))
    named = pl.all_horizontal(pl.col(*events.id).is_not_null())
    return table.with_columns(pl.when(named).then(pl.col(KNOWN).shift(-1).over(identity)).alias(END))


def _swept(table: pl.DataFrame, keys: tuple[str, ...]) -> pl.DataFrame:
    """The latest event at each change, where events are taken away again: one walk through time for each entity."""
    places, moments = [], []
    table = table.with_row_index(ROW)
    for part in table.partition_by(keys):
        live: list[tuple[int, int, datetime | None, int]] = []  # the latest event first
        turns = pl.concat([part[KNOWN], part[END]]).drop_nulls().unique().sort()
        records = list(part.select(pl.col(AT).to_physical(), END, KNOWN, ROW).iter_rows())
        rank = 0
        for now in turns:
            while rank < len(records) and records[rank][2] <= now:
                at, end, _, row = records[rank]
                heapq.heappush(live, (-at, -rank, end, row))
                rank += 1
            while live and live[0][2] is not None and live[0][2] <= now:
                heapq.heappop(live)
            places.append(live[0][3] if live else None)
            moments.append((part.select(keys).row(0), now))
    entities = pl.DataFrame([key for key, _ in moments], schema={k: table.schema[k] for k in keys}, orient="row")
    changes = entities.with_columns(
        pl.Series(CHANGE, [now for _, now in moments], dtype=MOMENT), pl.Series(ROW, places, dtype=pl.UInt32)
    )
    return changes.join(table.drop(*keys), on=ROW, how="left").drop(ROW, END)


def _sums(table: pl.DataFrame, keys: tuple[str, ...], features: Mapping[str, Feature]) -> pl.DataFrame:
    """When a window's sums changed, and what they were: a record counts from when it is known until it is too old or replaced.

    Sums are of whole numbers (of 10^-decimals), so they are exact, and depend on nothing outside of the window.
    """
    events, length = next(iter(features.values())).events, next(iter(features.values())).length
    assert length is not None
    end = pl.col(AT) + length
    if isinstance(events.known, str):
        more = sorted({feature.column for feature in features.values() if feature.column is not None})
        by = (plain(name, table.schema[name]) for name in dict.fromkeys([*keys, *more]))
        table = _versions(table.sort([KNOWN, AT, *by]), events)
        end = pl.min_horizontal(end, pl.col(END))
    table = table.with_columns(end.alias(END)).filter(pl.col(KNOWN) < pl.col(END), pl.col(AT).is_not_null())
    parts = {name: whole for feature in features.values() for name, whole in wholes(feature, table).items()}
    table = table.select(*keys, KNOWN, END, *(part.alias(name) for name, part in parts.items()))
    changes = pl.concat(
        [
            table.select(*keys, pl.col(KNOWN).alias(CHANGE), *parts),
            table.select(
                *keys, pl.col(END).alias(CHANGE), *((pl.lit(0, pl.Int128) - pl.col(name)).alias(name) for name in parts)
            ),
        ]
    )
    return changes.sort(CHANGE).with_columns(pl.col(*parts).cum_sum().over(keys))


def wholes(feature: Feature, table: pl.DataFrame) -> dict[str, pl.Expr]:
    """The whole numbers that a feature adds up, by names that tell equal ones. Raises DataError for no or vast numbers."""
    one = {COUNT: pl.lit(1, pl.Int128)}
    if feature.column is None:
        return one
    column, kind, where = table[feature.column], table.schema[feature.column], f"events {feature.events.name}"
    if not (kind.is_numeric() or kind in (pl.Boolean, pl.Null)):
        what = f"'{feature.column}' is {kind}, and a {feature.kind} needs numbers"
        raise DataError(what, where=where, fix="name a column of numbers, or use last or count")
    exact, scale = kind.is_integer() or kind == pl.Boolean, 10**feature.decimals
    name = column_name(feature, table.schema)
    largest = _largest(column.cast(pl.Float64))
    reach = largest * (1 if exact else scale) * max(1, table.height)
    limit = 2.0**63 if exact and feature.kind == "sum" else 2.0**63.5 if feature.kind == "std" else 2.0**126
    if not reach < limit:
        what = f"'{feature.column}' has values as large as {largest:g}, whose {feature.kind} cannot be exact"
        raise DataError(what, where=where, fix="take such values out of the source, or keep fewer decimals: decimals=0")
    value = pl.col(feature.column)
    if not exact:
        value = (value.cast(pl.Float64).fill_nan(None) * scale + 0.5).floor()
    whole = value.cast(pl.Int128).fill_null(0)
    found = {f"{COUNT} {feature.column}": _is_value(kind, feature.column).cast(pl.Int128), f"sum {name}": whole}
    return found | ({f"squares {name}": whole * whole} if feature.kind == "std" else {})


def _largest(column: pl.Series) -> float:
    found = column.fill_nan(None).abs().max()
    return 0.0 if found is None else float(found)  # type: ignore[arg-type]


def _is_value(kind: pl.DataType, column: str) -> pl.Expr:
    value = pl.col(column)
    return value.is_not_null() & value.is_not_nan().fill_null(False) if kind.is_float() else value.is_not_null()


def column_name(feature: Feature, schema: Mapping[str, pl.DataType]) -> str:
    """The column, and to how many decimals it is kept, where that changes anything."""
    kind = schema[str(feature.column)]
    return f"{feature.column}" if kind.is_integer() or kind == pl.Boolean else f"{feature.column} to {feature.decimals}"


def finish(feature: Feature, schema: Mapping[str, pl.DataType]) -> pl.Expr:
    """The feature's value of the columns that its join brought; the same for every engine."""
    if feature.kind in ("last", "age"):
        if feature.kind == "last":
            kind, value = schema[str(feature.column)], pl.col(f"last {feature.column}")
        else:
            kind = pl.Float64()
            value = _divided((pl.col(T) - pl.col(AT)).dt.total_microseconds(), 1_000_000)
        if feature.length is not None:
            value = pl.when(pl.col(AT) > pl.col(T) - feature.length).then(value)
        return _rounded(value, feature, kind)
    if feature.column is None:
        return pl.col(COUNT).fill_null(0).cast(pl.Int64)
    kind, name = schema[feature.column], column_name(feature, schema)
    exact = kind.is_integer() or kind == pl.Boolean
    scale = 1 if exact else 10**feature.decimals
    count, total = pl.col(f"{COUNT} {feature.column}").fill_null(0), pl.col(f"sum {name}").fill_null(0)
    if feature.kind == "sum":
        return total.cast(pl.Int64) if exact else _rounded(_divided(total, scale), feature, pl.Float64())
    if feature.kind == "mean":
        value = pl.when(count > 0).then(_divided(total, count * scale))
        return _rounded(value, feature, pl.Float64())
    spread = count * pl.col(f"squares {name}") - total * total
    value = pl.when(count > 1).then(_divided(spread, count * (count - 1) * scale * scale).sqrt())
    return _rounded(value, feature, pl.Float64())


def _divided(value: pl.Expr, by: pl.Expr | int) -> pl.Expr:
    """The quotient, rounded once.

    Polars multiplies many values by the reciprocal of one, but divides one by one: the last bit would tell how many rows
    were asked. So the divisor is always a column.
    """
    divisor = value * 0 + by if isinstance(by, int) else by
    return value.cast(pl.Float64) / divisor.cast(pl.Float64)


def _rounded(value: pl.Expr, feature: Feature, kind: pl.DataType) -> pl.Expr:
    return (
        value if feature.digits is None or not (kind.is_float() or kind.is_decimal()) else value.round(feature.digits)
    )
