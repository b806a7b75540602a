"""The ledger on a PostgreSQL server: many processes write at once, every commit synced to the disk."""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from meguri.base.clock import micros
from meguri.base.errors import LedgerError
from meguri.base.extras import need
from meguri.base.redact import redact
from meguri.record import ledger_postgres_schema as schemas
from meguri.record import ledger_postgres_server as servers
from meguri.record.ledger import Event, Label, LabelCounts, Prediction
from meguri.record.ledger_inbox import SETTLED
from meguri.record.ledger_sql import PIECE, SqlLedger, clash, lines, predictions, pruning
from meguri.record.served import unpack

if TYPE_CHECKING:
    import polars as pl

T = TypeVar("T")
log = logging.getLogger("meguri.ledger")

_EVER = 2**63 - 1
_TRIES = 9  # of writers that wait for each other one goes on each time
_PREDICTION = ("id", "key", "time", "due", "made_at", "origin", "score", "answer", "unit", "abstained", "features")
_COLUMNS = ", ".join(_PREDICTION)
_ORIGIN = "release, run, outlet, arm, propensity"
_TAKEN = """
    SELECT n, answers FROM (
      SELECT n, answers, sum(octet_length(answers)) OVER (ORDER BY n) - octet_length(answers) AS before
      FROM inbox WHERE n <= %s ORDER BY n LIMIT %s) AS oldest WHERE before < %s ORDER BY n"""
_ADD_EVENTS = """
    INSERT INTO events (id, unit, at, kind, value)
    SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::double precision[])
    ON CONFLICT (id) DO NOTHING"""


