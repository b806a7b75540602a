"""The tables of the ledger on PostgreSQL, one migration for each version of them."""

from __future__ import annotations

from typing import Any

from meguri.base.errors import LedgerError

# Moments are microseconds since 1970 UTC, as in SQLite's ledger. A prediction's `n` comes from a sequence: what was
# acknowledged before another write began has the lower one. No foreign keys: their check for each row would cost more
# than the row, and only this class writes. A BRIN index on the time is a hundredth of a B-tree, for predictions come
# about in the order of time. `awaiting` holds the predictions without a label, filled by a trigger for whole statements.
_ONLY_GROW = ("origins", "predictions", "labels", "events", "experiments", "rollouts", "gate_uses", "turns")
_FIRST = (
    "CREATE TABLE ledger_version (version integer PRIMARY KEY)",
    """CREATE TABLE origins (
         n integer PRIMARY KEY, release text NOT NULL, run text, outlet text NOT NULL, arm text,
         propensity double precision)""",
    """CREATE TABLE predictions (
         n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id uuid NOT NULL, key text NOT NULL, time bigint NOT NULL,
         due bigint NOT NULL, made_at bigint NOT NULL, origin integer NOT NULL, score double precision, answer text,
         unit text, abstained boolean, features text)""",
    "CREATE UNIQUE INDEX predictions_id ON predictions (id)",
    "CREATE INDEX predictions_key ON predictions (key)",
    "CREATE INDEX predictions_time ON predictions USING brin (time) WITH (autosummarize = on)",
    "CREATE INDEX predictions_abstained ON predictions (n) WHERE abstained",
    """CREATE TABLE labels (
         prediction bigint NOT NULL, known_at bigint NOT NULL, version integer NOT NULL, number double precision,
         text text, source text NOT NULL, PRIMARY KEY (prediction, known_at, version),
         CHECK (num_nonnulls(number, text) = 1))""",
    "CREATE INDEX labels_known_at ON labels (known_at)",
    """CREATE TABLE awaiting (
         prediction bigint PRIMARY KEY, time bigint NOT NULL, due bigint NOT NULL, made_at bigint NOT NULL)""",
    """CREATE TABLE events (
         n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text NOT NULL UNIQUE, unit text NOT NULL,
         at bigint NOT NULL, kind text NOT NULL, value double precision NOT NULL CHECK (value <> 'NaN'))""",
    "CREATE INDEX events_at ON events (at)",
    """CREATE TABLE experiments (
         n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text NOT NULL, at bigint NOT NULL, outlet text NOT NULL,
         status text NOT NULL, detail text NOT NULL)""",
    """CREATE TABLE rollouts (
         n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, outlet text NOT NULL, champion text NOT NULL,
         challengers text NOT NULL, shadow text NOT NULL, at bigint NOT NULL, why text NOT NULL, by text NOT NULL,
         back boolean NOT NULL)""",
    """CREATE TABLE gate_uses (
         n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at bigint NOT NULL, run text NOT NULL,
         test_version text NOT NULL, since bigint NOT NULL, until bigint NOT NULL, rows bigint NOT NULL,
         metric text NOT NULL, result text NOT NULL)""",
    """CREATE TABLE turns (
         n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text NOT NULL, at bigint NOT NULL, reason text NOT NULL,
         status text NOT NULL, verdict text, release text, seconds double precision, detail text NOT NULL)""",
    """CREATE FUNCTION await_predictions() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
       BEGIN
         INSERT INTO awaiting SELECT n, time, due, made_at FROM written;
         RETURN NULL;
       END $$""",
    """CREATE TRIGGER predictions_await AFTER INSERT ON predictions REFERENCING NEW TABLE AS written
       FOR EACH STATEMENT EXECUTE FUNCTION await_predictions()""",
    """CREATE FUNCTION only_grow() RETURNS trigger LANGUAGE plpgsql AS $$
       BEGIN
         IF TG_OP = 'DELETE' AND current_setting('meguri.prune', true) = 'on' THEN
           RETURN NULL;
         END IF;
         RAISE EXCEPTION '% only grow', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
       END $$""",
    *(
        f"""CREATE TRIGGER {table}_only_grow BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION only_grow()"""
        for table in _ONLY_GROW
    ),
)

# Answers as a service wrote them, which `settle` moves to the predictions; compressing what goes soon would be in vain.
_INBOX = (
    "CREATE TABLE inbox (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, answers bytea NOT NULL)",
    "ALTER TABLE inbox ALTER COLUMN answers SET STORAGE EXTERNAL",
)

