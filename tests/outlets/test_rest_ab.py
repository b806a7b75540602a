"""An A/B test on a service that runs: started, read and decided by its commands, on what it answered and what users did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import forget_project
from outlets.serving import Served, row, serving

from meguri.base import clock
from meguri.loop import tick
from meguri.loop.project import Project

pytestmark = pytest.mark.slow
UNITS = [f"u{n}" for n in range(1200)]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "shop") as running:
        yield running
    forget_project()


def meguri(service: Served, *words: str) -> str:
    command = [sys.executable, "-m", "meguri", *words]
    done = subprocess.run(command, cwd=service.root, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def visit(service: Served, units: list[str], **rates: tuple[float, float]) -> dict[str, str]:
    """The units are answered, and of each arm so large a part does something: the first of each ten, and so on."""
    arms: dict[str, str] = {}
    for place in range(0, len(units), 100):
        status, answers = service.ask("POST", "/predict", [row(unit) for unit in units[place : place + 100]])
        assert status == 200, answers
        arms |= {answer["key"]: answer["arm"] for answer in answers}
    events: list[dict[str, Any]] = []
    for kind, (a, b) in rates.items():
        for arm, rate in (("champion", a), ("challenger", b)):
            mine = [unit for unit in units if arms[unit] == arm]
            events += [
                {"id": f"{kind}-{u}", "unit": u, "kind": kind} for n, u in enumerate(mine) if n % 100 < 100 * rate
            ]
    for place in range(0, len(events), 100):
        status, told = service.ask("POST", "/events", events[place : place + 100])
        assert status == 200, told
    return arms


def begun(service: Served, *words: str) -> None:
    """The test is started, and the service has seen it."""
    meguri(service, "ab", "start", "r-2", "--metric", "event:buy", "--expected", "600", *words)
    service.until(lambda: service.ask("GET", "/readyz")[0] == 200 and _split(service))


def _split(service: Served) -> bool:
    status, answers = service.ask("POST", "/predict", [row(f"look{n}") for n in range(40)])
    return status == 200 and len({answer["release"] for answer in answers}) == 2


def decided(service: Served) -> str | None:
    project = Project.open(service.root)
    try:
        done, unread = tick._decide(project, clock.now())
        assert unread == []
        return done
    finally:
        project.ledger.close()


def alone(service: Served, release: str) -> bool:
    status, answers = service.ask("POST", "/predict", [row(unit) for unit in UNITS[:100]])
    return status == 200 and {answer["release"] for answer in answers} == {release}


def test_a_better_challenger_goes_live_by_itself(service: Served) -> None:
    begun(service, "--promote", "--guard=-event:leave=0.1")
    arms = visit(service, UNITS, buy=(0.1, 0.3), leave=(0.1, 0.1))
    assert 480 < list(arms.values()).count("challenger") < 720
    told = json.loads(meguri(service, "ab", "status", "--json"))
    assert (told["decision"], told["status"], told["ended"]) == ("better", "running", None)
    assert told["guards"][0]["loses_at_most"] < 0.2
    assert "better than A alone by" in meguri(service, "ab", "estimate", "--where", "hour>=0")
    assert decided(service) == "r-2"
    service.until(lambda: alone(service, "r-2"))
    assert "safe to stop" in meguri(service, "ab", "status")


def test_a_guardrail_that_breaks_brings_the_champion_back(service: Served) -> None:
    begun(service, "--promote", "--guard=-event:leave=0.02")
    visit(service, UNITS, buy=(0.1, 0.3), leave=(0.05, 0.25))
    told = json.loads(meguri(service, "ab", "status", "--json"))
    assert (told["primary"]["decision"], told["decision"], told["guards"][0]["state"]) == ("better", "worse", "worse")
    assert "B is worse in event:leave by at least" in meguri(service, "ab", "status")
    assert decided(service) == "r-1"
    service.until(lambda: alone(service, "r-1"))
