"""Write a draft's schema.py and import it, as a project does."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

from meguri.data.contract import Contract


def imported(text: str) -> Contract:
    """The contract of a ``schema.py`` with this text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "written_schema.py"
        path.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("written_schema", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["written_schema"] = module
        try:
            spec.loader.exec_module(module)
            contract: Contract = module.contract
        finally:
            del sys.modules["written_schema"]
    return contract
