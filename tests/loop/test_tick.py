"""A tick and a replay: the loop closes, with the clock handed in."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from conftest import START, forget_project

from meguri.base.errors import SettingsError, TriggerError, TurnBusy
from meguri.base.files import locked, read_json
from meguri.loop.project import Project
from meguri.loop.replay import replay
from meguri.loop.steps import Steps
from meguri.loop.tick import FIRST, tick
from meguri.loop.turn import turn
from meguri.record import ledger_columns

DAY = timedelta(days=1)


def test_labels_come_back_and_the_next_day_is_predicted(project_root: Path) -> None:
    project = Project.open(project_root)
    first = tick(project, now=START)
    assert (first.reason, first.labels, first.turn is not None) == (FIRST, 0, True)
    second = tick(project, now=START + DAY)
    assert (second.reason, second.predictions) == (None, 24)
    assert second.labels == 19, "the labels of the last hours have not come yet"
    third = tick(project, now=START + 2 * DAY)
    assert third.labels == 24
    joined = project.ledger.joined(since=START, as_of=START + 2 * DAY)
    assert joined["label"].null_count() == 0


def test_a_persons_correction_is_not_overruled_by_reading_the_source_again(project_root: Path) -> None:
    project = Project.open(project_root)
    tick(project, now=START)
    tick(project, now=START + DAY)
    before = project.ledger.joined(since=START, as_of=START + DAY)
    said = before.head(1).select("prediction_id", value=1 - pl.col("label"), source=pl.lit("mika"))
    at = pl.lit(START + timedelta(hours=25)).cast(pl.Datetime("us", "UTC"))
    counts = project.ledger.write_labels(ledger_columns.labels(said.with_columns(known_at=at)))
    assert counts.corrected == 1
    tick(project, now=START + 2 * DAY)
    after = project.ledger.joined(since=START, as_of=START + 2 * DAY)
    assert after["source"][0] == "mika"
    assert after["label"][0] == said["value"][0]


def test_a_tick_with_nothing_due_does_nothing(project_root: Path) -> None:
    project = Project.open(project_root)
    tick(project, now=START)
    again = tick(project, now=START + timedelta(hours=1))
    assert (again.labels, again.predictions, again.reason) == (0, 0, None)


def test_nothing_is_predicted_twice(project_root: Path) -> None:
    project = Project.open(project_root)
    tick(project, now=START)
    (project_root / "outputs/tick.json").unlink()
    assert tick(project, now=START).predictions == 0
    assert tick(project, now=START + timedelta(hours=12)).predictions == 0
    (project_root / "outputs/tick.json").unlink()
    assert tick(project, now=START + timedelta(hours=12)).predictions == 12


def test_a_trigger_turns_the_loop_when_its_time_has_come(project_root: Path) -> None:
    project = Project.open(project_root)
    tick(project, now=START)
    assert tick(project, now=START + 9 * DAY).reason is None
    done = tick(project, now=START + 10 * DAY)
    assert done.reason is not None
    assert done.turn is not None
    assert done.turn.reason == done.reason


def test_a_pass_that_was_killed_is_finished_with_the_answers_it_gave(
    project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.open(project_root)
    turn(project, now=START, reason="first")
    real = Steps.do

    def killed(self: Steps, name: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "do", killed)
        with pytest.raises(KeyboardInterrupt):
            tick(project, now=START + DAY)
    assert Steps.do is real
    given = project.ledger.joined(since=START + DAY, as_of=START + 9 * DAY)["prediction_id"].to_list()
    assert len(given) == 24
    done = tick(project, now=START + DAY)
    assert done.predictions == 24, "those that had been answered, and were not registered"
    assert project.ledger.joined(since=START + DAY, as_of=START + 9 * DAY)["prediction_id"].to_list() == given
    assert not (project_root / "outputs/pass").exists()


def test_a_failed_turn_is_not_tried_again_within_a_step(project_root: Path) -> None:
    path = project_root / "src/jobs/train.py"
    good = path.read_text()
    path.write_text("def train(dataset, params): raise OSError('no')\n")
    project = Project.open(project_root)
    with pytest.raises(Exception, match="OSError: no"):
        tick(project, now=START)
    assert tick(project, now=START + timedelta(hours=1)).reason is None
    path.write_text(good)
    forget_project()
    assert tick(Project.open(project_root), now=START + DAY).reason == FIRST


def test_two_ticks_at_once(project_root: Path) -> None:
    with locked(project_root / "outputs/tick.lock"), pytest.raises(TurnBusy, match="another tick"):
        tick(Project.open(project_root), now=START)


def test_a_mistyped_trigger_is_an_error(project_root: Path) -> None:
    with pytest.raises(TriggerError, match="Evry"):
        tick(Project.open(project_root), now=START, triggers="Evry('3d')")


@pytest.mark.slow
def test_a_replay_tells_what_the_loop_would_have_brought(project_root: Path) -> None:
    project = Project.open(project_root)
    summary = replay(
        project,
        since=START,
        until=START + 24 * DAY,
        policies={"rarely": "Every('60d')"},
        always=timedelta(days=12),
        score_from=START + 4 * DAY,
    )
    assert next(t["reason"] for t in summary["turns"]) == FIRST
    assert len(summary["turns"]) == 3
    assert summary["predictions"] == 20 * 24
    assert summary["labels"] == summary["predictions"] - 5
    for name in ("loop", "never", "always", "rarely"):
        assert 0.6 < summary[name]["auc"] < 1
        assert set(summary[name]["months"]) == {"2024-03"}
    assert summary["never"]["auc"] == pytest.approx(summary["rarely"]["auc"])
    kept = read_json(project_root / "outputs/replay/summary.json")
    assert kept["loop"] == summary["loop"]
    report = (project_root / "outputs/replay/report.html").read_text()
    assert "<svg" in report
    assert project.ledger.turns() == [], "what is live is not touched"


def test_a_replay_that_ends_before_it_begins(project_root: Path) -> None:
    with pytest.raises(SettingsError, match="ends at"):
        replay(Project.open(project_root), since=START, until=START)
