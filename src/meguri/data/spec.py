"""What a column must be, as plain data: a type, whether nulls may be there, and checks.

What they mean for a frame is in ``spec_polars``, for a row in ``plain``.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from meguri.base.clock import moment

if TYPE_CHECKING:
    import polars as pl

    from meguri.data.schema import Custom

KINDS = (
    "Boolean",
    *(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
    "Float32",
    "Float64",
    "String",
    "Date",
    "Datetime",
)
RULES = (
    *("ge", "gt", "le", "lt", "eq", "ne", "in_range", "isin", "notin"),
    *("str_matches", "str_contains", "str_startswith", "str_endswith", "str_length"),
)
FLOAT32 = 3.4028235e38  # what is beyond it is infinite in 32 bits, in which models take numbers
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


def typed(value: Any, kind: str) -> Any:
    """A value of a spec as the type ``kind`` compares with."""
    if isinstance(value, str) and kind == "Datetime":
        return moment(value)
    if isinstance(value, str) and kind == "Date":
        return date.fromisoformat(value[:10])
    return value


@dataclass(frozen=True)
class Rule:
    """One check of a column: one of ``RULES``, its arguments as JSON values, and a person's own words for it."""

    name: str
    args: dict[str, Any]
    message: str | None = None

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

    ``type`` is one of ``KINDS``. ``required`` is False for a column that may be missing from a table: it is
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
        from meguri.data.spec_polars import TYPES

        return TYPES[self.type]

    @property
    def is_number(self) -> bool:
        """Whether the column holds numbers."""
        return "Int" in self.type or self.is_float

    @property
    def is_float(self) -> bool:
        """Whether NaN and infinity can be in the column."""
        return self.type.startswith("Float")

    @property
    def stand_in(self) -> Any:
        """The default as a value that compares with the column's."""
        return typed(self.default, self.type)

    def held(self) -> Field:
        """The field with the bounds of what a model can hold, where its own are wider; Float32 has them by itself."""
        if self.type != "Float64":
            return self
        ends = [rule.args for rule in self.checks if rule.name in ("ge", "gt", "le", "lt", "in_range")]
        low = any("min_value" in args and args["min_value"] >= -FLOAT32 for args in ends)
        high = any("max_value" in args and args["max_value"] <= FLOAT32 for args in ends)
        if low and high:
            return self
        name = "le" if low else "ge" if high else "in_range"
        args = ({} if low else {"min_value": -FLOAT32}) | ({} if high else {"max_value": FLOAT32})
        return replace(self, checks=(*self.checks, Rule(name, args)))

    def to_dict(self) -> dict[str, Any]:
        """The field as JSON values."""
        return {**asdict(self), "checks": [asdict(rule) for rule in self.checks]}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Field:
        """The field that ``to_dict`` gave. Raises ValueError for a type or a check that is none."""
        field = cls(**{**value, "checks": tuple(Rule(**rule) for rule in value["checks"])})
        if field.type not in KINDS or any(rule.name not in RULES for rule in field.checks):
            raise ValueError(f"the column '{field.name}' has a type or a check that is not known here")
        return field


@dataclass(frozen=True)
class Schema:
    """What a contract takes from a pandera model; ``custom`` are checks that only pandera can ask."""

    name: str
    fields: tuple[Field, ...]
    unique: tuple[tuple[str, ...], ...]
    strict: bool
    custom: tuple[Custom, ...] = ()
