"""Packages: every lock that projects have is read, and what is installed is told as importlib tells it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from meguri.base.errors import DataError
from meguri.record.packages import differences, installed, locked, normal, used

UV = """
version = 1
[[package]]
name = "numpy"
version = "2.3.1"
[[package]]
name = "numpy"
version = "2.2.0"
[[package]]
name = "Typing_Extensions"
version = "4.1"
[[package]]
name = "ours"
version = "0.1"
source = { virtual = "." }
[[package]]
name = "dynamic"
"""
REQUIREMENTS = """
# exported
numpy==2.3.1 ; python_version < "4" \\
    --hash=sha256:abc
typing.extensions[extra] == 4.1
./vendor/meguri-0.1.0-1abc-py3-none-any.whl --hash=sha256:def
# ./vendor/old-0.1.0-py3-none-any.whl
-e .
loose>=1
"""


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("uv.lock", UV, {"numpy": "2.3.1 or 2.2.0", "typing-extensions": "4.1"}),
        ("poetry.lock", UV.replace('source = { virtual = "." }', ""), {"numpy": "2.3.1 or 2.2.0", "ours": "0.1", "typing-extensions": "4.1"}),
        ("requirements.txt", REQUIREMENTS, {"meguri": "0.1.0", "numpy": "2.3.1", "typing-extensions": "4.1"}),
        (
            "Pipfile.lock",
            json.dumps(
                {
                    "default": {"numpy": {"version": "==2.3.1"}, "meguri": {"file": "vendor/meguri-0.1.0-py3-none-any.whl"}},
                    "develop": {"pytest": {"version": "==9.0"}},
                }
            ),
            {"meguri": "0.1.0", "numpy": "2.3.1", "pytest": "9.0"},
        ),
        ("uv.lock", "", {}),
    ],
)  # fmt: skip
def test_locks(name: str, text: str, wanted: dict[str, str]) -> None:
    assert locked(name, text) == wanted


@pytest.mark.parametrize(("name", "text"), [("uv.lock", "not toml"), ("Pipfile.lock", "{"), ("uv.lock", "package = 3")])
def test_a_lock_that_is_none(name: str, text: str) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        locked(name, text)


def test_this_repositorys_own_lock() -> None:
    text = (Path(__file__).parents[2] / "requirements.lock").read_text()
    found = locked("requirements.lock.txt", text)
    assert {"polars", "numpy", "typer"} <= set(found)


def test_installed_is_what_importlib_says() -> None:
    found = installed()
    assert found.pop("python") == ".".join(map(str, sys.version_info[:3]))
    wanted = {normal(each.metadata["Name"]): each.version for each in reversed(list(distributions()))}
    assert found == wanted


def test_a_name_on_the_path_that_is_no_folder_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "old-1.0-py3.11.egg-info").mkdir()
    (tmp_path / "half.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", ["/nowhere", str(tmp_path)])
    assert {name: v for name, v in installed().items() if name != "python"} == {"old": "1.0"}


def test_used_are_those_that_were_imported() -> None:
    code = "import polars; from meguri.record.packages import used; print(sorted(used()))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'polars'" in said
    assert "'python'" in said
    assert "'scikit-learn'" not in said
    assert "python" in used()


def test_differences() -> None:
    then, now = {"a": "1", "b": "1 or 2", "c": "1"}, {"a": "2", "b": "2", "d": "1"}
    assert differences(then, now) == {"a": ("1", "2"), "c": ("1", None), "d": (None, "1")}
