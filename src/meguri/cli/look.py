"""Commands about the project: its jobs as a graph, and labels that come in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meguri.base import clock
from meguri.base.errors import DataError
from meguri.cli import show


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    for command in (graph, label):
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


def label(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet with prediction_id or key, and value.")],
    by: Annotated[
        str, typer.Option("--by", help="Who says so: a person's name, or 'time' for an outcome that came by itself.")
    ],
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Write labels to the ledger. The same label twice counts once; another value corrects it, and the old one is kept. What the contract's label cannot be is quarantined."""
    import polars as pl

    from meguri.loop import tick
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
    counts, bad = tick.write_labels(opened, table, by=by, now=clock.now())
    known = {"new": counts.new, "same": counts.same, "corrected": counts.corrected, "unmatched": counts.unmatched}
    known |= {"quarantined": bad} if bad or json else {}
    show.dump(known) if json else typer.echo(", ".join(f"{count} {name}" for name, count in known.items()))
