"""Groups of commands whose file is imported when one of them is asked for: `meguri --help` needs only their names."""

from __future__ import annotations

import importlib
from functools import cached_property
from typing import Any

import typer
from typer.core import TyperGroup


def add_group(app: typer.Typer, name: str, help: str) -> None:
    """Add the group of ``meguri.cli.<name>``, whose ``add_to`` fills it."""
    kind = type(f"_{name}", (_Group,), {"module": f"meguri.cli.{name}"})
    app.add_typer(typer.Typer(cls=kind, help=help, no_args_is_help=True, rich_markup_mode=None), name=name)


class _Group(TyperGroup):
    module: str

    @cached_property
    def _whole(self) -> Any:
        group = typer.Typer(rich_markup_mode=None)
        group.callback()(lambda: None)  # a group, however few its commands
        importlib.import_module(self.module).add_to(group)
        return typer.main.get_command(group)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """The names of its commands, in the order of their file."""
        return list(self._whole.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """One of its commands, or None."""
        return self._whole.commands.get(cmd_name)
