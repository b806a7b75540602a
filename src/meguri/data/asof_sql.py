"""Features as of a moment, where the data is: the joins of ``asof`` as Ibis expressions, for any of its engines."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from meguri.base.errors import DataError
from meguri.base.extras import need
from meguri.data.asof import COUNT, END, ROW, T, column_name, finish, grouped, plain
from meguri.data.features import Events, Feature
from meguri.data.sources import AT, KNOWN, asked
from meguri.data.table import to_polars

# Of what happens at one moment, what is known comes before who asks; so one running window answers every row.
KIND, NUMBER, BACK = "meguri_kind", "meguri_number", "meguri_back"


def values(rows: pl.DataFrame, found: Mapping[str, Feature], warehouse: Any, *, now: datetime) -> pl.DataFrame:
    """A column for each feature, as ``asof.values`` gives it; only the rows go there, and their values come back.

    Raises DataError for events that moved back in time (``last`` of them is found by the engine ``polars``).
    """
    numbered = rows.with_row_index(ROW).cast({ROW: pl.Int64})
    columns = []
    for (_, keys, window), features in grouped(found).items():
        events = next(iter(features.values())).events
        records = _records(warehouse, features, now)
        left = need("ibis").memtable(numbered.select(ROW, *keys, T))
        if window is None:
            answer, kinds, names = _latest(records, left, keys, features, warehouse)
        else:
            answer, kinds, names = _sums(records, left, keys, features, events)
        table = to_polars(warehouse.read(answer)).sort(ROW).rename(names)
        table = table.cast(
            {name: pl.Int128 for name, kind in table.schema.items() if window and name != ROW and kind.is_numeric()}
        )
        if window is None:
            kinds = {name: table.schema[f"last {name}"] for name in kinds}
            at = pl.col(AT).dt.convert_time_zone("UTC").dt.cast_time_unit("us")
            table = table.with_columns(at, *(plain(f"last {name}", kind) for name, kind in kinds.items()))
        table = table.with_columns(rows[T])
        columns.append(table.select(finish(feature, kinds).alias(name) for name, feature in features.items()))
    return pl.concat(columns, how="horizontal").select(list(found))


def _records(warehouse: Any, features: Mapping[str, Feature], now: datetime) -> Any:
    """The records known by now, with their two times. Raises DataError when one is known before it happened."""
    events = next(iter(features.values())).events
    columns = {feature.column for feature in features.values() if feature.column is not None}
    known = [events.known] if isinstance(events.known, str) else []
    wanted = list(dict.fromkeys([*events.keys, *events.scope, *events.id, *sorted(columns), events.at, *known]))
    found = asked(warehouse, events, wanted, after=None, until=now, cut=None)
    at = found[events.at]
    when = found[events.known] if isinstance(events.known, str) else at + _interval(events.known)
    found = found.mutate(**{AT: at, KNOWN: when})
    if known:
        early = warehouse.read(found.filter(found[KNOWN] < found[AT]).count().as_table()).item()
        if early:
            what = f"{early} records are known before they happened: '{known[0]}' is before '{events.at}'"
            fix = f"see whether one of the two is a local time; '{known[0]}' is when a record could be read"
            raise DataError(what, where=f"events {events.name}", fix=fix)
    return found


def _interval(length: timedelta) -> Any:
    return need("ibis").interval(microseconds=length // timedelta(microseconds=1))


def _up(table: Any, names: list[str]) -> list[Any]:
    """An order like that of ``asof``: nulls come first, and what is no number is one."""

    def value(name: str) -> Any:
        column = table[name]
        return column.isnan().ifelse(need("ibis").null(), column) if column.type().is_floating() else column

    return [value(name).asc(nulls_first=True) for name in dict.fromkeys(names)]


def _ended(records: Any, events: Events, more: list[str]) -> Any:
    """The records with when the next one of the same event took the place of each, and whether that moved it back or away."""
    ibis, identity = need("ibis"), list(dict.fromkeys([*events.scope, *events.id]))
    order = _up(records, [KNOWN, AT, *more])
    named = ibis.and_(*(records[name].notnull() for name in events.id))
    end = named.ifelse(records[KNOWN].lead().over(group_by=identity, order_by=order), ibis.null())
    later = {name: records[name].lead().over(group_by=identity, order_by=order) for name in (AT, *events.keys)}
    back = later[AT].isnull() | (later[AT] < records[AT])
    for key in events.keys:
        back = back | ~later[key].identical_to(records[key])
    return records.mutate(**{END: end, BACK: back})


def _latest(
    records: Any, left: Any, keys: tuple[str, ...], features: Mapping[str, Feature], warehouse: Any
) -> tuple[Any, dict[str, Any], dict[str, str]]:
    """For each row the latest event: the records are numbered as they came, and the greatest number counts."""
    ibis, events = need("ibis"), next(iter(features.values())).events
    columns = sorted({feature.column for feature in features.values() if feature.column is not None})
    order = [KNOWN, AT, *(name for name in (*events.id, *columns) if name not in keys)]
    if isinstance(events.known, str):
        if events.id:
            ended = _ended(records, events, [*keys, *columns])
            back = ended.filter(ended[END].notnull(), ended[AT].notnull(), ended[BACK])
            if warehouse.read(back.count().as_table()).item():
                what = "some events were moved back in time or taken away"
                raise DataError(what, where=f"events {events.name}", fix='find the last one with engine="polars"')
        records = _whole(records, keys)
        most = records[AT].max().over(group_by=keys, order_by=_up(records, [KNOWN, AT]), rows=(None, 0))
        records = records.mutate(meguri_most=most).filter(lambda t: t[AT] >= t.meguri_most)
    records = _whole(records, keys)
    number = records[KNOWN].count().over(group_by=keys, order_by=_up(records, order), rows=(None, 0))
    records = records.mutate(**{NUMBER: number.cast("int64")})
    numbered = records.select(
        *keys, **{T: records[KNOWN], KIND: ibis.literal(0, "int64"), NUMBER: records[NUMBER], ROW: ibis.null("int64")}
    )
    rows = left.select(
        *keys, **{T: left[T], KIND: ibis.literal(1, "int64"), NUMBER: ibis.null("int64"), ROW: left[ROW]}
    )
    both = _same_times(numbered).union(_same_times(rows))
    best = both[NUMBER].max().over(group_by=keys, order_by=_up(both, [T, KIND]), rows=(None, 0))
    met = both.mutate(meguri_best=best).filter(lambda t: t[ROW].notnull()).select(*keys, ROW, "meguri_best")
    right = records.select(**{f"k{place}": records[key] for place, key in enumerate(keys)}, **{NUMBER: records[NUMBER], AT: records[AT]},
                           **{f"v{place}": records[name] for place, name in enumerate(columns)})  # fmt: skip
    same = [met[key] == right[f"k{place}"] for place, key in enumerate(keys)]
    joined = met.left_join(right, [*same, met.meguri_best == right[NUMBER]])
    chosen = joined.select(ROW, AT, *(f"v{place}" for place in range(len(columns))))
    return chosen, dict.fromkeys(columns), {f"v{place}": f"last {name}" for place, name in enumerate(columns)}


def _whole(records: Any, keys: tuple[str, ...]) -> Any:
    """The records of an entity without a null in it, which happened at some time."""
    return records.filter(records[AT].notnull(), *(records[key].notnull() for key in keys))


def _same_times(table: Any) -> Any:
    return table.mutate(**{T: table[T].cast("timestamp('UTC', 6)")})


def _sums(
    records: Any, left: Any, keys: tuple[str, ...], features: Mapping[str, Feature], events: Events
) -> tuple[Any, dict[str, Any], dict[str, str]]:
    """For each row the sums over its window: a record is added when it is known, and taken off when it is old or replaced."""
    ibis, length = need("ibis"), next(iter(features.values())).length
    assert length is not None
    columns = sorted({feature.column for feature in features.values() if feature.column is not None})
    end = records[AT] + _interval(length)
    if isinstance(events.known, str):
        records = _ended(records, events, [*keys, *columns])
        end = records[AT] + _interval(length)
        end = records[END].isnull().ifelse(end, ibis.least(end, records[END]))
    records = records.mutate(**{END: end}).filter(lambda t: t[KNOWN] < t[END])
    records = _whole(records, keys)
    kinds = {name: _kind(records[name].type()) for name in columns}
    parts: dict[str, Any] = {}
    for feature in features.values():
        parts |= _wholes(feature, records, kinds)
    names = {f"p{place}": name for place, name in enumerate(parts)}

    def changes(table: Any, when: Any, kind: int, row: Any, part: Any) -> Any:
        every = {name: part(whole).cast("decimal(38, 0)") for name, whole in zip(names, parts.values(), strict=True)}
        return _same_times(table.select(*keys, **{T: when, KIND: ibis.literal(kind, "int64"), ROW: row}, **every))

    none = ibis.null("int64")
    plus = changes(records, records[KNOWN], 0, none, lambda whole: whole)
    minus = changes(records, records[END], 0, none, lambda whole: -whole)
    rows = changes(left, left[T], 1, left[ROW], lambda _: ibis.literal(0))
    both = plus.union(minus, rows)
    order = _up(both, [T, KIND])
    running = {name: both[name].sum().over(group_by=keys, order_by=order, rows=(None, 0)) for name in names}
    answer = both.mutate(**running).filter(lambda t: t[ROW].notnull())
    return answer.select(ROW, **{name: answer[name].cast("decimal(38, 0)") for name in names}), kinds, names


def _kind(kind: Any) -> pl.DataType:
    return pl.Boolean() if kind.is_boolean() else pl.Int64() if kind.is_integer() else pl.Float64()


def _wholes(feature: Feature, records: Any, kinds: Mapping[str, pl.DataType]) -> dict[str, Any]:
    """The whole numbers that ``asof.wholes`` gives, in SQL; what does not fit in 64 bits is an error of the engine."""
    ibis = need("ibis")
    if feature.column is None:
        return {COUNT: ibis.literal(1)}
    column, kind, name = records[feature.column], kinds[feature.column], column_name(feature, kinds)
    if not (column.type().is_numeric() or column.type().is_boolean()):
        what = f"'{feature.column}' is {column.type()}, and a {feature.kind} needs numbers"
        raise DataError(
            what, where=f"events {feature.events.name}", fix="name a column of numbers, or use last or count"
        )
    there = column.notnull()
    if kind == pl.Float64:
        value = column.cast("float64")
        there = there & ~value.isnan()
        column = there.ifelse((value * float(10**feature.decimals) + 0.5).floor(), 0.0)
    number = column.ifelse(1, 0) if kind == pl.Boolean else column.cast("int64")
    whole = there.ifelse(number, 0).cast("decimal(19, 0)")
    found = {f"{COUNT} {feature.column}": there.ifelse(1, 0), f"sum {name}": whole}
    return found | ({f"squares {name}": whole * whole} if feature.kind == "std" else {})
