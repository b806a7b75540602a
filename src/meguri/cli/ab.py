"""Commands of A/B tests: start one, read it, end it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meguri.base import clock
from meguri.base.errors import GateError, SettingsError
from meguri.cli import show
from meguri.cli.ab_estimate import estimate
from meguri.cli.releases import Why, open_project, who

if TYPE_CHECKING:
    from datetime import datetime

    from meguri.data.value import Value
    from meguri.loop.ab import Look
    from meguri.loop.project import Project
    from meguri.record.experiment import Metric
    from meguri.record.ledger import Experiment

Outlet = Annotated[str, typer.Option("--outlet", help="The outlet.")]
Now = Annotated[str | None, typer.Option("--now", metavar="TIME", help="The moment to act at (default: the present).")]


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    for command in (start, status, stop, estimate):
        app.command()(command)


def start(
    challenger: Annotated[str, typer.Argument(help="The release to test against the champion.")],
    metric: Annotated[
        str,
        typer.Option(
            "--metric", help="event:KIND, event:KIND:count, event:KIND:sum, or a metric of labels such as log_loss."
        ),
    ],
    share: Annotated[float, typer.Option("--share", help="The challenger's share of the units.")] = 0.5,
    lower: Annotated[bool, typer.Option("--lower", help="Less of the metric's events is better.")] = False,
    minimum: Annotated[float, typer.Option("--minimum", help="A smaller difference does not matter.")] = 0.0,
    guard: Annotated[
        list[str] | None,
        typer.Option("--guard", help="METRIC=MARGIN: it may be worse by so much; -METRIC where less is better."),
    ] = None,
    expected: Annotated[
        int, typer.Option("--expected", help="About how many units an arm has when it is decided.")
    ] = 5000,
    alpha: Annotated[float, typer.Option("--alpha", help="How often equal releases may be called different.")] = 0.05,
    before: Annotated[
        str,
        typer.Option("--before", help="What units did so long before the test makes the interval narrower; 0d: no."),
    ] = "14d",
    column: Annotated[
        list[str] | None, typer.Option("--column", help="A numeric feature of a unit's first row does so, too.")
    ] = None,
    promote: Annotated[
        bool,
        typer.Option("--promote", help="Put the challenger live once it is surely better and its guardrails are held."),
    ] = False,
    outlet: Outlet = "rest",
    why: Why = "by hand",
    now: Now = None,
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Start a test: the challenger gets its share, and what is compared is settled."""
    from meguri.loop import ab
    from meguri.record.experiment import Plan

    opened = open_project(project)
    task, value = opened.contract.task, opened.contract.value
    more: dict[str, Any] = {"minimum_effect": minimum} | ({"higher_is_better": False} if lower else {})
    guards = [_guard(text, task, value) for text in guard or []]
    made = ab.start(
        opened,
        challenger,
        share=share,
        metric=ab.metric_of(metric, task, value, **more),
        guards=guards,
        plan=Plan(alpha=alpha, expected=expected),
        promote=promote,
        outlet=outlet,
        at=clock.moment(now) if now else clock.now(),
        why=why,
        by=who(),
        before=clock.duration(before),
        columns=column or [],
    )
    if json:
        show.dump({"test": made.id, **made.detail})
    else:
        typer.echo(f"the test {made.id} runs: {challenger} answers {share:.0%} of the units in '{outlet}'")


