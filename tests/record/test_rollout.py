"""Going forward and back in an outlet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meguri.base.errors import ReleaseError, SettingsError
from meguri.record.ledger import Ledger, Rollout, open_ledger
from meguri.record.rollout import current, promote, rollback
from meguri.testing.ledger_rows import hour


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(open_ledger(f"sqlite:///{tmp_path}/ledger.db")) as ledger:
        yield ledger


def go(ledger: Ledger, at: float, release: str, **more: object) -> Rollout:
    return promote(ledger, "table", release, at=hour(at), why="better", by="loop", **more)  # type: ignore[arg-type]


def back(ledger: Ledger, at: float) -> str:
    return rollback(ledger, "table", at=hour(at), why="worse", by="ann").champion


def test_current(ledger: Ledger) -> None:
    assert current(ledger, "table") is None
    one, two = go(ledger, 1, "r1"), go(ledger, 2, "r2", challengers={"r3": 0.1, "r4": 0.2}, shadow=["r5"])
    promote(ledger, "rest", "r9", at=hour(3), why="new", by="ann")
    assert current(ledger, "table") == two
    assert two.challengers == {"r3": 0.1, "r4": 0.2}
    assert two.shadow == ("r5",)
    assert current(ledger, "table", hour(0.5)) is None
    assert current(ledger, "table", hour(1.5)) == one
    assert current(ledger, "table", hour(2)) == two


def test_back_and_further_back(ledger: Ledger) -> None:
    for at, release in enumerate(["r1", "r2", "r2", "r3"]):  # r2 twice: its challengers changed
        go(ledger, at, release, challengers={"x": 0.5} if at == 2 else None)
    assert [back(ledger, 5), back(ledger, 6)] == ["r2", "r1"]
    now = current(ledger, "table")
    assert now == Rollout("table", "r1", at=hour(6), why="worse", by="ann", back=True)
    with pytest.raises(ReleaseError, match="only r1 was live in the outlet 'table'"):
        back(ledger, 7)
    assert current(ledger, "table") == now
    assert len(ledger.rollouts()) == 6


def test_back_skips_what_was_left_by_going_back(ledger: Ledger) -> None:
    go(ledger, 1, "r1")
    go(ledger, 2, "r2")
    back(ledger, 3)
    go(ledger, 4, "r3")
    assert back(ledger, 5) == "r1"
    go(ledger, 6, "r2")
    go(ledger, 7, "r1")  # chosen by name, which is no going back
    assert back(ledger, 8) == "r2"


def test_back_from_nothing(ledger: Ledger) -> None:
    promote(ledger, "rest", "r1", at=hour(1), why="new", by="ann")
    with pytest.raises(ReleaseError, match="nothing was live"):
        back(ledger, 1)


@pytest.mark.parametrize("challengers", [{"r1": 0.1}, {"r2": 0.0}, {"r2": -0.1}, {"r2": 1.0}, {"r2": 0.5, "r3": 0.5}])
def test_shares_that_are_none(ledger: Ledger, challengers: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="no traffic"):
        go(ledger, 1, "r1", challengers=challengers)
    assert ledger.rollouts() == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from(["a", "b", "c", "back"]), max_size=12))
def test_against_a_stack(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    stack: list[str] = []
    with closing(open_ledger(f"sqlite:///{tmp_path_factory.mktemp('stack')}/ledger.db")) as ledger:
        for at, step in enumerate(steps):
            if step != "back":
                go(ledger, at, step)
                stack += [step] if stack[-1:] != [step] else []
            elif len(stack) > 1:
                stack.pop()
                assert back(ledger, at) == stack[-1]
            else:
                with pytest.raises(ReleaseError):
                    back(ledger, at)
            now = current(ledger, "table", hour(at))
            assert (now.champion if now else None) == (stack[-1] if stack else None)
