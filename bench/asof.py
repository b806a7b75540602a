"""Features as of a moment: 3.37 M flights with hourly weather, by the library's door against polars' bare ``join_asof``.

    python bench/asof.py [copies]     (default 10 copies of the year's 336,776 flights; one JSON line for each contender)

The bare join carries no other column, orders nothing and checks nothing. Each contender answers in the flights' own
order; the median of five rounds counts, the contenders taking turns. Whether an event was lost or doubled is checked
against sums that are made in another way, with every flight a tie of its nine copies.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from meguri.data.build import compute
from meguri.data.features import Events, Features

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "flights"))
from src.repository import data_manager

NOW = datetime(2014, 6, 1, tzinfo=UTC)
ROUNDS = 5
COLUMNS = ["temp", "humid", "wind_speed", "precip", "visib"]


def tell(contender: str, spent: list[tuple[float, float]], rows: int, base: float | None = None) -> float:
    wall, cpu = (statistics.median(part) for part in zip(*spent, strict=True))
    line = {"bench": "asof", "contender": contender, "rows": rows, "wall": round(wall, 3), "cpu": round(cpu, 3)}
    print(json.dumps(line | ({} if base is None else {"ratio": round(wall / base, 3)})), flush=True)
    return wall


def timed(work: Callable[[], pl.DataFrame]) -> tuple[tuple[float, float], pl.DataFrame]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return (time.perf_counter() - wall, time.process_time() - cpu), found


def compare(name: str, flights: pl.DataFrame, weather: pl.DataFrame) -> None:
    """The bare join and the door, for flights in this order; the same values or an error."""
    events = Events("weather", by="origin", at="time_hour", known="1h")
    features: Features = {column: events.last(column) for column in COLUMNS}
    known = weather.select("origin", *COLUMNS, known=pl.col("time_hour") + pl.duration(hours=1)).sort("known")

    def bare() -> pl.DataFrame:
        asked = flights.select("origin", "asked_at")
        if name == "shuffled":
            asked = asked.with_row_index().sort("asked_at")
        joined = asked.join_asof(known, left_on="asked_at", right_on="known", by="origin", check_sortedness=False)
        return (joined.sort("index") if name == "shuffled" else joined).select(COLUMNS)

    def door() -> pl.DataFrame:
        return compute(flights, features, {"weather": weather}, time="asked_at", now=NOW)

    spent: dict[Callable[[], pl.DataFrame], list[tuple[float, float]]] = {bare: [], door: []}
    answers = {}
    for _ in range(ROUNDS):
        for work, times in spent.items():
            seconds, answers[work] = timed(work)
            times.append(seconds)
    assert answers[door].select(COLUMNS).equals(answers[bare])
    assert answers[door].drop(COLUMNS).equals(flights)
    base = tell(f"polars, bare join_asof, {name}", spent[bare], flights.height)
    tell(f"meguri, last of 5 columns, {name}", spent[door], flights.height, base)


def windows(flights: pl.DataFrame) -> None:
    """No event is lost or doubled: each row's count and sum over a window of everything are those of a plain sort."""
    departures = Events("departures", by="origin", at="left_at", known="0s")
    features: Features = {
        "n": departures.count(over="10000d"),
        "total": departures.sum("dep_delay", over="10000d"),
        "recent": departures.mean("dep_delay", over="2h"),
    }
    seconds, built = timed(lambda: compute(flights, features, {"departures": flights}, time="asked_at", now=NOW))
    tell("meguri, mean, sum and count over windows", [seconds], flights.height)
    ends = flights.group_by("origin", "left_at").agg(n=pl.len(), total=pl.col("dep_delay").sum()).drop_nulls("left_at")
    sums = ends.sort("left_at").with_columns(pl.col("n", "total").cum_sum().over("origin"))
    plain = flights.select("origin", "asked_at").sort("asked_at", maintain_order=True)
    plain = plain.join_asof(sums, left_on="asked_at", right_on="left_at", by="origin", check_sortedness=False)
    expected = plain.select(pl.col("n", "total").fill_null(0).cast(pl.Int64))
    found = built.sort("asked_at", maintain_order=True).select("n", "total")
    assert found.equals(expected)
    last = found["n"].to_list()[-1]
    print(
        json.dumps({"bench": "asof", "events": departed(flights), "seen by the last row": last, "lost or doubled": 0})
    )


def departed(flights: pl.DataFrame) -> int:
    return flights.filter(pl.col("left_at").is_not_null()).height


def main(copies: int) -> None:
    year, weather = data_manager.source()
    year = year.select("asked_at", "origin", "carrier", "dest", "left_at", "dep_delay", "distance")
    flights = pl.concat([year] * copies).sort("asked_at")
    compare("sorted", flights, weather)
    compare("shuffled", flights.sample(fraction=1, shuffle=True, seed=7), weather)
    windows(flights)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
