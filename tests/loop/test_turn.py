"""A turn, through the public door: jobs, gate, release, rollout, predictions, and what happens when something goes wrong."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest
from conftest import START, forget_project, write_project

from meguri.base.errors import ContractError, JobError, ReleaseError, SettingsError, TurnBusy
from meguri.base.files import locked, read_json
from meguri.loop.project import Project
from meguri.loop.turn import plan, turn


def do_turn(root: Path, **more: object) -> object:
    return turn(Project.open(root), now=START, reason="first", **more)  # type: ignore[arg-type]


def test_a_turn_makes_a_release_puts_it_live_and_predicts_the_next_day(project_root: Path) -> None:
    said: list[str] = []
    project = Project.open(project_root)
    record = turn(project, now=START, reason="first", say=said.append)
    assert (
        said == plan(project) == ["retrieve", "optimize", "train", "evaluate", "gate", "release", "predict", "register"]
    )
    assert (record.status, record.verdict, record.release) == ("done", "pass", record.id)
    assert project.champion() == record.id
    assert project.release(record.id).manifest["run"] == record.id
    with duckdb.connect(str(project_root / "outputs/predictions.duckdb")) as table:
        counted, releases = table.execute("SELECT count(*), list(DISTINCT release) FROM predictions").fetchone() or (
            0,
            [],
        )
    assert (counted, releases) == (24, [record.id])
    assert project.ledger.awaited(as_of=START + timedelta(days=9)).count == 24


def test_what_the_run_was_made_of_is_in_mlflow(project_root: Path) -> None:
    project = Project.open(project_root)
    record = turn(project, now=START, reason="first")
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{project_root}/outputs/mlflow.db")
    experiment = client.get_experiment_by_name("alarm")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["gate.margin"] == "0.05"
    assert 0.01 <= float(run.data.params["params.strength"]) <= 10
    assert 0.5 < run.data.metrics["auc"] < 1
    assert run.data.tags["meguri.reason"] == "first"
    assert run.data.tags["meguri.data_version"] == record.detail["data_version"]
    assert run.info.end_time - run.info.start_time == int(record.seconds * 1000) > 0
    assert run.data.tags["mlflow.note.content"] == f"first: {record.detail['verdict']['reason']}"
    assert [(used.dataset.name, used.dataset.digest) for used in run.inputs.dataset_inputs] == [
        ("alarm", record.detail["data_version"])
    ]
    assert "run.json" in {item.path for item in client.list_artifacts(run.info.run_id)}
    version = client.get_model_version_by_alias("alarm", "champion")
    assert version.tags["release_id"] == record.release


def test_no_secret_of_the_settings_is_kept_with_a_run(project_root: Path) -> None:
    with (project_root / "hydra" / "default.yaml").open("a") as file:
        file.write("warehouse: postgres://me:hunter2@db.example/shop\n")
    record = turn(Project.open(project_root), now=START, reason="first")
    kept = [path for path in (project_root / "outputs").rglob("*") if path.is_file()]
    assert len(kept) > 20
    assert [path for path in kept if b"hunter2" in path.read_bytes()] == []
    command = [sys.executable, "-m", "meguri", "rerun", record.id]
    again = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "hunter2" not in again.stdout + again.stderr


def test_the_second_turn_is_judged_against_the_first(project_root: Path) -> None:
    do_turn(project_root)
    project = Project.open(project_root)
    record = turn(project, now=START + timedelta(days=10), reason="later")
    verdict = record.detail["verdict"]
    assert verdict["result"] in ("pass", "unsure", "fail")
    assert verdict["low"] <= verdict["gain"] <= verdict["high"]
    assert len(project.ledger.gate_uses()) == 2


def test_a_worse_challenger_is_not_released(project_root: Path) -> None:
    first = do_turn(project_root)
    (project_root / "src/jobs/optimize.py").write_text("def optimize(): return {'strength': 1e-6}\n")
    forget_project()
    project = Project.open(project_root)
    record = turn(project, now=START + timedelta(days=10), reason="a bad idea", overrides=["gate.margin=0.001"])
    assert record.verdict != "pass"
    assert record.release is None
    assert project.champion() == first.id  # type: ignore[attr-defined]
    assert record.detail["steps"].keys() >= {"predict", "register"}, "the champion goes on predicting"


def test_train_never_sees_the_test_part(project_root: Path) -> None:
    (project_root / "src/jobs/train.py").write_text("def train(dataset, params): return dataset.test.X\n")
    with pytest.raises(Exception, match="test part"):
        do_turn(project_root)


def test_a_job_that_fails_says_where_and_leaves_nothing_live(project_root: Path) -> None:
    (project_root / "src/jobs/train.py").write_text("def train(dataset, params):\n    return 1 / 0\n")
    with pytest.raises(JobError) as caught:
        do_turn(project_root)
    assert "ZeroDivisionError" in str(caught.value)
    assert "src/jobs/train.py:2" in str(caught.value)
    project = Project.open(project_root)
    assert project.champion() is None
    assert [t.status for t in project.ledger.turns()] == ["failed"]
    (run,) = project.tracking.runs()
    assert run["status"] == "FAILED"
    assert run["tags"]["mlflow.note.content"].endswith(
        ": JobError: the job 'train' failed: ZeroDivisionError: division by zero"
    )


def test_a_search_space_that_would_tune_nothing_is_refused(project_root: Path) -> None:
    path = project_root / "src/optimizer/schema.py"
    path.write_text(path.read_text().replace("strength", "strenght"))
    with pytest.raises(SettingsError) as caught:
        do_turn(project_root)
    assert "strenght" in str(caught.value)
    assert "'strength'" in str(caught.value)
    assert not (project_root / "outputs/runs").exists()


def test_a_model_without_probabilities_is_refused(project_root: Path) -> None:
    (project_root / "src/jobs/train.py").write_text(
        "from sklearn.svm import LinearSVC\ndef train(dataset, params): return LinearSVC().fit(dataset.train.X, dataset.train.y)\n"
    )
    with pytest.raises(ReleaseError, match="predict_proba"):
        do_turn(project_root)


def test_too_many_bad_rows_stop_the_turn(project_root: Path) -> None:
    path = project_root / "src/repository/schema.py"
    path.write_text(path.read_text().replace("ge=-9", "ge=0"))
    with pytest.raises(ContractError) as caught:
        do_turn(project_root)
    assert "data.max_quarantined" in str(caught.value)
    assert sum(Project.open(project_root).quarantine.counts().values()) > 100


PREDICT = """
    from dataclasses import replace

    import polars as pl

    def predict(release, requests):
        made = release.predict(requests)
        wrong = pl.int_range(pl.len()) < {wrong}
        return replace(made, table=made.table.with_columns(score=pl.when(wrong).then(1.5).otherwise("score")))
