"""Give the columns of a query the types that a contract asks for, as ``fit`` does for a table that is here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from meguri.base.extras import need
from meguri.data.contract import Contract
from meguri.data.spec import Field
from meguri.data.spec_sql import literal
from meguri.data.warehouse import Warehouse

_WHOLE = {"Float32": 24, "Float64": 53}  # bits of a whole number that a float holds
_SMALL, _GREAT = 2.0**-150, 2.0**128 - 2.0**103  # at most and at least: what a Float32 rounds to 0 and to infinity


@dataclass
class Fitting:
    """A query with the contract's columns ``names`` as found, and beside them those that had to be changed.

    ``values`` are the names of the changed ones, ``lost`` those of the masks of values that could not be read, and
    ``unread`` says of columns that SQL would read otherwise than polars; they stay as found.
    """

    engine: str
    table: Any
    names: list[str]
    values: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    def value(self, name: str) -> str:
        """The name of the column that holds the values in the contract's type."""
        return self.values.get(name, name)


def fit_all(expr: Any, contract: Contract, *, labelled: bool, warehouse: Warehouse | None = None) -> Fitting:
    """The query in the contract's types.

    With the warehouse the values of columns that cannot be told by their type are looked at, in one query. Raises
    ContractError, saying all that is wrong, when a column is gone or retyped.
    """
    ibis = need("ibis")
    fields = contract.asked(labelled=labelled)
    extra = [name for name in expr.columns if name not in contract.types]
    wrong: dict[str, str] = {}
    changed: dict[str, Any] = {}
    lost: dict[str, Any] = {}
    unread: dict[str, str] = {}
    absent: dict[str, Any] = {}
    for asked in fields:
        name = asked.name
        if name not in expr.columns:
            if asked.required:
                wrong[name] = contract.gone(name, extra)
            absent[name] = _absent(asked)
            continue
        made, unfit = _fit(expr[name], asked)
        if made is None and not asked.coerce:
            example = _example(warehouse, expr, expr[name].notnull(), name)
            wrong[name] = f"'{name}': expected {asked.type}, found {_shown(expr[name])}{example}"
        elif made is None:
            unread[name] = f"{name}: to be read from {_shown(expr[name])} as {asked.type}"
        else:
            if unfit is not None:
                lost[name] = unfit.fill_null(False)
                made = made if not asked.coerce else lost[name].ifelse(ibis.null(made.type()), made)
            if asked.default is not None:
                made = made.fill_null(asked.stand_in)
            if not made.equals(expr[name]):
                changed[name] = made
    strict = {asked.name for asked in fields if asked.name in lost and not asked.coerce}
    masks = {name: lost.pop(name) for name in sorted(strict)}
    wrong |= _changing(warehouse, expr, contract, masks) if warehouse and masks else {}
    problems = [wrong[asked.name] for asked in fields if asked.name in wrong]
    if contract.strict and extra:
        problems.append(f"{', '.join(map(repr, extra))}: not in the contract, which is strict")
    if problems:
        raise contract.broken(problems)
    values = {name: f"_meguri_value_{number}" for number, name in enumerate(changed)}
    marks = {name: f"_meguri_lost_{number}" for number, name in enumerate(lost)}
    names = [asked.name for asked in fields]
    columns = [absent[name].name(name) if name in absent else expr[name] for name in names]
    own = {values[name]: made for name, made in changed.items()} | {marks[name]: mask for name, mask in lost.items()}
    return Fitting(expr.get_backend().name, expr.select(*columns, **own), names, values, marks, unread)


def _absent(asked: Field) -> Any:
    ibis = need("ibis")
    kind = {"Datetime": "timestamp('UTC')"}.get(asked.type, asked.type.lower())
    return ibis.null(kind) if asked.default is None else ibis.literal(asked.stand_in, type=kind)


