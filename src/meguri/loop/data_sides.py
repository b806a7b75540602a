"""What a person means by the name of a table: a file, a version, a run, a period, training, serving, or a warehouse's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from meguri.base.clock import moment
from meguri.base.errors import DataError, MeguriError, SettingsError
from meguri.data import versions
from meguri.data.drift import features_table
from meguri.data.fit import RetypedError, fit
from meguri.data.statistics import scan
from meguri.loop.project import Project

FORMS = "a file, a version of the data, a run, a period such as 2013-01-01..2013-02-01, training, serving or a table of the warehouse"
_VERSION = re.compile(r"[0-9a-f]{32}(\.dir)?")
_BEGINNING = re.compile(r"[0-9a-f]{6,31}")


@contextmanager
def side(project: Project | None, name: str, *, now: datetime, since: datetime | None = None) -> Iterator[Any]:
    """The table of that name, as it is there while the block runs: a lazy frame, batches, or sketches for ``training``.

    ``since`` is from when on ``serving`` counts. Raises DataError for a name that means nothing here.
    """
    if Path(name).exists():
        yield scan(Path(name))
        return
    if project is None:
        raise DataError(f"there is no file '{name}', and this is no project", fix=f"name {FORMS}")
    begin, dots, end = name.partition("..")
    version = _known(project, name)
    if version is not None:
        with _version(project, version) as found:
            yield found
    elif dots:
        yield _period(project, begin, end)
    elif name == "training":
        yield _training(project)
    elif name == "serving":
        yield _serving(project, now, since)
    elif (project.outputs / "runs" / name / "run.json").is_file():
        from meguri.record.run import Run

        kept = Run.load(project.outputs, name).data_version
        if kept is None:
            raise DataError(f"the run {name} has no version of its data", fix="name a run that retrieved some")
        with _version(project, kept) as found:
            yield found
    else:
        try:
            yield project.warehouse.batches(project.warehouse.table(name))
        except MeguriError as error:
            raise DataError(f"nothing here is called '{name}'", where=error.where, fix=f"name {FORMS}") from error


def _known(project: Project, name: str) -> str | None:
    """The version of that name, or that alone begins so."""
    if _VERSION.fullmatch(name):
        return name
    root = project.data.parent
    past = {*versions.past(root), versions.version(root) or ""} if _BEGINNING.fullmatch(name) else set()
    found = [version for version in past if version.startswith(name)]
    return found[0] if len(found) == 1 else None


def rows_of(project: Project) -> pl.LazyFrame:
    """The rows that the last retrieve kept. Raises DataError when there was none."""
    path = project.data / "rows.parquet"
    if not path.is_file():
        raise DataError("this project has no data yet", where=path, fix="run retrieve, or name a file")
    return scan(path)


@contextmanager
def _version(project: Project, name: str) -> Iterator[pl.LazyFrame]:
    """A version, read where this machine has it, else brought back for as long as it is needed."""
    root = project.data.parent
    found = versions.at_hand(root, name)
    if found is not None:
        yield pl.scan_parquet(found)  # DVC's cache names no format
        return
    project.outputs.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=project.outputs, prefix=".diff.") as folder:
        target = Path(folder) / "data"
        versions.restore(root, name, target)
        whole = target / "rows.parquet"
        yield scan(whole if whole.is_file() else target) if target.is_dir() else pl.scan_parquet(target)


def _period(project: Project, begin: str, end: str) -> pl.LazyFrame:
    """The project's rows with their time in [begin, end); an end that is left out is open."""
    time = pl.col(project.contract.time)
    found = rows_of(project)
    try:
        found = found.filter(time >= moment(begin)) if begin else found
        return found.filter(time < moment(end)) if end else found
    except SettingsError as error:
        raise DataError(f"'{begin}..{end}' is no period", fix="write 2013-01-01..2013-02-01") from error


def _champion(project: Project) -> str:
    name = project.champion()
    if name is None:
        raise DataError("no release is live yet", where=project.outputs, fix="turn the loop first: meguri turn")
    return name


def _training(project: Project) -> dict[str, Any]:
    """What the live release keeps of the rows that it was trained on."""
    name = _champion(project)
    found: dict[str, Any] | None = project.release(name).manifest.get("reference")
    if not found:
        raise DataError(
            f"the release {name} keeps no sketch of its training rows", fix="name its run instead of training"
        )
    return found


def _serving(project: Project, now: datetime, since: datetime | None) -> pl.LazyFrame:
    """The features of the live outlet's matured predictions, in the contract's types."""
    contract = project.contract
    fields = {field.name: field for field in contract.fields if field.name in contract.features}
    kept = project.ledger.joined(since=since, until=now + timedelta(microseconds=1), as_of=now, features=True)[
        "features"
    ]
    shape: dict[str, Any] = {name: {"edges": []} if field.dtype.is_numeric() else {} for name, field in fields.items()}
    table = features_table(kept, shape)
    if table.is_empty():
        raise DataError(
            "the ledger has no matured predictions with features", where="serving", fix="choose an earlier --since"
        )
    columns = []
    for name, field in fields.items():
        try:
            columns.append(fit(table[name], replace(field, coerce=True))[0])
        except RetypedError:
            columns.append(table[name])
    return pl.DataFrame(columns).lazy()
