"""`meguri new`: what it makes, from which template, and what it refuses."""

from __future__ import annotations

import ast
import itertools
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from meguri.base.errors import ProjectError
from meguri.cli import new as commands
from meguri.loop import scaffold
from meguri.loop.settings import Settings, compose, judge

from .conftest import commit

FOLDERS = [
    "data",
    "hydra",
    "outputs",
    "tests",
    "vendor",
    *(f"src/{n}" for n in ("repository", "jobs", "models", "optimizer", "middleware")),
]
FILES = [
    "Dockerfile", "Makefile", "README.md", "__init__.py", "pyproject.toml", "hydra/default.yaml", ".gitignore", ".dockerignore",
    ".copier-answers.yml", ".pre-commit-config.yaml", ".devcontainer/devcontainer.json", ".github/workflows/ci.yml", ".meguri/baseline.zip",
    "src/configurations.py", "src/main.py", "src/repository/data_manager.py", "src/repository/schema.py", "src/models/base_model.py",
    "src/models/preprocess.py", "src/optimizer/optimizer.py", "src/optimizer/schema.py", "src/middleware/logger.py",
    *(f"src/jobs/{job}.py" for job in ("retrieve", "optimize", "train", "evaluate", "predict", "register")),
]  # fmt: skip
CHOICES = list(itertools.product(["classification", "regression"], ["uv", "poetry", "pipenv"], ["en", "ja"]))


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    commands.add_to(app)
    return app


@pytest.mark.parametrize(("task", "lock", "language"), CHOICES)
def test_every_combination_is_whole(tmp_path, task, lock, language):
    made = scaffold.new(tmp_path / "sales", {"name": "sales", "task": task, "lock": lock, "language": language})
    assert [name for name in FOLDERS if not (made / name).is_dir()] == []
    assert [name for name in FILES if not (made / name).is_file()] == []
    assert not (made / "hydra" / "__init__.py").exists()
    model = "random_forest_classifier" if task == "classification" else "random_forest_regressor"
    assert (made / "src" / "models" / f"{model}.py").is_file()
    assert (made / "Pipfile").is_file() == (lock == "pipenv")
    for path in made.rglob("*"):
        if path.is_file() and ".git" not in path.parts and path.suffix not in (".whl", ".zip"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"\{%|%\}|\{\{(?! *[a-z_.]+ *\}\} *$)", text), path
            if path.suffix == ".py":
                ast.parse(text)
            elif path.suffix in (".yml", ".yaml"):
                yaml.safe_load(text)
            elif path.suffix == ".json":
                json.loads(text)
    project = tomllib.loads((made / "pyproject.toml").read_text())
    wheel = next((made / "vendor").glob("meguri-*.whl")).name
    asked = (made / ("Pipfile" if lock == "pipenv" else "pyproject.toml")).read_text()
    assert wheel in asked
    assert project["project"]["name"] == "sales"
    assert any("ぁ" <= letter <= "ヿ" for letter in (made / "README.md").read_text()) == (language == "ja")
    for arguments in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, "."], cwd=made, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_settings_keep_to_what_meguri_knows(tmp_path, task):
    made = scaffold.new(tmp_path / "sales", {"name": "sales", "task": task})
    values = compose(made / "hydra")
    del values["data"]["start"]  # the project's own
    assert judge(values, Settings, made / "hydra").model.name.startswith("random_forest_")