# What of it cannot be settled, for a person.
_ASIDE = (
    """CREATE TABLE aside (
         n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at bigint NOT NULL, reason text NOT NULL,
         answers bytea NOT NULL)""",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST, _INBOX, _ASIDE)

# What stays of a session's own while it writes.
GIVEN_PREDICTIONS = """
    CREATE TEMP TABLE IF NOT EXISTS given_predictions (
      row bigint GENERATED ALWAYS AS IDENTITY, id uuid, key text, time bigint, due bigint, made_at bigint,
      origin integer, score double precision, answer text, unit text, abstained boolean, features text)
    ON COMMIT DELETE ROWS"""
GIVEN_LABELS = """
    CREATE TEMP TABLE IF NOT EXISTS given_labels (
      row bigint, known_at bigint, source text, round integer, id uuid, key text, number double precision, text text)
    ON COMMIT DELETE ROWS;
    CREATE TEMP TABLE IF NOT EXISTS matched (
      row bigint, prediction bigint, known_at bigint, source text, round integer, number double precision, text text)
    ON COMMIT DELETE ROWS"""
# A label is written unless it was before, or says what is in force at its moment, or what "time" said last.
ADD_LABELS = """
    INSERT INTO labels (prediction, known_at, version, number, text, source)
    SELECT m.prediction, m.known_at, l.count + 1, m.number, m.text, m.source
    FROM matched m, LATERAL (
      SELECT count(*) AS count,
             bool_or(known_at = m.known_at AND source = m.source
                     AND (number, text) IS NOT DISTINCT FROM (m.number, m.text)) AS written,
             (array_agg(ROW(number, text) ORDER BY known_at DESC, version DESC)
               FILTER (WHERE known_at <= m.known_at))[1] AS in_force,
             (array_agg(ROW(number, text) ORDER BY known_at DESC, version DESC)
               FILTER (WHERE known_at <= m.known_at AND source = 'time'))[1] AS told
      FROM labels WHERE prediction = m.prediction) l
    WHERE m.round = %s AND l.written IS NOT TRUE AND l.in_force IS DISTINCT FROM ROW(m.number, m.text)
      AND (m.source <> 'time' OR l.told IS DISTINCT FROM ROW(m.number, m.text))
    ORDER BY m.prediction"""

_SETTINGS = """
    SELECT set_config('search_path', %s, false), set_config('client_min_messages', 'warning', false),
           CASE WHEN current_setting('synchronous_commit') = 'off' THEN set_config('synchronous_commit', 'on', false) END"""
_STATE = """
    SELECT to_regclass('ledger_version') IS NOT NULL,
           EXISTS (SELECT FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace WHERE s.nspname = %s),
           EXISTS (SELECT FROM pg_namespace WHERE nspname = %s)"""


def quoted(name: str) -> str:
    """A name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def lock(db: Any, schema: str, what: str) -> None:
    """Wait until this transaction alone holds the ledger's lock of that name."""
    db.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"meguri {what} {schema}",))


def prepare(db: Any, schema: str) -> None:
    """Set a fresh connection to the schema, and bring the tables in it up to date.

    Raises LedgerError for a schema that holds something else or was made by a newer Meguri.
    """
    db.execute(_SETTINGS, (quoted(schema),))
    if _version(db, schema) == len(MIGRATIONS):
        return
    with db.transaction():
        lock(db, schema, "tables")
        found = _version(db, schema)
        if not db.execute(_STATE, (schema, schema)).fetchone()[2]:
            db.execute(f"CREATE SCHEMA {quoted(schema)}")
        for number, steps in enumerate(MIGRATIONS[found:], start=found + 1):
            for step in steps:
                db.execute(step)
            db.execute("INSERT INTO ledger_version VALUES (%s)", (number,))


def _version(db: Any, schema: str) -> int:
    made, filled, _ = db.execute(_STATE, (schema, schema)).fetchone()
    if not made:
        if filled:
            what = f"the schema '{schema}' is no ledger of Meguri"
            raise LedgerError(what, fix="give the ledger a schema of its own: ?schema=name at the end of its URL")
        return 0
    found = int(db.execute("SELECT coalesce(max(version), 0) FROM ledger_version").fetchone()[0])
    if found > len(MIGRATIONS):
        what = f"this ledger has version {found}, and this Meguri knows versions up to {len(MIGRATIONS)}"
        raise LedgerError(what, fix="upgrade meguri: pip install -U meguri")
    return found
