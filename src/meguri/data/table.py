"""Tables: polars inside; what speaks the Arrow PyCapsule protocol comes in; jobs get the frame they ask for."""

from __future__ import annotations

from typing import Any, Literal

import polars as pl

from meguri.base.errors import DataError
from meguri.base.extras import need

Frame = Literal["pandas", "polars", "arrow"]


def to_polars(table: Any) -> pl.DataFrame:
    """A polars frame from a polars, pandas or Arrow table, or any object with ``__arrow_c_stream__``.

    Times without a zone are kept as they are; nanoseconds become microseconds. A pandas index is no column and is
    left out; NaN of pandas becomes null. Raises DataError for anything else, and for a table that Arrow cannot hold.
    """
    if isinstance(table, pl.LazyFrame):
        table = table.collect()
    frame = table if isinstance(table, pl.DataFrame) else _convert(table)
    times = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime) and kind.time_unit != "us"]
    return frame.with_columns(pl.col(times).dt.cast_time_unit("us")) if times else frame


def _convert(table: Any) -> pl.DataFrame:
    kind = f"{type(table).__module__}.{type(table).__qualname__}"
    if not hasattr(table, "__arrow_c_stream__") or getattr(table, "ndim", 2) == 1 or isinstance(table, pl.Series):
        raise DataError(f"a table is needed, and this is a {kind}", fix="give a pandas, polars or Arrow table")
    pandas = hasattr(table, "iloc")  # its index is no column, and its object columns may not pass through Arrow
    if pandas:
        need("pyarrow")
    try:
        return pl.from_pandas(table, include_index=False) if pandas else pl.DataFrame(table)
    except (pl.exceptions.PolarsError, ValueError, TypeError) as error:
        what = f"this {kind} cannot be read: {str(error).splitlines()[0]}"
        raise DataError(what, fix="give each column a name of its own and values of one type") from error


def from_polars(table: pl.DataFrame, frame: Frame) -> Any:
    """The same table as a pandas DataFrame, a polars DataFrame or a pyarrow Table.

    In pandas, integers with a null become floats and booleans with a null objects, as pandas itself has it.
    """
    if frame == "polars":
        return table
    need("pyarrow")
    if frame == "arrow":
        return table.to_arrow()
    need("pandas")
    return table.to_pandas()