LATER = """
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from src.jobs.retrieve import retrieve
from src.repository.schema import contract
settings = SimpleNamespace(data=SimpleNamespace(start=date(2024, 1, 1)))
for now in (datetime(2024, 1, 1, tzinfo=UTC), datetime(2035, 7, 1, 15, tzinfo=UTC)):
    checked = contract.check(retrieve(settings, now - timedelta(days=350), now + timedelta(days=7), now), now=now)
    features = checked.rows.select(contract.features)
    print(checked.rows.height, checked.quarantined.height, features.height - features.unique().height)
"""


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_sample_never_runs_out_and_no_row_comes_twice_in_one_history(tmp_path, task):
    made = scaffold.new(tmp_path / "sales", {"name": "sales", "task": task})
    done = subprocess.run([sys.executable, "-c", LATER], cwd=made, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["7 0 0", "357 0 0"], done.stderr


def test_a_users_own_lines_are_few(tmp_path):
    made = scaffold.new(tmp_path / "sales", {"name": "sales"})
    files = [*(made / "src").rglob("*.py"), made / "hydra" / "default.yaml"]
    lines = sum(bool(line.strip()) for file in files for line in file.read_text().splitlines())
    assert 150 <= lines <= 250


def test_the_vendored_wheel_installs_and_brings_the_template(tmp_path):
    made = scaffold.new(tmp_path / "sales", {"name": "sales"})
    wheel = next((made / "vendor").glob("*.whl"))
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(target)
    assert {"meguri/__init__.py", "meguri/py.typed", "meguri/_template/copier.yml"} <= set(names)
    assert not [name for name in names if name.endswith(".pyc")]
    record = next(target.glob("*.dist-info/RECORD")).read_text().splitlines()
    assert {line.split(",")[0] for line in record} == set(names)
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import meguri; print(meguri.__file__)"],
        env={"PYTHONPATH": str(target)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert str(target) in done.stdout


def test_the_same_meguri_gives_the_same_wheel(tmp_path):
    first, second = (scaffold.new(tmp_path / name, {"name": "x"}) for name in ("one", "two"))
    wheels = [next((made / "vendor").glob("*.whl")) for made in (first, second)]
    assert wheels[0].name == wheels[1].name
    assert wheels[0].read_bytes() == wheels[1].read_bytes()


class _FromGit:
    version = "0.1.0"
    files = ()

    def read_text(self, name: str) -> str:
        assert name == "direct_url.json"
        return json.dumps({"url": "https://example.org/meguri.git", "vcs_info": {"vcs": "git", "commit_id": "abc123"}})


@pytest.mark.parametrize(
    ("lock", "file"), [("uv", "pyproject.toml"), ("poetry", "pyproject.toml"), ("pipenv", "Pipfile")]
)
def test_a_meguri_from_git_is_asked_for_by_commit(tmp_path, monkeypatch, lock, file):
    monkeypatch.setattr(metadata, "distribution", lambda name: _FromGit())
    made = scaffold.new(tmp_path / "sales", {"name": "sales", "lock": lock})
    assert not (made / "vendor").exists()
    text = (made / file).read_text()
    assert "https://example.org/meguri.git" in text
    assert "abc123" in text
    assert "install -y --no-install-recommends git" in (made / "Dockerfile").read_text()
    tomllib.loads(text)


def test_a_meguri_that_is_not_installed_says_so(tmp_path, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(ProjectError, match="not installed"):
        scaffold.new(tmp_path / "sales", {"name": "sales"})


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ProjectError, match="already there"):
        scaffold.new(tmp_path, {"name": "x"})
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("answers", [{"name": "1 bad"}, {"name": "x", "task": "clustering"}])
def test_a_bad_answer_leaves_nothing(tmp_path, answers):
    with pytest.raises(ProjectError, match="cannot be used"):
        scaffold.new(tmp_path / "sales", answers)
    assert list(tmp_path.iterdir()) == []


def test_in_a_repository_no_second_one_is_made(tmp_path):
    (tmp_path / "readme").write_text("x")
    commit(tmp_path)
    made = scaffold.new(tmp_path / "ml", {"name": "ml"})
    assert not (made / ".git").exists()
    assert (scaffold.new(tmp_path.parent / f"{tmp_path.name}-alone", {"name": "ml"}) / ".git").is_dir()


@pytest.fixture
def own(tmp_path) -> Path:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "copier.yml").write_text("name: {type: str}\nteam: {type: str, default: none}\n")
    (folder / "note.txt.jinja").write_text("{{ name }} of {{ team }}\n")
    (folder / "{{ _copier_conf.answers_file }}.jinja").write_text("{{ _copier_answers|to_nice_yaml }}")
    return folder


@pytest.mark.parametrize("way", ["path", "url"])
def test_a_template_of_ones_own(tmp_path, own, app, way):
    commit(own, "1.0.0")
    template = str(own) if way == "path" else f"file://{own}"
    if way == "url":
        own.rename(tmp_path / "own.git")
        template = f"file://{tmp_path}/own.git"
    done = CliRunner().invoke(
        app,
        ["new", str(tmp_path / "made"), "--template", template, "--answer", "team=ml", "--yes"],
        catch_exceptions=False,
    )
    assert done.exit_code == 0
    assert (tmp_path / "made" / "note.txt").read_text() == "made of ml\n"


def test_a_template_with_commands_wants_trust(tmp_path, own):
    with (own / "copier.yml").open("a") as file:
        file.write("_tasks: ['touch ran']\n")
    with pytest.raises(ProjectError, match="commands of its own"):
        scaffold.new(tmp_path / "made", {"name": "x"}, str(own))
    assert not (tmp_path / "made").exists()
    assert (scaffold.new(tmp_path / "made", {"name": "x"}, str(own), trust=True) / "ran").is_file()


def test_a_template_that_is_not_there(tmp_path):
    with pytest.raises(ProjectError, match="cannot be used"):
        scaffold.new(tmp_path / "made", {"name": "x"}, str(tmp_path / "nowhere"))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def cookie(tmp_path) -> Path:
    folder = tmp_path / "cookie"
    inside = folder / "{{ cookiecutter.project_slug }}"
    inside.mkdir(parents=True)
    (folder / "cookiecutter.json").write_text(json.dumps({"project_slug": "x", "team": "none"}))
    (inside / "note.txt").write_text("{{ cookiecutter.project_slug }} of {{ cookiecutter.team }}\n")
    return folder


@pytest.mark.parametrize("way", ["path", "url"])
def test_a_cookiecutter_template(tmp_path, cookie, way):
    commit(cookie)
    made = scaffold.new(
        tmp_path / "made", {"name": "sales-ml", "team": "ml"}, str(cookie) if way == "path" else f"file://{cookie}"
    )
    assert (made / "note.txt").read_text() == "sales_ml of ml\n"


def test_a_cookiecutter_template_with_hooks_wants_trust(tmp_path, cookie):
    (cookie / "hooks").mkdir()
    (cookie / "hooks" / "post_gen_project.py").write_text("open('ran', 'w').close()\n")
    with pytest.raises(ProjectError, match="hooks"):
        scaffold.new(tmp_path / "made", {"name": "x"}, str(cookie))
    assert (scaffold.new(tmp_path / "made", {"name": "x"}, str(cookie), trust=True) / "ran").is_file()


def _makefile(made: Path, recipe: str) -> None:
    (made / "Makefile").write_text(f"lock:\n\t{recipe}\n")


def test_a_lock_that_fails_leaves_the_project_and_says_what_to_run(tmp_path, monkeypatch):
    made = scaffold.new(tmp_path / "sales", {"name": "sales"})
    _makefile(made, "@echo no network >&2; exit 1")
    with pytest.raises(ProjectError, match="no network") as error:
        scaffold.lock(made)
    assert "make lock" in str(error.value)
    _makefile(made, "@touch uv.lock")
    scaffold.lock(made)
    assert (made / "uv.lock").is_file()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProjectError, match="could not be locked"):
        scaffold.lock(made)