def _fit(found: Any, asked: Field) -> tuple[Any | None, Any | None]:
    """The values in the type that is asked for, or as numbers that are equal to them, and which of them would change.

    None for the values when their type is of another kind.
    """
    ibis = need("ibis")
    kind, target = found.type(), asked.type
    if kind.is_floating():
        found = found.isnan().ifelse(ibis.null(kind), found)
    if kind.is_null() or (kind.is_unknown() and 'kind="NULL"' in str(kind)):  # so Ibis tells DuckDB's type NULL
        return _absent(Field(asked.name, asked.type)), None
    if target == "String":
        return (found, None) if kind.is_string() else (None, None)
    if target in ("Date", "Datetime"):
        return _fit_time(found, target) if kind.is_date() or kind.is_timestamp() else (None, None)
    if not (kind.is_numeric() or kind.is_boolean()):
        return None, None
    if kind.is_boolean():
        return (found, None) if target == "Boolean" else (found.ifelse(1, 0), None)
    if target == "Boolean":
        return found != 0, ~found.isin([0, 1])
    return _fit_number(found, asked)


def _fit_time(found: Any, target: str) -> tuple[Any, Any | None]:
    kind = found.type()
    if target == "Datetime":
        moments = found.cast("timestamp") if kind.is_date() else found
        return (
            (moments, None)
            if kind.is_timestamp() and kind.timezone == "UTC"
            else (moments.cast("timestamp('UTC')"), None)
        )
    if kind.is_date():
        return found, None
    return found.date(), found != found.truncate("D")


def _fit_number(found: Any, asked: Field) -> tuple[Any, Any | None]:
    """Numbers that keep their value need no cast: SQL compares them all alike."""
    kind, target = found.type(), asked.type
    if asked.is_float:
        if kind.is_floating() and target == "Float32" and kind.nbytes > 4:
            return _float32(found), None
        if not kind.is_integer():
            return (found.cast("float64") if kind.is_decimal() else found), None
        lost = None
        most = 8 * kind.nbytes - kind.is_signed_integer()
        for bits in range(_WHOLE[target] + 1, most + 1):  # so many bits only when the last ones are 0
            step = 2 ** (bits - _WHOLE[target])
            wide = (found > literal(2 ** (bits - 1))) | (found < literal(-(2 ** (bits - 1))))
            here = wide & (found % step != 0)
            lost = here if lost is None else lost | here
        return found, lost
    bits = int(target.lstrip("UInt"))
    low, high = (0, 2**bits - 1) if target[0] == "U" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if kind.is_integer():
        inside = (low <= kind.bounds.lower) and (kind.bounds.upper <= high)
        return found, None if inside else (found < literal(low)) | (found > literal(high))
    if kind.is_decimal():
        return found, (found < literal(low)) | (found > literal(high)) | (found != found.floor())
    return found, (found < float(low)) | (found >= float(high + 1)) | (found != found.floor())


def _float32(found: Any) -> Any:
    """A cast that neither overflows nor underflows, where servers call either an error."""
    ibis = need("ibis")
    infinite = ibis.literal(float("inf"), type="float32")
    return ibis.cases(
        (found >= _GREAT, infinite),
        (found <= -_GREAT, -infinite),
        ((found <= _SMALL) & (found >= -_SMALL), ibis.literal(0.0, type="float32")),
        else_=found.cast("float32"),
    )


def _changing(warehouse: Warehouse, expr: Any, contract: Contract, masks: dict[str, Any]) -> dict[str, str]:
    """Of columns whose values may only stay as they are, those that have a value which would change."""
    counted = expr.aggregate(**{f"lost_{i}": mask.sum() for i, mask in enumerate(masks.values())})
    types = {asked.name: asked.type for asked in contract.fields}
    found = {}
    for (name, mask), count in zip(masks.items(), warehouse.read(counted).row(0), strict=True):
        if count:
            shown = f"expected {types[name]}, found {_shown(expr[name])} with values that would change"
            found[name] = f"'{name}': {shown}{_example(warehouse, expr, mask, name)}"
    return found


def _example(warehouse: Warehouse | None, expr: Any, which: Any, name: str) -> str:
    if warehouse is None:
        return ""
    some = warehouse.read(expr.filter(which).select(name).limit(1))
    return f", such as {some.item()!r}" if some.height else ""


def _shown(column: Any) -> str:
    """The type by the name that polars has for it."""
    return str(pl.DataFrame(column.name("x").as_table().schema().to_pyarrow().empty_table()).dtypes[0])
