"""The speed of the ledger on PostgreSQL: answers written in batches against a bare COPY, and how it is at a size.

    python bench/ledger_postgres.py URL            (postgres://user:password@host/database: makes and drops schemas there)
    python bench/ledger_postgres.py URL 3000000    (besides, so many predictions: indexes, reading, deleting)

One JSON line for each contender. A bare COPY writes the same rows by the same psycopg into a table with the same columns
and indexes, or with no index at all; it knows no origin, no row that is there already and nothing that is awaited.
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
from functools import partial
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


def write(db: Any, ledger: PostgresLedger, _: int = 0) -> None:
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
        rows = answers(batch, start)
        ledger.write_answers(rows)
        for turn in range(count):
            start += batch
            known, rows = rows, answers(batch, start)
            order = list(contenders)
            for name in order[turn % len(order) :] + order[: turn % len(order)]:  # the disk favours who comes first
                spent[name].append(timed(partial(contenders[name], known if "known" in name else rows)))
        start += batch
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
        for batch in range(100):
            rows = answers(1000, count + batch * 1000)
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
        for part in (write, size, plans) if len(sys.argv) > 2 else (write,):
            admin.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
            with closing(PostgresLedger(f"{address}?schema={SCHEMA}")) as opened:
                part(admin, opened, *map(int, sys.argv[2:]))
            admin.execute(f"DROP SCHEMA {SCHEMA} CASCADE")
