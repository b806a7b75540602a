"""What a plain model does on the flights of April to December: fitted once on January and February, or each month on all the past.

The plain features are the schedule, the weather of the hour in which the flight leaves, and the mean delay at its airport over two hours:
never retrained, about .68 AUC and .506 log loss; each month, about .731 and .474. The second pair of lines has the example's own features and
parameters under the same two policies, so that the one thing that differs is what the model is told. Prints one JSON line a contender.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss, roc_auc_score

from meguri import Contract, Events
from meguri.data.build import build
from meguri.data.features import Features

FLIGHTS = Path(__file__).parent.parent / "examples" / "flights"
SKY = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"]
CODES = ["carrier", "origin", "dest"]
FIRST, LAST = datetime(2013, 1, 1, tzinfo=UTC), datetime(2014, 1, 2, tzinfo=UTC)


def plain(manager: Any, contract: Contract) -> pl.DataFrame:
    """The flights that landed, with the plain features as numbers."""
    flights, weather = manager.source()
    sky = weather.select("origin", "time_hour", *SKY).unique(["origin", "time_hour"])
    rows = flights.drop_nulls("late").with_columns(manager.utc("time_hour")).sort("asked_at")
    rows = rows.join(sky, on=["origin", "time_hour"], how="left", maintain_order="left")
    departed = Events("flights", by="origin", at="left_at", known="0s")
    recent = {"origin_delay": departed.mean("dep_delay", over="2h").round(2)}
    rows = build(rows, recent, {"flights": flights}, contract=contract, now=LAST)
    names = ["month", "day", "hour", "minute", "weekday", "distance", *CODES, "origin_delay", *SKY]
    local = pl.col("due").dt.convert_time_zone("America/New_York")
    rows = rows.with_columns(weekday=local.dt.weekday())
    return rows.with_columns(pl.col(CODES).rank("dense")).select("asked_at", "late", pl.col(names).cast(float))


def own(manager: Any, features: Features, contract: Contract) -> pl.DataFrame:
    """The example's rows, their texts as numbers."""
    with tempfile.TemporaryDirectory() as folder:
        rows = manager.read(Path(folder), FIRST, LAST, LAST).drop_nulls("late")
        rows = build(rows, features, manager.tables(Path(folder)), contract=contract, now=LAST).drop("flight")
    return rows.with_columns(pl.col(CODES).rank("dense").cast(float))


def scores(rows: pl.DataFrame, model: Any, *, monthly: bool) -> dict[str, float]:
    """AUC and log loss of April to December, asked about with only the months before."""
    X, y = rows.drop("asked_at", "late").to_numpy(), rows["late"].to_numpy()
    month = rows["asked_at"].dt.convert_time_zone("America/New_York").dt.month().to_numpy()
    chances = np.full(len(y), np.nan)
    fitted = None
    for now in range(4, 13):
        if monthly or fitted is None:
            past = month < now if monthly else month <= 2
            fitted = model().fit(X[past], y[past])
        chances[month == now] = fitted.predict_proba(X[month == now])[:, 1]
    asked = month >= 4
    auc, loss = roc_auc_score(y[asked], chances[asked]), log_loss(y[asked], chances[asked])
    return {"auc": round(float(auc), 4), "log_loss": round(float(loss), 4)}


def main() -> None:
    sys.path.insert(0, str(FLIGHTS))
    manager = importlib.import_module("src.repository.data_manager")
    features = importlib.import_module("src.features").features
    contract = importlib.import_module("src.repository.schema").contract
    own_model = importlib.import_module("src.models.lightgbm_classifier").LightgbmClassifier(random_state=42)
    contenders = {
        "plain features": (plain(manager, contract), lambda: HistGradientBoostingClassifier(random_state=0)),
        "the example's features": (own(manager, features, contract), own_model.estimator),
    }
    for name, (rows, model) in contenders.items():
        for monthly in (False, True):
            policy = "each month on all the past" if monthly else "once, on January and February"
            print(json.dumps({"contender": f"{name}, {policy}", **scores(rows, model, monthly=monthly)}), flush=True)


if __name__ == "__main__":
    main()
