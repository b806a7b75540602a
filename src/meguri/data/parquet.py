"""Parquet files batch by batch: read in bounded memory, and written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from meguri.base.errors import DataError
from meguri.base.extras import need
from meguri.base.files import sync_folder


class Writer:
    """An open Parquet file: each ``add`` is one row group, and the first one says what the columns are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self.groups = 0
        self._types: pl.Schema | None = None
        self._file: Any = None

    def add(self, rows: pl.DataFrame) -> None:
        """Write a row group. Raises DataError when the columns cannot be those of the first one."""
        arrow = _cast(rows, self._types or rows.schema).to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._file is None:
            self._types = rows.schema
            parquet = need("pyarrow.parquet")
            self._file = parquet.ParquetWriter(self.path, arrow.schema, compression="zstd", compression_level=1)
        if rows.height:
            self._file.write_table(arrow, row_group_size=rows.height)
            self.rows += rows.height
            self.groups += 1

    def close(self) -> None:
        """Finish the file and make it durable; twice is no harm."""
        if self._file is not None and self._file.is_open:
            self._file.close()
            with self.path.open("rb") as file:
                os.fsync(file.fileno())


def _cast(rows: pl.DataFrame, types: pl.Schema) -> pl.DataFrame:
    if rows.schema == types:
        return rows
    try:
        if set(rows.columns) != set(types):
            raise pl.exceptions.SchemaError(f"the columns are {', '.join(rows.columns)}")
        return rows.select(pl.col(name).cast(kind) for name, kind in types.items())
    except pl.exceptions.PolarsError as error:
        what = f"a batch has other columns than the first one: {str(error).splitlines()[0]}"
        fix = f"give all batches the same columns: {', '.join(types)}"
        raise DataError(what, fix=fix) from error


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """A writer to a draft beside ``path`` that takes its name when the block ends well; otherwise nothing stays.

    Raises DataError when the block ends without a batch, for then nobody knows the columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    writer = Writer(Path(name))
    try:
        yield writer
        if writer._file is None:
            raise DataError("there is not one batch to write", where=path, fix="give at least an empty table")
        writer.close()
        take(writer.path, path)
    except BaseException:
        writer.close()
        writer.path.unlink(missing_ok=True)
        raise


def take(draft: Path, path: Path) -> None:
    """Give a finished draft of the same disk its name."""
    draft.chmod(0o644)
    draft.replace(path)
    sync_folder(path.parent)


def write(path: Path, batches: Iterable[pl.DataFrame]) -> int:
    """Write batches to one file, atomically, and return how many rows there were."""
    with writing(path) as writer:
        for batch in batches:
            writer.add(batch)
    return writer.rows


def read(path: Path, rows: int) -> Iterator[pl.DataFrame]:
    """The file in batches of at most so many rows; one without rows gives one empty batch."""
    with need("pyarrow.parquet").ParquetFile(path) as file:
        if not file.metadata.num_rows:
            yield pl.DataFrame(file.read())
        for batch in file.iter_batches(rows):
            yield pl.DataFrame(batch)
