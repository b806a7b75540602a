from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meguri.base.clock import spell
from meguri.base.errors import SettingsError, TriggerError
from meguri.base.ids import prediction_ids
from meguri.data.drift import sketch
from meguri.loop.trigger import Both, Drift, Either, Every, Labels, Stale, Trigger, View, Worse, parse
from meguri.record import ledger_columns
from meguri.record.ledger import Ledger, Rollout, open_ledger

START = datetime(2013, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.db")
    yield ledger
    ledger.close()


def flights(
    count: int, *, begin: datetime = START, per: int = 20, shift: float = 0.0, seed: int = 0, skill: float = 1.5
) -> pl.DataFrame:
    """Predictions, ``per`` a day, with what happened, and with a feature that may have moved."""
    rng = np.random.default_rng(seed)
    late = rng.random(count) < 0.3
    score = 1 / (1 + np.exp(-(skill * (late - 0.5) + rng.normal(size=count))))
    wind = rng.normal(size=count) + shift
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
            "features": [json.dumps({"wind": x, "rain": bool(r)}) for x, r in zip(wind, late, strict=True)],
            "late": late,
        },
        schema_overrides={name: pl.Datetime("us", "UTC") for name in ("time", "made_at", "due")},
    )


def write(ledger: Ledger, rows: pl.DataFrame, labels: int | None = None) -> None:
    ledger.write_predictions(rows.drop("late"))
    came = rows.head(len(rows) if labels is None else labels)
    known = came.select("prediction_id", value=pl.col("late").cast(pl.Float64), known_at="due", source=pl.lit("time"))
    ledger.write_labels(ledger_columns.labels(known))


def log_loss(rows: pl.DataFrame) -> float:
    y, s = rows["late"].to_numpy(), rows["score"].to_numpy()
    return float(-np.log(np.where(y, s, 1 - s)).mean())


def at(days: float, ledger: Ledger, **more: Any) -> View:
    return View(**{"now": START + DAY * days, "ledger": ledger, "last_turn": START, **more})


def test_every(ledger: Ledger) -> None:
    assert Every("30d").ask(at(29.9, ledger)) is None
    assert Every("30d").ask(at(30, ledger)) == "30 days since the last turn (2013-03-02)"
    assert Every("36h").ask(at(1.5, ledger)) == "36 hours since the last turn (2013-03-02)"
    assert Every("5m").ask(at(1 / 288, ledger)) == "5 minutes since the last turn (2013-03-02)"
    assert Every("30m").ask(at(1 / 24, ledger)) == "1 hour since the last turn (2013-03-02)"
    assert Every("30d").ask(at(0, ledger, last_turn=None)) == "there has been no turn yet"


def test_labels_count_from_the_last_turn(ledger: Ledger) -> None:
    write(ledger, flights(200))
    assert Labels(201).ask(at(11, ledger)) is None
    assert Labels(150).ask(at(11, ledger)) == "200 labels since the last turn (2013-03-02), and 150 were asked for"
    assert Labels(150).ask(at(11, ledger, last_turn=START + 5 * DAY)) is None
    assert Labels(100).ask(at(11, ledger, last_turn=None)) == "200 labels so far, and 100 were asked for"
    assert Labels(150).ask(at(3, ledger)) is None, "labels that came later are not known yet"


def test_stale(ledger: Ledger) -> None:
    champion = {"trained_until": "2013-02-01T00:00:00+00:00"}
    assert Stale("60d").ask(at(30, ledger, champion=champion)) is None
    assert (
        Stale("60d").ask(at(31, ledger, champion=champion)) == "the live release's data ended 60 days ago (2013-02-01)"
    )
    assert Stale("60d").ask(at(99, ledger)) is None
    assert Stale("60d").ask(at(0, ledger, last_turn=None)) == "there has been no turn yet"


def reference() -> dict[str, Any]:
    rng = np.random.default_rng(5)
    rows = pl.DataFrame({"wind": rng.normal(size=4000), "rain": rng.random(4000) < 0.3})
    return {"reference": json.loads(json.dumps(sketch(rows, ["wind", "rain"])))}


def test_drift_tells_which_feature_moved(ledger: Ledger) -> None:
    write(ledger, flights(400, shift=1.0), labels=0)
    view = at(14, ledger, champion=reference())
    reason = Drift(0.2).ask(view)
    assert reason is not None
    assert reason.startswith("'wind' has drifted: PSI ")
    assert reason.endswith("beyond chance in 276 predictions of the last 14 days, above 0.2")
    assert Drift(0.2, features="rain").ask(view) is None
    assert Drift(0.2, features="rain, wind").ask(view) == reason
    assert Drift(9.0).ask(view) is None
    with pytest.raises(TriggerError, match="did you mean 'wind'"):
        Drift(0.2, features="wnd").ask(view)
    with pytest.raises(TriggerError, match="features: wind, rain"):
        Drift(0.2, features="zzz").ask(view)