class PostgresLedger(SqlLedger):
    """The ledger in the database behind ``url``, in the schema that ``?schema=`` names (default: meguri).

    Other parameters of the URL are libpq's (``sslmode``, ``target_session_attrs``, …). A connection that broke is
    opened again by the next call. When it breaks before an answer came, the call is repeated once: a write that had
    arrived already is then told as known. When that fails too, LedgerError leaves open whether it had: write it again.
    So it does when a call was given up after ``limit`` seconds, as a server that hangs breaks nothing off.
    """

    _mark = "%s"

    def __init__(self, url: str, *, limit: float | None = None) -> None:
        self.url = redact(url)
        self._place, self._schema = servers.place_of(url)
        self._lock = threading.RLock()
        self._db: Any = None
        self._forget = weakref.finalize(self, lambda: None)
        self._closed = False
        self._origins: dict[tuple[Any, ...], int] = {}
        self._limit = math.inf  # while it is opened: tables may be made
        self._do(lambda _: None)
        self._limit = math.inf if limit is None else limit

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._closed = True
            self._forget()

    # predictions and labels

    def write_predictions(self, table: pl.DataFrame) -> int:
        """Write predictions; what thousands of them share is written once."""
        import polars as pl

        from meguri.record import ledger_columns

        plain = pl.col("id").bin.encode("hex"), pl.col("score").fill_nan(None)
        given = ledger_columns.predictions(table).with_columns(plain)

        def write(db: Any) -> int:
            table = ledger_columns.numbered(given, lambda shared: self._origin(db, shared))
            with db.transaction():
                count, other = self._insert(db, list(ledger_columns.rows([table[name] for name in _PREDICTION])))
                if other is not None:
                    raise clash(other, self.url)
            return count

        self.settle()
        return self._do(write)

    def write_answers(self, packed: bytes) -> None:
        """Add one row, in a transaction of its own."""
        self._do(lambda db: db.execute("INSERT INTO inbox (answers) VALUES (%b)", (packed,)))

    def _turn(self, work: Callable[[Any], T]) -> T:
        def alone(db: Any) -> T:
            try:
                with db.transaction():
                    schemas.lock(db, self._schema, "inbox")
                    return work(db)
            except BaseException:
                self._origins.clear()  # they were undone as well
                raise

        return self._do(alone)

    def _taken(self, db: Any, last: int, *, alone: bool) -> tuple[list[bytes], bool]:
        taken = db.cursor(binary=True).execute(_TAKEN, (last, 1 if alone else 1000, SETTLED)).fetchall()
        db.execute("DELETE FROM inbox WHERE n = ANY(%s)", ([n for n, _ in taken],))
        return [packed for _, packed in taken], bool(taken)  # one with a lower number may be committed later

    def _placed(self, db: Any, texts: Sequence[bytes]) -> int:
        try:
            rows = [row for packed in texts for row in unpack(packed)]
            number = {origin: self._origin(db, origin) for origin in {row[5] for row in rows}}
            rows = [(*row[:5], number[row[5]], *row[6:]) for row in rows]
            if rows and (other := self._insert(db, rows)[1]) is not None:
                log.error("%s; the first stays", clash(other, self.url))
        except BaseException:
            self._origins.clear()
            raise
        return len(rows)

    def _refused(self, error: Exception) -> bool:
        return servers.refused(error)

    def _insert(self, db: Any, rows: Sequence[tuple[Any, ...]]) -> tuple[int, Any]:
        """Add those of the predictions that are not there yet: how many; and the id of one that says something else.

        As a rule all are new, and one COPY will do.
        """
        try:
            with db.transaction():
                _copy(db, f"predictions ({_COLUMNS})", rows)
            return len(rows), None
        except need("psycopg.errors").UniqueViolation:
            pass  # some ids were there already: fine, when they say the same
        with db.transaction():
            db.execute(schemas.GIVEN_PREDICTIONS)
            _copy(db, f"given_predictions ({_COLUMNS})", rows)
            add = f"INSERT INTO predictions ({_COLUMNS}) SELECT {_COLUMNS} FROM given_predictions ORDER BY row"
            count = db.execute(f"{add} ON CONFLICT (id) DO NOTHING").rowcount
            same = " AND ".join(f"p.{name} IS NOT DISTINCT FROM g.{name}" for name in _PREDICTION[1:])
            other = db.execute(f"""SELECT g.id FROM given_predictions g JOIN predictions p ON p.id = g.id
                                   WHERE NOT ({same}) LIMIT 1""").fetchone()
        return int(count), other and other[0]

    def _origin(self, db: Any, row: tuple[Any, ...]) -> int:
        """The number of what predictions share, counting from 1; it stays, so that it need not be asked again."""
        row = (*row[:4], _number(row[4]))
        if row not in self._origins:
            find = f"SELECT n FROM origins WHERE ({_ORIGIN}) IS NOT DISTINCT FROM (%s, %s, %s, %s, %s)"
            with db.transaction():
                schemas.lock(db, self._schema, "origins")
                found = db.execute(find, row).fetchone()
                if not found:
                    add = f"INSERT INTO origins (n, {_ORIGIN}) SELECT count(*) + 1, %s, %s, %s, %s, %s FROM origins"
                    found = db.execute(f"{add} RETURNING n", row).fetchone()
            self._origins[row] = int(found[0])
        return self._origins[row]

    def write_labels(self, labels: Iterable[Label]) -> LabelCounts:
        """Write labels beside the ones that are there, one writer at a time."""
        by_id, by_key = lines(labels)
        rows = [
            (row, at, source, round, id, key, *((None, value) if isinstance(value, str) else (value, None)))
            for some in (by_id, by_key)
            for row, at, value, source, round, name in some
            for id, key in [(name.hex(), None) if isinstance(name, bytes) else (None, name)]
        ]
        self.settle()

        def write(db: Any) -> LabelCounts:
            with db.transaction():
                schemas.lock(db, self._schema, "labels")
                db.execute(schemas.GIVEN_LABELS)
                _copy(db, "given_labels (row, known_at, source, round, id, key, number, text)", rows)
                for what in [*(["id"] if by_id else []), *(["key"] if by_key else [])]:
                    db.execute(f"""INSERT INTO matched SELECT g.row, p.n, g.known_at, g.source, g.round, g.number, g.text
                                   FROM given_labels g JOIN predictions p ON p.{what} = g.{what}""")
                sql = "SELECT count(*), count(DISTINCT row), coalesce(max(round), 0) FROM matched"
                pairs, met, last = db.execute(sql).fetchone()
                new = db.execute("DELETE FROM awaiting WHERE prediction IN (SELECT prediction FROM matched)").rowcount
                stored = sum(db.execute(schemas.ADD_LABELS, (number,)).rowcount for number in range(last + 1))
            return LabelCounts(new=new, same=pairs - stored, corrected=stored - new, unmatched=len(rows) - met)

        return self._do(write)

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
        """Read predictions and labels by a cursor of the server's, in pieces."""
        at = micros(as_of)
        bounds = {"p.time >= %s": since, "p.time < %s": until}
        window = {clause: micros(bound) for clause, bound in bounds.items() if bound is not None}

        def chosen(origins: Sequence[Any]) -> list[int]:
            return [n for n, r, _, o, *_ in origins if outlet in (None, o) and release in (None, r)]

        from meguri.record import ledger_columns

        which = chosen if (outlet, release) != (None, None) else None
        make = partial(ledger_columns.joined, features=features)
        where = ["p.due <= %s", "p.made_at <= %s", *window]
        return self._read(make, where, [at, at, *window.values()], at, window=window, chosen=which, features=features)

    def find(self, name: str) -> list[Prediction]:
        """Look in the indexes of ids and keys."""
        try:
            id = UUID(name)
        except ValueError:
            id = None
        return self._read(predictions, ["(p.id = %s OR p.key = %s)"], [id, name], _EVER, features=True)

    def queue(self, *, limit: int) -> list[Prediction]:
        """Look in the small index of the abstained."""
        some = """p.n IN (SELECT n FROM predictions q WHERE abstained
                          AND EXISTS (SELECT FROM awaiting WHERE prediction = q.n) ORDER BY n LIMIT %s)"""
        return self._read(predictions, [some], [limit], _EVER, features=True)

    def _read(
        self,
        make: Callable[[Iterator[Any], Sequence[Any]], T],
        where: Sequence[str],
        values: Sequence[Any],
        as_of: int,
        *,
        window: Mapping[str, int] = MappingProxyType({}),
        chosen: Callable[[Sequence[Any]], list[int]] | None = None,
        features: bool,
    ) -> T:
        """What ``make`` gives for the rows of predictions and labels, and for what predictions share."""
        self.settle()
        wanted = "p.score, p.answer, p.unit, p.abstained::int" + (", p.features" if features else "")

        def read(db: Any) -> T:
            with db.transaction():  # one look at all three tables
                db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                db.execute("SET LOCAL cursor_tuple_fraction = 1")  # all rows are wanted, not the first ones soon
                origins = db.execute(f"SELECT n, {_ORIGIN} FROM origins ORDER BY n").fetchall()
                clauses, bound, ends = list(where), list(values), (1, _EVER)
                if (
                    window
                ):  # what one window holds was written about together: then both tables are read from there to there
                    # The sum keeps the planner from walking along the index of n until a row fits.
                    span = f"SELECT min(n + 0), max(n + 0) FROM predictions p WHERE {' AND '.join(window)}"
                    ends = db.execute(span, list(window.values())).fetchone()
                if chosen:
                    clauses.append("p.origin = ANY(%s)")
                    bound.append(chosen(origins))
                sql = f"""SELECT uuid_send(p.id), p.key, p.time, p.due, p.made_at, p.origin, {wanted},
                                 l.number, l.text, l.known_at, l.source
                          FROM predictions p LEFT JOIN labels l
                            ON l.prediction = p.n AND l.prediction BETWEEN %s AND %s AND l.known_at <= %s
                          WHERE p.n BETWEEN %s AND %s AND {" AND ".join(clauses)}
                          ORDER BY p.n, l.known_at, l.version"""
                with db.cursor("joined", binary=True) as cursor:
                    cursor.itersize = PIECE
                    cursor.execute(sql, [*ends, as_of, *ends, *bound])
                    return make(_labelled(cursor), origins)

        return self._do(read)

    # events, and the small tables

    def write_events(self, events: Sequence[Event]) -> int:
        """Add events; one whose id is there already is not added again."""
        rows = [(e.id, e.unit, micros(e.at), e.kind, float(e.value)) for e in events]
        columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * 5
        return self._do(lambda db: int(db.execute(_ADD_EVENTS, columns).rowcount))

    def _add(self, table: str, columns: str, row: Sequence[Any]) -> None:
        """Add a row, unless it is the last one: then an earlier try had arrived."""

        def write(db: Any) -> None:
            with db.transaction():
                schemas.lock(db, self._schema, table)
                last = db.execute(f"SELECT {columns} FROM {table} ORDER BY n DESC LIMIT 1").fetchone()
                if last != tuple(row):
                    marks = ", ".join(["%s"] * len(row))
                    db.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", row)

        self._do(write)

    def _all(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        return self._do(lambda db: list(db.execute(sql.replace("?", "%s"), values).fetchall()))

    def prune(self, before: datetime, *, awaited: bool = True) -> int:
        """Delete in one transaction, which tells the triggers that it may; the space goes to what is written next."""

        self.settle()

        def write(db: Any) -> int:
            with db.transaction():
                schemas.lock(db, self._schema, "labels")  # none may come meanwhile for what goes
                db.execute("SET LOCAL meguri.prune = 'on'")
                deleted = [
                    db.execute(sql.replace("?", "%s"), (micros(before),)).rowcount for sql in pruning(awaited=awaited)
                ]
                return int(deleted[-1])

        return self._do(write)

    # the connection

    def _do(self, work: Callable[[Any], T]) -> T:
        """What the work gives, which is done again when the connection broke or two writers waited for each other."""
        psycopg, tries, end = need("psycopg"), 0, time.monotonic() + self._limit
        if not self._lock.acquire(timeout=min(self._limit, threading.TIMEOUT_MAX)):
            raise LedgerError("another call to the ledger has not ended yet", where=self.url, fix=servers.FIX)
        try:
            while True:
                try:
                    return work(self._connected(end))
                except LedgerError as error:
                    error.where = error.where or self.url
                    raise
                except psycopg.Error as error:
                    tries += 1
                    broken = self._db is not None and (self._db.closed or (error.sqlstate or "").startswith("57P"))
                    if broken:
                        self._forget()
                        self._db = None
                    met = isinstance(error, psycopg.errors.DeadlockDetected)
                    again = (broken and tries == 1) or (met and tries < _TRIES)
                    if not again or time.monotonic() >= end:
                        raise servers.explained(
                            error, self._place, self.url
                        ) from None  # its own text may hold the password
        finally:
            self._lock.release()

    def _connected(self, end: float) -> Any:
        if self._closed:
            raise LedgerError("the ledger is closed", where=self.url, fix="open it again")
        if self._db is None:
            self._origins.clear()  # another server may have taken over, which never got the last ones
            place, left = self._place, end - time.monotonic()
            if left < (place["connect_timeout"] or math.inf):  # 0 is libpq's word for no limit
                place = place | {"connect_timeout": max(1, math.ceil(left))}
            db = servers.connection().connect(**place, autocommit=True)
            db.end = end
            try:
                schemas.prepare(db, self._schema)
            except BaseException:
                db.close()
                raise
            self._db, self._forget = db, weakref.finalize(self, db.close)  # for those who forget to close
        self._db.end = end
        return self._db


def _copy(db: Any, into: str, rows: Iterable[tuple[Any, ...]]) -> None:
    with db.cursor().copy(f"COPY {into} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _number(value: float | None) -> float | None:
    """SQLite keeps what is no number as null, and so does this ledger."""
    return None if value is None or math.isnan(value) else value


def _labelled(cursor: Any) -> Iterator[tuple[Any, ...]]:
    """Rows whose label is a number or a text, from rows that have a column for each."""
    for row in cursor:
        number, text = row[-4:-2]
        yield (*row[:-4], number if text is None else text, *row[-2:])
