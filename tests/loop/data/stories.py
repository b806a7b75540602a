"""Made-up results of a replay, from a whole year to nothing at all."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from meguri.loop.lineage import Node
from meguri.loop.story import PolicyResult, Story, TurnLine

SINCE, UNTIL = datetime(2013, 4, 1, tzinfo=UTC), datetime(2014, 1, 1, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\"'&`$\\frac{1}{0}$ --> ]]> </svg></style>{title} \x00\x1b\ud800\n遅延"
MONTHS = [f"2013-{month:02}" for month in range(4, 13)]


def log_loss(label: np.ndarray, score: np.ndarray) -> float:
    return float(-np.mean(np.where(label == 1, np.log(score), np.log(1 - score))))


def auc(label: np.ndarray, score: np.ndarray) -> float:
    rank = np.argsort(np.argsort(score)) + 1
    ones = label.sum()
    return float((rank[label == 1].sum() - ones * (ones + 1) / 2) / (ones * (len(label) - ones)))


def policy(noise: float, turns: list[TurnLine], seconds: float, seed: int = 0, rows: int = 9000) -> PolicyResult:
    """A year in which the truth wanders and a policy follows it with some error."""
    draw = np.random.default_rng(seed)
    day = np.sort(draw.uniform(0, 275, rows))
    logit = draw.normal(-1.3, 0.9, rows) + 0.4 * np.sin(day / 40)
    label = (draw.uniform(size=rows) < 1 / (1 + np.exp(-logit))).astype(int)
    score = 1 / (1 + np.exp(-(logit + draw.normal(0, noise, rows) + noise * day / 700)))
    time = [SINCE + timedelta(days=float(d)) for d in day]
    month = np.array([f"{t:%Y-%m}" for t in time])

    def metrics(kept: np.ndarray) -> dict[str, float | None]:
        y, p = label[kept], score[kept]
        return {"auc": auc(y, p), "log_loss": log_loss(y, p), "rows": int(kept.sum())}

    awaited = draw.uniform(size=rows) < 0.02
    return PolicyResult(
        predictions=pl.DataFrame(
            {
                "time": time,
                "score": score,
                "label": [None if a else int(y) for a, y in zip(awaited, label, strict=True)],
            }
        ).with_columns(release=pl.lit("r")),
        turns=turns,
        seconds=seconds,
        metrics=metrics(np.full(rows, True)),
        months={m: metrics(month == m) for m in MONTHS},
    )


def flights() -> Story:
    """A story of the size and shape of a year of flights, its numbers made up."""
    reasons = [
        "Every(30d): 30 days since the last turn",
        "Worse('log_loss', 0.02): 0.031 worse over 14 days than when released",
    ]
    reasons += ["Drift(0.2): PSI of visibility is 0.31", "Labels(5000): 25,312 labels have come since the last turn"]
    verdicts = ["pass", "pass", "pass", "unsure", "pass", "pass", "fail", "pass", "fail", "pass", "pass", "pass"]
    said = {
        "pass": "The new model is better by 0.0121 on 8,203 later rows; the whole interval is above the margin.",
        "fail": "The new model is worse by 0.0117 on 8,203 later rows.",
        "unsure": "The interval holds both better and worse: about 21,000 rows would settle it.",
    }
    turns = []
    for i, verdict in enumerate(verdicts):
        at = SINCE + timedelta(days=11 + 22.3 * i)
        gain = {"pass": 0.0121, "fail": -0.0117, "unsure": 0.0004}[verdict]
        release = f"{at:%Y%m%d-%H%M%S}-3f9a" if verdict == "pass" else None
        turns.append(
            TurnLine(
                at, reasons[i % 4], verdict, said[verdict], gain, gain - 0.006, gain + 0.006, release, 7.9 + i / 3, 8203
            )
        )
    always = [TurnLine(SINCE + timedelta(days=30 * i), "Every(30d)", release=f"a{i}", seconds=6) for i in range(9)]
    days = [SINCE + timedelta(days=i) for i in range(1, 276)]
    drift = {
        name: {m: round(abs(np.sin(i * 1.7 + j)) * scale, 3) for j, m in enumerate(MONTHS)}
        for i, (name, scale) in enumerate(
            {
                "visibility": 0.62,
                "mean_delay_at_origin_last_2h": 0.3,
                "temp": 1.4,
                "hour": 0.02,
                "wind_gust": 0.18,
                "dest": 0.09,
            }.items()
        )
    }
    return Story(
        title="flights",
        task="binary",
        metric="log_loss",
        since=SINCE,
        until=UNTIL,
        step=timedelta(days=1),
        created=datetime(2026, 11, 23, 9, 5, tzinfo=UTC),
        policies={
            "loop": policy(0.35, turns, 96.4),
            "never": policy(1.1, [TurnLine(SINCE, "first", release="n0", seconds=5.2)], 5.2),
            "always": policy(0.5, always, 71.0),
        },
        labels={"predictions": 251_324, "labelled": 245_020, "awaited": 6304, "overdue": 5518},
        awaited=[(at, 700 + 90 * (i % 7) + 20 * i, 20 * i) for i, at in enumerate(days)],
        quarantined={
            "arr_delay: label from the future": 12,
            "weather is missing at the scheduled hour": 1312,
            "distance > 0": 1,
        },
        drift=drift,
        lineage=lineage("n0"),
    )


def lineage(name: str, reason: str = "31 days since the last turn (2013-03-01)") -> Node:
    """Where a release came from."""
    why = (
        "log loss is 0.377 better than the best constant answer on 121 rows, with 99 % confidence at least 0.151 better"
    )
    refused = Node("quarantine", "2 rows", {"rows": 2, "reasons": {f"{name}: null": 2}, "decisions": {"released": 1}})
    made = Node("release", name, {"live": True, "format": "onnx", "trained_until": "2013-03-01T00:00:00+00:00"})
    facts = {"reason": reason, "status": "done", "verdict": "pass", "why": why}
    return Node("run", name, facts, (Node("data", "5141402104902076", {"rows": 98_765}), refused, made))


def bare(task: Any = "binary") -> Story:
    """A replay in which nothing happened."""
    nothing = pl.DataFrame(
        schema={"time": pl.Datetime("us", "UTC"), "score": pl.Float64, "label": pl.Null, "release": pl.String}
    )
    metric = "mae" if task == "regression" else "log_loss"
    return Story("empty", task, metric, SINCE, UNTIL, timedelta(days=1), SINCE, {"loop": PolicyResult(nothing)})


def regression() -> Story:
    draw = np.random.default_rng(1)
    truth = draw.gamma(3, 900, 4000)
    guess = truth * draw.normal(1, 0.2, 4000)
    gaps = np.abs(truth - guess)
    metrics = {"mae": float(gaps.mean()), "rmse": float(np.sqrt((gaps**2).mean())), "rows": 4000}
    table = pl.DataFrame({"time": [SINCE] * 4000, "score": guess, "label": truth, "release": ["r"] * 4000})
    loop = PolicyResult(
        table, (), 3.0, metrics, {"2013-04-01": metrics, "2013-04-08": metrics | {"mae": 300.0}, "2013-04-15": metrics}
    )
    return replace(bare("regression"), until=SINCE + timedelta(days=21), policies={"loop": loop})


def hostile(story: Story, text: str) -> Story:
    turns = [TurnLine(SINCE, text, text, text, 0.1, None, None, text), TurnLine(SINCE, text, None, text, float("nan"))]
    return replace(
        story,
        title=text,
        policies={"loop": replace(story.loop, turns=turns), text: story.loop},
        quarantined={text: 3},
        drift={text: {"2013-04": 0.5}},
    )
