"""The ledger in one SQLite file: write-ahead log, every commit synced to the disk."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from meguri.base.clock import micros
from meguri.base.errors import LedgerError
from meguri.base.files import locked
from meguri.record.ledger import Event, Label, LabelCounts, Prediction
from meguri.record.ledger_inbox import SETTLED
from meguri.record.ledger_migrations import MIGRATIONS, migrate, version
from meguri.record.ledger_sql import SqlLedger, clash, lines, predictions, pruning
from meguri.record.served import unpack

if TYPE_CHECKING:
    import polars as pl

T = TypeVar("T")
log = logging.getLogger("meguri.ledger")
TURN = 0.0005  # seconds until a file that another one writes to is tried again
BUSY = 30.0  # seconds that a write waits for another process's
TOGETHER = 256  # predictions in one statement: for each Python lets go of its lock, and takes it again
_PREDICTION = ("id", "key", "time", "due", "made_at", "origin", "score", "answer", "unit", "abstained", "features")
_MARKS = ", ".join("?" * len(_PREDICTION))
# A row of the inbox as bytes, whatever a file that was damaged or mended by hand has there.
_OLDEST = "SELECT n, CAST(answers AS BLOB) FROM inbox WHERE n <= ? ORDER BY n"
_SAME_PREDICTION = f"SELECT 1 FROM predictions WHERE ({', '.join(_PREDICTION)}) IS ({_MARKS}) AND id = ?"
_ORIGINS = "SELECT n, release, run, outlet, arm, propensity FROM origins ORDER BY n"
_ADD_LABELS = """
    INSERT INTO labels (prediction, known_at, version, value, source)
    SELECT prediction, known_at, (SELECT count(*) + 1 FROM labels l WHERE l.prediction = m.prediction), value, source
    FROM temp.matched m
    WHERE round = ?
      AND NOT EXISTS (SELECT 1 FROM labels l WHERE l.prediction = m.prediction AND l.known_at = m.known_at
                      AND l.value = m.value AND l.source = m.source)
      AND (SELECT l.value FROM labels l WHERE l.prediction = m.prediction AND l.known_at <= m.known_at
           ORDER BY l.known_at DESC, l.version DESC LIMIT 1) IS NOT m.value
      AND (m.source <> 'time'
           OR (SELECT l.value FROM labels l WHERE l.prediction = m.prediction AND l.source = 'time'
                 AND l.known_at <= m.known_at ORDER BY l.known_at DESC, l.version DESC LIMIT 1) IS NOT m.value)"""
_FIXES = {
    "SQLITE_FULL": "free some space on the disk and write again",
    "SQLITE_IOERR": "see whether the disk is full or failing, then write again",
    "SQLITE_BUSY": "another process holds the ledger: let it finish, then write again",
    "SQLITE_READONLY": "make the file and its folder writable",
    "SQLITE_CANTOPEN": "make the folder writable, and see that the path is a file",
    "SQLITE_CORRUPT": "bring the file back from a backup, or save what can be read with: sqlite3 FILE .recover",
    "SQLITE_NOTADB": "bring the file back from a backup, or give the ledger another path",
}


class SqliteLedger(SqlLedger):
    """The ledger in the SQLite file ``path``, made with its folder when it is not there."""

    _pause = 2 * TURN  # who waits to write finds the file free: else it would wait for all that is settled

    def __init__(self, path: Path, *, limit: float | None = None) -> None:
        self.path, self._limit = path, BUSY if limit is None else limit
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=self._limit, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise
            weakref.finalize(self, self._db.close)  # for those who forget to close
        except (OSError, sqlite3.Error) as error:  # a LedgerError is an OSError as well
            raise self._explained(error) from (None if isinstance(error, LedgerError) else error)

    def _prepare(self) -> None:
        if version(self._db) < len(MIGRATIONS):
            with locked(self.path.with_name(f".{self.path.name}.lock")):
                migrate(self._db)
        for pragma in ("synchronous = FULL", "cache_size = -8192", "temp_store = MEMORY"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute("CREATE TEMP TABLE matched (row, prediction, known_at, value, source, round)")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    # predictions and labels

    def write_predictions(self, table: pl.DataFrame) -> int:
        """Write predictions; what thousands of them share is written once."""
        from meguri.record import ledger_columns

        given = ledger_columns.predictions(table)
        self.settle()
        with self._writing() as db:
            given = ledger_columns.numbered(given, lambda shared: _origin(db, shared))
            count, other = self._insert(db, list(ledger_columns.rows([given[name] for name in _PREDICTION])))
            if other is not None:
                raise clash(UUID(bytes=other), self.path)
        return count

    def write_answers(self, packed: bytes) -> None:
        """Add one row, in a transaction of its own."""
        with self._lock:
            try:
                self._taking_turns("INSERT INTO inbox (answers) VALUES (?)", (packed,))
            except sqlite3.Error as error:
                raise self._explained(error) from error

    def _turn(self, work: Callable[[Any], T]) -> T:
        with self._writing() as db:
            return work(db)

    def _taken(self, db: sqlite3.Connection, last: int, *, alone: bool) -> tuple[list[bytes], bool]:
        size, end, taken = 0, 0, list[bytes]()
        for end, packed in db.execute(_OLDEST, (last,)):  # noqa: B007
            taken.append(packed)
            if alone or (size := size + len(packed)) >= SETTLED:
                break
        db.execute("DELETE FROM inbox WHERE n <= ?", (end,))
        return taken, end not in (0, last)

    def _placed(self, db: sqlite3.Connection, texts: Sequence[bytes]) -> int:
        rows = [*chain.from_iterable(map(unpack, texts))]
        number = {origin: _origin(db, origin) for origin in {row[5] for row in rows}}
        rows = [(bytes.fromhex(id.replace("-", "")), *more[:4], number[more[4]], *more[5:]) for id, *more in rows]
        if (other := self._insert(db, rows)[1]) is not None:
            log.error("%s; the first stays", clash(UUID(bytes=other), self.path))
        return len(rows)

    def _refused(self, error: Exception) -> bool:
        """A value that breaks a constraint, that is too big, or whose type no column takes."""
        return isinstance(error, (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError))

    def _insert(self, db: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> tuple[int, bytes | None]:
        """Add those of the predictions that are not there yet: how many; and the id of one that says something else."""
        last = db.execute("SELECT coalesce(max(n), 0) FROM predictions").fetchone()
        count = place = 0
        while place < len(
            rows
        ):  # 16 + 8 + 1 rows rather than 25 or one by one: few statements, and each is prepared once
            some = min(TOGETHER, 1 << (len(rows) - place).bit_length() - 1)
            values = [*chain.from_iterable(rows[place : place + some])]
            count += db.execute(_adding(some), values).rowcount
            place += some
        db.execute("INSERT INTO awaiting SELECT n, time, due, made_at FROM predictions WHERE n > ?", last)
        other = None
        if count < len(rows):  # some ids were there already: fine, when they say the same
            same = (db.execute(_SAME_PREDICTION, (*row, row[0])).fetchone() for row in rows)
            other = next((row[0] for row, found in zip(rows, same, strict=True) if not found), None)
        return count, other

    def write_labels(self, labels: Iterable[Label]) -> LabelCounts:
        """Write labels beside the ones that are there."""
        by_id, by_key = lines(labels)
        self.settle()
        with self._writing() as db:
            db.execute("DELETE FROM temp.matched")
            for what, some in (("id", by_id), ("key", by_key)):
                match = f"INSERT INTO temp.matched SELECT ?, n, ?, ?, ?, ? FROM predictions WHERE {what} = ?"
                db.executemany(match, some)
            sql = "SELECT count(*), count(DISTINCT row), coalesce(max(round), 0) FROM temp.matched"
            pairs, met, last = db.execute(sql).fetchone()
            new = db.execute("DELETE FROM awaiting WHERE prediction IN (SELECT prediction FROM temp.matched)").rowcount
            stored = sum(db.execute(_ADD_LABELS, (number,)).rowcount for number in range(last + 1))
            db.execute("DELETE FROM temp.matched")
        return LabelCounts(
            new=new, same=pairs - stored, corrected=stored - new, unmatched=len(by_id) + len(by_key) - met
        )

    def joined(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        as_of: datetime,
        outlet: str | None = None,
        release: str | None = None,
        features: bool = False,
    ) -> pl.DataFrame:
        """Read predictions and labels in one pass over both tables, which lie in the same order."""
        from meguri.record import ledger_columns

        where, values = ["p.due <= ?1", "p.made_at <= ?1"], [micros(as_of)]
        for clause, bound in (("p.time >= ?", since), ("p.time < ?", until)):
            if bound is not None:
                values.append(micros(bound))
                where.append(f"{clause}{len(values)}")
        wanted = "p.score, p.answer, p.unit, p.abstained" + (", p.features" if features else "")
        columns = f"{wanted}, l.value, l.known_at, l.source"
        self.settle()
        with self._reading() as db:
            origins = db.execute(_ORIGINS).fetchall()
            if outlet is not None or release is not None:
                chosen = [str(n) for n, r, _, o, *_ in origins if outlet in (None, o) and release in (None, r)]
                where.append(f"p.origin IN ({', '.join(chosen)})")
            sql = f"""SELECT p.id, p.key, p.time, p.due, p.made_at, p.origin, {columns} FROM predictions p
                      LEFT JOIN labels l ON l.prediction = p.n AND l.known_at <= ?1
                      WHERE {" AND ".join(where)} ORDER BY p.n, l.known_at, l.version"""
            return ledger_columns.joined(db.execute(sql, values), origins, features=features)

    def find(self, name: str) -> list[Prediction]:
        """Look in the indexes of ids and keys."""
        try:
            id = UUID(name).bytes
        except ValueError:
            id = b""
        return self._look("predictions p", "p.id = ? OR p.key = ?", (id, name))

    def queue(self, *, limit: int) -> list[Prediction]:
        """Look in the small index of the abstained."""
        some = """(SELECT * FROM predictions q WHERE abstained = 1 AND EXISTS (SELECT 1 FROM awaiting WHERE prediction = q.n)
                   ORDER BY n LIMIT ?) p"""
        return self._look(some, "true", (limit,))

    def _look(self, rows: str, where: str, values: tuple[Any, ...]) -> list[Prediction]:
        sql = f"""SELECT p.id, p.key, p.time, p.due, p.made_at, p.origin, p.score, p.answer, p.unit,
                         p.abstained, p.features, l.value, l.known_at, l.source
                  FROM {rows} LEFT JOIN labels l ON l.prediction = p.n
                  WHERE {where} ORDER BY p.n, l.known_at, l.version"""
        self.settle()
        with self._reading() as db:
            origins = db.execute(_ORIGINS).fetchall()
            return predictions(db.execute(sql, values), origins)

    def write_events(self, events: Sequence[Event]) -> int:
        """Add events; one whose id is there already is not added again."""
        sql = "INSERT INTO events (id, unit, at, kind, value) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
        with self._writing() as db:
            return max(db.executemany(sql, [(e.id, e.unit, micros(e.at), e.kind, e.value) for e in events]).rowcount, 0)

    def prune(self, before: datetime, *, awaited: bool = True) -> int:
        """Delete in one transaction, in which the triggers that refuse it are away."""
        sql = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE '%_DELETE'"
        self.settle()
        with self._writing() as db:
            triggers = db.execute(sql).fetchall()
            for name, _ in triggers:
                db.execute(f"DROP TRIGGER {name}")
            count = [db.execute(delete, (micros(before),)).rowcount for delete in pruning(awaited=awaited)][-1]
            for _, create in triggers:
                db.execute(create)
        return count

    # the connection

    def _add(self, table: str, columns: str, row: Sequence[Any]) -> None:
        with self._writing() as db:
            db.execute(f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(row))})", row)

    def _all(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._reading() as db:
            return db.execute(sql, values).fetchall()

    def _taking_turns(self, sql: str, values: Sequence[Any] = ()) -> None:
        """Execute what may have to wait for another's write. SQLite itself looks again after up to 100 ms, and many a write takes one."""
        self._db.execute("PRAGMA busy_timeout = 0")
        end = time.monotonic() + self._limit
        try:
            while True:
                try:
                    self._db.execute(sql, values)
                    return
                except sqlite3.OperationalError as error:
                    if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                        raise
                time.sleep(TURN)
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {int(1000 * self._limit)}")

    def _writing(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        return self._transaction("IMMEDIATE")

    def _reading(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        return self._transaction("DEFERRED")

    @contextlib.contextmanager
    def _transaction(self, kind: str) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._taking_turns(f"BEGIN {kind}")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:  # SQLite may have rolled back by itself, on a full disk for one
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise self._explained(error) from error

    def _explained(self, error: Exception) -> LedgerError:
        if isinstance(error, LedgerError):
            error.where = error.where or str(self.path)
            return error
        name = getattr(error, "sqlite_errorname", "SQLITE_CANTOPEN" if isinstance(error, OSError) else "")
        fix = next((fix for code, fix in _FIXES.items() if name.startswith(code)), None)
        return LedgerError(f"the ledger cannot be used: {error}", where=self.path, fix=fix)


def _origin(db: sqlite3.Connection, row: tuple[Any, ...]) -> int:
    """The number of what predictions share; only one transaction writes at a time, so none comes twice."""
    columns = "release, run, outlet, arm, propensity"
    found = db.execute(f"SELECT n FROM origins WHERE ({columns}) IS (?, ?, ?, ?, ?)", row).fetchone()
    if found:
        return int(found[0])
    return int(db.execute(f"INSERT INTO origins ({columns}) VALUES (?, ?, ?, ?, ?)", row).lastrowid or 0)


@cache
def _adding(rows: int) -> str:
    marks = ", ".join([f"({_MARKS})"] * rows)
    return f"INSERT INTO predictions ({', '.join(_PREDICTION)}) VALUES {marks} ON CONFLICT DO NOTHING"
