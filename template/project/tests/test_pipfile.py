"""Pipenv does not read pyproject.toml: its own list must name the same packages."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_pipfile_names_the_packages_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pipfile = tomllib.loads((ROOT / "Pipfile").read_text())

    def names(requirements):
        return {re.match(r"[\w.-]+", text)[0].lower() for text in requirements}

    assert set(pipfile["packages"]) == names(project["project"]["dependencies"])
    assert set(pipfile["dev-packages"]) == names(project["dependency-groups"]["dev"])
