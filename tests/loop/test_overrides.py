"""A secret that was given as an override is kept nowhere with its run; the run goes on once it is given again."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import START, forget_project
from loop.past import edit, forgotten
from loop.past import run as turned
from loop.past import start as begin

from meguri import main
from meguri.base.errors import JobError, SettingsError
from meguri.base.files import read_json
from meguri.loop.project import Project
from meguri.loop.rerun import rerun
from meguri.loop.turn import turn

__all__ = ["forgotten"]
SECRET = "hunter22"
GIVEN = [f"source.password={SECRET}", "source.pin=p90125", "optimize.trials=2", f"door.key.one={SECRET}"]
CONFIG = """
    from pydantic import SecretStr
    from meguri import Section, Settings

    class Source(Section):
        path: str
        password: str = ""
        pin: SecretStr = SecretStr("")

    class Config(Settings):
        source: Source
        door: dict[str, dict[str, str]] = {}
"""
TRAIN = f"""
    from src.models.alarm_classifier import AlarmClassifier

    def train(dataset, params, settings):
        assert settings.source.password == "{SECRET}"
        assert settings.source.pin.get_secret_value() == "p90125"
        return AlarmClassifier(**params).estimator.fit(dataset.train.X, dataset.train.y)
"""
FILES = {"src/configurations.py": CONFIG, "src/jobs/train.py": TRAIN}


@pytest.fixture
def root(tmp_path: Path, mlflow_store: Path) -> Path:
    return begin(tmp_path / "alarm", mlflow_store, FILES)


def interrupted(root: Path) -> None:
    def interrupt(name: str) -> None:
        if name == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        turn(Project.open(root), now=START, reason="first", overrides=GIVEN, say=interrupt)
    forget_project()


def holding(folder: Path) -> list[str]:
    """The files that have a secret in them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if any(text in path.read_bytes() for text in (SECRET.encode(), b"p90125"))]


def test_it_is_kept_nowhere_and_the_turn_goes_on_once_it_is_given_again(root: Path) -> None:
    interrupted(root)
    assert holding(root / "outputs") == []
    (file,) = (root / "outputs/runs").glob("*/run.json")
    assert read_json(file)["overrides"] == [
        "source.password=***",
        "source.pin=***",
        "optimize.trials=2",
        "door.key.one=***",
    ]
    for _ in range(3):  # it is not taken up, so no attempt is counted
        with pytest.raises(SettingsError, match=r"source\.password, source\.pin, door\.key\.one") as told:
            turn(Project.open(root), now=START, reason="another")
        assert "meguri turn source.password=… source.pin=… door.key.one=…" in str(told.value)
        assert file.parent.name in str(told.value)
    again = [f"+source.password={SECRET}", GIVEN[1], GIVEN[3], "optimize.trials=9"]
    done = turn(Project.open(root), now=START, reason="another", overrides=again)
    assert (done.status, done.reason, done.id) == ("done", "first", file.parent.name)
    assert read_json(file)["settings"]["optimize"]["trials"] == 2, "its other overrides are its own"
    assert holding(root / "outputs") == []


def test_a_job_of_a_run_takes_it_again_and_nothing_else(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*words: str) -> None:
        main(str(root / "src" / "main.py"), [*words, f"now={START.isoformat()}"])

    call("jobs=retrieve,optimize", *GIVEN)
    run = capsys.readouterr().out.split()[-1]
    with pytest.raises(SystemExit):
        call("jobs=train", f"run={run}")
    assert f"jobs=… run={run} source.password=…" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call("jobs=train", f"run={run}", *GIVEN)
    assert "keeps the settings that it was started with" in capsys.readouterr().err
    call("jobs=train", f"run={run}", GIVEN[0], GIVEN[1], GIVEN[3])
    assert holding(root / "outputs") == []


def test_a_turn_that_is_given_up_needs_it_no_more(root: Path) -> None:
    interrupted(root)
    (file,) = (root / "outputs/runs").glob("*/run.json")
    edit(file, '"attempts": 1', '"attempts": 3')
    done = turn(Project.open(root), now=START, reason="fresh", overrides=GIVEN)
    assert (done.status, done.reason) == ("done", "fresh")


def test_a_rerun_says_where_it_has_the_secret_from(root: Path) -> None:
    run = turned(root, overrides=GIVEN)
    edit(root / "hydra/default.yaml", "source: {", f"source: {{password: {SECRET}, pin: 'p90125', ")
    without = rerun(Project.open(root), run)
    assert without.failed is not None
    assert "source.password, source.pin, door.key.one of the command line" in without.notes[0]
    assert "--present settings" in without.notes[0]
    found = rerun(Project.open(root), run, present=["settings"])
    assert (found.failed, found.verdict) == (None, "same")
    assert found.notes[0].endswith("taken from hydra/ as it is now")
    assert SECRET not in (root / f"outputs/runs/{run}/run.json").read_text()


def test_what_an_environment_knows_is_kept_by_its_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALARM_PASSWORD", SECRET)
    given = ["source.password=${oc.env:ALARM_PASSWORD}", "source.pin=p90125"]
    run = turned(root, overrides=given)
    kept = read_json(root / f"outputs/runs/{run}/run.json")
    assert kept["overrides"] == ["source.password=${oc.env:ALARM_PASSWORD}", "source.pin=***"]
    assert kept["settings"]["source"]["password"] == "***"


def test_what_a_failed_job_says_is_kept_without_it(tmp_path: Path, mlflow_store: Path) -> None:
    failing = """
        def train(dataset, settings):
            raise OSError(f'no answer from postgres://alarm:{settings.source.password}@db/alarm')
    """
    root = begin(tmp_path / "alarm", mlflow_store, {**FILES, "src/jobs/train.py": failing})
    with pytest.raises(JobError, match=SECRET):
        turned(root, overrides=GIVEN)
    (record,) = Project.open(root).ledger.turns()
    assert "no answer from postgres://alarm:***@db/alarm" in record.detail["error"]
    assert holding(root / "outputs") == []
