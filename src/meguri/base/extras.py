"""Optional packages: the module, or the exact line that installs it."""

from __future__ import annotations

import importlib
from typing import Any

from meguri.base.errors import MissingExtra

# module -> the smallest extra of meguri that brings it
EXTRAS = {
    "alembic": "track",
    "arrow": "data",
    "copier": "new",
    "cookiecutter": "cookiecutter",
    "duckdb": "table",
    "dvc": "versions",
    "google": "bigquery",
    "ibis": "warehouse",
    "lightgbm": "lightgbm",
    "matplotlib": "report",
    "granian": "serve",
    "mlflow": "track",
    "msgspec": "serve",
    "onnx": "sklearn",
    "onnxmltools": "lightgbm",
    "onnxruntime": "onnx",
    "opentelemetry": "traces",
    "optuna": "search",
    "pandas": "data",
    "pandera": "data",
    "polars": "data",
    "prometheus_client": "serve",
    "psycopg": "postgres",
    "pyarrow": "data",
    "pyspark": "spark",
    "redis": "redis",
    "skl2onnx": "sklearn",
    "sklearn": "sklearn",
    "skops": "sklearn",
    "sqlalchemy": "table",
    "sqlglot": "warehouse",
    "threadpoolctl": "sklearn",
}


def need(module: str) -> Any:
    """Import ``module`` and return it.

    Raises MissingExtra, naming the extra to install, when its package is not there.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise  # the package is there and is itself broken: its own error says more
        raise missing(error) from error


def missing(error: ModuleNotFoundError) -> MissingExtra:
    """What a person can do about an import that failed, also of a module of ours that imports the package at its top."""
    top = (error.name or str(error)).partition(".")[0]
    extra = EXTRAS.get(top)
    fix = f"pip install 'meguri[{extra}]'" if extra else f"pip install {top}"
    return MissingExtra(f"this needs the package '{top}', which is not installed", fix=fix)


def optional(error: ModuleNotFoundError) -> bool:
    """Whether what is missing is a package that an extra brings."""
    return (error.name or "").partition(".")[0] in EXTRAS
