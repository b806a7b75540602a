"""Online tables in SQLite and PostgreSQL: one transaction replaces everything, one statement reads from one of them."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from meguri.base.errors import DataError
from meguri.base.extras import need
from meguri.base.redact import redact
from meguri.data.online import Found

BUSY = 30.0  # seconds to wait for another process's write


def _read(name: str, count: int, mark: str) -> str:
    """One statement, for a statement sees one state of the table: the head in each row, and the asked keys beside it."""
    marks = ", ".join([mark] * count) or "NULL"
    return f"SELECT h.head, e.key, e.value FROM {name}_head h LEFT JOIN {name} e ON e.key IN ({marks})"


def _found(rows: Sequence[tuple[Any, ...]], keys: Sequence[str]) -> Found:
    known = {key: value for _, key, value in rows}
    return Found(rows[0][0] if rows else None, [known.get(key) for key in keys])


class SqliteTable:
    """The table ``name`` in the SQLite file ``path``, made with its folder when it is not there."""

    def __init__(self, path: Path, name: str = "features") -> None:
        self.path, self.name = path, name
        self._lock = threading.RLock()
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
            weakref.finalize(self, self._db.close)  # for those who forget to close
            self._db.execute("PRAGMA journal_mode = WAL")
            with self._writing() as db:
                db.execute(
                    f"CREATE TABLE IF NOT EXISTS {name} (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
                )
                db.execute(f"CREATE TABLE IF NOT EXISTS {name}_head (head TEXT NOT NULL, at INTEGER NOT NULL)")

    def replace(self, entries: Iterable[tuple[str, str]], *, head: str, at: int) -> bool:
        """Replace all in one transaction; readers see the old entries until it ends."""
        with self._told(), self._writing() as db:
            if db.execute(f"SELECT 1 FROM {self.name}_head WHERE at > ?", (at,)).fetchone():
                return False
            db.execute(f"DELETE FROM {self.name}")
            db.execute(f"DELETE FROM {self.name}_head")
            db.executemany(f"INSERT INTO {self.name} VALUES (?, ?)", entries)
            db.execute(f"INSERT INTO {self.name}_head VALUES (?, ?)", (head, at))
        return True

    def read(self, keys: Sequence[str]) -> Found:
        """Read the keys and the head in one statement."""
        with self._told(), self._lock:
            return _found(self._db.execute(_read(self.name, len(keys), "?"), keys).fetchall(), keys)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            what = f"the online table cannot be used: {error}"
            fix = "see that the folder can be written and the file is whole; it is made anew by: meguri features materialize"
            raise DataError(what, where=self.path, fix=fix) from error


class PostgresTable:
    """The table ``name`` in the PostgreSQL database behind ``url``, made when it is not there."""

    def __init__(self, url: str, name: str = "features") -> None:
        self.url, self.name = url, name
        self._lock = threading.RLock()
        self._db: Any = None
        with self._told() as db, db.transaction():
            db.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"meguri {name}",))  # two that make it would meet
            db.execute(f"CREATE TABLE IF NOT EXISTS {name} (key text PRIMARY KEY, value text NOT NULL)")
            db.execute(f"CREATE TABLE IF NOT EXISTS {name}_head (head text NOT NULL, at bigint NOT NULL)")

    def replace(self, entries: Iterable[tuple[str, str]], *, head: str, at: int) -> bool:
        """Replace all in one transaction; readers see the old entries until it ends."""
        with self._told() as db, db.transaction(), db.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"meguri {self.name}",))
            if cursor.execute(f"SELECT 1 FROM {self.name}_head WHERE at > %s", (at,)).fetchone():
                return False
            cursor.execute(f"DELETE FROM {self.name}")
            cursor.execute(f"DELETE FROM {self.name}_head")
            with cursor.copy(f"COPY {self.name} (key, value) FROM STDIN") as copy:
                for entry in entries:
                    copy.write_row(entry)
            cursor.execute(f"INSERT INTO {self.name}_head VALUES (%s, %s)", (head, at))
        return True

    def read(self, keys: Sequence[str]) -> Found:
        """Read the keys and the head in one statement."""
        with self._told() as db:
            return _found(db.execute(_read(self.name, len(keys), "%s"), keys, prepare=True).fetchall(), keys)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._db is not None:
                self._db.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[Any]:
        """The connection, opened anew when the server has let it go."""
        psycopg = need("psycopg")
        try:
            with self._lock:
                if self._db is None or self._db.broken:
                    self._db = psycopg.connect(self.url, autocommit=True)
                    weakref.finalize(self, self._db.close)
                yield self._db
        except psycopg.Error as error:
            text = redact(str(error).strip().splitlines()[0])
            what = f"the online table cannot be used: {text}"
            raise DataError(
                what, where=redact(self.url), fix="see that the server runs and lets this user in"
            ) from None
