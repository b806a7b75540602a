"""What the ledgers in SQL databases have in common: the small tables, and the questions that both answer alike."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from meguri.base.clock import from_micros, micros
from meguri.base.errors import LedgerError
from meguri.record.ledger import Awaited, Experiment, GateUse, Label, Old, Prediction, Rollout, TurnRecord
from meguri.record.ledger_inbox import Inbox

if TYPE_CHECKING:
    import polars as pl

# The predictions whose first label came after `as_of` were still awaited then.
_AWAITED = """
    SELECT count(*), min(time) FROM (
      SELECT time FROM awaiting WHERE made_at <= ? AND due <= ?
      UNION ALL
      SELECT time FROM predictions p WHERE made_at <= ? AND due <= ?
         AND n IN (SELECT prediction FROM labels WHERE known_at > ?)
         AND NOT EXISTS (SELECT 1 FROM labels WHERE prediction = p.n AND known_at <= ?)) AS waiting"""
_MADE = """
    SELECT release, run, outlet, arm, count, since, until FROM origins
    JOIN (SELECT origin, count(*) AS count, min(time) AS since, max(time) AS until
          FROM predictions GROUP BY origin) AS made ON origin = n ORDER BY n"""


_OLD = """
    SELECT (SELECT count(*) FROM predictions WHERE due < ?), (SELECT count(*) FROM awaiting WHERE due < ?),
           (SELECT count(*) FROM labels WHERE prediction IN (SELECT n FROM predictions WHERE due < ?)),
           (SELECT count(*) FROM events WHERE at < ?)"""


def pruning(*, awaited: bool) -> tuple[str, ...]:
    """What deletes before a moment, in this order; the predictions last, whose count is told."""
    return (
        "DELETE FROM events WHERE at < ?",
        "DELETE FROM labels WHERE prediction IN (SELECT n FROM predictions WHERE due < ?)",
        *(["DELETE FROM awaiting WHERE due < ?"] if awaited else []),
        "DELETE FROM predictions WHERE due < ? AND NOT EXISTS (SELECT 1 FROM awaiting WHERE prediction = predictions.n)",
    )


PIECE = 10_000  # rows read at a time


def clash(id: Any, where: Any) -> LedgerError:
    """The error for a prediction whose id is there already, with another content."""
    what = f"the prediction {id} is there already, and says something else"
    return LedgerError(what, where=where, fix="give every prediction an id of its own")


# A label as a database takes it: its place, known_at, value, source, round, and of whom: an id of 16 bytes, or a key.
Line = tuple[int, int, float | str, str, int, bytes | str]


def lines(labels: Iterable[Label]) -> tuple[list[Line], list[Line]]:
    """The labels that have a value, by prediction id and by key; each prediction gets one a round. Raises LedgerError."""
    found: tuple[list[Line], list[Line]] = [], []
    given = list(labels)
    begin = row = 0  # keys begin after the rounds of ids, which may have been of one of them
    for by_id, some in zip((True, False), found, strict=True):
        count: dict[bytes | str, int] = {}
        for value, known_at, source, key, id in given:
            if (id is not None) is not by_id or value is None:
                continue
            if not isinstance(value, str):
                value = float(value)  # noqa: PLW2901
                if math.isnan(value):
                    continue
            name = key if id is None else _bytes(id)
            if name is None:
                raise LedgerError("a label names neither a prediction id nor a key", fix="give one of them")
            round = count.get(name, begin)
            count[name] = round + 1
            some.append((row, micros(known_at), value, source, round, name))
            row += 1
        begin = max(count.values(), default=0)
    return found


def _bytes(id: str) -> bytes:
    try:
        found = bytes.fromhex(id.replace("-", ""))
    except ValueError:
        found = b""
    if len(found) != 16:
        raise LedgerError(f"'{id}' is no prediction id", fix="take the ids that release.predict gives")
    return found


def predictions(cursor: Iterable[Any], origins: Sequence[tuple[Any, ...]]) -> list[Prediction]:
    """What ``find`` and ``queue`` give, from a row for each label, the latest last; ``origins`` as for ``ledger_columns.joined``."""
    found: dict[bytes, Prediction] = {}
    for id, key, time, due, made_at, origin, score, answer, unit, abstained, features, label, at, source in cursor:
        release, run, outlet, arm, propensity = origins[origin - 1][1:]
        found[id] = Prediction(
            str(UUID(bytes=bytes(id))), key, from_micros(time), from_micros(due), from_micros(made_at),
            release, run, outlet, arm, propensity,
            score, answer, unit, None if abstained is None else bool(abstained), features,
            label, None if at is None else from_micros(at), source,
        )  # fmt: skip
    return list(found.values())


class SqlLedger(Inbox):
    """The part of a ledger that two more methods of a database are enough for: ``_all`` reads rows, ``_add`` adds one."""

    def _add(self, table: str, columns: str, row: Sequence[Any]) -> None:
        """Add a row in a transaction of its own."""
        raise NotImplementedError

    def _settled(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """What a statement says of all predictions."""
        self.settle()
        return self._all(sql, values)

    def keys(self, *, since: datetime, until: datetime, outlet: str | None = None) -> list[str]:
        """Read keys by an index on the time."""
        sql = "SELECT p.key FROM predictions p JOIN origins o ON o.n = p.origin WHERE p.time >= ? AND p.time < ?"
        values = [micros(since), micros(until)]
        if outlet is None:
            return [key for (key,) in self._settled(sql, values)]
        return [key for (key,) in self._settled(f"{sql} AND o.outlet = ?", [*values, outlet])]

    def made(self) -> pl.DataFrame:
        """Count in one pass over the predictions."""
        import polars as pl

        text, at = dict.fromkeys(("release", "run", "outlet", "arm"), pl.String), pl.Datetime("us", "UTC")
        schema = {**text, "count": pl.Int64, "since": pl.Int64, "until": pl.Int64}
        found = pl.DataFrame(self._settled(_MADE), schema=schema, orient="row")
        return found.with_columns(pl.col("since", "until").cast(at))

    def awaited(self, *, as_of: datetime, due_by: datetime | None = None) -> Awaited:
        """Count from the small table of the awaited, not from all predictions."""
        at, due = micros(as_of), 2**63 - 1 if due_by is None else micros(due_by)
        count, oldest = self._settled(_AWAITED, (at, due, at, due, at, at))[0]
        return Awaited(count, None if oldest is None else from_micros(oldest))

    def count_labels(self, *, since: datetime | None, as_of: datetime) -> int:
        """Count from an index."""
        start = -(2**63) if since is None else micros(since)
        sql = "SELECT count(DISTINCT prediction) FROM labels WHERE known_at > ? AND known_at <= ?"
        return int(self._all(sql, (start, micros(as_of)))[0][0])

    def count_predictions(self, *, since: datetime, until: datetime) -> int:
        """Count by an index on the time."""
        sql = """SELECT count(*) FROM predictions WHERE time >= ? AND time < ?
                 AND origin NOT IN (SELECT n FROM origins WHERE arm = 'shadow')"""
        return int(self._settled(sql, (micros(since), micros(until)))[0][0])

    def old(self, before: datetime) -> Old:
        """Count in one pass over each table."""
        return Old(*map(int, self._settled(_OLD, [micros(before)] * 4)[0]))

    def events(self, *, since: datetime, until: datetime, kind: str | None = None) -> pl.DataFrame:
        """Read events by an index on the time."""
        import polars as pl

        schema = {"id": pl.String, "unit": pl.String, "at": pl.Int64, "kind": pl.String, "value": pl.Float64}
        which, values = ("", ()) if kind is None else (" AND kind = ?", (kind,))
        sql = f"SELECT id, unit, at, kind, value FROM events WHERE at >= ? AND at < ?{which} ORDER BY at, n"
        found = pl.DataFrame(self._all(sql, (micros(since), micros(until), *values)), schema=schema, orient="row")
        return found.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))

    def write_rollout(self, rollout: Rollout) -> None:
        """Add a rollout."""
        r = rollout
        row = (r.outlet, r.champion, _json(dict(r.challengers)), _json(r.shadow), micros(r.at), r.why, r.by, r.back)
        self._add("rollouts", "outlet, champion, challengers, shadow, at, why, by, back", row)

    def rollouts(self, outlet: str | None = None) -> list[Rollout]:
        """Read rollouts, oldest first."""
        rows = self._all("SELECT outlet, champion, challengers, shadow, at, why, by, back FROM rollouts ORDER BY at, n")
        return [
            Rollout(
                name, champion, json.loads(challengers), tuple(json.loads(shadow)),
                at=from_micros(at), why=why, by=by, back=bool(back),
            )
            for name, champion, challengers, shadow, at, why, by, back in rows
            if outlet in (None, name)
        ]  # fmt: skip

    def write_gate_use(self, use: GateUse) -> None:
        """Add a gate use."""
        u = use
        row = (micros(u.at), u.run, u.test_version, micros(u.since), micros(u.until), u.rows, u.metric, u.result)
        self._add("gate_uses", "at, run, test_version, since, until, rows, metric, result", row)

    def gate_uses(self) -> list[GateUse]:
        """Read gate uses, oldest first."""
        sql = "SELECT at, run, test_version, since, until, rows, metric, result FROM gate_uses ORDER BY at, n"
        uses = self._all(sql)
        return [GateUse(from_micros(a), r, v, from_micros(s), from_micros(u), *rest) for a, r, v, s, u, *rest in uses]

    def assigned(self, *, outlet: str, since: datetime, as_of: datetime) -> pl.DataFrame:
        """Group the predictions by unit and release, in one pass."""
        import polars as pl

        schema = {"unit": pl.String, "release": pl.String, "arm": pl.String, "since": pl.Int64, "count": pl.Int64}
        sql = """SELECT p.unit, o.release, o.arm, min(p.made_at), count(*) FROM predictions p JOIN origins o ON o.n = p.origin
                 WHERE o.outlet = ? AND o.arm <> 'shadow' AND p.unit IS NOT NULL AND p.made_at >= ? AND p.made_at <= ?
                 GROUP BY p.unit, o.release, o.arm ORDER BY 4, 1, 2"""
        found = pl.DataFrame(self._settled(sql, (outlet, micros(since), micros(as_of))), schema=schema, orient="row")
        return found.with_columns(pl.col("since").cast(pl.Datetime("us", "UTC")))

    def write_experiment(self, experiment: Experiment) -> None:
        """Add a test's state."""
        e = experiment
        self._add(
            "experiments",
            "id, at, outlet, status, detail",
            (e.id, micros(e.at), e.outlet, e.status, _json(dict(e.detail))),
        )

    def experiments(self) -> list[Experiment]:
        """Read each test's latest state."""
        rows = self._all(
            """SELECT id, at, outlet, status, detail FROM experiments
               JOIN (SELECT min(n) AS began, max(n) AS newest FROM experiments GROUP BY id) AS ends ON n = newest
               ORDER BY began"""
        )
        return [
            Experiment(i, from_micros(at), outlet, status, json.loads(detail)) for i, at, outlet, status, detail in rows
        ]

    def write_turn(self, turn: TurnRecord) -> None:
        """Add a turn's state."""
        t = turn
        row = (t.id, micros(t.at), t.reason, t.status, t.verdict, t.release, t.seconds, _json(dict(t.detail)))
        self._add("turns", "id, at, reason, status, verdict, release, seconds, detail", row)

    def turns(self) -> list[TurnRecord]:
        """Read each turn's latest state."""
        rows = self._all(
            """SELECT id, at, reason, status, verdict, release, seconds, detail FROM turns
               JOIN (SELECT min(n) AS began, max(n) AS newest FROM turns GROUP BY id) AS ends ON n = newest
               ORDER BY began"""
        )
        return [
            TurnRecord(i, from_micros(at), reason, status, verdict, release, seconds, json.loads(detail))
            for i, at, reason, status, verdict, release, seconds, detail in rows
        ]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
