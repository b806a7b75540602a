"""Rows for tests of ledgers: predictions, answers and labels whose moments count hours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from meguri.base.ids import prediction_ids
from meguri.record.ledger import Label
from meguri.record.served import Served

DAY_ONE = datetime(2013, 4, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def hour(number: float) -> datetime:
    """The moment ``number`` hours after the first day began."""
    return DAY_ONE + number * HOUR


def some_predictions(count: int, start: int = 0, **columns: Any) -> pl.DataFrame:
    """``count`` predictions: number i is about hour i, made an hour before and due two hours after it, key ``k{i}``."""
    times = [hour(i) for i in range(start, start + count)]
    table = pl.DataFrame(
        {
            "prediction_id": prediction_ids(count, hour(start)),
            "key": [f"k{i}" for i in range(start, start + count)],
            "time": times,
            "due": [time + 2 * HOUR for time in times],
            "made_at": [time - HOUR for time in times],
            "release": "r1",
            "run": "run1",
            "outlet": "table",
            "arm": "champion",
            "propensity": 0.9,
            "score": [i / (start + count) for i in range(start, start + count)],
            "answer": "1",
            "unit": [f"u{i % 3}" for i in range(start, start + count)],
            "abstained": [i % 2 == 0 for i in range(start, start + count)],
            "features": '{"hour":6}',
        },
        schema_overrides={name: pl.Datetime("us", "UTC") for name in ("time", "due", "made_at")},
    )
    return table.with_columns(**{name: pl.lit(value) for name, value in columns.items()})


def some_labels(
    names: list[str], values: list[Any], known_at: datetime, source: str = "time", by: str = "key"
) -> list[Label]:
    """Labels for keys (or prediction ids), all known at one moment."""
    return [Label(value, known_at, source, **{by: name}) for name, value in zip(names, values, strict=True)]


def some_answers(table: pl.DataFrame) -> list[Served]:
    """The predictions as a service writes them, each the answer to a request of its own."""
    moments = table.with_columns(pl.col("time", "due", "made_at").dt.epoch("us"))
    return [
        Served(
            (row["release"], row["run"], row["outlet"], row["arm"], row["propensity"]),
            row["made_at"], row["due"] - row["time"], [row["prediction_id"]], [row["key"]], [row["time"]], [row["score"]],
            [row["answer"]], [row["unit"]], [row["abstained"]], {"hour": [6]},
        )
        for row in moments.iter_rows(named=True)
    ]  # fmt: skip
