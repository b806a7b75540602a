"""The whole project once, from the source to the predictions, in folders of its own."""

from pathlib import Path

from meguri import Project
from meguri.loop.turn import turn


def test_a_turn_releases_a_model_and_predicts(tmp_path, now):
    project = Project.open(Path(__file__).parent, outputs=tmp_path / "outputs", data=tmp_path / "data")
    small = ["data.start=2024-01-01", "optimize.trials=2", "model.params.n_estimators=20"]
    record = turn(project, now=now, reason="test", overrides=small)
    assert record.status == "done"
    assert record.verdict == "pass"
    assert record.release == project.champion()
    assert project.ledger.awaited(as_of=now).count == 7  # the rows of the next loop.step
