"""Datasets: checked rows in three parts by time, by group or at random, with the version of the data they came from."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, cast

import polars as pl

from meguri.base.clock import duration
from meguri.base.errors import DataError, SettingsError
from meguri.base.files import new_folder, read_json, sha256, write_atomic, write_json
from meguri.data.contract import Contract
from meguri.data.split import by_group, by_time
from meguri.data.table import Frame, from_polars, to_polars

By = Literal["time", "group", "random"]
PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Part:
    """One part of a dataset: ``rows`` in the frame that jobs asked for, with every column of the contract."""

    rows: Any
    contract: Contract

    @property
    def table(self) -> pl.DataFrame:
        """The rows as polars, in the contract's types."""
        table = to_polars(self.rows)
        return table.cast({name: kind for name, kind in self.contract.types.items() if name in table.columns})

    @property
    def X(self) -> Any:
        """The features, in the same frame."""
        names = list(self.contract.features)
        return self.rows.select(names) if hasattr(self.rows, "select") else self.rows[names]

    @property
    def y(self) -> Any:
        """The label of each row: a pandas or polars Series, or an Arrow ChunkedArray."""
        if self.contract.label is None:
            raise DataError("this contract has no label", where=f"contract {self.contract.name}", fix="give it label=…")
        return self.rows[self.contract.label]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<Part of {len(self)} rows>"


