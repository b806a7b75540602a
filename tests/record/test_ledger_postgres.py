"""The ledger on a real PostgreSQL: the conformance kit, the model, SQLite beside it, and a database in every bad state."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import psycopg
import pytest
from data.servers import PASSWORD, PostgresServer, free_port, postgres_server
from record.ledger_model import MODEL_SETTINGS, LedgerModel

from meguri.base.errors import LedgerError, SettingsError
from meguri.record import ledger_postgres, ledger_postgres_schema
from meguri.record.ledger import Awaited, Event, GateUse, Ledger, TurnRecord, open_ledger
from meguri.testing.ledger import LedgerCase
from meguri.testing.ledger_rows import hour, some_labels, some_predictions


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


def fresh(server: PostgresServer) -> str:
    """The URL of a database of its own."""
    name = f"t{os.urandom(6).hex()}"
    with closing(psycopg.connect(server.url, autocommit=True)) as db:
        db.execute(f"CREATE DATABASE {name}")
    return server.url.removesuffix("/postgres") + f"/{name}"


@pytest.fixture
def url(server: PostgresServer) -> str:
    return fresh(server)


@pytest.fixture
def admin(url: str) -> Iterator[psycopg.Connection[Any]]:
    with closing(psycopg.connect(url, autocommit=True, options="-c search_path=meguri")) as db:
        yield db


class TestPostgresLedger(LedgerCase):
    @pytest.fixture
    def ledger(self, url: str) -> Iterator[Ledger]:
        with closing(open_ledger(url)) as ledger:
            yield ledger


class AgainstAModel(LedgerModel):
    server: PostgresServer

    def open(self) -> Ledger:
        if not hasattr(self, "url"):
            self.url = fresh(self.server)
        return open_ledger(self.url)


AgainstAModel.TestCase.settings = MODEL_SETTINGS


class TestAgainstAModel(AgainstAModel.TestCase):
    @pytest.fixture(autouse=True)
    def with_server(self, server: PostgresServer) -> None:
        AgainstAModel.server = server


def opened_thrice(url: str, folder: Path) -> list[Ledger]:
    return [open_ledger(url), open_ledger(f"{url}?schema=another one"), open_ledger(f"sqlite:///{folder}/ledger.db")]


def test_the_frames_are_those_of_sqlite(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meguri.record.ledger_columns.PIECE", 7)
    chance = random.Random(3)
    ledgers = opened_thrice(url, tmp_path)
    strange = ["", "\\N", "a\tb\nc\r\\.", "日本語", '"', None]
    for start in range(0, 60, 20):
        table = some_predictions(20, start, outlet=chance.choice(["a", "b"]), propensity=None).with_columns(
            score=pl.Series([chance.choice([0.1, None, float("nan"), float("inf"), -1e-300]) for _ in range(20)]),
            answer=pl.Series([chance.choice(strange) for _ in range(20)], dtype=pl.String),
            unit=pl.Series([chance.choice(strange) for _ in range(20)], dtype=pl.String),
            abstained=pl.Series([chance.choice([True, False, None]) for _ in range(20)]),
        )
        assert [ledger.write_predictions(table) for ledger in ledgers] == [20] * 3
        assert [ledger.write_predictions(table) for ledger in ledgers] == [0] * 3
    for turn in range(12):
        names = [f"k{chance.randrange(70)}" for _ in range(15)]
        values: list[Any] = [chance.choice([3.0, 0.5, 1e300, float("inf"), None, -0.0]) for _ in names]
        if turn >= 6:
            values = [chance.choice(["3", "3.0", "true", "", "猫"]) for _ in names]
        if turn in (3, 8):
            values = [chance.choice([True, False]) for _ in names]
        labels = some_labels(names, values, hour(chance.randrange(20, 90)), chance.choice(["time", "ann"]))
        counts = [ledger.write_labels(labels) for ledger in ledgers]
        assert counts[0] == counts[1] == counts[2]
        for options in ({"features": True}, {"outlet": "a"}, {"release": "r1", "since": hour(9)}, {"outlet": "none"}):
            at = hour(chance.randrange(20, 100))
            one, two, lite = (ledger.joined(as_of=at, **options) for ledger in ledgers)  # type: ignore[arg-type]
            assert one.equals(lite)
            assert two.equals(lite)
            assert one.schema == lite.schema
            assert ledgers[0].awaited(as_of=at) == ledgers[2].awaited(as_of=at)
        assert ledgers[0].find(names[0]) == ledgers[2].find(names[0])
        assert ledgers[0].made().equals(ledgers[2].made())
    for ledger in ledgers:
        ledger.close()


def test_opening_needs_no_polars(url: str) -> None:
    code = (
        "import sys; from datetime import datetime; from meguri.record.ledger import open_ledger\n"
        f"ledger = open_ledger({url!r}); now = datetime(2013, 4, 1)\n"
        "ledger.awaited(as_of=now); ledger.count_labels(since=now, as_of=now); ledger.turns(); ledger.rollouts(); ledger.close()\n"
        "print('polars' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_commits_are_synced_whatever_the_users_default(url: str, admin: psycopg.Connection[Any]) -> None:
    admin.execute("ALTER ROLE meguri SET synchronous_commit = off")
    try:
        with closing(ledger_postgres.PostgresLedger(url)) as ledger:
            assert ledger._all("SHOW synchronous_commit") == [("on",)]
    finally:
        admin.execute("ALTER ROLE meguri RESET synchronous_commit")


def test_the_tables_only_grow(url: str, admin: psycopg.Connection[Any]) -> None:
    with closing(open_ledger(url)) as ledger:
        ledger.write_predictions(some_predictions(1))
        ledger.write_labels(some_labels(["k0"], [1.0], hour(4)))
        assert ledger.prune(hour(0)) == 0
        for sql in ("UPDATE predictions SET score = 0", "DELETE FROM labels", "TRUNCATE origins", "DELETE FROM turns"):
            with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="only grow"):
                admin.execute(sql)
        assert ledger.joined(as_of=hour(9))["label"].to_list() == [1.0]


def test_what_was_written_last_is_not_added_again(url: str) -> None:
    with closing(open_ledger(url)) as ledger:
        use = GateUse(hour(1), "run1", "abc", hour(0), hour(9), 100, "log_loss", "pass")
        ledger.write_gate_use(use)
        ledger.write_gate_use(use)
        assert ledger.gate_uses() == [use]


@pytest.mark.parametrize(
    "url",
    [
        "postgres://",
        "postgres:///",
        "postgres://u:pass/word@host/db",
        "postgres://u:12?3@host/db",
        "postgres://u:12#3@host/db",
        "postgres://host:port/db",
        "postgres://host/db?nonsense=1",
        "postgres://host/db?schema",
    ],
)
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(SettingsError, match="is no ledger") as caught:
        open_ledger(url)
    assert "postgres://user:password@host" in str(caught.value)
    assert "pass/word" not in str(caught.value)


def test_errors_hide_the_password_and_tell_the_next_step(server: PostgresServer) -> None:
    secret, wrong = quote(PASSWORD, safe=""), "hunter2secret"
    place = f"@127.0.0.1:{server.port}"
    for url, told in (
        (server.url.replace(secret, wrong), "see that"),
        (server.url.replace(place, f"@127.0.0.1:{free_port()}"), "see that the server runs"),
        (server.url.replace("/postgres", "/nowhere"), "see that the server runs"),
        (f"{server.url}?sslmode=require", "see that the server runs"),
        (f"{server.url}?options=-c%20default_transaction_read_only%3Don", "the primary"),
    ):
        with pytest.raises(LedgerError, match="the ledger cannot be used") as caught:
            open_ledger(url)
        text = f"{caught.value!s} {caught.value!r} {caught.value.__cause__} {vars(caught.value)}"
        assert told in text
        assert "meguri:***@127.0.0.1" in text
        assert not [word for word in (secret, PASSWORD, wrong) if word in text]


def test_a_user_without_rights_is_told(url: str, admin: psycopg.Connection[Any]) -> None:
    with contextlib.suppress(psycopg.errors.DuplicateObject):
        admin.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    guest = url.replace(f"meguri:{quote(PASSWORD, safe='')}", "guest:guest")
    with pytest.raises(LedgerError, match="permission denied") as caught:
        open_ledger(guest)
    assert "GRANT" in str(caught.value)
    open_ledger(url).close()
    admin.execute("GRANT USAGE ON SCHEMA meguri TO guest; GRANT SELECT ON ALL TABLES IN SCHEMA meguri TO guest")
    with closing(open_ledger(guest)) as ledger:  # who may read opens it, and may not write
        assert ledger.joined(as_of=hour(9)).height == 0
        with pytest.raises(LedgerError, match="permission denied"):
            ledger.write_turn(TurnRecord("run1", hour(0), "why", "done"))


def test_another_programs_schema_is_left_alone(url: str, admin: psycopg.Connection[Any]) -> None:
    admin.execute("CREATE SCHEMA meguri")
    admin.execute("CREATE TABLE meguri.invoices (n int)")
    with pytest.raises(LedgerError, match="'meguri' is no ledger of Meguri") as caught:
        open_ledger(url)
    assert "?schema=" in str(caught.value)
    assert admin.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'meguri'").fetchone() == (1,)


def test_a_newer_version_is_told(url: str, admin: psycopg.Connection[Any]) -> None:
    open_ledger(url).close()
    admin.execute("INSERT INTO ledger_version VALUES (99)")
    with pytest.raises(LedgerError, match="has version 99") as caught:
        open_ledger(url)
    assert "upgrade meguri" in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_a_migration_that_fails_leaves_the_old_version(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(open_ledger(url)) as ledger:
        ledger.write_predictions(some_predictions(3))
    known = ledger_postgres_schema.MIGRATIONS
    good, bad = "CREATE TABLE notes (n integer)", "CREATE TABLE predictions (n integer)"
    monkeypatch.setattr(ledger_postgres_schema, "MIGRATIONS", (*known, (good, bad)))
    with pytest.raises(LedgerError, match="already exists"):
        open_ledger(url)
    monkeypatch.setattr(ledger_postgres_schema, "MIGRATIONS", (*known, (good,)))
    with closing(open_ledger(url)) as ledger:
        assert ledger.joined(as_of=hour(100)).height == 3
    monkeypatch.undo()
    with pytest.raises(LedgerError, match=f"has version {len(known) + 1}"):
        open_ledger(url)


def test_threads_share_a_ledger(url: str) -> None:
    def work(start: int) -> None:
        for _ in range(20):
            ledger.write_predictions(some_predictions(3, start))
            ledger.joined(as_of=hour(100))

    with closing(open_ledger(url)) as ledger:
        workers = [threading.Thread(target=work, args=(start,)) for start in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert ledger.awaited(as_of=hour(100)).count == 240


def test_writers_of_the_same_at_once_write_it_once(url: str) -> None:
    """Each with a connection of its own and in another order, new origins and labels included."""
    tables = [some_predictions(30, start * 30, release=f"r{start}") for start in range(6)]
    events = [Event(f"e{i}", "u", hour(i), "buy") for i in range(200)]
    new: list[int] = []
    barrier = threading.Barrier(4)

    def work(seed: int) -> None:
        chance = random.Random(seed)
        with closing(open_ledger(url)) as ledger:
            barrier.wait()
            for table in chance.sample(tables, 6):
                new.append(ledger.write_predictions(table.sample(30, shuffle=True, seed=seed)))
                new.append(
                    -30 * ledger.write_labels(some_labels(table["key"].to_list(), [1.0] * 30, hour(4))).new // 30
                )
            new.append(ledger.write_events(chance.sample(events, 200)))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    with closing(open_ledger(url)) as ledger:
        found = ledger.joined(as_of=hour(1000))
        assert sum(new) == 200
        assert sorted(found["prediction_id"]) == sorted(pl.concat(tables)["prediction_id"])
        assert found["release"].n_unique() == 6
        assert found["label"].null_count() == 0
        assert ledger.awaited(as_of=hour(1000)) == Awaited(0)
        assert ledger.events(since=hour(0), until=hour(999)).height == 200


def test_what_was_acknowledged_first_comes_first(url: str) -> None:
    """Whichever connection wrote it, and though another's open transaction has taken numbers meanwhile."""
    with closing(open_ledger(url)) as one, closing(open_ledger(url)) as two, closing(psycopg.connect(url)) as late:
        tables = [some_predictions(5, start * 5) for start in range(4)]
        for number, table in enumerate(tables):
            (one, two)[number % 2].write_predictions(table)
            late.execute("SELECT nextval(pg_get_serial_sequence('meguri.predictions', 'n'))")
        for ledger in (one, two):
            found = ledger.joined(as_of=hour(100))
            assert found["prediction_id"].equals(pl.concat(tables)["prediction_id"])


