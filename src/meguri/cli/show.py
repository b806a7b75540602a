"""How commands print: tables for people, JSON for machines."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

SHORT = 24  # a longer cell may be folded
WIDE = 140  # columns, where the output is no terminal

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a machine to read.")]
Folder = Annotated[str, typer.Option("--project", "-p", help="The project's folder.")]


def dump(value: Any) -> None:
    """Print a value as one JSON document; moments and paths as text, numbers that JSON cannot say as null."""
    typer.echo(json.dumps(_finite(value), indent=2, ensure_ascii=False, default=str, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows as a table as wide as the terminal; numbers to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[place], int | float | None) for row in rows)
        long = max((len(text(row[place])) for row in rows), default=0) > SHORT
        drawn.add_column(
            column, justify="right" if numeric else "left", overflow="fold", no_wrap=not long, ratio=1 if long else None
        )
    for row in rows:
        drawn.add_row(*(Text(text(cell)) for cell in row))
    terminal = sys.stdout.isatty()
    Console(width=None if terminal else WIDE).print(drawn)


def text(value: object) -> str:
    """A cell: nothing as a dash, floats to four places, moments to the minute."""
    from datetime import datetime

    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return str(value)


def facts(values: Mapping[str, object]) -> None:
    """Print names and values, one a line, the names padded."""
    width = max(map(len, values))
    for name, value in values.items():
        typer.echo(f"{name:<{width}}  {text(value)}")