@pytest.mark.parametrize("seed", range(5))
def test_no_drift_in_few_rows_of_the_same_kind(ledger: Ledger, seed: int) -> None:
    write(ledger, flights(30, seed=seed), labels=0)
    assert Drift(0.05).ask(at(14, ledger, champion=reference())) is None


def test_drift_has_nothing_to_compare(ledger: Ledger) -> None:
    assert Drift(0.2).ask(at(14, ledger)) is None
    assert Drift(0.2).ask(at(14, ledger, champion={"id": "r1"})) is None
    assert Drift(0.2).ask(at(14, ledger, champion=reference())) is None
    write(ledger, flights(30).with_columns(features=pl.lit(None, pl.String)), labels=0)
    assert Drift(0.2).ask(at(14, ledger, champion=reference())) is None


def test_worse_than_the_evaluation(ledger: Ledger) -> None:
    rows = flights(1000, skill=0.0)
    write(ledger, rows)
    good = log_loss(flights(4000, skill=1.5, seed=1))
    view = at(45, ledger, champion={"id": "r1"}, metrics={"log_loss": good, "auc": 0.85})
    reason = Worse("log_loss", 0.02).ask(view)
    assert reason is not None
    assert "over the last 14 days (276 predictions), and was" in reason
    assert "in its evaluation: worse by at least" in reason
    assert Worse("auc", 0.02).ask(view) is not None
    assert Worse("log_loss", 1.0).ask(view) is None
    assert Worse("log_loss", 0.02).ask(at(45, ledger, champion={"id": "r2", "metrics": {"log_loss": good}})) is None
    assert Worse("log_loss", 0.02).ask(at(45, ledger, champion={"id": "r1", "metrics": {"log_loss": good}})) == reason
    assert Worse("log_loss", 0.02, window="7d").ask(view) is None, "too few blocks"


def test_as_good_as_ever_is_not_worse(ledger: Ledger) -> None:
    write(ledger, flights(1000))
    live = log_loss(flights(4000, seed=1))
    for days in range(20, 50, 5):
        assert Worse("log_loss", 0.02).ask(at(days, ledger, champion={"id": "r1"}, metrics={"log_loss": live})) is None


def test_worse_than_its_first_days(ledger: Ledger) -> None:
    write(ledger, flights(1000))
    write(ledger, flights(400, begin=START + 50 * DAY, skill=-1.5, seed=2))
    champion = {"id": "r1"}
    trigger = Worse("log_loss", 0.02, window="20d", against="first")
    assert trigger.ask(at(70, ledger, champion=champion)) is None, "it was never live"
    ledger.write_rollout(Rollout("table", "r1", at=START, why="first", by="gate"))
    reason = trigger.ask(at(70, ledger, champion=champion))
    assert reason is not None
    assert "in its first 20 days" in reason
    assert trigger.ask(at(45, ledger, champion=champion)) is None
    assert trigger.ask(at(39, ledger, champion=champion)) is None, "the stretches would share rows"
    assert Worse("auc", 0.02, window="20d", against="first").ask(at(70, ledger, champion=champion)) is not None


def test_a_release_without_labels_in_its_first_days(ledger: Ledger) -> None:
    ledger.write_rollout(Rollout("table", "r1", at=START - 40 * DAY, why="first", by="gate"))
    write(ledger, flights(1000))
    assert Worse("log_loss", 0.02, window="20d", against="first").ask(at(45, ledger, champion={"id": "r1"})) is None


def test_worse_has_nothing_to_compare(ledger: Ledger) -> None:
    assert Worse("log_loss", 0.02).ask(at(14, ledger)) is None
    write(ledger, flights(400))
    for metric, match in (
        ("log_loss", "evaluation has no 'log_loss'"),
        ("logloss", "not known"),
        ("mae", "is none to judge"),
    ):
        with pytest.raises(TriggerError, match=match):
            Worse(metric, 0.02).ask(at(15, ledger, champion={"id": "r1"}))


def test_either_and_both(ledger: Ledger) -> None:
    yes, no = Every("1d"), Every("99d")
    view = at(30, ledger)
    reason = "30 days since the last turn (2013-03-02)"
    assert (no | yes).ask(view) == reason
    assert (no | no).ask(view) is None
    assert (yes & no).ask(view) is None
    assert (yes & Every("2d")).ask(view) == f"{reason} and {reason}"
    assert (no | yes & yes).ask(view) == f"{reason} and {reason}"
    with pytest.raises(NotImplementedError):
        Trigger().ask(view)


spans = st.integers(1, 10**7).map(lambda seconds: spell(timedelta(seconds=seconds)))
shares = st.floats(1e-6, 0.49)
plain = st.one_of(
    spans.map(Every),
    st.integers(1, 10**9).map(Labels),
    spans.map(Stale),
    st.builds(Drift, st.floats(0.001, 1e6), window=spans, features=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8), alpha=shares),
    st.builds(Worse, st.sampled_from(["log_loss", "mae"]), st.floats(0, 1e6), spans, st.sampled_from(["evaluation", "first"]), spans, shares),
)  # fmt: skip
triggers = st.recursive(
    plain, lambda inner: st.builds(lambda a, b, o: a | b if o else a & b, inner, inner, st.booleans())
)


