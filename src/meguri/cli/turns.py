"""Commands that turn the loop: turn, tick, loop, replay."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meguri.base import clock
from meguri.base.errors import SettingsError, TurnBusy
from meguri.cli import show

if TYPE_CHECKING:
    from meguri.loop.tick import Tick
    from meguri.record.ledger import TurnRecord

Now = Annotated[
    str | None,
    typer.Option(
        "--now", help="The moment to act at (default: the present); for tests and catching up.", metavar="TIME"
    ),
]

Overrides = Annotated[list[str] | None, typer.Argument(help="Settings to change: key=value.", metavar="KEY=VALUE")]


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    for command in (turn, tick, loop, replay):
        app.command()(command)


def turn(
    overrides: Overrides = None,
    why: Annotated[str, typer.Option("--why", help="The reason, kept with the run.")] = "by hand",
    now: Now = None,
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Turn the loop once: retrieve, optimize, train, evaluate, gate, release, predict, register.

    A turn that was killed is taken up where it stopped. The exit code is 0 whatever the verdict is.
    """
    from meguri.loop.project import Project
    from meguri.loop.turn import turn as turn_once

    record = turn_once(
        Project.open(project),
        now=_now(now),
        reason=why,
        overrides=overrides or [],
        say=lambda step: None if json else typer.echo(f"{step} …"),
    )
    show.dump(_turn_json(record)) if json else typer.echo(_turn_line(record))
    if record.reason != why and not json:
        typer.echo("this was a turn that had been killed; call again for your own")


def tick(now: Now = None, project: show.Folder = ".", json: show.Json = False) -> None:
    """Do what is due: collect labels that have come, ask the triggers once, turn if one gives a reason, predict what comes next.

    Let cron or your engine call it as often as you like; with nothing to do it costs next to nothing.
    """
    from meguri.loop.project import Project
    from meguri.loop.tick import TickUnread
    from meguri.loop.tick import tick as tick_once

    unread = None
    try:
        done = tick_once(
            Project.open(project), now=_now(now), say=lambda step: None if json else typer.echo(f"{step} …")
        )
    except TickUnread as error:
        done, unread = error.done, error
    if json:
        show.dump(
            {
                "at": done.at,
                "labels": done.labels,
                "test": done.test,
                "reason": done.reason,
                "turn": _turn_json(done.turn),
                "predictions": done.predictions,
            }
        )
    else:
        typer.echo(_tick_line(done))
    if unread is not None:
        raise unread


def loop(
    every: Annotated[
        str, typer.Option(help="How long from one tick to the next: 30s, 10m, 1h.", metavar="DURATION")
    ] = "10m",
    project: show.Folder = ".",
) -> None:
    """Tick at an interval until Ctrl-C: for a laptop. On a server let cron or the engine call `meguri tick`."""
    from meguri.loop.project import Project
    from meguri.loop.tick import TickUnread
    from meguri.loop.tick import tick as tick_once

    opened, pause = Project.open(project), clock.duration(every).total_seconds()
    try:
        while True:
            try:
                typer.echo(_tick_line(tick_once(opened, now=clock.now())))
            except TurnBusy as busy:
                typer.echo(f"{clock.now():%Y-%m-%d %H:%M}  {busy.what}")
            except TickUnread as error:
                typer.echo(_tick_line(error.done))
                typer.echo(f"error: {error}", err=True)
            time.sleep(pause)
    except KeyboardInterrupt:
        typer.echo("stopped")


def replay(
    overrides: Overrides = None,
    *,
    since: Annotated[str, typer.Option("--from", help="The first moment of the replay.", metavar="TIME")],
    until: Annotated[str, typer.Option("--to", help="The moment at which it ends.", metavar="TIME")],
    step: Annotated[
        str | None,
        typer.Option("--step", help="How far the clock goes at once (default: loop.step).", metavar="DURATION"),
    ] = None,
    when: Annotated[
        list[str] | None,
        typer.Option(
            "--when",
            help="A further policy to compare, such as \"monthly=Every('30d')\". May be given again.",
            metavar="NAME=TRIGGERS",
        ),
    ] = None,
    score_from: Annotated[
        str | None, typer.Option("--score-from", help="Live metrics count from here (default: --from).", metavar="TIME")
    ] = None,
    always: Annotated[
        str | None,
        typer.Option(
            "--always", help="How often the baseline that releases without a gate retrains.", metavar="DURATION"
        ),
    ] = None,
    language: Annotated[str, typer.Option("--language", help="The report's language: en or ja.")] = "en",
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Run the loop over the past, with the clock handed in, and tell what it would have done.

    The same code as tick, in outputs/replay: nothing that is live is touched. Compares the settings' triggers with a model that is
    trained once and, as asked, with others, and writes outputs/replay/report.html and summary.json.
    """
    from meguri.cli.story import Progress, tell
    from meguri.loop.project import Project
    from meguri.loop.replay import replay as replay_all

    if language not in ("en", "ja"):
        raise SettingsError(f"there is no report in '{language}'", where="--language", fix="en or ja")
    policies = dict(_policy(text) for text in when or [])
    opened = Project.open(project)
    start, end = clock.moment(since), clock.moment(until)
    with Progress(quiet=json) as progress:
        summary = replay_all(
            opened,
            since=start,
            until=end,
            step=clock.duration(step) if step else None,
            policies=policies,
            always=clock.duration(always) if always else None,
            score_from=clock.moment(score_from) if score_from else start,
            overrides=overrides or [],
            language="ja" if language == "ja" else "en",
            progress=progress,
        )
    show.dump(summary) if json else tell(summary, opened.outputs / "replay" / "report.html", Path.cwd())


def _policy(text: str) -> tuple[str, str]:
    from meguri.loop.trigger import parse

    name, equals, expression = text.partition("=")
    if not equals or not name.isidentifier() or name in ("loop", "never", "always"):
        raise SettingsError(
            f"'{text}' is no policy", where="--when", fix="write NAME=TRIGGERS, such as monthly=\"Every('30d')\""
        )
    parse(expression)
    return name, expression


def _now(text: str | None) -> datetime:
    return clock.moment(text) if text else clock.now()


def _turn_json(record: TurnRecord | None) -> dict[str, object] | None:
    if record is None:
        return None
    return {
        name: getattr(record, name)
        for name in ("id", "at", "reason", "status", "verdict", "release", "seconds", "detail")
    }


def _turn_line(record: TurnRecord) -> str:
    verdict = record.detail.get("verdict") or {}
    because = f" ({verdict['reason']})" if verdict.get("reason") else ""
    released = f"release {record.release} is live" if record.release else "nothing was released"
    if record.detail.get("worth"):
        from meguri.loop import worth
        from meguri.loop.words import Words

        money = worth.told(record.detail["worth"], Words("en"))
        because += f"\n  money: {money}" if money else ""
    odd = "".join(f"\n  worth a look: {finding}" for finding in record.detail.get("findings", []))
    return f"run {record.id}: {record.reason}\n  verdict: {record.verdict or 'none'}{because}\n  {released}; {record.seconds or 0:.1f} s{odd}"


def _tick_line(done: Tick) -> str:
    line = f"{done.at:%Y-%m-%d %H:%M}  {done.labels} labels came, {done.predictions} rows predicted; "
    if done.test is not None:
        line += f"an A/B test is decided, release {done.test} answers everyone; "
    return line + ("nothing to turn for" if done.turn is None else _turn_line(done.turn))
