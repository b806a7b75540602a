"""``python -m src.main``, in this process: what its arguments mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import START

from meguri import main
from meguri.loop.project import Project

NOW = f"now={START.isoformat()}"


def run(root: Path, *arguments: str) -> None:
    main(str(root / "src" / "main.py"), arguments)


def test_without_jobs_it_is_a_whole_turn(project_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(project_root, NOW)
    said = capsys.readouterr().out
    assert "retrieve …" in said
    assert f"release {Project.open(project_root).champion()} is live" in said
    run(project_root, "jobs=[predict,register]", "now=2024-03-02")
    assert "24 rows predicted" in capsys.readouterr().out


def test_help_says_what_it_takes(project_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(project_root, "--help")
    assert "jobs=train run=ID" in capsys.readouterr().out


def test_multirun_tries_each_combination_without_putting_any_live(
    project_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(project_root, "--multirun", "jobs=retrieve,optimize,train,evaluate", NOW, "optimize.trials=1,2")
    runs = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("run ")]
    project = Project.open(project_root)
    assert len(set(runs)) == 2
    assert project.champion() is None
    assert {r["params"]["optimize.trials"] for r in project.tracking.runs()} == {"1", "2"}


def test_a_run_keeps_its_settings(project_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(project_root, "jobs=retrieve", NOW)
    name = capsys.readouterr().out.split()[-1]
    with pytest.raises(SystemExit):
        run(project_root, "jobs=train", f"run={name}", "seed=3")
    assert "keeps the settings that it was started with" in capsys.readouterr().err
