"""`meguri data check`: the contract asked of a table where it is."""

from __future__ import annotations

from typing import Annotated

import typer

from meguri.base import clock
from meguri.cli import show


def add_to(data: typer.Typer) -> None:
    """Add this file's command."""
    data.command()(check)


def check(
    table: Annotated[str, typer.Argument(help="A table of the warehouse, or with --sql a query.")],
    sql: Annotated[bool, typer.Option("--sql", help="TABLE is a query in the warehouse's own SQL.")] = False,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="The label is neither needed nor checked.")] = False,
    limit: Annotated[
        bool, typer.Option("--limit", help="Bear as many bad rows as data.max_quarantined does in a turn.")
    ] = False,
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Count the rows of a table that break the contract, and why, where the data is: only the counts come here. The exit code is 1 when rows are bad."""
    from meguri.data import pushdown
    from meguri.loop.project import Project

    opened = Project.open(project)
    with opened.warehouse as warehouse:
        expr = warehouse.sql(table) if sql else warehouse.table(table)
        found = pushdown.counts(warehouse, expr, opened.contract, now=clock.now(), labelled=not unlabelled)
    most = opened.plain_settings()["data"]["max_quarantined"] if limit else 0
    borne = found.bad <= (most if most >= 1 else most * found.rows)
    if json:
        told = {"rows": found.rows, "bad": found.bad, "reasons": found.reasons, "unasked": list(found.unasked)}
        show.dump({**told, "ok": borne})
    else:
        show.facts({"rows": found.rows, "bad": found.bad})
        if found.reasons:
            show.table("reasons", ["rows", "reason"], [(count, why) for why, count in found.reasons.items()])
        if found.unasked:
            typer.echo("not asked here, but of the rows when they are retrieved: " + "; ".join(found.unasked))
    if not borne:
        raise typer.Exit(1)
