"""The tables of the SQLite ledger, one migration for each version of them."""

from __future__ import annotations

import sqlite3

from meguri.base.errors import LedgerError

# Moments are microseconds since 1970 UTC. A prediction's `n` counts up in the order of writing, so that labels refer to
# it in 8 bytes or less and both tables are read and joined in that order. `origins` holds once what thousands of
# predictions share. `awaiting` holds the predictions without a label: derived, and small where `predictions` is large.
_FIRST = (
    """CREATE TABLE origins (
         n INTEGER PRIMARY KEY, release TEXT NOT NULL, run TEXT, outlet TEXT NOT NULL, arm TEXT)""",
    """CREATE TABLE predictions (
         n INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE CHECK (length(id) = 16), key TEXT NOT NULL,
         time INTEGER NOT NULL, due INTEGER NOT NULL, made_at INTEGER NOT NULL,
         origin INTEGER NOT NULL REFERENCES origins, score REAL, answer TEXT, features TEXT)""",
    "CREATE INDEX predictions_key ON predictions (key)",
    "CREATE INDEX predictions_time ON predictions (time)",
    """CREATE TABLE labels (
         prediction INTEGER NOT NULL REFERENCES predictions, known_at INTEGER NOT NULL, version INTEGER NOT NULL,
         value NOT NULL, source TEXT NOT NULL, PRIMARY KEY (prediction, known_at, version)) WITHOUT ROWID""",
    "CREATE INDEX labels_known_at ON labels (known_at)",
    """CREATE TABLE awaiting (
         prediction INTEGER PRIMARY KEY REFERENCES predictions,
         time INTEGER NOT NULL, due INTEGER NOT NULL, made_at INTEGER NOT NULL)""",
    """CREATE TABLE rollouts (
         n INTEGER PRIMARY KEY, outlet TEXT NOT NULL, champion TEXT NOT NULL, challengers TEXT NOT NULL,
         shadow TEXT NOT NULL, at INTEGER NOT NULL, why TEXT NOT NULL, by TEXT NOT NULL, back INTEGER NOT NULL)""",
    """CREATE TABLE gate_uses (
         n INTEGER PRIMARY KEY, at INTEGER NOT NULL, run TEXT NOT NULL, test_version TEXT NOT NULL,
         since INTEGER NOT NULL, until INTEGER NOT NULL, rows INTEGER NOT NULL, metric TEXT NOT NULL,
         result TEXT NOT NULL)""",
    """CREATE TABLE turns (
         n INTEGER PRIMARY KEY, id TEXT NOT NULL, at INTEGER NOT NULL, reason TEXT NOT NULL, status TEXT NOT NULL,
         verdict TEXT, release TEXT, seconds REAL, detail TEXT NOT NULL)""",
    *(
        f"CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, '{table} only grow'); END"
        for table in ("origins", "predictions", "labels", "rollouts", "gate_uses", "turns")
        for verb in ("UPDATE", "DELETE")
    ),
)

# What a service adds: to whom an answer was given, with which chance by which release, and what they did then.
_SERVED = (
    "ALTER TABLE origins ADD COLUMN propensity REAL",
    "ALTER TABLE predictions ADD COLUMN unit TEXT",
    "ALTER TABLE predictions ADD COLUMN abstained INTEGER",
    """CREATE TABLE events (
         n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, unit TEXT NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL,
         value REAL NOT NULL)""",
    "CREATE INDEX events_at ON events (at)",
    """CREATE TABLE experiments (
         n INTEGER PRIMARY KEY, id TEXT NOT NULL, at INTEGER NOT NULL, outlet TEXT NOT NULL, status TEXT NOT NULL,
         detail TEXT NOT NULL)""",
    "CREATE INDEX predictions_abstained ON predictions (n) WHERE abstained = 1",
    *(
        f"CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, '{table} only grow'); END"
        for table in ("events", "experiments")
        for verb in ("UPDATE", "DELETE")
    ),
)

# Answers as a service wrote them, which `settle` moves to the predictions: a commit then touches one page or two, not ten.
_INBOX = ("CREATE TABLE inbox (n INTEGER PRIMARY KEY, answers BLOB NOT NULL)",)

# What of it cannot be settled, for a person; with a number of its own, as those of the inbox come again.
_ASIDE = (
    "CREATE TABLE aside (n INTEGER PRIMARY KEY, at INTEGER NOT NULL, reason TEXT NOT NULL, answers BLOB NOT NULL)",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST, _SERVED, _INBOX, _ASIDE)
APPLICATION = 0x4D656775  # "Megu", in the header of the file


def version(db: sqlite3.Connection) -> int:
    """The version of the tables in the file, 0 for an empty one.

    Raises LedgerError for a database that is no ledger or was made by a newer Meguri.
    """
    begun = not db.in_transaction
    if begun:
        db.execute("BEGIN")  # one look at all three: another process may make the tables meanwhile
    try:
        found = int(db.execute("PRAGMA user_version").fetchone()[0])
        application = int(db.execute("PRAGMA application_id").fetchone()[0])
        filled = db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None
    finally:
        if begun and db.in_transaction:
            db.execute("ROLLBACK")
    if application != APPLICATION and (found or filled):
        raise LedgerError("this SQLite database is no ledger of Meguri", fix="give the ledger a file of its own")
    if found > len(MIGRATIONS):
        what = f"this ledger has version {found}, and this Meguri knows versions up to {len(MIGRATIONS)}"
        raise LedgerError(what, fix="upgrade meguri: pip install -U meguri")
    return found


def migrate(db: sqlite3.Connection) -> None:
    """Bring the tables up to date, all in one transaction; the caller sees to it that only one process does this."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("BEGIN IMMEDIATE")
    try:
        for steps in MIGRATIONS[version(db) :]:
            for step in steps:
                db.execute(step)
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
