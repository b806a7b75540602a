"""Features of a stream: made part by part, of events that are never all in memory, they are those of the whole table."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data.events import NOON, histories, questions, records, rows
from data.test_asof import CORRECTED, FEATURES, LATE, LOGGED, PLAIN
from hypothesis import given
from hypothesis import strategies as st

from meguri.data import history, sources
from meguri.data.build import compute
from meguri.data.history import Past
from meguri.data.warehouse import Warehouse


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Already a few events are read in parts."""
    monkeypatch.setattr(history, "MOST", 3)
    monkeypatch.setattr(history, "PART", 2)


def streamed(asked: pl.DataFrame, found: Any, size: int) -> pl.DataFrame:
    past = Past()
    parts = [asked[start : start + size] for start in range(0, max(asked.height, 1), size)]
    return pl.concat([compute(part, FEATURES, found, time="asked_at", now=LATE, past=past) for part in parts])


@given(histories(), questions(), st.integers(1, 4), st.booleans())
def test_parts_give_what_the_whole_gives(table: pl.DataFrame, asked: pl.DataFrame, size: int, ordered: bool) -> None:
    asked = asked.sort("asked_at") if ordered else asked
    whole = compute(asked, FEATURES, {"records": table}, time="asked_at", now=LATE)
    assert streamed(asked, {"records": table.lazy()}, size).equals(whole)


def test_a_warehouse_gives_the_same(tmp_path: Path) -> None:
    chance = random.Random(3)
    table = records(
        *(
            (chance.choice(["JFK", "EWR"]), chance.choice(["UA", "AA"]), n, at, at + chance.randrange(20), float(n))
            for n, at in enumerate(range(0, 400, 2))
        )
    )
    asked = rows(*((chance.randrange(420), chance.choice(["JFK", "EWR", "LGA"]), "UA") for _ in range(300)))
    whole = compute(asked, FEATURES, {"records": table}, time="asked_at", now=LATE)
    with Warehouse("duckdb:///tables", tmp_path) as warehouse:
        warehouse.write("records", table)
        assert streamed(asked, warehouse, 40).equals(whole)
        assert streamed(asked.sort("asked_at"), warehouse, 40).equals(whole.sort("asked_at"))


def test_rows_in_order_read_no_event_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def timed(part: pl.DataFrame, events: Any) -> pl.DataFrame:
        made = real(part, events)
        seen.extend(made["id"])
        return made

    real = sources._timed
    monkeypatch.setattr(sources, "_timed", timed)
    table = records(*(("JFK", "UA", n, n, n + 1, float(n)) for n in range(200))).lazy()
    past = Past()
    for minute in range(0, 200, 10):
        part = rows(*((minute + n, "JFK", "UA") for n in range(10)))
        compute(part, {"id": LOGGED.last("id")}, {"records": table}, time="asked_at", now=LATE, past=past)
    assert set(seen) == set(range(199))
    assert max(Counter(seen).values()) == 2  # once as one of the rows' own time, once as what was before them


def test_a_window_full_of_events_is_no_reason_to_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies before the rows is read whichever way they are cut."""
    loads = []

    def load(*given: Any, **more: Any) -> Any:
        loads.append(more["first"])
        return real(*given, **more)

    real = history.load
    monkeypatch.setattr(history, "load", load)
    table = records(*(("JFK", "UA", n, n / 2, n / 2, float(n)) for n in range(200))).lazy()
    part = rows(*((90 + n / 9, "JFK", "UA") for n in range(9)))
    found = compute(part, {"n": PLAIN.count(over="80m")}, {"records": table}, time="asked_at", now=LATE, past=Past())
    assert found["n"].to_list()[0] > 100
    assert len(loads) == 1


def test_a_corrected_event_may_bring_back_an_older_one() -> None:
    """So of such events all are read: the one of minute 1 is taken back at minute 9."""
    table = records(("JFK", "UA", 1, 0, 0, 10.0), ("JFK", "UA", 2, 1, 1, 20.0), ("JFK", "UA", 2, None, 9, 20.0))
    past, asked = Past(), [rows((5, "JFK", "UA")), rows((9, "JFK", "UA"))]
    parts = [
        compute(
            part, {"last": CORRECTED.last("delay")}, {"records": table.lazy()}, time="asked_at", now=LATE, past=past
        )
        for part in asked
    ]
    assert [part["last"].item() for part in parts] == [20.0, 10.0]


def test_halves_are_of_time_and_take_each_row_once() -> None:
    moments = pl.Series([NOON, NOON + timedelta(hours=9), None, NOON + timedelta(hours=10)])
    assert [mask.to_list() for mask in history.halves(moments)] == [
        [True, False, True, False],
        [False, True, False, True],
    ]
