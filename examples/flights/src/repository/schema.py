"""What a flight must be at every door: the columns, their ranges, and the part each plays."""

from __future__ import annotations

from typing import Annotated

import pandera.polars as pa
import polars as pl

from meguri import Contract

# null where nothing had happened yet
MINUTES = {"ge": -60, "le": 180, "nullable": True, "description": "Minutes: a mean of delays, cut to this range."}


class Flight(pa.DataFrameModel):
    flight: str = pa.Field(unique=True)
    asked_at: Annotated[pl.Datetime, "us", "UTC"]  # one hour before it is due to leave
    late: pl.Int64 = pa.Field(isin=[0, 1], nullable=True)  # landed more than 15 minutes late; null until it has landed
    origin: str = pa.Field(isin=["EWR", "JFK", "LGA"])
    carrier: str = pa.Field(str_matches=r"^[0-9A-Z]{2}$")
    dest: str = pa.Field(str_matches=r"^[A-Z]{3}$")
    hour: float = pa.Field(ge=0, lt=24, description="Hour of the day in New York.")
    weekday: int = pa.Field(ge=1, le=7, description="1 is Monday.")
    distance: int = pa.Field(ge=50, le=6000, description="Miles.")
    planned_minutes: int = pa.Field(ge=30, le=900)
    origin_delay: float = pa.Field(**MINUTES)
    carrier_delay: float = pa.Field(**MINUTES)
    arrival_delay: float = pa.Field(**MINUTES)
    dest_delay: float = pa.Field(**MINUTES)
    temp: float = pa.Field(ge=-60, le=130, nullable=True, description="Degrees Fahrenheit.")
    humid: float = pa.Field(ge=0, le=100, nullable=True, description="Percent.")
    wind_speed: float = pa.Field(ge=0, le=150, nullable=True, description="Miles an hour.")
    precip: float = pa.Field(ge=0, le=10, nullable=True, description="Inches.")
    visib: float = pa.Field(ge=0, le=10, nullable=True, description="Miles.")


contract = Contract(Flight, key="flight", time="asked_at", label="late", label_after="12h")
