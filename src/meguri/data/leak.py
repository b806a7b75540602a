"""Refusing the future: features are computed again without what was known later, and must not change."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from meguri.base.clock import moment as utc
from meguri.base.errors import DataError
from meguri.data import asof
from meguri.data.build import called, compute
from meguri.data.features import Features, functions, judge, needs, recorded
from meguri.data.sources import AT, Sources, read
from meguri.data.table import to_polars

if TYPE_CHECKING:
    from meguri.data.contract import Contract

ROWS = 2000  # of the latest rows before a moment, which are computed again
ALONE = 3  # rows that are computed again one by one, as they are online
AWAITED = 20  # rows without a label that tell a column which is known with it only
SKEW = timedelta(minutes=5)  # clocks that differ by less than this are no other zone


def check(
    rows: Any, features: Features, sources: Sources, *, contract: Contract, now: datetime, moments: int = 5
) -> Mapping[str, int]:
    """Compute the features of the rows again as of sampled ``moments``, from sources that hold nothing known later.

    Returns how many values were compared, for each feature. Raises ContractError for a definition that would see the
    future, DataError naming feature, row and both values when one depends on what was not known.
    """
    judge(features, contract)
    table = to_polars(rows)
    built = compute(table.drop(features, strict=False), features, sources, time=contract.time, now=now)
    _alone(built, features)
    _known_with_label(built, features, contract)
    return _redrawn(built, features, sources, contract=contract, now=now, moments=moments)


def sample(built: pl.DataFrame, features: Features, sources: Sources, *, contract: Contract, now: datetime) -> None:
    """The part of ``check`` that every build affords: rows alone, and SQL as of one moment. Raises DataError.

    What is read from a table is known by then, because the join takes nothing else; SQL and functions might do anything.
    """
    _alone(built, features)
    _known_with_label(built, features, contract)
    written = {name: found for name, found in recorded(features).items() if found.events.sql is not None}
    if written:
        _redrawn(built, written, sources, contract=contract, now=now, moments=1)


def clock(features: Features, sources: Sources, *, now: datetime) -> None:
    """Refuse events from after the present: a local time that was read as UTC. ``now`` is what the clock says.

    Raises DataError.
    """
    for feature in {asof.source(found.events): found for found in recorded(features).values()}.values():
        events = feature.events
        far = datetime(9990, 1, 1, tzinfo=utc(now).tzinfo)
        later = read(sources, events, set(events.keys), after=utc(now), until=far).filter(pl.col(AT) > utc(now) + SKEW)
        if later.height:
            what = f"{later.height} records happen after now, such as at {later[AT][0]:%Y-%m-%d %H:%M} UTC"
            fix = f"is '{events.at}' a local time that was read as UTC, or a plan? `at` is when it happened, in UTC"
            raise DataError(what, where=f"events {events.name}", fix=fix)


def _redrawn(
    built: pl.DataFrame, features: Features, sources: Sources, *, contract: Contract, now: datetime, moments: int
) -> dict[str, int]:
    """Compare with what the sources of an earlier moment give, for the rows until then."""
    counts = dict.fromkeys(features, 0)
    times = built[contract.time].drop_nulls().sort()
    for place in range(moments if len(times) else 0):
        moment = times[len(times) * (2 * place + 1) // (2 * moments)]
        moment = min(utc(moment), utc(now))
        part = built.filter(pl.col(contract.time) <= moment).sort(contract.time).tail(ROWS)
        again = compute(part.drop(features), features, sources, time=contract.time, now=moment, cut=moment)
        for name in features:
            _compare(part, again[name], name, contract, f"of what was known by {moment:%Y-%m-%d %H:%M} UTC")
            counts[name] += part.height
    return counts


def _compare(part: pl.DataFrame, again: pl.Series, name: str, contract: Contract, when: str) -> None:
    differ = part[name].cast(again.dtype, strict=False).ne_missing(again)
    if differ.any():
        place = differ.arg_true()[0]
        row = " ".join(str(part[key][place]) for key in contract.key if key in part.columns)
        what = f"the feature '{name}' sees the future: {differ.sum()} of {part.height} values are others when it is made {when}"
        shown = f"row {row}: {part[name][place]} with all records, {again[place]} with those known"
        fix = "make it of what its own records say: no aggregate over the whole table, nothing that is known later"
        raise DataError(what, where=f"feature '{name}'; {shown}", fix=fix)


def _alone(built: pl.DataFrame, features: Features) -> None:
    """Call the functions with single rows, as online: what depends on other rows depends on later ones as well."""
    own = functions(features)
    if not own or built.height < 2:
        return
    bare = built.drop(own)
    for place in sorted({built.height * i // ALONE for i in range(ALONE)} | {built.height - 1}):
        one = called(bare[place : place + 1], features)
        for name in own:
            before, after = built[name][place], one[name].cast(built.schema[name], strict=False)[0]
            if before != after and str(before) != str(after):  # not a number is no difference
                what = f"the function '{name}' depends on other rows: {before} among {built.height} rows, {after} alone"
                fix = "make it of the columns of one row: an aggregate over rows sees later ones, and online there are none"
                raise DataError(what, where=f"feature '{name}', row {place}", fix=fix)


def _known_with_label(built: pl.DataFrame, features: Features, contract: Contract) -> None:
    """Refuse a function of a column that is there only where the label is."""
    label = contract.label
    if label is None or label not in built.columns:
        return
    awaited = built[label].is_null()
    if awaited.sum() < AWAITED or awaited.all():
        return
    for name, function in functions(features).items():
        for need in needs(function):
            gone = built[need].is_null()
            if need not in features and gone.filter(awaited).all() and gone.filter(~awaited).mean() < 0.5:  # type: ignore[operator]
                what = f"'{name}' is made of '{need}', which no row has whose label '{label}' is awaited: it is known with the label"
                fix = "make it of columns that are known when it is predicted; if their source stopped, mend that"
                raise DataError(what, where=f"feature '{name}'", fix=fix)
