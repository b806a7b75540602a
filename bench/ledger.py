"""The ledger's speed: predictions joined to their labels against SQLite's bare join, and the rate of writing.

    python bench/ledger.py [predictions]     (default 1,000,000; one JSON line for each contender)

The bare join reads the same columns of the same file with fetchall and knows no history, no maturity, no frame.
The contenders take turns; the median of five rounds counts. CPU seconds are steadier than wall seconds on a busy machine.
"""

from __future__ import annotations

import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from meguri.base.ids import prediction_ids
from meguri.record import ledger_columns
from meguri.record.ledger import Label
from meguri.record.ledger_sqlite import SqliteLedger

BEGIN = datetime(2013, 1, 1, tzinfo=UTC)
ROUNDS = 5
BARE = """SELECT p.id, p.key, p.time, p.due, p.made_at, p.origin, p.score, p.answer, l.value, l.known_at, l.source
          FROM predictions p JOIN labels l ON l.prediction = p.n"""


def predictions(count: int, start: int, ids: list[str] | None = None) -> pl.DataFrame:
    """A prediction a second, as flights have them: a key that begins with the carrier."""
    chance = random.Random(start)
    first = BEGIN + timedelta(seconds=start)
    times = pl.datetime_range(
        first, first + timedelta(seconds=count - 1), "1s", time_unit="us", time_zone="UTC", eager=True
    )
    time_ = pl.col("time")
    return pl.DataFrame(
        {
            "prediction_id": ids or prediction_ids(count, first),
            "key": [f"{chance.choice(('AA', 'DL', 'UA'))}|{chance.randrange(9000)}|{start + i}" for i in range(count)],
            "time": times,
            "score": [chance.random() for _ in range(count)],
        }
    ).with_columns(
        due=time_ + timedelta(hours=3), made_at=time_ - timedelta(hours=1), release=pl.lit("20130101-060000-3f9a"),
        run=pl.lit("20130101-055500-77aa"), outlet=pl.lit("table"), arm=pl.lit("champion"), answer=pl.lit("1"),
        features=pl.lit('{"hour": 12, "wind": 3.25, "origin": "JFK"}'),
    )  # fmt: skip


def labels(table: pl.DataFrame) -> list[Label]:
    """What happened: a label for each prediction when it is due."""
    value = (pl.col("score") > 0.5).cast(pl.Float64)
    return ledger_columns.labels(table.select("prediction_id", value=value, known_at="due", source=pl.lit("time")))


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    spent = time.perf_counter() - wall, time.process_time() - cpu
    del result
    return spent


def tell(bench: str, contender: str, **figures: float) -> None:
    print(
        json.dumps({"bench": bench, "contender": contender} | {name: round(x, 3) for name, x in figures.items()}),
        flush=True,
    )


def join(folder: Path, count: int) -> None:
    as_of = BEGIN + timedelta(days=10_000)
    with closing(SqliteLedger(folder / "join.db")) as ledger:
        for start in range(0, count, 100_000):
            table = predictions(min(100_000, count - start), start)
            ledger.write_predictions(table)
            ledger.write_labels(labels(table))
        with closing(sqlite3.connect(folder / "join.db")) as bare:
            bare.execute("PRAGMA cache_size = -65536")
            contenders: dict[str, Callable[[], Any]] = {
                "sqlite, bare join, fetchall": lambda: bare.execute(BARE).fetchall(),
                "meguri, joined": lambda: ledger.joined(as_of=as_of),
            }
            spent: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
            for _ in range(ROUNDS):
                for name, work in contenders.items():
                    spent[name].append(timed(work))
        middle = {
            name: [statistics.median(part) for part in zip(*rounds, strict=True)] for name, rounds in spent.items()
        }
        wall, cpu = next(iter(middle.values()))
        for name, (seconds, cpu_seconds) in middle.items():
            figures = {
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
                "ratio": seconds / wall,
                "cpu_ratio": cpu_seconds / cpu,
            }
            tell("join", name, rows=count, **figures)
        window = ledger.joined(since=BEGIN + timedelta(seconds=count - count // 20), as_of=as_of).height
        since = BEGIN + timedelta(seconds=count - count // 20)
        tell(
            "read",
            "meguri, joined, the last twentieth",
            rows=window,
            seconds=timed(lambda: ledger.joined(since=since, as_of=as_of))[0],
        )
        tell("read", "meguri, awaited", rows=count, seconds=timed(lambda: ledger.awaited(as_of=as_of))[0])


def write(folder: Path, count: int, batch: int) -> None:
    rates: dict[str, tuple[float, float]] = {}
    for name in ("uuid4, random", "uuid7, time-ordered"):
        tables = []
        for start in range(0, count, batch):
            ids = [str(uuid.uuid4()) for _ in range(batch)] if name.startswith("uuid4") else None
            tables.append(predictions(batch, start, ids))
        with closing(SqliteLedger(folder / f"{name[:5]}-{batch}.db")) as ledger:
            rates[name] = timed(lambda: [ledger.write_predictions(table) for table in tables])  # noqa: B023
            if batch > 1000 and name.startswith("uuid7"):
                seconds, cpu = timed(lambda: [ledger.write_labels(labels(table)) for table in tables])  # noqa: B023
                tell(
                    "write labels",
                    name,
                    rows=count,
                    batch=batch,
                    rows_per_second=count / seconds,
                    rows_per_cpu_second=count / cpu,
                )
    slow = rates["uuid4, random"]
    for name, (seconds, cpu) in rates.items():
        figures = {"rows_per_second": count / seconds, "rows_per_cpu_second": count / cpu, "ratio": slow[0] / seconds}
        tell("write predictions", name, rows=count, batch=batch, **figures)


if __name__ == "__main__":
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as name_of_folder:
        join(Path(name_of_folder), size)
        for batch_size in (1_000, 100_000):
            write(Path(name_of_folder), max(size // 5, batch_size), batch_size)
