"""The warehouse on each engine: the conformance kit, and what is particular to one. Spark and BigQuery where they are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import polars as pl
import pyarrow
import pytest
from data.servers import PASSWORD, opened, postgres

from meguri.base.errors import DataError, SettingsError
from meguri.data.warehouse import Warehouse
from meguri.testing.warehouse import WarehouseCase, some_rows


class TestFolder(WarehouseCase):
    @pytest.fixture
    def warehouse(self, tmp_path: Path) -> Iterator[Warehouse]:
        with Warehouse("duckdb:///data/warehouse", tmp_path) as found:
            yield found


class TestSpark(WarehouseCase):
    @pytest.fixture
    def warehouse(self, tmp_path: Path) -> Iterator[Warehouse]:
        with opened("spark", tmp_path) as found:
            yield found


class TestBigQuery(WarehouseCase):
    @pytest.fixture
    def warehouse(self, tmp_path: Path) -> Iterator[Warehouse]:
        with opened("bigquery", tmp_path) as found:
            yield found


class TestFile(WarehouseCase):
    @pytest.fixture
    def warehouse(self, tmp_path: Path) -> Iterator[Warehouse]:
        with Warehouse("duckdb:///data/warehouse.duckdb", tmp_path) as found:
            found.write("first", some_rows(1))
            yield found


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


class TestPostgres(WarehouseCase):
    @pytest.fixture
    def warehouse(self, server: str) -> Iterator[Warehouse]:
        with Warehouse(server, Path()) as found:
            yield found

    def test_other_schemas_and_types(self, server: str, warehouse: Warehouse) -> None:
        warehouse.write("plain", some_rows(1))
        warehouse._backend.raw_sql("CREATE SCHEMA IF NOT EXISTS mart")
        with Warehouse(f"{server}?schema=mart", Path()) as mart:
            rows = pl.DataFrame(
                {
                    "id": pl.Series([1, 2], dtype=pl.UInt64),
                    "small": pl.Series([1, None], dtype=pl.UInt8),
                    "price": pl.Series([Decimal("1.50"), None], dtype=pl.Decimal(10, 2)),
                    "kind": pl.Series(["a", "b"], dtype=pl.Categorical),
                    "at": pl.Series([datetime(2013, 4, 1), None], dtype=pl.Datetime("ns")),
                    "nothing": [None, None],
                }
            )
            mart.write("sold", rows)
            assert mart.names() == ["sold"]
            with pytest.raises(DataError, match="'tags' holds List"):
                mart.write("sold", pl.DataFrame({"tags": [["a"]]}))
        found = warehouse.read(warehouse.table("mart.sold"))
        kinds = [pl.Decimal(20, 0), pl.Int16, pl.Decimal(10, 2), pl.String, pl.Datetime("us"), pl.String]
        assert found.dtypes == kinds
        assert found.row(0) == (1, 1, Decimal("1.50"), "a", datetime(2013, 4, 1), None)
        with pytest.raises(DataError, match=r"cannot read the table 'mart.bought'"):
            warehouse.table("mart.bought")

    def test_the_password_is_in_no_error(self, server: str) -> None:
        wrong = server.replace("meguri:", "nobody:")
        for url in (wrong, re.sub(r":\d+/", ":1/", server)):
            with Warehouse(url, Path()) as warehouse, pytest.raises(DataError, match="cannot be opened") as raised:
                warehouse.names()
            everything = "".join(traceback.format_exception(raised.value)) + repr(warehouse)
            assert PASSWORD not in everything
            assert quote(PASSWORD, safe="") not in everything
            assert ":***@127.0.0.1" in everything

    def test_a_server_that_only_reads(self, server: str) -> None:
        with Warehouse(server, Path()) as warehouse:
            warehouse.write("kept", some_rows(2))
            warehouse._backend.raw_sql("SET default_transaction_read_only = on")
            assert warehouse.read(warehouse.sql("SELECT id FROM kept ORDER BY id;")).to_series().to_list() == [0, 1]
            with pytest.raises(DataError, match="read-only"):
                warehouse.write("kept", some_rows(1))

    def test_a_reader_sees_the_old_rows_or_the_new(self, server: str, warehouse: Warehouse) -> None:
        warehouse.write("swapped", some_rows(10))
        with Warehouse(server, Path()) as other:
            reading = other.batches(other.table("swapped"), rows=4)
            assert next(reading).height == 4
            writing = threading.Thread(target=warehouse.write, args=("swapped", some_rows(20)))
            writing.start()
            assert 4 + sum(part.height for part in reading) == 10
            writing.join()
            assert other.read(other.table("swapped")).height == 20


# --- URLs


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql://root:geheim@localhost/db", "'mysql://root:***@localhost/db' names no warehouse"),
        ("data/warehouse", "names no warehouse"),
        ("duckdb://data/warehouse", "three slashes"),
        ("duckdb:///", "three slashes"),
        ("duckdb:///data?memory=4GB", "no setting 'memory'"),
        ("postgres://me:geheim@localhost:port/db", "names no warehouse"),
        ("postgres://me:geheim@localhost/db?shema=x", "no setting 'shema'"),
        ("bigquery://project", "names no dataset"),
        ("spark:///data", "names no Spark"),
    ],
)
def test_a_wrong_url_is_a_wrong_setting(url: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as raised:
        Warehouse(url, tmp_path)
    assert told in str(raised.value)
    assert "geheim" not in "".join(traceback.format_exception(raised.value))


def test_right_urls_connect_to_nothing(tmp_path: Path) -> None:
    for url in (
        "bigquery://project/dataset?location=EU",
        "spark://local[*]/data",
        "sc://host:15002",
        "spark://host:7077",
    ):
        assert repr(Warehouse(url, tmp_path)) == f"<Warehouse {url}>"


# --- DuckDB


def test_files_and_folders_are_tables(tmp_path: Path) -> None:
    home = tmp_path / "tables"
    (home / "parts" / "deep").mkdir(parents=True)
    (home / "_draft").mkdir()
    some_rows(3).write_parquet(home / "parts" / "a.parquet")
    some_rows(2, 3).write_parquet(home / "parts" / "deep" / "b.parquet")
    (home / "it's.csv").write_text("id,name\n1,a\n2,\n")
    (home / "notes.txt").write_text("no table")
    (home / "empty").mkdir()
    with Warehouse("duckdb:///tables?threads=1&memory_limit=200MB", tmp_path) as warehouse:
        assert warehouse.names() == ["it's", "parts"]
        assert warehouse.read(warehouse.table("parts"))["id"].sort().to_list() == list(range(5))
        assert warehouse.read(warehouse.table("it's")).rows() == [(1, "a"), (2, None)]
        limit = "SELECT current_setting('threads') AS n, current_setting('memory_limit') AS m"
        assert warehouse.read(warehouse.sql(limit)).row(0) == (1, "190.7 MiB")
        for name in ("parts", "it's"):
            with pytest.raises(DataError, match="only whoever made that may change it"):
                warehouse.write(name, some_rows(1))
        some_rows(1).write_parquet(home / "it's.parquet")
        with pytest.raises(DataError, match="two things are called 'it's'"):
            warehouse.names()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with Warehouse("duckdb:///tables", tmp_path) as warehouse:
        with pytest.raises(DataError, match="folder is not there"):
            warehouse.table("flights")
        assert warehouse.write("flights", some_rows(1)) == 1
        with pytest.raises(DataError, match="no table 'x'"):
            warehouse.table("x")


def test_a_file_is_shared_by_readers_and_written_between(tmp_path: Path) -> None:
    url = "duckdb:///house.duckdb"
    with Warehouse(url, tmp_path) as one:
        with pytest.raises(DataError, match="cannot be opened"):
            one.names()
        one.write("rows", some_rows(3))
        table = one.table("rows")
        reader = "from pathlib import Path; from meguri.data.warehouse import Warehouse\n"
        reader += f"with Warehouse({url!r}, Path({str(tmp_path)!r})) as w: print(w.read(w.table('rows')).height)"
        assert (
            subprocess.run([sys.executable, "-c", reader], capture_output=True, text=True, check=True).stdout == "3\n"
        )
        one.write("rows", some_rows(5))
        assert one.read(table).height == 5
        one.write("other", some_rows(1))
        assert one.names() == ["other", "rows"]


def test_tables_from_memory_can_be_joined(tmp_path: Path) -> None:
    ibis = pytest.importorskip("ibis")
    with Warehouse("duckdb:///tables", tmp_path) as warehouse:
        warehouse.write("rows", some_rows(9))
        wanted = ibis.memtable(pl.DataFrame({"id": [3, 4]}))
        assert warehouse.read(warehouse.table("rows").semi_join(wanted, "id"))["id"].sort().to_list() == [3, 4]


LEFT_OPEN = """
import os, sys, tempfile
from pathlib import Path
from meguri.data.warehouse import Warehouse
from meguri.testing.warehouse import some_rows
warehouse = Warehouse("duckdb:///tables", Path(sys.argv[1]))
warehouse.write("rows", some_rows(9))
table = warehouse.table("rows")
part = next(warehouse.batches(table, rows=3))
extensions = warehouse.sql("SELECT extension_name FROM duckdb_extensions() WHERE loaded AND install_mode <> 'STATICALLY_LINKED'")
print(part.height, warehouse.read(extensions).height)
"""


def test_left_open_it_says_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    command = [sys.executable, "-W", "error", "-c", LEFT_OPEN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("3 0\n", "")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_part_that_is_no_table(tmp_path: Path) -> None:
    with Warehouse("duckdb:///tables", tmp_path) as warehouse:
        with pytest.raises(DataError, match="a table is needed"):
            warehouse.write("rows", [some_rows(1), {"id": 5}])
        with pytest.raises(DataError, match="other columns than the first one"):
            warehouse.write("rows", [some_rows(1), some_rows(1).drop("at")])
        with pytest.raises(DataError, match="other columns than the first one"):
            warehouse.write("rows", [some_rows(1), some_rows(1).with_columns(id=pl.lit("x"))])
        assert warehouse.names() == []
        reader = pyarrow.RecordBatchReader.from_batches(
            some_rows(2).to_arrow().schema, some_rows(2).to_arrow().to_batches()
        )
        assert warehouse.write("rows", reader) == 2
        assert warehouse.write("rows", some_rows(3).lazy()) == 3
        assert warehouse.write("rows", some_rows(4).to_pandas()) == 4
        assert warehouse.write("some", warehouse.table("rows").limit(2)) == 2
