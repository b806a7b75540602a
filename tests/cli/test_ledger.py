"""`meguri ledger`, as a person uses it, on a file and on a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import forget_project, write_project
from data.servers import postgres
from typer.testing import CliRunner

from meguri import cli
from meguri.base.errors import LedgerError, SettingsError
from meguri.loop.project import Project
from meguri.record.ledger import Awaited, Event, Experiment, Ledger, TurnRecord
from meguri.testing.ledger_rows import hour, some_labels, some_predictions

Call = Callable[..., str]
NOW = hour(100).isoformat()
BEFORE = hour(5).isoformat()


@pytest.fixture(params=["sqlite", "postgres"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    made = write_project(tmp_path / "alarm")
    if request.param == "sqlite":
        yield made
    else:
        with postgres() as url:
            with (made / "hydra" / "default.yaml").open("a") as settings:
                settings.write(f"\nledger: {url}\n")
            yield made
    forget_project()


@pytest.fixture
def ledger(root: Path) -> Iterator[Ledger]:
    """Six predictions, three of them old, of which one has no label; and events."""
    found = Project.open(root).ledger
    found.write_predictions(some_predictions(6))
    found.write_labels(some_labels(["k0", "k2", "k4"], [1.0, 0.0, 1.0], hour(9)))
    found.write_events([Event(f"e{i}", "u0", hour(i), "buy") for i in range(8)])
    found.write_turn(TurnRecord("run1", hour(1), "30 days", "done"))
    yield found
    found.close()


@pytest.fixture
def call(root: Path) -> Call:
    def run(*words: str) -> str:
        done = CliRunner().invoke(cli.app, ["ledger", "prune", *words, "--now", NOW, "--project", str(root)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    return run


def keys(ledger: Ledger) -> list[Any]:
    return ledger.joined(as_of=hour(100))["key"].to_list()


def test_it_counts_first_and_deletes_when_it_is_told_to(ledger: Ledger, call: Call, root: Path) -> None:
    said = " ".join(call("--before", BEFORE).split())
    assert "to delete, from before" in said
    assert "predictions 2 labels 2 events 5 1 predictions have no label yet and stay" in said
    assert "nothing was deleted: --yes does it" in said
    assert keys(ledger) == ["k0", "k1", "k2", "k3", "k4", "k5"]
    done = json.loads(call("--before", "95h", "--yes", "--json"))
    assert done == {
        "before": "2013-04-01 05:00:00+00:00",
        "predictions": 2,
        "labels": 2,
        "events": 5,
        "unlabelled stay": 1,
        "deleted": True,
    }
    assert keys(ledger) == ["k1", "k3", "k4", "k5"]
    assert ledger.awaited(as_of=hour(100)) == Awaited(3, hour(1))
    assert ledger.events(since=hour(0), until=hour(99)).height == 3
    assert len(ledger.turns()) == 1
    said = call("--before", BEFORE, "--unlabelled", "--yes")
    assert "deleted, from before" in said
    assert "stay" not in said
    assert ("VACUUM" in said) == (root / "outputs" / "ledger.db").exists()
    assert keys(ledger) == ["k3", "k4", "k5"]
    assert json.loads(call("--before", BEFORE, "--unlabelled", "--json"))["predictions"] == 0


def test_what_was_set_aside_is_shown_and_tried_again(ledger: Ledger, root: Path) -> None:
    def aside(*words: str) -> str:
        done = CliRunner().invoke(cli.app, ["ledger", "aside", *words, "--project", str(root)])
        assert done.exit_code == 0, done.output
        return done.output

    assert aside() == "nothing is set aside\n"
    assert json.loads(aside("--json")) == {"tried again": None, "aside": []}
    ledger.write_answers(b"[\xff")
    said = aside()
    assert "DecodeError" in said
    assert "--again then settles it" in said
    (found,) = json.loads(aside("--json"))["aside"]
    assert found["answers"] == "[\\xff"
    assert found["reason"].startswith("DecodeError: ")
    assert aside("--again").startswith("1 rows were tried again\n")
    assert len(ledger.aside()) == 1
    assert len(keys(ledger)) == 6


def test_what_a_test_that_runs_counts_is_kept(ledger: Ledger, call: Call) -> None:
    detail = {"challenger": "r2", "began": hour(3).isoformat()}
    ledger.write_experiment(Experiment("t1", hour(3), "rest", "running", detail))
    with pytest.raises(LedgerError, match="reads from 2013-04-01 03:00") as caught:
        call("--before", BEFORE, "--yes")
    assert "meguri ab stop" in str(caught.value.fix)
    assert len(keys(ledger)) == 6
    call("--before", hour(3).isoformat(), "--yes")
    ledger.write_experiment(Experiment("t1", hour(3), "rest", "running", {**detail, "before": "2h"}))
    with pytest.raises(LedgerError, match="reads from 2013-04-01 01:00"):
        call("--before", hour(3).isoformat(), "--yes")
    ledger.write_experiment(Experiment("t1", hour(3), "rest", "stopped", detail))
    call("--before", BEFORE, "--yes")
    assert keys(ledger) == ["k1", "k3", "k4", "k5"]


@pytest.mark.parametrize("root", ["sqlite"], indirect=True)
@pytest.mark.parametrize("wrong", ["soon", "2x", "y", "9999y", "2024-13-01", hour(101).isoformat(), "-2d", ""])
def test_a_moment_that_is_none(call: Call, wrong: str) -> None:
    with pytest.raises(SettingsError) as caught:
        call(f"--before={wrong}", "--yes")
    assert caught.value.fix


@pytest.mark.parametrize(
    ("age", "now", "before"),
    [
        ("2y", "2024-02-29T06:00Z", "2022-03-01 06:00"),
        ("2y", "2024-11-27", "2022-11-27 00:00"),
        ("1d12h", "2024-11-27", "2024-11-25 12:00"),
    ],
)
@pytest.mark.parametrize("root", ["sqlite"], indirect=True)
def test_an_age(root: Path, age: str, now: str, before: str) -> None:
    words = ["ledger", "prune", "--before", age, "--now", now, "--project", str(root), "--json"]
    assert json.loads(CliRunner().invoke(cli.app, words).output)["before"] == f"{before}:00+00:00"
