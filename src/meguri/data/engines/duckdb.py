"""DuckDB, over a folder of files or in a database file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote

import polars as pl

from meguri.base.errors import SettingsError
from meguri.base.extras import need
from meguri.data.engines.base import Engine, Folder, options

# The statistics in a Parquet file leave NaN out, and DuckDB then takes it that there is none unless it is told.
_NAN = {"parquet": ", can_have_nan = true", "csv": ""}


class _Result:
    """A result of DuckDB 2, under the names that Ibis 12 still calls."""

    def __init__(self, relation: Any) -> None:
        self.relation = relation

    def fetch_arrow_table(self) -> Any:
        return self.relation.to_arrow_table()

    def fetch_record_batch(self, rows_per_batch: int) -> Any:
        return self.relation.to_arrow_reader(rows_per_batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.relation, name)


class _Connection:
    """A connection of DuckDB 2 for Ibis 12: results are relations, so none stays unfinished and none is copied."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def execute(self, query: str) -> _Result:
        return _Result(self.raw.sql(query))

    sql = execute

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


class DuckDB(Engine):
    """DuckDB in this process, over a folder or a database file."""

    def __init__(self, parts: SplitResult, root: Path) -> None:
        if parts.netloc or not parts.path.strip("/"):
            what = f"'{parts.geturl()}' names no folder or file"
            raise SettingsError(what, where="warehouse", fix="write duckdb:///data/warehouse, with three slashes")
        path = root / unquote(parts.path)[1:]
        self.file = path if path.suffix in (".duckdb", ".db") else None
        self.folder = Folder(path)
        self.options = options(parts, "memory_limit", "threads")
        self.spill: str | None = None

    def connect(self) -> Any:
        return need("ibis").duckdb.from_connection(_Connection(self._open(read_only=self.file is not None)))

    def _open(self, *, read_only: bool) -> Any:
        """Half of the memory, for other work goes on beside it; and nothing is fetched from anywhere."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.spill = self.spill or tempfile.mkdtemp(prefix="meguri-duckdb-")
        config = {"memory_limit": "50%", "threads": str(cores), "temp_directory": self.spill, **self.options}
        config |= {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
        return need("duckdb").connect(str(self.file or ":memory:"), read_only=read_only, config=config)

    def disconnect(self, backend: Any) -> None:
        backend.disconnect()
        if self.spill is not None:
            shutil.rmtree(self.spill, ignore_errors=True)
            self.spill = None

    def names(self, backend: Any) -> list[str]:
        return super().names(backend) if self.file else list(self.folder.find())

    def show(self, backend: Any, names: Iterable[str]) -> None:
        if self.file is not None:
            return
        found = self.folder.find()
        for name in names:
            kind, path = found[name]
            view = name.replace('"', '""')
            place = (f"{path}/**/*.{kind}" if path.is_dir() else str(path)).replace("'", "''")
            backend.con.execute(f"CREATE OR REPLACE VIEW \"{view}\" AS FROM read_{kind}('{place}'{_NAN[kind]})")

    def batches(self, backend: Any, expr: Any, rows: int) -> Iterator[Any]:
        own = need("ibis").duckdb.from_connection(_Connection(backend.con.cursor()))
        try:
            own._run_pre_execute_hooks(expr)  # a table from memory is known only to the connection it was given to
            yield from own.con.execute(own.compile(expr)).fetch_record_batch(rows)
        finally:
            own.disconnect()

    def write(self, ask: Callable[[], Any], name: str, batches: Iterable[pl.DataFrame]) -> int:
        return super().write(ask, name, batches) if self.file else self.folder.write(name, batches)

    def take(self, ask: Callable[[], Any], name: str, draft: Path) -> None:
        """DuckDB lets one process write, or several read: writing is a short visit, and reading goes on after it."""
        assert self.file is not None
        backend = ask() if self.file.exists() else None
        if backend is not None:
            backend.con.close()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._open(read_only=False) as connection:
                table, place = name.replace('"', '""'), str(draft).replace("'", "''")
                connection.execute(
                    f"CREATE OR REPLACE TABLE \"{table}\" AS FROM read_parquet('{place}'{_NAN['parquet']})"
                )
        finally:
            if backend is not None:
                backend.con.raw = self._open(read_only=True)
                backend._post_connect()
