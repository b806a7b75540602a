"""Commands for what is live: releases (list, show, diff), promote, rollback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from meguri.base import clock
from meguri.base.errors import ReleaseError
from meguri.base.files import read_json
from meguri.cli import show

if TYPE_CHECKING:
    from meguri.loop.project import Project

Outlet = Annotated[str | None, typer.Option("--outlet", help="One outlet (default: all of the project's).")]
Why = Annotated[str, typer.Option("--why", help="The reason, kept in the ledger.")]


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    group = typer.Typer(
        help="The releases: list them, show why one is live, compare two.", rich_markup_mode=None, no_args_is_help=True
    )
    group.command("list")(listing)
    group.command("show")(showing)
    group.command("diff")(diff)
    app.add_typer(group, name="releases")
    app.command()(promote)
    app.command()(rollback)


def listing(project: show.Folder = ".", json: show.Json = False) -> None:
    """List the releases, newest first, with what made them and which one is live."""
    opened = open_project(project)
    live = opened.champion()
    turns = {t.release: t for t in opened.ledger.turns() if t.release}
    rows: list[dict[str, Any]] = []
    for folder in sorted((opened.outputs / "releases").glob("*-*"), reverse=True):
        turn = turns.get(folder.name)
        rows.append(
            {
                "release": folder.name,
                "live": folder.name == live,
                "reason": turn.reason if turn else None,
                "verdict": turn.verdict if turn else None,
                "metrics": turn.detail["metrics"] if turn else {},
            }
        )
    if json:
        show.dump(rows)
    elif not rows:
        typer.echo("no release yet: meguri turn makes the first")
    else:
        cells = [
            (
                r["release"],
                "live" if r["live"] else "",
                r["verdict"],
                ", ".join(f"{k} {v:.4g}" for k, v in r["metrics"].items()),
                r["reason"],
            )
            for r in rows
        ]
        show.table("releases", ["release", "", "verdict", "metrics", "reason"], cells)


def showing(
    release: Annotated[str | None, typer.Argument(help="Its id (default: the live one).")] = None,
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Show a release: why it is (or was) live, what it was trained on, its verdict, and its rollouts."""
    opened = open_project(project)
    name = release or opened.champion()
    if name is None:
        raise ReleaseError("no release is live yet", where=opened.root, fix="meguri turn")
    manifest = _manifest(opened, name)
    turn = next((t for t in opened.ledger.turns() if t.release == name), None)
    rollouts = [{"at": r.at, "why": r.why, "by": r.by} for r in opened.ledger.rollouts("table") if r.champion == name]
    verdict = (turn.detail.get("verdict") or {}) if turn else {}
    known: dict[str, Any] = {
        "release": name,
        "live": name == opened.champion(),
        "why": rollouts[-1]["why"] if rollouts else None,
        "verdict": f"{verdict['result']}: {verdict['reason']}" if verdict else None,
        "format": manifest.get("format"),
        "trained until": manifest.get("trained_until"),
        "data version": manifest.get("data_version"),
        "commit": manifest.get("commit"),
        "notes": "; ".join(manifest.get("notes", [])) or None,
    }
    if json:
        show.dump(
            {**known, "metrics": turn.detail["metrics"] if turn else {}, "rollouts": rollouts, "manifest": manifest}
        )
        return
    show.facts({**known, **({f"test {k}": v for k, v in turn.detail["metrics"].items()} if turn else {})})
    show.table("rollouts", ["at", "by", "why"], [(r["at"], r["by"], r["why"]) for r in rollouts])


def diff(
    old: Annotated[str, typer.Argument(help="A release.")],
    new: Annotated[str, typer.Argument(help="Another.")],
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Say what changed between two releases: code, data, settings, parameters, metrics."""
    opened = open_project(project)
    before, after = (_account(opened, name) for name in (old, new))
    changed = {k: [before.get(k), after.get(k)] for k in sorted({*before, *after}) if before.get(k) != after.get(k)}
    if json:
        show.dump(changed)
    elif not changed:
        typer.echo("nothing differs")
    else:
        show.table("what differs", ["", old, new], [(k, *v) for k, v in changed.items()])


def promote(
    release: Annotated[str, typer.Argument(help="The release to put live.")],
    outlet: Outlet = None,
    why: Why = "by hand",
    project: show.Folder = ".",
) -> None:
    """Put a release live, after its hashes and answers were verified; the rollout is kept with the reason."""
    from meguri.record import rollout

    opened = open_project(project)
    opened.release(release)
    for name in opened.outlets if outlet is None else [outlet]:
        rollout.promote(opened.ledger, name, release, at=clock.now(), why=why, by=who())
        if name == "table":
            opened.tracking.alias("champion", release)
        typer.echo(f"release {release} is live in '{name}'")


def rollback(outlet: Outlet = None, why: Why = "by hand", project: show.Folder = ".") -> None:
    """Go back to the release that was live before this one, after it was verified; again goes further back."""
    from meguri.record import rollout

    opened = open_project(project)
    targets = {name: rollout.previous(opened.ledger, name) for name in (opened.outlets if outlet is None else [outlet])}
    for target in set(targets.values()):
        opened.release(target)
    for name, target in targets.items():
        rollout.rollback(opened.ledger, name, at=clock.now(), why=why, by=who())
        if name == "table":
            opened.tracking.alias("champion", target)
        typer.echo(f"release {target} is live in '{name}'")


def open_project(project: str) -> Project:
    """The project in a folder."""
    from meguri.loop.project import Project

    return Project.open(project)


def _manifest(project: Project, name: str) -> dict[str, Any]:
    """The manifest alone: to look at a release costs less than to load it."""
    path = project.outputs / "releases" / name / "manifest.json"
    if not path.is_file():
        project.release(name)  # says which ones there are, or what is missing
    manifest: dict[str, Any] = read_json(path)
    return manifest


def _account(project: Project, name: str) -> dict[str, Any]:
    """What a release was made of, flat."""
    from meguri.loop.turn import flat
    from meguri.record.run import Run

    manifest = _manifest(project, name)
    kept = {k: manifest.get(k) for k in ("commit", "data_version", "trained_until", "format")}
    run = Run.load(project.outputs, name)
    params = read_json(run.folder / "params.json") if (run.folder / "params.json").is_file() else {}
    turn = next((t for t in project.ledger.turns() if t.id == name), None)
    return {
        **kept,
        "lock": run.lock_hash,
        **{f"settings.{k}": v for k, v in flat(run.settings).items()},
        **{f"params.{k}": v for k, v in (params or {}).items()},
        **{f"test.{k}": v for k, v in (turn.detail["metrics"] if turn else {}).items()},
    }


def who() -> str:
    """Who runs this command."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
