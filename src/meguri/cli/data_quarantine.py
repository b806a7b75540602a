"""`meguri data quarantine`: the rows that broke the contract, and what is decided about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from meguri.base import clock
from meguri.base.errors import DataError
from meguri.cli import show

if TYPE_CHECKING:
    import polars as pl

By = Annotated[str, typer.Option("--by", help="Who decides.")]
Why = Annotated[str, typer.Option("--why", help="Why; it is kept with the decision.")]


def add_to(data: typer.Typer) -> None:
    """Add this file's commands."""
    group = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
    group.callback()(quarantine)
    group.command()(release)
    group.command()(correct)
    data.add_typer(group, name="quarantine")


def quarantine(
    context: typer.Context,
    rows: Annotated[int, typer.Option("--rows", min=0, help="Show so many of the latest rows, with their ids.")] = 0,
    reason: Annotated[str, typer.Option("--reason", help="Only rows whose reason has this text.")] = "",
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Show the rows that broke the contract: how many for each reason; `release` lets some through, `correct` mends one."""
    if context.invoked_subcommand is not None:
        return
    import polars as pl

    from meguri.loop.project import Project

    kept = Project.open(project).quarantine
    counts = {text: count for text, count in kept.counts().items() if reason in text}
    latest = kept.read().filter(pl.col("reason").str.contains(reason, literal=True)).tail(rows) if rows else None
    decisions = kept.decisions()
    if json:
        decided = dict(decisions.unique("id", keep="last")["decision"].value_counts().iter_rows())
        found = [] if latest is None else latest.to_dicts()
        show.dump({"reasons": counts, "decided": decided, "rows": found})
    elif not counts:
        typer.echo(f"no row was quarantined with a reason like '{reason}'" if reason else "no row was quarantined")
    else:
        show.table("quarantine", ["rows", "reason"], [(count, text) for text, count in counts.items()])
        if latest is not None:
            _draw(latest)


def _draw(latest: pl.DataFrame) -> None:
    for row in latest.iter_rows(named=True):
        decision = f", {row['decision']}" if row["decision"] else ""
        batch = f"{row['door']} of {row['run'] or 'no run'}"
        typer.echo(f"{row['id']}  {show.text(row['at'])}, {batch}{decision}\n  {row['reason']}\n  {row['row']}")


def release(
    ids: Annotated[list[str], typer.Argument(help="Ids of rows, or their beginnings.")],
    by: By,
    why: Why,
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Let rows through as they are: when the same row comes again, it passes this reason."""
    from meguri.loop.project import Project

    opened = Project.open(project)
    count = opened.quarantine.release(ids, opened.contract, by=by, why=why, at=clock.now())
    show.dump({"released": count}) if json else typer.echo(f"released {count}: from the next time that they are read")


def correct(
    id: Annotated[str, typer.Argument(help="The id of a row, or its beginning.")],
    sets: Annotated[list[str], typer.Option("--set", help="column=value, as often as needed; column= for none.")],
    by: By,
    why: Why,
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Let a corrected row stand in for this one whenever it comes again; it must keep the contract."""
    from meguri.loop.project import Project

    wrong = next((text for text in sets if "=" not in text), None)
    if wrong is not None:
        raise DataError(f"'{wrong}' sets nothing", where="--set", fix="write column=value")
    opened = Project.open(project)
    values = dict(text.split("=", 1) for text in sets)
    row = opened.quarantine.correct(id, values, opened.contract, by=by, why=why, at=clock.now())
    show.dump({"corrected": row}) if json else typer.echo(
        "corrected: it stands in from the next time that the row is read"
    )
