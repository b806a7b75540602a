"""Reruns and packages: another version is named, the environment of the lock is built, and a kill leaves nothing in the way."""

from __future__ import annotations

import signal
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from loop.past import MODEL, commit, edit, git, run, runs, start
from loop.past import forgotten as forgotten  # noqa: PLC0414

import meguri
from meguri.base.errors import ProjectError
from meguri.loop import environment
from meguri.loop.compare import Comparison
from meguri.loop.project import Project
from meguri.loop.rerun import rerun
from meguri.record.run import Run

FACTOR = {"1.0": "1.0", "2.0": "0.1"}


def package(folder: Path, version: str) -> Path:
    """A small package that is installed in ``folder``, as pip leaves it there."""
    (folder / "strengthener").mkdir(parents=True)
    (folder / "strengthener" / "__init__.py").write_text(f"FACTOR = {FACTOR[version]}\n")
    info = folder / f"strengthener-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: strengthener\nVersion: {version}\n")
    (info / "RECORD").write_text("strengthener/__init__.py,,\n")
    return folder


def wheel(path: Path, name: str, version: str, files: dict[str, str]) -> None:
    """A wheel that pip and uv install."""
    info = f"{name}-{version}.dist-info"
    own = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, *own, f"{info}/RECORD"])
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for place, text in {**files, **own, f"{info}/RECORD": record}.items():
            file.writestr(place, text)


@pytest.fixture
def root(tmp_path: Path, mlflow_store: Path) -> Path:
    """A project that uses strengthener, whose lock has version 1.0, and all that this environment has."""
    root = start(tmp_path / "alarm", mlflow_store)
    edit(root / MODEL, "from sklearn", "from strengthener import FACTOR\nfrom sklearn")
    edit(root / MODEL, "C=strength,", "C=strength * FACTOR,")
    here = f"{sysconfig.get_path('purelib')}\n{Path(meguri.__file__).parent.parent}\n"
    wheel(root / "vendor/borrowed-1.0-py3-none-any.whl", "borrowed", "1.0", {"borrowed.pth": here})
    wheel(
        root / "vendor/strengthener-1.0-py3-none-any.whl",
        "strengthener",
        "1.0",
        {"strengthener/__init__.py": "FACTOR = 1.0\n"},
    )
    lines = ["./vendor/borrowed-1.0-py3-none-any.whl", "./vendor/strengthener-1.0-py3-none-any.whl"]
    (root / "requirements.txt").write_text("\n".join(lines) + "\n")
    commit(root, "with a package of our own")
    return root


