"""Twelve million rows from the warehouse through the contract to Parquet, and how much memory that takes.

python bench/stream_memory.py flights-3m.parquet

The file is data/flights-3m.parquet of the npm package vega-datasets 3.2.1 (``npm pack vega-datasets@3.2.1``). Its rows are
read four times, with a number for the copy, by DuckDB from Parquet. Prints one JSON line for each contender: the contract
over the stream, and over the whole table in memory, each a fresh process: peak resident megabytes, wall and CPU seconds.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

KEY = ["copy", "date", "origin", "destination", "distance"]


def contract() -> Any:
    """Five checks and a key over five columns: some hundred flights of one route leave at the same minute."""
    from meguri.data.contract import Contract

    kinds = {
        "copy": "Int64",
        "date": "Datetime",
        "delay": "Int64",
        "distance": "Int64",
        "origin": "String",
        "destination": "String",
    }
    rules = {
        "delay": [{"name": "in_range", "args": {"min_value": -120, "max_value": 1440}}],
        "distance": [{"name": "in_range", "args": {"min_value": 1, "max_value": 6000}}],
        "origin": [{"name": "str_length", "args": {"exact_value": 3}}],
        "destination": [{"name": "str_length", "args": {"exact_value": 3}}],
    }
    fields = [
        {"name": name, "type": kind, "checks": [{**rule, "message": None} for rule in rules.get(name, [])]}
        for name, kind in kinds.items()
    ]
    spec = {
        "format": 1,
        "name": "Flights",
        "key": KEY,
        "time": "date",
        "label": "delay",
        "label_after": "0s",
        "group": None,
    }
    spec |= {"features": ["distance"], "task": "regression", "strict": False, "unique": [], "fields": fields}
    return Contract.from_spec(spec)


def streamed(folder: Path) -> dict[str, Any]:
    """Warehouse to contract to Parquet, batch by batch."""
    from meguri.data import stream
    from meguri.data.warehouse import Warehouse

    bad = 0

    def count(rows: Any) -> None:
        nonlocal bad
        bad += rows.height

    with Warehouse("duckdb:///tables", folder) as warehouse:
        flights = warehouse.batches(warehouse.table("flights"))
        done = stream.check(flights, contract(), path=folder / "rows.parquet", limit=0.2, bad=count)
    assert bad == done.quarantined
    return {"rows": done.rows, "quarantined": done.quarantined}


def whole(folder: Path) -> dict[str, Any]:
    """The same with the whole table in memory."""
    import polars as pl

    checked = contract().check(pl.read_parquet(folder / "tables" / "flights" / "*.parquet"))
    checked.rows.write_parquet(folder / "rows.parquet")
    return {"rows": checked.rows.height, "quarantined": checked.quarantined.height}


def measure(contender: str, folder: Path) -> dict[str, Any]:
    """One fresh process."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, __file__, contender, str(folder)], env=environment, check=True, capture_output=True, text=True
    )
    return {"contender": contender, **json.loads(done.stdout)}


def main(source: Path) -> None:
    """Replicate the rows, and measure both."""
    import polars as pl

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = folder / "tables" / "flights"
        parts.mkdir(parents=True)
        for copy in range(4):
            pl.read_parquet(source).with_columns(copy=pl.lit(copy, pl.Int64)).write_parquet(parts / f"{copy}.parquet")
        for contender in ("streamed", "whole"):
            print(json.dumps(measure(contender, folder) | {"megabytes_at_most": 1500}), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    elif len(sys.argv) == 3:
        begun = time.perf_counter()
        found = {"streamed": streamed, "whole": whole}[sys.argv[1]](Path(sys.argv[2]))
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu = round(used.ru_utime + used.ru_stime, 2)
        wall = round(time.perf_counter() - begun, 2)
        print(json.dumps({**found, "megabytes": used.ru_maxrss // 1024, "wall": wall, "cpu": cpu}))
    else:
        print(json.dumps({"skipped": "give flights-3m.parquet of npm's vega-datasets 3.2.1"}))
