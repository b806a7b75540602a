"""Parts that are chosen by name: ``package.module:attribute``, imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import Any


def load(path: str) -> Any:
    """The attribute that ``package.module:attribute`` names."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)
