"""The ledger: predictions, labels, rollouts, gate uses and turns, each written once and never changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from meguri.base import plugins
from meguri.base.errors import SettingsError
from meguri.base.redact import redact

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Rollout:
    """Which releases are live in an outlet from ``at`` on: challengers by their share of the traffic, shadows unseen.

    ``back`` says that it was made by going back to an earlier champion.
    """

    outlet: str
    champion: str
    challengers: Mapping[str, float] = field(default_factory=dict)
    shadow: tuple[str, ...] = ()
    at: datetime = field(kw_only=True)
    why: str = field(kw_only=True)
    by: str = field(kw_only=True)
    back: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class GateUse:
    """One use of a test set by a gate: its rows lie in [since, until)."""

    at: datetime
    run: str
    test_version: str
    since: datetime
    until: datetime
    rows: int
    metric: str
    result: str


@dataclass(frozen=True)
class TurnRecord:
    """The state of a turn; written again with the same ``id`` (the run's) it is the turn's newer state."""

    id: str
    at: datetime
    reason: str
    status: str
    verdict: str | None = None
    release: str | None = None
    seconds: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """The state of an A/B test in an outlet; written again with the same ``id`` it is the test's newer state.

    ``detail`` says what was settled at the start, and what was read at the latest look.
    """

    id: str
    at: datetime
    outlet: str
    status: str
    detail: Mapping[str, Any] = field(default_factory=dict)


class Label(NamedTuple):
    """What really happened: of the prediction with that ``prediction_id``, or else of all with that ``key``.

    ``value`` is a number (a boolean as 0 and 1) or a text, null or NaN where there is none; ``source`` is "time" or a
    person's name.
    """

    value: float | str | None
    known_at: datetime
    source: str
    key: str | None = None
    prediction_id: str | None = None


class Prediction(NamedTuple):
    """A prediction as it was written, and the latest label that is known of it, if any; ``features`` is JSON text."""

    prediction_id: str
    key: str
    time: datetime
    due: datetime
    made_at: datetime
    release: str
    run: str | None
    outlet: str
    arm: str | None
    propensity: float | None
    score: float | None
    answer: str | None
    unit: str | None
    abstained: bool | None
    features: str | None
    label: float | str | None
    label_at: datetime | None
    source: str | None


class Aside(NamedTuple):
    """Answers of a service that could not be settled, as they were written; ``n`` is the row's number in the table ``aside``."""

    n: int
    at: datetime
    reason: str
    answers: bytes


@dataclass(frozen=True)
class Old:
    """What a ledger has from before a moment: predictions that were due then, of which ``awaited`` have no label yet, labels, events."""

    predictions: int
    awaited: int
    labels: int
    events: int


@dataclass(frozen=True)
class LabelCounts:
    """What became of written labels, counted by prediction; ``unmatched`` counts rows that met no prediction.

    ``new`` + ``corrected`` labels were stored; ``same`` ones said nothing new.
    """

    new: int = 0
    same: int = 0
    corrected: int = 0
    unmatched: int = 0


@dataclass(frozen=True)
class Event:
    """What a ``unit`` did after it had its answer (``kind``: click, leave, buy …), with a ``value`` such as money.

    ``id`` is the sender's own: the same event sent again counts once.
    """

    id: str
    unit: str
    at: datetime
    kind: str
    value: float = 1.0


@dataclass(frozen=True)
class Awaited:
    """How many predictions have no label yet, and the earliest ``time`` among them."""

    count: int
    oldest: datetime | None = None


# scheme of the URL -> the class that keeps such a ledger: in a file by its path, on a server by the URL
LEDGERS = {
    "sqlite": "meguri.record.ledger_sqlite:SqliteLedger",
    "postgres": "meguri.record.ledger_postgres:PostgresLedger",
    "postgresql": "meguri.record.ledger_postgres:PostgresLedger",
}


class Ledger(Protocol):
    """The memory of the loop.

    Every write is one transaction: when the call returns, what it wrote survives a crash; when it raises LedgerError,
    nothing of it was written. Nothing is ever changed, and nothing deleted but by ``prune``. Writing the same again changes nothing, so a caller
    that died before the answer came may simply repeat. Threads may share a ledger; processes open one each.
    ``as_of`` shows the ledger as it was at that moment: predictions made until then, labels known until then.
    """

    def write_predictions(self, table: pl.DataFrame) -> int:
        """Write predictions and return how many of them were not there yet.

        Columns: prediction_id (UUID as text), key, time, due, made_at, release, outlet; and, null or left out where
        there is none, run, arm, propensity (the chance that the unit met this release), score (number), answer (text),
        unit (who is answered), abstained (left to a person), features (JSON text).
        Raises LedgerError, also for a known id with another content.
        """

    def write_answers(self, packed: bytes) -> None:
        """Write the answers of a service, made by ``served.pack``: as they are, to be settled later.

        That takes a tenth of what a place among the predictions costs. Every call that reads or labels predictions
        settles them first, so that nobody sees the difference. Of two answers with one id the first counts.
        """

    def settle(self, most: int | None = None) -> int:
        """Give answers that were written as they are their place among the predictions, all or about ``most``; how many.

        What its own data keeps from that (a damaged text, a value that the database refuses) is set aside, and the others are
        settled. A full disk, another process or a server that is away sets nothing aside: that raises LedgerError.
        """

    def aside(self) -> list[Aside]:
        """What was set aside, oldest first: it is kept for a person, and not tried again."""

    def retry_aside(self) -> int:
        """Settle what was set aside, once what kept it from that is mended; how many rows were tried.

        What still cannot be settled is set aside again.
        """

    def write_events(self, events: Sequence[Event]) -> int:
        """Write what units did and return how many of the events were not there yet."""

    def events(self, *, since: datetime, until: datetime, kind: str | None = None) -> pl.DataFrame:
        """The events with ``at`` in [since, until), in order of time: id, unit, at, kind, value."""

    def write_labels(self, labels: Iterable[Label]) -> LabelCounts:
        """Write what really happened, in the order given, those by prediction id before those by key; one without a value is left out.

        A frame's are made by ``ledger_columns.labels``. A label is new information unless it was written already or its value is the one in force at its known_at. What
        comes from "time" is read again and again, so that it says the same once more does not overrule a person.
        """

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
        """Matured predictions (due and made by ``as_of``) with ``time`` in [since, until), in the order of writing.

        Columns: those of write_predictions (features only when asked for), then label, label_at, source: the label
        with the latest known_at by ``as_of``, null when none has come. label is a number, or text when any is text.
        """

    def keys(self, *, since: datetime, until: datetime, outlet: str | None = None) -> list[str]:
        """The keys of the predictions with ``time`` in [since, until): what need not be predicted again."""

    def find(self, name: str) -> list[Prediction]:
        """The predictions with that prediction id or that key, matured or not, in the order of writing.

        ``ledger_columns.table`` makes a frame of them, as ``joined`` gives it.
        """

    def queue(self, *, limit: int) -> list[Prediction]:
        """The abstained predictions that nobody has decided yet (they have no label), oldest first."""

    def made(self) -> pl.DataFrame:
        """How many predictions were made from what: release, run, outlet, arm, count, and since and until, the ends of their times."""

    def awaited(self, *, as_of: datetime, due_by: datetime | None = None) -> Awaited:
        """The predictions, due by ``due_by`` when it is given, that have no label at ``as_of``."""

    def count_labels(self, *, since: datetime | None, as_of: datetime) -> int:
        """How many distinct predictions got a label, or a corrected one, with known_at in (since, as_of]."""

    def count_predictions(self, *, since: datetime, until: datetime) -> int:
        """How many predictions with ``time`` in [since, until) were given as an answer; shadows answer nobody."""

    def write_rollout(self, rollout: Rollout) -> None:
        """Add a rollout to its outlet's history."""

    def rollouts(self, outlet: str | None = None) -> list[Rollout]:
        """All rollouts, or one outlet's, oldest first."""

    def write_gate_use(self, use: GateUse) -> None:
        """Add a use of a test set."""

    def gate_uses(self) -> list[GateUse]:
        """All uses of test sets, oldest first."""

    def assigned(self, *, outlet: str, since: datetime, as_of: datetime) -> pl.DataFrame:
        """Who was answered by which release, from ``since`` to ``as_of``: unit, release, arm, since (the first answer), count.

        A unit has a row for each release that answered it; shadows answer nobody.
        """

    def write_experiment(self, experiment: Experiment) -> None:
        """Add an A/B test, or its newer state."""

    def experiments(self) -> list[Experiment]:
        """The latest state of every A/B test, in the order in which they began."""

    def write_turn(self, turn: TurnRecord) -> None:
        """Add a turn, or its newer state."""

    def turns(self) -> list[TurnRecord]:
        """The latest state of every turn, in the order in which they began."""

    def old(self, before: datetime) -> Old:
        """How much there is from before that moment: what ``prune`` would delete."""

    def prune(self, before: datetime, *, awaited: bool = True) -> int:
        """Delete the predictions due before that moment with their labels, and the events; return how many predictions.

        With ``awaited=False`` those that have no label yet stay. Rollouts, gate uses and turns stay. A prediction that is
        written again afterwards is a new one.
        """

    def close(self) -> None:
        """Let go of the store; closing again does nothing."""


def open_ledger(url: str, *, limit: float | None = None) -> Ledger:
    """The ledger at ``url``, made when it is not there: ``sqlite:///outputs/ledger.db``, or four slashes for an absolute path.

    Or on a PostgreSQL server: ``postgres://user:password@host:5432/database``, where ``?schema=name`` keeps several apart.
    After ``limit`` seconds a call is given up with a LedgerError: on a server when it has not ended (None: it may take as long
    as it needs; opening always may), on a file when another process still writes to it (None: 30).
    Raises SettingsError for a URL that is none, LedgerError when the store cannot be opened.
    """
    scheme, _, rest = url.partition("://")
    file = scheme == "sqlite"
    if scheme not in LEDGERS or not rest.strip("/") or (file and not rest.startswith("/")):
        fix = "write sqlite:///outputs/ledger.db or postgres://user:password@host:5432/database"
        raise SettingsError(f"'{redact(url)}' is no ledger", where="ledger", fix=fix)
    kind = plugins.load(LEDGERS[scheme])
    opened: Ledger = kind(Path(rest[1:]) if file else url, limit=limit)
    return opened
