"""Rows of requests that came at the same time are asked of a model together: one call costs little more than one row."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from meguri.outlets.rest.live import Arm
from meguri.record.estimators import Plain

Values = Mapping[str, Sequence[Any]]
MOST = 4000  # rows in one call, unless a single request has more: the first are written while the next are asked
Asked = tuple[Values, int, asyncio.Future[Plain]]


class Together:
    """One for each process; an answer does not depend on what else is asked in the same call.

    ``told`` is called with the arm, how many rows a call held, and its seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, told: Callable[[Arm, int, float], None]) -> None:
        self._loop, self._told = loop, told
        self._gathered: dict[Arm, list[Asked]] = {}

    def ask(self, arm: Arm, values: Values, count: int) -> asyncio.Future[Plain]:
        """A future of the answers to ``count`` rows; it fails with what the model raises when it cannot answer them."""
        if not self._gathered:
            self._loop.call_soon(self._run)  # after all requests that are ready now
        future: asyncio.Future[Plain] = self._loop.create_future()
        self._gathered.setdefault(arm, []).append((values, count, future))
        return future

    def _run(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for arm, every in gathered.items():
            asked, later = _some(every)
            if later:
                self._gathered[arm] = later
            try:
                self._answer(arm, asked)
            except Exception as error:  # also a fault of ours: whoever asked is told, and nobody waits for ever
                if len(asked) == 1:
                    _fail(asked[0], error)
                    continue
                for one in asked:  # one of them is at fault
                    try:
                        self._answer(arm, [one])
                    except Exception as its_own:
                        _fail(one, its_own)
        if self._gathered:
            self._loop.call_soon(self._run)  # the first answers are written meanwhile

    def _answer(self, arm: Arm, asked: Sequence[Asked]) -> None:
        values, count = asked[0][0], sum(one[1] for one in asked)
        if len(asked) > 1:
            values = {name: [*chain.from_iterable([one[0][name] for one in asked])] for name in values}
        began = time.perf_counter()
        found = arm.release.answer(values)
        self._told(arm, count, time.perf_counter() - began)
        end = 0
        for _, own, future in asked:
            begin, end = end, end + own
            if not future.done():
                answer = found.answer and found.answer[begin:end]
                chances = found.chances and found.chances[begin:end]
                future.set_result(Plain(found.score[begin:end], answer, chances))


def _some(asked: list[Asked]) -> tuple[list[Asked], list[Asked]]:
    """Those for one call, and those for later."""
    rows = 0
    for place, one in enumerate(asked):
        rows += one[1]
        if rows > MOST and place:
            return asked[:place], asked[place:]
    return asked, []


def _fail(asked: Asked, error: Exception) -> None:
    if not asked[2].done():
        asked[2].set_exception(error)
