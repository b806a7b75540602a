"""How many answers a second one writer makes durable, against what one thread can commit by hand to the same disk.

    python bench/ledger_writer.py                  (SQLite)
    python bench/ledger_writer.py URL              (besides, PostgreSQL: postgres://user:password@host/database; a schema there is made and dropped)

One JSON line for each contender and size of a commit. By hand the same rows go into a table with the same columns, with no index but the key, or with the
ledger's: on SQLite by executemany in one transaction (synchronous FULL), on PostgreSQL by COPY. ``written`` is what a service waits for; ``settled`` has
the answers at their place among the predictions as well. The contenders take turns; ``ratio`` compares the medians of a commit with the first one's.
"""

from __future__ import annotations

import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from ledger import predictions

from meguri.record.ledger import Ledger, open_ledger
from meguri.record.served import Served, pack

COLUMNS = ("id", "key", "time", "due", "made_at", "origin", "score", "answer", "unit", "abstained", "features")
COMMITS = {1: 300, 30: 200, 1000: 100}  # answers of a commit -> how many of them
SCHEMA = "bench_ledger"


def batch(count: int, start: int) -> tuple[list[Served], list[tuple[Any, ...]]]:
    """What a service gathers, up to a hundred rows a request; and the same as rows of a table."""
    chance = random.Random(start)
    table = predictions(count, start).with_columns(pl.col("time", "due", "made_at").dt.epoch("us"))
    table = table.with_columns(unit=pl.Series([f"u{chance.randrange(1000)}" for _ in range(count)]))
    features = table["features"].str.json_decode(pl.Struct({"hour": pl.Int64, "wind": pl.Float64, "origin": pl.String}))
    served = []
    for part in range(0, count, 100):
        rows = table.slice(part, 100)
        lists = rows.to_dict(as_series=False)
        kept = features.slice(part, 100).struct.unnest().to_dict(as_series=False)
        origin = (lists["release"][0], lists["run"][0], lists["outlet"][0], "champion", 0.9)
        after = lists["due"][0] - lists["time"][0]
        ids, keys, times = (lists[name] for name in ("prediction_id", "key", "time"))
        scores, answers, units = (lists[name] for name in ("score", "answer", "unit"))
        served.append(Served(origin, lists["made_at"][0], after, ids, keys, times, scores, answers, units, None, kept))
    plain = table.with_columns(origin=pl.lit(1), abstained=pl.lit(None)).select("prediction_id", *COLUMNS[1:])
    return served, plain.rows()


@contextmanager
def sqlite(folder: Path) -> Iterator[dict[str, Callable[[Any, Any], Any]]]:
    with closing(open_ledger(f"sqlite:///{folder}/ledger.db")) as ledger, closing(sqlite3.connect(folder / "hand.db", isolation_level=None)) as db:  # fmt: skip
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        columns = "n INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, key TEXT, time INTEGER, due INTEGER, made_at INTEGER, origin INTEGER, score REAL, answer TEXT, unit TEXT, abstained INTEGER, features TEXT"  # fmt: skip
        for name in ("plain", "alike"):
            db.execute(f"CREATE TABLE {name} ({columns})")
        db.execute("CREATE INDEX alike_key ON alike (key)")
        db.execute("CREATE INDEX alike_time ON alike (time)")

        def by_hand(table: str, _: Any, rows: list[tuple[Any, ...]]) -> None:
            db.execute("BEGIN IMMEDIATE")
            sql = f"INSERT INTO {table} ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
            db.executemany(sql, [(bytes.fromhex(row[0].replace("-", "")), *row[1:]) for row in rows])
            db.execute("COMMIT")

        yield {
            "by hand": partial(by_hand, "plain"),
            "by hand, the ledger's indexes": partial(by_hand, "alike"),
            **ours(ledger),
        }


@contextmanager
def postgres(url: str) -> Iterator[dict[str, Callable[[Any, Any], Any]]]:
    import psycopg

    with closing(psycopg.connect(url, autocommit=True, options=f"-c search_path={SCHEMA}")) as db:
        db.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        with closing(open_ledger(f"{url}?schema={SCHEMA}")) as ledger:
            db.execute("CREATE TABLE heap (LIKE predictions INCLUDING IDENTITY)")
            db.execute("CREATE TABLE alike (LIKE predictions INCLUDING ALL)")

            def by_hand(table: str, _: Any, rows: list[tuple[Any, ...]]) -> None:
                with db.cursor().copy(f"COPY {table} ({', '.join(COLUMNS)}) FROM STDIN") as into:
                    for row in rows:
                        into.write_row(row)

            yield {
                "COPY by hand": partial(by_hand, "heap"),
                "COPY by hand, the ledger's indexes": partial(by_hand, "alike"),
                **ours(ledger),
            }
        db.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


def ours(ledger: Ledger) -> dict[str, Callable[[Any, Any], Any]]:
    def settled(served: list[Served], _: Any) -> None:
        ledger.write_answers(pack(served))
        ledger.settle()

    return {"meguri, written": lambda served, _: ledger.write_answers(pack(served)), "meguri, settled": settled}


def compare(store: str, contenders: dict[str, Callable[[Any, Any], Any]]) -> None:
    start, names = 0, list(contenders)
    for size, count in COMMITS.items():
        spent: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(count):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:  # the disk favours who comes first
                served, rows = batch(size, start)
                start += size
                begun = time.perf_counter()
                contenders[name](served, rows)
                spent[name].append(time.perf_counter() - begun)
                if name == "meguri, written":
                    contenders["meguri, settled"]([], [])  # not on the clock, and not on the next one's
        first = statistics.median(spent[names[0]])
        for name, seconds in spent.items():
            middle = statistics.median(seconds)
            figures = {"answers": size, "per_second": round(size / middle), "ratio": round(first / middle, 2)}
            print(json.dumps({"bench": "ledger writer", "store": store, "contender": name, **figures}), flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made, sqlite(Path(made)) as several:
        compare("sqlite", several)
    if len(sys.argv) > 1:
        with postgres(sys.argv[1]) as several:
            compare("postgres", several)