@settings(max_examples=200, deadline=None)
@given(triggers)
def test_a_trigger_is_what_it_prints(trigger: Trigger) -> None:
    assert parse(repr(trigger)) == trigger


def test_expressions_are_read_as_python_reads_them() -> None:
    a, b, c = Every("30d"), Labels(5000), Drift(0.2)
    assert parse("Every('720h') | Labels(5000) & Drift(0.2)") == Either((a, Both((b, c))))
    assert parse("(Every('30d') | Labels(count=5000)) & Drift(0.2)") == Both((Either((a, b)), c))
    assert parse(" Every('30d')\n | Labels(5000) | Drift(0.2, features='') ") == Either((a, b, c))
    assert repr((a | b) & c) == '(Every("30d") | Labels(5000)) & Drift(0.2)'
    assert repr(Worse("auc", 0.02, window="7d")) == 'Worse("auc", 0.02, window="7d")'


@pytest.mark.parametrize(
    ("text", "what", "where", "fix"),
    [
        ("Evry('30d')", "'Evry' is no trigger", "column 1 ", "did you mean Every?"),
        ("Every('30d') | Label(5)", "'Label' is no trigger", "column 16 ", "did you mean Labels?"),
        ("Zzz(1)", "'Zzz' is no trigger", "column 1 ", "there are: Every, Labels"),
        ("Every('30d') |", "cannot be read", "column ", "write it like"),
        ("", "cannot be read", "column ", "write it like"),
        ("(" * 5000, "cannot be read", "column ", "write it like"),
        ("Every('1d')" + " | Every('1d')" * 3000, "cannot be read", "column ", "write it like"),
        ("Every('1d')\x00", "cannot be read", "column ", "write it like"),
        ("Every('30d') or Labels(5)", "is no trigger", "column 1 ", "combined by | and &"),
        ("Every", "'Every' is no trigger", "column 1 ", "triggers: Every"),
        ("__import__('os').system('true')", "is no trigger", "column 1 ", "triggers: Every"),
        ("Every(open('x'))", "cannot be the period", "column 7 ", "give text in quotes"),
        ("Every('é') | Labels('é')", "cannot be", "column 1 ", "write a number and one of"),
        ("Every('1d') | Drift('é')", "cannot be the threshold", "column 21 ", "give a number"),
        ("Every()", "lacks its period", "column 1 ", "it takes period"),
        ("Every('1d', '2d')", "''2d'' is more than Every takes", "column 13 ", "it takes period"),
        ("Every(perod='1d')", "is nothing that Every takes", "column 7 ", "did you mean period?"),
        ("Every(**{})", "is nothing that Every takes", "column 7 ", "there are: period"),
        ("Every('1d', period='1d')", "is given twice", "column 13 ", "give it once"),
        ("Every(30)", "cannot be the period", "column 7 ", "give text in quotes"),
        ("Labels(5.5)", "cannot be the count", "column 8 ", "a whole number"),
        ("Labels(True)", "cannot be the count", "column 8 ", "a whole number"),
        ("Labels(0)", "needs a whole number above 0", "column 1 ", "it takes count"),
        ("Every('0d')", "a period of no time", "column 1 ", "write 36h or 14d"),
        ("Drift(-1)", "cannot be the threshold", "column 7 ", "a number"),
        ("Drift(0)", "a threshold of 0 is impossible", "column 1 ", "it takes threshold"),
        ("Drift(1e999)", "a threshold of inf is impossible", "column 1 ", "it takes threshold"),
        ("Drift(0.2, alpha=1)", "an alpha of 1 is impossible", "column 1 ", "it takes threshold"),
        ("Worse('auc', 0.1, against='last')", "'evaluation' or 'first'", "column 1 ", "it takes metric"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_where_and_what_is_near(text: str, what: str, where: str, fix: str) -> None:
    with pytest.raises(TriggerError) as caught:
        parse(text)
    assert what in caught.value.what
    assert caught.value.where is not None
    assert caught.value.where.startswith(where)
    assert fix in str(caught.value.fix)


def test_a_length_of_time_that_is_none() -> None:
    with pytest.raises(SettingsError, match="no duration"):
        Every("a month")


def test_cheap_triggers_import_no_table_library(tmp_path: Path) -> None:
    script = f"""
import sys
from datetime import datetime, timedelta, UTC
from meguri.loop.trigger import View, parse
from meguri.record.ledger import open_ledger
ledger = open_ledger("sqlite:///{tmp_path}/l.db")
now = datetime(2013, 5, 1, tzinfo=UTC)
view = View(now=now, ledger=ledger, last_turn=now - timedelta(days=3), champion={{"trained_until": "2013-01-01"}})
assert parse("Every('9d') | Labels(5) | Stale('999d')").ask(view) is None
print(sorted({{"polars", "numpy", "pandas"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
