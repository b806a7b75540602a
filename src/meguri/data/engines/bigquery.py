"""A dataset of BigQuery."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult

import polars as pl

from meguri.base.errors import SettingsError
from meguri.base.extras import need
from meguri.data.engines.base import Engine, options


class BigQuery(Engine):
    """The credentials are those of the environment; of an emulator, which BIGQUERY_EMULATOR_HOST names, none."""

    def __init__(self, parts: SplitResult, root: Path) -> None:
        _ = root
        if not parts.netloc or not parts.path.strip("/"):
            what = f"'{parts.geturl()}' names no dataset"
            raise SettingsError(what, where="warehouse", fix="write bigquery://project/dataset")
        self.project, self.dataset = parts.netloc, parts.path.strip("/")
        self.location = options(parts, "location").get("location")

    def connect(self) -> Any:
        bigquery, ibis = need("google.cloud.bigquery"), need("ibis")
        place = {"project_id": self.project, "dataset_id": self.dataset, "location": self.location}
        if os.environ.get("BIGQUERY_EMULATOR_HOST"):
            nobody = need("google.auth.credentials").AnonymousCredentials()
            client = bigquery.Client(self.project, credentials=nobody, location=self.location)
            backend = ibis.bigquery.connect(**place, client=client, credentials=nobody)
            backend.storage_client = None  # an emulator keeps no results for the Storage API: they come page by page
        else:
            backend = ibis.bigquery.connect(**place)
        backend.client.default_query_job_config.default_dataset = (
            f"{self.project}.{self.dataset}"  # of bare names in SQL
        )
        return backend

    def batches(self, backend: Any, expr: Any, rows: int) -> Iterator[Any]:
        """BigQuery makes the batches as it likes; a large one is cut. Its client marks some types as its own, such as DATETIME."""
        arrow = need("pyarrow")
        for batch in backend.to_pyarrow_batches(expr):
            schema = arrow.schema([arrow.field(field.name, field.type, field.nullable) for field in batch.schema])
            plain = arrow.RecordBatch.from_arrays(batch.columns, schema=schema)
            yield from (plain.slice(start, rows) for start in range(0, plain.num_rows, rows))

    def write(self, ask: Callable[[], Any], name: str, batches: Iterable[pl.DataFrame]) -> int:
        """BigQuery has no whole numbers beyond 64 bits with a sign, and no type of nulls alone."""
        return super().write(ask, name, (batch.cast(_TYPES) for batch in batches))

    def take(self, ask: Callable[[], Any], name: str, draft: Path) -> None:
        """One load job: BigQuery shows its rows when it is done, or leaves what was there."""
        backend, bigquery = ask(), need("google.cloud.bigquery")
        arrow = need("pyarrow.parquet").read_schema(draft)
        schema = need("ibis.backends.bigquery.datatypes").BigQuerySchema.from_ibis(
            need("ibis").Schema.from_pyarrow(arrow)
        )
        job = bigquery.LoadJobConfig(source_format="PARQUET", write_disposition="WRITE_TRUNCATE", schema=schema)
        with draft.open("rb") as file:
            place = f"{self.project}.{self.dataset}.{name}"
            backend.client.load_table_from_file(file, place, job_config=job, location=self.location).result()


_TYPES: dict[Any, pl.DataType] = {pl.UInt64: pl.Decimal(20, 0), pl.Null: pl.String()}
