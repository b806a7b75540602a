"""What a replay showed, as the report tells it: the policies, their turns, labels, quarantine and drift."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

if TYPE_CHECKING:
    from meguri.loop.lineage import Node

METRICS = {"binary": ("auc", "log_loss"), "multiclass": ("accuracy", "brier"), "regression": ("mae", "rmse")}


@dataclass(frozen=True)
class TurnLine:
    """One turn as the report tells it.

    ``verdict`` is pass, fail, unsure, or None where nothing was judged; ``gain`` with its interval is in the unit of
    the story's metric; ``release`` is the release that went live, None if none did; ``rows`` are those compared.
    """

    time: datetime
    reason: str
    verdict: str | None = None
    verdict_reason: str = ""
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    release: str | None = None
    seconds: float = 0.0
    rows: int | None = None

    @property
    def kind(self) -> str:
        """released, refused, unsure or failed."""
        if self.release is not None:
            return "released"
        return {"fail": "refused", "unsure": "unsure"}.get(self.verdict or "", "failed")


@dataclass(frozen=True)
class PolicyResult:
    """What one way of running the loop led to.

    ``predictions`` are the matured ones: time, score, label (0 or 1, for multiclass whether the answer was right; the
    value for regression; null where none came), release. ``metrics`` (of the whole replay) and ``months`` hold metric
    name -> value, None where it cannot be computed, and ``rows``, those labelled. A month is "2013-04"; a shorter
    period is named by its first day, "2013-04-15".
    """

    predictions: pl.DataFrame
    turns: Sequence[TurnLine] = ()
    seconds: float = 0.0
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    months: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Story:
    """A replay's result, the input of the report.

    ``policies``: "loop" and, to compare with, "never" (trained once), "always" (released without a gate) or others by
    their own names. ``metric`` is the gate's. ``labels``: predictions, labelled, awaited (no label yet) and overdue (of
    the awaited, those past due). ``awaited``: (time, awaited, overdue) over time. ``quarantined``: reason -> rows.
    ``drift``: feature -> month ("2013-04") -> PSI. ``lineage``: where the live release came from.
    ``currency`` is the one of the contract's value, ``costs`` are the settings': of training and of serving.
    """

    title: str
    task: Literal["binary", "multiclass", "regression"]
    metric: str
    since: datetime
    until: datetime
    step: timedelta
    created: datetime
    policies: Mapping[str, PolicyResult]
    labels: Mapping[str, int] = field(default_factory=dict)
    awaited: Sequence[tuple[datetime, int, int]] = ()
    quarantined: Mapping[str, int] = field(default_factory=dict)
    drift: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    lineage: Node | None = None
    currency: str | None = None
    costs: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def loop(self) -> PolicyResult:
        """The result of the loop itself."""
        return self.policies["loop"]

    def to_dict(self) -> dict[str, Any]:
        """The figures, without the single predictions, as JSON takes them; the policies by their names at the top."""
        named = {
            name: {**finite(p.metrics), "months": {m: finite(v) for m, v in p.months.items()}, "turns": len(p.turns)}
            | {"releases": sum(t.release is not None for t in p.turns), "seconds": p.seconds}
            for name, p in self.policies.items()
        }
        return named | {
            "title": self.title,
            "task": self.task,
            "metric": self.metric,
            **({} if self.currency is None else {"currency": self.currency}),
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "step_seconds": self.step.total_seconds(),
            "created": self.created.isoformat(),
            "turns": [
                asdict(t) | {"time": t.time.isoformat()} | finite({"gain": t.gain, "low": t.low, "high": t.high})
                for t in self.loop.turns
            ],
            "predictions": self.labels.get("predictions", 0),
            "labels": dict(self.labels),
            "quarantined": dict(self.quarantined),
            "drift": {name: finite(months) for name, months in self.drift.items()},
        }


def finite(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """The same values, None for those that are no finite number."""
    return {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}
