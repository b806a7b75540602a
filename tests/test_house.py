"""The house: short files, one door for each library, and a command line that imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
LONGEST = 400

# library -> the files that may import it
DOORS = {
    "alembic": [],
    "copier": ["loop/scaffold.py"],
    "cookiecutter": ["loop/scaffold.py"],
    "duckdb": ["outlets/table.py", "data/engines/duckdb.py"],
    "google": ["data/engines/bigquery.py"],
    "dvc": ["data/versions.py"],
    "dvc_data": ["data/versions.py"],
    "granian": ["outlets/rest/server.py"],
    "hydra": ["loop/settings.py"],
    "ibis": [
        *(f"data/engines/{name}.py" for name in ("duckdb", "postgres", "bigquery", "spark")),
        *(f"data/{name}.py" for name in ("pushdown", "spec_sql", "fit_sql", "asof_sql")),
    ],
    "lightgbm": ["record/estimators.py"],
    "matplotlib": ["loop/plots.py", "loop/data_plots.py", "loop/ab_page.py"],
    "mlflow": ["record/tracking_client.py"],
    "msgspec": ["outlets/rest/rows.py", "outlets/rest/app.py", "outlets/rest/replies.py", "record/served.py"],
    "omegaconf": ["loop/settings.py"],
    "onnx": ["record/onnx.py"],
    "onnxmltools": ["record/onnx.py"],
    "onnxruntime": ["record/onnx.py"],
    "opentelemetry": ["outlets/rest/traces.py"],
    "optuna": ["loop/search.py"],
    "pandas": ["data/table.py"],
    "pandera": ["data/schema.py"],
    "prometheus_client": ["outlets/rest/metrics.py"],
    "psycopg": [
        "data/engines/postgres.py",
        "data/online_sql.py",
        "record/ledger_postgres.py",
        "record/ledger_postgres_server.py",
    ],
    "pyarrow": [
        "data/table.py",
        "data/engines/spark.py",
        "data/engines/bigquery.py",
        "data/parquet.py",
        "data/spool.py",
    ],
    "pyspark": ["data/engines/spark.py"],
    "pytest": ["testing/ledger.py", "testing/ledger_answers.py", "testing/features.py", "testing/warehouse.py"],
    "pydantic": ["loop/settings.py"],
    "pydantic_core": ["data/patterns.py"],
    "redis": ["data/online_redis.py"],
    "rich": ["cli/show.py", "cli/story.py"],
    "scipy": [],
    "skl2onnx": ["record/onnx.py"],
    "sklearn": ["record/estimators.py"],
    "skops": ["record/estimators.py"],
    "sqlalchemy": ["outlets/table.py"],
    "sqlglot": ["data/sources.py"],
    "threadpoolctl": ["record/estimators.py"],
    "yaml": ["loop/settings.py", "loop/scaffold.py"],
}
LIGHT = {"polars", "numpy", "typer"}


def imports(path: Path) -> set[str]:
    """Every library that a file imports, by a statement or by ``need``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "id", "") == "need"
            and isinstance(node.args[0], ast.Constant)
        ):
            found.add(str(node.args[0].value))
    return {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names) - {"meguri", "__future__"}


@pytest.mark.parametrize(
    "path", [*SOURCES, *sorted(ROOT.glob("tests/**/*.py")), *sorted(ROOT.glob("bench/*.py"))], ids=str
)
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT / "src")))
def test_each_library_has_one_door(path: Path) -> None:
    here = str(path.relative_to(ROOT / "src" / "meguri"))
    for library in imports(path) - LIGHT:
        assert here in DOORS[library], f"{here} imports {library}"


def test_every_door_is_used() -> None:
    used = {(library, str(p.relative_to(ROOT / "src" / "meguri"))) for p in SOURCES for library in imports(p)}
    assert {(library, door) for library, doors in DOORS.items() for door in doors} <= used


HELP = """
import sys
from meguri.cli import app
try:
    app(["--help"])
except SystemExit as end:
    assert not end.code
heavy = {"alembic", "copier", "duckdb", "dvc", "hydra", "lightgbm", "matplotlib", "mlflow", "numpy", "omegaconf", "onnxruntime", "optuna",
         "pandas", "pandera", "polars", "pyarrow", "pydantic", "sklearn", "sqlalchemy"}
print("HEAVY", sorted(heavy & set(sys.modules)))
"""


def test_help_imports_no_heavy_library() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout


def test_the_repo_names_no_address_of_a_registry() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    hosts = ["pypi" + ".org", "files.python" + "hosted", "registry." + "npmjs", "deb." + "debian"]
    for name in listed:
        path = ROOT / name
        if path.is_file() and path.suffix not in (".png", ".parquet"):
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not [host for host in hosts if host in text], name
