"""What is set aside of the answers of services, on a file and on a server: beside other processes, and what is no fault of the data."""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from data.servers import PostgresServer, postgres_server
from record.test_ledger_postgres import fresh

from meguri.base.errors import LedgerError
from meguri.record import ledger_migrations, ledger_postgres_schema
from meguri.record.ledger import Ledger, open_ledger
from meguri.record.served import pack
from meguri.testing.ledger_rows import hour, some_answers, some_predictions

Sql = Callable[..., Any]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db" if request.param == "sqlite" else fresh(request.getfixturevalue("server"))


@pytest.fixture
def admin(url: str) -> Iterator[Sql]:
    """Another program's connection to the database."""
    if url.startswith("sqlite"):
        db: Any = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=0)
    else:
        db = psycopg.connect(url, autocommit=True, options="-c search_path=meguri")
    with closing(db):
        yield db.execute


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with closing(open_ledger(url)) as ledger:
        yield ledger


def refuse(url: str, key: str) -> tuple[str, str]:
    """How the database is made to refuse a key, and to take it again."""
    if url.startswith("sqlite"):
        when = f"BEFORE INSERT ON predictions WHEN new.key = '{key}'"
        return f"CREATE TRIGGER picky {when} BEGIN SELECT RAISE(ABORT, 'no'); END", "DROP TRIGGER picky"
    add = f"ALTER TABLE predictions ADD CONSTRAINT picky CHECK (key <> '{key}')"
    return add, "ALTER TABLE predictions DROP CONSTRAINT picky"


def test_what_the_database_takes_by_now_is_settled_when_it_is_tried_again(url: str, ledger: Ledger, admin: Sql) -> None:
    add, drop = refuse(url, "k1")
    admin(add)
    for answer in some_answers(some_predictions(3)):
        ledger.write_answers(pack([answer]))
    ledger.write_answers(b"?")
    assert ledger.awaited(as_of=hour(99)).count == 2
    assert len(ledger.aside()) == 2
    admin(drop)
    assert ledger.settle() == 0  # not by itself: each reader would try it
    assert ledger.retry_aside() == 2
    assert ledger.awaited(as_of=hour(99)).count == 3
    assert [found.answers for found in ledger.aside()] == [b"?"]


