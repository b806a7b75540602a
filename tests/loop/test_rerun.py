"""A rerun: what is restored gives the same, what was changed on purpose is named, and nothing live is touched."""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from conftest import START
from loop.past import MODEL, commit, edit, git, run, runs, start
from loop.past import forgotten as forgotten  # noqa: PLC0414

from meguri.base.errors import DataError, JobError, ProjectError, SettingsError, TurnBusy
from meguri.base.files import locked, read_json, write_json
from meguri.loop.compare import Comparison
from meguri.loop.project import Project
from meguri.loop.rerun import rerun


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Path) -> Path:
    """Two turns: one of a clean tree, and one, judged against it, of a tree with changes and a new file."""
    root = start(tmp_path_factory.mktemp("past") / "alarm", mlflow_store)
    run(root)
    (root / "src/models/steps.py").write_text("STEPS = 77\n")
    edit(root / MODEL, "from sklearn", "from src.models.steps import STEPS\nfrom sklearn")
    edit(root / MODEL, "C=strength,", "C=strength, max_iter=STEPS,")
    run(root, 10)
    return root


@pytest.fixture
def root(past: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(past, tmp_path / "alarm", symlinks=True))


def again(root: Path, place: int = 0, **more: object) -> Comparison:
    return rerun(Project.open(root), runs(root)[place], **more)  # type: ignore[arg-type]


def state(found: Comparison) -> dict[str, str]:
    return {stage.name: stage.state for stage in found.stages}


ALL = ["data", "settings", "packages", "code", "dataset", "params", "model", "test answers", "metrics", "predictions"]


def hashes(root: Path) -> dict[str, str]:
    """All that is live: every file of the project but git's own, the locks, and what Python compiled."""
    skipped = {"reruns", "__pycache__", ".git"}
    files = [p for p in root.rglob("*") if p.is_file() and not skipped & set(p.relative_to(root).parts)]
    files = [p for p in files if p.name not in (".dvc.lock", "ledger.db-shm", "ledger.db-wal")]
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


# --- the same


def test_a_rerun_gives_the_same_and_touches_nothing_that_is_live(root: Path) -> None:
    ledger = Project.open(root).ledger
    before, known = hashes(root), (ledger.turns(), ledger.rollouts(), ledger.gate_uses(), ledger.made().rows())
    said: list[str] = []
    found = again(root, say=said.append)
    assert (found.verdict, found.first, found.notes, found.failed) == ("same", None, (), None)
    assert state(found) == dict.fromkeys([*ALL, "verdict"], "same")
    assert said == ["retrieve", "optimize", "train", "evaluate", "gate", "release", "predict"], "and no register"
    ledger = Project.open(root).ledger
    assert (ledger.turns(), ledger.rollouts(), ledger.gate_uses(), ledger.made().rows()) == known
    assert hashes(root) == before
    assert len(git(root, "worktree", "list").splitlines()) == 1
    assert [p.name for p in (root / "outputs/reruns").iterdir() if not p.name.startswith(".")] == []


def test_a_dirty_tree_comes_back_with_its_changes_and_the_champion_of_then(root: Path) -> None:
    git(root, "checkout", "-q", "--", ".")  # src/models/steps.py, which was never in git, is still there
    edit(root / "hydra/default.yaml", "seed: 7", "seed: 1")
    found = again(root, 1, keep=True)
    assert (found.verdict, found.notes) == ("same", ())
    assert state(found)["verdict"] == "same"
    assert found.folder is not None
    assert "max_iter=STEPS" in (found.folder / "code" / MODEL).read_text()
    assert read_json(found.folder / "request.json")["champion"] == runs(root)[0]
    kept = read_json(found.folder / "outputs/runs" / found.run / "run.json")
    assert kept["at"] == (START + timedelta(days=10)).isoformat()
    assert json.loads(json.dumps(found.to_dict()))["verdict"] == "same"


