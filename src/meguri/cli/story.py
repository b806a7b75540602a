"""What a replay prints: how far it is, and at the end the story."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import typer

from meguri.cli import show


class Progress:
    """A bar for each policy on a terminal; elsewhere a line a month."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._months: dict[str, str] = {}
        self._tasks: dict[str, Any] = {}
        self._bars: Any = None
        if not quiet and sys.stdout.isatty():
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = [
                TextColumn("{task.description:<8}"),
                BarColumn(),
                TextColumn("{task.fields[at]}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[doing]}"),
            ]
            self._bars = Progress(*columns)

    def __enter__(self) -> Progress:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def __call__(self, policy: str, at: datetime, share: float, doing: str) -> None:
        """Show that ``policy`` has come to the moment ``at``, ``share`` of its way, and what it does there."""
        if self._bars:
            if policy not in self._tasks:
                self._tasks[policy] = self._bars.add_task(policy, total=1.0, at="", doing="")
            self._bars.update(self._tasks[policy], completed=share, at=f"{at:%Y-%m-%d}", doing=doing)
        elif not self._quiet and self._months.get(policy) != f"{at:%Y-%m}":
            self._months[policy] = f"{at:%Y-%m}"
            typer.echo(f"{policy}: {at:%Y-%m}")


def tell(summary: dict[str, Any], report: Path, here: Path) -> None:
    """Print the story of a replay: its turns, the policies beside each other, and where the report is."""
    from meguri.loop.story import METRICS

    turns = [
        (t["time"][:16].replace("T", " "), t["reason"], t["verdict"], t["release"], t["seconds"])
        for t in summary["turns"]
    ]
    show.table("turns of the loop", ["at", "reason", "verdict", "release", "seconds"], turns)
    names = [name for name, value in summary.items() if isinstance(value, dict) and "months" in value]
    usual = ("value", *METRICS[summary["task"]], summary["metric"])
    metrics = [m for m in dict.fromkeys(usual) if m in summary["loop"]]
    lines = [
        (n, *(summary[n].get(m) for m in metrics), summary[n]["turns"], summary[n]["releases"], summary[n]["seconds"])
        for n in names
    ]
    heads = [f"value, {summary['currency']}" if m == "value" else m for m in metrics]
    show.table("live metrics, and what they cost", ["policy", *heads, "turns", "releases", "seconds of turns"], lines)
    quarantined = sum(summary["quarantined"].values())
    typer.echo(
        f"{summary['predictions']} predictions, {summary['labels']} with their label; {quarantined} rows quarantined"
    )
    typer.echo(f"report: {report.relative_to(here) if report.is_relative_to(here) else report}")