def test_it_is_told_once_and_without_what_the_row_holds(
    url: str, ledger: Ledger, admin: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    admin(refuse(url, "k0")[0])
    ledger.write_answers(pack(some_answers(some_predictions(1))))
    with caplog.at_level(logging.INFO, logger="meguri.ledger"):
        for _ in range(3):
            assert ledger.find("k0") == []
    (record,) = caplog.records
    assert "set aside" in record.getMessage()
    assert "meguri ledger aside" in record.getMessage()
    assert "k0" not in record.getMessage()


def test_many_who_settle_at_once_lose_and_double_nothing(url: str, ledger: Ledger) -> None:
    answers = some_answers(some_predictions(300))
    rows = [pack([answer]) if n % 7 else b"damaged %d" % n for n, answer in enumerate(answers)]
    for row in rows:
        ledger.write_answers(row)
    barrier, counts, failed = threading.Barrier(4), list[int](), list[Exception]()

    def work() -> None:
        try:
            with closing(open_ledger(url)) as own:
                barrier.wait()
                counts.append(own.settle())
                counts.append(own.settle())
        except Exception as error:
            failed.append(error)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failed == []
    assert sum(counts) == 257
    assert ledger.joined(as_of=hour(999)).height == 257
    assert sorted(found.answers for found in ledger.aside()) == sorted(row for row in rows if row[:1] == b"d")


@pytest.mark.parametrize("trouble", ["held", "read only"])
def test_what_is_no_fault_of_the_data_sets_nothing_aside(url: str, admin: Sql, trouble: str) -> None:
    """Neither while a batch is moved, nor while a row is tried alone, since the one before it is damaged."""
    with closing(open_ledger(url)) as ledger:
        ledger.write_answers(b"?")
        ledger.write_answers(pack(some_answers(some_predictions(2000))))
    lite = url.startswith("sqlite")
    with closing(open_ledger(url, limit=0.3)) as ledger:
        if trouble == "held":
            for sql in ("BEGIN IMMEDIATE",) if lite else ("BEGIN", "LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE"):
                admin(sql)
            after = ["ROLLBACK"]
        elif lite:
            ledger._db.execute("PRAGMA query_only = ON")  # type: ignore[attr-defined]
            after = []
        else:
            name = admin("SELECT current_database()").fetchone()[0]
            admin(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            cut = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'meguri'"
            admin(f"{cut} AND datname = current_database()")
            after = ["SET default_transaction_read_only = off", f"ALTER DATABASE {name} RESET ALL"]
        for _ in range(2):
            with pytest.raises(LedgerError):
                ledger.settle()
        for sql in after:
            admin(sql)
    with closing(open_ledger(url)) as ledger:
        assert [found.answers for found in ledger.aside()] in ([], [b"?"])  # a text needs no table to be damaged
        assert ledger.settle() == 2000
        assert [found.answers for found in ledger.aside()] == [b"?"]


def test_a_full_disk_sets_nothing_good_aside(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    with closing(open_ledger(url)) as ledger:
        ledger.write_answers(b"?")
        ledger.write_answers(pack(some_answers(some_predictions(2000))))
        pages = ledger._all("PRAGMA page_count")[0][0]  # type: ignore[attr-defined]
        ledger._db.execute(f"PRAGMA max_page_count = {pages + 2}")  # type: ignore[attr-defined]
        for _ in range(2):
            with pytest.raises(LedgerError, match="full"):
                ledger.settle()
    with closing(open_ledger(url)) as ledger:
        assert ledger.settle() == 2000
        assert [found.answers for found in ledger.aside()] == [b"?"]


def test_what_waits_in_a_ledger_of_the_last_version_is_taken_over(
    url: str, monkeypatch: pytest.MonkeyPatch, admin: Sql
) -> None:
    lite = url.startswith("sqlite")
    with monkeypatch.context() as old:
        if lite:
            old.setattr(ledger_migrations, "MIGRATIONS", ledger_migrations.MIGRATIONS[:-1])
            old.setattr("meguri.record.ledger_sqlite.MIGRATIONS", ledger_migrations.MIGRATIONS)
        else:
            old.setattr(ledger_postgres_schema, "MIGRATIONS", ledger_postgres_schema.MIGRATIONS[:-1])
        with closing(open_ledger(url)) as ledger:
            for packed in (b"?", pack(some_answers(some_predictions(2)))):
                ledger.write_answers(packed)
    count = "SELECT count(*) FROM " + ("sqlite_master" if lite else "pg_tables") + " WHERE "
    assert admin(count + ("name = 'aside'" if lite else "tablename = 'aside'")).fetchone() == (0,)
    with closing(open_ledger(url)) as ledger:
        assert ledger.awaited(as_of=hour(99)).count == 2
        assert [found.answers for found in ledger.aside()] == [b"?"]


def test_a_row_that_is_no_bytes(tmp_path: Path) -> None:
    """As a hand, or a damaged file, may have left it."""
    with closing(open_ledger(f"sqlite:///{tmp_path}/ledger.db")) as ledger:
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
            text = pack(some_answers(some_predictions(1))).decode()
            for sql in ("CAST(x'FF41' AS TEXT)", "7", "1.5", "?"):
                db.execute(f"INSERT INTO inbox (answers) VALUES ({sql})", (text,) if sql == "?" else ())
            db.commit()
        assert ledger.awaited(as_of=hour(99)).count == 1
        assert [found.answers for found in ledger.aside()] == [b"\xffA", b"7", b"1.5"]


def test_a_key_that_no_index_takes(server: PostgresServer) -> None:
    """PostgreSQL has a limit of its own for a value in an index, and keeps no NUL."""
    chance = random.Random(1)
    long = "".join(chr(chance.randrange(0x4E00, 0x9FA5)) for _ in range(5000))
    with closing(open_ledger(fresh(server))) as ledger:
        for answer, key in zip(some_answers(some_predictions(3)), (long, "a\0b", "fine"), strict=True):
            ledger.write_answers(pack([answer._replace(keys=[key])]))
        assert ledger.joined(as_of=hour(99))["key"].to_list() == ["fine"]
        assert [found.reason.split(":")[0] for found in ledger.aside()] == ["ProgramLimitExceeded", "DataError"]
