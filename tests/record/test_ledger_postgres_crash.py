"""The ledger on PostgreSQL when writers are killed or race, and when the server itself stops under them."""

from __future__ import annotations

import random
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest
from data.servers import PostgresServer, postgres_server
from record.ledger_writers import OPENER, PRUNER, WRITER, all_is_there, python

from meguri.base.errors import LedgerError
from meguri.record import ledger_postgres
from meguri.record.ledger import Awaited, LabelCounts, open_ledger
from meguri.record.ledger_postgres import PostgresLedger
from meguri.testing.ledger_rows import hour, some_labels, some_predictions

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


def alone(url: str) -> None:
    """Wait until the server has seen that the killed are gone: a commit that was under way is done then, or never."""
    with closing(psycopg.connect(url, autocommit=True)) as db:
        others = "SELECT FROM pg_stat_activity WHERE application_name = 'meguri'"
        while db.execute(others).fetchall():
            pass


def heard_of(writer: subprocess.Popen[str], lines: int) -> set[str]:
    assert writer.stdout is not None
    return {writer.stdout.readline().strip() for _ in range(lines)}


def killed(writer: subprocess.Popen[str]) -> set[str]:
    """What it told until it was killed; a line that was cut off was not told."""
    writer.kill()
    with writer:
        assert writer.stdout is not None
        return {line.strip() for line in writer.stdout if line.endswith("\n")}


def test_kill_9_loses_and_doubles_nothing(server: PostgresServer) -> None:
    chance = random.Random(9)
    heard: set[str] = set()
    start = 0
    for _ in range(20):
        writer = python(WRITER, server.url, start)
        heard |= heard_of(writer, chance.randint(0, 9))  # kill at a random moment after a random acknowledgement
        for _ in range(chance.randint(0, 30_000)):
            pass
        heard |= killed(writer)
        alone(server.url)
        with closing(open_ledger(server.url)) as ledger:
            start = max(all_is_there(ledger, heard), default=-1) + 1
    assert len(heard) > 20


def test_six_processes_open_a_fresh_database_and_write(server: PostgresServer) -> None:
    others = [python(OPENER, i, stdin=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(6)]
    assert [other.stdout.readline() for other in others if other.stdout] == ["ready\n"] * 6
    urls = [f"{server.url}?schema=race {i}" for i in range(5)]
    for url in urls:
        for other in others:
            assert other.stdin is not None
            other.stdin.write(f"{url}\n")
            other.stdin.flush()
        said = [other.stdout.readline() for other in others if other.stdout]
        assert said == ["done\n"] * 6, [other.communicate()[1] for other in others]
    assert [(other.communicate()[1], other.returncode) for other in others] == [("", 0)] * 6
    for url in urls:
        with closing(open_ledger(url)) as ledger:
            assert ledger.awaited(as_of=hour(10**5)) == Awaited(300, hour(0))


def test_a_prune_that_is_killed_deletes_nothing(server: PostgresServer) -> None:
    with closing(open_ledger(server.url)) as ledger:
        ledger.write_predictions(some_predictions(40))
        ledger.write_labels(some_labels([f"k{i}" for i in range(35)], [1.0] * 35, hour(9)))
        before = ledger.joined(as_of=hour(100))
        with python(PRUNER, server.url, "meguri.record.ledger_postgres") as pruner:
            assert pruner.wait() == -9
        assert ledger.joined(as_of=hour(100)).equals(before)
        assert ledger.prune(hour(30)) == 28
        assert ledger.joined(as_of=hour(100)).equals(before[28:])


def test_a_server_that_crashes_under_load_loses_and_doubles_nothing(server: PostgresServer) -> None:
    """The writers live on: what the ledger refused they write again, until it is back."""
    writers = [python(WRITER, server.url, number * 8000, "patient") for number in range(3)]
    heard: set[str] = set()
    try:
        for how in (signal.SIGQUIT, signal.SIGINT, signal.SIGQUIT):
            for writer in writers:
                heard |= heard_of(writer, 10)
            server.stop(how)
            server.start()
        for writer in writers:  # whoever waited for its answer when the server stopped has it by now
            heard |= heard_of(writer, 10)
    finally:
        for writer in writers:
            heard |= killed(writer)
    alone(server.url)
    with closing(open_ledger(server.url)) as ledger:
        written = all_is_there(ledger, heard)
    assert {number // 8000 for number in written} == {0, 1, 2}
    assert len(heard) >= 120


def test_a_server_that_crashes_in_the_middle_of_a_batch_has_none_of_it(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows were sent, its transaction is open; the first half is known, so this is not one COPY."""
    table, labels = some_predictions(40), some_labels([f"k{i}" for i in range(20)], [1.0] * 20, hour(90))
    real = ledger_postgres._copy

    def dies(db: Any, into: str, rows: Any) -> None:
        real(db, into, rows)
        if "given" in into:
            server.stop(signal.SIGQUIT)

    with closing(open_ledger(server.url)) as ledger:
        assert ledger.write_predictions(table.head(20)) == 20
        for write in (lambda: ledger.write_predictions(table), lambda: ledger.write_labels(labels)):
            monkeypatch.setattr(ledger_postgres, "_copy", dies)
            with pytest.raises(LedgerError, match="the ledger cannot be used"):
                write()
            monkeypatch.undo()
            server.start()
            assert ledger.awaited(as_of=hour(1000)).count == 20
            assert ledger.joined(as_of=hour(1000))["label"].null_count() == 20
        assert ledger.write_predictions(table) == 20
        assert ledger.write_labels(labels) == LabelCounts(new=20)


def test_a_server_that_hangs_is_given_up_for_and_nothing_is_doubled(server: PostgresServer) -> None:
    table = some_predictions(3)
    with closing(open_ledger(server.url, limit=1)) as ledger, closing(open_ledger(server.url)) as patient:
        with server.hanging():
            for _ in range(2):  # on the connection that there was, and for want of another
                with pytest.raises(LedgerError, match="the ledger cannot be used"):
                    ledger.write_predictions(table)
            with ThreadPoolExecutor() as threads:
                later = threads.submit(patient.write_predictions, table)  # what has no limit waits
                busy = [threads.submit(ledger.made) for _ in range(2)]
                for future in busy:
                    with pytest.raises(LedgerError):
                        future.result()
                assert not later.done()
                server.go_on()
                later.result()
        ledger.write_predictions(table)
        assert ledger.made()["count"].to_list() == [3]


def test_an_answer_that_was_lost_is_asked_for_again(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows had arrived, which the caller is told by the count."""
    real, lost = PostgresLedger._do, []

    def loses(self: PostgresLedger, work: Any) -> Any:
        def once(db: Any) -> Any:
            found = work(db)
            if isinstance(found, int) and found == 3 and not lost:
                lost.append(db.close())
                raise psycopg.OperationalError("the connection is lost")
            return found

        return real(self, once)

    monkeypatch.setattr(PostgresLedger, "_do", loses)
    with closing(open_ledger(server.url)) as ledger:
        assert ledger.write_predictions(some_predictions(3)) == 0
        assert ledger.joined(as_of=hour(1000)).height == 3
