"""Commands that make projects and bring them up to date: new, update."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from meguri.base.errors import MeguriError, ProjectError
from meguri.cli import show

Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Let a template of your own run its commands (Copier's tasks, Cookiecutter's hooks). Read them first.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    for command in (new, update):
        app.command()(command)


def new(
    target: Annotated[
        Path,
        typer.Argument(help="The folder to make, such as sales; its name is the project's name.", metavar="FOLDER"),
    ],
    *,
    name: Annotated[str | None, typer.Option("--name", help="The project's name, if it is not the folder's.")] = None,
    task: Annotated[
        Literal["classification", "regression"] | None,
        typer.Option("--task", help="What the model answers: a class or a number (default: classification)."),
    ] = None,
    lock: Annotated[
        Literal["uv", "poetry", "pipenv"] | None,
        typer.Option(
            "--lock", help="The tool that locks the versions of all packages (default: uv, by far the fastest)."
        ),
    ] = None,
    language: Annotated[
        Literal["en", "ja"] | None,
        typer.Option("--language", help="The language of the project's README (default: en)."),
    ] = None,
    outlet: Annotated[
        list[str] | None,
        typer.Option("--outlet", help="A way out for predictions; may be given again (default: table)."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            help="A template of your own, by path or git URL: Copier's (has copier.yml) or Cookiecutter's (has cookiecutter.json).",
        ),
    ] = None,
    answer: Annotated[
        list[str] | None,
        typer.Option(
            "--answer", help="An answer to a question of your own template; may be given again.", metavar="KEY=VALUE"
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing: the default for whatever no option says.")
    ] = False,
    trust: Trust = False,
    json: show.Json = False,
) -> None:
    """Make a project that works at once: `meguri new sales && cd sales && make run`.

    It begins on a small real data set. You make it yours in src/repository (schema.py: what a row is; data_manager.py: where rows come
    from) and src/models. What no option says is asked, on a terminal; with --yes the defaults are taken.
    """
    from meguri.loop import scaffold

    answers: dict[str, Any] = {
        "name": name or _name(target),
        "task": task,
        "lock": lock,
        "language": language,
        "outlets": outlet,
    }
    answers = {key: value for key, value in answers.items() if value}
    if unknown := set(outlet or []) - {"table"}:
        raise ProjectError(f"there is no outlet '{unknown.pop()}'", where="--outlet", fix="outlets: table")
    for text in answer or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise ProjectError(f"'{text}' is no answer", where="--answer", fix="write KEY=VALUE")
        answers[key] = value
    ask = not yes and not json and sys.stdin.isatty()
    made = scaffold.new(target, answers, template, ask=ask, trust=trust)
    if not json:
        typer.echo(f"made {target}")
    trouble = None if template else _lock(made, quiet=json)
    if json:
        show.dump({"project": made, "locked": template is None and trouble is None, "trouble": trouble})
        return
    if trouble:
        typer.echo(f"warning: {trouble}", err=True)
    steps = [(f"cd {shlex.quote(str(target))}", "")]
    if template is None:
        steps += [("make lock", "lock the packages")] if trouble else []
        steps += [
            ("make run", "make .venv, then turn the loop once on a small real data set"),
            ("make test", "the project's own tests"),
            ("README.md", "what is where, and how to make it yours"),
        ]
    typer.echo("\n".join(["next:", *(f"  {step:<11}{what}".rstrip() for step, what in steps)]))


def update(project: show.Folder = ".", trust: Trust = False, json: show.Json = False) -> None:
    """Bring a project up to the newest template, by a three-way merge: what the template changed comes in, what you changed stays.

    Needs git, with everything committed. The result is staged for you to look at (git diff --cached) and to commit. When both sides
    changed the same lines the exit code is 1, the files in conflict are listed, and git refuses to commit until they are settled.
    Run it with the newer Meguri (not the one in the project's own .venv).
    """
    from meguri.loop import scaffold

    folder = Path(project)
    done = scaffold.update(folder, trust=trust)
    trouble = (
        _lock(folder, quiet=json) if done.relock and not done.conflicts and (folder / "Makefile").is_file() else None
    )
    if json:
        show.dump({"changed": done.changed, "conflicts": done.conflicts, "trouble": trouble})
    else:
        for path in done.changed:
            kind = "conflict" if path in done.conflicts else "merged" if (folder / path).exists() else "removed"
            typer.echo(f"  {kind:<8}  {path}")
        if not done.changed:
            typer.echo("up to date")
    if trouble:
        typer.echo(f"warning: {trouble}", err=True)
    if done.conflicts:
        count = len(done.conflicts)
        raise ProjectError(
            f"you and the template changed the same lines in {count} file{'s' if count > 1 else ''}",
            where=", ".join(done.conflicts),
            fix="edit them, from <<<<<<< (yours) to >>>>>>> (the template's), then: git add FILE…, make lock, make test, git commit.\n"
            "         To take the whole update back: git reset --merge",
        )
    if done.changed and not json:
        typer.echo(
            "next: look at it (git diff --cached), make test, then git commit -a. To take it back: git reset --hard"
        )


def _name(target: Path) -> str:
    """The folder's name as a package may be named."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", target.resolve().name).strip("-_")
    if not re.match(r"[A-Za-z]", name):
        raise ProjectError(
            f"'{target.name}' cannot be the project's name as well",
            where=target,
            fix="give one in letters: --name NAME",
        )
    return name


def _lock(project: Path, *, quiet: bool) -> str | None:
    """Lock the packages, telling that it takes a while; what went wrong, if anything did."""
    from meguri.loop import scaffold

    if not quiet:
        typer.echo("locking the packages (make lock); it may take a minute or two …", err=True)
    try:
        scaffold.lock(project)
    except MeguriError as error:
        return str(error)
    return None
