"""What is live in a service changes while it runs, and what it acknowledged survives whatever happens to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from outlets.serving import AT, LATER, Served, row, serving, under_load

from meguri.record import rollout


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "alarm") as running:
        yield running


def released(served: Served, names: list[str]) -> dict[str, str]:
    status, answers = served.ask("POST", "/predict", [row(name) for name in names])
    assert status == 200, answers
    return {answer["key"]: answer["release"] for answer in answers}


def test_a_challenger_gets_its_share_and_keeps_its_units(alone: Served) -> None:
    units = [f"unit{i}" for i in range(900)]
    assert set(released(alone, units).values()) == {"r-1"}
    alone.roll("r-1", challengers={"r-2": 0.2})
    alone.until(lambda: "r-2" in released(alone, units).values())
    first = released(alone, units)
    assert 120 < list(first.values()).count("r-2") < 240
    assert released(alone, units) == first
    alone.roll("r-1", challengers={"r-2": 0.5})
    alone.until(lambda: list(released(alone, units).values()).count("r-2") > 300)
    second = released(alone, units)
    assert {unit for unit in units if first[unit] == "r-2"} <= {unit for unit in units if second[unit] == "r-2"}
    kept = alone.ledger.joined(as_of=LATER).filter(pl.col("arm") == "challenger")
    assert set(kept["propensity"]) == {0.2, 0.5}
    rollout.promote(alone.ledger, "rest", "r-2", at=AT + timedelta(days=1), why="better", by="test")
    alone.until(lambda: set(released(alone, units).values()) == {"r-2"})
    rollout.rollback(alone.ledger, "rest", at=AT + timedelta(days=2), why="worse", by="test")
    alone.until(lambda: set(released(alone, units).values()) == {"r-1"})


def test_a_shadow_is_asked_and_never_answers(alone: Served) -> None:
    alone.roll("r-1", shadow=["r-2"])
    alone.until(
        lambda: released(alone, ["s"]) == {"s": "r-1"} and any(one.arm == "shadow" for one in alone.ledger.find("s"))
    )
    kept = alone.ledger.find("s")
    assert {one.release for one in kept} == {"r-1", "r-2"}
    assert next(one.propensity for one in kept if one.arm == "shadow") == 0.0


def test_a_broken_release_is_refused_and_the_old_one_goes_on(alone: Served) -> None:
    model = alone.outputs / "releases" / "r-2" / "model.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[: len(whole) // 2])
    alone.roll("r-2")
    alone.until(lambda: "model.onnx was changed" in str(alone.ask("GET", "/readyz")[1]["refused"]))
    assert released(alone, ["on"]) == {"on": "r-1"}
    alone.roll("none")
    alone.until(lambda: "no release 'none'" in str(alone.ask("GET", "/readyz")[1]["refused"]))
    alone.roll("r-2")
    alone.until(lambda: "model.onnx was changed" in str(alone.ask("GET", "/readyz")[1]["refused"]))
    model.write_bytes(whole)  # mended, or copied at last: it is tried again
    alone.until(lambda: released(alone, ["on"]) == {"on": "r-2"})
    assert alone.ask("GET", "/readyz")[1]["refused"] is None
    (alone.outputs / "releases" / "r-2" / "model.onnx").write_bytes(b"")  # what is loaded does not need its file
    assert released(alone, ["on"]) == {"on": "r-2"}


@pytest.mark.parametrize("name", ["manifest.json", "contract.json"])
def test_a_file_cut_short_in_place_keeps_a_release_out(alone: Served, name: str) -> None:
    path = alone.outputs / "releases" / "r-2" / name
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    alone.roll("r-2")
    alone.until(lambda: name in str(alone.ask("GET", "/readyz")[1]["refused"]))
    assert released(alone, ["on"]) == {"on": "r-1"}


def test_a_live_release_cut_short_in_place_goes_on_until_it_is_started_again(alone: Served) -> None:
    assert released(alone, ["before"]) == {"before": "r-1"}
    files = [path for path in (alone.outputs / "releases" / "r-1").rglob("*") if path.is_file()]
    whole = {path: path.read_bytes() for path in files}
    for path in files:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
    assert "onnxruntime" in alone.maps()
    assert "/releases/" not in alone.maps()  # reading what is not there any more would end the process
    assert released(alone, ["on"]) == {"on": "r-1"}
    alone.roll("r-1", challengers={"r-2": 0.5})  # what is loaded is not loaded anew
    alone.until(lambda: set(released(alone, [f"u{n}" for n in range(50)]).values()) == {"r-1", "r-2"})
    alone.kill()
    alone.launch()
    alone.until(lambda: alone.ask("GET", "/healthz")[0] == 200)
    status, headers, problem = alone.whole("GET", "/readyz")
    assert (status, headers["retry-after"]) == (503, "1")
    assert "no release is ready" in problem["detail"]
    assert "manifest.json" in problem["detail"]
    assert alone.ask("POST", "/predict", row("not"))[0] == 503
    for path, content in whole.items():
        path.write_bytes(content)
    alone.until(lambda: alone.ask("GET", "/readyz")[0] == 200)
    assert set(released(alone, [f"m{n}" for n in range(50)]).values()) == {"r-1", "r-2"}


def test_kill_9_loses_no_answer_that_was_given(alone: Served) -> None:
    for _ in range(3):
        _, threads, got, failed = under_load(alone)
        alone.until(lambda got=got: len(got) > 50)  # type: ignore[misc]
        alone.kill()
        for thread in threads:
            thread.join()
        assert not failed
        kept = alone.ledger.joined(as_of=LATER)["prediction_id"].to_list()
        assert set(got) <= set(kept)
        assert len(kept) == len(set(kept))
        alone.start()


def test_rollouts_under_load_fail_no_request(alone: Served) -> None:
    stop, threads, got, failed = under_load(alone)
    for champion in ("r-2", "r-1", "r-2"):
        alone.roll(champion, challengers={"r-1" if champion == "r-2" else "r-2": 0.3})
        alone.until(lambda champion=champion: alone.ask("GET", "/readyz")[1]["release"] == champion)
    stop.set()
    for thread in threads:
        thread.join()
    assert got
    assert not failed


def test_a_ledger_that_cannot_be_written_may_be_spooled_for(tmp_path: Path) -> None:
    served = Served(tmp_path / "alarm", "outlets: {rest: {unwritten: spool}}")
    try:
        served.start()
        with closing(sqlite3.connect(served.outputs / "ledger.db")) as db:
            db.execute("CREATE TRIGGER full BEFORE INSERT ON inbox BEGIN SELECT RAISE(ABORT, 'no space'); END")
            db.commit()
            status, given = served.ask("POST", "/predict", [row("kept-1"), row("kept-2")])
            assert status == 200
            assert served.ledger.find("kept-1") == []
            served.kill()  # what it had spooled is not lost: the next one takes it over
            db.execute("DROP TRIGGER full")
            db.commit()
        served.start()
        served.until(lambda: len(served.ledger.find("kept-2")) == 1)
        kept = [served.ledger.find(name)[0].prediction_id for name in ("kept-1", "kept-2")]
        assert kept == [answer["prediction_id"] for answer in given]
        served.until(lambda: not list((served.outputs / "spool").iterdir()))
        assert "answers are spooled" in served.log()
    finally:
        served.close()


def test_a_ledger_that_cannot_be_written_refuses(alone: Served) -> None:
    assert released(alone, ["before"])
    with sqlite3.connect(alone.outputs / "ledger.db") as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON inbox BEGIN SELECT RAISE(ABORT, 'no space'); END")
    status, headers, problem = alone.whole("POST", "/predict", row("lost"))
    assert (status, headers["retry-after"]) == (503, "1")
    assert "could not be written down" in problem["detail"]
    with sqlite3.connect(alone.outputs / "ledger.db") as db:
        db.execute("DROP TRIGGER full")
    db.close()
    assert released(alone, ["after"])
    assert alone.ledger.find("lost") == []
    assert "no space" in alone.log()


def test_a_load_test_leaves_no_answer_in_the_ledger(tmp_path: Path) -> None:
    with serving(tmp_path / "alarm", "--no-ledger") as served:
        status, answer = served.ask("POST", "/predict", row("tried"))
        assert (status, answer["key"]) == (200, "tried")
        assert served.stop() == 0
        assert served.ledger.made().is_empty()
        assert "no answer is written to the ledger" in served.log()
