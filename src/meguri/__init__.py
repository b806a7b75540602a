"""Meguri: the loop of a machine-learning product, closed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meguri.data.contract import Contract as Contract
    from meguri.data.dataset import Dataset as Dataset
    from meguri.data.features import Events as Events
    from meguri.data.value import Value as Value
    from meguri.loop.main import main as main
    from meguri.loop.project import Project as Project
    from meguri.loop.search import Choice as Choice
    from meguri.loop.search import Float as Float
    from meguri.loop.search import Int as Int
    from meguri.loop.search import search as search
    from meguri.loop.settings import Section as Section
    from meguri.loop.settings import Settings as Settings
    from meguri.record.evaluation import Evaluation as Evaluation
    from meguri.record.release import Release as Release

__version__ = "0.1.0"

# Each name is imported when it is first asked for, so that `import meguri` costs nothing.
_HOMES = {
    "Choice": "loop.search",
    "Contract": "data.contract",
    "Dataset": "data.dataset",
    "Events": "data.features",
    "Evaluation": "record.evaluation",
    "Float": "loop.search",
    "Int": "loop.search",
    "Project": "loop.project",
    "Release": "record.release",
    "Section": "loop.settings",
    "Settings": "loop.settings",
    "Value": "data.value",
    "main": "loop.main",
    "search": "loop.search",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'meguri' has no attribute '{name}'")
    try:
        return getattr(importlib.import_module(f"meguri.{home}"), name)
    except ModuleNotFoundError as error:
        from meguri.base.extras import missing, optional

        if not optional(error):
            raise
        raise missing(error) from error


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
