"""Every sentence that triggers, the gate and the quarantine can say, each through the door that a loop goes through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandera.polars as pa
import polars as pl
import pytest
from conftest import forget_project, write_project
from data.contracts import NOON, contract, small

from meguri import Value
from meguri.base.errors import GateError
from meguri.base.ids import prediction_ids
from meguri.data.batches import orphans
from meguri.data.contract import Contract
from meguri.data.drift import sketch
from meguri.loop.project import Project
from meguri.loop.tick import why
from meguri.loop.trigger import Drift, Every, Labels, Stale, Trigger, View, Worse
from meguri.record import ledger_columns
from meguri.record.budget import Budget
from meguri.record.evaluation import Evaluation
from meguri.record.gate import judge
from meguri.record.ledger import Ledger, Rollout, open_ledger

FRAUD = Value("JPY", {True: {True: 120, False: -5}, False: {True: -200, False: 0}})
START, DAY = datetime(2024, 3, 1, tzinfo=UTC), timedelta(days=1)


# What the triggers say


def rows_of(count: int, *, begin: datetime = START, per: int = 20, skill: float = 1.5) -> pl.DataFrame:
    """Predictions, ``per`` a day, with what happened and a feature that has moved."""
    draw = np.random.default_rng(0)
    late = draw.random(count) < 0.3
    score = 1 / (1 + np.exp(-(skill * (late - 0.5) + draw.normal(size=count))))
    times = [begin + DAY * i / per for i in range(count)]
    return pl.DataFrame(
        {
            "prediction_id": [prediction_ids(1, at)[0] for at in times],
            "key": [f"{begin:%j}-{i}" for i in range(count)],
            "time": times,
            "made_at": times,
            "due": [at + timedelta(hours=6) for at in times],
            "release": "r1",
            "outlet": "table",
            "score": score,
            "answer": [str(x).lower() for x in late],
            "features": [json.dumps({"wind": x}) for x in draw.normal(size=count) + 1],
            "late": late,
        },
        schema_overrides={name: pl.Datetime("us", "UTC") for name in ("time", "made_at", "due")},
    )


def ledger_of(folder: Path, *tables: pl.DataFrame) -> Ledger:
    ledger = open_ledger(f"sqlite:///{folder}/ledger.db")
    ledger.write_rollout(Rollout("table", "r1", at=START, why="first", by="gate"))
    for rows in tables:
        ledger.write_predictions(rows.drop("late"))
        late = pl.col("late").cast(pl.Float64)
        labels = rows.select("prediction_id", value=late, known_at="due", source=pl.lit("time"))
        ledger.write_labels(ledger_columns.labels(labels))
    return ledger


def reasons(folder: Path) -> Iterator[tuple[Trigger | None, str | None]]:
    """What each trigger says when it fires, and what is said before the first release."""
    project = Project.open(write_project(folder / "alarm"))
    yield None, why(project, now=START, triggers="Every('10d')", step=DAY)
    forget_project()
    reference = sketch(pl.DataFrame({"wind": np.random.default_rng(5).normal(size=4000)}), ["wind"])
    champion = {"id": "r1", "trained_until": "2024-02-20", "reference": json.loads(json.dumps(reference))}
    known = {"log_loss": 0.1, "brier": 0.01, "auc": 1.0, "accuracy": 1.0, "mae": 0.01, "rmse": 0.01}
    ledger = ledger_of(folder, rows_of(1000), rows_of(400, begin=START + 50 * DAY, skill=-1.5))

    def view(days: float, **more: Any) -> View:
        now, common = START + DAY * days, {"ledger": ledger, "last_turn": START, "champion": champion, "metrics": known}
        return View(**{"now": now, **common, **more})

    asked: list[tuple[Trigger, View]] = [
        (Every("30d"), view(0, last_turn=None)),
        (Labels(100), view(9, last_turn=None)),
    ]
    asked += [(Every("1m"), view(days)) for days in (1 / 1440, 1 / 288, 1 / 24, 1.5, 30)]
    asked += [(Labels(1000), view(60)), (Stale("9d"), view(30)), (Drift(0.2), view(14)), (Drift(0.2, "36h"), view(14))]
    asked += [(Worse(name, 0.02), view(45)) for name in ("log_loss", "brier", "auc", "accuracy")]
    asked += [(Worse(name, 0.02), view(45, task="regression")) for name in ("mae", "rmse")]
    asked += [(Worse("log_loss", 0.02, window="20d", against="first"), view(70))]
    asked += [(Every("1d") & Labels(100) & Drift(0.2) & Worse("auc", 0.02) & Stale("1d") | Every("1d"), view(45))]
    money, was = {"value": FRAUD.to_spec()}, {"metrics": {"value": 100.0}}
    asked += [(Worse("value", 0.5), view(45, **money, **was)), (Worse("value", 0), view(45, **money, **was))]
    for trigger, seen in asked:
        yield trigger, trigger.ask(seen)
    ledger.close()


# What the gate says


def pair(gain: float, *, days: int = 30, per: int = 20, spread: float = 0.2) -> tuple[Evaluation, Evaluation]:
    """Two regressions whose paired gain in mean absolute error is ``gain``."""
    n = days * per
    difference = np.random.default_rng(0).normal(size=n) * spread
    rows = pl.DataFrame(
        {
            "key": [f"k{i:05}" for i in range(n)],
            "time": [START + DAY * (i // per) + timedelta(minutes=i % per) for i in range(n)],
            "group": pl.Series([None] * n, dtype=pl.String),
            "label": np.zeros(n),
            "score": np.full(n, 10.0),
            "slice origin": np.where(np.arange(n) % 2 == 0, "a; b", "JFK"),
        }
    )
    old = rows.with_columns(score=10 + gain + difference - difference.mean())
    return Evaluation({}, rows, "regression", ("origin",)), Evaluation({}, old, "regression", ("origin",))


def classes(noise: float = 0.0, positive: float = 0.3) -> Evaluation:
    draw = np.random.default_rng(0)
    label = draw.random(800) < positive
    signal = 1.5 * (label - 0.5) + draw.normal(size=800) + noise * draw.normal(size=800)
    times = [START + timedelta(hours=i) for i in range(800)]
    rows = pl.DataFrame({"key": np.arange(800).astype(str), "time": times, "label": label})
    none = pl.lit(None, pl.String)
    return Evaluation({}, rows.with_columns(group=none, score=pl.Series(1 / (1 + np.exp(-signal)))), "binary")


def verdicts() -> Iterator[str]:
    """What each rule of the gate says, and why it could not judge."""

    def say(new: Evaluation, old: Evaluation | None, **more: Any) -> str:
        try:
            return judge(new, old, **{"metric": "mae", "margin": 0.05, "block": DAY, **more}).reason
        except GateError as error:
            return error.what

    new, old = pair(0.0)
    for gain in (0.1, 0.0, 1e-6, -0.05, -0.1):
        yield say(*pair(gain))
    yield say(*pair(0.01), margin=0.0)
    yield say(*pair(0.01), margin=0.0, planned=5, uses=4)
    yield say(new, old, margin=0.0)
    yield say(new, new)
    yield say(new, new, margin=0.0)
    yield say(*pair(5.0, days=6))
    yield say(*pair(0.0, days=6, spread=0.0))
    yield say(new, None)
    yield say(replace(new, rows=new.rows.with_columns(label=pl.int_range(pl.len()) % 20 - 10.0, score=40.0)), None)
    yield say(replace(new, rows=new.rows.with_columns(label=pl.int_range(pl.len()) % 20 - 10.0, score=0.01)), None)
    yield say(new, old, metric="rmse")
    worse = replace(new, rows=new.rows.with_columns(score=11.0))
    yield say(worse, old, guards={"rmse": 0.01}, slices=["origin"])
    yield say(worse, old, metric="rmse", margin=5.0, guards={"mae": 0.01, "rmse": 0.01})
    half = pl.when(pl.col("slice origin") == "JFK").then(10.3).otherwise(9.5)
    yield say(replace(new, rows=new.rows.with_columns(score=half)), pair(0.2)[1], slices=["origin"])
    half = pl.when(pl.col("slice origin") == "JFK").then(9.5).otherwise(10.3)
    yield say(replace(new, rows=new.rows.with_columns(score=half)), pair(0.2)[1], slices=["origin"])
    for metric in ("log_loss", "brier", "auc", "accuracy"):
        yield say(classes(), classes(2.0), metric=metric, margin=0.01)
    for value in (FRAUD, replace(FRAUD, currency="EUR")):
        sharp, blurred = (replace(classes(noise), value=value) for noise in (0.0, 2.0))
        for pair_ in ((sharp, blurred), (blurred, sharp), (sharp, sharp), (sharp, None)):
            yield say(*pair_, metric="value", margin=9.0)
        yield say(blurred, sharp, metric="value", margin=999.0, guards={"value": 1.0})
    yield say(classes(positive=0.0), classes(2.0, positive=0.0), metric="auc")
    named = classes().rows.with_columns(label=pl.lit("a"), answer=pl.lit("a"), chance=pl.lit(None, pl.Float64))
    yield say(Evaluation({}, named, "multiclass"), Evaluation({}, named, "multiclass"), metric="log_loss")
    yield say(new, old, planned=5, uses=5)
    yield say(new, old, margin=-1)
    yield say(new, old, metric="wind")
    yield say(new, old, guards={"auc": 0.1})
    yield say(classes(), classes(), metric="mae")
    yield say(Evaluation({}, named, "multiclass"), None, metric="auc")
    yield say(new, old, slices=["airport"])
    for task in ("binary", "multiclass"):
        yield say(new, replace(old, task=task))
    yield say(new, replace(old, rows=pl.concat([old.rows, old.rows])))
    yield say(new, replace(old, rows=old.rows.with_columns(label=pl.lit(1.0))))
    yield say(new, replace(old, rows=old.rows.with_columns(key=pl.col("key") + "x")))
    yield say(new, old, after=START + 99 * DAY)
    with pytest.raises(GateError) as caught:
        Budget(epsilon=0.0)
    yield caught.value.what


# What the quarantine says

C = pa.Check
OWN: dict[str, Any] = {"ignore_na": False}  # pandera asks such a check, and it is named in pandera's own words
CHECKED: list[tuple[Any, Any, list[Any]]] = [
    (int, C.ge(5), [1]),
    (float, C.gt(1e-5), [1e-7]),
    (float, C.le(5.5), [9.0]),
    (int, C.lt(5), [9]),
    (str, C.eq("a"), ["b"]),
    (bool, C.eq(True), [False]),
    (str, C.ne("x and y"), ["x and y"]),
    *((pl.Date, check(date(2024, 1, 1)), [date(2023, 1, 1)]) for check in (C.ge, C.gt)),
    *((datetime, check(datetime(2013, 1, 1)), [NOON]) for check in (C.le, C.lt)),
    (int, C.in_range(0, 23), [99]),
    (float, C.in_range(-5.0, 2.5, include_min=False), [9.0]),
    (float, C.in_range(0, 1e6, include_max=False), [-9.0]),
    (float, C.in_range(0, 23, include_min=False, include_max=False), [99.0]),
    (pl.Date, C.in_range(date(2024, 1, 1), date(2024, 2, 1)), [date(2023, 1, 1)]),
    (str, C.isin(["a", "b"]), ["x"]),
    (int, C.isin(list(range(20))), [99]),
    (str, C.notin(["a", "b"]), ["a"]),
    (str, C.str_matches("a+"), ["x"]),
    (str, C.str_contains("a+"), ["x"]),
    (str, C.str_startswith("a"), ["x"]),
    (str, C.str_endswith("a"), ["x"]),
    (str, C.str_length(2, 3), ["x"]),
    (str, C.str_length(exact_value=2), ["x"]),
    (str, C.str_length(max_value=2), ["xxx"]),
    (int, C.ge(5, **OWN), [1]),
    (int, C.gt(5, **OWN), [1]),
    (int, C.le(5, **OWN), [9]),
    (int, C.lt(5, **OWN), [9]),
    (str, C.eq("a", **OWN), ["x"]),
    (str, C.ne("a", **OWN), ["a"]),
    (int, C.in_range(0, 23, **OWN), [99]),
    (str, C.isin(["a", "b"], **OWN), ["x"]),
    (str, C.notin(["a", "b"], **OWN), ["a"]),
    (str, C.str_matches("a+", **OWN), ["x"]),
    (str, C.str_length(2, 3, **OWN), ["x"]),
    (str, C.str_length(exact_value=2, **OWN), ["x"]),
    (str, C.str_length(max_value=2, **OWN), ["xxx"]),
]


def quarantined() -> Iterator[str]:
    """Why each kind of bad row is put aside."""

    def say(made: Contract, table: pl.DataFrame, **more: Any) -> list[str]:
        found: list[str] = made.check(table, **more).quarantined["reason"].unique(maintain_order=True).to_list()
        assert found
        return found

    for kind, check, values in CHECKED:
        yield from say(contract(pa.Column(kind, check)), small(values))
    at_least = {"min_value": 2}
    spec = contract(pa.Column(str, C.str_length(2, 3))).to_spec()  # of a release: no pandera is asked
    spec["fields"][2]["checks"] = [{"name": "str_length", "args": at_least, "message": None}]
    yield from say(Contract.from_spec(spec), small(["x"]))
    yield from say(contract(pa.Column(float)), small([None, 1.0, float("inf")]))
    yield from say(contract(pa.Column(float, [C.ge(5), C.isin([9.0])])), small([None, 1.0]))
    for kind, value in ((int, "no number"), (float, "no"), (datetime, "no day")):
        yield from say(contract(pa.Column(kind, coerce=True)), small([value]))
    yield from say(contract(pa.Column(int, unique=True)), small([1, 1]))
    yield from say(contract(pa.Column(float)), small([1.0, 2.0, 3.0]).with_columns(id=pl.Series([1, 1, 2])))
    yield from say(contract(pa.Column(float)), small([1.0, 1.0]).with_columns(id=pl.lit(1)))
    labelled = contract(pa.Column(bool, nullable=True), label="x", features=["id"])
    yield from say(labelled, small([True, False]), now=NOON - DAY)
    airports = {"origin": pl.Series("airport", ["a"]), "x": pl.Series(["a"])}
    yield from orphans(pl.DataFrame({"origin": ["JFK"], "x": ["b"]}), airports).quarantined["reason"]
