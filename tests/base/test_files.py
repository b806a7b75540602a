"""Files are whole or not there; locks hold between processes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import meguri
from meguri.base.files import locked, new_folder, read_json, sha256, write_atomic, write_json


def test_write_atomic_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    write_atomic(path, "one")
    write_atomic(path, "巡り")
    assert path.read_text(encoding="utf-8") == "巡り"
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_write_atomic_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old").touch()
    with pytest.raises(OSError, match="directory"):
        write_atomic(tmp_path / "target", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target" / "old").exists()


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"名": [1, None], "at": datetime(2013, 4, 1, tzinfo=UTC), "path": tmp_path})
    assert read_json(tmp_path / "x.json") == {"名": [1, None], "at": "2013-04-01 00:00:00+00:00", "path": str(tmp_path)}
    assert "名" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_new_folder(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "made") as draft:
        (draft / "sub").mkdir()
        (draft / "sub" / "file").write_text("x")
        (draft / "sub" / "link").symlink_to("nowhere")
        assert not (tmp_path / "deep" / "made").exists()
    assert (tmp_path / "deep" / "made" / "sub" / "file").read_text() == "x"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["made"]
    assert (tmp_path / "deep" / "made").stat().st_mode & 0o777 == 0o755


def test_new_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with new_folder(tmp_path / "made") as draft:
            (draft / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_new_folder_never_takes_the_place_of_another(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "old").touch()
    with pytest.raises(OSError, match="not empty"), new_folder(tmp_path / "made") as draft:
        (draft / "new").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["made", "old"]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"meguri")
    assert sha256(tmp_path / "x") == hashlib.sha256(b"meguri").hexdigest()


HOLDER = """
import sys, time
from pathlib import Path
from meguri.base.files import locked
with locked(Path(sys.argv[1])) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.lock"
    environment = os.environ | {"PYTHONPATH": str(Path(meguri.__file__).parents[1])}
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        with locked(path, wait=False) as held:
            assert held is False
        holder.kill()
    with locked(path, wait=False) as held:
        assert held is True


def test_the_lock_is_let_go_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match="own"), locked(tmp_path / "x.lock"):
        raise BlockingIOError("an error of its own")
    with locked(tmp_path / "x.lock", wait=False) as held:
        assert held
