"""Answers and events as a service would have written them, for tests of A/B tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from conftest import START

from meguri.base.clock import micros
from meguri.base.ids import prediction_ids
from meguri.loop import ab
from meguri.loop.project import Project
from meguri.record.experiment import Plan
from meguri.record.ledger import Answer, Event

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
    now, arm = micros(at) + 1, arm or ("champion" if release == "a" else "challenger")
    ids = [bytes.fromhex(id.replace("-", "")) for id in prediction_ids(len(units), at)]
    origin: Any = (release, None, outlet, arm, share)
    rows = [
        Answer(id, f"{u}@{at:%m%d}", now, now, now, origin, 0.9, "true", u, None, (features or {}).get(u))
        for id, u in zip(ids, units, strict=True)
    ]
    project.ledger.write_answers(rows)


def happen(project: Project, kind: str, values: Mapping[str, float], at: datetime) -> None:
    """Each unit does it once, with that value."""
    events = [Event(f"{kind}-{unit}-{at.isoformat()}", unit, at, kind, float(value)) for unit, value in values.items()]
    project.ledger.write_events(events)
