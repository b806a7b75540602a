"""The whole project once, from the source to the predictions, in folders of its own."""

from pathlib import Path

from meguri import Project
from meguri.loop.turn import turn

ROOT = Path(__file__).parent.parent


def test_a_turn_releases_a_model_and_predicts(tmp_path, now):
    project = Project(ROOT, outputs=tmp_path / "outputs", data=tmp_path / "data")
    record = turn(project, now=now, reason="test", overrides=["optimize.trials=2", "model.params.n_estimators=20"])
    assert record.status == "done"
    assert record.verdict == "pass"
    assert record.release == project.champion()
    assert project.ledger.awaited(as_of=now).count == 7  # the rows of the next loop.step
