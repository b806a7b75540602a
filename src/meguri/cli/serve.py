"""Commands of the REST outlet: serve it, and say which releases answer what share."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from meguri.base import clock
from meguri.base.errors import SettingsError
from meguri.cli import show
from meguri.cli.releases import Why, open_project, who

Outlet = Annotated[str, typer.Option("--outlet", help="The outlet: rest or table.")]


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(serve)
    app.command()(rollout)


def serve(
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that share the port.")] = 1,
    tokens: Annotated[
        Path | None, typer.Option("--tokens", help="The file of tokens (default: outputs/tokens.json, made at first).")
    ] = None,
    open_to_all: Annotated[
        bool, typer.Option("--no-token", help="Ask for no token: anyone who reaches it may.")
    ] = False,
    unwritten: Annotated[
        bool,
        typer.Option("--no-ledger", help="Write no answer down: for load tests, as nothing can be learnt from it."),
    ] = False,
    certificate: Annotated[Path | None, typer.Option("--certificate", help="For TLS: the certificate, PEM.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="For TLS: its key, PEM.")] = None,
    project: show.Folder = ".",
) -> None:
    """Serve the live releases over HTTP: rows in, answers out, each in the ledger before it leaves."""
    from meguri.outlets.rest import server
    from meguri.outlets.rest import tokens as kept
    from meguri.outlets.rest.options import Options
    from meguri.record.ledger import open_ledger

    opened = open_project(project)
    settings = dict(opened.plain_settings()["outlets"].get("rest") or {})
    spool = str(opened.outputs / "spool") if settings.pop("unwritten", "refuse") == "spool" else None
    file = None if open_to_all else (tokens or opened.outputs / "tokens.json").resolve()
    if file is not None and tokens is None:
        kept.make(file)
    if file is not None:
        kept.read(file)
    server.check(host, port, certificate, key)
    if opened.has_features and find_spec("polars") is None:  # told here, not by each worker
        from meguri.outlets.rest import fill

        fill.read(opened.root)
    options = Options(
        ledger=opened.ledger_url,
        releases=str(opened.outputs / "releases"),
        tokens=None if file is None else str(file),
        spool=spool,
        project=str(opened.root) if opened.has_features else None,
        written=not unwritten,
        **settings,
    )
    open_ledger(opened.ledger_url).close()  # one that cannot be used is told here, not by each worker
    scheme = "http" if certificate is None else "https"
    typer.echo(f"serving on {scheme}://{host}:{port}; tokens: {file or 'none are asked for'}")
    if unwritten:
        typer.echo("no answer is written to the ledger (--no-ledger)")
    server.serve(options, host=host, port=port, workers=workers, certificate=certificate, key=key)


def rollout(
    challenger: Annotated[
        list[str] | None,
        typer.Option("--challenger", help="RELEASE=SHARE, such as 20240301-000000-1a2b=0.1; again for more."),
    ] = None,
    shadow: Annotated[
        list[str] | None, typer.Option("--shadow", help="A release that is asked, but never answers.")
    ] = None,
    champion: Annotated[
        str | None, typer.Option("--champion", help="The release of all others (default: the live one).")
    ] = None,
    outlet: Outlet = "rest",
    why: Why = "by hand",
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Show which releases answer what share of the traffic, or set it: the champion gets what challengers leave."""
    from dataclasses import asdict

    from meguri.record import rollout as rollouts

    opened = open_project(project)
    now = rollouts.current(opened.ledger, outlet)
    if challenger is None and shadow is None and champion is None:
        if json:
            show.dump(None if now is None else asdict(now))
        elif now is None:
            typer.echo(f"nothing is live in the outlet '{outlet}' yet: meguri rollout --champion RELEASE")
        else:
            show.table(f"live in '{outlet}' since {now.at:%Y-%m-%d %H:%M}", ["release", "arm", "share"], _lines(now))
            typer.echo(f"why: {now.why} (by {now.by})")
        return
    first = champion or (now.champion if now else opened.champion())
    if first is None:
        raise SettingsError(
            f"nothing is live in the outlet '{outlet}' yet", where="meguri rollout", fix="name it: --champion RELEASE"
        )
    shares = dict(_share(one) for one in challenger or [])
    for name in [first, *shares, *(shadow or [])]:
        opened.release(name)
    made = rollouts.promote(
        opened.ledger, outlet, first, at=clock.now(), why=why, by=who(), challengers=shares, shadow=shadow or []
    )
    if json:
        show.dump(asdict(made))
    else:
        show.table(f"live in '{outlet}'", ["release", "arm", "share"], _lines(made))


def _lines(now: object) -> list[tuple[str, str, float]]:
    from meguri.record.ledger import Rollout

    assert isinstance(now, Rollout)
    rest = 1 - sum(now.challengers.values())
    others = [(name, "challenger", share) for name, share in now.challengers.items()]
    return [(now.champion, "champion", rest), *others, *((name, "shadow", 0.0) for name in now.shadow)]


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    try:
        return name, float(share)
    except ValueError:
        raise SettingsError(f"'{text}' is no challenger", where="--challenger", fix="write RELEASE=0.1") from None
