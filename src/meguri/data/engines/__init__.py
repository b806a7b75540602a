"""The engines of a warehouse: how each connects, streams its rows, and takes a table in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from meguri.base.errors import SettingsError
from meguri.base.redact import redact
from meguri.data.engines.base import Engine
from meguri.data.engines.bigquery import BigQuery
from meguri.data.engines.duckdb import DuckDB
from meguri.data.engines.postgres import Postgres
from meguri.data.engines.spark import Spark

FORMS = "duckdb:///data/warehouse, postgres://user:password@host/database, bigquery://project/dataset, spark://local[*]"

_ENGINES: dict[str, Callable[[SplitResult, Path], Engine]] = {
    "duckdb": DuckDB,
    "postgres": Postgres,
    "postgresql": Postgres,
    "bigquery": BigQuery,
}


def engine_of(url: str, root: Path) -> Engine:
    """The engine that a URL names. Raises SettingsError for any other URL."""
    scheme, mark, rest = url.partition("://")
    try:
        if mark and scheme in ("spark", "sc"):  # local[*] is no host that a URL may have
            place, _, path = rest.partition("/")
            return Spark(SplitResult(scheme, place, f"/{path}", "", ""), root)
        return _ENGINES[scheme](urlsplit(url), root)
    except SettingsError:
        raise
    except (KeyError, ValueError):
        what = f"'{redact(url)}' names no warehouse"
        raise SettingsError(what, where="warehouse", fix=f"write one of {FORMS}") from None
