"""A service whose ledger is on PostgreSQL, when the server stops, comes back, or hangs: nothing is lost, doubled, or waited for without end."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data.servers import PostgresServer, postgres_server
from outlets.serving import AT, LATER, Served, row, under_load

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@contextmanager
def serving(server: PostgresServer, root: Path, rest: str = "") -> Iterator[Served]:
    served = Served(root, f"outlets: {{rest: {{{rest}}}}}", ledger=f"{server.url}?schema={root.parent.name}")
    try:
        served.start()
        yield served
    finally:
        served.close()


@contextmanager
def loaded(served: Served) -> Iterator[tuple[list[str], list[Any]]]:
    """Ids of answers and problems of others, from connections that ask until the end, and none of which is broken off."""
    stop, threads, got, failed = under_load(served)
    try:
        yield got, failed
        assert all(thread.is_alive() for thread in threads)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def more(served: Served, told: list[Any]) -> None:
    """Wait until more is told than now."""
    count = len(told) + 20
    served.until(lambda: len(told) > count)


def kept(served: Served) -> list[str]:
    return served.ledger.joined(as_of=LATER)["prediction_id"].to_list()


BACK = [
    ("/predict", row("away")),
    ("/labels", {"key": "before", "value": True}),
    ("/events", {"id": "e", "unit": "u", "kind": "buy", "at": AT.isoformat()}),
]


def refused(served: Served) -> None:
    for path, body in BACK:
        status, headers, problem = served.whole("POST", path, body)
        assert (status, headers["retry-after"]) == (503, "1"), problem
        assert "127.0.0.1" not in problem["detail"]  # where the ledger is is nobody's business
    assert served.ask("GET", "/queue")[0] == 503
    assert served.ask("GET", "/readyz")[0] == 200


def taken(served: Served) -> None:
    """What was refused is taken, and counts once."""
    served.until(lambda: [served.ask("POST", path, body)[0] for path, body in BACK] == [200] * 3)
    assert served.ask("POST", *BACK[1])[1]["same"] == 1
    assert served.ask("POST", *BACK[2]) == (200, {"new": 0})
    assert served.ledger.events(since=AT, until=LATER).height == 1
    assert [one.label for one in served.ledger.find("before")] == [1.0]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_server_that_stops_is_refused_for_until_it_is_back(
    server: PostgresServer, tmp_path: Path, how: signal.Signals
) -> None:
    with serving(server, tmp_path / "alarm") as served:
        assert served.ask("POST", "/predict", row("before"))[0] == 200
        with loaded(served) as (got, failed):
            more(served, got)
            server.stop(how)
            try:
                more(served, failed)
                refused(served)
            finally:
                server.start()
            more(served, got)
        taken(served)
        assert {problem["status"] for problem in failed} == {503}
        there = kept(served)
        assert set(got) <= set(there)
        assert len(there) == len(set(there))


def test_a_server_that_stops_is_spooled_for_until_it_is_back(server: PostgresServer, tmp_path: Path) -> None:
    with serving(server, tmp_path / "alarm", "unwritten: spool") as served:
        with loaded(served) as (got, failed):
            more(served, got)
            server.stop(signal.SIGQUIT)
            try:
                more(served, got)
                spooled = served.outputs / "spool"
                served.until(lambda: any(path.stat().st_size for path in spooled.glob("*.jsonl")))
            finally:
                server.start()
            more(served, got)
        served.until(lambda: not list(spooled.iterdir()))
        assert not failed
        assert sorted(kept(served)) == sorted(got)


def test_a_server_that_hangs_is_not_waited_for_without_end(server: PostgresServer, tmp_path: Path) -> None:
    with serving(server, tmp_path / "alarm", "seconds: 2") as served:
        assert served.ask("POST", "/predict", row("before"))[0] == 200
        with loaded(served) as (got, failed):
            more(served, got)
            with server.hanging():
                more(served, failed)
                refused(served)
            more(served, got)
        taken(served)
        assert {problem["status"] for problem in failed} == {503}
        there = kept(served)
        assert set(got) <= set(there)
        assert len(there) == len(set(there))


def test_a_server_that_hangs_is_spooled_for(server: PostgresServer, tmp_path: Path) -> None:
    with serving(server, tmp_path / "alarm", "seconds: 2, unwritten: spool") as served:
        with loaded(served) as (got, failed):
            more(served, got)
            with server.hanging():
                more(served, got)
                more(served, got)
            more(served, got)
        served.until(lambda: not list((served.outputs / "spool").iterdir()))
        assert not failed
        assert sorted(kept(served)) == sorted(got)  # also what had been on its way to the server


def test_a_service_that_is_told_to_stop_does_not_wait_for_a_server_that_hangs(
    server: PostgresServer, tmp_path: Path
) -> None:
    with serving(server, tmp_path / "alarm", "seconds: 2") as served, server.hanging():
        assert served.ask("POST", "/predict", row("away"))[0] == 503
        assert served.stop() == 0


def test_a_service_does_not_start_without_its_server(server: PostgresServer, tmp_path: Path) -> None:
    with serving(server, tmp_path / "alarm") as served:
        served.kill()
        server.stop()
        try:
            command = [sys.executable, "-m", "meguri", "serve", "--port", str(served.port)]
            done = subprocess.run(command, cwd=served.root, capture_output=True, text=True, check=False)
        finally:
            server.start()
        assert done.returncode == 1
        assert "the ledger cannot be used" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_text_that_no_server_keeps_is_told_and_fails_nobody_else(server: PostgresServer, tmp_path: Path) -> None:
    with serving(server, tmp_path / "alarm") as served:
        for path, body in (
            ("/predict", row("n\0")),
            ("/predict", [row("fine"), row("n\0")]),
            ("/labels", {"key": "n\0", "value": True}),
            ("/labels", {"key": "n", "value": True, "source": "ann\0"}),
            ("/events", {"id": "e", "unit": "u\0", "kind": "buy"}),
            ("/predict", row("long" * 200)),
            ("/events", {"id": "long" * 200, "unit": "u", "kind": "buy"}),
        ):
            status, problem = served.ask("POST", path, body)
            assert status == 422
            assert "0000" in repr(problem) or "longer than the 500" in problem["detail"]
        dice = random.Random(5)  # what is not repeated is as long on the server's disk
        assert (
            served.ask("POST", "/predict", row("".join(chr(dice.randrange(0x10000, 0x30000)) for _ in range(500))))[0]
            == 200
        )
        status, answers = served.ask("POST", "/predict", [row(r"n\u0000"), row("other", carrier="\0")])
        assert (status, answers[0]["key"]) == (200, r"n\u0000")  # a backslash is none
        assert served.ask("GET", "/decisions/n%00")[0] == 404
        assert served.ledger.made()["count"].to_list() == [3]
        assert served.ledger.joined(as_of=LATER).filter(pl.col("key") == "fine").is_empty()
