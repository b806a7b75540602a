"""A PostgreSQL server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote

import polars as pl

from meguri.base.errors import DataError
from meguri.base.extras import need
from meguri.data import parquet
from meguri.data.engines.base import Engine, options


class Postgres(Engine):
    """A PostgreSQL server."""

    def __init__(self, parts: SplitResult, root: Path) -> None:
        _ = root
        self.secret = unquote(parts.password) if parts.password else None
        place = {
            "host": parts.hostname,
            "port": parts.port or 5432,
            "user": unquote(parts.username) if parts.username else None,
            "password": self.secret,
            "database": unquote(parts.path[1:]) or None,
        }
        self.place = {**place, **options(parts, "schema", "sslmode", "connect_timeout", "application_name")}

    def connect(self) -> Any:
        need("psycopg")
        return need("ibis").postgres.connect(**self.place)

    def sql(self, backend: Any, text: str) -> Any:
        """The server says what columns come out; Ibis would make a view to know, which a read-only server refuses."""
        with backend.con.cursor() as cursor:
            cursor.execute(f"SELECT * FROM ({text.rstrip().rstrip(';')}\n) AS query LIMIT 0")
            result, count = cursor.pgresult, len(cursor.description)
            names = [column.name for column in cursor.description]
            asked = [result.ftype(i) for i in range(count)], [result.fmod(i) for i in range(count)]
            cursor.execute("SELECT format_type(o, m) FROM unnest(%s::oid[], %s::int[]) AS t(o, m)", asked)
            types = [backend.compiler.type_mapper.from_string(row[0]) for row in cursor.fetchall()]
        return backend.sql(text, schema=dict(zip(names, types, strict=True)))

    def batches(self, backend: Any, expr: Any, rows: int) -> Iterator[Any]:  # noqa: ARG002
        """By a cursor of the server's, in a connection of its own: its transaction lasts as long as the reading."""
        own = self.connect()
        try:
            yield from own.to_pyarrow_batches(expr, chunk_size=rows)
        finally:
            own.disconnect()

    def take(self, ask: Callable[[], Any], name: str, draft: Path) -> None:
        backend = ask()
        sql = need("psycopg.sql")
        table, new = sql.Identifier(name), f"{name[:40]} new {os.urandom(4).hex()}"
        with backend.con.transaction(), backend.con.cursor() as cursor:
            for number, batch in enumerate(parquet.read(draft, 100_000)):
                if number == 0:
                    columns = sql.SQL(", ").join(
                        sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(_postgres_type(column, kind)))
                        for column, kind in batch.schema.items()
                    )
                    cursor.execute(sql.SQL("CREATE TABLE {} ({})").format(sql.Identifier(new), columns))
                with cursor.copy(sql.SQL("COPY {} FROM STDIN (FORMAT csv)").format(sql.Identifier(new))) as copy:
                    copy.write(batch.write_csv(include_header=False).encode())
            cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
            cursor.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(sql.Identifier(new), table))


def _postgres_type(column: str, kind: pl.DataType) -> str:
    if isinstance(kind, pl.Decimal):
        return f"numeric({kind.precision}, {kind.scale})"
    if isinstance(kind, pl.Datetime):
        return "timestamptz" if kind.time_zone else "timestamp"
    if isinstance(kind, pl.Categorical | pl.Enum):
        return "text"
    if kind not in _POSTGRES:
        fix = "turn it into text or numbers first"
        raise DataError(f"'{column}' holds {kind}, which no column of PostgreSQL is made for here", fix=fix)
    return _POSTGRES[kind]


_POSTGRES: dict[pl.DataType | type[pl.DataType], str] = {
    pl.Boolean: "boolean",
    **dict.fromkeys((pl.Int8, pl.Int16, pl.UInt8), "smallint"),
    **dict.fromkeys((pl.Int32, pl.UInt16), "integer"),
    **dict.fromkeys((pl.Int64, pl.UInt32), "bigint"),
    pl.UInt64: "numeric(20, 0)",
    pl.Float32: "real",
    pl.Float64: "double precision",
    pl.String: "text",
    pl.Date: "date",
    pl.Time: "time",
    pl.Null: "text",
}
