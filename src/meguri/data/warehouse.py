"""The warehouse: the tables a project reads, in DuckDB, PostgreSQL, BigQuery or Spark, behind one door."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl

from meguri.base.errors import DataError, MeguriError
from meguri.base.redact import redact
from meguri.data.engines import engine_of
from meguri.data.engines.base import Engine
from meguri.data.stream import batches_of

ROWS = 100_000  # of a batch, unless asked otherwise


class Warehouse:
    """The tables behind ``url``; a relative path in it begins at ``root``. It connects when it is first asked.

    - ``duckdb:///data/warehouse``: a folder; its Parquet and CSV files, and its folders of such, are the tables.
      ``duckdb:///data/warehouse.duckdb``: a database file. ``?memory_limit=4GB&threads=2`` are DuckDB's own settings.
    - ``postgres://user:password@host:port/database``, with ``?schema=…`` for another than the user's own.
    - ``bigquery://project/dataset``.
    - ``spark://local[*]/data/warehouse``: a folder as above, read by Spark in this process; without a path Spark's own
      catalogue. ``spark://host:7077`` is a cluster, ``sc://host:15002`` a Spark Connect server.

    Not safe for several threads; several may be open at once. Raises SettingsError for any other URL. What cannot
    be read, and a server that does not answer, is a DataError. A password is in no error and in no ``repr``.
    """

    def __init__(self, url: str, root: Path) -> None:
        self.url = redact(url)
        self._engine: Engine = engine_of(url, root)
        self._end: weakref.finalize[..., Warehouse] | None = None

    @cached_property
    def _backend(self) -> Any:
        with self._told("cannot be opened"):
            backend = self._engine.connect()
        self._end = weakref.finalize(self, self._engine.disconnect, backend)
        return backend

    def names(self) -> list[str]:
        """The names of the tables and views, sorted."""
        with self._told("cannot say what tables it has"):
            return sorted(self._engine.names(self._backend))

    def table(self, name: str) -> Any:
        """An Ibis expression of a table; ``schema.table`` for one of another schema or dataset than the URL's.

        Raises DataError, naming the nearest right name, when there is none.
        """
        names = self.names()
        schema, _, last = (None, "", name) if name in names else name.rpartition(".")
        if not schema and name not in names:
            close = get_close_matches(name, names, n=1, cutoff=0.5)
            known = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            fix = f"did you mean '{close[0]}'?" if close else f"it has {known or 'none yet'}"
            raise DataError(f"the warehouse has no table '{name}'", where=self.url, fix=fix)
        with self._told(f"cannot read the table '{name}'"):
            self._engine.show(self._backend, [last])
            return self._engine.table(self._backend, last, schema or None)

    def sql(self, text: str) -> Any:
        """An Ibis expression of a query in the warehouse's own SQL."""
        with self._told("cannot read this SQL"):
            self._engine.show(self._backend, self._engine.names(self._backend))
            return self._engine.sql(self._backend, text)

    def batches(self, expr: Any, *, rows: int = ROWS) -> Iterator[pl.DataFrame]:
        """The rows of an expression, in frames of at most about ``rows``, in bounded memory.

        A result without rows gives one empty frame, so that its columns are known. Each call reads over a
        connection of its own where the engine needs it, so that other questions may be asked meanwhile.
        """
        types: Any = None
        with self._told("cannot read these rows"):
            for batch in self._engine.batches(self._backend, expr, rows):
                frame = pl.DataFrame(batch)
                if frame.height:
                    types = frame.schema
                    yield frame
            if types is None:
                yield pl.DataFrame(expr.schema().to_pyarrow().empty_table())

    def read(self, expr: Any) -> pl.DataFrame:
        """All rows of an expression, in one frame."""
        frames = list(self.batches(expr))
        return pl.concat(frames) if len(frames) > 1 else frames[0]

    def write(self, name: str, rows: Any) -> int:
        """Put a table, or a stream of tables with the same columns, in the place of what had this name.

        Whole or not at all: a reader sees the old rows or the new ones. Returns how many there are.
        """
        if not name or name.startswith(".") or "/" in name:
            raise DataError(f"'{name}' is no name for a table", where=self.url, fix="use letters, digits and _")
        with self._told(f"cannot write the table '{name}'"):
            return self._engine.write(lambda: self._backend, name, batches_of(rows, self, rows=ROWS))

    def close(self) -> None:
        """Let the connection go; twice is no harm, and the next question opens a new one."""
        if self._end is not None:
            self._end()
        self.__dict__.pop("_backend", None)

    def __enter__(self) -> Warehouse:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Warehouse {self.url}>"

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Tell whatever the engine raises as a DataError, without the password."""
        try:
            yield
        except MeguriError:
            raise
        except Exception as error:  # each engine has its own, and Ibis more
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            text = self._engine.hide(redact(lines[0] if lines else type(error).__name__))
            fix = "see that it runs and that the setting `warehouse` is right; look at the query"
            raise DataError(f"the warehouse {what}: {text}", where=self.url, fix=fix) from None
