"""What another split would have earned, from what a rollout logged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import START
from loop.ab_past import DAY, answer, begun, happen
from loop.test_ab_before import project, release
from typer.testing import CliRunner

from meguri.base.errors import GateError
from meguri.cli import app
from meguri.loop import ab
from meguri.loop.ab_estimate import Condition, Estimate, estimate
from meguri.loop.project import Project
from meguri.record import rollout
from meguri.record.ledger import Label

__all__ = ["project", "release"]
NOW = START + 5 * DAY
UNITS = [f"u{n}" for n in range(3000)]
NORTH = set(UNITS[::3])


def live(project: Project, share: float = 0.2, at: Any = START, **others: float) -> None:
    rollout.promote(project.ledger, "rest", "a", at=at, why="try", by="ann", challengers={"b": share, **others})


def served(project: Project, share: float = 0.2, *, logged: float | None = None, rows: bool = True) -> dict[str, float]:
    """b is better by 2 in the north (origin JFK), and worse by 1 elsewhere; what a unit spends follows the wind."""
    dice = np.random.default_rng(4)
    wind = dice.normal(size=len(UNITS))
    in_b = dice.random(len(UNITS)) < share
    values = {u: 10 + wind[n] + in_b[n] * (2 if u in NORTH else -1) + 0.5 * dice.normal() for n, u in enumerate(UNITS)}
    kept = {
        u: json.dumps({"wind": wind[n], "origin": "JFK" if u in NORTH else "LGA", "holiday": u in NORTH})
        for n, u in enumerate(UNITS)
    }
    for name, side, part in (("a", ~in_b, 1 - share), ("b", in_b, share)):
        units = [u for n, u in enumerate(UNITS) if side[n]]
        answer(project, units, START + DAY, name, share=logged or part, features=kept if rows else None)
    happen(project, "buy", values, START + 2 * DAY)
    return values


def asked(project: Project, *where: str, metric: str = "event:buy:sum", **more: Any) -> Estimate:
    given: dict[str, Any] = {"challenger": None, "share": 1.0, "outlet": "rest", "now": NOW, **more}
    found = ab.metric_of(metric, "binary")
    return estimate(project, metric=found, where=[Condition.parse(text) for text in where], **given)


def test_a_targeted_rollout_is_valued_before_it_goes_live(project: Project) -> None:
    live(project)
    served(project)
    found = asked(project, "origin=JFK")
    truth = 10 + 2 / 3
    assert (found.champion, found.challenger, found.units, found.touched) == ("a", "b", 3000, 1000)
    for value in (*found.values.values(), found.values["dr"]):
        assert value.low < truth < value.high
        assert value.effective > 1000
    wide, narrow = (found.values[name].high - found.values[name].low for name in ("snips", "dr"))
    assert narrow < 0.7 * wide, "the wind explains most of what a unit spends"
    assert found.gain.low < 2 / 3 < found.gain.high
    assert found.gain.low > 0.5
    everyone = asked(project)
    assert everyone.gain.low < 0 < everyone.gain.high
    assert asked(project, "origin!=JFK").gain.high < 0
    assert asked(project, "holiday=true", share=0.5).gain.value == pytest.approx(found.gain.value / 2, rel=0.02)
    assert asked(project, "wind>0", "origin=JFK").touched < 600
    assert found.logged == pytest.approx(10, abs=0.1)


def test_everyone_to_the_challenger_is_what_its_units_earned(project: Project) -> None:
    live(project, 0.5)
    values = served(project, 0.5, rows=False)
    found = asked(project)
    mine = project.ledger.joined(as_of=NOW).filter(pl.col("release") == "b")["unit"].to_list()
    earned = np.array([values[unit] for unit in mine])
    assert found.values["snips"].value == pytest.approx(earned.mean())
    assert found.values["ips"].value == pytest.approx(earned.sum() / 0.5 / 3000)
    assert found.values["dr"].value == pytest.approx(earned.mean(), abs=0.02)
    assert found.values["snips"].effective == pytest.approx(len(mine))


def test_only_the_latest_rollout_with_challengers_is_read(project: Project) -> None:
    live(project, 0.2, START - 3 * DAY)
    answer(project, [f"old{n}" for n in range(500)], START - 2 * DAY, "b", share=0.2)
    live(project, 0.5)
    served(project, 0.5)
    rollout.promote(project.ledger, "rest", "a", at=START + 3 * DAY, why="enough", by="ann")
    answer(project, [f"new{n}" for n in range(500)], START + 4 * DAY, "a", share=1.0)
    found = asked(project)
    assert (found.units, found.since, found.until) == (3000, START, START + 3 * DAY)


def test_a_metric_of_labels_is_a_mean_over_each_units_answers(project: Project) -> None:
    live(project, 0.5)
    units = UNITS[:400]
    for day in (1, 2):
        answer(project, units[:200], START + day * DAY, "a", share=0.5)
        answer(project, units[200:], START + day * DAY, "b", share=0.5)
    keys = [f"{u}@{START + day * DAY:%m%d}" for day in (1, 2) for u in units if day == 1 or u != "u0"]
    right = [(int(key[1:].partition("@")[0]) % 4 > 0) for key in keys]
    said = zip(keys, right, strict=True)
    project.ledger.write_labels([Label(value, START + 3 * DAY, "time", key) for key, value in said])
    found = asked(project, metric="accuracy")
    assert found.values["snips"].value == pytest.approx(0.75)
    assert found.units == 400


@pytest.mark.parametrize(
    ("text", "row", "holds"),
    [
        ("site=north", {"site": "north"}, True),
        ("site=north", {"site": "south"}, False),
        ("site!=north", {"site": "south"}, True),
        ("site!=north", {"site": None}, False),
        ("site!=north", {}, False),
        ("amount>100", {"amount": 100.5}, True),
        ("amount > 100", {"amount": 100}, False),
        ("amount>=100", {"amount": 100}, True),
        ("amount<=1e2", {"amount": 100}, True),
        ("amount<-1", {"amount": "many"}, False),
        ("amount=100", {"amount": 100.0}, True),
        ("new=true", {"new": True}, True),
        ("new=1", {"new": False}, False),
        ("note=a=b", {"note": "a=b"}, True),
    ],
)
def test_conditions(text: str, row: dict[str, Any], holds: bool) -> None:
    condition = Condition.parse(text)
    assert condition.holds(row) == holds
    assert Condition.parse(str(condition)) == condition


def test_what_the_logs_cannot_tell_is_refused(project: Project) -> None:
    with pytest.raises(GateError, match=r"no challenger has ever answered[\s\S]*compared by the gate"):
        asked(project)
    live(project, 0.2, at=START)
    with pytest.raises(GateError, match="nobody was answered"):
        asked(project)
    served(project)
    with pytest.raises(GateError, match=r"worth \d+, and 50 are needed"):
        asked(project, "wind>2")
    with pytest.raises(GateError, match="no feature of the rows"):
        asked(project, "site=north")
    with pytest.raises(GateError, match="keeps no 'carrier'"):
        asked(project, "carrier=AA")
    with pytest.raises(GateError, match="never differ"):
        asked(project, "origin=XXX")
    with pytest.raises(GateError, match="'c' answered nobody"):
        asked(project, challenger="c")
    with pytest.raises(GateError, match="a share of 0"):
        asked(project, share=0.0)
    with pytest.raises(GateError, match="too few of 3,000 units"):
        asked(project, metric="event:leave")
    with pytest.raises(GateError, match="no reward differs"):
        asked(project, metric="event:leave:sum")
    with pytest.raises(GateError, match="no unit has a value"):
        asked(project, metric="log_loss")
    for wrong in ("site", "amount>many", "=north"):
        with pytest.raises(GateError, match="is no condition"):
            Condition.parse(wrong)


def test_propensities_that_do_not_fit_the_answers_are_refused(project: Project) -> None:
    live(project, 0.2)
    served(project, logged=0.5)
    with pytest.raises(GateError, match="do not fit who was answered"):
        asked(project)


def test_answers_without_a_propensity_are_refused(project: Project) -> None:
    live(project)
    answer(project, UNITS[:500], START + DAY, "a", share=None)
    happen(project, "buy", {u: float(n) for n, u in enumerate(UNITS[:500])}, START + 2 * DAY)
    with pytest.raises(GateError, match="without a propensity"):
        asked(project)


def test_one_of_several_challengers_is_named(project: Project, release: Path) -> None:
    (project.outputs / "releases" / "c").symlink_to(release)
    live(project, 0.3, c=0.3)
    for place, (name, share) in enumerate((("a", 0.4), ("b", 0.3), ("c", 0.3))):
        units = UNITS[round(3000 * (0, 0.4, 0.7)[place]) : round(3000 * (0.4, 0.7, 1)[place])]
        answer(project, units, START + DAY, name, share=share)
    happen(project, "buy", {u: float(n % 7) + 3 * (n >= 2100) for n, u in enumerate(UNITS)}, START + 2 * DAY)
    with pytest.raises(GateError, match=r"2 challengers answered[\s\S]*name one of b, c"):
        asked(project)
    assert asked(project, challenger="c").gain.value == pytest.approx(3, abs=0.05)
    assert asked(project, challenger="b").gain.value == pytest.approx(0, abs=0.05)


def test_the_command(project: Project) -> None:
    def meguri(*words: str) -> Any:
        command = ["ab", "estimate", "-p", str(project.root), "--now", NOW.isoformat(), *words]
        return CliRunner().invoke(app, command)

    assert isinstance(meguri().exception, GateError)
    begun(project, "event:buy:sum", share=0.5)
    served(project, 0.5)
    assert meguri("--where", "wind>0").exit_code == 0, "the rows are those of the release's contract"
    done = meguri()
    assert done.exit_code == 0, done.output
    assert done.output.startswith("If B answered all units, event:buy:sum would be 10.0")
    assert "the difference to A alone is" in done.output
    assert "A is a, B b; as logged: " in done.output
    assert "答えた場合" in meguri("--lang", "ja", "--share", "0.3").output
    told = json.loads(meguri("--json", "--lower", "--metric", "event:buy:sum").stdout)
    assert told["values"]["dr"]["enough"]
    assert not told["metric"]["higher_is_better"]
    assert told["where"] == []
    assert isinstance(meguri("--metric", "clicks").exception, GateError)
