"""The command line: ``meguri``, one file for each group of commands, each importing what it needs when it runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from meguri import __version__
from meguri.base.errors import MeguriError
from meguri.base.extras import missing, optional
from meguri.cli import again, look, new, releases, serve, turns
from meguri.cli.lazy import add_group

app = typer.Typer(
    name="meguri",
    no_args_is_help=True,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for module in (new, turns, again, releases, serve, look):
    module.add_to(app)
add_group(app, "data", "The data: described, compared, versioned, and what broke the contract.")
add_group(app, "ab", "A/B tests: a challenger beside the champion.")
add_group(app, "ledger", "The ledger: forget what is old, and see to what could not be settled.")
add_group(app, "features", "Features: as of the moment of the prediction.")


@app.callback()
def meguri(
    version: Annotated[bool, typer.Option("--version", help="Print the version, and leave.", is_eager=True)] = False,
) -> None:
    """Meguri closes the loop of a machine-learning product: data, training, gate, release, outlet, ledger, and back.

    Begin with `meguri new NAME`, then in the project `make run`. `meguri COMMAND --help` explains each command.
    """
    if version:
        typer.echo(f"meguri {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; an error that a person can act on is told on stderr, and the exit code is 1."""
    try:
        app()
    except MeguriError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except ModuleNotFoundError as error:
        if not optional(error):
            raise
        print(f"error: {missing(error)}", file=sys.stderr)
        raise SystemExit(1) from None
