"""The table outlet: predictions written out to DuckDB, or to any database that SQLAlchemy reaches."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from meguri.base.errors import OutletError
from meguri.base.extras import need
from meguri.base.redact import redact

if TYPE_CHECKING:
    import polars as pl

    from meguri.record.release import Predictions

COLUMNS = ("prediction_id", "key", "time", "due", "release", "run", "score", "answer")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?")


class TableOutlet:
    """A table of predictions, one row for each, made when it is first written to.

    ``url`` is ``duckdb:///file`` or a SQLAlchemy URL, ``name`` the table, with its schema before a dot if it has one. The columns are
    prediction_id (the primary key), key, time, due, release, run, score and answer.
    """

    def __init__(self, url: str, name: str = "predictions") -> None:
        if not _NAME.fullmatch(name):
            raise OutletError(f"'{name}' is no table name", where="outlets.table.name", fix="use letters, digits and _")
        self.url = url
        self.name = name

    def write(self, predictions: Predictions | None) -> dict[str, Any]:
        """Write the rows that the table does not have yet, in one transaction; writing them again changes nothing.

        Returns the table's name and how many rows were new. Raises OutletError when the database cannot be reached or written;
        then no row was.
        """
        if predictions is None or predictions.table.is_empty():
            return {"table": self.name, "rows": 0}
        rows = predictions.table.select(COLUMNS)
        try:
            new = self._duckdb(rows) if self.url.startswith("duckdb:") else self._sqlalchemy(rows)
        except OutletError:
            raise
        except Exception as error:  # every driver has errors of its own; each is told
            text = redact(str(getattr(error, "orig", None) or error).strip().splitlines()[0])
            raise OutletError(
                f"the table '{self.name}' cannot be written: {text}",
                where=redact(self.url),
                fix="nothing was written; mend it and run again",
            ) from error
        return {"table": self.name, "rows": new}

    def _duckdb(self, rows: pl.DataFrame) -> int:
        duckdb = need("duckdb")
        schema, _, _ = self.name.rpartition(".")
        with duckdb.connect(self.url.removeprefix("duckdb:///") or ":memory:") as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.begin()
            if schema:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self.name} (prediction_id UUID PRIMARY KEY, key VARCHAR NOT NULL, time TIMESTAMPTZ NOT NULL,"
                " due TIMESTAMPTZ NOT NULL, release VARCHAR NOT NULL, run VARCHAR NOT NULL, score DOUBLE, answer VARCHAR)"
            )
            connection.register("incoming", rows.to_arrow())
            counted = connection.execute(
                f"INSERT INTO {self.name} SELECT CAST(prediction_id AS UUID), key, time, due, release, run, score, answer"
                " FROM incoming ON CONFLICT DO NOTHING"
            ).fetchone()
            connection.commit()
            return int(counted[0])

    def _sqlalchemy(self, rows: pl.DataFrame) -> int:
        sa = need("sqlalchemy")
        schema, _, name = self.name.rpartition(".")
        moment = sa.DateTime(timezone=True)
        table = sa.Table(
            name,
            sa.MetaData(schema=schema or None),
            sa.Column("prediction_id", sa.String(36), primary_key=True),
            sa.Column("key", sa.String(1024), nullable=False),
            sa.Column("time", moment, nullable=False),
            sa.Column("due", moment, nullable=False),
            sa.Column("release", sa.String(64), nullable=False),
            sa.Column("run", sa.String(64), nullable=False),
            sa.Column("score", sa.Double),
            sa.Column("answer", sa.String(1024)),
        )
        # the way in which the warehouse's setting is written, too
        engine = sa.create_engine(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", self.url))
        try:
            with engine.begin() as connection:
                table.create(connection, checkfirst=True)
                known: set[str] = set()
                ids = rows["prediction_id"].to_list()
                for start in range(
                    0, len(ids), 500
                ):  # some databases take no more than a thousand values in one statement
                    chunk = sa.select(table.c.prediction_id).where(table.c.prediction_id.in_(ids[start : start + 500]))
                    known.update(connection.execute(chunk).scalars())
                new = [row for row in rows.to_dicts() if row["prediction_id"] not in known]
                if new:
                    connection.execute(table.insert(), new)
                return len(new)
        finally:
            engine.dispose()
