"""The speed of the ledger on PostgreSQL: answers written in batches against a bare COPY, and how it is at a size.

    python bench/ledger_postgres.py URL            (postgres://user:password@host/database: makes and drops schemas there)
    python bench/ledger_postgres.py URL 3000000    (besides, so many predictions: indexes, reading, deleting)

One JSON line for each contender. A bare COPY writes the same rows by the same psycopg into a table with the same columns
and indexes, or with no index at all, and knows no origin, no other writer of the same id and nothing that is awaited.
The contenders take turns with each batch; ``ratio`` compares the medians of a batch with the first contender's.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import polars as pl
import psycopg
from ledger import BEGIN, labels, predictions

from meguri.base.clock import micros
from meguri.record.ledger import Answer
from meguri.record.ledger_postgres import _COLUMNS, PostgresLedger

SCHEMA = "bench_ledger"
BATCHES = {1: 500, 100: 200, 1000: 100}  # rows of a batch -> how many of them


def answers(count: int, start: int) -> list[Answer]:
    """What a service writes: an answer to one of a thousand units, its features with it."""
    chance = random.Random(start)
    table = predictions(count, start).with_columns(pl.col("time", "due", "made_at").dt.epoch("us"))
    return [
        Answer(
            bytes.fromhex(row["prediction_id"].replace("-", "")), row["key"], row["time"], row["due"], row["made_at"],
            (row["release"], row["run"], row["outlet"], chance.choice(["champion", "r2"]), 0.9), row["score"],
            row["answer"], f"u{chance.randrange(1000)}", False, row["features"],
        )
        for row in table.iter_rows(named=True)
    ]  # fmt: skip


def copier(db: Any, table: str) -> Callable[[list[Answer]], Any]:
    def copy(rows: list[Answer]) -> None:
        with db.cursor().copy(f"COPY {table} ({_COLUMNS}) FROM STDIN") as into:
            for row in rows:
                into.write_row((row.id.hex(), *row[1:5], 1, *row[6:]))

    return copy


def tell(bench: str, contender: str, **figures: float) -> None:
    rounded = {name: round(x, 3) if x < 1000 else round(x) for name, x in figures.items()}
    print(json.dumps({"bench": bench, "contender": contender} | rounded), flush=True)


def write(db: Any, ledger: PostgresLedger) -> None:
    db.execute("CREATE TABLE alike (LIKE predictions INCLUDING ALL)")
    db.execute("CREATE TABLE heap (LIKE predictions INCLUDING IDENTITY)")
    contenders: dict[str, Callable[[list[Answer]], Any]] = {
        "bare COPY, the same indexes": copier(db, "alike"),
        "bare COPY, no index": copier(db, "heap"),
        "meguri, write_answers": ledger.write_answers,
        "meguri, write_answers, all known": ledger.write_answers,
    }
    start = 0
    for batch, count in BATCHES.items():
        spent: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(count):
            rows, start = answers(batch, start), start + batch
            for name, work in contenders.items():
                begun = time.perf_counter()
                work(rows)
                spent[name].append(time.perf_counter() - begun)
        first = statistics.median(next(iter(spent.values())))
        for name, seconds in spent.items():
            middle = statistics.median(seconds)
            rates = {"rows_per_second": batch / middle, "rows_per_second_overall": batch * count / sum(seconds)}
            tell("write answers", name, batch=batch, rows=batch * count, **rates, ratio=first / middle)


def tables(count: int) -> Iterator[pl.DataFrame]:
    for start in range(0, count, 100_000):
        yield predictions(min(100_000, count - start), start)


def timed(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def size(db: Any, ledger: PostgresLedger, count: int) -> None:
    """Fill it, and see what each index weighs and each question takes."""
    written = labelled = 0.0
    for table in tables(count):
        written += timed(lambda table=table: ledger.write_predictions(table))  # type: ignore[misc]
        labelled += timed(lambda table=table: ledger.write_labels(labels(table)))  # type: ignore[misc]
    tell("fill", "meguri, write_predictions", rows=count, rows_per_second=count / written)
    tell("fill", "meguri, write_labels", rows=count, rows_per_second=count / labelled)
    db.execute("VACUUM ANALYZE")
    for name, weight in db.execute("""
        SELECT relname, pg_relation_size(c.oid) FROM pg_class c
        WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'i')
          AND relname ~ '^(predictions|labels|awaiting)' ORDER BY 2 DESC"""):
        tell("size", name, rows=count, megabytes=weight / 1e6, bytes_per_row=weight / count)
    last, day = BEGIN + timedelta(seconds=count), {"since": BEGIN + timedelta(seconds=count - 86400)}
    day["until"] = last
    for what, work in {
        "joined, all": lambda: ledger.joined(as_of=last + timedelta(days=1)),
        "joined, the last day": lambda: ledger.joined(as_of=last + timedelta(days=1), **day),
        "keys, the last day": lambda: ledger.keys(**day),
        "find by key": lambda: ledger.find(predictions(1, 0)["key"][0]),
        "awaited": lambda: ledger.awaited(as_of=last),
        "count_labels, the last day": lambda: ledger.count_labels(since=day["since"], as_of=last),
    }.items():
        tell("read", what, rows=count, seconds=statistics.median([timed(work) for _ in range(3)]))
    old = f"time < {micros(BEGIN + timedelta(seconds=count // 3))}"
    db.execute("ALTER TABLE predictions DISABLE TRIGGER USER; ALTER TABLE labels DISABLE TRIGGER USER")
    for what, sql in {
        "delete, a third of the labels": f"DELETE FROM labels WHERE prediction IN (SELECT n FROM predictions WHERE {old})",
        "delete, a third of the predictions": f"DELETE FROM predictions WHERE {old}",
        "vacuum": "VACUUM predictions, labels",
    }.items():
        tell("drop", what, rows=count, seconds=timed(lambda sql=sql: db.execute(sql)))  # type: ignore[misc]


if __name__ == "__main__":
    address = sys.argv[1]
    with closing(psycopg.connect(address, autocommit=True, options="-c search_path=bench_ledger")) as admin:
        for part in ("write", "size") if len(sys.argv) > 2 else ("write",):
            admin.execute(f'DROP SCHEMA IF EXISTS "{SCHEMA}" CASCADE')
            with closing(PostgresLedger(f"{address}?schema={SCHEMA}")) as opened:
                if part == "write":
                    write(admin, opened)
                else:
                    size(admin, opened, int(sys.argv[2]))
            admin.execute(f'DROP SCHEMA "{SCHEMA}" CASCADE')
