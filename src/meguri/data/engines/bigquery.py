"""A dataset of BigQuery."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult

from meguri.base.errors import SettingsError
from meguri.base.extras import need
from meguri.data.engines.base import Engine, options


class BigQuery(Engine):
    """A dataset of BigQuery; the credentials are those of the environment."""

    def __init__(self, parts: SplitResult, root: Path) -> None:
        _ = root
        if not parts.netloc or not parts.path.strip("/"):
            what = f"'{parts.geturl()}' names no dataset"
            raise SettingsError(what, where="warehouse", fix="write bigquery://project/dataset")
        self.project, self.dataset = parts.netloc, parts.path.strip("/")
        self.location = options(parts, "location").get("location")

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
