"""Commands that look at data: its profile, a contract suggested from it, what has changed between two tables."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meguri.base import clock
from meguri.base.errors import DataError, ProjectError, SettingsError
from meguri.cli import show

if TYPE_CHECKING:
    from meguri.data.diff import Diff
    from meguri.data.statistics import Column
    from meguri.loop.project import Project
    from meguri.loop.words import Language

Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a page for people, whole in one file.")
]
Lang = Annotated[str, typer.Option("--lang", help="Language of the page: en or ja.")]


def add_to(data: typer.Typer) -> None:
    """Add this file's commands to the group ``data``."""
    for command in (profile, suggest, diff):
        data.command()(command)


def profile(
    table: Annotated[
        str | None,
        typer.Argument(help="A Parquet or CSV file, a table of the warehouse, or a version (default: the last rows)."),
    ] = None,
    html: Html = None,
    lang: Lang = "en",
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Count what each column holds, in one pass: types, missing and different values, range, quantiles, commonest values."""
    from meguri.data import statistics
    from meguri.loop.data_sides import rows_of, side

    _language(lang)
    opened = _project(project)
    if table is None:
        if opened is None:
            raise DataError("this is no project, so a table is needed", fix="meguri data profile FILE")
        found, title = statistics.profile(rows_of(opened)), "data/rows.parquet"
    else:
        with side(opened, table, now=clock.now()) as given:
            if isinstance(given, dict):
                raise DataError("training is kept as a sketch, not as rows", fix="name the run of the release")
            found, title = statistics.profile(given), Path(table).name
    if html is not None:
        from meguri.loop.data_report import write_profile

        write_profile(html, found, title=title, created=clock.now(), language=_language(lang))
    if json:
        show.dump(found.to_dict())
    else:
        show.table(f"{title}: {found.rows:,} rows", _HEADS, [_line(column) for column in found.columns.values()])
        _say_page(html)


_HEADS = ["column", "type", "missing", "distinct", "min", "median", "max", "mean", "commonest"]


def _line(one: Column) -> tuple[object, ...]:
    near = "≈" if "distinct" in one.approximate else ""
    common = ", ".join(f"{str(value)[:16]} {n / one.rows:.0%}" for value, n in one.commonest[:3] if n >= one.rows / 100)
    times = one.kind == "time"
    low, middle, high = (_short(value, times) for value in (one.min, one.quantiles.get("0.5"), one.max))
    distinct = None if one.distinct is None else f"{near}{one.distinct:,}"
    mean = one.mean if one.kind == "number" else None
    return (
        one.name,
        one.type,
        f"{one.missing:.1%}",
        distinct,
        low,
        middle,
        high,
        mean,
        (None if times else common) or None,
    )


def _short(value: Any, time: bool) -> Any:
    return value[:16].replace("T", " ") if time and isinstance(value, str) else value


def suggest(
    file: Annotated[Path | None, typer.Argument(help="The Parquet or CSV file to look at.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write it, such as src/repository/schema.py.")
    ] = None,
    tfdv: Annotated[
        Path | None, typer.Option("--tfdv", metavar="FILE", help="Take TensorFlow Data Validation's schema.pbtxt.")
    ] = None,
    to_tfdv: Annotated[
        Path | None, typer.Option("--to-tfdv", metavar="FILE", help="Write the project's contract as a schema.pbtxt.")
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option("--key", help="A column of the key; may be given several times.")
    ] = None,
    time: Annotated[str | None, typer.Option("--time", help="The column that says when a row is known.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="The column to predict.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    project: show.Folder = ".",
) -> None:
    """Write a contract (schema.py) from what the data looks like, for a person to edit; or convert TFDV's schema.pbtxt."""
    from meguri.base.files import write_atomic

    if sum(given is not None for given in (file, tfdv, to_tfdv)) != 1:
        raise SettingsError("one thing at a time", fix="give a file of data, --tfdv FILE or --to-tfdv FILE")
    for target in (out, to_tfdv):
        if target is not None and target.exists() and not force:
            raise DataError("a file is there already", where=target, fix="name another, or add --force")
    if to_tfdv is not None:
        from meguri.data import tfdv as schemas
        from meguri.loop.project import Project

        text, lost = schemas.export(Project.open(project).contract)
        write_atomic(to_tfdv, text)
        typer.echo(f"written to {to_tfdv}" + ("; TFDV cannot say:" if lost else ""))
        for one in lost:
            typer.echo(f"  {one}")
        return
    parts: dict[str, Any] = {"key": key or (), "time": time, "label": label}
    if tfdv is not None:
        from meguri.data import tfdv as schemas

        try:
            text = schemas.draft(tfdv.read_text(encoding="utf-8"), tfdv.stem, **parts).python()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the schema cannot be read: {error}", where=tfdv, fix="give a schema.pbtxt") from error
    elif file is not None:
        from meguri.data import statistics
        from meguri.data import suggest as drafts

        text = drafts.suggest(statistics.scan(file), file.stem, **parts).python()
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(out, text)
        typer.echo(f"written to {out}: read it, and edit what is a guess")


def diff(
    old: Annotated[
        str,
        typer.Argument(
            metavar="A", help="A file, a version, a run, a period FROM..TO, training, or a warehouse's table."
        ),
    ],
    new: Annotated[str, typer.Argument(metavar="B", help="The same, or serving: what predictions were made from.")],
    since: Annotated[str | None, typer.Option("--since", help="From when on serving counts: a time, or 14d.")] = None,
    alpha: Annotated[
        float, typer.Option("--alpha", help="In what share of comparisons of equal data a change may be claimed.")
    ] = 0.01,
    fail: Annotated[
        bool, typer.Option("--fail", help="Exit with 1 when a column drifted, is gone or has another type.")
    ] = False,
    html: Html = None,
    lang: Lang = "en",
    project: show.Folder = ".",
    json: show.Json = False,
) -> None:
    """Say what changed from table A to table B: columns, volume, missing values, and drift beyond what chance explains."""
    from meguri.data import diff as diffs
    from meguri.loop.data_sides import side

    language = _language(lang)
    if not 0 < alpha < 0.5:
        raise SettingsError(f"an alpha of {alpha:g} is impossible", where="--alpha", fix="0.01 is usual")
    now = clock.now()
    begin = None if since is None else _since(since, now)
    opened = _project(project)
    with side(opened, old, now=now, since=begin) as before, side(opened, new, now=now, since=begin) as after:
        names = (_name(old), _name(new))
        found = diffs.diff(_whole(before), _whole(after), names=names, alpha=alpha)
    if html is not None:
        from meguri.loop.data_report import write_diff

        write_diff(html, found, created=now, language=language)
    if json:
        show.dump(found.to_dict())
    else:
        _tell(found, language)
        _say_page(html)
    if fail and found.drifted:
        raise typer.Exit(1)


def _tell(found: Diff, language: Language) -> None:
    from meguri.loop.data_report import summary

    typer.echo(summary(found, language))
    heads = ["column", "verdict", "type", "missing", "mean", "PSI (chance)", "KS (chance)", "JS (chance)", "p"]
    lines = []
    for one in found.changes:
        shift, sides = one.shift, [side for side in (one.old, one.new) if side]
        types, missing = ([side["type"] for side in sides], [f"{side['missing']:.1%}" for side in sides])
        means = [f"{side['mean']:.4g}" for side in sides if isinstance(side.get("mean"), int | float)]
        pairs = [(shift.psi, shift.psi_noise), (shift.ks, shift.ks_noise), (shift.js, shift.js_noise)] if shift else []
        told = ["–" if value is None or noise is None else f"{value:.3f} ({noise:.3f})" for value, noise in pairs]
        arrows = (" → ".join(dict.fromkeys(parts)) or None for parts in (types, missing, means))
        lines.append([one.name, one.state, *arrows, *(told or ["–"] * 3), None if one.p is None else f"{one.p:.2g}"])
    show.table(f"{found.old} → {found.new}", heads, lines)


def _whole(given: Any) -> Any:
    """A warehouse's batches as one table: a comparison reads its columns one by one."""
    if not hasattr(given, "__next__"):
        return given
    import polars as pl

    return pl.concat(list(given))


def _since(text: str, now: datetime) -> datetime:
    """A moment, or one so long ago."""
    try:
        return now - clock.duration(text)
    except SettingsError:
        return clock.moment(text)


def _name(text: str) -> str:
    path = Path(text)
    return path.name if path.exists() else text if len(text) < 32 else text[:8]


def _project(folder: str) -> Project | None:
    from meguri.loop.project import Project

    try:
        return Project.open(folder)
    except ProjectError:
        return None


def _language(text: str) -> Language:
    if text == "ja":
        return "ja"
    if text == "en":
        return "en"
    raise SettingsError(f"the page cannot be written in '{text}'", where="--lang", fix="choose en or ja")


def _say_page(path: Path | None) -> None:
    if path is not None:
        typer.echo(f"page: {path}")
