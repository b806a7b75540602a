"""Spark: in this process, a cluster, or a Spark Connect server."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote

import polars as pl

from meguri.base.errors import SettingsError
from meguri.base.extras import need
from meguri.data.engines.base import Engine, Folder

# Of a Spark in this process: nothing listens beyond this machine, no page is served, no bar is drawn over the output.
_LOCAL = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.warehouse.dir": "",
}


class Spark(Engine):
    """Spark over a folder, or with its own catalogue."""

    def __init__(self, parts: SplitResult, root: Path) -> None:
        if not parts.netloc:
            what = f"'{parts.geturl()}' names no Spark"
            raise SettingsError(what, where="warehouse", fix="write spark://local[*]/data/warehouse or sc://host:15002")
        path = unquote(parts.path)[1:]
        self.folder = Folder(root / path) if path else None
        local = parts.netloc.startswith("local")
        self.config = {**_LOCAL, "spark.sql.warehouse.dir": str(root / "spark-warehouse")} if local else {}
        self.master = parts.netloc if local else f"{parts.scheme}://{parts.netloc}"
        self.remote = parts.scheme == "sc"

    def connect(self) -> Any:
        """A session of our own: its views and settings are no other's. The Spark beneath is shared by the process."""
        builder = need("pyspark.sql").SparkSession.builder
        if self.remote:
            session = builder.remote(self.master).create()
        else:
            session = builder.master(self.master).config(map=self.config).getOrCreate().newSession()
            if self.config and "PYSPARK_PYTHON" not in os.environ:
                session.sparkContext.pythonExec = sys.executable  # not whatever the PATH calls python3
        return need("ibis").pyspark.connect(session)

    def disconnect(self, backend: Any) -> None:
        """A server's session is ended; a Spark in this process may be another's too, and ends with the process."""
        if self.remote:
            backend.disconnect()

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
            read(str(path)).createOrReplaceTempView(_quoted(name))

    def table(self, backend: Any, name: str, schema: str | None) -> Any:
        place = ".".join(_quoted(part) for part in (schema, name) if part)
        return self.sql(backend, f"SELECT * FROM {place}")

    def sql(self, backend: Any, text: str) -> Any:
        """Spark's timestamps are moments, in UTC; Ibis takes them for local times."""
        struct = backend._session.sql(text).schema
        to_ibis = need("ibis.backends.pyspark.datatypes").PySparkType.to_ibis
        types = {
            field.name: "timestamp('UTC')" if field.dataType.typeName() == "timestamp" else to_ibis(field.dataType)
            for field in struct
        }
        return backend.sql(text, schema=types)

    def batches(self, backend: Any, expr: Any, rows: int) -> Iterator[Any]:
        """One partition after the other reaches this process, in batches that the executors made."""
        arrow, session = need("pyarrow"), backend._session
        backend._run_pre_execute_hooks(expr)
        session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", rows)
        frame = session.sql(backend.compile(expr))
        for row in frame.mapInArrow(_packer(), "batch binary").toLocalIterator():
            with arrow.ipc.open_stream(bytes(row.batch)) as stream:
                yield from stream
        yield need("pyspark.sql.pandas.types").to_arrow_schema(frame.schema).empty_table()

    def write(self, ask: Callable[[], Any], name: str, batches: Iterable[pl.DataFrame]) -> int:
        return super().write(ask, name, batches) if self.folder is None else self.folder.write(name, batches)

    def take(self, ask: Callable[[], Any], name: str, draft: Path) -> None:
        """Rows reach a cluster through its driver, so what is written should not be larger than that."""
        session = ask()._session
        frame = session.createDataFrame(need("pyarrow.parquet").read_table(draft))
        frame.write.mode("overwrite").saveAsTable(name)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _packer() -> Callable[[Iterator[Any]], Iterator[Any]]:
    """What Spark's workers do: each batch as the bytes of an Arrow stream. Made here, it is sent to them as it is."""

    def packed(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow as pa

        for batch in batches:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as stream:
                stream.write_batch(batch)
            yield pa.RecordBatch.from_pydict({"batch": pa.array([sink.getvalue().to_pybytes()], pa.binary())})

    return packed
