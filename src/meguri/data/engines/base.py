"""What the engines of a warehouse have in common, and the folder of files that two of them read."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl

import polars as pl

from meguri.base.errors import DataError, SettingsError
from meguri.data import parquet


def options(parts: SplitResult, *known: str) -> dict[str, str]:
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

    def table(self, backend: Any, name: str, schema: str | None) -> Any:
        """An expression of a table, of another schema or dataset when one is named."""
        return backend.table(name, database=schema)

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
