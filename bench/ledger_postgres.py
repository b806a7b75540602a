"""The ledger on PostgreSQL at a size: what its indexes weigh, what reading and deleting take, and other plans of indexes.

    python bench/ledger_postgres.py URL 3000000    (postgres://user:password@host/database: makes and drops schemas there)

One JSON line for each figure. How fast answers are written is in ledger_writer.py.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial
from typing import Any

import polars as pl
import psycopg
from ledger import BEGIN, labels, predictions
from ledger_writer import batch

from meguri.base.clock import micros
from meguri.record.ledger_postgres import _COLUMNS, PostgresLedger

SCHEMA = "bench_ledger"


def copier(db: Any, table: str) -> Callable[[list[tuple[Any, ...]]], Any]:
    def copy(rows: list[tuple[Any, ...]]) -> None:
        with db.cursor().copy(f"COPY {table} ({_COLUMNS}) FROM STDIN") as into:
            for row in rows:
                into.write_row(row)

    return copy


def tell(bench: str, contender: str, **figures: float) -> None:
    rounded = {name: round(x, 3) if x < 1000 else round(x) for name, x in figures.items()}
    print(json.dumps({"bench": bench, "contender": contender} | rounded), flush=True)


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
        written += timed(partial(ledger.write_predictions, table))
        labelled += timed(partial(ledger.write_labels, labels(table)))
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
    oldest = BEGIN + timedelta(seconds=count // 5)
    tell("prune", "a fifth, with its labels", rows=count, seconds=timed(partial(ledger.prune, oldest)))
    tell("prune", "VACUUM afterwards", rows=count, seconds=timed(partial(db.execute, "VACUUM")))


PARTS = 5
BTREE, HASH = "CREATE INDEX ON {t} (key)", "CREATE INDEX ON {t} USING hash (key)"
BRIN = "CREATE INDEX ON {t} USING brin (time) WITH (autosummarize = on)"
PLANS = {
    "B-tree on key, B-tree on time": ("", [BTREE, "CREATE INDEX ON {t} (time)"]),
    "B-tree on key, BRIN on time": ("", [BTREE, BRIN]),
    "hash on key, BRIN on time": ("", [HASH, BRIN]),
    "B-tree on key, BRIN on time, in parts by id": (" PARTITION BY RANGE (id)", [BTREE, BRIN]),
}


def identity(number: int) -> str:
    """The least UUIDv7 of the moment so many seconds after the beginning."""
    return f"{micros(BEGIN + timedelta(seconds=number)) // 1000:012x}" + "0" * 20


def plans(db: Any, _: PostgresLedger, count: int) -> None:
    """A table filled by the server in each plan, then batches of 1,000 copied to its end, then its oldest fifth removed."""
    for number, (name, (parts, indexes)) in enumerate(PLANS.items()):
        table, step = f"plan{number}", count // PARTS
        db.execute(f"CREATE TABLE {table} (LIKE predictions INCLUDING IDENTITY){parts}")
        for part in range(PARTS if parts else 0):
            ends = [f"'{identity(step * end)}'" for end in (part, part + 1)]
            ends = ["MINVALUE" if part == 0 else ends[0], "MAXVALUE" if part == PARTS - 1 else ends[1]]
            db.execute(f"CREATE TABLE {table}_{part} PARTITION OF {table} FOR VALUES FROM ({ends[0]}) TO ({ends[1]})")
        for index in ["CREATE UNIQUE INDEX ON {t} (id)", "CREATE INDEX ON {t} (n)", *indexes]:
            db.execute(index.format(t=table))
        filled = timed(partial(db.execute, FILL.format(t=table, ms=micros(BEGIN) // 1000, count=count)))
        db.execute("VACUUM ANALYZE")
        copy, seconds = copier(db, table), []
        for turn in range(100):
            rows = batch(1000, count + turn * 1000)[1]
            seconds.append(timed(lambda rows=rows, copy=copy: copy(rows)))  # type: ignore[misc]
        rows_there = count + 100_000
        weigh = """SELECT sum(pg_indexes_size(c.oid)), sum(pg_relation_size(c.oid)) FROM pg_class c
                   WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND relname LIKE %s"""
        index_size, table_size = db.execute(weigh, (f"{table}%",)).fetchone()
        old = f"DELETE FROM {table} WHERE time < {micros(BEGIN + timedelta(seconds=step))}"
        removed = timed(partial(db.execute, f"DROP TABLE {table}_0" if parts else old))
        cleaned = timed(partial(db.execute, "VACUUM"))
        tell(
            "plan", name, rows=count, fill_rows_per_second=count / filled,
            copy_rows_per_second=1000 / statistics.median(seconds),
            table_bytes_per_row=float(table_size) / rows_there, index_bytes_per_row=float(index_size) / rows_there,
            remove_a_fifth_seconds=removed, vacuum_seconds=cleaned,
        )  # fmt: skip
        db.execute(f"DROP TABLE {table}")


FILL = f"""
    INSERT INTO {{t}} ({_COLUMNS})
    SELECT (lpad(to_hex({{ms}} + i * 1000), 12, '0') || '7000a' || substr(md5(i::text), 1, 15))::uuid,
           'AA|' || (random() * 9000)::int || '|' || i, t, t + 10800000000, t - 3600000000, 1, random(), '1',
           'u' || i % 1000, false, '{{{{"hour": 12, "wind": 3.25, "origin": "JFK"}}}}'
    FROM generate_series(0, {{count}}::bigint - 1) AS i, LATERAL (SELECT ({{ms}} + i * 1000) * 1000 AS t) AS moment"""


if __name__ == "__main__":
    address = sys.argv[1]
    with closing(psycopg.connect(address, autocommit=True, options="-c search_path=bench_ledger")) as admin:
        for part in (size, plans):
            admin.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
            with closing(PostgresLedger(f"{address}?schema={SCHEMA}")) as opened:
                part(admin, opened, *map(int, sys.argv[2:]))
            admin.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
