"""Commands for features: what there is, whether it sees the future, and the online table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from meguri.base import clock
from meguri.base.errors import DataError, SettingsError
from meguri.cli import show

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from meguri.data.features import Features
    from meguri.data.online import OnlineTable
    from meguri.data.sources import Sources
    from meguri.loop.project import Project

Url = Annotated[
    str | None,
    typer.Option("--online", help="The online table: sqlite:///path, postgres://… or redis://… [settings: online]"),
]
Now = Annotated[
    str | None, typer.Option("--now", help="The moment, such as 2013-07-10T22:00Z, instead of the present.")
]


def add_to(group: typer.Typer) -> None:
    """Add this file's commands to the group ``features``."""
    group.command("list")(list_)
    for command in (check, materialize, get):
        group.command()(command)


def list_(project: show.Folder = ".", json: show.Json = False) -> None:
    """List the features: of which entity, made of what, and known when. Nothing is read."""
    from meguri.data.features import Feature, needs
    from meguri.loop.project import Project

    cells: list[tuple[str, str, str, str | None]] = []
    for name, found in _features(Project.open(project)).items():
        if isinstance(found, Feature):
            known = found.events.known
            when = (
                known
                if isinstance(known, str)
                else f"{found.events.at} + {clock.spell(known)}"
                if known
                else found.events.at
            )
            cells.append((name, ", ".join(found.events.keys), str(found), when))
        else:
            cells.append((name, "the row", f"function of {', '.join(needs(found))}", None))
    columns = ["feature", "entity", "made of", "known"]
    if json:
        show.dump([dict(zip(columns, cell, strict=True)) for cell in cells])
    else:
        show.table("features", columns, cells)


def check(
    moments: Annotated[int, typer.Option("--moments", min=1, help="As of so many moments.")] = 5,
    now: Now = None,
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Make the features of the latest rows anew from sources without what was known later; one that changes sees the future."""
    import polars as pl

    from meguri.data import leak
    from meguri.loop.project import Project

    opened = Project.open(project)
    features, at = _features(opened), _moment(now)
    path = opened.data / "rows.parquet"
    if not path.is_file():
        raise DataError("there are no rows to check with", where=path, fix="python -m src.main jobs=retrieve")
    sources = _sources(opened, at)
    if now is None:
        leak.clock(features, sources, now=at)
    rows = pl.read_parquet(path)
    counts = leak.check(rows, features, sources, contract=opened.contract, now=at, moments=moments)
    if json:
        show.dump({"rows": rows.height, "compared": dict(counts)})
    else:
        show.table("none of them sees the future", ["feature", "values compared"], list(counts.items()))


def materialize(online: Url = None, now: Now = None, project: show.Folder = ".", json: show.Json = False) -> None:
    """Write the latest features of each entity to the online table, in the place of the earlier ones, all or none."""
    from meguri.data import leak
    from meguri.data import online as store
    from meguri.loop.project import Project

    opened = Project.open(project)
    features, at = _features(opened), _moment(now)
    sources = _sources(opened, at)
    if now is None:
        leak.clock(features, sources, now=at)
    table = _table(opened, online)
    try:
        done = store.materialize(features, sources, table, now=at)
    finally:
        table.close()
    if json:
        show.dump({"at": done.at, "entities": done.entities, "written": done.written})
    elif done.written:
        typer.echo(f"{done.entities} entities as of {done.at:%Y-%m-%d %H:%M} UTC")
    else:
        typer.echo(f"nothing written: the online table has those of a later moment than {done.at:%Y-%m-%d %H:%M} UTC")


def get(
    row: Annotated[list[str], typer.Argument(help="The row's columns: origin=JFK carrier=UA …")],
    online: Url = None,
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Show the features that a request with this row would get from the online table."""
    from meguri.data.online import Online
    from meguri.loop.project import Project

    opened = Project.open(project)
    features = _features(opened)
    types = opened.contract.types
    table = _table(opened, online)
    try:
        found = Online(features, table, types=types).get(dict(_cell(text, types) for text in row))
    finally:
        table.close()
    if json:
        show.dump({"at": found.at, "features": found.values})
    elif found.at is None:
        typer.echo("the online table is empty: meguri features materialize")
    else:
        show.facts({"as of": found.at, **found.values})


def _cell(text: str, types: dict[str, Any]) -> tuple[str, Any]:
    import polars as pl

    name, mark, value = text.partition("=")
    if not mark:
        raise SettingsError(f"'{text}' is no column of a row", where="meguri features get", fix="write name=value")
    if name not in types:
        return name, value
    read = pl.Series([value]).cast(types[name], strict=False)[0]
    if read is None and value:
        raise SettingsError(f"'{value}' is no {types[name]}", where=f"column '{name}'", fix="write name=value")
    return name, read


def _moment(now: str | None) -> datetime:
    return clock.now() if now is None else clock.moment(now)


def _features(project: Project) -> Features:
    from meguri.loop.features import features_of

    found = features_of(project)
    if found is None:
        what = "this project defines no features"
        raise DataError(what, where=project.root / "src", fix="add src/features.py with features = {…}")
    return found


def _sources(project: Project, now: datetime) -> Sources:
    from meguri.loop.features import sources_of

    def give(name: str) -> Any:
        known: dict[str, Callable[[], Any]] = {
            "settings": project.settings,
            "contract": lambda: project.contract,
            "now": lambda: now,
            "warehouse": lambda: project.warehouse,
        }
        found = known[name]() if name in known else None
        if found is None:
            fix = f"`sources` may ask for {', '.join(known)}"
            raise DataError(f"the sources ask for '{name}', which is not there", where="src/features.py", fix=fix)
        return found

    return sources_of(project, give)


def _table(project: Project, url: str | None) -> OnlineTable:
    from meguri.data.online import open_online

    return open_online(url or project.settings().online, project.root)