@pytest.fixture
def lockless(template):
    """The template with a `make lock` that needs no network."""
    (template / "project" / "Makefile.jinja").write_text("lock:\n\t@touch {{ lock }}.lock\n")
    return template


def test_the_command_asks_nothing_and_takes_the_folders_name(tmp_path, app, lockless):
    done = CliRunner().invoke(app, ["new", str(tmp_path / "Sales 2026"), "--yes"], catch_exceptions=False)
    assert done.exit_code == 0
    answers = yaml.safe_load((tmp_path / "Sales 2026" / ".copier-answers.yml").read_text())
    expected = {"name": "Sales-2026", "task": "classification", "lock": "uv", "language": "en", "outlets": ["table"]}
    assert {key: answers[key] for key in expected} == expected
    assert "make run" in done.output
    assert (tmp_path / "Sales 2026" / "uv.lock").is_file()


def test_every_question_has_a_flag(tmp_path, app, lockless):
    words = "--name a --task regression --lock pipenv --language ja --outlet table --yes --json".split()
    done = CliRunner().invoke(app, ["new", str(tmp_path / "x"), *words], catch_exceptions=False)
    assert json.loads(done.stdout) == {"project": str(tmp_path / "x"), "locked": True, "trouble": None}
    answers = yaml.safe_load((tmp_path / "x" / ".copier-answers.yml").read_text())
    assert [answers[key] for key in ("name", "task", "lock", "language")] == ["a", "regression", "pipenv", "ja"]


def test_the_command_says_how_to_lock_later(tmp_path, app, template):
    (template / "project" / "Makefile.jinja").write_text("lock:\n\t@exit 1\n")
    done = CliRunner().invoke(app, ["new", str(tmp_path / "x"), "--yes"], catch_exceptions=False)
    assert done.exit_code == 0
    assert re.search(r"warning: .*next:.*cd .*make lock.*make run", done.output, re.DOTALL)


@pytest.mark.parametrize("words", [["売上"], ["x", "--outlet", "fax"], ["x", "--answer", "nonsense"]])
def test_words_that_mean_nothing(tmp_path, app, words):
    with pytest.raises(ProjectError):
        CliRunner().invoke(app, ["new", str(tmp_path / words[0]), *words[1:], "--yes"], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []
