"""Jobs: found by file name, wired by parameter names."""

from __future__ import annotations

from pathlib import Path

import pytest

from meguri.base.errors import JobError, ProjectError
from meguri.loop import job
from meguri.loop.project import Project


def test_the_six_jobs_run_in_their_order(project_root: Path) -> None:
    assert list(Project.open(project_root).jobs) == ["retrieve", "optimize", "train", "evaluate", "predict", "register"]


def test_an_extra_job_joins_by_its_name(project_root: Path) -> None:
    (project_root / "src/jobs/preprocess.py").write_text("def preprocess(data): return data\n")
    (project_root / "src/jobs/train.py").write_text("def train(preprocess, params): ...\n")
    order = list(Project.open(project_root).jobs)
    assert order.index("retrieve") < order.index("preprocess") < order.index("train")


def test_optimize_may_be_absent(project_root: Path) -> None:
    (project_root / "src/jobs/optimize.py").unlink()
    assert "params" in Project.open(project_root).jobs["train"].needs


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("train.py", "def train(datast): ...", ["asks for 'datast'", "did you mean 'dataset'?"]),
        ("train.py", "def fit(dataset): ...", ["holds no function 'train'"]),
        ("train.py", "def train(:", ["does not parse", "train.py:1"]),
        ("train.py", "def train(**everything): ...", ["takes * or **"]),
        ("train.py", "def train(evaluation): ...", ["wait for each other"]),
    ],
)
def test_a_job_that_cannot_be_wired_says_why(project_root: Path, file: str, text: str, says: list[str]) -> None:
    (project_root / "src/jobs" / file).write_text(text)
    with pytest.raises(JobError) as caught:
        _ = Project.open(project_root).jobs
    for part in says:
        assert part in str(caught.value)


def test_a_folder_without_jobs(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no jobs"):
        job.find_jobs(tmp_path)


def test_no_project_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="no Meguri project"):
        Project.open(tmp_path)


def test_a_project_is_found_from_a_folder_within(project_root: Path) -> None:
    assert Project.open(project_root / "src" / "jobs").root == project_root.resolve()


def test_the_graph_shows_what_flows(project_root: Path) -> None:
    jobs = Project.open(project_root).jobs
    assert "train     dataset, params → model" in job.draw(jobs)
    assert "retrieve -- dataset --> train" in job.mermaid(jobs)


def test_another_projects_src_is_refused(project_root: Path, tmp_path: Path) -> None:
    Project.open(project_root).settings()
    with pytest.raises(JobError, match="another project's package"):
        job.import_from(tmp_path, "src.configurations", "Config")


def test_a_missing_module_or_name_is_told(project_root: Path) -> None:
    with pytest.raises(JobError, match=r"no module src\.nothing"):
        job.import_from(project_root, "src.nothing", "x")
    with pytest.raises(JobError, match="has no 'nothing'"):
        job.import_from(project_root, "src.configurations", "nothing")


def test_the_tracking_address_in_the_environment_wins_but_not_in_a_replay(
    project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert Project.open(project_root).tracking.uri == "http://127.0.0.1:9"
    own = Project(project_root, outputs=project_root / "outputs" / "replay" / "loop")
    assert own.tracking.uri.startswith("sqlite:///")
