"""The part of the ledgers' kit that is about what services write: answers, settled later, and what of them is damaged."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from meguri.base import clock
from meguri.record.ledger import Ledger
from meguri.record.served import pack
from meguri.testing.ledger_rows import hour, some_answers, some_labels, some_predictions

# each says how many of three answers it finds
READERS: list[Callable[[Ledger], int]] = [
    lambda ledger: ledger.joined(as_of=hour(100)).height,
    lambda ledger: len(ledger.keys(since=hour(0), until=hour(100))),
    lambda ledger: sum(len(ledger.find(f"k{n}")) for n in range(3)),
    lambda ledger: len(ledger.queue(limit=9)) + 1,
    lambda ledger: int(ledger.made()["count"].sum()),
    lambda ledger: ledger.awaited(as_of=hour(100)).count,
    lambda ledger: ledger.count_predictions(since=hour(0), until=hour(100)),
    lambda ledger: int(ledger.assigned(outlet="table", since=hour(-9), as_of=hour(99))["count"].sum()),
    lambda ledger: ledger.write_labels(some_labels(["k0", "k1", "k2"], [1.0, 0.0, 1.0], hour(9))).new,
    lambda ledger: ledger.old(hour(90)).predictions,
    lambda ledger: ledger.prune(hour(90)),
    lambda ledger: ledger.settle(),
]

# what ``served.pack`` never makes of a service's answers, or no database takes
DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda packed: packed[:-9],
    "no text": lambda packed: b"\xff\xfe" + packed,
    "no answers": lambda packed: packed[:0] + b"[7]",
    "too deep": lambda packed: b"[" * 200_000 + packed,
    "a column too short": lambda packed: packed.replace(b'["k9"]', b"[]"),
    "an id that is none": lambda packed: re.sub(rb'"[0-9a-f-]{36}"', b'"17"', packed),
    "an id that is a number": lambda packed: re.sub(rb'"[0-9a-f-]{36}"', b"17", packed),
    "no key": lambda packed: packed.replace(b'["k9"]', b"[null]"),
    "a key that is no text": lambda packed: packed.replace(b'["k9"]', b'[{"k":9}]'),
    "a time beyond all": lambda packed: re.sub(rb"\d{16}", b"9" * 30, packed),
    "an origin cut off": lambda packed: packed.replace(b'["r1","run1",', b'["r1",'),
    "an origin of lists": lambda packed: packed.replace(b'["r1",', b'[["r1"],'),
}


class AnswersCase:
    """What every ledger must do with the answers of a service; ``LedgerCase`` has it, and the ``ledger``."""

    def test_answers_are_predictions(self, ledger: Ledger) -> None:
        """What a service writes is read as what a table wrote; again counts once, and of two that differ the first."""
        table = some_predictions(4)
        answers = some_answers(table)
        ledger.write_answers(pack(answers[:3]))
        ledger.write_answers(pack(answers))
        ledger.write_answers(pack([]))
        assert ledger.write_predictions(table) == 0
        ledger.write_answers(pack([answers[0]._replace(scores=[0.99])]))
        assert ledger.joined(as_of=hour(100), features=True).select(table.columns).equals(table)
        assert ledger.awaited(as_of=hour(100)).count == 4

    @pytest.mark.parametrize("read", READERS)
    def test_an_answer_is_there_for_all_who_read(self, ledger: Ledger, read: Callable[[Ledger], int]) -> None:
        """Nobody sees that it was not written as a prediction; and there is nothing left to settle then."""
        ledger.write_answers(pack(some_answers(some_predictions(3))))
        assert read(ledger) == 3
        assert ledger.settle() == 0

    def test_some_of_the_answers_are_settled(self, ledger: Ledger) -> None:
        """About so many at a time, in the order of writing."""
        big = {"note": ["." * 2**15]}
        for answer in some_answers(some_predictions(6)):
            ledger.write_answers(pack([answer._replace(features=big)]))
        assert ledger.settle(1) == 2
        assert ledger.settle(3) == 4
        assert ledger.joined(as_of=hour(100))["key"].to_list() == [f"k{n}" for n in range(6)]

    @pytest.mark.parametrize("damage", DAMAGED)
    def test_what_cannot_be_settled_is_set_aside(self, ledger: Ledger, damage: str) -> None:
        """As it is, with the reason, once; what came before, after and again is settled and read."""
        answers = some_answers(some_predictions(10))
        bad = DAMAGED[damage](pack(answers[9:]))
        assert bad != pack(answers[9:])
        for packed in (pack(answers[:2]), bad, pack(answers[2:4]), pack(answers[3:5])):
            ledger.write_answers(packed)
        assert ledger.aside() == []
        before = clock.now()
        assert ledger.settle() == 6
        assert ledger.joined(as_of=hour(100))["key"].to_list() == [f"k{n}" for n in range(5)]
        assert ledger.awaited(as_of=hour(100)).count == 5
        (found,) = ledger.aside()
        assert found.answers == bad
        assert before <= found.at <= clock.now()
        assert len(found.reason) > 3
        assert ledger.settle() == 0
        assert ledger.aside() == [found]

    @pytest.mark.parametrize("read", READERS)
    def test_a_damaged_row_stops_no_reader(self, ledger: Ledger, read: Callable[[Ledger], int]) -> None:
        """Nor the loss of a row that cannot be settled the rows around it."""
        packed = [pack([one]) for one in some_answers(some_predictions(3))]
        for row in (b"?", packed[0], b"[", b"", packed[1], b"{", packed[2], b"!"):
            ledger.write_answers(row)
        assert read(ledger) == 3
        assert [found.answers for found in ledger.aside()] == [b"?", b"[", b"", b"{", b"!"]
        assert ledger.settle() == 0

    def test_what_was_set_aside_is_tried_again_when_a_person_says_so(self, ledger: Ledger) -> None:
        """What can be settled now is, and what cannot is set aside again."""
        table = some_predictions(3)
        (cut,) = [pack(some_answers(table))[:-1]]
        ledger.write_answers(cut)
        ledger.write_answers(b"?")
        assert ledger.awaited(as_of=hour(100)).count == 0
        assert ledger.retry_aside() == 2
        assert [found.answers for found in ledger.aside()] == [cut, b"?"]
        assert ledger.retry_aside() == 2
        assert ledger.retry_aside() == 2
        ledger.write_answers(pack(some_answers(table)))
        assert ledger.joined(as_of=hour(100)).height == 3
