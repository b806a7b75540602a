"""Where events are read: frames by name, or a warehouse; what was not known yet is not read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from meguri.base.errors import DataError
from meguri.base.extras import need
from meguri.data.features import Events
from meguri.data.stream import batches_of
from meguri.data.table import to_polars

# Frames (lazy ones are read no further than needed) by the names of tables, or a Warehouse.
Sources = Any
MOMENT = pl.Datetime("us", "UTC")
# What the joins call the times of an event, so that they never meet a column's name.
AT, KNOWN = "meguri_at", "meguri_known"


def read(
    sources: Sources,
    events: Events,
    columns: set[str],
    *,
    after: datetime | None = None,
    until: datetime,
    cut: datetime | None = None,
) -> pl.DataFrame:
    """The records known in (after, until]: the ``columns``, and the times ``meguri_at`` and ``meguri_known`` in UTC.

    A record without a known moment is not known. With ``cut``, SQL sees only what its tables knew at that moment.
    Raises DataError when a table or column is missing, a time has no zone, or a record is known before it happened.
    """
    found = _found(sources, events, _wanted(events, columns), after, until, cut)
    return _timed(found.collect() if isinstance(found, pl.LazyFrame) else to_polars(sources.read(found)), events)


def parts(
    sources: Sources, events: Events, columns: set[str], *, after: datetime | None, until: datetime, rows: int
) -> Iterator[pl.DataFrame]:
    """What ``read`` gives, in tables of at most ``rows``."""
    found = _found(sources, events, _wanted(events, columns), after, until, None)
    for part in batches_of(found, None if isinstance(found, pl.LazyFrame) else sources, rows=rows):
        yield _timed(part, events)


def count(sources: Sources, events: Events, *, after: datetime | None, until: datetime) -> int:
    """How many records ``read`` would give."""
    found = _found(sources, events, _wanted(events, set()), after, until, None)
    if isinstance(found, pl.LazyFrame):
        return int(found.select(pl.len()).collect().item())
    return int(sources.read(found.aggregate(records=found.count())).item())


def _wanted(events: Events, columns: set[str]) -> list[str]:
    known = [events.known] if isinstance(events.known, str) else []
    return list(dict.fromkeys([*sorted(columns), events.at, *known]))


def _found(
    sources: Sources,
    events: Events,
    wanted: list[str],
    after: datetime | None,
    until: datetime,
    cut: datetime | None,
) -> Any:
    """The records as a LazyFrame or an Ibis expression: nothing is read yet."""
    if not isinstance(sources, Mapping):
        return asked(sources, events, wanted, after=after, until=until, cut=cut)
    found = _frame(sources, events, cut)
    schema = found.collect_schema()
    _judge(events, wanted, dict(schema))
    first, last = _bounds(events, after, until)
    kept = _until(found.select(wanted), events, last)
    return kept if first is None else kept.filter(~_by(events, first, schema))


def _moment_column(events: Events) -> str:
    return events.known if isinstance(events.known, str) else events.at


def _bounds(events: Events, after: datetime | None, until: datetime) -> tuple[datetime | None, datetime]:
    """The same bounds on the column that says when: the known moment, or the event's time before it."""
    shift = timedelta(0) if isinstance(events.known, str) else events.known
    earliest = datetime(1, 1, 2, tzinfo=UTC)
    low = None if after is None or after - earliest < shift else after - shift
    return low, until - min(shift, until - earliest)


def _frame(sources: Mapping[str, Any], events: Events, cut: datetime | None) -> pl.LazyFrame:
    if events.sql is None:
        return _table(sources, str(events.table), events)
    seen = {}
    for other in events.of:
        table = _table(sources, other if isinstance(other, str) else str(other.table), events)
        if isinstance(other, Events) and cut is not None:
            _judge(other, [_moment_column(other)], dict(table.collect_schema()))
            table = _until(table, other, _bounds(other, None, cut)[1])
        seen[other if isinstance(other, str) else str(other.table)] = table
    try:
        found = pl.SQLContext(seen).execute(events.sql)
        found.collect_schema()
    except pl.exceptions.PolarsError as error:
        what = f"the SQL of these events cannot be run: {str(error).splitlines()[0]}"
        raise DataError(
            what, where=f"events {events.name}", fix="it sees the tables named in of=[…], and no other"
        ) from error
    return found


def _until(table: pl.LazyFrame, events: Events, last: datetime) -> pl.LazyFrame:
    return table.filter(_by(events, last, table.collect_schema()))


