"""A turn that is killed leaves nothing half-made; six processes may open a fresh project at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import START, write_project
from killing import kill_once, prepare, turn


@pytest.mark.slow
def test_a_killed_turn_is_finished_by_the_next_one(project_root: Path, tmp_path: Path) -> None:
    import shutil

    prepare(project_root)
    shutil.copytree(project_root, tmp_path / "whole")
    whole = turn(tmp_path / "whole")
    for share in (0.35, 0.6, 0.75, 0.9):
        assert kill_once(project_root, tmp_path / "killed", share * whole) == [], f"killed after {share} of a turn"


@pytest.mark.slow
def test_six_processes_open_a_fresh_project_at_once(tmp_path: Path) -> None:
    root = write_project(tmp_path / "alarm")
    command = [sys.executable, "-m", "meguri", "turn", "--now", START.isoformat()]
    processes = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(6)
    ]
    told = [process.communicate() for process in processes]
    codes = sorted(process.returncode for process in processes)
    busy = [error for _, error in told if "a turn of this project is under way" in error]
    assert codes.count(0) + len(busy) == 6, told
    assert codes.count(0) >= 1
