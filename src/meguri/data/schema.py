"""Read a pandera model: its columns as plain data, and its own checks as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from meguri.base.errors import ContractError
from meguri.base.extras import need
from meguri.data.spec import RULES, Field, NotPortableError, Rule, Schema, plain
from meguri.data.spec_polars import TYPES, prove

_NAMES = {
    "greater_than_or_equal_to": "ge",
    "greater_than": "gt",
    "less_than_or_equal_to": "le",
    "less_than": "lt",
    "equal_to": "eq",
    "not_equal_to": "ne",
}


@dataclass(frozen=True)
class Custom:
    """A check that only pandera can ask: a function of the user's, of one column or (``column`` None) of the table."""

    column: str | None
    check: Any
    types: dict[str, Any]  # the columns that the model declares in another type than the contract keeps them in

    def __str__(self) -> str:
        text = str(self.check.error or self.check.name or "a check")
        return text if self.column is None else f"{self.column}: {text}"

    def bad(self, table: pl.DataFrame, *, part: bool = False) -> pl.Series | None:
        """A mask of the rows that break the check, or None when there are none.

        Raises ContractError when it cannot be asked, or answers for the whole table and the answer is no, or the table is
        only a part of one.
        """
        try:
            declared = table.with_columns(_declared(name, kind) for name, kind in self.types.items())
            outcome = self.check(declared.lazy(), self.column)
            good: pl.Series = outcome.check_output.collect().to_series()
        except Exception as error:  # the function is the user's: whatever it raises, it could not answer
            text = str(error).splitlines()[0] if str(error) else ""
            what = f"the check '{self}' could not be asked: {type(error).__name__}: {text}"
            raise ContractError(what, fix="correct the function in schema.py") from error
        if part and len(good) != table.height:
            what = f"the check '{self}' is of all rows of a table, and these come in parts"
            raise ContractError(what, fix="let retrieve return one table, or check this another way")
        if good.all():
            return None
        if len(good) != table.height:
            raise ContractError(f"the table breaks a check of all its rows: '{self}'", fix="look at the source")
        return ~good


def read(model: Any) -> Schema:
    """The parts of a ``pandera.polars`` DataFrameModel or DataFrameSchema.

    Raises ContractError for what has no meaning in a contract.
    """
    pandera = need("pandera.polars")
    schema = model.to_schema() if hasattr(model, "to_schema") else model
    if not isinstance(schema, pandera.DataFrameSchema):
        what = f"a contract needs a pandera model for polars, and this is {model!r}"
        raise ContractError(what, fix="import pandera.polars as pa, and subclass pa.DataFrameModel")
    name = schema.name or "table"
    fields: list[Field] = []
    own: list[tuple[str | None, Any]] = []
    types: dict[str, Any] = {}
    for column in schema.columns.values():
        field, checks = _field(name, column, coerce=bool(schema.coerce or column.coerce))
        fields.append(field)
        own += [(field.name, check) for check in checks]
        if column.dtype.type != field.dtype:
            types[field.name] = column.dtype.type
    own += [(None, check) for check in schema.checks]
    for where, check in own:
        if check.raise_warning:
            what = f"the check '{check.error or check.name}' only warns, and a row is either right or quarantined"
            raise ContractError(what, where=where or name, fix="take raise_warning away, or the check")
    unique = [schema.unique] if schema.unique and isinstance(schema.unique[0], str) else schema.unique or []
    return Schema(
        name,
        tuple(fields),
        tuple(tuple(columns) for columns in unique),
        bool(schema.strict is True),
        tuple(Custom(where, check, types) for where, check in own),
    )


def _field(model: str, column: Any, *, coerce: bool) -> tuple[Field, list[Any]]:
    """A column as plain data, and those of its checks that have no such form."""
    if column.regex:
        what = f"the column '{column.name}' of {model} is a pattern, and a contract names its columns"
        raise ContractError(what, fix="write each column out")
    kind, extra = _type(model, column)
    rules, own = [], []
    for check in column.checks:
        rule = _rule(check)
        rules += [rule] if rule else []
        own += [] if rule else [check]
    try:
        default = plain(column.default)
    except NotPortableError as error:
        what = f"the default of '{column.name}' is {error}, which is no plain value"
        raise ContractError(what, fix="give a number, a text, a bool or a time") from error
    if not column.required and not column.nullable and default is None:
        what = f"the column '{column.name}' of {model} may be missing, and nothing says what stands in its place"
        raise ContractError(what, fix="give it default=… or nullable=True")
    field = Field(
        name=column.name,
        type=kind,
        nullable=bool(column.nullable),
        required=bool(column.required),
        unique=bool(column.unique),
        coerce=coerce,
        default=default,
        checks=(*extra, *rules),
        description=column.description or column.title,
    )
    prove(field)
    return field, own


def _type(model: str, column: Any) -> tuple[str, list[Rule]]:
    """The contract's name for the column's type; a closed list of categories is text and a check."""
    found = column.dtype.type if column.dtype is not None else None
    if isinstance(found, pl.Enum):
        return "String", [Rule("isin", {"allowed_values": found.categories.to_list()})]
    if isinstance(found, pl.Categorical) or found == pl.Categorical:
        return "String", []
    if isinstance(found, pl.Datetime) or found == pl.Datetime:
        return "Datetime", []
    for name, kind in TYPES.items():
        if found == kind:
            return name, []
    what = f"the column '{column.name}' of {model} has " + (f"the type {found}" if found is not None else "no type")
    raise ContractError(what, fix=f"use one of {', '.join(TYPES)}")


def _rule(check: Any) -> Rule | None:
    name = _NAMES.get(check.name, check.name)
    if name not in RULES or not check.statistics or check.element_wise or not check.ignore_na or check.raise_warning:
        return None
    default = check.error is None or str(check.error).startswith(f"{check.name}(")
    try:
        return Rule(name, plain_args(check.statistics), None if default else str(check.error))
    except NotPortableError:
        return None


def plain_args(statistics: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a check as JSON values, those that were left out left out."""
    return {name: plain(value) for name, value in statistics.items() if value is not None}


def _declared(name: str, kind: Any) -> pl.Expr:
    column = pl.col(name)
    if isinstance(kind, pl.Datetime):
        if kind.time_zone is None:
            return column.dt.replace_time_zone(None).dt.cast_time_unit(kind.time_unit)
        return column.dt.convert_time_zone(kind.time_zone).dt.cast_time_unit(kind.time_unit)
    return column.cast(kind, strict=False)