"""


def test_an_answer_that_the_contract_does_not_allow_stays_here(project_root: Path) -> None:
    write_project(project_root, {"src/jobs/predict.py": PREDICT.format(wrong=2)})
    do_turn(project_root)
    project = Project.open(project_root)
    assert project.quarantine.counts() == {"score: in_range(0, 1)": 2}
    assert set(project.quarantine.read()["door"]) == {"answers"}
    assert project.ledger.awaited(as_of=START + timedelta(days=9)).count == 22
    with duckdb.connect(str(project_root / "outputs/predictions.duckdb")) as table:
        assert table.execute("SELECT count(*), max(score) <= 1 FROM predictions").fetchone() == (22, True)


def test_too_many_such_answers_stop_the_turn_and_none_goes_out(project_root: Path) -> None:
    write_project(project_root, {"src/jobs/predict.py": PREDICT.format(wrong=9)})
    with pytest.raises(ContractError, match=r"9 of 24 rows break the contract") as caught:
        do_turn(project_root)
    assert "score: in_range(0, 1)" in str(caught.value)
    assert Project.open(project_root).ledger.awaited(as_of=START + timedelta(days=9)).count == 0


def test_what_is_no_prediction_is_an_error(project_root: Path) -> None:
    text = "def predict(release, requests):\n    return release.predict(requests).table\n"
    write_project(project_root, {"src/jobs/predict.py": text})
    with pytest.raises(JobError, match="the job 'predict' gave a DataFrame, and no predictions"):
        do_turn(project_root)


def test_an_empty_table_stops_the_turn(project_root: Path) -> None:
    path = project_root / "src/jobs/retrieve.py"
    path.write_text(path.read_text().replace("(since, until, now)\n", "(since, until, now).head(0)\n"))
    with pytest.raises(ContractError, match=r"(?i)no row|empty"):
        do_turn(project_root)


def test_a_second_turn_at_once_says_so_and_leaves(project_root: Path) -> None:
    with locked(project_root / "outputs/turn.lock"), pytest.raises(TurnBusy, match="under way"):
        do_turn(project_root)


@pytest.mark.parametrize("step", ["optimize", "train", "evaluate", "gate", "release", "predict", "register"])
def test_a_turn_interrupted_before_a_step_goes_on_there(project_root: Path, step: str) -> None:
    project = Project.open(project_root)

    def interrupt(name: str) -> None:
        if name == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        turn(project, now=START, reason="first", say=interrupt)
    said: list[str] = []
    record = turn(Project.open(project_root), now=START + timedelta(days=1), reason="another", say=said.append)
    assert said[0] == step
    assert (record.status, record.reason, record.at) == ("done", "first", START)
    assert project.ledger.awaited(as_of=START + timedelta(days=9)).count == 24
    assert len(project.ledger.rollouts("table")) == 1


def test_a_turn_that_is_killed_again_and_again_is_given_up(project_root: Path) -> None:
    def interrupt(name: str) -> None:
        if name == "train":
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            turn(Project.open(project_root), now=START, reason="first", say=interrupt)
    record = turn(Project.open(project_root), now=START, reason="fresh")
    assert record.reason == "fresh"
    assert [t.status for t in Project.open(project_root).ledger.turns()] == ["failed", "done"]


def test_jobs_run_one_by_one_in_processes_of_their_own(project_root: Path) -> None:
    def main(*arguments: str) -> str:
        command = [sys.executable, "-m", "src.main", f"now={START.isoformat()}", *arguments]
        done = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=True)
        return done.stdout.split()[-1]

    run = main("jobs=retrieve")
    for name in plan(Project.open(project_root))[1:]:
        assert main(f"jobs={name}", f"run={run}") == run
    project = Project.open(project_root)
    assert project.champion() == run
    assert read_json(project_root / f"outputs/runs/{run}/run.json")["status"] == "done"
    assert [t.id for t in project.ledger.turns()] == [run]


def test_a_job_whose_input_is_not_there_yet_says_which_to_run(project_root: Path) -> None:
    def main(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "src.main", *arguments],
            cwd=project_root,
            capture_output=True,
            text=True,
            check=False,
        )

    run = main("jobs=retrieve", f"now={START.isoformat()}").stdout.split()[-1]
    untuned = main("jobs=train", f"run={run}")
    assert "run the job 'optimize' of this run first" in untuned.stderr, "never tune nothing in silence"
    missing = main("jobs=evaluate", f"run={run}")
    assert missing.returncode == 1
    assert "run the job 'train' of this run first" in missing.stderr
    unknown = main("jobs=tarin")
    assert unknown.returncode == 1
    assert "no job 'tarin'" in unknown.stderr
    assert "no run 'x'" in main("jobs=train", "run=x").stderr


def test_an_extra_jobs_result_flows_on_and_is_kept(project_root: Path) -> None:
    (project_root / "src/jobs/summarize.py").write_text("def summarize(data): return {'rows': len(data)}\n")
    (project_root / "src/jobs/spread.py").write_text(
        "def spread(data, summarize): return data.head(summarize['rows'] // 2)\n"
    )
    record = do_turn(project_root)
    folder = project_root / "outputs/runs" / record.id  # type: ignore[attr-defined]
    assert read_json(folder / "summarize.json")["rows"] > 100
    assert (folder / "spread.parquet").is_file()


def test_a_result_that_cannot_be_kept_is_told(project_root: Path) -> None:
    (project_root / "src/jobs/summarize.py").write_text("def summarize(data): return object()\n")
    with pytest.raises(JobError, match="gave a object, which cannot be kept"):
        do_turn(project_root)


def test_jobs_that_do_nothing_are_a_turn_too(tmp_path: Path) -> None:
    needs = {
        "retrieve": "",
        "train": "dataset, params",
        "evaluate": "model, dataset",
        "predict": "release, requests",
        "register": "predictions",
    }
    jobs = {f"src/jobs/{name}.py": f"def {name}({arguments}): ..." for name, arguments in needs.items()}
    root = write_project(tmp_path / "nothing", {**jobs, "src/jobs/optimize.py": ""})
    record = turn(Project.open(root), now=START, reason="first")
    assert (record.status, record.verdict, record.release) == ("done", None, None)
    forget_project()
