"""Twelve million flights through a real ``retrieve``: warehouse, contract, features, batch checks and version, and how much memory that takes.

    python bench/stream_memory.py flights-3m.parquet

The file is data/flights-3m.parquet of the npm package vega-datasets 3.2.1 (``npm pack vega-datasets@3.2.1``). Its half
year is put four times one after the other, a Parquet file each, as a table of a DuckDB warehouse. ``retrieve`` gives an Ibis
expression of it; the features are made of the same table as events. Prints one JSON line for each contender, each a fresh process:
``stream``; ``shuffled``, whose rows come in no order of time; ``table``, which reads all into memory. Peak resident megabytes, wall and CPU
seconds of the whole process.
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

FILES = {
    "hydra/default.yaml": """
warehouse: duckdb:///data/warehouse
model: {name: mean}
gate: {metric: mae, margin: 1}
data: {max_quarantined: 0.2}
loop: {step: 1d}
""",
    "src/main.py": """
from meguri import main

if __name__ == "__main__":
    main(__file__)
""",
    "src/models/mean.py": """
class Mean:
    pass
""",
    "src/repository/schema.py": """
from typing import Annotated

import pandera.polars as pa
import polars as pl

from meguri import Contract


class Flight(pa.DataFrameModel):
    number: int
    date: Annotated[pl.Datetime, "us", "UTC"]
    delay: int = pa.Field(ge=-120, le=1440)
    distance: int = pa.Field(ge=1, le=6000)
    origin: str = pa.Field(str_length={"min_value": 3, "max_value": 3})
    destination: str = pa.Field(str_length={"min_value": 3, "max_value": 3})
    late_6h: float = pa.Field(nullable=True)
    flights_6h: int
    route_last: float = pa.Field(nullable=True)

    class Config:
        unique = ["date", "origin", "destination", "distance"]


columns = ["distance", "late_6h", "flights_6h", "route_last"]
contract = Contract(Flight, key="number", time="date", label="delay", features=columns, task="regression")
""",
    "src/features.py": """
from meguri import Events

flights = Events("flights", by="origin", at="date", known="3h")
features = {
    "late_6h": flights.mean("delay", over="6h"),
    "flights_6h": flights.count(over="6h"),
    "route_last": flights.by("origin", "destination").last("delay"),
}
""",
}
RETRIEVE = {
    "stream": "warehouse.table('flights')",
    "shuffled": "warehouse.table('shuffled')",
    "table": "warehouse.read(warehouse.table('flights'))",
}


def measure(contender: str, root: Path) -> dict[str, Any]:
    """One fresh process that retrieves."""
    job = root / "src" / "jobs" / "retrieve.py"
    job.write_text(f"def retrieve(warehouse):\n    return {RETRIEVE[contender]}\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "src.main", "jobs=retrieve", "now=2004-01-01"]
    begun = time.perf_counter()
    with (root / "log").open("w+") as log:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
        _, status, used = os.wait4(process.pid, 0)
        log.seek(0)
        if status:
            raise RuntimeError(log.read())
    seconds = {"wall": round(time.perf_counter() - begun, 1), "cpu": round(used.ru_utime + used.ru_stime, 1)}
    return {
        "contender": contender,
        **counts(root),
        "megabytes": used.ru_maxrss // 1024,
        "megabytes_at_most": 1500,
    } | seconds


def counts(root: Path) -> dict[str, int]:
    import polars as pl

    kept = pl.scan_parquet(root / "data" / "rows.parquet")
    late = pl.col("late_6h").is_not_null().sum().alias("with_delay")
    found = kept.select(pl.len().alias("rows"), late).collect().row(0, named=True)
    bad = pl.scan_parquet(root / "outputs" / "quarantine" / "quarantine.parquet").select(pl.len()).collect().item()
    return {**found, "quarantined": bad}


def main(source: Path) -> None:
    """Make the project, and measure each."""
    import polars as pl

    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "flights"
        for path, text in FILES.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text.lstrip(), encoding="utf-8")
        (root / "src" / "jobs").mkdir()
        half = pl.read_parquet(source).with_columns(pl.col("date").dt.replace_time_zone("UTC"))
        for table, seed in (("flights", None), ("shuffled", 1)):
            parts = root / "data" / "warehouse" / table
            parts.mkdir(parents=True)
            for copy in range(4):
                number = pl.int_range(copy * half.height, (copy + 1) * half.height).alias("number")
                rows = half.select(number, pl.col("date").dt.offset_by(f"{181 * copy}d"), pl.all().exclude("date"))
                rows = rows if seed is None else rows.sample(fraction=1, shuffle=True, seed=seed)
                rows.write_parquet(parts / f"{copy}.parquet")
        for contender in RETRIEVE:
            print(json.dumps(measure(contender, root)), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    else:
        print(json.dumps({"skipped": "give flights-3m.parquet of npm's vega-datasets 3.2.1"}))
