"""What a column must be, as plain data: a type, whether nulls may be there, and checks that polars can ask anywhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

import polars as pl

from meguri.base.clock import moment
from meguri.base.errors import ContractError

TYPES: dict[str, pl.DataType] = {
    "Boolean": pl.Boolean(),
    **{f"{sign}Int{bits}": getattr(pl, f"{sign}Int{bits}")() for sign in ("", "U") for bits in (8, 16, 32, 64)},
    "Float32": pl.Float32(),
    "Float64": pl.Float64(),
    "String": pl.String(),
    "Date": pl.Date(),
    "Datetime": pl.Datetime("us", "UTC"),
}
_SHOWN = 8  # values of a long list that a reason shows


class NotPortableError(Exception):
    """A check that has no form as plain data."""


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: moments as ISO text, sets as sorted lists. Raises NotPortableError."""
    if isinstance(value, set | frozenset):
        value = sorted(value, key=lambda item: (type(item).__name__, item))
    if isinstance(value, list | tuple | range):
        return [plain(item) for item in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, re.Pattern) and value.flags == re.UNICODE:
        return value.pattern
    if hasattr(value, "item"):
        value = value.item()  # a NumPy number
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise NotPortableError(repr(value))


def _typed(value: Any, kind: str) -> Any:
    """A value of a spec as the type ``kind`` compares with."""
    if isinstance(value, str) and kind == "Datetime":
        return moment(value)
    if isinstance(value, str) and kind == "Date":
        return date.fromisoformat(value[:10])
    return value


def _values(values: list[Any], kind: str) -> pl.Series:
    return pl.Series([_typed(value, kind) for value in values], strict=False).cast(TYPES[kind]).implode()


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


@dataclass(frozen=True)
class Rule:
    """One check of a column: a name of ``CHECKS``, its arguments as JSON values, and a person's own words for it."""

    name: str
    args: dict[str, Any]
    message: str | None = None

    def asks(self, column: str, kind: str) -> pl.Expr:
        """An expression that is true where a value of the column passes, and null or true where it is null."""
        return CHECKS[self.name](pl.col(column), **self.typed(kind))

    def typed(self, kind: str) -> dict[str, Any]:
        """The arguments as values that compare with the type ``kind``, a list of values as a series of one list."""
        lists = {name for name in self.args if name.endswith("_values")}
        return {k: _values(v, kind) if k in lists else _typed(v, kind) for k, v in self.args.items()}

    def __str__(self) -> str:
        if self.message is not None:
            return self.message
        shown = []
        for name, value in self.args.items():
            if name.startswith("include_") and value is True:
                continue
            if isinstance(value, list) and len(value) > _SHOWN:
                text = ", ".join(map(repr, value[:_SHOWN]))
                shown.append(f"[{text}, … {len(value) - _SHOWN} more]")
            elif self.name == "str_length" or name.startswith("include_"):
                shown.append(f"{name}={value!r}")
            else:
                shown.append(str(value) if isinstance(value, int | float) else repr(value))
        return f"{self.name}({', '.join(shown)})"


@dataclass(frozen=True)
class Field:
    """One column of a contract, with all that a form, a REST schema or a check needs to know of it.

    ``type`` is a name of ``TYPES``. ``required`` is False for a column that may be missing from a table: it is
    then filled with ``default``, or with nulls. ``default`` also stands in for nulls. ``coerce`` allows text and
    other types to be read as ``type``, row by row.
    """

    name: str
    type: str
    nullable: bool = False
    required: bool = True
    unique: bool = False
    coerce: bool = False
    default: Any = None
    checks: tuple[Rule, ...] = ()
    description: str | None = None

    @property
    def dtype(self) -> pl.DataType:
        """The polars type of the column."""
        return TYPES[self.type]

    @property
    def is_float(self) -> bool:
        """Whether NaN and infinity can be in the column."""
        return self.type.startswith("Float")

    @property
    def stand_in(self) -> Any:
        """The default as a value that compares with the column's."""
        return _typed(self.default, self.type)

    def filler(self) -> pl.Expr:
        """The default as a literal of the column's type."""
        return pl.lit(self.stand_in, dtype=self.dtype)

    def prove(self) -> None:
        """Ask every check of an empty column: one that cannot be asked shows when the contract is written."""
        empty = pl.DataFrame(schema={self.name: self.dtype})
        for rule in self.checks:
            try:
                empty.select(rule.asks(self.name, self.type))
            except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
                what = f"the check {rule} cannot be asked of '{self.name}', which is {self.type}"
                raise ContractError(what, fix=f"change it in schema.py ({str(error).splitlines()[0]})") from error

    def to_dict(self) -> dict[str, Any]:
        """The field as JSON values."""
        return {**asdict(self), "checks": [asdict(rule) for rule in self.checks]}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Field:
        """The field that ``to_dict`` gave."""
        return cls(**{**value, "checks": tuple(Rule(**rule) for rule in value["checks"])})
