"""A tick of a whole project ends the A/B test whose guardrail is broken, on events in the ledger."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import START, forget_project, stopped_after
from loop.ab_past import DAY, answer, happen

from meguri.base.files import read_json
from meguri.cli import turns
from meguri.loop.project import Project
from meguri.loop.turn import turn
from meguri.record import rollout
from meguri.record.ledger import Label

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


def test_tests_that_cannot_be_read_keep_a_tick_from_nothing_that_is_due(
    project_root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def meguri(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "meguri", *words]
        return subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)

    schema = project_root / "src" / "repository" / "schema.py"
    without = schema.read_text()
    worth = "Value('JPY', {True: {True: 9, False: -9}, False: {True: -9, False: 9}})"
    priced = without.replace("import Contract", "import Contract, Value")
    schema.write_text(priced.replace('label_after="6h"', f'label_after="6h", value={worth}'))
    project = Project.open(project_root)
    made = turn(project, now=START, reason="first").release
    assert made is not None
    shutil.copytree(project.outputs / "releases" / made, project.outputs / "releases" / "b")
    outlets = {"rest": "value", "edge": "event:buy", "search": "value"}
    for outlet in outlets:
        rollout.promote(project.ledger, outlet, made, at=START, why="first", by="test")
    for minute, (outlet, metric) in enumerate(outlets.items(), 1):
        at = (START + timedelta(minutes=minute)).isoformat()
        guards = ["--guard=-event:leave=0.02"] if outlet == "edge" else []
        begun = meguri("ab", "start", "b", "--metric", metric, "--outlet", outlet, "--now", at, *guards)
        assert begun.returncode == 0, begun.stderr
        answer(project, UNITS[:800], START + DAY, made, outlet=outlet, arm="champion")
        answer(project, UNITS[800:], START + DAY, "b", outlet=outlet)
    happen(project, "leave", dict.fromkeys(UNITS[800:], 1.0), START + DAY + timedelta(hours=1))
    known = [Label(1.0, START + 2 * DAY, "mika", key=f"{unit}@0302") for unit in UNITS]
    project.ledger.write_labels(known)
    ids = {test.outlet: test.id for test in project.ledger.experiments()}
    schema.write_text(without)  # somebody took the money out of the contract while the tests run

    now = START + 10 * DAY
    ended = meguri("tick", "--json", "--now", now.isoformat())
    assert ended.returncode == 1
    assert "the ledger cannot tell 'value'" in ended.stderr
    assert ids["rest"] in ended.stderr
    assert ids["search"] in ended.stderr
    assert ids["edge"] not in ended.stderr
    assert "Traceback" not in ended.stderr
    done = json.loads(ended.stdout)
    assert (done["labels"], done["test"]) == (24, made), "labels came, and the test that can be read is decided"
    assert done["turn"]["status"] == "done"
    assert done["predictions"] == 24
    assert read_json(project_root / "outputs" / "tick.json") == {"at": now.isoformat()}
    live = rollout.current(project.ledger, "edge")
    assert live is not None
    assert (live.champion, dict(live.challengers), live.by) == (made, {}, "ab")

    stopped_after(2, now + timedelta(hours=1), monkeypatch)
    forget_project()
    turns.loop(project=str(project_root))
    said = capfd.readouterr()
    assert said.out.count("nothing to turn for") == 2
    assert said.err.count("the ledger cannot tell 'value'") == 2, "a loop goes on, and tells it at each tick"
    assert meguri("ab", "stop").returncode == meguri("ab", "stop", "--outlet", "search").returncode == 0
    assert meguri("tick", "--now", (now + timedelta(hours=2)).isoformat()).returncode == 0
    project.ledger.close()
