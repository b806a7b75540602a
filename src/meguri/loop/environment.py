"""The environment of a past run: the packages of its own lock, in a virtual environment of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from meguri.base.errors import ProjectError
from meguri.record.run import LOCKS, Run

HERE = ("VIRTUAL_ENV", "PYTHONPATH")  # variables that would lead another Python to the packages of this one
_GONE = "install it, or rerun with the packages of now: leave --env out"


def build(root: Path, code: Path, home: Path, past: Run, *, say: Callable[[str], None]) -> Path:
    """Install what the lock in ``code`` names into the new environment ``home``, and return its Python.

    uv.lock and requirements.txt by uv (the latter by pip where there is no uv), poetry.lock by Poetry, Pipfile.lock by
    Pipenv. Raises ProjectError when there is no lock, its tool is not installed, or cannot do it.
    """
    name = past.lock or next((lock for lock in LOCKS if (code / lock).is_file()), None)
    if name is None or not (code / name).is_file():
        what = f"run {past.id} has no lock, so its environment cannot be built"
        raise ProjectError(what, where=code, fix=f"keep one of {', '.join(LOCKS)} in git; now, leave --env out")
    say(f"building the environment of {name}")
    tool = {"uv.lock": "uv", "poetry.lock": "poetry", "Pipfile.lock": "pipenv"}.get(name)
    found = _find(tool or "uv", root)
    if found is None and tool is not None:
        raise ProjectError(f"{tool} is not installed, and {name} is its lock", where=code / name, fix=_GONE)
    version = _python(past)
    if found is not None and tool in (None, "uv"):
        _run([found, "venv", "--quiet", "--python", version, str(home)], code)
    else:
        _run([sys.executable, "-m", "venv", str(home)], code)
    python = home / "bin" / "python"
    there = {"VIRTUAL_ENV": str(home), "UV_PROJECT_ENVIRONMENT": str(home), "PIPENV_IGNORE_VIRTUALENVS": "0"}
    if tool == "uv":
        _run([str(found), "sync", "--quiet", "--frozen", "--no-install-project", "--no-dev"], code, **there)
    elif tool == "poetry":
        _run([str(found), "install", "--quiet", "--no-root", "--no-interaction"], code, **there)
    elif tool == "pipenv":
        _run([str(found), "sync"], code, **there)
    elif found is not None:
        _run([found, "pip", "install", "--quiet", "--python", str(python), "-r", name], code)
    else:
        _run([str(python), "-m", "pip", "install", "--quiet", "-r", name], code)
    knows = subprocess.run([str(python), "-c", "import meguri.loop.again"], cwd=home, capture_output=True, check=False)
    if knows.returncode:
        what = f"{name} names no Meguri that can run a past run again"
        raise ProjectError(what, where=code / name, fix="leave --env out: the packages that differ are then named")
    return python


def _python(past: Run) -> str:
    """The minor version of Python that the run had: 3.11."""
    version = (past.packages or {}).get("python", "")
    return ".".join(version.split(".")[:2]) or "{}.{}".format(*sys.version_info)


def _find(tool: str, root: Path) -> str | None:
    """Where the tool is: on the path, beside this Python, or in the project's own .tools."""
    places = [Path(sys.executable).parent, root / ".tools" / "bin"]
    return shutil.which(tool) or next((str(at / tool) for at in places if (at / tool).is_file()), None)


def _run(command: list[str], folder: Path, **variables: str) -> None:
    own = {name: value for name, value in os.environ.items() if name not in HERE}
    done = subprocess.run(command, cwd=folder, env={**own, **variables}, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        what = f"{Path(command[0]).name} could not build the environment: {said[-1] if said else done.returncode}"
        raise ProjectError(what, where=folder, fix=_GONE)
