"""A service on a disk that fills: a small file system of its own under the ledger, or under the spool."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from outlets.serving import LATER, Served, row

from meguri.base.errors import LedgerError

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted ext4 of 6 MB in a file; skips the test where mounting is not permitted."""
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(6_000_000)
    for command in (["mkfs.ext4", "-q", "-m", "0", image], ["mount", "-o", "loop", image, folder]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            pytest.skip(f"there is no {error.filename} (Debian: e2fsprogs, mount)")
        if done.returncode:
            pytest.skip(f"a file system may not be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # who was killed may still be on its way out


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """No byte is free, until the end."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 1):
            try:
                while True:
                    file.write(b"x" * size)
                    if size == 1:
                        os.fsync(file.fileno())
            except OSError:
                continue
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def serving(tmp_path: Path, ledger: Path, rest: str = "") -> Iterator[Served]:
    served = Served(tmp_path / "alarm", f"outlets: {{rest: {{{rest}}}}}", ledger=f"sqlite:///{ledger}")
    try:
        served.start()
        yield served
    finally:
        served.close()


def ask(served: Served, name: str, got: list[str]) -> tuple[int, dict[str, str], Any]:
    """The answer to a request of a hundred rows; what it acknowledges is noted."""
    status, headers, told = served.whole("POST", "/predict", [row(f"{name}-{place}") for place in range(100)])
    if status == 200:
        got += [answer["prediction_id"] for answer in told]
    return status, headers, told


def refused(ask: Callable[[int], tuple[int, dict[str, str], Any]]) -> str:
    """Ask until there is no place left, also none that the write-ahead log had: why."""
    for turn in count():
        status, headers, told = ask(turn)
        if status != 200:
            break
    assert (status, headers["retry-after"]) == (503, "1"), told
    return str(told["detail"])


def command(served: Served, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "meguri", *words], cwd=served.root, capture_output=True, text=True, check=False
    )


def events(turn: int) -> list[dict[str, Any]]:
    return [{"id": f"e{turn}-{n}", "unit": "u" * 100, "kind": "buy"} for n in range(1000)]


def kept(served: Served) -> list[str]:
    return served.ledger.joined(as_of=LATER)["prediction_id"].to_list()


def test_what_a_full_disk_cannot_take_is_refused_until_there_is_space(tmp_path: Path, disk: Path) -> None:
    got: list[str] = []
    with serving(tmp_path, disk / "ledger.db") as served:
        assert ask(served, "before", got)[0] == 200
        with full(disk):
            assert "could not be written down" in refused(lambda turn: ask(served, f"full{turn}", got))
            assert "cannot be used now" in refused(lambda turn: served.whole("POST", "/events", events(turn)))
            assert served.ask("GET", "/readyz")[0] == 200
            shown = command(served, "rollout", "--json")
            assert (shown.returncode, '"champion": "r-1"' in shown.stdout) == (0, True), shown.stderr
            with suppress(LedgerError):  # what was answered since the last look is settled first, and that needs space
                assert set(kept(served)) == set(got)
            assert "disk is full" in served.log()
        assert ask(served, "after", got)[0] == 200  # without a restart
        assert served.ask("POST", "/events", events(-1)) == (200, {"new": 1000})
        assert served.ask("POST", "/labels", {"prediction_id": got[0], "value": True})[1]["new"] == 1
        assert command(served, "rollout", "--champion", "r-2").returncode == 0
        served.until(lambda: served.ask("GET", "/readyz")[1]["release"] == "r-2")
        assert sorted(kept(served)) == sorted(got)
        served.kill()
        served.start()
        assert ask(served, "again", got)[0] == 200
        assert sorted(kept(served)) == sorted(got)


def test_a_spool_on_the_same_full_disk_refuses_as_well(tmp_path: Path, disk: Path) -> None:
    got: list[str] = []
    (tmp_path / "alarm" / "outputs").mkdir(parents=True)
    (disk / "spool").mkdir()
    (tmp_path / "alarm" / "outputs" / "spool").symlink_to(disk / "spool")
    with serving(tmp_path, disk / "ledger.db", "unwritten: spool") as served:
        with full(disk):
            assert "could not be written down" in refused(lambda turn: ask(served, f"full{turn}", got))
        assert ask(served, "after", got)[0] == 200
        served.until(lambda: not list((disk / "spool").iterdir()))
        assert sorted(kept(served)) == sorted(got)


def test_a_spool_on_another_disk_answers_and_is_drained(tmp_path: Path, disk: Path) -> None:
    got: list[str] = []
    with serving(tmp_path, disk / "ledger.db", "unwritten: spool") as served:
        spooled: Any = (tmp_path / "alarm" / "outputs" / "spool").glob
        with full(disk):
            turns = count()
            while not any(path.stat().st_size for path in spooled("*.jsonl")):
                assert ask(served, f"full{next(turns)}", got)[0] == 200
            assert ask(served, "full", got)[0] == 200
        served.until(lambda: not list(spooled("*")))
        assert ask(served, "after", got)[0] == 200
        assert sorted(kept(served)) == sorted(got)