@dataclass(frozen=True)
class Dataset:
    """Train, valid and test, and the ``version`` (content hash) of the data they came from.

    ``dropped`` counts the rows that are in none: ``unlabelled``, ``purged`` (their label was not yet due when the next
    part begins), ``straddling`` (another row of their group is in a later part).
    """

    train: Part
    valid: Part
    test: Part
    version: str
    dropped: dict[str, int] = field(default_factory=dict)

    def without_test(self) -> Dataset:
        """The same dataset without its test part: what fit, search and early stopping get."""
        return _Unseen(self)

    @property
    def counts(self) -> dict[str, int]:
        """The rows in each part, and the rows dropped by reason."""
        return {name: len(getattr(self, name)) for name in PARTS} | self.dropped

    @property
    def trained_until(self) -> datetime:
        """The latest time in train and valid: a fair test has later rows only."""
        time = self.train.contract.time
        return cast(datetime, max(part.table[time].max() for part in (self.train, self.valid)))  # type: ignore[type-var]

    def save(self, folder: Path) -> None:
        """Write the three parts as Parquet, with a manifest of their hashes; all of it or nothing."""
        if folder.exists():
            raise DataError("a dataset is never written over", where=folder, fix="choose a new folder")
        with new_folder(folder) as draft:
            for name in PARTS:
                buffer = io.BytesIO()
                getattr(self, name).table.write_parquet(buffer)
                write_atomic(draft / f"{name}.parquet", buffer.getvalue())
            hashes = {name: sha256(draft / f"{name}.parquet") for name in PARTS}
            manifest = {"format": 1, "version": self.version, "dropped": self.dropped, "sha256": hashes}
            write_json(draft / "manifest.json", manifest)

    @classmethod
    def load(cls, folder: Path, contract: Contract, frame: Frame = "pandas") -> Dataset:
        """Read a saved dataset. Raises DataError when it is missing, damaged, or of another contract."""
        try:
            manifest = read_json(folder / "manifest.json")
            version, dropped, hashes = manifest["version"], manifest["dropped"], manifest["sha256"]
            damaged = [name for name in PARTS if sha256(folder / f"{name}.parquet") != hashes[name]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError("this is no whole dataset", where=folder, fix="run retrieve again") from error
        if damaged:
            what = f"the part {damaged[0]} was changed after it was written"
            raise DataError(what, where=folder, fix="run retrieve again")
        parts = {name: pl.read_parquet(folder / f"{name}.parquet") for name in PARTS}
        if dict(parts["train"].schema) != contract.types:
            what = f"this dataset was made under another contract than {contract.name} is now"
            raise DataError(what, where=folder, fix="run retrieve again")
        made = {name: Part(from_polars(rows, frame), contract) for name, rows in parts.items()}
        return cls(**made, version=version, dropped=dropped)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        return f"<Dataset {counts}; version {self.version}>"


class _Unseen(Dataset):
    """A dataset whose test part cannot be reached, because it is not there."""

    def __init__(self, whole: Dataset) -> None:
        for name in ("train", "valid", "version", "dropped"):
            object.__setattr__(self, name, getattr(whole, name))

    def __getattr__(self, name: str) -> Any:
        if name == "test":
            what = "the test part is not seen by fit or early stopping"
            raise DataError(what, fix="use dataset.valid here; the test part belongs to evaluate")
        raise AttributeError(name)

    @property
    def counts(self) -> dict[str, int]:
        """The rows in train and valid, and the rows dropped by reason."""
        return {name: len(getattr(self, name)) for name in PARTS[:2]} | self.dropped

    def without_test(self) -> Dataset:
        """The dataset itself."""
        return self


def split(
    rows: pl.DataFrame,
    contract: Contract,
    *,
    by: By = "time",
    valid: float | str,
    test: float | str,
    seed: int = 0,
    version: str,
    frame: Frame = "pandas",
) -> Dataset:
    """Split the good rows of a checked table.

    ``valid`` and ``test`` are shares of the labelled rows or, by time, durations such as "14d", back from the last row.
    Rows without a label are dropped. By time, rows of one moment stay together, and a row whose label was not yet due
    (time + ``label_after``) when the next part begins is purged from the part before it. However it is split, a
    group of the contract is never in two parts: by time, its rows in the earlier part are dropped; else it moves
    as a whole. All that is dropped is counted in ``Dataset.dropped``. For one seed the parts are the same whatever
    the order of the rows.

    Raises SettingsError for a share or duration that makes no sense, DataError when a part would be empty.
    """
    labelled = rows if contract.label is None else rows.filter(pl.col(contract.label).is_not_null())
    dropped = {"unlabelled": rows.height - labelled.height}
    ordered = labelled.sort([contract.time, *contract.key])
    shares = [_share(value, name, by) for name, value in (("valid", valid), ("test", test))]
    if all(isinstance(share, float) for share in shares) and sum(cast(list[float], shares)) >= 1:
        what = f"valid={valid} and test={test} leave nothing to train on"
        raise SettingsError(what, where="split", fix="let them add up to less than 1")
    if by == "time":
        numbers, more = by_time(ordered, contract, *shares)
        dropped |= more
    else:
        if by == "group" and contract.group is None:
            what = f"a split by group needs a group, and the contract {contract.name} has none"
            raise DataError(what, where="split.by", fix="give group=… in schema.py, or split by time")
        numbers = by_group(ordered, contract, cast(float, shares[0]), cast(float, shares[1]), seed)
    tables = [ordered.filter(numbers == i) for i in range(3)]
    empty = [name for name, table in zip(PARTS, tables, strict=True) if not table.height]
    if empty:
        counts = {name: table.height for name, table in zip(PARTS, tables, strict=True)} | dropped
        what = f"the part {empty[0]} would be empty: {', '.join(f'{name} {count}' for name, count in counts.items())}"
        raise DataError(what, where="split", fix=_next_step(dropped, contract))
    train, middle, last = (Part(from_polars(table, frame), contract) for table in tables)
    return Dataset(train, middle, last, version, dropped)


def _share(value: float | str, name: str, by: str) -> float | timedelta:
    if isinstance(value, str):
        if by != "time":
            what = f"{name}='{value}' is a duration, and the split is by {by}"
            raise SettingsError(what, where=f"split.{name}", fix="give a share such as 0.2, or split by time")
        length = duration(value)
        if length <= timedelta(0):
            raise SettingsError(f"{name}='{value}' is no time at all", where=f"split.{name}", fix="write 14d")
        return length
    if isinstance(value, bool) or not 0 < value < 1:
        fix = "give a share between 0 and 1, such as 0.2" + (", or a duration such as '14d'" if by == "time" else "")
        raise SettingsError(f"{name}={value} is no share", where=f"split.{name}", fix=fix)
    return float(value)


def _next_step(dropped: dict[str, int], contract: Contract) -> str:
    most = max(dropped, key=lambda name: dropped[name])
    if not dropped[most]:
        return "give more rows, or other shares in split"
    if most == "unlabelled":
        return "ask for rows that are old enough to have a label"
    if most == "straddling":
        return f"the groups of '{contract.group}' live too long to split by time: split by group, or leave group out"
    return f"labels come late (label_after): ask for more history, or make the parts longer than {contract.label_after}"
