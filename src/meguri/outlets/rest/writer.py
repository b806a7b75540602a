"""Answers written to the ledger before they leave: what gathers while one commit is on its way goes with the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from meguri.base.errors import LedgerError
from meguri.record.served import pack

if TYPE_CHECKING:
    from meguri.record.ledger import Ledger
    from meguri.record.served import Served

Waiting = tuple[Sequence["Served"], asyncio.Future[None]]


class Writer:
    """One for each process, in front of its ledger: a thread commits, and the loop goes on meanwhile.

    What the ledger refuses goes to the ``spool``, where there is one, and so does what comes after it while ``spooling``:
    nobody waits again and again for a ledger that is away. ``told`` is called with how many answers a commit held.
    """

    def __init__(
        self,
        ledger: Ledger,
        loop: asyncio.AbstractEventLoop,
        *,
        told: Callable[[int], None],
        spool: Callable[[bytes, int], None] | None = None,
    ) -> None:
        self.waiting, self.written, self.spooling, self._spool = 0, 0, False, spool
        self._ledger, self._loop, self._told = ledger, loop, told
        self._gathered: list[Waiting] = []
        self._due = self._closed = False
        self._away: asyncio.Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="meguri-writer")

    def put(self, answers: Sequence[Served]) -> asyncio.Future[None]:
        """A future that is done once the answers are durable; it fails with LedgerError when they are not."""
        if self._closed:
            raise LedgerError("the service is stopping", fix="ask again, elsewhere")
        future: asyncio.Future[None] = self._loop.create_future()
        self.waiting += 1
        self._gathered.append((answers, future))
        if not self._due:
            self._due = True
            self._loop.call_soon(self._flush)  # after all requests that are ready now
        return future

    async def close(self) -> None:
        """Write what has gathered, and stop."""
        self._closed = True
        self._flush()
        while self._away is not None:
            await asyncio.wait([self._away])
        self._thread.shutdown()

    def _flush(self) -> None:
        self._due = False
        if self._away is not None or not self._gathered:
            return
        batch, self._gathered = self._gathered, []
        self._away = self._loop.run_in_executor(self._thread, self._write, batch)
        self._away.add_done_callback(lambda done: self._back(batch, done.exception()))

    def _back(self, batch: Sequence[Waiting], error: BaseException | None) -> None:
        self._away = None
        self._done(batch, error)
        self._flush()

    def _write(self, batch: Sequence[Waiting]) -> None:
        """All of a batch in one commit, or nothing of it."""
        answers = [served for some, _ in batch for served in some]
        packed, count = pack(answers), sum(len(served.ids) for served in answers)
        if self.spooling and self._spool is not None:
            with suppress(LedgerError):  # the spool cannot be written either: perhaps the ledger can again
                return self._spool(packed, count)
        try:
            self._ledger.write_answers(packed)
            self.written += count
            self._told(count)
        except LedgerError:
            if self._spool is None:
                raise
            self.spooling = True
            self._spool(packed, count)

    def _done(self, batch: Sequence[Waiting], error: BaseException | None) -> None:
        self.waiting -= len(batch)
        for _, future in batch:
            if future.done():  # its request has gone
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
