"""Quarantine: the rows that broke a contract, each kept once with its reason, so that nothing is dropped silently."""

from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path

import polars as pl

from meguri.base.clock import moment
from meguri.base.errors import DataError
from meguri.base.files import locked, write_atomic

_COLUMNS = {
    "at": pl.Datetime("us", "UTC"),
    "door": pl.String(),
    "run": pl.String(),
    "reason": pl.String(),
    "row": pl.String(),
}


class Quarantine:
    """The quarantined rows of a project, in one Parquet file of ``folder``.

    A row is kept as JSON text, because rows of every contract and every door come here. Several processes may add at
    once; a reader, or a crash, sees the rows of before or of after.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "quarantine.parquet"

    def add(self, rows: pl.DataFrame, *, at: datetime, door: str, run: str | None = None) -> int:
        """Keep ``Checked.quarantined`` rows and return how many were new.

        The same row with the same reason counts once, at the first door that met it, however often it is read again.
        """
        if "reason" not in rows.columns:
            raise DataError("quarantined rows need their reason", fix="give the `quarantined` of a checked table")
        if not rows.height:
            return 0
        new = rows.select(
            pl.lit(moment(at), _COLUMNS["at"]).alias("at"),
            pl.lit(door, pl.String).alias("door"),
            pl.lit(run, pl.String).alias("run"),
            pl.col("reason"),
            pl.struct(_legible(rows.drop("reason"))).struct.json_encode().alias("row"),
        ).unique(subset=["reason", "row"], keep="first", maintain_order=True)
        with locked(self.folder / ".lock"):
            kept = self.read()
            new = new.join(kept, on=["reason", "row"], how="anti", maintain_order="left")
            if new.height:
                buffer = io.BytesIO()
                pl.concat([kept, new]).write_parquet(buffer)
                write_atomic(self.file, buffer.getvalue())
        return new.height

    def read(self) -> pl.DataFrame:
        """All rows: ``at`` (when first met), ``door``, ``run``, ``reason``, and ``row`` as JSON text, oldest first."""
        if not self.file.exists():
            return pl.DataFrame(schema=_COLUMNS)
        try:
            return pl.read_parquet(self.file).select(pl.col(name).cast(kind) for name, kind in _COLUMNS.items())
        except (pl.exceptions.PolarsError, OSError) as error:
            fix = "move the file away: the rows come again when the data is read again"
            raise DataError("the quarantine cannot be read", where=self.file, fix=fix) from error

    def counts(self) -> dict[str, int]:
        """How many rows have each reason, most first; a row with two reasons counts under both."""
        each = self.read().select(pl.col("reason").str.split("; ")).explode("reason").group_by("reason").len()
        return dict(each.sort(["len", "reason"], descending=[True, False]).iter_rows())


def _legible(rows: pl.DataFrame) -> list[pl.Expr]:
    """The columns, with NaN and infinity (which JSON cannot say) and other types as text."""
    shown = []
    for name, kind in rows.schema.items():
        column = pl.col(name)
        if kind.is_float():
            odd = pl.when(column.is_finite()).then(None).otherwise(column.cast(pl.String))
            if not rows[name].is_finite().all():
                column = pl.coalesce(odd, column.cast(pl.String)).alias(name)
        elif isinstance(kind, pl.Categorical | pl.Enum | pl.Decimal):
            column = column.cast(pl.String)
        shown.append(column)
    return shown
