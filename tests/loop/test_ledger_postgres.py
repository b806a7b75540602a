"""The loop with its ledger on a real PostgreSQL; what is no live state leaves that one alone."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import START
from data.servers import postgres

from meguri.loop.project import Project
from meguri.loop.replay import replay
from meguri.loop.tick import tick
from meguri.record.ledger import open_ledger

DAY = timedelta(days=1)


@pytest.mark.slow
def test_the_loop_closes_on_a_server(project_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = project_root / "hydra" / "default.yaml"
    settings.write_text(settings.read_text() + "\nledger: ${oc.env:LEDGER}\n")
    with postgres() as url:
        monkeypatch.setenv("LEDGER", url)
        project = Project.open(project_root)
        with closing(project.ledger):
            assert tick(project, now=START).turn is not None
            assert tick(project, now=START + DAY).predictions == 24
            assert tick(project, now=START + 2 * DAY).labels == 24
            replay(project, since=START - 5 * DAY, until=START, policies={"daily": "Every('2d')"})
        with closing(open_ledger(url)) as ledger:
            joined = ledger.joined(since=START, as_of=START + 2 * DAY, features=True)
            assert joined["label"].null_count() == 0
            assert ledger.joined(until=START - DAY, as_of=START + 2 * DAY).height == 0, (
                "a replay wrote into the live one"
            )
            assert len(ledger.turns()) == 1
            assert [rollout.outlet for rollout in ledger.rollouts()] == ["table"]
    assert not (project_root / "outputs" / "ledger.db").exists()
