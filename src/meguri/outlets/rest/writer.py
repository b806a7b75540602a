"""Answers written to the ledger before they leave: one thread commits whatever has gathered, and then lets it all go."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from meguri.base.errors import LedgerError

if TYPE_CHECKING:
    from meguri.record.ledger import Answer, Ledger

Waiting = tuple[Sequence["Answer"], asyncio.Future[None]]


class Writer:
    """One for each process, in front of its ledger: while a commit is on its way, the answers of the next gather."""

    def __init__(self, ledger: Ledger, loop: asyncio.AbstractEventLoop, *, told: Callable[[int], None]) -> None:
        self.waiting = 0
        self._ledger, self._loop, self._told = ledger, loop, told
        self._gathered: list[Waiting] = []
        self._some = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="meguri-writer", daemon=True)
        self._thread.start()

    def put(self, answers: Sequence[Answer]) -> asyncio.Future[None]:
        """A future that is done once the answers are durable; it fails with LedgerError when they are not."""
        future: asyncio.Future[None] = self._loop.create_future()
        self.waiting += 1
        with self._some:
            if self._closed:
                raise LedgerError("the service is stopping", fix="ask again, elsewhere")
            self._gathered.append((answers, future))
            self._some.notify()
        return future

    def close(self) -> None:
        """Write what has gathered, and stop."""
        with self._some:
            self._closed = True
            self._some.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._some:
                while not self._gathered and not self._closed:
                    self._some.wait()
                batch, self._gathered = self._gathered, []
            if not batch:
                return
            errors = self._write(batch)
            self._loop.call_soon_threadsafe(self._done, batch, errors)

    def _write(self, batch: Sequence[Waiting]) -> list[Exception | None]:
        """Write a batch in one commit, all or nothing; what went wrong, for each request."""
        answers = [answer for some, _ in batch for answer in some]
        try:
            self._ledger.write_answers(answers)
            self._told(len(answers))
            return [None] * len(batch)
        except LedgerError as error:
            return [error] * len(batch)

    def _done(self, batch: Sequence[Waiting], errors: Sequence[Exception | None]) -> None:
        self.waiting -= len(batch)
        for (_, future), error in zip(batch, errors, strict=True):
            if future.done():  # its request has gone
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
