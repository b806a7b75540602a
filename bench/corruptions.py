"""Which corruptions of a daily batch are seen, and is a clean day ever stopped? The flights of 2013 with their weather.

The constants of data/batch_judge.py were chosen on January to June; by default July to December is reported: every clean day,
then each kind of corruption planted in the same 12 days. A day counts as caught when the contract refuses the table, quarantines
more than a fifth of it or every row that was changed, or when a finding stops the batch. A day on which a corruption
changes fewer than 3 rows (no null to fill, no rain to convert) does not count, and is said: so few are an accident to
data/batches.py, too. Prints one JSON line a kind, and a last one with totals.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandera.polars as pa
import polars as pl

from meguri import Contract
from meguri.base.errors import ContractError
from meguri.data.batch_stats import measure
from meguri.data.batches import FEW, Rules, compare

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "flights"))
from src.repository import data_manager

WEATHER = ["temp", "humid", "wind_speed", "precip", "visib"]
CLOCK: dict[str, Any] = {"ge": 1, "le": 2400}


class Flight(pa.DataFrameModel):
    """What a careful person knows of a flight."""

    year: int = pa.Field(ge=2000, le=2100)
    month: int = pa.Field(ge=1, le=12)
    day: int = pa.Field(ge=1, le=31)
    dep_time: int = pa.Field(nullable=True, **CLOCK)
    sched_dep_time: int = pa.Field(**CLOCK)
    dep_delay: int = pa.Field(ge=-120, le=2000, nullable=True)
    arr_time: int = pa.Field(nullable=True, **CLOCK)
    sched_arr_time: int = pa.Field(**CLOCK)
    arr_delay: int = pa.Field(ge=-180, le=2000, nullable=True)
    carrier: str = pa.Field(str_matches=r"^[0-9A-Z]{2}$")
    flight: int = pa.Field(ge=1, le=9999)
    tailnum: str = pa.Field(str_matches=r"^[A-Z][0-9A-Z]{2,5}$", nullable=True)
    origin: str = pa.Field(isin=["EWR", "JFK", "LGA"])
    dest: str = pa.Field(str_matches=r"^[A-Z]{3}$")
    air_time: int = pa.Field(ge=10, le=900, nullable=True)
    distance: int = pa.Field(ge=10, le=6000)
    hour: int = pa.Field(ge=0, le=24)
    minute: int = pa.Field(ge=0, le=59)
    time_hour: Annotated[pl.Datetime, "us", "UTC"]
    temp: float = pa.Field(ge=-60, le=130, nullable=True)
    humid: float = pa.Field(ge=0, le=100, nullable=True)
    wind_speed: float = pa.Field(ge=0, le=150, nullable=True)
    precip: float = pa.Field(ge=0, le=10, nullable=True)
    visib: float = pa.Field(ge=0, le=10, nullable=True)


CONTRACT = Contract(
    Flight,
    key=["time_hour", "carrier", "flight", "origin"],
    time="time_hour",
    label="arr_delay",
    label_after="1d",
    task="regression",
)
RULES = Rules(fresh="3d")
Frame = pl.DataFrame


@dataclass(frozen=True)
class Day:
    """A day's rows, those of the day before, and chance."""

    rows: Frame
    before: Frame
    chance: np.random.Generator


Corrupt = Callable[[Day], Frame]


def column(**made: pl.Expr | pl.Series) -> Corrupt:
    return lambda day: day.rows.with_columns(**made)


def swap(one: str, other: str) -> Corrupt:
    return column(**{one: pl.col(other), other: pl.col(one)})


def times(name: str, factor: float) -> Corrupt:
    """In another unit; a column of whole numbers stays one."""
    made = (pl.col(name) * factor).round(2)
    return column(**{name: made if name in WEATHER else made.round(0).cast(pl.Int64)})


def shuffled(*names: str) -> Corrupt:
    def change(day: Day) -> Frame:
        order = day.chance.permutation(day.rows.height)
        return day.rows.with_columns(day.rows.select(names)[order])

    return change


