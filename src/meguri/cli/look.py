"""Commands that look at the project: graph, runs, labels, quarantine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meguri.base import clock
from meguri.base.errors import DataError
from meguri.cli import show


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    for command in (graph, runs, label, quarantine):
        app.command()(command)


def graph(
    mermaid: Annotated[bool, typer.Option("--mermaid", help="As a Mermaid flow chart, for a README.")] = False,
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Show the jobs in the order in which they run, and what flows between them. Nothing of the project is run."""
    from meguri.loop import job
    from meguri.loop.project import Project

    jobs = Project.open(project).jobs
    if json:
        show.dump([{"job": j.name, "needs": list(j.needs), "gives": j.gives} for j in jobs.values()])
    else:
        typer.echo(job.mermaid(jobs) if mermaid else job.draw(jobs))


def runs(project: show.Folder = ".", json: show.Json = False) -> None:
    """List the turns, newest first: why each began, its verdict, and what it cost. `mlflow ui` shows their metrics and files."""
    from meguri.loop.project import Project

    turns = list(reversed(Project.open(project).ledger.turns()))
    if json:
        keys = ("id", "at", "reason", "status", "verdict", "release", "seconds", "detail")
        show.dump([{name: getattr(t, name) for name in keys} for t in turns])
    elif not turns:
        typer.echo("no turn yet: meguri turn")
    else:
        cells = [(t.id, t.at, t.status, t.verdict, t.release, t.seconds, t.reason) for t in turns]
        show.table("turns", ["run", "at", "status", "verdict", "release", "seconds", "reason"], cells)


def label(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet with prediction_id or key, and value.")],
    by: Annotated[
        str, typer.Option("--by", help="Who says so: a person's name, or 'time' for an outcome that came by itself.")
    ],
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Write labels to the ledger. The same label twice counts once; another value corrects it, and the old one is kept."""
    import polars as pl

    from meguri.loop.project import Project

    opened = Project.open(project)
    text = {"prediction_id": pl.String, "key": pl.String}  # 007 is no number
    try:
        table = pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file, schema_overrides=text)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"the labels cannot be read: {str(error).splitlines()[0]}", where=file, fix="give a CSV or Parquet file"
        ) from error
    if "value" not in table.columns or not {"prediction_id", "key"} & set(table.columns):
        raise DataError(
            f"labels need prediction_id or key, and value; found {', '.join(table.columns)}",
            where=file,
            fix="name the columns so",
        )
    stamped = table.with_columns(known_at=pl.lit(clock.now()).cast(pl.Datetime("us", "UTC")), source=pl.lit(by))
    counts = opened.ledger.write_labels(stamped)
    known = {"new": counts.new, "same": counts.same, "corrected": counts.corrected, "unmatched": counts.unmatched}
    show.dump(known) if json else typer.echo(", ".join(f"{count} {name}" for name, count in known.items()))


def quarantine(
    rows: Annotated[int, typer.Option("--rows", help="Show so many of the latest rows, too.")] = 0,
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Show the rows that broke the contract: how many for each reason."""
    from meguri.loop.project import Project

    kept = Project.open(project).quarantine
    counts = kept.counts()
    if json:
        show.dump({"reasons": counts, "rows": kept.read().tail(rows).to_dicts() if rows else []})
        return
    if not counts:
        typer.echo("no row was quarantined")
        return
    show.table("quarantine", ["rows", "reason"], [(n, r) for r, n in sorted(counts.items(), key=lambda item: -item[1])])
    if rows:
        latest = kept.read().tail(rows)
        show.table("latest", latest.columns, [list(row) for row in latest.rows()])
