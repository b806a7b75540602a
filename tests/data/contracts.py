"""The contracts and rows that the tests of contracts share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pandera.polars as pa
import polars as pl

from meguri.data.contract import Contract

NOON = datetime(2013, 4, 1, 12, tzinfo=UTC)


class Flights(pa.DataFrameModel):
    id: int
    time: datetime
    origin: str = pa.Field(isin=["EWR", "JFK", "LGA"], description="the airport it leaves from")
    distance: float = pa.Field(gt=0)
    temp: float = pa.Field(nullable=True, in_range={"min_value": -50, "max_value": 60})
    late: bool

    @pa.check("distance")
    def on_this_planet(cls, data: Any) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key) < 21_000)

    @pa.dataframe_check(error="frost at JFK")
    def warm(cls, data: Any) -> pl.LazyFrame:
        return data.lazyframe.select((pl.col("origin") != "JFK") | (pl.col("temp") > 0))


FLIGHTS = Contract(Flights, key="id", time="time", label="late", label_after="6h")


def rows(**columns: list[Any]) -> pl.DataFrame:
    """Good rows, as many as the columns given here, which replace the good values."""
    count = len(next(iter(columns.values()))) if columns else 2
    good = {
        "id": list(range(count)),
        "time": [NOON] * count,
        "origin": ["EWR"] * count,
        "distance": [100.0] * count,
        "temp": [20.0] * count,
        "late": [False] * count,
    }
    return pl.DataFrame(good | columns, strict=False)


def reasons(checked: Any) -> list[tuple[Any, str]]:
    return list(checked.quarantined.select("id", "reason").iter_rows())


def contract(column: Any, **roles: Any) -> Contract:
    """A contract with one column ``x`` of the given make, and the fewest others."""
    columns = {"id": pa.Column(int), "t": pa.Column(datetime), "x": column}
    return Contract(pa.DataFrameSchema(columns, name="Small"), **{"key": "id", "time": "t", **roles})


def small(x: Any) -> pl.DataFrame:
    series = pl.Series("x", x, strict=False) if not isinstance(x, pl.Series) else x.alias("x")
    return pl.DataFrame({"id": range(len(series)), "t": [NOON] * len(series)}).with_columns(series)
