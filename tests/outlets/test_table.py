"""The table outlet: what was answered stands in a table, once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import duckdb
import polars as pl
import pytest
import sqlalchemy as sa
from data.servers import postgres

from meguri.base.errors import OutletError
from meguri.base.ids import prediction_ids
from meguri.outlets.table import TableOutlet

AT = datetime(2024, 3, 1, tzinfo=UTC)


def answers(count: int) -> Any:
    table = pl.DataFrame(
        {
            "prediction_id": prediction_ids(count, AT),
            "key": [f"k{i}" for i in range(count)],
            "time": [AT] * count,
            "due": [AT] * count,
            "release": ["r"] * count,
            "run": ["r"] * count,
            "score": [i / count for i in range(count)],
            "answer": [None if i % 2 else "yes" for i in range(count)],
        },
        schema_overrides={"time": pl.Datetime("us", "UTC"), "due": pl.Datetime("us", "UTC")},
    )
    return SimpleNamespace(table=table)


def rows(url: str, name: str) -> list[tuple[Any, ...]]:
    query = f"SELECT CAST(prediction_id AS VARCHAR), key, score, answer FROM {name} ORDER BY 1"
    if url.startswith("duckdb"):
        with duckdb.connect(url.removeprefix("duckdb:///")) as connection:
            return connection.execute(query).fetchall()
    engine = sa.create_engine(url.replace("postgres://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(sa.text(query))]
    engine.dispose()
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(params=["duckdb", "sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param != "postgres":
        return f"{request.param}:///{tmp_path / 'out.db'}"
    url: str = request.getfixturevalue("server")
    engine = sa.create_engine(url.replace("postgres://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {(name := 'out' + uuid4().hex)}"))
    engine.dispose()
    return url.removesuffix("postgres") + name


def test_rows_are_written_once_however_often(url: str) -> None:
    outlet, first = TableOutlet(url, "scores"), answers(1200)
    assert outlet.write(first) == {"table": "scores", "rows": 1200}
    assert outlet.write(first) == {"table": "scores", "rows": 0}
    both = SimpleNamespace(table=pl.concat([first.table, answers(3).table]))
    assert outlet.write(both)["rows"] == 3
    kept = rows(url, "scores")
    assert len(kept) == 1203
    assert {row[0] for row in kept} == set(both.table["prediction_id"])


def test_nothing_to_write_makes_no_table(url: str) -> None:
    assert TableOutlet(url).write(None) == {"table": "predictions", "rows": 0}


def test_a_table_with_other_columns_is_refused_and_left_alone(url: str) -> None:
    if url.startswith("duckdb"):
        with duckdb.connect(url.removeprefix("duckdb:///")) as connection:
            connection.execute(
                "CREATE TABLE predictions (prediction_id INTEGER, key VARCHAR); INSERT INTO predictions VALUES (1, 'mine')"
            )
    else:
        engine = sa.create_engine(url.replace("postgres://", "postgresql+psycopg://"))
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE predictions (prediction_id INTEGER, key VARCHAR)"))
        engine.dispose()
    with pytest.raises(OutletError, match="cannot be written"):
        TableOutlet(url).write(answers(2))


def test_a_schema_is_made_where_the_database_has_schemas(tmp_path: Path) -> None:
    url = f"duckdb:///{tmp_path / 'out.db'}"
    assert TableOutlet(url, "ml.scores").write(answers(2))["rows"] == 2
    assert len(rows(url, "ml.scores")) == 2


def test_an_error_does_not_tell_the_password() -> None:
    with pytest.raises(OutletError) as caught:
        TableOutlet("postgresql+nodriver://me:hunter2@127.0.0.1/db").write(answers(1))
    assert "hunter2" not in str(caught.value)


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(OutletError, match="no table name"):
        TableOutlet("duckdb:///x.db", "a; DROP TABLE b")
