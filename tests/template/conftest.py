"""A Meguri that is installed, and a template of the tests' own that can change."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from meguri.loop import scaffold

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session", autouse=True)
def _installed(tmp_path_factory):
    """Where Meguri runs from its source alone, say what an editable install would say of it."""
    try:
        metadata.distribution("meguri")
        yield
    except metadata.PackageNotFoundError:
        site = tmp_path_factory.mktemp("site")
        home = site / "meguri-0.1.0.dist-info"
        home.mkdir()
        project = subprocess.run(
            [sys.executable, "-c", _METADATA, str(ROOT / "pyproject.toml")], capture_output=True, text=True, check=True
        )
        (home / "METADATA").write_text(project.stdout)
        (home / "WHEEL").write_text("Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        (home / "entry_points.txt").write_text("[console_scripts]\nmeguri = meguri.cli:main\n")
        names = ["METADATA", "WHEEL", "entry_points.txt", "RECORD"]
        (home / "RECORD").write_text("".join(f"{home.name}/{name},,\n" for name in names))
        sys.path.append(str(site))
        yield
        sys.path.remove(str(site))


_METADATA = """
import sys, tomllib
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
print("Metadata-Version: 2.4\\nName: meguri\\nVersion: " + project["version"])
print("Requires-Python: " + project["requires-python"])
for need in project["dependencies"]:
    print("Requires-Dist: " + need)
for extra, needs in project["optional-dependencies"].items():
    print("Provides-Extra: " + extra)
    for need in needs:
        print(f"Requires-Dist: {need} ; extra == '{extra}'")
"""


@pytest.fixture(autouse=True)
def _plain_git(tmp_path_factory, monkeypatch):
    """Git with a name, and nobody's settings."""
    home = tmp_path_factory.mktemp("home")
    (home / ".gitconfig").write_text("[user]\nname = t\nemail = t@example.org\n[init]\ndefaultBranch = main\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")


@pytest.fixture
def template(tmp_path, monkeypatch):
    """A copy of Meguri's template, taken for the installed one, to make a newer version of."""
    copy = tmp_path / "template"
    shutil.copytree(ROOT / "template", copy)
    monkeypatch.setattr(scaffold, "_own_template", lambda: copy)
    return copy


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def commit(folder: Path, tag: str | None = None) -> None:
    if not (folder / ".git").is_dir():
        git(folder, "init", "--quiet")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "--message", "state")
    if tag:
        git(folder, "tag", tag)
