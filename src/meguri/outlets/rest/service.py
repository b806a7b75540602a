"""The service behind the addresses: rows become answers that are in the ledger, labels and events come back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meguri.base.clock import moment
from meguri.base.errors import LedgerError
from meguri.base.ids import Ids
from meguri.data.plain import Column
from meguri.outlets.rest import returns
from meguri.outlets.rest.abstain import Abstain
from meguri.outlets.rest.faults import BadRowsError
from meguri.outlets.rest.fill import Filler
from meguri.outlets.rest.live import Arm, Follower, Live
from meguri.outlets.rest.metrics import Metrics
from meguri.outlets.rest.options import Options
from meguri.outlets.rest.problems import ProblemError
from meguri.outlets.rest.replies import replies
from meguri.outlets.rest.rows import Rows
from meguri.outlets.rest.spool import Spool
from meguri.outlets.rest.together import Together
from meguri.outlets.rest.writer import Writer
from meguri.record.ledger import open_ledger
from meguri.record.served import Served, as_json

if TYPE_CHECKING:
    from meguri.data.contract import Contract
    from meguri.record.ledger import Prediction

SETTLE, SETTLED = 0.2, 1500  # how often, in seconds, and how many answers a worker settles beside its work
log = logging.getLogger("meguri.rest")


class Service:
    """One worker: its ledger's connections, its writer, and what is live."""

    def __init__(self, options: Options) -> None:
        self.options, self.metrics = options, Metrics()
        self._ids, self._abstain = Ids(), Abstain(**options.abstain)
        self._online = None if options.project is None else Filler.of(Path(options.project))
        # the writer's own; whatever else looks and labels does so beside it
        half = options.seconds / 2  # a request may wait for two commits: the one that is on its way, and its own
        self._ledger, self._beside = (open_ledger(options.ledger, limit=half) for _ in range(2))
        self._writer: Writer | None = None
        self._together: Together | None = None
        self._spool = None if options.spool is None else Spool(Path(options.spool))
        self._drainer: asyncio.Task[None] | None = None
        self._settler: asyncio.Task[None] | None = None
        self._later: set[asyncio.Task[None]] = set()
        self.follower = Follower(
            self._beside,
            Path(options.releases),
            outlet=options.outlet,
            unit=options.unit,
            prove=self._abstain.check,
            told=self.metrics.rollout,
        )

    def start(self) -> None:
        """Begin to follow the rollouts and to write; called once, in the loop that serves."""
        loop = asyncio.get_running_loop()
        spool = None if self._spool is None else self._spooled
        self._writer = Writer(self._ledger, loop, told=self.metrics.committed, spool=spool)
        if self._spool is not None:
            self._drainer = asyncio.create_task(self._drain())
        self._together = Together(loop, told=self._answered)
        self._settler = asyncio.create_task(self._settle())
        self.follower.start()

    def _spooled(self, packed: bytes, count: int) -> None:
        assert self._spool is not None
        self._spool.add(packed)
        self.metrics.spooled(count)
        log.error("%s answers are spooled: the ledger cannot be written", count)

    async def _drain(self) -> None:
        """Every second see whether the ledger takes what was spooled; when it does, the writer asks it again."""
        assert self._spool is not None
        assert self._writer is not None
        while True:
            if self._spool.filled:
                away = False
                try:
                    count = await asyncio.to_thread(self._spool.drain, self._beside)
                    if count:
                        log.info("%s spooled answers are in the ledger", count)
                except (OSError, ValueError) as error:  # the ledger is still away, or a file is damaged
                    log.warning("what is spooled waits: %s", error)
                    away = isinstance(error, LedgerError)
                self._writer.spooling &= away
            await asyncio.sleep(1)

    async def _settle(self) -> None:
        """Settle a little of what is written again and again, so that who reads the ledger finds little left to do.

        The more answers there are, the less of it: it is done when nobody waits.
        """
        assert self._writer is not None
        before = 0
        while True:
            await asyncio.sleep(SETTLE)
            came, before = self._writer.written - before, self._writer.written
            if came < 2 * SETTLED:
                with suppress(LedgerError):  # who writes tells of it
                    await asyncio.to_thread(self._beside.settle, SETTLED if came else 10 * SETTLED)

    def _answered(self, arm: Arm, rows: int, seconds: float) -> None:
        self.metrics.answered(arm.name, arm.release.id, rows, seconds)

    async def close(self) -> None:
        """Write what has gathered, and let go."""
        self.follower.close()
        for task in (self._drainer, self._settler):
            if task is not None:
                task.cancel()
        await asyncio.gather(*self._later)
        if self._writer is not None:
            await self._writer.close()
        if self._spool is not None:
            self._spool.close()
        self._ledger.close()
        self._beside.close()

    @property
    def live(self) -> Live:
        """What is live. Raises ProblemError (503) before anything is."""
        if self.follower.live is None:
            why = self.follower.refused or f"nothing is live in the outlet '{self.options.outlet}'"
            raise ProblemError(503, f"no release is ready: {why}", headers={"retry-after": "1"})
        return self.follower.live

    @property
    def filled(self) -> Collection[str]:
        """The columns that a row may leave out, as the online table has them."""
        return () if self._online is None else self._online.names

    async def predict(self, body: bytes) -> Any:
        """The answers to a body of rows, each in the ledger before this returns."""
        live, now = self.live, time.time_ns() // 1000
        if self._online is not None:
            try:
                async with asyncio.timeout(self.options.seconds):
                    body = await self._online.fill(body, live.champion.release.contract)
            except TimeoutError as error:
                what = "the online table does not answer: ask again"
                raise ProblemError(503, what, headers={"retry-after": "1"}) from error
        if self._writer is None or self._writer.waiting >= self.options.waiting:
            raise ProblemError(503, "too many requests wait for the ledger: ask again", headers={"retry-after": "1"})
        rows = self._read(live.champion, body, now)
        returns.keepable(body, rows.keys, rows.units)
        found: list[Any] = [None] * len(rows)
        answers: list[Served] = []
        for arm, places, some in self._split(live, rows, body, now):
            served, told = await self._ask(arm, some, now)
            answers.append(served)
            for place, reply in zip(places, told, strict=True):
                found[place] = reply
        await self._durable(answers)
        if live.shadows:
            self._later.add(task := asyncio.create_task(self._shadow(live, body, now)))
            task.add_done_callback(self._later.discard)
        return found[0] if rows.one else found

    def _read(self, arm: Arm, body: bytes, now: int) -> Rows:
        try:
            return arm.reader.read(body, now=now, most=self.options.rows)
        except BadRowsError as error:
            self.metrics.faults(error.faults)
            what = "the rows break the contract" if error.status == 422 else error.faults[0].what
            raise ProblemError(error.status, what, error.faults if error.status == 422 else ()) from error

    def _split(self, live: Live, rows: Rows, body: bytes, now: int) -> list[tuple[Arm, list[int], Rows]]:
        """The rows of each arm, and their places in the request."""
        found = []
        for arm, places in live.places(rows.units).items():
            whole = rows if arm.reader is live.champion.reader else self._read(arm, body, now)
            found.append((arm, places, whole if len(places) == len(rows) else whole.take(places)))
        return found

    async def _ask(self, arm: Arm, rows: Rows, now: int) -> tuple[Served, list[Any]]:
        """An arm's answers, for the ledger and for the client."""
        assert self._together is not None
        release, contract = arm.release, arm.release.contract
        found = await self._together.ask(arm, rows.values, len(rows))
        scores, texts, chances = found.score, found.answer, found.chances
        if not all(map(math.isfinite, scores)):
            raise ProblemError(500, "the model gave no finite number for one of the rows")
        if contract.task == "regression":
            _within(contract, scores)
        origin = (release.id, release.manifest["run"], self.options.outlet, arm.name, arm.share)
        ids, unsure = self._ids.take(len(rows)), self._abstain.of(contract, rows, scores)
        units = None if rows.units is rows.keys else rows.units
        after, kept = contract.label_after // _MICRO, self._kept(rows)
        served = Served(origin, now, after, ids, rows.keys, rows.times, scores, texts, units, unsure, kept)
        return served, replies(served, chances, release.manifest["classes"])

    def _kept(self, rows: Rows) -> Mapping[str, Sequence[Any]] | None:
        if self.options.features == "values":
            return rows.values
        if self.options.features == "hash":
            texts = (
                as_json(dict(zip(rows.values, row, strict=True))) for row in zip(*rows.values.values(), strict=True)
            )
            return {"sha256": [hashlib.sha256(text).hexdigest() for text in texts]}
        return None

    async def _durable(self, answers: Sequence[Served]) -> None:
        assert self._writer is not None
        if not self.options.written:
            return
        try:
            await self._writer.put(answers)
        except LedgerError as error:
            self.metrics.refused(sum(len(one.ids) for one in answers))
            what = "the answer could not be written down, and so is not given: ask again"
            raise ProblemError(503, what, headers={"retry-after": "1"}) from error

    async def _shadow(self, live: Live, body: bytes, now: int) -> None:
        """Ask the shadows as well; what becomes of it changes no answer, and is told in the metrics."""
        assert self._writer is not None
        for arm in live.shadows:
            try:
                served, _ = await self._ask(arm, self._read(arm, body, now), now)
                if self.options.written:
                    await self._writer.put([served])
            except Exception as error:  # whatever it is, the clients have their answers; its text may quote a row
                self.metrics.shadow_lost()
                log.warning("the shadow %s did not answer: %s", arm.release.id, type(error).__name__, exc_info=error)

    # what waits for a person, and what comes back

    async def queue(self) -> list[dict[str, Any]]:
        """The answers that wait for a person, oldest first."""
        most = self.options.rows
        found: list[dict[str, Any]] = await self._looked(lambda: list(map(_told, self._beside.queue(limit=most))))
        return found

    async def decision(self, id: str) -> dict[str, Any]:
        """What became of an answer: waiting, or decided, by whom and when. Raises ProblemError."""
        found = (
            []
            if not returns.is_id(id)
            else await self._looked(lambda: [one for one in self._beside.find(id) if one.prediction_id == id.lower()])
        )
        if not found:
            raise ProblemError(404, f"there is no prediction '{id[:80]}'")
        one = found[0]
        if one.label is None:
            return {**_told(one), "status": "waiting"}
        return {**_told(one), "status": "decided", "value": one.label, "by": one.source, "at": one.label_at}

    async def _looked(self, look: Callable[[], Any]) -> Any:
        try:
            return await self._within(look)
        except LedgerError as error:
            raise returns.away(error) from error

    async def _within(self, work: Callable[[], Any]) -> Any:
        """What a thread gives, in the time of a request. Raises ProblemError (503) when that is over.

        Calls wait for each other; what is written nevertheless after a while is known when it is sent again.
        """
        try:
            async with asyncio.timeout(self.options.seconds):
                return await asyncio.to_thread(work)
        except TimeoutError as error:
            raise returns.away(error) from error

    async def labels(self, body: bytes, *, by: str) -> dict[str, int]:
        """Write labels that someone brings (one object or an array). Raises ProblemError."""
        given, contract = returns.objects(body, most=self.options.rows), self.live.champion.release.contract
        now = datetime.now(UTC)
        done: dict[str, int] = await self._within(
            lambda: returns.write_labels(self._beside, contract, given, by=by, now=now)
        )
        return done

    async def events(self, body: bytes) -> dict[str, int]:
        """Write what units did (one object or an array). Raises ProblemError."""
        given = returns.objects(body, most=self.options.rows)
        now = datetime.now(UTC)
        done: dict[str, int] = await self._within(lambda: returns.write_events(self._beside, given, now=now))
        return done


def _within(contract: Contract, scores: Sequence[float]) -> None:
    """Raise ProblemError for an estimate beyond the bounds of the label's column."""
    faults = next(filter(None, map(_estimate(contract).faults, scores)), None)
    if faults:
        raise ProblemError(500, f"the model's estimate breaks the contract: {'; '.join(faults)}")


@lru_cache(16)
def _estimate(contract: Contract) -> Column:
    return Column(contract.score)


def _told(one: Prediction) -> dict[str, Any]:
    names = ("prediction_id", "key", "unit", "release", "score", "answer", "made_at", "due")
    features = None if one.features is None else json.loads(one.features)
    return {name: getattr(one, name) for name in names} | {"features": features}


_MICRO = (moment("1970-01-01T00:00:00.000001Z")) - moment("1970-01-01")
