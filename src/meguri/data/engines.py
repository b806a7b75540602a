"""The engines of a warehouse: how each connects, streams its rows, and takes a table in."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import polars as pl

from meguri.base.errors import DataError, SettingsError
from meguri.base.extras import need
from meguri.base.redact import redact
from meguri.data import parquet

FORMS = "duckdb:///data/warehouse, postgres://user:password@host/database, bigquery://project/dataset, spark://local[*]"


def engine_of(url: str, root: Path) -> Engine:
    """The engine that a URL names. Raises SettingsError for any other URL."""
    scheme, mark, rest = url.partition("://")
    try:
        if mark and scheme in ("spark", "sc"):  # local[*] is no host that a URL may have
            place, _, path = rest.partition("/")
            return _Spark(SplitResult(scheme, place, f"/{path}", "", ""), root)
        return _ENGINES[scheme](urlsplit(url), root)
    except SettingsError:
        raise
    except (KeyError, ValueError):
        what = f"'{redact(url)}' names no warehouse"
        raise SettingsError(what, where="warehouse", fix=f"write one of {FORMS}") from None


def _options(parts: SplitResult, *known: str) -> dict[str, str]:
    """What stands behind the question mark."""
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    wrong = [name for name in options if name not in known]
    if wrong:
        what = f"a {parts.scheme} warehouse has no setting '{wrong[0]}'"
        raise SettingsError(what, where="warehouse", fix=f"it has {', '.join(known) or 'none'}")
    return options


class Engine:
    """What the engines have in common. ``ask`` is a function that gives the open Ibis backend."""

    secret: str | None = None

    def connect(self) -> Any:
        """Open an Ibis backend."""
        raise NotImplementedError

    def disconnect(self, backend: Any) -> None:
        """Close it, and leave nothing behind."""
        backend.disconnect()

    def names(self, backend: Any) -> list[str]:
        """The tables and views."""
        found: list[str] = backend.list_tables()
        return found

    def show(self, backend: Any, names: Iterable[str]) -> None:
        """Make these tables visible to SQL; in a database they always are."""

    def sql(self, backend: Any, text: str) -> Any:
        """An expression of a query."""
        return backend.sql(text)

    def batches(self, backend: Any, expr: Any, rows: int) -> Iterator[Any]:
        """The rows as Arrow record batches, in bounded memory."""
        yield from backend.to_pyarrow_batches(expr, chunk_size=rows)

    def write(self, ask: Callable[[], Any], name: str, batches: Iterable[pl.DataFrame]) -> int:
        """Put batches in the place of a table; by way of a file, so that a source that fails has changed nothing."""
        with tempfile.TemporaryDirectory(prefix="meguri-") as folder:
            draft = Path(folder) / "draft.parquet"
            rows = parquet.write(draft, batches)
            self.take(ask, name, draft)
        return rows

    def take(self, ask: Callable[[], Any], name: str, draft: Path) -> None:
        """Make the file the table, in one step."""
        raise NotImplementedError

    def hide(self, text: str) -> str:
        """The text without the password."""
        return text.replace(self.secret, "***") if self.secret else text


class Folder:
    """The tables of a folder: a Parquet or CSV file each, or a folder of such parts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self) -> dict[str, tuple[str, Path]]:
        """Of each name its format, and its file or folder."""
        if not self.path.is_dir():
            fix = "make it and put Parquet or CSV files there, or change the setting `warehouse`"
            raise DataError("the warehouse's folder is not there", where=self.path, fix=fix)
        found: dict[str, tuple[str, Path]] = {}
        for path in sorted(self.path.iterdir()):
            if path.name.startswith((".", "_")):
                continue
            kinds = [kind for kind in ("parquet", "csv") if path.suffix == f".{kind}" or any(path.rglob(f"*.{kind}"))]
            name = path.name if path.is_dir() else path.stem
            if kinds and name in found:
                what = f"two things are called '{name}': {found[name][1].name} and {path.name}"
                raise DataError(what, where=self.path, fix="rename or remove one")
            if kinds:
                found[name] = (kinds[0], path)
        return found

    def write(self, name: str, batches: Iterable[pl.DataFrame]) -> int:
        """Write one Parquet file. Raises DataError when the name is that of a CSV file or a folder of parts."""
        _, known = self.find().get(name, ("", None)) if self.path.is_dir() else ("", None)
        if known is not None and known.name != f"{name}.parquet":
            what = f"the table '{name}' is {known.name}, and only whoever made that may change it"
            raise DataError(what, where=self.path, fix="write to another name, or remove it first")
        return parquet.write(self.path / f"{name}.parquet", batches)


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


