"""The SQLite ledger when writers are killed or race, disks are full and folders are read-only."""

from __future__ import annotations

import os
import random
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from record.ledger_writers import OPENER, PRUNER, WRITER, all_is_there, python

from meguri.base.errors import LedgerError
from meguri.record.ledger import Awaited, LabelCounts, TurnRecord, open_ledger
from meguri.record.ledger_migrations import migrate
from meguri.testing.ledger_rows import hour, some_labels, some_predictions


@pytest.mark.slow
def test_kill_9_loses_and_doubles_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    chance = random.Random(9)
    heard: set[str] = set()
    start = 0
    for _ in range(20):
        with python(WRITER, url, start) as writer:
            assert writer.stdout is not None
            for _ in range(chance.randint(0, 9)):  # kill at a random moment after a random acknowledgement
                heard.add(writer.stdout.readline().strip())
            for _ in range(chance.randint(0, 30_000)):
                pass
            writer.kill()
            heard.update(line.strip() for line in writer.stdout if line.endswith("\n"))
        with closing(open_ledger(url)) as ledger:
            written = all_is_there(ledger, heard)
            assert ledger._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)  # type: ignore[attr-defined]
            start = max(written, default=-1) + 1
    assert len(heard) > 20


@pytest.mark.slow
def test_six_processes_open_a_fresh_file_and_write(tmp_path: Path) -> None:
    others = [python(OPENER, i, stdin=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(6)]
    assert [other.stdout.readline() for other in others if other.stdout] == ["ready\n"] * 6
    urls = [f"sqlite:///{tmp_path}/{i}/ledger.db" for i in range(5)]
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


def test_a_prune_that_is_killed_deletes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    with closing(open_ledger(url)) as ledger:
        ledger.write_predictions(some_predictions(40))
        ledger.write_labels(some_labels([f"k{i}" for i in range(35)], [1.0] * 35, hour(9)))
        before = ledger.joined(as_of=hour(100))
        with python(PRUNER, url, "meguri.record.ledger_sqlite") as pruner:
            assert pruner.wait() == -9
        assert ledger.joined(as_of=hour(100)).equals(before)
        assert ledger.prune(hour(30)) == 28
        assert ledger.joined(as_of=hour(100)).equals(before[28:])


def mounted(disk: Path, options: str) -> bool:
    disk.mkdir(exist_ok=True)
    mount = shutil.which("mount")
    return (
        mount is not None
        and not subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True).returncode
    )


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB, for those who may mount one."""
    disk = tmp_path / "disk"
    if not mounted(disk, "size=2m"):
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    with closing(open_ledger(f"sqlite:///{small_disk}/ledger.db")) as ledger:
        written = ledger.write_predictions(some_predictions(500))
        ledger.write_labels(some_labels(["k0"], [1.0], hour(4)))
        ballast = small_disk / "ballast"
        with pytest.raises(OSError, match="No space"):
            fill(ballast)
        more = some_predictions(5000, start=500)
        with pytest.raises(LedgerError, match="full") as caught:
            ledger.write_predictions(more)
        assert "free some space" in str(caught.value)
        with pytest.raises(LedgerError):
            ledger.write_labels(some_labels([f"k{i}" for i in range(1, 500)], [1.0] * 499, hour(4)))
        found = ledger.joined(as_of=hour(10**5))
        assert (found.height, found["label"].count()) == (written, 1)
        ballast.unlink()
        assert ledger.write_labels(some_labels(["k0", "k1"], [1.0, 1.0], hour(4))) == LabelCounts(new=1, same=1)
        assert ledger.write_predictions(more.head(500)) == 500
    with closing(open_ledger(f"sqlite:///{small_disk}/ledger.db")) as ledger:
        assert ledger.awaited(as_of=hour(10**5)).count == written + 500 - 2


def test_a_full_disk_at_the_first_opening(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space"):
        fill(small_disk / "ballast")
    with pytest.raises(LedgerError, match="cannot be used"):
        open_ledger(f"sqlite:///{small_disk}/ledger.db")
    (small_disk / "ballast").unlink()
    with closing(open_ledger(f"sqlite:///{small_disk}/ledger.db")) as ledger:
        assert ledger.write_predictions(some_predictions(3)) == 3


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with closing(open_ledger(url)) as ledger:
        ledger.write_predictions(some_predictions(50))
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
        try:
            with pytest.raises(LedgerError) as caught:
                ledger.write_predictions(some_predictions(5000, start=50))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "disk" in str(caught.value)
        assert ledger.joined(as_of=hour(10**5)).height == 50
        assert ledger.write_predictions(some_predictions(5000, start=50)) == 5000


@pytest.mark.parametrize("there", [False, True])
def test_a_read_only_folder(tmp_path: Path, there: bool) -> None:
    folder, root = tmp_path / "disk", os.geteuid() == 0
    if root and not mounted(folder, "size=2m"):
        pytest.skip("no right to mount a read-only disk")
    folder.mkdir(exist_ok=True)
    url = f"sqlite:///{folder}/ledger.db"
    try:
        if there:
            with closing(open_ledger(url)) as ledger:
                ledger.write_predictions(some_predictions(1))
        before = sorted(folder.iterdir())
        if root:  # whom permissions do not stop
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        else:
            folder.chmod(0o555)
        with pytest.raises(LedgerError, match="the ledger cannot be used") as caught:
            open_ledger(url).write_turn(TurnRecord("run1", hour(0), "why", "done"))
        assert "writable" in str(caught.value)
        assert sorted(folder.iterdir()) == before
    finally:
        if root:
            subprocess.run(["umount", folder], check=True)
        else:
            folder.chmod(0o755)


def test_a_ledger_that_another_process_makes_meanwhile_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, url, made = sqlite3.connect, f"sqlite:///{tmp_path}/ledger.db", []

    def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
        db = real(*arguments, **named)

        def between(statement: str) -> None:
            if "sqlite_master" in statement and not made and not db.in_transaction:
                made.append(True)
                other = real(tmp_path / "ledger.db", isolation_level=None)
                migrate(other)
                other.close()

        db.set_trace_callback(between)
        return db

    real(tmp_path / "ledger.db").close()
    monkeypatch.setattr("meguri.record.ledger_sqlite.sqlite3.connect", connect)
    with closing(open_ledger(url)) as ledger:
        assert ledger.turns() == []
