"""Commands for the versions of the data: list them, bring one back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meguri.base.errors import DataError
from meguri.cli import show


def add_to(data: typer.Typer) -> None:
    """Add this file's commands to the group ``data``."""
    data.command("versions")(versions)
    data.command("get")(get)


def versions(project: show.Folder = ".", json: show.Json = False) -> None:
    """List the versions of the data: when and by which runs each was used, its rows, and whether cache and remote have it."""
    from meguri.loop.lineage import data_versions
    from meguri.loop.project import Project

    found = data_versions(Project.open(project))
    if json:
        show.dump(found)
    elif not found:
        typer.echo("no version yet: a turn keeps the first")
    else:
        there = {True: "yes", False: "no", None: "not known"}
        cells = [
            (
                version["version"],
                "now" if version["present"] else "",
                version["at"],
                version["rows"],
                there[version["cache"]],
                there[version["remote"]],
                ", ".join(version["runs"]),
            )
            for version in found
        ]
        show.table("versions of the data", ["version", "", "first used", "rows", "cache", "remote", "runs"], cells)


def get(
    version: Annotated[str, typer.Argument(help="A version, or the beginning of one; or a run, for the data it had.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="Where to put it (default: here, under its name).", metavar="PATH")
    ] = None,
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Bring a version of the data back: one file to PATH, several into a new folder of that name. Nothing is written over."""
    from meguri.data.versions import restore
    from meguri.loop.lineage import data_versions
    from meguri.loop.project import Project

    opened = Project.open(project)
    known = data_versions(opened)
    exact = [each for each in known if version in each["runs"]]
    found = exact or [each for each in known if each["version"].startswith(version)]
    if len(found) > 1:
        names = ", ".join(each["version"] for each in found)
        raise DataError(f"several versions begin with '{version}'", where=opened.root, fix=f"write more of it: {names}")
    name = found[0]["version"] if found else version  # one that another machine made can be in the remote all the same
    table = bool(found) and found[0]["rows"] is not None
    target = to or Path(f"data-{name[:8]}{'.parquet' if table else ''}")
    restore(opened.data.parent, name, target)
    show.dump({"version": name, "path": target.resolve()}) if json else typer.echo(f"{name} is in {target}")
