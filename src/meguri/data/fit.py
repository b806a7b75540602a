"""Give a column the type that its contract asks for, when no value changes by it."""

from __future__ import annotations

import polars as pl

from meguri.data.spec import Field


class RetypedError(Exception):
    """The column has another type, and its values cannot be kept in the one that is asked for."""


def fit(found: pl.Series, field: Field) -> tuple[pl.Series, pl.Series | None]:
    """The column in the field's type, and with ``field.coerce`` a mask of the values that could not be read, if any.

    Free of change and so always made: any number to a type that holds every value (a float column of whole
    numbers is what pandas makes of integers with a gap), 0 and 1 to Boolean and back, float to float (rounded to
    the precision asked for), date to midnight UTC and back, a time without a zone read as UTC, a category to its
    text, a column of nulls to anything. NaN is no value: it becomes null. Raises RetypedError, with an example.
    """
    if found.dtype.is_float():
        found = found.fill_nan(None) if found.is_nan().any() else found
    if isinstance(found.dtype, pl.Categorical | pl.Enum):
        found = found.cast(pl.String)
    if found.dtype == field.dtype:
        return found, None
    same_family = _same_family(found.dtype, field.dtype)
    if not same_family and not field.coerce:
        raise RetypedError(f"expected {field.type}, found {found.dtype}{_example(found)}")
    try:
        made = _cast(found, field)
        lost = made.is_null() & found.is_not_null()
        if same_family and not (field.is_float and (found.dtype.is_float() or found.dtype.is_decimal())):
            lost |= (made.cast(found.dtype, strict=False) != found).fill_null(False)
    except pl.exceptions.PolarsError as error:
        raise RetypedError(f"expected {field.type}, found {found.dtype}{_example(found)}") from error
    if not lost.any():
        return made, None
    if not field.coerce:
        text = _example(found.filter(lost))
        raise RetypedError(f"expected {field.type}, found {found.dtype} with values that would change{text}")
    return pl.select(pl.when(~lost).then(made)).to_series().alias(found.name), lost


def _same_family(source: pl.DataType, target: pl.DataType) -> bool:
    """Whether a cast between these types, and back, shows if a value changed."""
    if source == pl.Null:
        return True
    numbers = source.is_numeric() or source == pl.Boolean, target.is_numeric() or target == pl.Boolean
    times = isinstance(source, pl.Date | pl.Datetime), isinstance(target, pl.Date | pl.Datetime)
    return all(numbers) or all(times)


def _cast(found: pl.Series, field: Field) -> pl.Series:
    source, target = found.dtype, field.dtype
    if isinstance(target, pl.Datetime):
        if source == pl.String:
            return found.str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
        if source == pl.Date:
            return found.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        if isinstance(source, pl.Datetime):
            zoned = found.dt.replace_time_zone("UTC") if source.time_zone is None else found
            return zoned.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    if target == pl.Date and source == pl.String:
        return found.str.to_date(strict=False)
    return found.cast(target, strict=False)


def _example(values: pl.Series) -> str:
    some = values.drop_nulls().head(1).to_list()
    return f", such as {some[0]!r}" if some else ""
