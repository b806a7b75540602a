"""Flights, and models fitted on them, that the tests of releases share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandera.polars as pa
import polars as pl
from lightgbm import LGBMClassifier
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from meguri.data.contract import Contract
from meguri.record.release import Release

START = datetime(2024, 1, 1, tzinfo=UTC)
INFO = {
    "run": "20240101-000000-aaaa",
    "commit": "c0ffee",
    "data_version": "1f.dir",
    "trained_until": "2024-01-01T00:00:00+00:00",
    "metrics": {"log_loss": 0.5},
    "at": START,
}
COLUMNS = {
    "flight": pa.Column(str),
    "at": pa.Column(pl.Datetime("us", "UTC")),
    "carrier": pa.Column(str, nullable=True),
    "origin": pa.Column(str, pa.Check.isin(["JFK", "LGA", "EWR"])),
    "dist ance": pa.Column(float),
    "wind": pa.Column(float, nullable=True, description="Knots."),
    "hour": pa.Column(int, pa.Check.in_range(0, 23)),
    "stops": pa.Column(pl.Int16, nullable=True),
    "holiday": pa.Column(bool),
    "score": pa.Column(float),  # a feature may be called so
}
LABELS = {"binary": pl.Boolean, "multiclass": pl.String, "regression": pl.Float64}
NUMBERS = ["dist ance", "wind", "hour", "stops", "score"]
TEXTS = ["carrier", "origin"]


@cache
def contract(task: str = "binary", **more: Any) -> Contract:
    columns = {**COLUMNS, "delay": pa.Column(LABELS[task], nullable=True, description="In minutes, or late.")}
    return Contract(
        pa.DataFrameSchema(columns, name="Flights"),
        key="flight",
        time="at",
        label="delay",
        label_after="6h",
        task=task,
        **more,
    )


@cache
def rows(task: str = "binary", count: int = 3000) -> pl.DataFrame:
    noise = np.random.default_rng(7)
    table = pl.DataFrame(
        {
            "flight": [f"f{i}" for i in range(count)],
            "at": [START + timedelta(minutes=i) for i in range(count)],
            "carrier": noise.choice(["AA", "UA", "DL"], count),
            "origin": noise.choice(["JFK", "LGA", "EWR"], count),
            "dist ance": noise.gamma(2, 500, count),
            "wind": noise.normal(10, 5, count),
            "hour": noise.integers(0, 24, count),
            "stops": pl.Series(noise.integers(0, 4, count), dtype=pl.Int16),
            "holiday": noise.random(count) < 0.2,
            "score": noise.random(count),
        }
    )
    hole = pl.Series(noise.random(count))
    table = table.with_columns(
        pl.when(hole > 0.1).then("carrier").alias("carrier"),
        pl.when(hole < 0.9).then("wind").alias("wind"),
        pl.when(hole < 0.8).then("stops").alias("stops"),
    )
    late = (
        table["dist ance"].to_numpy() / 500
        - 3
        + 2 * (table["carrier"].fill_null("?") == "AA").to_numpy()
        + table["wind"].fill_null(0).to_numpy() / 10
        + noise.logistic(size=count)
    )
    labels = {
        "binary": pl.Series(late > 0),
        "multiclass": pl.Series(np.array(["early", "soon", "late"])[np.digitize(late, [-1, 1])]),
        "regression": pl.Series(late * 30),
    }
    return table.with_columns(labels[task].alias("delay"))


def prepared(scale: bool = True) -> ColumnTransformer:
    numbers = make_pipeline(SimpleImputer(), StandardScaler()) if scale else "passthrough"
    texts = (
        OneHotEncoder(handle_unknown="ignore")
        if scale
        else OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
    )
    return ColumnTransformer([("n", numbers, NUMBERS), ("c", texts, TEXTS), ("b", "passthrough", ["holiday"])])


def fit(estimator: Any, task: str = "binary", names: list[str] | None = None) -> Any:
    train = rows(task).to_pandas()
    with threadpool_limits(1):  # OpenMP's threads spin on a busy machine
        return estimator.fit(train[names or list(contract(task).features)], train["delay"])


def boosted(kind: Any = LGBMClassifier) -> Any:
    return make_pipeline(prepared(scale=False), kind(n_estimators=20, verbose=-1, n_jobs=1))


def build(estimator: Any, folder: Path, task: str = "binary", **more: Any) -> Release:
    given: dict[str, Any] = {"contract": contract(task), "sample": rows(task), "info": INFO, "id": folder.name, **more}
    return Release.build(estimator, folder=folder, **given)


def scaled_trees() -> Any:
    return make_pipeline(prepared(), HistGradientBoostingClassifier(max_iter=50, random_state=0))


def chances(model: Any, table: pl.DataFrame, task: str = "binary") -> Any:
    with threadpool_limits(1):
        return model.predict_proba(table.to_pandas()[list(contract(task).features)])


class Own(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A project's own transformer."""

    def fit(self, X: Any, y: Any = None) -> Own:
        self.fitted_ = True
        return self

    def transform(self, X: Any) -> Any:
        return X