class _DuckDB(Engine):
    """DuckDB in this process, over a folder or a database file."""

    def __init__(self, parts: SplitResult, root: Path) -> None:
        if parts.netloc or not parts.path.strip("/"):
            what = f"'{parts.geturl()}' names no folder or file"
            raise SettingsError(what, where="warehouse", fix="write duckdb:///data/warehouse, with three slashes")
        path = root / unquote(parts.path)[1:]
        self.file = path if path.suffix in (".duckdb", ".db") else None
        self.folder = Folder(path)
        self.options = _options(parts, "memory_limit", "threads")
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


class _Postgres(Engine):
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
        self.place = {**place, **_options(parts, "schema", "sslmode", "connect_timeout", "application_name")}

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


class _BigQuery(Engine):
    """A dataset of BigQuery; the credentials are those of the environment."""

    def __init__(self, parts: SplitResult, root: Path) -> None:
        _ = root
        if not parts.netloc or not parts.path.strip("/"):
            what = f"'{parts.geturl()}' names no dataset"
            raise SettingsError(what, where="warehouse", fix="write bigquery://project/dataset")
        self.project, self.dataset = parts.netloc, parts.path.strip("/")
        self.location = _options(parts, "location").get("location")

    def connect(self) -> Any:
        need("google.cloud.bigquery")
        ibis = need("ibis")
        return ibis.bigquery.connect(project_id=self.project, dataset_id=self.dataset, location=self.location)

    def take(self, ask: Callable[[], Any], name: str, draft: Path) -> None:
        backend, bigquery = ask(), need("google.cloud.bigquery")
        job = bigquery.LoadJobConfig(source_format="PARQUET", write_disposition="WRITE_TRUNCATE")
        with draft.open("rb") as file:
            place = f"{self.project}.{self.dataset}.{name}"
            backend.client.load_table_from_file(file, place, job_config=job, location=self.location).result()


class _Spark(Engine):
    """Spark: in this process over a folder, or a cluster with its catalogue."""

    def __init__(self, parts: SplitResult, root: Path) -> None:
        if not parts.netloc:
            what = f"'{parts.geturl()}' names no Spark"
            raise SettingsError(what, where="warehouse", fix="write spark://local[*]/data/warehouse or sc://host:15002")
        path = unquote(parts.path)[1:]
        self.folder = Folder(root / path) if path else None
        local = parts.netloc.startswith("local")
        self.master = parts.netloc if local else f"{parts.scheme}://{parts.netloc}"
        self.remote = parts.scheme == "sc"

    def connect(self) -> Any:
        builder = need("pyspark.sql").SparkSession.builder.config("spark.sql.session.timeZone", "UTC")
        session = (builder.remote(self.master) if self.remote else builder.master(self.master)).getOrCreate()
        return need("ibis").pyspark.connect(session)

    def names(self, backend: Any) -> list[str]:
        return super().names(backend) if self.folder is None else list(self.folder.find())

    def show(self, backend: Any, names: Iterable[str]) -> None:
        if self.folder is None:
            return
        found = self.folder.find()
        for name in names:
            kind, path = found[name]
            reader = backend._session.read.option("recursiveFileLookup", path.is_dir())
            read = reader.option("header", True).option("inferSchema", True).csv if kind == "csv" else reader.parquet
            read(str(path)).createOrReplaceTempView(f"`{name}`")

    def write(self, ask: Callable[[], Any], name: str, batches: Iterable[pl.DataFrame]) -> int:
        return super().write(ask, name, batches) if self.folder is None else self.folder.write(name, batches)

    def take(self, ask: Callable[[], Any], name: str, draft: Path) -> None:
        """Rows reach a cluster through its driver, so what is written should not be larger than that."""
        session = ask()._session
        frame = session.createDataFrame(need("pyarrow.parquet").read_table(draft))
        frame.write.mode("overwrite").saveAsTable(name)


_ENGINES: dict[str, Callable[[SplitResult, Path], Engine]] = {
    "duckdb": _DuckDB,
    "postgres": _Postgres,
    "postgresql": _Postgres,
    "bigquery": _BigQuery,
}