def test_a_connection_that_was_cut_is_opened_again(url: str, admin: psycopg.Connection[Any]) -> None:
    cut = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'meguri'"
    table = some_predictions(3)
    with closing(open_ledger(url)) as ledger:
        for number, use in enumerate((lambda: ledger.write_predictions(table), lambda: ledger.joined(as_of=hour(9)))):
            admin.execute(f"{cut} AND datname = current_database()")
            assert use() is not None, number
        assert ledger.write_labels(some_labels(["k0"], [1.0], hour(4))).new == 1


@pytest.mark.parametrize("asked_while_down", [True, False])
def test_a_server_that_was_stopped_and_started(asked_while_down: bool) -> None:
    with postgres_server() as server, closing(open_ledger(server.url)) as ledger:
        assert ledger.write_predictions(some_predictions(3)) == 3
        server.stop()
        if asked_while_down:
            for use in (ledger.turns, lambda: ledger.write_predictions(some_predictions(1))):
                with pytest.raises(LedgerError, match="the ledger cannot be used") as caught:
                    use()
                assert "see that the server runs" in str(caught.value)
                assert "meguri:***@" in str(caught.value)
                assert PASSWORD not in str(caught.value)
        server.start()
        assert ledger.write_predictions(some_predictions(2, start=3)) == 2
        assert ledger.joined(as_of=hour(9)).height == 5
