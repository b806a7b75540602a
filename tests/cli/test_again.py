"""The commands about past runs, as a person uses them: told by their output and exit code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from loop.past import MODEL, commit, edit, run, runs, start
from loop.past import forgotten as forgotten  # noqa: PLC0414
from typer.testing import CliRunner

from meguri.base.errors import MeguriError
from meguri.base.files import read_json, write_json
from meguri.cli import again, data_versions

Call = Callable[..., str]


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Path) -> Path:
    """Two turns of a project under git, with a changed model between them."""
    sliced = "from meguri import Evaluation\n\ndef evaluate(model, dataset):\n    return Evaluation.of(model, dataset.test, slices=['other'])\n"
    root = start(tmp_path_factory.mktemp("past") / "alarm", mlflow_store, {"src/jobs/evaluate.py": sliced})
    run(root, reason="the first")
    edit(root / MODEL, "C=strength", "C=strength / 100")
    commit(root, "weaker")
    run(root, 2, reason="the second")
    return root


@pytest.fixture
def root(past: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(past, tmp_path / "alarm"))


@pytest.fixture
def call(root: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command in the project; its output, after the exit code was seen to be ``code``."""
    app, data = typer.Typer(), typer.Typer()
    again.add_to(app)
    data_versions.add_to(data)
    app.add_typer(data, name="data")

    def invoke(*words: str, code: int = 0) -> str:
        monkeypatch.chdir(root)
        done = CliRunner().invoke(app, list(words))
        if isinstance(done.exception, MeguriError):
            assert code == 1
            return str(done.exception)
        assert done.exit_code == code, done.output
        return done.output

    return invoke


def test_a_rerun_that_gives_the_same(call: Call, root: Path) -> None:
    said = call("rerun", runs(root)[0])
    assert "train …" in said
    assert "log_loss" in said
    assert said.splitlines()[-1] == "same"
    edit(root / "hydra/default.yaml", "step: 1d", "step: 2d")
    said = call("rerun", runs(root)[0], "--present", "settings", "--keep")
    assert "same, though not in settings (loop.step 1d → 2d)" in said
    assert f"kept in {root}/outputs/reruns/{runs(root)[0]}" in said.replace("\n", "")


def test_a_rerun_that_differs_ends_with_one(call: Call, root: Path) -> None:
    found = json.loads(call("rerun", runs(root)[0], "--present", "code", "--json", code=1))
    assert found["verdict"] == "differs"
    assert found["first"] == {"name": "code", "detail": f"{MODEL} is changed"}
    (root / "src/jobs/train.py").write_text("def train(dataset, params):\n    return 1 / 0\n")
    said = call("rerun", runs(root)[0], "--present", "code", code=1)
    assert "failed: the step 'train' fails now" in said
    assert "differs; the first place: code (src/jobs/train.py is changed" in said


def test_a_rerun_of_nothing(call: Call) -> None:
    assert "there is no run 'nothing'" in call("rerun", "nothing", code=1)


def test_notes_are_told(call: Call, root: Path) -> None:
    kept = root / "outputs/runs" / runs(root)[1]
    (kept / "diff.patch").write_text("# not in git: src/lost.py\n# not in git: data/rows.parquet.dvc\n")
    write_json(kept / "run.json", read_json(kept / "run.json") | {"done": {"retrieve": 1.0}})
    said = call("rerun", runs(root)[1], code=1)
    assert "differs; the first place: dataset (there is none now)" in said
    assert "note: not in git when the run was made, so missing now: src/lost.py" in said


def test_runs_are_listed(call: Call, root: Path) -> None:
    listed = json.loads(call("runs", "list", "--json"))
    assert [each["reason"] for each in listed] == ["the second", "the first"]
    assert "the second" in call("runs", "list")


def test_no_run_yet(call: Call, root: Path) -> None:
    (root / "outputs/ledger.db").unlink()
    assert "no turn yet" in call("runs", "list")


def test_two_runs_are_compared(call: Call, root: Path) -> None:
    first, second = runs(root)
    said = call("runs", "diff", first, second)
    for part in (
        "commit",
        "data: rows",
        "696",
        "744",
        "1 file changed",
        "48 rows came",
        "on the 72 rows",
        "log_loss by other",
        "paired",
    ):
        assert part in said
    assert json.loads(call("runs", "diff", first, second, "--json"))["shared"]["rows"] == 72
    assert "nothing changed" in call("runs", "diff", first, first)


def test_two_runs_that_share_nothing(call: Call, root: Path) -> None:
    first, second = runs(root)
    shutil.rmtree(root / "outputs/runs" / first / "evaluation")
    for name in (first, second):
        (root / "outputs/runs" / name / "made_with.json").unlink()
        kept = root / "outputs/runs" / name / "run.json"
        write_json(kept, read_json(kept) | {"commit": None, "dirty": True, "data_version": None})
    said = call("runs", "diff", first, second)
    assert "no git + uncommitted" in said
    assert "they share none" in said
    shutil.rmtree(root / "outputs/runs" / second / "evaluation")
    assert "metrics" not in call("runs", "diff", first, second)


def test_a_trace(call: Call, root: Path) -> None:
    said = call("trace", runs(root)[0], "--rows", "1")
    assert said.startswith(f"run {runs(root)[0]}  the first, done, pass")
    found = json.loads(call("trace", "r700", "--json"))
    assert found["leads"][0]["leads"][0]["name"] == runs(root)[0]
    assert "nothing here is called" in call("trace", "nobody", code=1)
    for lang, kind in (("en", "quarantine"), ("ja", "隔離")):
        assert call("trace", "r700", "--html", str(root / "trace.html"), "--lang", lang).endswith("trace.html\n")
        page = (root / "trace.html").read_text(encoding="utf-8")
        assert f'<html lang="{lang}">' in page
        assert f">{kind}</tspan>" in page
        assert "http:" not in page
        assert "https:" not in page
    assert "choose en or ja" in call("trace", "r700", "--html", "x.html", "--lang", "de", code=1)


def test_versions_of_the_data(call: Call, root: Path, tmp_path: Path) -> None:
    listed = json.loads(call("data", "versions", "--json"))
    assert [each["runs"] for each in listed] == [[name] for name in runs(root)]
    assert "now" in call("data", "versions")
    first = listed[0]["version"]
    assert f"data-{first[:8]}.parquet" in call("data", "get", first[:6])
    assert (root / f"data-{first[:8]}.parquet").is_file()
    found = json.loads(call("data", "get", runs(root)[0], "--to", str(tmp_path / "then.parquet"), "--json"))
    assert found == {"version": first, "path": str(tmp_path / "then.parquet")}
    assert "never restored over" in call("data", "get", first, "--to", str(tmp_path / "then.parquet"), code=1)
    assert "is no version of data" in call("data", "get", "nothing", code=1)
    assert "several versions begin with ''" in call("data", "get", "", code=1)


def test_no_version_yet(call: Call, root: Path) -> None:
    for name in ("outputs/ledger.db",):
        (root / name).unlink()
    for name in ("outputs/runs", ".dvc"):
        shutil.rmtree(root / name)
    (root / "data/rows.parquet.dvc").unlink()
    assert "no version yet" in call("data", "versions")