def some(share: float, change: Corrupt) -> Corrupt:
    """The change in so many of the rows only."""

    def part(day: Day) -> Frame:
        chosen = pl.Series(day.chance.random(day.rows.height) < share)
        changed = change(day)
        return pl.select(
            pl.when(chosen).then(changed[name]).otherwise(day.rows[name]).alias(name) for name in day.rows.columns
        )

    return part


def kept(share: float) -> Corrupt:
    return lambda day: day.rows.filter(pl.Series(day.chance.random(day.rows.height) < share))


def shifted(hours: float) -> Corrupt:
    return column(time_hour=pl.col("time_hour") + pl.duration(hours=hours))


def clock(hours: int) -> pl.Expr:
    """The scheduled departure by another zone's clock, as hhmm."""
    scheduled = pl.col("sched_dep_time")
    return (scheduled // 100 + hours) % 24 * 100 + scheduled % 100


def renamed(name: str, old: str, new: str) -> Corrupt:
    return column(**{name: pl.col(name).replace({old: new})})


def without(name: str, value: str) -> Corrupt:
    return lambda day: day.rows.filter(pl.col(name) != value)


def filled(name: str, value: int) -> Corrupt:
    return column(**{name: pl.col(name).fill_null(value)})


def redated(day: Day) -> Frame:
    """Yesterday's rows under today's date."""
    today = {name: pl.lit(day.rows[name][0]) for name in ("year", "month", "day")}
    return day.before.with_columns(time_hour=pl.col("time_hour") + pl.duration(days=1), **today)


KINDS: dict[str, Corrupt] = {
    # units
    "distance in kilometres": times("distance", 1.609344),
    "distance in kilometres, in half of the rows": some(0.5, times("distance", 1.609344)),
    "temp in Celsius": column(temp=((pl.col("temp") - 32) / 1.8).round(2)),
    "air_time in seconds": times("air_time", 60),
    "dep_delay in seconds": times("dep_delay", 60),
    "dep_delay in hours": times("dep_delay", 1 / 60),
    "visib in kilometres": times("visib", 1.609344),
    "distance times 1000": times("distance", 1000),
    # columns
    "dep_delay and arr_delay swapped": swap("dep_delay", "arr_delay"),
    "origin and dest swapped": swap("origin", "dest"),
    "distance and air_time swapped": swap("distance", "air_time"),
    "dep_time and sched_dep_time swapped": swap("dep_time", "sched_dep_time"),
    "hour and minute swapped": swap("hour", "minute"),
    "temp and humid swapped": swap("temp", "humid"),
    "month and day swapped": swap("month", "day"),
    # time
    "time_hour local, read as UTC": shifted(-5),
    "time_hour shifted by 9 hours": shifted(9),
    "sched_dep_time by another zone's clock": column(sched_dep_time=clock(3)),
    "time_hour a year back": column(time_hour=pl.col("time_hour").dt.offset_by("-1y")),
    "year column of last year": column(year=pl.col("year") - 1),
    "rows of the future": shifted(48),
    "a default date in a tenth of the rows": some(
        0.1, column(time_hour=pl.lit(datetime(1970, 1, 1, tzinfo=UTC)).cast(pl.Datetime("us", "UTC")))
    ),
    "yesterday's rows again": lambda day: day.before,
    "yesterday's rows with today's date": redated,
    # categories
    "a carrier renamed": renamed("carrier", "UA", "U1"),
    "two carriers' codes exchanged": column(carrier=pl.col("carrier").replace({"UA": "DL", "DL": "UA"})),
    "carriers in lower case": column(carrier=pl.col("carrier").str.to_lowercase()),
    "carriers with a trailing blank": column(carrier=pl.col("carrier") + " "),
    "a destination renamed": renamed("dest", "ATL", "XTL"),
    "destinations in broken encoding": column(dest=pl.col("dest").str.replace("A", "Ã\x81")),
    "tailnum without its first letter": column(tailnum=pl.col("tailnum").str.slice(1)),
    # nulls
    "nulls of dep_delay as 0": filled("dep_delay", 0),
    "nulls of dep_delay as -1": filled("dep_delay", -1),
    "nulls of air_time as 0": filled("air_time", 0),
    "nulls of tailnum as 'NA'": column(tailnum=pl.col("tailnum").fill_null("NA")),
    "dep_delay lost": column(dep_delay=pl.lit(None, pl.Int64)),
    "air_time lost in a third of the rows": some(0.33, column(air_time=pl.lit(None, pl.Int64))),
    "temp lost": column(temp=pl.lit(None, pl.Float64)),
    # rows
    "duplicated rows": lambda day: pl.concat([day.rows, day.rows.head(day.rows.height // 4)]),
    "truncated after 60 %": lambda day: day.rows.head(int(0.6 * day.rows.height)),
    "half of the rows missing": kept(0.5),
    "one origin missing": without("origin", "LGA"),
    "one carrier missing": without("carrier", "B6"),
    # values
    "carrier constant": column(carrier=pl.lit("UA")),
    "dep_delay constant": column(dep_delay=pl.lit(0, pl.Int64)),
    "dest constant": column(dest=pl.lit("ATL")),
    "dep_delay with its sign flipped": times("dep_delay", -1),
    "humid with its point shifted": times("humid", 0.1),
    "dep_delay with a digit more": times("dep_delay", 10),
    "dep_delay rounded to tens": column(dep_delay=(pl.col("dep_delay") / 10).round(0).cast(pl.Int64) * 10),
    "humid rounded to whole numbers": column(humid=pl.col("humid").round(0)),
    "dep_delay clipped at 30": column(dep_delay=pl.col("dep_delay").clip(upper_bound=30)),
    "distance clipped at 1000": column(distance=pl.col("distance").clip(upper_bound=1000)),
    "the flight number in a byte": column(flight=pl.col("flight") % 256 + 1),
    "distance as text": column(distance=pl.format("{} mi", "distance")),
    "the label in a feature": column(dep_delay=pl.col("arr_delay")),
    # joins and order
    "distance shuffled": shuffled("distance"),
    "carrier shuffled": shuffled("carrier"),
    "dest shuffled": shuffled("dest"),
    "temp shuffled": shuffled("temp"),
    "distance joined one row off": column(distance=pl.col("distance").shift(1, fill_value=1000)),
    "the weather joined one row off": column(**{name: pl.col(name).shift(1) for name in WEATHER}),
    "the weather joined to any row": shuffled(*WEATHER),
    "each column sorted": lambda day: day.rows.select(pl.all().sort()),
}
# What no look at one batch can tell, and why; planted all the same, so that the table says how often it was seen.
BLIND: dict[str, tuple[str, Corrupt]] = {
    "time_hour shifted by 1 hour": ("the change to summer time looks just so", shifted(1)),
    "distance in kilometres, in 2 % of the rows": (
        "new routes and typing errors are as many",
        some(0.02, times("distance", 1.609344)),
    ),
    "precip in millimetres": ("a light rain becomes a heavy one, and there are such days", times("precip", 25.4)),
    "wind_speed in kilometres an hour": (
        "a breeze becomes a wind, and there are such days",
        times("wind_speed", 1.609344),
    ),
    "a tenth of the rows missing": (
        "a Saturday, a holiday and a new timetable change more",
        kept(0.9),
    ),
    "nulls of temp as 60": ("few are null, and 60 is a temperature", filled("temp", 60)),
    "rows in another order": (
        "the table says the same",
        lambda day: day.rows.sample(fraction=1, shuffle=True, seed=1),
    ),
}


def flights() -> Frame:
    """The 19 columns as the package ships them, and the weather at the origin in the scheduled hour."""
    rows, weather = data_manager.source()
    rows = rows.rename({"number": "flight"}).with_columns(
        pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")
    )
    weather = weather.select("origin", "time_hour", *WEATHER).unique(["origin", "time_hour"], keep="first")
    return rows.join(weather, on=["origin", "time_hour"], how="left", maintain_order="left").select(*CONTRACT.types)


def differ(rows: Frame, clean: Frame) -> int:
    """How many rows are not those of the clean day; 0 where the columns are others, too."""
    if rows.schema != clean.schema:
        return 0
    return rows.join(clean.unique(), on=rows.columns, how="anti", nulls_equal=True).height


def caught(rows: Frame, clean: Frame, history: list[dict[str, Any]], now: datetime) -> str | None:
    """What caught the batch: "contract", or the first finding that stops it."""
    try:
        checked = CONTRACT.check(rows, now=now)
    except ContractError:
        return "contract"
    changed = differ(rows, clean)
    bad = checked.quarantined.height
    if bad > 0.2 * rows.height or (bad and bad >= changed and rows.height >= clean.height):
        return "contract"
    found = compare(measure(checked.rows, CONTRACT, now=now), CONTRACT, history, RULES, now=now)
    return next((f"{finding.check}: {finding}" for finding in found if finding.stop), None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--since", default="2013-07-01")
    parser.add_argument("--until", default="2014-01-01")
    parser.add_argument("--days", type=int, default=12)
    parser.add_argument("--only", default="")
    asked = parser.parse_args()
    days = {date.strftime("%Y-%m-%d"): part for date, part in by_day(flights())}
    names = list(days)
    now = {name: datetime.fromisoformat(name).replace(tzinfo=UTC) + timedelta(days=1, hours=10) for name in names}
    stats = [measure(CONTRACT.check(days[name], now=now[name]).rows, CONTRACT, now=now[name]) for name in names]
    stopped, judged, odd, history = [], 0, 0, {}
    accepted: list[dict[str, Any]] = []
    for name, made in zip(names, stats, strict=True):
        history[name] = accepted[-RULES.history :]
        found = compare(made, CONTRACT, accepted, RULES, now=now[name])
        stops = [str(finding) for finding in found if finding.stop]
        if asked.since <= name < asked.until and len(accepted) >= RULES.learn:
            judged += 1
            odd += bool(found) and not stops
            stopped += [{"day": name, "findings": stops[:3]}] if stops else []
        if not stops:
            accepted.append(made)
    clean = {"contender": "clean days", "judged": judged, "stopped": len(stopped), "looked_at": odd, "which": stopped}
    print(json.dumps(clean, ensure_ascii=False), flush=True)
    pool = [name for name in names[RULES.learn :] if asked.since <= name < asked.until]
    chosen = [pool[i] for i in np.linspace(3, len(pool) - 4, asked.days).astype(int)]
    blind = {name: change for name, (_, change) in BLIND.items()}
    total = {"kinds": 0, "always": 0, "days": 0, "caught": 0}
    for kind, change in (KINDS | blind).items():
        if asked.only not in kind:
            continue
        by: dict[str, str | None] = {}
        few = 0
        for place, name in enumerate(chosen):
            before = days[names[names.index(name) - 1]]
            rows = change(Day(days[name], before, np.random.default_rng(place)))
            if rows.equals(days[name]) and kind != "rows in another order":
                continue
            if rows.height == days[name].height and 0 < differ(rows, days[name]) < FEW:
                few += 1
                continue
            by[name] = caught(rows, days[name], history[name], now[name])
        line = {
            "contender": kind,
            "days": len(by),
            "too_few_rows": few,
            "caught": sum(what is not None for what in by.values()),
            "contract": list(by.values()).count("contract"),
            "such_as": next((what for what in by.values() if what not in (None, "contract")), None),
            "missed": [name for name, what in by.items() if what is None],
        }
        if kind in BLIND:
            line["blind"] = BLIND[kind][0]
        elif by:
            total["kinds"] += 1
            total["always"] += line["caught"] == len(by)
            total["days"] += len(by)
            total["caught"] += int(str(line["caught"]))
        print(json.dumps(line, ensure_ascii=False), flush=True)
    print(json.dumps({"contender": "total", **total, "clean_judged": judged, "clean_stopped": len(stopped)}))


def by_day(rows: Frame) -> list[tuple[datetime, Frame]]:
    """The rows of each New York day, in the order of the file."""
    parts = rows.group_by("year", "month", "day", maintain_order=True)
    return sorted(
        ((datetime(int(y), int(m), int(d), tzinfo=UTC), part) for (y, m, d), part in parts), key=lambda item: item[0]
    )


if __name__ == "__main__":
    main()
