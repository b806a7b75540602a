"""Offline = online: sampled moments of 2013's flights, what training reads against what a request would have got.

    python bench/parity.py [pairs]     (default 100,000 pairs of a moment and a flight's entities; one JSON line)

At each of 250 moments the features are materialized into a SQLite file; each pair is then read from it by its keys.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from meguri.data.features import Events, Features
from meguri.data.online import Online, key_of, materialize, open_online
from meguri.testing.features import differences

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "flights"))
from src.repository import data_manager
from src.repository.schema import contract

NOW = datetime(2014, 6, 1, tzinfo=UTC)
MOMENTS = 250
COLUMNS = ["temp", "humid", "wind_speed", "precip", "visib"]


def features() -> Features:
    weather = Events("weather", by="origin", at="time_hour", known="1h")
    departed = Events("flights", by="origin", at="left_at", known="0s")
    landed = Events("flights", by="dest", at="landed_at", known="0s")
    return {
        **{column: weather.last(column) for column in COLUMNS},
        "temp_fresh": weather.last("temp", within="90m"),
        "wind_day": weather.mean("wind_speed", over="1d"),
        "wind_spread": weather.std("wind_speed", over="1d"),
        "origin_delay": departed.mean("dep_delay", over="2h"),
        "origin_delays": departed.sum("dep_delay", over="2h"),
        "origin_flights": departed.count(over="2h"),
        "since_last": departed.by("origin", "carrier").age(),
        "carrier_delay": departed.by("origin", "carrier").mean("dep_delay", over="6h").round(2),
        "arrival_delay": landed.by("origin").mean("arr_delay", over="4h"),
        "dest_delay": landed.mean("arr_delay", over="6h"),
        "worse_here": lambda origin_delay, dest_delay: (origin_delay - dest_delay).fill_null(0.0),
    }


def main(pairs: int) -> None:
    flights, weather = data_manager.source()
    sources = {"flights": flights, "weather": weather}
    rows = flights.select("asked_at", "origin", "carrier", "dest")
    defined = features()
    with tempfile.TemporaryDirectory() as folder:
        table = open_online("sqlite:///online.db", Path(folder))
        wall, cpu = time.perf_counter(), time.process_time()
        found = differences(
            rows, defined, sources, table, contract=contract, now=NOW, moments=MOMENTS, each=pairs // MOMENTS, seed=2013
        )
        figures = {"wall": round(time.perf_counter() - wall, 1), "cpu": round(time.process_time() - cpu, 1)}
        compared = pairs // MOMENTS * MOMENTS
        counted = {"pairs": compared, "values": compared * len(defined), "differing": found.height}
        print(json.dumps({"bench": "parity", "contender": "sqlite", **counted, **figures}), flush=True)
        speed(defined, sources, Path(folder), rows)
    if found.height:
        print(found)
        raise SystemExit(1)


def speed(defined: Features, sources: dict[str, pl.DataFrame], folder: Path, rows: pl.DataFrame) -> None:
    """Microseconds of reading, the median of many reads: one key, and a row of three entities."""
    table = open_online("sqlite:///speed.db", folder)
    spent = time.process_time()
    materialize(defined, sources, table, now=NOW)
    made = time.process_time() - spent
    plain = {name: found for name, found in defined.items() if name != "worse_here"}
    online, key = Online(plain, table), key_of(["origin"], ["JFK"])
    asked = rows.sample(5000, seed=1).to_dicts()
    one, row = [], []
    for place in range(5000):
        began = time.perf_counter_ns()
        table.read([str(key)])
        between = time.perf_counter_ns()
        online.get(asked[place])
        one.append(between - began)
        row.append(time.perf_counter_ns() - between)
    figures = {"one key, µs": statistics.median(one) / 1e3, "a row of 4 entities, µs": statistics.median(row) / 1e3}
    print(json.dumps({"bench": "online", "contender": "sqlite", **figures, "materialize, CPU s": round(made, 2)}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
