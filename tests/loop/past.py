"""A small project with a past, under git: what the tests about reruns, comparisons and lineage start from."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import START, forget_project, write_project

from meguri.loop.project import Project
from meguri.loop.turn import turn

IGNORED = "/outputs/*\n/data/*\n!/data/*.dvc\n__pycache__/\n"
MODEL = "src/models/alarm_classifier.py"


def git(root: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    return subprocess.run(["git", *who, *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


def commit(root: Path, message: str) -> None:
    git(root, "add", ".")
    git(root, "commit", "-qm", message)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Whatever a command has imported of a project is forgotten after each test; a test file imports this to have it."""
    yield
    forget_project()


def start(root: Path, store: Path, files: dict[str, str] | None = None, *, under_git: bool = True) -> Path:
    """The small project, committed."""
    write_project(root, files)
    (root / "outputs").mkdir()
    shutil.copy(store, root / "outputs" / "mlflow.db")
    (root / ".gitignore").write_text(IGNORED)
    if under_git:
        git(root, "init", "-q")
        commit(root, "first")
    return root


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def run(root: Path, day: int = 0, *, reason: str = "a turn", overrides: list[str] | None = None) -> str:
    """Turn once, so many days after the start; the run's id."""
    forget_project()
    try:
        return turn(Project.open(root), now=START + timedelta(days=day), reason=reason, overrides=overrides or []).id
    finally:
        forget_project()


def runs(root: Path) -> list[str]:
    return [turn.id for turn in Project.open(root).ledger.turns()]
