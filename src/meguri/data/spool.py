"""What a stream of rows leaves on disk while it is judged: the good rows, the bad ones, and how they came."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from meguri.base.extras import need
from meguri.base.files import locked
from meguri.data import parquet, reasons

_FITTED, _BEFORE, _AFTER, _ROW = "fitted:", "reasons:before", "reasons:after", "row:number"


@contextmanager
def drafts(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` for drafts, gone when the block ends; what a killed process left there goes, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for old in path.parent.glob(f".{path.name}.*"):
        if (old / "lock").is_file():
            with locked(old / "lock", wait=False) as abandoned:
                if abandoned:
                    shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        with locked(folder / "lock"):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Part:
    """A part of the rows: where it begins, which rows are good, their row group, and the types in which they came."""

    start: int
    good: np.ndarray
    group: int
    types: Mapping[str, pl.DataType]
    bad: Path | None
    odd: Path | None


class Spool:
    """Rows as they are judged: those that are good by themselves, those that are bad, and how they came where it matters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = 0
        self.bad = 0
        self._good = parquet.Writer(folder / "good.parquet")
        self._parts: list[_Part] = []
        self._file: Any = None

    def add(self, found: pl.DataFrame, rows: pl.DataFrame, before: reasons.Masks, after: reasons.Masks) -> None:
        """Keep a part: its rows as found and in the contract's types, and what is wrong with them."""
        told = [reasons.told(masks, rows.height) for masks in (before, after)]
        bad = told[0].is_not_null() | told[1].is_not_null()
        number, count = len(self._parts), int(bad.sum())
        odd = [name for name in found.columns if not _restores(found[name], rows[name])]
        part = _Part(self.rows, ~bad.to_numpy(), self._good.groups, found.schema, None, None)
        self._good.add(rows.filter(~bad) if count else rows)
        if count:
            part.bad = self.folder / f"bad-{number}.parquet"
            fitted = rows.rename(lambda name: _FITTED + name)
            why = [told[0].alias(_BEFORE), told[1].alias(_AFTER)]
            _keep(pl.concat([found, fitted], how="horizontal").with_columns(why).filter(bad), part.bad)
        if odd and count < rows.height:
            part.odd = self.folder / f"found-{number}.parquet"
            _keep(found.select(odd).filter(~bad), part.odd)
        self._parts.append(part)
        self.rows += rows.height
        self.bad += count

    def close(self) -> None:
        """No more parts come; now they can be read."""
        self._good.close()
        self._file = need("pyarrow.parquet").ParquetFile(self._good.path)

    def fetch(self, numbers: np.ndarray, names: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of these ascending numbers, in the contract's types."""
        starts = np.array([part.start for part in self._parts])
        places = np.searchsorted(starts, numbers, side="right") - 1
        return pl.concat(
            self._fitted(self._parts[place], numbers[places == place] - self._parts[place].start, names)
            for place in np.unique(places)
        )

    def _fitted(self, part: _Part, rows: np.ndarray, names: Sequence[str] | None) -> pl.DataFrame:
        good, bad = _split(part, rows)
        made = []
        if len(good):
            made.append(self._group(part, names)[_rank(part.good, good)].with_columns(pl.Series(_ROW, good)))
        if len(bad):
            assert part.bad is not None
            kept = pl.read_parquet(part.bad).select(
                pl.col(f"^{_FITTED}.*$").name.map(lambda name: name[len(_FITTED) :])
            )
            kept = kept if names is None else kept.select(names)
            made.append(kept[_rank(~part.good, bad)].with_columns(pl.Series(_ROW, bad)))
        return pl.concat(made).sort(_ROW).drop(_ROW)

    def _group(self, part: _Part, names: Sequence[str] | None = None) -> pl.DataFrame:
        columns = None if names is None else list(names)
        return pl.DataFrame(self._file.read_row_group(part.group, columns=columns))

    def quarantined(self, twice: Mapping[str, np.ndarray]) -> Iterator[pl.DataFrame]:
        """The bad rows as they came, with their reasons, part by part; ``twice`` masks the rows that are like others."""
        for part in self._parts:
            rows = slice(part.start, part.start + len(part.good))
            masks = {why: mask[rows] for why, mask in twice.items() if mask[rows].any()}
            wrong = np.zeros(len(part.good), dtype=bool)
            for mask in masks.values():
                wrong |= mask
            made = []
            if part.bad is not None:
                own = pl.read_parquet(part.bad).select(*part.types, _BEFORE, _AFTER)
                made.append(own.with_columns(pl.Series(_ROW, np.flatnonzero(~part.good))))
            late = np.flatnonzero(wrong & part.good)
            if len(late):
                made.append(self._as_found(part, late).with_columns(pl.Series(_ROW, late)))
            if made:
                yield _worded(pl.concat(made).sort(_ROW), masks)

    def _as_found(self, part: _Part, rows: np.ndarray) -> pl.DataFrame:
        """Good rows as they came: turned back into the types they had, or from where they were kept."""
        ranks = _rank(part.good, rows)
        odd = pl.DataFrame() if part.odd is None else pl.read_parquet(part.odd)[ranks]
        fitted = self._group(part)[ranks]
        columns = [odd[name] if name in odd.columns else fitted[name].cast(kind) for name, kind in part.types.items()]
        none = pl.repeat(None, len(rows), dtype=pl.String, eager=True)
        return pl.DataFrame([*columns, none.alias(_BEFORE), none.alias(_AFTER)])

    def finish(self, path: Path, twice: Mapping[str, np.ndarray]) -> None:
        """Put the good rows at ``path``, written anew only when some of them turned out to be like others."""
        wrong = np.zeros(self.rows, dtype=bool)
        for mask in twice.values():
            wrong |= mask
        kept = [(part, ~wrong[part.start : part.start + len(part.good)][part.good]) for part in self._parts]
        if all(left.all() for _, left in kept):
            parquet.take(self._good.path, path)
        else:
            parquet.write(path, (self._group(part).filter(pl.Series(left)) for part, left in kept if len(left)))


def _split(part: _Part, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    good = part.good[rows]
    return rows[good], rows[~good]


def _rank(mask: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Where rows stand among those of the mask."""
    ranks: np.ndarray = np.cumsum(mask)[rows] - 1
    return ranks


def _restores(found: pl.Series, fitted: pl.Series) -> bool:
    """Whether the value that a row came with can be made again of the one that it was given."""
    if found.dtype == fitted.dtype and found.null_count() == fitted.null_count() and not found.dtype.is_float():
        return True
    try:
        return found.equals(fitted.cast(found.dtype), null_equal=True)
    except pl.exceptions.PolarsError:
        return False


def _keep(table: pl.DataFrame, path: Path) -> None:
    table.write_parquet(path, compression="lz4", statistics=False)


def _worded(rows: pl.DataFrame, masks: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """The rows with all their reasons in one text, in the order of ``Contract.check``."""
    places = rows[_ROW].to_numpy()
    shared = {why: pl.Series(mask[places]) for why, mask in masks.items()}
    middle = reasons.told(shared, rows.height)
    texts = pl.concat_str([pl.col(_BEFORE), middle, pl.col(_AFTER)], separator="; ", ignore_nulls=True)
    return rows.with_columns(texts.alias("reason")).drop(_BEFORE, _AFTER, _ROW)