def test_a_file_that_was_not_in_git_and_is_gone_is_named(root: Path) -> None:
    (root / "src/models/steps.py").write_text("STEPS = 5\n")
    found = again(root, 1)
    assert found.verdict == "differs"
    assert "src/models/steps.py" in found.notes[0]
    assert found.first is not None
    assert (found.first.name, found.first.detail) == ("code", "src/models/steps.py is gone")
    assert found.failed is not None
    assert "src.models.steps" in found.failed


def test_data_comes_back_from_the_remote(root: Path) -> None:
    shutil.rmtree(root / ".dvc/cache")
    (root / "data/rows.parquet").unlink()
    assert again(root).verdict == "same"


def test_a_project_inside_a_bigger_repository(tmp_path: Path, mlflow_store: Path) -> None:
    root = start(tmp_path / "teams" / "alarm", mlflow_store, under_git=False)
    git(tmp_path, "init", "-q")
    commit(tmp_path, "all")
    edit(root / MODEL, "strength: float = 1.0", "strength: float = 1.5")
    run(root)
    git(tmp_path, "checkout", "-q", "--", ".")
    found = again(root)
    assert (found.verdict, found.first) == ("same", None)


def test_rows_that_a_person_released_come_back_too(root: Path) -> None:
    """They break the contract, and are in the data all the same."""
    path = root / "src/repository/data_manager.py"
    bad = "return rows.with_columns(level=pl.when(pl.col('reading') == 'r3').then(99.0).otherwise('level')).filter"
    edit(path, "return rows.filter", bad)
    run(root, 20)
    project = Project.open(root)
    (name,) = project.quarantine.read()["id"]
    project.quarantine.release([name], project.contract, by="ann", why="it was hot", at=START)
    run(root, 21)
    assert (again(root, 3).verdict, again(root, 3).first) == ("same", None)
    assert state(again(root, 3, present=["data"])) == dict.fromkeys([*ALL, "verdict"], "same")


# --- changed on purpose: the first place is named


def change_data(root: Path) -> None:
    edit(
        root / "src/repository/data_manager.py",
        "return rows.filter",
        "rows = rows.with_columns(level=LEVEL)\n    return rows.filter",
    )
    edit(
        root / "src/repository/data_manager.py",
        "LEVEL",
        "pl.when(pl.col('reading') == 'r3').then(0.5).otherwise('level')",
    )
    commit(root, "the source changed")
    kept = root / "outputs/runs" / runs(root)[0] / "run.json"
    write_json(kept, read_json(kept) | {"commit": git(root, "rev-parse", "HEAD")})  # the same code reads another source


@pytest.mark.parametrize(
    ("part", "change", "first", "told"),
    [
        (
            "settings",
            lambda r: edit(r / "hydra/default.yaml", "trials: 3", "trials: 1"),
            "settings",
            "optimize.trials 3 → 1",
        ),
        ("code", lambda r: edit(r / MODEL, "C=strength", "C=strength / 10"), "code", f"{MODEL} is changed"),
        ("data", change_data, "data", "1 rows changed, the first r3: level"),
    ],
    ids=["settings", "code", "data"],
)
def test_what_is_as_it_is_now_is_named_as_the_first_place(root: Path, part, change, first, told) -> None:  # type: ignore[no-untyped-def]
    git(root, "checkout", "-q", "--", ".")
    (root / "src/models/steps.py").unlink()
    change(root)
    found = again(root, present=[part])
    assert found.verdict == "differs"
    assert found.first is not None
    assert found.first.name == first
    assert told in found.first.detail
    assert state(found)["test answers"] == "differs"
    if part == "settings":
        assert "the search made 3 trials, and 1 now" in next(s.detail for s in found.stages if s.name == "params")


def test_a_record_that_was_changed_shows_in_what_comes_of_it(root: Path) -> None:
    kept = root / "outputs/runs" / runs(root)[0] / "run.json"
    value = read_json(kept)
    value["settings"]["split"]["test"] = "6d"
    write_json(kept, value)
    found = again(root)
    assert found.verdict == "differs"
    assert found.first is not None
    assert found.first.name == "dataset"


