"""A contract's plain data in polars: its types, its checks as expressions, its defaults as literals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from meguri.base.errors import ContractError
from meguri.data.spec import KINDS, Field, Rule, typed

TYPES: dict[str, pl.DataType] = {
    kind: pl.Datetime("us", "UTC") if kind == "Datetime" else getattr(pl, kind)() for kind in KINDS
}


def _values(values: list[Any], kind: str) -> pl.Series:
    return pl.Series([typed(value, kind) for value in values], strict=False).cast(TYPES[kind]).implode()


def _in_range(
    column: pl.Expr, min_value: Any, max_value: Any, include_min: bool = True, include_max: bool = True
) -> pl.Expr:
    low = column.ge(min_value) if include_min else column.gt(min_value)
    return low & (column.le(max_value) if include_max else column.lt(max_value))


def _str_length(
    column: pl.Expr, min_value: int | None = None, max_value: int | None = None, exact_value: int | None = None
) -> pl.Expr:
    length = column.str.len_chars()
    low, high = (min_value, max_value) if exact_value is None else (exact_value, exact_value)
    return pl.lit(True) & (True if low is None else length >= low) & (True if high is None else length <= high)


# The meaning of each check; a null has no answer, so it passes (whether nulls may be there is the field's own matter).
CHECKS: dict[str, Callable[..., pl.Expr]] = {
    "ge": lambda column, min_value: column.ge(min_value),
    "gt": lambda column, min_value: column.gt(min_value),
    "le": lambda column, max_value: column.le(max_value),
    "lt": lambda column, max_value: column.lt(max_value),
    "eq": lambda column, value: column.eq(value),
    "ne": lambda column, value: column.ne(value),
    "in_range": _in_range,
    "isin": lambda column, allowed_values: column.is_in(allowed_values),
    "notin": lambda column, forbidden_values: ~column.is_in(forbidden_values),
    "str_matches": lambda column, pattern: column.str.contains(pattern if pattern[:1] == "^" else f"^{pattern}"),
    "str_contains": lambda column, pattern: column.str.contains(pattern),
    "str_startswith": lambda column, string: column.str.starts_with(string),
    "str_endswith": lambda column, string: column.str.ends_with(string),
    "str_length": _str_length,
}


def asks(rule: Rule, field: Field) -> pl.Expr:
    """An expression that is true where a value of the column passes, and null or true where it is null."""
    return CHECKS[rule.name](pl.col(field.name), **arguments(rule, field.type))


def arguments(rule: Rule, kind: str) -> dict[str, Any]:
    """The arguments of a check as values that compare with the type ``kind``, a list of values as a series of one list."""
    lists = {name for name in rule.args if name.endswith("_values")}
    return {k: _values(v, kind) if k in lists else typed(v, kind) for k, v in rule.args.items()}


def filler(field: Field) -> pl.Expr:
    """The default as a literal of the column's type."""
    return pl.lit(field.stand_in, dtype=field.dtype)


def prove(field: Field) -> None:
    """Ask every check of an empty column: one that cannot be asked shows when the contract is written."""
    empty = pl.DataFrame(schema={field.name: field.dtype})
    for rule in field.checks:
        try:
            empty.select(asks(rule, field))
        except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
            what = f"the check {rule} cannot be asked of '{field.name}', which is {field.type}"
            raise ContractError(what, fix=f"change it in schema.py ({str(error).splitlines()[0]})") from error
