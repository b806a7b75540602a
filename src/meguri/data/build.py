"""Rows with their features, as of each row's moment; and the latest features of each entity."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from meguri.base.clock import moment
from meguri.base.errors import DataError, MeguriError
from meguri.data import asof, history
from meguri.data.features import Feature, Features, entities, functions, needs, recorded
from meguri.data.sources import MOMENT, Sources
from meguri.data.table import to_polars

if TYPE_CHECKING:
    from meguri.data.contract import Contract

Engine = Literal["polars", "warehouse"]


def build(
    rows: Any,
    features: Features,
    sources: Sources,
    *,
    contract: Contract,
    now: datetime,
    engine: Engine = "polars",
    past: history.Past | None = None,
) -> pl.DataFrame:
    """The rows, in their order, and a column for each feature, as it was known at the row's time, at the latest ``now``.

    ``sources`` are frames by table name, or a Warehouse; with ``engine="warehouse"`` the joins run there. ``past`` is shared by
    the parts of a stream: then not all events need to be in memory, and none is read twice when rows come in order of time.
    A definition that would see the future is refused with ContractError or DataError: as it is written, and by
    computing a sample of the rows again without what was known later (``meguri.data.leak``).
    """
    from meguri.data import leak
    from meguri.data.features import judge

    judge(features, contract)
    table = to_polars(rows)
    taken = [name for name in features if name in table.columns]
    if taken:
        what = f"the rows have a column '{taken[0]}' already"
        raise DataError(
            what, where=f"feature '{taken[0]}'", fix="leave it out of what retrieve gives, or rename the feature"
        )
    built = compute(table, features, sources, time=contract.time, now=now, engine=engine, past=past)
    leak.sample(built, features, sources, contract=contract, now=now)
    return built


def compute(
    table: pl.DataFrame,
    features: Features,
    sources: Sources,
    *,
    time: str,
    now: datetime,
    engine: Engine = "polars",
    cut: datetime | None = None,
    past: history.Past | None = None,
) -> pl.DataFrame:
    """The rows and their features, held against nothing."""
    now = moment(now)
    if time not in table.columns:
        what = f"the rows have no column '{time}', the moment of the prediction"
        raise DataError(what, where="features", fix=f"they have {', '.join(table.columns)}")
    found = recorded(features)
    missing = [
        (name, key) for name, feature in found.items() for key in feature.events.keys if key not in table.columns
    ]
    if missing:
        name, key = missing[0]
        raise DataError(f"the rows have no column '{key}'", where=f"feature '{name}'", fix="give it, or change by=…")
    moments = _moments(table[time], time)
    if isinstance(end := moments.max(), datetime) and end > now:
        moments = moments.clip(upper_bound=now)
    keys = dict.fromkeys(key for feature in found.values() for key in feature.events.keys)
    asked = table.select(*keys, moments.alias(asof.T))
    if not found:
        made = pl.DataFrame()
    elif engine == "warehouse":
        from meguri.data import asof_sql

        made = asof_sql.values(asked, found, sources, now=now)
    else:
        made = _joined(asked, found, sources, now=now, cut=cut, past=past)
    whole = table.hstack(made.get_columns())
    return called(whole, features).select(*table.columns, *features)


def _joined(
    asked: pl.DataFrame,
    found: Mapping[str, Feature],
    sources: Sources,
    *,
    now: datetime,
    cut: datetime | None,
    past: history.Past | None,
) -> pl.DataFrame:
    """A column for each feature; of a stream in two halves of its time where too many events lie between."""
    first, last = (end if isinstance(end, datetime) else now for end in (asked[asof.T].min(), asked[asof.T].max()))
    if past is None or first == last or not history.many(found, sources, first=first, last=last):
        return asof.values(asked, found, history.load(found, sources, first=first, last=last, cut=cut, past=past))
    masks = list(history.halves(asked[asof.T]))
    made = [_joined(asked.filter(mask), found, sources, now=now, cut=cut, past=past) for mask in masks]
    return pl.concat(made)[pl.concat([mask.arg_true() for mask in masks]).arg_sort()]


def _moments(column: pl.Series, name: str) -> pl.Series:
    from meguri.data.fit import RetypedError, fit
    from meguri.data.spec import Field

    try:
        return fit(column, Field(name, "Datetime"))[0]
    except RetypedError as error:
        raise DataError(f"'{name}' is no time: {error}", where="features", fix="give moments with a zone") from error


def called(table: pl.DataFrame, features: Features) -> pl.DataFrame:
    """The table with the columns that are functions of its rows."""
    columns = {name: table[name] for name in table.columns}
    for name, function in functions(features).items():
        columns[name] = call(name, function, columns, table.height)
    return pl.DataFrame(columns)


def call(name: str, function: Callable[..., Any], columns: Mapping[str, pl.Series], height: int) -> pl.Series:
    """The column that a function makes of others. Raises DataError when it fails, or gives another number of values."""
    where = f"feature '{name}'"
    try:
        result = function(**{need: columns[need] for need in needs(function)})
        column = result if isinstance(result, pl.Series) else pl.Series(result)
    except MeguriError:
        raise
    except Exception as error:
        missing = [need for need in needs(function) if need not in columns]
        if missing:
            fix = f"known: {', '.join(columns)}"
            raise DataError(f"'{name}' asks for '{missing[0]}', which no row has", where=where, fix=fix) from None
        what = f"the function '{name}' failed: {type(error).__name__}: {error}"
        raise DataError(
            what, where=where, fix="it is called with polars Series, and gives one of as many values"
        ) from error
    if len(column) != height:
        what = f"the function '{name}' gave {len(column)} values for {height} rows"
        raise DataError(
            what, where=where, fix="give one value for each row: a feature is computed for one row online, too"
        )
    return column.alias(name)


def latest(features: Features, sources: Sources, *, now: datetime) -> Mapping[tuple[str, ...], pl.DataFrame]:
    """For each kind of entity its features as known ``now``, one row for each entity that any event was of.

    It is the same computation as ``build`` with every row's moment ``now``; functions of a row wait for the row.
    """
    now = moment(now)
    found = recorded(features)
    tables = history.load(found, sources, first=now, last=now, cut=None) if found else {}
    made = {}
    for keys, group in entities(features):
        parts = [tables[asof.source(feature.events)].select(keys) for feature in group.values()]
        asked = pl.concat(parts, how="vertical_relaxed").drop_nulls().unique(maintain_order=True)
        asked = asked.sort(keys).with_columns(pl.lit(now).cast(MOMENT).alias(asof.T))
        made[keys] = asked.drop(asof.T).hstack(asof.values(asked, group, tables).get_columns())
    return made