def test_a_job_that_fails_now_is_told(root: Path) -> None:
    (root / "src/jobs/train.py").write_text("def train(dataset, params):\n    return 1 / 0\n")
    found = again(root, present=["code"])
    assert found.verdict == "differs"
    assert found.failed == "the step 'train' fails now: the job 'train' failed: ZeroDivisionError: division by zero"
    assert found.first is not None
    assert found.first.name == "code"
    assert state(found)["model"] == "differs"


# --- what cannot be restored


def test_a_run_that_is_not_there(root: Path) -> None:
    with pytest.raises(JobError, match="no run 'nothing'"):
        rerun(Project.open(root), "nothing")
    with pytest.raises(SettingsError, match="'packages' is no part"):
        again(root, present=["packages"])


def test_a_run_that_has_done_nothing(root: Path) -> None:
    kept = root / "outputs/runs" / runs(root)[0] / "run.json"
    write_json(kept, read_json(kept) | {"done": {}})
    with pytest.raises(JobError, match="has done no step"):
        again(root)


def test_data_that_is_gone_or_damaged(root: Path) -> None:
    name = read_json(root / "outputs/runs" / runs(root)[0] / "run.json")["data_version"]
    stores = [root / at / "files/md5" / name[:2] / name[2:] for at in (".dvc/cache", "outputs/dvc")]
    stores[0].chmod(0o644)
    stores[0].write_text("spoilt")
    stores[1].unlink()
    with pytest.raises(DataError, match="damaged") as caught:
        again(root)
    assert "--present data" in str(caught.value)
    for path in stores:
        path.unlink(missing_ok=True)
    with pytest.raises(DataError, match="neither DVC's cache nor its remote"):
        again(root)
    found = again(root, present=["data"])
    assert found.verdict == "same", "this source gives the same rows for the same moment"
    assert state(found)["predictions"] == "same"


def test_a_commit_that_is_gone(root: Path) -> None:
    kept = root / "outputs/runs" / runs(root)[0] / "run.json"
    write_json(kept, read_json(kept) | {"commit": "0" * 40})
    with pytest.raises(ProjectError, match="is not in this repository") as caught:
        again(root)
    assert "git fetch" in str(caught.value)
    assert "--present code" in str(caught.value)
    git(root, "checkout", "-q", "--", ".")
    assert again(root, present=["code"]).verdict == "same"


def test_a_contract_that_has_changed_sees_the_rows_once_more(root: Path) -> None:
    git(root, "checkout", "-q", "--", ".")
    edit(root / "src/repository/schema.py", "other: float", "other: str")
    found = again(root, present=["code"])
    assert found.failed is not None
    assert found.failed.startswith("the step 'retrieve' fails now")
    assert (found.first and found.first.name) == "code"
    edit(root / "src/configurations.py", "path: str", "path: int")
    edit(root / "hydra/default.yaml", "path: data/readings.parquet", "path: 3")
    found = again(root, present=["code"])
    assert found.failed is not None
    assert found.failed.startswith("the step 'settings' fails now")


def test_a_run_that_did_not_predict(root: Path) -> None:
    (root / "outputs/runs" / runs(root)[0] / "predictions.parquet").unlink()
    found = again(root)
    assert (found.verdict, "predictions" in state(found)) == ("same", False)


def test_rows_that_were_asked_are_taken_as_they_were_kept(root: Path) -> None:
    folder = root / "outputs/runs" / runs(root)[0]
    rows = pl.read_parquet(root / "data/rows.parquet").drop("alarm").head(5)
    rows.write_parquet(folder / "requests.parquet")
    found = next(stage for stage in again(root).stages if stage.name == "predictions")
    assert (found.state, found.then, found.now) == ("differs", {"rows": 24}, {"rows": 5})


def test_git_that_can_make_no_worktree(root: Path) -> None:
    (root / ".git/worktrees").write_text("in the way")
    with pytest.raises(ProjectError, match="could not make a worktree"):
        again(root)


