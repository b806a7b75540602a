"""Answers and events as a service would have written them, for tests of A/B tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import polars as pl
from conftest import START

from meguri.base.ids import prediction_ids
from meguri.loop import ab
from meguri.loop.project import Project
from meguri.record.experiment import Plan
from meguri.record.ledger import Event

DAY = timedelta(days=1)
PLAN = Plan(expected=1000)


def begun(project: Project, metric: str = "event:buy", at: datetime = START, **more: Any) -> Any:
    given: dict[str, Any] = {"share": 0.5, "plan": PLAN, "promote": False, "outlet": "rest", "why": "try", "by": "ann"}
    return ab.start(project, "b", metric=ab.metric_of(metric, "binary"), at=at, **{**given, **more})


def answer(
    project: Project,
    units: Sequence[str],
    at: datetime,
    release: str,
    *,
    share: float | None = 0.5,
    features: Mapping[str, str] | None = None,
    outlet: str = "rest",
    arm: str | None = None,
) -> None:
    """The units are answered by the release: a is the champion, any other a challenger. A key is UNIT@DAY."""
    made = at + timedelta(microseconds=1)
    table = pl.DataFrame(
        {
            "prediction_id": prediction_ids(len(units), at),
            "key": [f"{unit}@{at:%m%d}" for unit in units],
            "unit": list(units),
            "features": pl.Series([(features or {}).get(unit) for unit in units], dtype=pl.String),
        }
    ).with_columns(
        **{name: pl.lit(made).cast(pl.Datetime("us", "UTC")) for name in ("time", "due", "made_at")},
        release=pl.lit(release), arm=pl.lit(arm or ("champion" if release == "a" else "challenger")), outlet=pl.lit(outlet),
        propensity=pl.lit(share, dtype=pl.Float64), score=pl.lit(0.9), answer=pl.lit("true"),
    )  # fmt: skip
    project.ledger.write_predictions(table)


def happen(project: Project, kind: str, values: Mapping[str, float], at: datetime) -> None:
    """Each unit does it once, with that value."""
    events = [Event(f"{kind}-{unit}-{at.isoformat()}", unit, at, kind, float(value)) for unit, value in values.items()]
    project.ledger.write_events(events)