@pytest.fixture
def made(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project after a turn with version 1.0; version 2.0 is installed now."""
    old, new = package(tmp_path / "old", "1.0"), package(tmp_path / "new", "2.0")
    with monkeypatch.context() as then:
        then.syspath_prepend(str(old))
        run(root)
    for name in [name for name in sys.modules if name.startswith("strengthener")]:
        del sys.modules[name]
    monkeypatch.setenv("PYTHONPATH", str(new))
    monkeypatch.syspath_prepend(str(new))
    return root


def again(root: Path, **more: object) -> Comparison:
    return rerun(Project.open(root), runs(root)[0], **more)  # type: ignore[arg-type]


def test_another_version_is_named_and_the_environment_of_then_gives_the_same(made: Path) -> None:
    found = again(made)
    assert found.verdict == "differs"
    assert found.first is not None
    assert (found.first.name, found.first.detail) == ("packages", "strengthener 1.0 → 2.0")
    assert "requirements.txt had: strengthener 1.0 → 2.0; --env" in found.notes[0]
    said: list[str] = []
    found = again(made, env=True, say=said.append)
    assert said[0] == "building the environment of requirements.txt"
    assert (found.verdict, found.notes) == ("same", ())
    assert found.first is None or "strengthener" not in found.first.detail


def test_without_uv_pip_builds_it(made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "_find", lambda tool, root: None)
    past = Run.load(made / "outputs", runs(made)[0])
    python = environment.build(made, made, tmp_path / "env", past, say=lambda step: None)
    code = "import strengthener, meguri; print(strengthener.FACTOR)"
    command = [str(python), "-I", "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1.0\n"


NAMES = ("borrowed", "strengthener")
WHEELS = "".join(f'{name} = {{ path = "./vendor/{name}-1.0-py3-none-any.whl" }}\n' for name in NAMES)
PYPROJECT = f'[project]\nname = "alarm"\nversion = "1"\nrequires-python = ">=3.11,<4"\ndependencies = {list(NAMES)}\n'


@pytest.mark.parametrize(
    ("lock", "file", "text", "command"),
    [
        ("uv.lock", "pyproject.toml", f"{PYPROJECT}[tool.uv.sources]\n{WHEELS}", ["uv", "lock", "--offline"]),
        (
            "poetry.lock",
            "pyproject.toml",
            f"{PYPROJECT}[tool.poetry]\npackage-mode = false\n[tool.poetry.dependencies]\n{WHEELS}",
            ["poetry", "lock"],
        ),
        ("Pipfile.lock", "Pipfile", f"[packages]\n{WHEELS}", ["pipenv", "lock"]),
    ],
    ids=["uv", "poetry", "pipenv"],
)
def test_a_lock_is_built_by_its_own_tool(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str, file: str, text: str, command: list[str]
) -> None:
    tool = environment._find(command[0], made)
    if tool is None:
        pytest.skip(f"{command[0]} is not installed")
    monkeypatch.setenv("POETRY_VIRTUALENVS_PATH", str(tmp_path / "poetry"))
    monkeypatch.setenv("WORKON_HOME", str(tmp_path / "pipenv"))
    (made / file).write_text(text)
    subprocess.run([tool, *command[1:]], cwd=made, check=True, capture_output=True)
    past = Run.load(made / "outputs", runs(made)[0])
    object.__setattr__(past, "lock", lock)
    python = environment.build(made, made, tmp_path / "env", past, say=lambda step: None)
    asked = [str(python), "-I", "-c", "import strengthener; print(strengthener.FACTOR)"]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout == "1.0\n"


def test_an_environment_that_cannot_be_built_says_why(made: Path, tmp_path: Path) -> None:
    def build(lock: str | None, text: str = "") -> str:
        code = tmp_path / "code"
        code.mkdir(exist_ok=True)
        if lock:
            (code / lock).write_text(text)
        past = Run.load(made / "outputs", runs(made)[0])
        object.__setattr__(past, "lock", lock)
        with pytest.raises(ProjectError) as caught:
            environment.build(made, code, tmp_path / "env", past, say=lambda step: None)
        assert "--env" in str(caught.value)
        return str(caught.value)

    assert "has no lock" in build(None)
    assert "poetry is not installed" in build("poetry.lock", "package = []")
    assert "uv could not build the environment" in build("uv.lock", "this is no lock")


def test_a_lock_without_meguri_is_told(made: Path, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/requirements.txt").write_text("")
    past = Run.load(made / "outputs", runs(made)[0])
    with pytest.raises(ProjectError, match="names no Meguri"):
        environment.build(made, tmp_path / "code", tmp_path / "env", past, say=lambda step: None)


RERUN = """
import sys
from meguri.loop.project import Project
from meguri.loop.rerun import rerun
rerun(Project.open(sys.argv[1]), sys.argv[2], say=lambda step: print(step, flush=True))
"""


def test_a_killed_rerun_is_in_nobodys_way(tmp_path: Path, mlflow_store: Path) -> None:
    root = start(tmp_path / "alarm", mlflow_store)
    run(root)
    command = [sys.executable, "-c", RERUN, str(root), runs(root)[0]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "retrieve\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert len(git(root, "worktree", "list").splitlines()) == 2
    assert again(root).verdict == "same"
    assert len(git(root, "worktree", "list").splitlines()) == 1


def test_an_interrupt_ends_the_jobs_and_leaves_nothing(tmp_path: Path, mlflow_store: Path) -> None:
    root = start(tmp_path / "alarm", mlflow_store)
    run(root)

    def interrupt(step: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again(root, say=interrupt)
    assert [path.name for path in (root / "outputs/reruns").iterdir() if not path.name.startswith(".")] == []


def test_jobs_that_end_their_process_are_told(tmp_path: Path, mlflow_store: Path) -> None:
    root = start(tmp_path / "alarm", mlflow_store)
    run(root)
    (root / "src/jobs/train.py").write_text("import os\ndef train(dataset, params):\n    os._exit(9)\n")
    with pytest.raises(Exception, match="ended in the middle: exit code 9"):
        again(root, present=["code"])
