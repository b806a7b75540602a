"""The inbox of the ledgers in SQL databases: answers as services wrote them become predictions, and what cannot is set aside."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeVar

from meguri.base import clock
from meguri.base.clock import from_micros, micros
from meguri.record.ledger import Aside

T = TypeVar("T")
log = logging.getLogger("meguri.ledger")

SETTLED = 2**16  # bytes of answers that are settled in one transaction, about two hundred: others wait for it
ALONE = 1000  # rows at most that are tried one by one: another process may have set the damaged one aside meanwhile
REASON = 500  # characters
# What Python raises for a text that no service wrote, before the database sees it.
_PYTHON = (ValueError, TypeError, AttributeError, LookupError, OverflowError)


class _DamagedError(Exception):
    """A batch has a row whose own data keeps it from its place; nothing of the batch was moved."""


class _Moved(NamedTuple):
    rows: int
    more: bool  # rows may be left
    damage: str | None = None  # the type of the error for which the row was set aside


class Inbox:
    """Settles by what a database gives: ``_turn``, ``_taken``, ``_placed`` and ``_refused``. What the inbox holds is moved
    in batches; only after one has failed by its data is it tried row by row, each in a transaction of its own."""

    _mark: ClassVar[str] = "?"
    _pause: ClassVar[float] = 0.0  # seconds between two transactions

    def _all(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows that a statement gives, its values marked by ``?``."""
        raise NotImplementedError

    def _turn(self, work: Callable[[Any], T]) -> T:
        """What the work gives in one transaction, during which no other process settles."""
        raise NotImplementedError

    def _taken(self, db: Any, last: int, *, alone: bool) -> tuple[list[bytes], bool]:
        """Take the oldest rows up to number ``last`` out of the inbox, or the oldest ``alone``; and whether more may be left."""
        raise NotImplementedError

    def _placed(self, db: Any, texts: Sequence[bytes]) -> int:
        """Write texts of ``served.pack`` to the predictions; how many predictions they held."""
        raise NotImplementedError

    def _refused(self, error: Exception) -> bool:
        """Whether the database says by this error that the data is at fault, not the disk, the connection or another process."""
        raise NotImplementedError

    def settle(self, most: int | None = None) -> int:
        """Move answers in transactions of some hundred, one process at a time."""
        last, count, alone, begun = self._all("SELECT max(n) FROM inbox")[0][0], 0, 0, False
        while last is not None and (most is None or count < most):
            if begun and self._pause:
                time.sleep(self._pause)
            begun = True
            try:
                moved = self._turn(partial(self._moved, last=last, alone=alone > 0))
            except _DamagedError:
                alone = ALONE
                continue
            count += moved.rows
            alone = max(alone - 1, 0)
            if moved.damage is not None:
                alone = 0
                log.error("answers that cannot be settled were set aside (%s): meguri ledger aside", moved.damage)
            if not moved.more:
                break
        return count

    def _moved(self, db: Any, last: int, *, alone: bool) -> _Moved:
        taken, more = self._taken(db, last, alone=alone)
        if not taken:
            return _Moved(0, more=False)
        if alone:
            db.execute("SAVEPOINT alone")
        try:
            return _Moved(self._placed(db, taken), more)
        except Exception as error:
            if not isinstance(error, _PYTHON) and not self._refused(error):
                raise
            if not alone:
                raise _DamagedError from error
            why = error
        db.execute("ROLLBACK TO SAVEPOINT alone")
        what = (str(why).strip().splitlines() or [""])[0]
        row = (taken[0], f"{type(why).__name__}: {what}"[:REASON].replace("\0", ""), micros(clock.now()))
        db.execute("INSERT INTO aside (answers, reason, at) VALUES (?, ?, ?)".replace("?", self._mark), row)
        return _Moved(0, more, type(why).__name__)

    def aside(self) -> list[Aside]:
        """Read what was set aside, oldest first."""
        rows = self._all("SELECT n, at, reason, answers FROM aside ORDER BY n")
        return [Aside(n, from_micros(at), reason, bytes(answers)) for n, at, reason, answers in rows]

    def retry_aside(self) -> int:
        """Put what was set aside back into the inbox, and settle."""

        def back(db: Any) -> int:
            db.execute("INSERT INTO inbox (answers) SELECT answers FROM aside ORDER BY n")
            return int(db.execute("DELETE FROM aside").rowcount)

        count = self._turn(back)
        self.settle()
        return count