def status(
    lang: Annotated[str, typer.Option("--lang", help="The language of the sentence and the page: en or ja.")] = "en",
    html: Annotated[Path | None, typer.Option("--html", help="Write it as a page, whole in one file.")] = None,
    outlet: Outlet = "rest",
    now: Now = None,
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Read the test that runs, or the last one, as often as you like; nothing is changed."""
    from meguri.loop import ab

    opened = open_project(project)
    at, test = clock.moment(now) if now else clock.now(), _test(opened, outlet)
    if html is not None:
        from meguri.loop import ab_page
        from meguri.loop.words import Words

        ab_page.write(html, opened, test, now=at, words=Words(lang))
    found = ab.look(opened, test, now=at)
    window = ab.known_before(opened, test)
    if json:
        told = {"test": found.test.id, "status": found.test.status, "ended": found.ended, "before": window}
        show.dump({**told, "columns": test.detail.get("columns", []), **found.report.to_dict()})
    else:
        from meguri.loop.words import Words
        from meguri.loop.worth import ab_worth

        _print(found, window, lang, ab_worth(opened, test, found.report, now=at, words=Words(lang)))


def stop(
    keep: Annotated[
        str, typer.Option("--keep", help="Who answers everyone from now on: champion or challenger.")
    ] = "champion",
    outlet: Outlet = "rest",
    why: Why = "by hand",
    now: Now = None,
    project: show.Folder = ".",
) -> None:
    """End the test that runs."""
    from meguri.loop import ab

    if keep not in ("champion", "challenger"):
        raise SettingsError(f"'{keep}' is neither", where="--keep", fix="write champion or challenger")
    opened = open_project(project)
    test = ab.running(opened, outlet)
    if test is None:
        raise GateError(
            f"no test runs in '{outlet}'", where=outlet, fix="start one: meguri ab start RELEASE --metric …"
        )
    opened.release(test.detail[keep])
    ab.stop(opened, test, keep=keep, at=clock.moment(now) if now else clock.now(), why=why, by=who())
    typer.echo(f"the test {test.id} is over: release {test.detail[keep]} answers everyone in '{outlet}'")


def _test(project: Project, outlet: str) -> Experiment:
    found = [test for test in project.ledger.experiments() if test.outlet == outlet]
    if not found:
        raise GateError(
            f"there was no test in '{outlet}' yet", where=outlet, fix="start one: meguri ab start RELEASE --metric …"
        )
    return found[-1]


def _guard(text: str, task: str, value: Value | None) -> Any:
    from meguri.loop import ab

    name, _, margin = text.rpartition("=")
    try:
        less = {"higher_is_better": False} if name.startswith("-") else {}
        return ab.metric_of(name.removeprefix("-"), task, value, margin=float(margin), **less)
    except ValueError as error:
        if isinstance(error, GateError):
            raise
        raise SettingsError(f"'{text}' is no guardrail", where="--guard", fix="write METRIC=0.01") from None


def _named(metric: Metric) -> str:
    return f"{metric.name}, {metric.unit}" if metric.unit else metric.name


def _print(found: Look, window: tuple[datetime, datetime] | None, language: str, money: str) -> None:
    from meguri.loop.ab_page import narrowed
    from meguri.loop.words import Words
    from meguri.record.experiment_words import experiment_sentence

    detail, report, words = found.test.detail, found.report, Words(language)
    said = experiment_sentence(report, "ja" if language == "ja" else "en")
    typer.echo(f"{said}\n{money}\n" if money else f"{said}\n")
    limits = [limit if math.isfinite(limit) else None for limit in (report.primary.low, report.primary.high)]
    r = report.primary
    show.table(
        f"test {found.test.id} ({'ended' if found.ended else found.test.status})",
        ["metric", "A", "B", "B - A", "low", "high", "units A", "units B", ""],
        [(_named(r.metric), r.value_a, r.value_b, r.estimate, *limits, r.units_a, r.units_b, r.decision)],
    )
    if report.guards:
        rows = [
            (
                _named(guard.reading.metric),
                guard.reading.value_a,
                guard.reading.value_b,
                *(limit if math.isfinite(limit) else None for limit in (guard.loses_at_least, guard.loses_at_most)),
                guard.reading.metric.margin,
                guard.state,
            )
            for guard in report.guards
        ]
        columns = ["metric", "A", "B", "B worse by at least", "at most", "allowed", ""]
        show.table("guardrails", columns, rows)
    typer.echo(f"A is {detail['champion']}, B {detail['challenger']}; since {detail['began']}")
    if found.ended:
        typer.echo(f"it ended {found.ended.isoformat()}: nothing after that counts")
    if window is not None or detail.get("columns"):
        typer.echo(narrowed(report.primary, words))
    if report.more_units:
        typer.echo(f"about {report.more_units:,} more units per arm would settle it")
