"""The SQLite ledger: the conformance kit, a plain Python model beside it, and files in every bad state."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from record.ledger_model import MODEL_SETTINGS, LedgerModel

from meguri.base.errors import LedgerError, SettingsError
from meguri.record import ledger_columns, ledger_migrations, ledger_sqlite
from meguri.record.ledger import Label, Ledger, open_ledger
from meguri.testing.ledger import LedgerCase
from meguri.testing.ledger_rows import hour, some_labels, some_predictions

FRAME = pl.DataFrame({"key": ["k0"], "value": [1.0], "source": ["time"]}).with_columns(known_at=pl.lit(hour(1)))


class TestSqliteLedger(LedgerCase):
    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Iterator[Ledger]:
        with closing(open_ledger(f"sqlite:///{tmp_path}/deep/ledger.db")) as ledger:
            yield ledger


class AgainstAModel(LedgerModel):
    def open(self) -> Ledger:
        if not hasattr(self, "folder"):
            self.folder = tempfile.TemporaryDirectory()
        return open_ledger(f"sqlite:///{self.folder.name}/ledger.db")

    def let_go(self) -> None:
        self.folder.cleanup()


AgainstAModel.TestCase.settings = MODEL_SETTINGS
TestAgainstAModel = AgainstAModel.TestCase


def test_opening_needs_no_polars(tmp_path: Path) -> None:
    code = (
        "import sys; from datetime import datetime; from meguri.record.ledger import open_ledger\n"
        f"ledger = open_ledger('sqlite:///{tmp_path}/ledger.db'); now = datetime(2013, 4, 1)\n"
        "ledger.awaited(as_of=now); ledger.count_labels(since=now, as_of=now); ledger.turns(); ledger.rollouts(); ledger.close()\n"
        "print('polars' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_relative_path_is_the_folder_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_ledger("sqlite:///outputs/ledger.db").close()
    assert (tmp_path / "outputs" / "ledger.db").is_file()


@pytest.mark.parametrize("url", ["", "ledger.db", "sqlite://", "sqlite:///", "mysql:///x"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(SettingsError, match="is no ledger") as caught:
        open_ledger(url)
    assert "sqlite:///outputs/ledger.db" in str(caught.value)


def test_commits_are_synced(tmp_path: Path) -> None:
    with closing(ledger_sqlite.SqliteLedger(tmp_path / "ledger.db")) as ledger:
        pragmas = [ledger._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert pragmas == ["wal", 2]


def test_the_tables_only_grow(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(open_ledger(f"sqlite:///{path}")) as ledger:
        ledger.write_predictions(some_predictions(1))
        ledger.write_labels(some_labels(["k0"], [1.0], hour(4)))
        assert ledger.prune(hour(0)) == 0
    with closing(sqlite3.connect(path)) as db:
        for sql in ("UPDATE predictions SET score = 0", "DELETE FROM labels", "UPDATE origins SET release = 'r9'"):
            with pytest.raises(sqlite3.IntegrityError, match="only grow"):
                db.execute(sql)


def test_other_columns_types_and_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meguri.record.ledger_columns.PIECE", 3)
    table = some_predictions(8).with_columns(
        pl.col("time").dt.cast_time_unit("ms"), pl.col("due").dt.replace_time_zone(None), key=pl.int_range(8), extra=1
    )
    with closing(open_ledger(f"sqlite:///{tmp_path}/ledger.db")) as ledger:
        assert ledger.write_predictions(table) == 8
        ledger.write_labels(some_labels(["0", "1", "2", "3"], [1, 2, 3, 4], hour(9)))
        ledger.write_labels(some_labels(["6"], ["late"], hour(9)))
        two = FRAME.with_columns(key=pl.lit("1"), value=pl.lit("two").cast(pl.Categorical), known_at=pl.lit(hour(10)))
        ledger.write_labels(ledger_columns.labels(two))
        found = ledger.joined(as_of=hour(100))
    assert found["label"].to_list() == ["1", "two", "3", "4", None, None, "late", None]
    assert found["due"].to_list() == [hour(i + 2) for i in range(8)]
    assert found["key"].to_list() == [str(i) for i in range(8)]


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (FRAME.drop("source"), "no column 'source'"),
        (FRAME.with_columns(value=pl.struct("key")), "which is no String"),
        (FRAME.with_columns(known_at=pl.lit(None, pl.Datetime)), "'known_at' is empty"),
    ],
)
def test_wrong_labels(labels: pl.DataFrame, told: str) -> None:
    with pytest.raises(LedgerError, match=told):
        ledger_columns.labels(labels)


@pytest.mark.parametrize(
    ("label", "told"),
    [
        (Label(1.0, hour(1), "time"), "neither"),
        (Label(1.0, hour(1), "time", prediction_id="17"), "'17' is no prediction id"),
    ],
)
def test_a_label_of_nothing_is_told_and_none_is_written(tmp_path: Path, label: Label, told: str) -> None:
    with closing(open_ledger(f"sqlite:///{tmp_path}/ledger.db")) as ledger:
        ledger.write_predictions(some_predictions(1))
        with pytest.raises(LedgerError, match=told):
            ledger.write_labels([*some_labels(["k0"], [1.0], hour(1)), label])
        assert ledger.awaited(as_of=hour(9)).count == 1


def test_threads_share_a_ledger(tmp_path: Path) -> None:
    with closing(open_ledger(f"sqlite:///{tmp_path}/ledger.db")) as ledger:
        workers = [
            threading.Thread(
                target=lambda start=start: [ledger.write_predictions(some_predictions(3, start)) for _ in range(20)]
            )
            for start in range(4)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert ledger.awaited(as_of=hour(100)).count == 240


def test_a_newer_version_is_told(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    open_ledger(f"sqlite:///{path}").close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match="has version 99") as caught:
        open_ledger(f"sqlite:///{path}")
    assert str(path) in str(caught.value)
    assert "upgrade meguri" in str(caught.value)


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE invoices (n)")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="no ledger of Meguri"):
        open_ledger(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_migration_that_fails_leaves_the_old_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    with closing(open_ledger(url)) as ledger:
        ledger.write_predictions(some_predictions(3))
    known = ledger_migrations.MIGRATIONS
    good, bad = "CREATE TABLE notes (n INTEGER PRIMARY KEY)", "CREATE TABLE predictions (n)"
    for steps, fails in (((good, bad), True), ((good,), False)):
        for module in (ledger_migrations, ledger_sqlite):
            monkeypatch.setattr(module, "MIGRATIONS", (*known, steps))
        if fails:
            with pytest.raises(LedgerError, match="already exists"):
                open_ledger(url)
        else:
            with closing(open_ledger(url)) as ledger:
                assert ledger.joined(as_of=hour(100)).height == 3
    monkeypatch.undo()
    with pytest.raises(LedgerError, match=f"has version {len(known) + 1}"):
        open_ledger(url)


def test_a_ledger_of_the_first_version_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as db, monkeypatch.context() as old:
        old.setattr(ledger_migrations, "MIGRATIONS", ledger_migrations.MIGRATIONS[:1])
        ledger_migrations.migrate(db)
        db.execute("INSERT INTO origins VALUES (1, 'r1', NULL, 'table', 'champion')")
        db.execute("INSERT INTO predictions VALUES (1, zeroblob(16), 'k', 0, 0, 0, 1, 0.5, NULL, NULL)")
        db.commit()
    with closing(open_ledger(f"sqlite:///{path}")) as ledger:
        assert ledger.write_predictions(some_predictions(1)) == 1
        assert ledger.joined(as_of=hour(9))["propensity"].to_list() == [None, 0.9]


def test_the_file_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_text("all predictions were right, " * 400)
    with pytest.raises(LedgerError, match="not a database") as caught:
        open_ledger(f"sqlite:///{path}")
    assert "backup" in str(caught.value)


def test_a_corrupted_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(open_ledger(f"sqlite:///{path}")) as ledger:
        ledger.write_predictions(some_predictions(2000))
    raw = bytearray(path.read_bytes())
    raw[4096 * 3 :] = os.urandom(len(raw) - 4096 * 3)
    path.write_bytes(raw)
    with pytest.raises(LedgerError, match="malformed") as caught, closing(open_ledger(f"sqlite:///{path}")) as ledger:
        ledger.joined(as_of=hour(5000))
    assert "recover" in str(caught.value)


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="unable to open") as caught:
        open_ledger(f"sqlite:///{tmp_path}")
    assert "path is a file" in str(caught.value)
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="cannot be used"):
        open_ledger(f"sqlite:///{tmp_path}/file/ledger.db")


def test_another_process_holds_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    path = tmp_path / "ledger.db"
    with (
        closing(open_ledger(f"sqlite:///{path}")) as ledger,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="locked") as caught:
            ledger.write_predictions(some_predictions(1))
        assert "let it finish" in str(caught.value)
        assert ledger.turns() == []  # who reads need not wait
        other.execute("ROLLBACK")
        assert ledger.write_predictions(some_predictions(1)) == 1


def test_moments_before_1970_and_without_zone(tmp_path: Path) -> None:
    old = some_predictions(1).with_columns(
        pl.lit(datetime(1950, 1, 1)).alias(name) for name in ("time", "due", "made_at")
    )
    with closing(open_ledger(f"sqlite:///{tmp_path}/ledger.db")) as ledger:
        ledger.write_predictions(old)
        assert ledger.joined(as_of=datetime(1950, 1, 1))["time"].to_list() == [datetime(1950, 1, 1, tzinfo=UTC)]
