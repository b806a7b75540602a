"""A contract asked as SQL, where the data is: which rows break it and why, before any of them is hauled here."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from meguri.base.clock import moment
from meguri.base.extras import need
from meguri.data import reasons
from meguri.data.contract import Contract
from meguri.data.fit_sql import Fitting, fit_all
from meguri.data.plain import CONFLICT, REPEAT, not_unique
from meguri.data.spec_sql import asks
from meguri.data.warehouse import Warehouse

_KEY, _SAME, _NTH, _CONFLICT, _REPEAT = (f"_meguri_{name}" for name in ("key", "same", "nth", "conflict", "repeat"))


@dataclass(frozen=True)
class Counts:
    """How many rows a table has, how many are bad, and how many for each reason (most first; a row may have several).

    ``unasked`` names what SQL cannot be asked: it is asked of the rows when they come, by ``Contract.check``.
    """

    rows: int
    bad: int
    reasons: dict[str, int]
    unasked: tuple[str, ...]


def ask(
    warehouse: Warehouse, expr: Any, contract: Contract, *, now: datetime | None = None, labelled: bool = True
) -> Any:
    """The contract's columns of an Ibis expression, as they are, and ``reason``: null, or the words of ``Contract.check``.

    Nothing is written, and but for one look at columns of another type nothing is read until the result is. Of rows
    that are the same in every column one is good, and SQL does not say which. What ``unasked`` names is not in the reasons.

    Raises ContractError when the table as a whole is wrong: a column is gone or retyped.
    """
    ibis = need("ibis")
    fitting = fit_all(expr, contract, labelled=labelled, warehouse=warehouse)
    table, faults = _judged(fitting, contract, now=now, labelled=labelled, twice=True)
    text: Any = ibis.literal("")
    for why, bad in faults.items():
        text = text + bad.ifelse(ibis.literal(f"; {why}"), ibis.literal(""))
    return table.select(*fitting.names, reason=text.substr(2).nullif(""))


def counts(
    warehouse: Warehouse, expr: Any, contract: Contract, *, now: datetime | None = None, labelled: bool = True
) -> Counts:
    """Count the bad rows of an expression where they are; only the counts are hauled here.

    Raises ContractError when the table as a whole is wrong: a column is gone or retyped, or there is no row.
    """
    fitting = fit_all(expr, contract, labelled=labelled, warehouse=warehouse)
    keys = [fitting.value(name) for name in contract.key]
    several = _several(fitting.table, keys).count().name("several").as_table()
    twice = bool(warehouse.read(several).item())
    table, faults = _judged(fitting, contract, now=now, labelled=labelled, twice=twice)
    any_fault = need("ibis").or_(*faults.values()) if faults else need("ibis").literal(False)
    asked = {"rows": table.count(), "bad": any_fault.sum()}
    asked |= {f"reason_{i}": bad.sum() for i, bad in enumerate(faults.values())}
    found = [int(count or 0) for count in warehouse.read(table.aggregate(**asked)).row(0)]
    if not found[0]:
        raise contract.empty()
    each = {why: count for why, count in zip(faults, found[2:], strict=True) if count}
    ordered = dict(sorted(each.items(), key=lambda item: (-item[1], item[0])))
    return Counts(found[0], found[1], ordered, unasked(expr, contract, labelled=labelled))


def unasked(expr: Any, contract: Contract, *, labelled: bool = True) -> tuple[str, ...]:
    """What of the contract SQL cannot be asked, or not so that it surely answers as polars does.

    These are functions of the user's own, columns that are to be read from another kind of type, some patterns, in
    PostgreSQL the order of texts, which depends on its locale, and in BigQuery numbers of 32 bits, which it does not have.
    """
    fitting = fit_all(expr, contract, labelled=labelled)
    found = list(fitting.unread.values())
    for field in contract.asked(labelled=labelled):
        if field.name not in fitting.unread:
            column = fitting.table[fitting.value(field.name)]
            found += [
                f"{field.name}: {rule}" for rule in field.checks if asks(rule, field, column, fitting.engine) is None
            ]
    return (*found, *(str(custom) for custom in contract.custom))


def _several(table: Any, keys: list[str]) -> Any:
    """The keys, none of whose parts is null, that more than one row has."""
    whole = table.filter(*(table[name].notnull() for name in keys))
    return whole.group_by(keys).aggregate(_meguri_rows=whole.count()).filter(lambda t: t._meguri_rows > 1).select(keys)


def _judged(
    fitting: Fitting, contract: Contract, *, now: datetime | None, labelled: bool, twice: bool
) -> tuple[Any, dict[str, Any]]:
    """A table with all columns, found and fitted, and of each reason the condition under which a row has it."""
    ibis = need("ibis")
    table = _compared(fitting, contract) if twice else fitting.table
    repeat = table[_REPEAT] if twice else None
    groups = contract.groups(labelled=labelled)
    shared = {}
    for number, names in enumerate(groups):
        values = [fitting.value(name) for name in names]
        counted = table.count() if repeat is None else repeat.ifelse(0, 1).sum()
        shared[f"_meguri_group_{number}"] = counted.over(group_by=values)
    table = table.mutate(**shared) if shared else table

    faults: dict[str, Any] = {}

    def fault(why: str, bad: Any) -> None:
        why, bad = reasons.plain(why), bad.fill_null(False)
        faults[why] = faults[why] | bad if why in faults else bad

    fields = contract.asked(labelled=labelled)
    for field in fields:
        if field.name in fitting.lost:
            fault(f"{field.name}: cannot be read as {field.type}", table[fitting.lost[field.name]])
    for field in fields:
        if field.name in fitting.unread:
            continue
        column = table[fitting.value(field.name)]
        if not field.nullable and not (labelled and field.name == contract.label):
            fault(f"{field.name}: null", column.isnull())
        if field.is_float and column.type().is_floating():
            fault(f"{field.name}: infinite", column.abs() > sys.float_info.max)  # Ibis' isinf is false on Spark
        for rule in field.checks:
            good = asks(rule, field, column, fitting.engine)
            if good is not None:
                fault(f"{field.name}: {rule}", ~good)
    if twice:
        fault(CONFLICT, table[_CONFLICT])
        fault(REPEAT, table[_REPEAT])
    for number, names in enumerate(groups):
        bad = table[f"_meguri_group_{number}"] > 1
        fault(not_unique(names), bad & ~table[_REPEAT] if twice else bad)
    if now is not None and labelled and contract.label is not None:
        known = table[fitting.value(contract.label)].notnull()
        late = table[fitting.value(contract.time)] > ibis.literal(moment(now), type="timestamp('UTC')")
        fault(reasons.future(contract.label), known & late)
    return table, faults


def _compared(fitting: Fitting, contract: Contract) -> Any:
    """The table, and of each row whether its key is another's: contested, or of the same row once more.

    Only rows of a key that comes again are sorted; the others pass by a hash join with the few keys that do.
    """
    ibis = need("ibis")
    keys, every = [fitting.value(name) for name in contract.key], [fitting.value(name) for name in fitting.names]
    several = _several(fitting.table, keys)
    once = fitting.table.anti_join(several, keys).mutate(
        **{_CONFLICT: ibis.literal(False), _REPEAT: ibis.literal(False)}
    )
    again = fitting.table.semi_join(several, keys)
    again = again.mutate(
        **{
            _KEY: again.count().over(group_by=keys),
            _SAME: again.count().over(group_by=every),
            _NTH: ibis.row_number().over(group_by=every, order_by=keys),
        }
    )
    differs = again[_SAME] < again[_KEY]
    again = again.mutate(**{_CONFLICT: differs, _REPEAT: ~differs & (again[_NTH] > 0)})
    return once.union(again.select(once.columns))
