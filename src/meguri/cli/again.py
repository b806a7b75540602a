"""Commands about past runs: rerun one, list and compare them, trace where a prediction came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meguri.base import clock
from meguri.cli import show

if TYPE_CHECKING:
    from meguri.loop.compare import Comparison, Stage

MARK = {"same": "same", "close": "within tolerance", "differs": "differs", "unknown": "not known"}


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(rerun)
    group = typer.Typer(
        help="The runs: list them, or say what changed between two.", rich_markup_mode=None, no_args_is_help=True
    )
    group.command("list")(listing)
    group.command("diff")(diff)
    app.add_typer(group, name="runs")
    app.command()(trace)


def rerun(
    run: Annotated[str, typer.Argument(help="The run to do again; meguri runs list shows them.")],
    present: Annotated[
        list[str] | None,
        typer.Option(
            "--present",
            help="Take this part as it is now, not as it was then: code, data or settings. May be given again.",
            metavar="PART",
        ),
    ] = None,
    env: Annotated[
        bool, typer.Option("--env", help="Build the environment of the run's lock, and run in it. Takes minutes.")
    ] = False,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", help="How far a score or metric may be off: absolute up to 1, relative above."),
    ] = 1e-6,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep what the rerun made, in outputs/reruns, to look at it.")
    ] = False,
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Do a past run again, from its code, data, settings and seed, and compare what comes out with what came out then.

    Nothing that is live is touched. The exit code is 0 when the results are the same, or the same within the tolerance, and 1 when
    they differ.
    """
    from meguri.loop.project import Project
    from meguri.loop.rerun import rerun as run_again

    found = run_again(
        Project.open(project),
        run,
        present=present or [],
        env=env,
        tolerance=tolerance,
        keep=keep,
        say=lambda step: None if json else typer.echo(f"{step} …"),
    )
    show.dump(found.to_dict()) if json else _tell(found)
    if found.verdict == "differs":
        raise typer.Exit(1)


def _tell(found: Comparison) -> None:
    rows = [row for stage in found.stages for row in _side_by_side(stage)]
    show.table(f"run {found.run}", ["", "then", "now", "", "what"], rows)
    for note in found.notes:
        typer.echo(f"note: {note}")
    if found.failed:
        typer.echo(f"failed: {found.failed}")
    first = found.first
    lead = "; the first place: " if found.verdict == "differs" else ", though not in "
    typer.echo(found.verdict + (f"{lead}{first.name} ({first.detail})" if first else ""))
    if found.folder:
        typer.echo(f"kept in {found.folder}")


def _side_by_side(stage: Stage) -> list[tuple[object, ...]]:
    """A line for a stage, and one for each thing that is known of it then and now."""
    then, now, end = stage.then, stage.now, (MARK[stage.state], stage.detail or None)
    if not isinstance(then, dict) and not isinstance(now, dict):
        return [(stage.name, *(None if side is None else str(side)[:12] for side in (then, now)), *end)]
    sides = [side if isinstance(side, dict) else {} for side in (then, now)]
    names = list(dict.fromkeys([*sides[0], *sides[1]]))
    if len(names) == 1:
        return [(stage.name, *(_number(side.get(names[0])) for side in sides), *end)]
    each = [(f"  {name}", *(_number(side.get(name)) for side in sides), None, None) for name in names]
    return [(stage.name, None, None, *end), *each]


def _number(value: object) -> object:
    """A number with all the digits that tell two apart within the tolerance."""
    return f"{value:.8g}" if isinstance(value, float) else value


def listing(project: show.Folder = ".", json: show.Json = False) -> None:
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


def diff(
    old: Annotated[str, typer.Argument(help="A run.")],
    new: Annotated[str, typer.Argument(help="Another.")],
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Say what changed between two runs, code, data, settings, packages, and what that did to the metrics, slice by slice."""
    from meguri.loop.changes import changes
    from meguri.loop.project import Project

    found = changes(Project.open(project), old, new)
    if json:
        show.dump(found)
        return
    code, data, shared = found["code"], found["data"], found["shared"]
    cells: list[tuple[object, ...]] = []
    if code:
        marks = [" + uncommitted" if dirty else "" for dirty in code["uncommitted"]]
        cells.append(("commit", *(f"{(c or 'no git')[:12]}{m}" for c, m in zip(code["commits"], marks, strict=True))))
    if data:
        cells.append(("data", *(None if v is None else v[:12] for v in data["versions"])))
        cells.append(("data: rows", *data["rows"]))
        cells.append(("data: times", *(None if t is None else f"{t[0][:10]} to {t[1][:10]}" for t in data["times"])))
    for part in ("settings", "packages", "params"):
        cells += [(f"{part}: {name}", *pair) for name, pair in (found[part] or {}).items()]
    if cells:
        show.table("what changed", ["", old, new], cells)
    else:
        typer.echo("nothing changed: the same code, data, settings, packages and parameters")
    if code and (code["stat"] or code["files"]):
        typer.echo(code["stat"] or "files that changed: " + ", ".join(code["files"]))
    if data and data["changed"]:
        typer.echo(f"data: {data['changed']}")
    _tell_metrics(found["metrics"], shared, old, new)


def _tell_metrics(own: dict[str, Any] | None, shared: dict[str, Any] | None, old: str, new: str) -> None:
    head = ["metric", old, new, "change"]
    if own and not shared:
        show.table("metrics, each on its own test rows: they share none", head, _metrics(own["then"], own["now"]))
    if not shared:
        return
    title = f"metrics, on the {shared['rows']:,} rows that both tested"
    show.table(title, head, _metrics(shared["metrics"]["then"], shared["metrics"]["now"]))
    metric = shared["gate"]["metric"]
    for name, values in shared["slices"].items():
        cells = [
            (v, a["rows"], a.get(metric), b.get(metric), _gap(a.get(metric), b.get(metric)))
            for v, (a, b) in values.items()
        ]
        show.table(f"{metric} by {name}", [name, "rows", old, new, "change"], cells)
    typer.echo(f"{shared['gate']['reason']} (paired; this is no verdict, and uses up no test set)")


def _metrics(then: dict[str, Any] | None, now: dict[str, Any] | None) -> list[tuple[object, ...]]:
    then, now = then or {}, now or {}
    names = dict.fromkeys([*then, *now])
    return [(name, then.get(name), now.get(name), _gap(then.get(name), now.get(name))) for name in names]


def _gap(then: float | None, now: float | None) -> str | None:
    return None if then is None or now is None else f"{now - then:+.3g}"


def trace(
    name: Annotated[
        str,
        typer.Argument(help="A prediction id, a key, a run, a release, or the beginning of a data version or commit."),
    ],
    rows: Annotated[
        int, typer.Option("--rows", help="Name so many prediction ids of each release, the latest; -1 for all.")
    ] = 0,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the picture as a page, whole in one file.")
    ] = None,
    lang: Annotated[str, typer.Option("--lang", help="The language of the page: en or ja.")] = "en",
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Say where something came from, back to its release, run, commit, data and quarantine, and what came of it."""
    from meguri.loop import lineage
    from meguri.loop.lineage_draw import draw, write_lineage
    from meguri.loop.project import Project
    from meguri.loop.words import Words

    words = Words(lang)
    found = lineage.trace(Project.open(project), name, rows=rows)
    if html is not None:
        write_lineage(html, found, created=clock.now(), words=words)
    show.dump(found.to_dict()) if json else typer.echo(draw(found))
    if html is not None and not json:
        typer.echo(f"page: {html}")
