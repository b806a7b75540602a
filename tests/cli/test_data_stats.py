"""meguri data profile, suggest and diff, as a person uses them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer
from conftest import forget_project, write_project
from data.drafts import imported
from typer.testing import CliRunner

from meguri import cli
from meguri.base.errors import DataError, JobError, MeguriError, SettingsError
from meguri.cli import data_stats
from meguri.data import versions
from meguri.loop.project import Project

Call = Callable[..., str]


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Path) -> Path:
    """The small project after a turn that was released, with a day's predictions."""
    root = write_project(tmp_path_factory.mktemp("stats") / "alarm")
    (root / "outputs").mkdir()
    shutil.copy(mlflow_store, root / "outputs" / "mlflow.db")
    for command in (["turn", "--why", "first", "--now", "2024-03-01"], ["tick", "--now", "2024-03-03"]):
        done = CliRunner().invoke(cli.app, [*command, "--project", str(root)])
        assert done.exit_code == 0, done.output
    forget_project()
    return root


@pytest.fixture
def root(turned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(turned, tmp_path / "alarm"))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command of ``meguri data``; what it prints, after the exit code was seen to be ``code``."""
    data = typer.Typer(rich_markup_mode=None)
    data_stats.add_to(data)

    def run(*words: object, code: int = 0) -> str:
        done = CliRunner().invoke(data, [str(word) for word in words])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done.output

    monkeypatch.chdir(tmp_path)
    yield run
    forget_project()


def table(count: int, shift: float = 0.0) -> pl.DataFrame:
    rng = np.random.default_rng(count)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    return pl.DataFrame(
        {
            "id": range(count),
            "at": [start + timedelta(hours=i) for i in range(count)],
            "level": rng.normal(size=count) + shift,
            "site": rng.choice(["a", "b"], count),
        }
    )


def test_profile_of_a_file_outside_any_project(call: Call, tmp_path: Path) -> None:
    table(500).write_parquet("t.parquet")
    told = call("profile", "t.parquet", "--html", "p.html", "--lang", "ja")
    assert "t.parquet: 500 rows" in told
    assert "2024-01-01 00:00" in told
    assert "page: p.html" in told
    assert '<html lang="ja">' in Path("p.html").read_text(encoding="utf-8")
    found = json.loads(call("profile", "t.parquet", "--json"))
    assert (found["rows"], [column["name"] for column in found["columns"]]) == (500, ["id", "at", "level", "site"])
    for words, error in (
        (["profile"], DataError),
        (["profile", "x.parquet"], DataError),
        (["profile", "t.parquet", "--lang", "fr"], SettingsError),
    ):
        with pytest.raises(error):
            call(*words)


def test_suggest_writes_a_contract_and_never_over_a_file(call: Call) -> None:
    table(500).write_csv("t.csv")
    assert "class T(" in call("suggest", "t.csv")
    assert "edit what is a guess" in call(
        "suggest", "t.csv", "--out", "schema.py", "--label", "level", "--key", "id", "--time", "at"
    )
    contract = imported(Path("schema.py").read_text(encoding="utf-8"))
    assert (contract.key, contract.label) == (("id",), "level")
    with pytest.raises(DataError, match="there already"):
        call("suggest", "t.csv", "--out", "schema.py")
    call("suggest", "t.csv", "--out", "schema.py", "--force")
    with pytest.raises(SettingsError, match="one thing"):
        call("suggest")
    with pytest.raises(DataError, match="cannot be read"):
        call("suggest", "--tfdv", "gone.pbtxt")


def test_the_projects_contract_goes_to_tfdv_and_back(call: Call, root: Path) -> None:
    told = call("suggest", "--to-tfdv", "schema.pbtxt", "--project", root)
    assert "TFDV cannot say" in told
    contract = imported(call("suggest", "--tfdv", "schema.pbtxt"))
    assert (contract.key, contract.time, contract.label) == (("reading",), "at", "alarm")


def test_diff_of_two_files(call: Call) -> None:
    table(600).write_parquet("a.parquet")
    table(700, 1.0).write_parquet("b.parquet")
    told = call("diff", "a.parquet", "b.parquet", "--html", "d.html")
    assert "level has drifted" in told.replace("\n", " ")
    assert "drifted" in told
    assert "<figure>" in Path("d.html").read_text(encoding="utf-8")
    call("diff", "a.parquet", "b.parquet", "--fail", code=1)
    call("diff", "a.parquet", "a.parquet", "--fail")
    found = json.loads(call("diff", "a.parquet", "b.parquet", "--json", "--alpha", "0.001"))
    assert (found["alpha"], found["drifted"]) == (0.001, True)
    assert found["columns"][0]["shift"]["psi"] > found["columns"][0]["shift"]["psi_noise"]
    for words in (["--alpha", "0.9"], ["--lang", "fr"]):
        with pytest.raises(SettingsError):
            call("diff", "a.parquet", "b.parquet", *words)
    with pytest.raises(DataError, match="is no project"):
        call("diff", "a.parquet", "training")


def test_every_name_of_a_table_in_a_project(call: Call, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    version = versions.version(root)
    assert version is not None
    run = next(path.name for path in (root / "outputs" / "runs").iterdir() if (path / "run.json").is_file())
    rows = pl.read_parquet("data/rows.parquet")
    assert f"data/rows.parquet: {rows.height:,} rows" in call("profile")
    for name in (version, version[:8], run):
        assert f"{rows.height:,} rows" in call("profile", name)
        assert json.loads(call("diff", name, "data/rows.parquet", "--json"))["old"]["rows"] == rows.height
    half = json.loads(call("diff", "2024-02-01..2024-02-10", "2024-02-10..", "--json"))
    assert (half["old"]["rows"], half["new"]["rows"]) == (9 * 24, rows.height - 9 * 24)
    live = json.loads(call("diff", "training", "serving", "--json"))
    assert {column["name"] for column in live["columns"]} == {"level", "other"}
    assert (live["new"]["rows"], live["drifted"]) == (48, False)
    assert (
        json.loads(call("diff", "data/rows.parquet", "serving", "--since", "2024-03-02", "--json"))["new"]["rows"] == 24
    )
    with pytest.raises(DataError, match="no matured predictions"):
        call("diff", "training", "serving", "--since", "1d")
    for name, what in (
        ("nothing", "nothing here is called"),
        ("x..y", "no period"),
        ("0" * 32, "neither|damaged|cache"),
        ("training", "sketch"),
    ):
        with pytest.raises(MeguriError, match=what):
            call("profile", name)


def test_a_version_that_is_only_in_the_remote_is_brought_back_and_left_nowhere(call: Call, root: Path) -> None:
    version = versions.version(root)
    (root / "data" / "rows.parquet").unlink()
    shutil.rmtree(root / ".dvc" / "cache", ignore_errors=True)
    assert json.loads(call("profile", version, "--json", "--project", root))["rows"] > 500
    assert not list((root / "outputs").glob(".diff.*"))
    with pytest.raises(DataError, match="no data yet"):
        call("profile", "--project", root)


def test_a_version_of_several_files(call: Call, root: Path) -> None:
    table(60).write_parquet(root / "data" / "more.parquet")
    rows = pl.read_parquet(root / "data" / "rows.parquet").height
    version = versions.save(root, [root / "data" / "rows.parquet", root / "data" / "more.parquet"])
    assert json.loads(call("profile", version, "--json", "--project", root))["rows"] == rows


def test_a_table_of_the_warehouse(call: Call, root: Path) -> None:
    project = Project.open(root)
    with project.warehouse as warehouse:
        warehouse.write("readings", table(300))
        warehouse.write("others", table(200, 2.0))
    assert "readings: 300 rows" in call("profile", "readings", "--project", root)
    found = json.loads(call("diff", "readings", "others", "--json", "--project", root))
    assert {c["name"]: c["state"] for c in found["columns"]}["level"] == "drifted"


def test_a_project_without_a_release_has_no_training(call: Call, tmp_path: Path) -> None:
    root = write_project(tmp_path / "fresh")
    for name, what in (("training", "no release is live"), ("serving", "no matured")):
        with pytest.raises(MeguriError, match=what):
            call("profile", name, "--project", root)


def test_a_run_without_data(call: Call, root: Path) -> None:
    path = next((root / "outputs" / "runs").glob("*/run.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "data_version": None}))
    with pytest.raises((DataError, JobError), match="no version of its data"):
        call("profile", path.parent.name, "--project", root)
