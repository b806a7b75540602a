"""The group ``meguri ledger``: forget what is old, and see to what could not be settled."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from meguri.base import clock
from meguri.base.errors import LedgerError, SettingsError
from meguri.cli import show
from meguri.cli.releases import open_project

if TYPE_CHECKING:
    from meguri.loop.project import Project


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(prune)
    app.command()(aside)


def prune(
    before: Annotated[str, typer.Option("--before", help="A date, or an age such as 2y, 90d or 36h.", metavar="WHEN")],
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Also the predictions whose label has not come.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it nothing is deleted, only counted.")] = False,
    now: Annotated[
        str | None, typer.Option("--now", metavar="TIME", help="The moment to act at (default: the present).")
    ] = None,
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Delete from the ledger the predictions that were due before a moment, with their labels, and the events before it.

    Rollouts, gate uses, turns and A/B tests stay.
    """
    opened = open_project(project)
    at = _moment(before, clock.now() if now is None else clock.moment(now))
    ledger = opened.ledger
    _no_test(opened, at)
    old = ledger.old(at)
    going = old.predictions if unlabelled else old.predictions - old.awaited
    deleted = ledger.prune(at, awaited=unlabelled) if yes else None
    if json:
        counts = {"predictions": going if deleted is None else deleted, "labels": old.labels, "events": old.events}
        staying = 0 if unlabelled else old.awaited
        show.dump({"before": at, **counts, "unlabelled stay": staying, "deleted": yes})
        return
    typer.echo(f"{'deleted' if yes else 'to delete'}, from before {at:%Y-%m-%d %H:%M} UTC:")
    show.facts({"predictions": going if deleted is None else deleted, "labels": old.labels, "events": old.events})
    if old.awaited and not unlabelled:
        typer.echo(f"{old.awaited} predictions have no label yet and stay; --unlabelled takes them as well")
    if not yes:
        typer.echo("nothing was deleted: --yes does it")
    elif opened.ledger_url.startswith("sqlite"):
        file = opened.ledger_url.removeprefix("sqlite:///")
        typer.echo(f"the file keeps its size, and what comes next fills it; to shrink it: sqlite3 {file} VACUUM")


def aside(
    again: Annotated[bool, typer.Option("--again", help="Try to settle it again, once its reason is mended.")] = False,
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Show what a service answered and could not be settled among the predictions: it was set aside as it is, with the reason.

    The table `aside` of the ledger's database has it.
    """
    ledger = open_project(project).ledger
    ledger.settle()  # what waits may be damaged as well
    tried = ledger.retry_aside() if again else None
    found = ledger.aside()
    if json:
        rows = [one._asdict() | {"answers": one.answers.decode(errors="backslashreplace")} for one in found]
        show.dump({"tried again": tried, "aside": rows})
        return
    if tried is not None:
        typer.echo(f"{tried} rows were tried again")
    if not found:
        typer.echo("nothing is set aside")
        return
    columns = ["n", "at", "bytes", "reason"]
    show.table("set aside", columns, [(one.n, one.at, len(one.answers), one.reason) for one in found])
    typer.echo(
        "--json shows it whole; mend it in the ledger's table aside, or what refused it there: --again then settles it"
    )


def _moment(text: str, now: datetime) -> datetime:
    """The moment that a date or an age names. Raises SettingsError for one that is none, or to come."""
    years = re.fullmatch(r"(\d{1,4})y", text)
    try:
        if years:
            first = now.replace(day=1, year=now.year - int(years[1]))  # there may be no 29 February then
            at = first + (now - now.replace(day=1))
        elif re.fullmatch(r"[\d.]+[smhdw].*", text):
            at = now - clock.duration(text)
        else:
            at = clock.moment(text)
    except (SettingsError, ValueError, OverflowError) as error:
        fix = "write 2024-01-01, or an age such as 2y, 90d or 36h"
        raise SettingsError(f"'{text}' is no date and no age", where="--before", fix=fix) from error
    if at > now:
        raise SettingsError(f"{at:%Y-%m-%d %H:%M} is still to come", where="--before", fix="name an earlier moment")
    return at


def _no_test(project: Project, at: datetime) -> None:
    """Raise LedgerError where an A/B test that runs would lose what it reads."""
    from meguri.loop import ab

    for test in project.ledger.experiments():
        if test.status != "running":
            continue
        since = (ab.known_before(project, test) or (test.at,))[0]
        if since < at:
            what = f"the A/B test of {test.at:%Y-%m-%d %H:%M} in '{test.outlet}' reads from {since:%Y-%m-%d %H:%M} on"
            fix = f"end it first (meguri ab stop), or prune before {since:%Y-%m-%d}"
            raise LedgerError(what, where="meguri ledger prune", fix=fix)
