"""Does the gate block the retrains that are really worse? Two-month windows on the flights, October to December.

Each month a champion trained on all the past, a month old, meets a challenger trained on the last two months. The gate judges on
the fortnight before; the truth is how both then did on the month that followed. Prints one JSON line a month.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from meguri.data.build import build
from meguri.loop.project import Project
from meguri.loop.turn import turn
from meguri.record.evaluation import METRICS
from meguri.record.release import Release

FLIGHTS = Path(__file__).parent.parent / "examples" / "flights"


def loss(release: Release, project: Project, since: datetime, until: datetime) -> float:
    """The log loss of a release on the flights asked about in [since, until), as it turned out."""
    os.chdir(FLIGHTS)
    from src import features
    from src.repository import data_manager

    cache, now = FLIGHTS / "data" / "cache", until + timedelta(days=9)
    rows = data_manager.read(cache, since, until, now)
    rows = build(rows, features.features, data_manager.tables(cache), contract=project.contract, now=now)
    rows = project.contract.check(rows).rows.drop_nulls("late")
    answers = release.predict(rows, ids=False).table
    return float(METRICS["log_loss"].value(rows["late"].cast(float).to_numpy(), np.asarray(answers["score"])))


def main() -> None:
    blocked = worse = 0
    with tempfile.TemporaryDirectory() as folder:
        for month in (10, 11, 12):
            outputs = Path(folder) / str(month)
            project = Project(FLIGHTS, outputs=outputs, data=outputs / "data")
            now = datetime(2013, month, 1, tzinfo=UTC)
            champion = turn(project, now=now - timedelta(days=30), reason="all the past", gate=False)
            record = turn(project, now=now, reason="two months", overrides=["loop.history=60d"])
            until = now + timedelta(days=30)
            old = loss(project.release(champion.id), project, now, until)
            new = loss(Release.load(outputs / "runs" / record.id / "model"), project, now, until)
            verdict = record.detail["verdict"]
            worse += new > old
            blocked += new > old and record.release is None
            line = {"contender": f"2013-{month:02d}", "verdict": record.verdict, "true_gain": round(old - new, 4)}
            print(json.dumps(line | {name: round(verdict[name], 4) for name in ("gain", "low", "high")}), flush=True)
    print(json.dumps({"contender": "gate", "really_worse": worse, "of_them_blocked": blocked}))
    sys.exit(0 if blocked == worse else 1)


if __name__ == "__main__":
    main()
