"""Requests that come at once are asked and written together, and none suffers from another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from meguri.base.errors import LedgerError, ReleaseError
from meguri.base.ids import Ids
from meguri.outlets.rest.live import Arm
from meguri.outlets.rest.together import MOST, Together
from meguri.outlets.rest.writer import Writer
from meguri.record.estimators import Plain
from meguri.record.served import Served, unpack


class Model:
    """Answers twice the x of a row, and refuses calls with an x of 13."""

    def __init__(self) -> None:
        self.calls: list[list[float]] = []

    def answer(self, values: Mapping[str, Sequence[Any]]) -> Plain:
        self.calls.append(list(values["x"]))
        if 13 in values["x"]:
            raise ReleaseError("13 is not known")
        if 14 in values["x"]:
            raise ZeroDivisionError("a fault of ours")
        return Plain([2.0 * x for x in values["x"]], [str(x) for x in values["x"]])


def asked(*rows: list[float]) -> tuple[Model, list[Any]]:
    model = Model()
    arm: Any = Arm("champion", model, None, 1.0)  # type: ignore[arg-type]

    async def ask() -> list[Any]:
        together = Together(asyncio.get_running_loop(), told=lambda *_: None)
        futures = [together.ask(arm, {"x": some}, len(some)) for some in rows]
        return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 60)

    return model, asyncio.run(ask())


def test_one_call_for_all_that_came_at_once() -> None:
    model, found = asked([1], [2, 3], [4])
    assert model.calls == [[1, 2, 3, 4]]
    assert found == [Plain([2.0], ["1"]), Plain([4.0, 6.0], ["2", "3"]), Plain([8.0], ["4"])]


def test_a_call_is_not_larger_than_it_needs_to_be() -> None:
    rows = [[float(n)] * MOST if n == 1 else [float(n)] * (MOST // 2) for n in range(4)]
    model, found = asked(*rows)
    assert [len(call) for call in model.calls] == [MOST // 2, MOST, MOST]
    assert [answer.score for answer in found] == [[2 * x for x in some] for some in rows]


def test_one_that_cannot_be_answered_fails_alone() -> None:
    _, found = asked([1], [13], [4])
    assert (found[0], found[2]) == (Plain([2.0], ["1"]), Plain([8.0], ["4"]))
    assert isinstance(found[1], ReleaseError)


def test_a_fault_of_ours_leaves_nobody_waiting() -> None:
    _, found = asked([1], [14], [4], [15.0] * MOST, [5])
    assert (found[0], found[2], found[4]) == (Plain([2.0], ["1"]), Plain([8.0], ["4"]), Plain([10.0], ["5"]))
    assert isinstance(found[1], ZeroDivisionError)
    assert found[3].score == [30.0] * MOST


class Book:
    """A ledger that notes what is written, and where; ``trouble`` is raised instead, as often as there is some."""

    def __init__(self, *trouble: Exception, gate: threading.Event | None = None) -> None:
        self.commits: list[tuple[list[Any], bool]] = []
        self._trouble, self._gate = list(trouble), gate

    def write_answers(self, packed: bytes) -> None:
        if self._gate is not None:
            assert self._gate.wait(60)
        if self._trouble:
            raise self._trouble.pop(0)
        keys = [row[1] for row in unpack(packed)]
        self.commits.append((keys, threading.current_thread() is threading.main_thread()))


def served(key: str) -> Served:
    return Served(("r", None, "rest", "champion", 1.0), 0, 0, Ids().take(1), [key], [0], [0.5])


def written(ledger: Any, *answers: str) -> list[Any]:
    async def write() -> list[Any]:
        writer = Writer(ledger, asyncio.get_running_loop(), told=lambda _: None)
        futures = [writer.put([served(key)]) for key in answers]
        assert writer.waiting == len(answers)
        found = await asyncio.gather(*futures, return_exceptions=True)
        assert writer.waiting == 0
        await writer.close()
        with pytest.raises(LedgerError, match="stopping"):
            writer.put([])
        return found

    return asyncio.run(write())


def test_what_came_at_once_is_one_commit_of_a_thread() -> None:
    book = Book()
    assert written(book, "a", "b", "c") == [None] * 3
    assert book.commits == [(["a", "b", "c"], False)]


def test_a_failed_commit_fails_all_that_was_in_it() -> None:
    book = Book(LedgerError("full"))
    assert [str(error) for error in written(book, "a", "b")] == ["full", "full"]
    assert not book.commits


def test_what_comes_meanwhile_goes_with_the_next_commit() -> None:
    gate = threading.Event()
    far: Any = Book(gate=gate)

    async def write() -> None:
        writer = Writer(far, asyncio.get_running_loop(), told=lambda _: None)
        first = writer.put([served("a")])
        while not writer._away:
            await asyncio.sleep(0)
        others = [writer.put([served(name)]) for name in ("b", "c")]
        gate.set()
        await asyncio.gather(first, *others)
        last = writer.put([served("d")])
        await writer.close()  # what has gathered is written
        assert last.done()

    asyncio.run(write())
    assert [answers for answers, _ in far.commits] == [["a"], ["b", "c"], ["d"]]
