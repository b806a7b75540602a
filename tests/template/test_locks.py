"""Each lock tool makes a real environment, and the project's own tests and checks pass in it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from meguri.loop import scaffold

from .conftest import commit


def make(project: Path, *words: str) -> None:
    environment = {
        k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL") and not k.startswith("COV")
    }
    done = subprocess.run(["make", *words], cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("lock", ["uv", "poetry", "pipenv"])
def test_a_project_works_in_the_environment_of_its_lock(tmp_path, lock):
    """The environment depends on the lock tool alone, so that one serves both tasks; the tools' own caches make a second time quick."""
    first = scaffold.new(tmp_path / "classification", {"name": "classification", "lock": lock})
    scaffold.lock(first)
    commit(first)
    make(first, "install")
    make(first, "check")
    make(first, "test")
    second = scaffold.new(
        tmp_path / "regression", {"name": "regression", "lock": lock, "task": "regression", "language": "ja"}
    )
    (second / ".venv").symlink_to(first / ".venv")
    done = subprocess.run([".venv/bin/python", "-m", "pytest"], cwd=second, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
