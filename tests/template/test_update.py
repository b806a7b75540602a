"""`meguri update`: both sides' changes meet, and nothing is half-done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from meguri.base.errors import ProjectError
from meguri.cli import new as commands
from meguri.loop import merge, scaffold

from .conftest import commit, git


@pytest.fixture
def project(tmp_path, template) -> Path:
    made = scaffold.new(tmp_path / "sales", {"name": "sales"})
    commit(made)
    return made


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def update(project: Path, *words: str):
    app = typer.Typer()
    commands.add_to(app)
    app.callback()(lambda: None)
    return CliRunner().invoke(app, ["update", "--project", str(project), *words])


def test_nothing_new(project):
    assert scaffold.update(project) == merge.Update((), ())
    assert git(project, "status", "--porcelain") == ""
    assert "up to date" in update(project).output


def test_both_sides_changed_a_file_in_different_places(project, template):
    change(project / "hydra/default.yaml", "seed: 42", "seed: 7")
    change(project / "src/jobs/predict.py", "def predict", "def predict")
    commit_all(project)
    change(template / "project/hydra/default.yaml.jinja", "give_up: 30d", "give_up: 60d")
    (template / "project/src/added.py").write_text("NEW = True\n")
    (template / "project/src/middleware/logger.py").unlink()
    done = scaffold.update(project)
    assert done.conflicts == ()
    assert {"hydra/default.yaml", "src/added.py", "src/middleware/logger.py"} <= set(done.changed)
    text = (project / "hydra/default.yaml").read_text()
    assert "seed: 7" in text
    assert "give_up: 60d" in text
    assert (project / "src/added.py").is_file()
    assert not (project / "src/middleware/logger.py").exists()
    assert git(project, "diff", "--name-only") == ""  # all of it is staged
    git(project, "commit", "--message", "update")
    assert scaffold.update(project) == merge.Update((), ())  # the new baseline is kept


def commit_all(project: Path) -> None:
    if git(project, "status", "--porcelain"):
        commit(project)


@pytest.fixture
def clash(project, template):
    """Two files that both sides changed in the same line, and one that they did not."""
    change(project / "hydra/default.yaml", "seed: 42", "seed: 7")
    change(project / "src/main.py", "The entry", "Our entry")
    (project / "README.md").write_text("ours\n")
    commit_all(project)
    change(template / "project/hydra/default.yaml.jinja", "seed: 42", "seed: 1")
    change(template / "project/src/main.py", "The entry", "The way in")
    (template / "project/src/added.py").write_text("NEW = True\n")
    return project


def test_two_files_in_conflict(clash):
    done = update(clash, "--json")
    assert done.exit_code == 1
    assert isinstance(done.exception, ProjectError)
    told = str(done.exception)
    assert "2 files" in told
    assert "hydra/default.yaml, src/main.py" in told
    assert "git reset --merge" in told
    assert json.loads(done.stdout)["conflicts"] == ["hydra/default.yaml", "src/main.py"]
    text = (clash / "hydra/default.yaml").read_text()
    assert "<<<<<<< yours\nseed: 7\n=======\nseed: 1\n>>>>>>> new template\n" in text
    assert (clash / "README.md").read_text() == "ours\n"
    states = {line[3:]: line[:2] for line in git(clash, "status", "--porcelain").splitlines()}
    assert states["hydra/default.yaml"] == states["src/main.py"] == "UU"
    with pytest.raises(AssertionError, match="unmerged"):
        git(clash, "commit", "--message", "too early")
    with pytest.raises(ProjectError, match="the last update or merge is not settled"):
        scaffold.update(clash)


def test_an_update_can_be_taken_back_whole(clash):
    scaffold.update(clash)
    git(clash, "reset", "--merge")
    assert git(clash, "status", "--porcelain") == ""
    assert not (clash / "src/added.py").exists()
    assert scaffold.update(clash).conflicts == ("hydra/default.yaml", "src/main.py")


def test_a_settled_conflict_is_not_asked_again(clash):
    scaffold.update(clash)
    for name in ("hydra/default.yaml", "src/main.py"):
        git(clash, "checkout", "--ours", "--", name)
    commit(clash)
    assert "seed: 7" in (clash / "hydra/default.yaml").read_text()
    assert scaffold.update(clash) == merge.Update((), ())


def test_in_a_folder_of_a_larger_repository(tmp_path, template):
    top = tmp_path / "company"
    top.mkdir()
    (top / "readme").write_text("x")
    commit(top)
    made = scaffold.new(top / "ml", {"name": "ml"})
    change(made / "src/main.py", "The entry", "Our entry")
    commit(top)
    change(template / "project/src/main.py", "The entry", "The way in")
    assert scaffold.update(made).conflicts == ("src/main.py",)
    assert "UU ml/src/main.py" in git(top, "status", "--porcelain")


def test_deleted_here_or_there(project, template):
    (project / "src/middleware/logger.py").unlink()
    change(project / "src/main.py", "The entry", "Our entry")
    commit_all(project)
    change(template / "project/src/middleware/logger.py", "One logger", "A logger")
    (template / "project/src/main.py").unlink()
    done = scaffold.update(project)
    assert not (project / "src/middleware/logger.py").exists()  # what a person deleted stays deleted
    assert done.conflicts == ("src/main.py",)  # dropped by the template, but changed here
    assert "Our entry" in (project / "src/main.py").read_text()
    assert "UD src/main.py" in git(project, "status", "--porcelain")


def test_added_on_both_sides(project, template):
    (project / "src/added.py").write_text("ours\n")
    (project / "src/same.py").write_text("same\n")
    (project / "src/blob.bin").write_bytes(b"\0ours")
    commit_all(project)
    (template / "project/src/added.py").write_text("theirs\n")
    (template / "project/src/same.py").write_text("same\n")
    (template / "project/src/blob.bin").write_bytes(b"\0theirs")
    done = scaffold.update(project)
    assert done.conflicts == ("src/added.py", "src/blob.bin")
    assert (project / "src/blob.bin").read_bytes() == b"\0ours"


def test_a_newer_meguri_comes_along(project, template):
    old = next((project / "vendor").glob("*.whl")).name
    (template / "project/Makefile.jinja").write_text("lock:\n\t@touch uv.lock\n")
    done = update(project)
    assert done.exit_code == 0, done.output
    new = next((project / "vendor").glob("*.whl")).name  # the template is in the wheel, so it is another one
    assert new != old
    assert new in (project / "pyproject.toml").read_text()
    assert len(list((project / "vendor").iterdir())) == 1
    assert (project / "uv.lock").is_file()


def test_a_failed_write_gives_everything_back(project, template, monkeypatch):
    for name in ("src/main.py", "src/middleware/logger.py"):
        change(template / "project" / name, '"""', '"""Newer. ')
    (template / "project/src/added.py").write_text("NEW = True\n")
    real = merge.write

    def full(root, path, data):
        if path == merge.BASELINE and data is not None and not full.done:
            full.done = True
            raise OSError(28, "No space left on device")
        real(root, path, data)

    full.done = False
    monkeypatch.setattr(merge, "write", full)
    with pytest.raises(OSError, match="No space"):
        scaffold.update(project)
    assert git(project, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    "case", ["dirty", "no git", "no answers", "bad answers", "answers no map", "no baseline", "bad baseline"]
)
def test_what_cannot_be_updated_says_why(project, template, case):
    (template / "project/src/added.py").write_text("NEW = True\n")
    if case == "dirty":
        (project / "src/main.py").write_text("x")
    elif case == "no git":
        (project / ".git").rename(project.parent / "gone")
    elif case == "no answers":
        (project / scaffold.ANSWERS).unlink()
    elif case == "bad answers":
        (project / scaffold.ANSWERS).write_text("a: [")
    elif case == "answers no map":
        (project / scaffold.ANSWERS).write_text("just text")
    elif case == "no baseline":
        (project / merge.BASELINE).unlink()
        commit(project)
    else:
        (project / merge.BASELINE).write_bytes(b"broken")
        commit(project)
    with pytest.raises(ProjectError) as error:
        scaffold.update(project)
    assert error.value.fix
    assert not (project / "src/added.py").exists()


def test_without_git(project, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ProjectError, match="git is not installed"):
        scaffold.update(project)


@pytest.fixture
def own(tmp_path) -> Path:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "copier.yml").write_text("name: {type: str}\n")
    (folder / "note.txt").write_text("one\ntwo\nthree\nfour\nfive\n")
    (folder / "gone.txt").write_text("x\n")
    (folder / "{{ _copier_conf.answers_file }}.jinja").write_text("{{ _copier_answers|to_nice_yaml }}")
    commit(folder, "1.0.0")
    return folder


@pytest.mark.parametrize("way", ["path", "url"])
def test_a_team_s_template_is_updated_by_copier(tmp_path, own, way):
    source = str(own)
    if way == "url":
        git(tmp_path, "clone", "--quiet", "--bare", "own", "own.git")
        source = f"file://{tmp_path}/own.git"
    made = scaffold.new(tmp_path / "made", {"name": "x"}, source)
    change(made / "note.txt", "five", "our five")
    commit(made)
    change(own / "note.txt", "one", "a new one")
    (own / "added.txt").write_text("new\n")
    (own / "gone.txt").unlink()
    commit(own, "1.1.0")
    if way == "url":
        git(own, "push", "--quiet", "--tags", source, "main")
    done = scaffold.update(made)
    assert done.conflicts == ()
    assert {"note.txt", "added.txt", "gone.txt"} <= set(done.changed)
    assert (made / "note.txt").read_text() == "a new one\ntwo\nthree\nfour\nour five\n"
    assert git(made, "diff", "--name-only") == ""


def test_a_team_s_template_in_conflict(tmp_path, own):
    made = scaffold.new(tmp_path / "made", {"name": "x"}, str(own))
    change(made / "note.txt", "three", "our three")
    commit(made)
    change(own / "note.txt", "three", "their three")
    (own / "added.txt").write_text("new\n")
    commit(own, "1.1.0")
    assert scaffold.update(made).conflicts == ("note.txt",)
    assert "UU note.txt" in git(made, "status", "--porcelain")
    git(made, "reset", "--merge")
    assert git(made, "status", "--porcelain") == ""
    assert not (made / "added.txt").exists()


def test_a_team_s_template_without_versions_says_so(tmp_path, own):
    made = scaffold.new(tmp_path / "made", {"name": "x"}, str(own))
    commit(made)
    answers = made / scaffold.ANSWERS
    answers.write_text("".join(line for line in answers.read_text().splitlines(True) if not line.startswith("_commit")))
    commit(made)
    with pytest.raises(ProjectError, match="template"):
        scaffold.update(made)