def test_changes_that_do_not_apply(root: Path) -> None:
    patch = root / "outputs/runs" / runs(root)[1] / "diff.patch"
    patch.write_text(patch.read_text().replace("-from sklearn", "-from sklaern").replace(" class", " klass"))
    with pytest.raises(ProjectError, match="do not apply"):
        again(root, 1)


def test_without_git_the_present_code_is_taken_when_it_is_the_same(tmp_path: Path, mlflow_store: Path) -> None:
    root = start(tmp_path / "alarm", mlflow_store, under_git=False)
    run(root)
    found = again(root)
    assert found.verdict == "same"
    assert "made outside git" in found.notes[0]
    edit(root / MODEL, "C=strength", "C=strength / 10")
    with pytest.raises(ProjectError, match="outside git") as caught:
        again(root)
    assert "--present code" in str(caught.value)
    found = again(root, present=["code"])
    assert (found.verdict, found.first and found.first.name) == ("differs", "code")
    (root / "outputs/runs" / runs(root)[0] / "made_with.json").unlink()
    found = again(root, present=["code"])
    assert {"code": "unknown", "packages": "unknown"}.items() <= state(found).items()
    with pytest.raises(ProjectError, match="outside git"):
        again(root)


def test_without_the_champion_there_is_no_gate(root: Path) -> None:
    first = runs(root)[0]
    shutil.rmtree(root / "outputs/releases" / first)
    found = again(root, 1)
    assert first in found.notes[0]
    assert state(found)["verdict"] == state(found)["predictions"] == "unknown"
    assert found.verdict == "same", "as far as it can be told"


def test_two_at_once(root: Path) -> None:
    name = runs(root)[0]
    with locked(root / f"outputs/reruns/.{name}.lock"), pytest.raises(TurnBusy, match="being rerun"):
        again(root)


def test_a_failed_run_is_done_again_as_far_as_it_came(tmp_path: Path, mlflow_store: Path) -> None:
    root = start(
        tmp_path / "alarm", mlflow_store, {"src/jobs/train.py": "def train(dataset, params):\n    return 1 / 0\n"}
    )
    with pytest.raises(JobError):
        run(root)
    found = again(root)
    assert state(found) == dict.fromkeys(["data", "settings", "packages", "code", "params"], "same")
    assert found.verdict == "same"


# --- a project that keeps its data itself

OWN = {
    "src/jobs/retrieve.py": "def retrieve(since, until, now):\n    return None\n",
    "src/jobs/optimize.py": "",
    "src/jobs/train.py": """
        from pathlib import Path

        def train(data):
            assert data is None
            assert "then" in (Path(__file__).parents[2] / "data" / "a.csv").read_text()
    """,
    "src/jobs/evaluate.py": "def evaluate(model): return None\n",
    "src/jobs/predict.py": "",
    "src/jobs/register.py": "",
}


@pytest.mark.parametrize("names", [["a.csv"], ["a.csv", "b.csv"]], ids=["one file", "two files"])
def test_files_of_a_project_that_keeps_its_data_itself_come_back(
    tmp_path: Path, mlflow_store: Path, names: list[str]
) -> None:
    from meguri.data.versions import save

    root = start(tmp_path / "alarm", mlflow_store, OWN)
    for name in names:
        (root / "data").mkdir(exist_ok=True)
        (root / "data" / name).write_text(f"{name} of then")
    save(root, [root / "data" / name for name in names])
    commit(root, "with data")
    first = run(root)
    for name in names:
        (root / "data" / name).write_text("of now")
    found = rerun(Project.open(root), first, keep=True)
    assert state(found) == dict.fromkeys(["data", "settings", "packages", "code"], "same")
    assert {p.name: p.read_text() for p in (tmp_path / "alarm/outputs/reruns" / first / "code/data").glob("*.csv")} == {
        name: f"{name} of then" for name in names
    }
