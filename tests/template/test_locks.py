"""Each lock tool makes a real environment, and the project's own tests and checks pass in it."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from meguri.loop import scaffold

from .conftest import commit

# What the make around the tests and coverage lend is not for the project; what is imported is compiled then, the rest never.
NOT_OURS = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")


@pytest.fixture
def environment(monkeypatch) -> dict[str, str]:
    for name in os.environ:
        if name in NOT_OURS or name.startswith(("COV", "PYTEST")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COMPILE", "")
    monkeypatch.setenv("PIP_NO_COMPILE", "1")
    return dict(os.environ)


def run(project: Path, environment: dict[str, str], *words: str) -> str:
    done = subprocess.run(words, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


OTHERS = [
    {"task": task, "language": language, "outlets": outlets}
    for task, language, outlets in itertools.product(("classification", "regression"), ("en", "ja"), (["table"], []))
][1:]  # the first is made with all of its own


@pytest.mark.slow
@pytest.mark.parametrize("lock", ["uv", "poetry", "pipenv"])
def test_every_project_works_in_the_environment_of_its_lock(tmp_path, environment, lock):
    """The environment depends on the lock tool alone, so that one serves all the other choices."""
    first = scaffold.new(tmp_path / "first", {"name": "first", "lock": lock})
    scaffold.lock(first)
    commit(first)
    run(first, environment, "make", "install", "check", "test")
    for number, choices in enumerate(OTHERS):
        other = scaffold.new(tmp_path / f"other{number}", {"name": "other", "lock": lock, **choices})
        (other / ".venv").symlink_to(first / ".venv")
        run(other, environment, ".venv/bin/python", "-m", "pytest")
    assert "register" in run(other, environment, ".venv/bin/meguri", "turn", "optimize.trials=1")
