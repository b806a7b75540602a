"""The group ``meguri data``: check, profile, suggest, diff, quarantine, versions, get."""

from __future__ import annotations

import typer

from meguri.cli import data_check, data_quarantine, data_stats, data_versions


def add_to(data: typer.Typer) -> None:
    """Add each file's commands."""
    for module in (data_check, data_stats, data_quarantine, data_versions):
        module.add_to(data)