def _by(events: Events, moment: datetime, schema: Mapping[str, Any]) -> pl.Expr:
    """Whether the column that says when is no later than the moment, asked in its own zone, so that files can skip rows."""
    name = _moment_column(events)
    return pl.col(name) <= pl.lit(moment).cast(pl.Datetime("us", schema[name].time_zone))


def _table(sources: Mapping[str, Any], name: str, events: Events) -> pl.LazyFrame:
    if name not in sources:
        known = ", ".join(sorted(sources)) or "none"
        raise DataError(f"there is no table '{name}'", where=f"events {events.name}", fix=f"the sources have {known}")
    table = sources[name]
    return table if isinstance(table, pl.LazyFrame) else to_polars(table).lazy()


def _judge(events: Events, wanted: list[str], schema: Mapping[str, Any]) -> None:
    missing = [name for name in wanted if name not in schema]
    if missing:
        what = f"there is no column '{missing[0]}'"
        raise DataError(what, where=f"events {events.name}", fix=f"it has {', '.join(schema)}")
    for name in (events.at, events.known):
        if isinstance(name, str) and name in wanted:
            kind = schema[name]
            if not isinstance(kind, pl.Datetime) or kind.time_zone is None:
                what = f"'{name}' is {kind}, which says no zone: read as UTC, a local time would show the future"
                fix = f'say which: pl.col("{name}").dt.replace_time_zone("America/New_York"), in SQL AT TIME ZONE'
                raise DataError(what, where=f"events {events.name}", fix=fix)


def _timed(table: pl.DataFrame, events: Events) -> pl.DataFrame:
    """The table with its two times, in the order in which it became known."""
    at = pl.col(events.at).dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    if isinstance(events.known, str):
        known = pl.col(events.known).dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    else:
        known = at + events.known
    table = table.with_columns(at.alias(AT), known.alias(KNOWN))
    early = table.filter(pl.col(KNOWN) < pl.col(AT))
    if early.height:
        row = early.row(0, named=True)
        what = f"{early.height} of {table.height} records are known before they happened: {events.known} {row[KNOWN]}, {events.at} {row[AT]}"
        fix = f"see whether one of the two is a local time, or when it was planned; '{events.known}' is when a record could be read"
        raise DataError(what, where=f"events {events.name}", fix=fix)
    return table


def asked(
    warehouse: Any, events: Events, wanted: list[str], *, after: datetime | None, until: datetime, cut: datetime | None
) -> Any:
    """The records known in (after, until] as an Ibis expression: nothing is read yet."""
    if events.sql is None:
        found = warehouse.table(events.table)
    else:
        one = events.of[0]
        known = warehouse.table(one if isinstance(one, str) else one.table)
        found = warehouse.sql(_rewritten(events, cut, known.get_backend().name))
    _judge(events, wanted, {name: _kind(kind) for name, kind in found.schema().items()})
    first, last = _bounds(events, after, until)
    when = found[_moment_column(events)]
    kept = found.filter(when <= last) if first is None else found.filter(when > first, when <= last)
    return kept.select(wanted)


def _kind(kind: Any) -> Any:
    """The polars type of a warehouse's time; other types are named only."""
    return pl.Datetime("us", kind.timezone) if kind.is_timestamp() else kind


def _rewritten(events: Events, cut: datetime | None, dialect: str) -> str:
    """The SQL with each table of ``of`` as it was known at ``cut``; raises DataError when it reads a table beside them."""
    sqlglot = need("sqlglot")
    exp = sqlglot.exp
    tree = sqlglot.parse_one(events.sql, dialect=dialect)
    within = {cte.alias for cte in tree.find_all(exp.CTE)}
    of = {other if isinstance(other, str) else str(other.table): other for other in events.of}
    for table in list(tree.find_all(exp.Table)):
        if table.name in within:
            continue
        if table.name not in of:
            fix = "name each table that it reads in of=[…]"
            raise DataError(f"this SQL reads the table '{table.name}' too", where=f"events {events.name}", fix=fix)
        other = of[table.name]
        if cut is not None and isinstance(other, Events):
            last = _bounds(other, None, cut)[1]
            stamp = exp.cast(exp.Literal.string(last.isoformat(sep=" ")), "timestamptz")
            bare = table.copy()
            bare.set("alias", None)
            kept = (
                sqlglot.select("*").from_(bare).where(exp.LTE(this=exp.column(_moment_column(other)), expression=stamp))
            )
            table.replace(kept.subquery(table.alias_or_name))
    return str(tree.sql(dialect=dialect))
