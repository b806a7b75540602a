"""A tick of a whole project ends the A/B test whose guardrail is broken, on events in the ledger."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import START
from loop.ab_past import DAY, answer, happen

from meguri.loop.project import Project
from meguri.loop.turn import turn
from meguri.record import rollout

pytestmark = pytest.mark.slow
UNITS = [f"u{n}" for n in range(1600)]


def test_a_broken_guardrail_is_rolled_back_by_meguri_tick(project_root: Path) -> None:
    def meguri(*words: str) -> str:
        command = [sys.executable, "-m", "meguri", *words]
        done = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    settings = project_root / "hydra" / "default.yaml"
    settings.write_text(settings.read_text().replace("{table: {}}", "{table: {}, rest: {}}"))
    project = Project.open(project_root)
    made = turn(project, now=START, reason="first").release
    assert made is not None
    shutil.copytree(project.outputs / "releases" / made, project.outputs / "releases" / "b")
    start = START + timedelta(minutes=1)
    meguri("ab", "start", "b", "--metric", "event:buy", "--guard=-event:leave=0.02", "--now", start.isoformat())
    for day in range(1, 5):  # each day a quarter of the units; every fifth of B's leaves, of A's one in twenty
        units = UNITS[400 * (day - 1) : 400 * day]
        answer(project, units[:200], START + day * DAY, made, arm="champion")
        answer(project, units[200:], START + day * DAY, "b")
        left = [*units[:200:20], *units[200::5]]
        happen(project, "leave", dict.fromkeys(left, 1.0), START + day * DAY + timedelta(hours=1))
        happen(project, "buy", dict.fromkeys(units[::8], 1.0), START + day * DAY + timedelta(hours=1))
    told = []
    for day in range(1, 7):
        now = START + day * DAY + timedelta(hours=2)
        told.append(json.loads(meguri("tick", "--json", "--now", now.isoformat()))["test"])
    ended = told.index(made)
    assert told == [None] * ended + [made] + [None] * (5 - ended), "it ended once, when it was sure"
    assert ended > 0
    live = rollout.current(project.ledger, "rest")
    assert live is not None
    assert (live.champion, dict(live.challengers), live.by) == (made, {}, "ab")
    status = meguri("ab", "status", "--now", (START + 30 * DAY).isoformat())
    assert "B is worse in event:leave by at least" in status
    assert "it ended 2024-03-0" in status
    project.ledger.close()
