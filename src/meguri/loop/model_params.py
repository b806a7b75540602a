"""What parameters a model of the project has, read from its file without importing it."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path

from meguri.base.errors import SettingsError


def class_name(model: str) -> str:
    """The class that a file of ``src/models`` holds: ``random_forest_classifier`` → ``RandomForestClassifier``."""
    return "".join(part.capitalize() for part in model.split("_"))


def model_parameters(root: Path, model: str, *, where: object = None) -> frozenset[str] | None:
    """The keyword parameters of the model's ``__init__``, or None when it takes any (``**params``).

    Raises SettingsError when ``src/models/<model>.py`` is missing, does not parse or holds no such class.
    """
    path = root / "src" / "models" / f"{model}.py"
    if not path.is_file():
        names = sorted(
            p.stem for p in path.parent.glob("*.py") if p.stem not in ("__init__", "base_model", "preprocess")
        )
        close = difflib.get_close_matches(model, names, n=1, cutoff=0.5)
        fix = f"did you mean '{close[0]}'?" if close else f"models here: {', '.join(names) or 'none'}"
        raise SettingsError(f"there is no model '{model}' in src/models", where=where or path, fix=fix)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except SyntaxError as error:
        raise SettingsError(f"the model's file does not parse: {error.msg}", where=f"{path}:{error.lineno}") from error
    wanted = class_name(model).lower()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.lower() == wanted:
            init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
            if init is None:
                return frozenset()
            if init.args.kwarg is not None:
                return None
            return frozenset(a.arg for a in [*init.args.posonlyargs, *init.args.args, *init.args.kwonlyargs][1:])
    raise SettingsError(
        f"the file holds no class {class_name(model)}", where=path, fix=f"name the model's class {class_name(model)}"
    )
