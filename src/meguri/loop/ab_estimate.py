"""What another split of the same releases would have earned, from the answers that a rollout with challengers has logged."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from meguri.base.errors import DataError, GateError
from meguri.loop import ab
from meguri.record import rollout
from meguri.record.experiment import Metric
from meguri.record.policy import (
    MIN_EFFECTIVE,
    PolicyValue,
    cross_fitted,
    doubly_robust,
    doubly_robust_gain,
    importance_weights,
    ips,
    snips,
)

if TYPE_CHECKING:
    import polars as pl

    from meguri.data.contract import Contract
    from meguri.loop.project import Project
    from meguri.record.ledger import Rollout

EVENTS = 20  # units that did it, and that did not, before a rate is told
FAR = 4.0  # standard errors by which the mean weight may miss 1: beyond, the logged propensities are not those of the split
MOST_COLUMNS = 30  # of the rows' numbers, for the model of the reward
_ASKED = re.compile(r"(?P<name>.+?)\s*(?P<sign><=|>=|!=|=|<|>)\s*(?P<value>.*)")
Floats = NDArray[np.float64]
_SIGNS = ("<=", ">=", "<", ">")


@dataclass(frozen=True)
class Condition:
    """A question to a row: a feature, a sign (= != < <= > >=) and a value; a row without the feature does not fulfil it."""

    name: str
    sign: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """From ``site=north`` or ``amount>100``; GateError for what is neither."""
        found = _ASKED.fullmatch(text.strip())
        if found is None or (found["sign"] in _SIGNS and _number(found["value"]) is None):
            raise GateError(
                f"'{text}' is no condition", where="--where", fix="write site=north, site!=north or amount>100"
            )
        return cls(found["name"], found["sign"], found["value"])

    def holds(self, row: dict[str, Any]) -> bool:
        """Whether the row fulfils it."""
        value = row.get(self.name)
        if value is None:
            return False
        ours, theirs = _number(value), _number(self.value)
        if self.sign in ("=", "!="):
            text = str(value).lower() if isinstance(value, bool) else str(value)
            same = ours == theirs if ours is not None and theirs is not None else text == self.value
            return same == (self.sign == "=")
        if ours is None or theirs is None:
            return False
        return {"<": ours < theirs, "<=": ours <= theirs, ">": ours > theirs, ">=": ours >= theirs}[self.sign]

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.value}"


@dataclass(frozen=True)
class Estimate:
    """The policy (``challenger`` answers ``share`` of the units of which all of ``where`` hold, ``champion`` the rest) and its value.

    ``values`` are those of ips, snips and dr, ``alone`` the champion's alone and ``gain`` their difference, both by dr; per unit.
    ``logged`` is what the units earned under the split that was live from ``since`` to ``until``; ``touched`` of the ``units``
    fulfil the conditions.
    """

    metric: Metric
    champion: str
    challenger: str
    share: float
    where: tuple[Condition, ...]
    since: datetime
    until: datetime
    units: int
    touched: int
    logged: float
    values: dict[str, PolicyValue]
    alone: PolicyValue
    gain: PolicyValue


def estimate(
    project: Project,
    *,
    metric: Metric,
    challenger: str | None,
    share: float,
    where: Sequence[Condition],
    outlet: str,
    now: datetime,
) -> Estimate:
    """Value a policy on the units that were answered while the latest rollout with challengers was live.

    A unit's reward is the metric since its first answer; of labels, the mean over its answers. Its propensity and its features
    are those of that answer. Raises GateError where the ledger cannot say it: nothing logged, features not kept, too few units
    that both policies treat otherwise, propensities that do not fit who was answered.
    """
    if not 0 < share <= 1:
        raise GateError(f"a share of {share}", where="--share", fix="give a share above 0, up to 1")
    live, since, until = _logged(project, outlet, now)
    challenger = _chosen(live, challenger, outlet)
    contract = project.release(live.champion).contract  # that of the rows as they came, which may not be today's
    units, rows = _units(project, contract, outlet, live, where, since, until)
    found = ab.what_followed(project, metric, outlet, units.select("unit", "release", "arm", "since"), since, until)
    found = found.join(units.select("unit", "propensity", "row"), on="unit", how="left", maintain_order="left")
    if found.is_empty():
        raise GateError(f"no unit has a value of '{metric.name}' yet", where=outlet, fix="wait for its labels")
    rewards = found["value"].to_numpy()
    if metric.kind == "ratio":
        rewards = rewards / found["answers"].to_numpy()
    few = (
        int(min((rewards > 0).sum(), (rewards <= 0).sum())) if metric.kind == "rate" else EVENTS * (np.ptp(rewards) > 0)
    )
    if few < EVENTS:
        what = (
            f"too few of {len(rewards):,} units did '{metric.name}', or did not"
            if metric.kind == "rate"
            else "no reward differs"
        )
        raise GateError(what, where=metric.name, fix=f"wait until {EVENTS} have" if metric.kind == "rate" else "wait")
    logged = found["propensity"].to_numpy()
    if not np.isfinite(logged).all():
        raise GateError("some answers were logged without a propensity", where=outlet, fix="upgrade the service")
    mine = [rows[place] for place in found["row"]]
    inside = np.array([all(condition.holds(row) for condition in where) for row in mine])
    names = [live.champion, challenger, *(name for name in live.challengers if name != challenger)]
    arms = found["release"].replace_strict({name: place for place, name in enumerate(names)}).to_numpy()
    chances = np.zeros((len(arms), len(names)))
    chances[:, 1] = np.where(inside, share, 0.0)
    chances[:, 0] = 1 - chances[:, 1]
    table = np.column_stack([inside.astype(np.float64), _numbers(contract, mine)])
    values, alone, gain = _values(rewards, logged, arms, chances, table)
    return Estimate(
        metric, live.champion, challenger, share, tuple(where), since, until, len(arms), int(inside.sum()),
        float(rewards.mean()), values, alone, gain,
    )  # fmt: skip


def _values(
    rewards: Floats, logged: Floats, arms: NDArray[np.int64], chances: Floats, table: Floats
) -> tuple[dict[str, PolicyValue], PolicyValue, PolicyValue]:
    """The policy of these ``chances`` (units, releases), the champion alone (the first release), and what the policy gains."""
    each = np.arange(len(arms))
    target, champion = chances[each, arms], (arms == 0).astype(np.float64)
    _fits(logged, target)
    model = cross_fitted(table, rewards, arms, chances.shape[1])
    taken, expected, before = model[each, arms], (chances * model).sum(axis=1), model[:, 0]
    try:
        gain = doubly_robust_gain(rewards, logged, target, champion, taken, expected, before)
        values = {
            "ips": ips(rewards, logged, target),
            "snips": snips(rewards, logged, target),
            "dr": doubly_robust(rewards, logged, target, taken, expected),
        }
        alone = doubly_robust(rewards, logged, champion, taken, before)
    except DataError as error:
        raise GateError(error.what, where=error.where, fix=error.fix) from error
    least = min(value.effective for value in (gain, alone, *values.values()))
    if least < MIN_EFFECTIVE:
        raise GateError(
            f"the logs cannot tell: of {len(arms):,} units those that count are worth {least:.0f}, and {MIN_EFFECTIVE:.0f} are needed",
            where="effective sample size",
            fix="let the rollout run on, give the challenger a greater share, or ask for a wider slice",
        )
    return values, alone, gain


def metric_asked(project: Project, text: str | None, outlet: str, *, lower: bool) -> Metric:
    """The metric that ``text`` names, or else that of the latest test in the outlet; GateError where there is neither."""
    if text is not None:
        return ab.metric_of(
            text, project.contract.task, project.contract.value, **({"higher_is_better": False} if lower else {})
        )
    tests = [test for test in project.ledger.experiments() if test.outlet == outlet]
    if not tests:
        raise GateError("no metric, and no test to take it from", where=outlet, fix="write --metric event:KIND")
    return Metric(**tests[-1].detail["metric"])


def _logged(project: Project, outlet: str, now: datetime) -> tuple[Rollout, datetime, datetime]:
    """The latest rollout with challengers, and from when to when it stood."""
    history = [r for r in project.ledger.rollouts(outlet) if r.at <= now]
    shared = [place for place, r in enumerate(history) if r.challengers]
    if not shared:
        fix = "meguri rollout --challenger RELEASE=0.1; a release that was never live is compared by the gate, on labelled rows"
        raise GateError(f"no challenger has ever answered in '{outlet}'", where=outlet, fix=fix)
    first = shared[-1]
    live = history[first]
    while first and (history[first - 1].champion, history[first - 1].challengers) == (live.champion, live.challengers):
        first -= 1
    since = history[first].at
    over = rollout.stood_until(project.ledger, outlet, live.champion, live.challengers, since=since)
    return live, since, now if over is None else min(now, over)


def _chosen(live: Rollout, challenger: str | None, outlet: str) -> str:
    names = list(live.challengers)
    if challenger is None and len(names) == 1:
        return names[0]
    if challenger not in names:
        what = f"'{challenger}' answered nobody" if challenger else f"{len(names)} challengers answered"
        fix = f"name one of {', '.join(names)}; a release that was never live is compared by the gate, on labelled rows"
        raise GateError(f"{what} in the latest rollout", where=outlet, fix=fix)
    return challenger


def _units(
    project: Project,
    contract: Contract,
    outlet: str,
    live: Rollout,
    where: Sequence[Condition],
    since: datetime,
    until: datetime,
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """unit, release, arm, since, propensity and the place of its features, and the features of each unit's first answer."""
    import polars as pl

    for condition in where:
        if condition.name not in contract.features:
            fix = f"features: {', '.join(contract.features)}"
            raise GateError(f"'{condition.name}' is no feature of the rows", where=str(condition), fix=fix)
    first = ab.first_answers(project, outlet, since=since, until=until)
    first = first.filter(pl.col("release").is_in([live.champion, *live.challengers]))
    if first.is_empty():
        raise GateError("nobody was answered since the rollout", where=outlet, fix="let it run")
    rows: list[dict[str, Any]] = [json.loads(text) if text else {} for text in first["features"]]
    for condition in where:
        if not any(condition.name in row for row in rows):
            fix = "set outlets.rest.features to values, and let it run"
            raise GateError(f"the ledger keeps no '{condition.name}' with the answers", where=str(condition), fix=fix)
    units = first.select("unit", "release", "arm", "propensity", since="made_at").with_row_index("row")
    return units, rows


def _numbers(contract: Contract, rows: Sequence[dict[str, Any]]) -> Any:
    """The numeric features of the rows, (n, k), NaN where there is none."""
    names = ab.numeric(contract)[:MOST_COLUMNS]
    return np.array([[_float(row.get(name)) for name in names] for row in rows]).reshape(len(rows), len(names))


def _fits(logged: Any, target: Any) -> None:
    """Raise GateError when the weights of the policy are not 1 on average, as those of right propensities are."""
    weights = importance_weights(logged, target)
    error = float(weights.std()) / math.sqrt(len(weights))
    if abs(float(weights.mean()) - 1) > FAR * max(error, 1e-9):
        raise GateError(
            f"the logged propensities do not fit who was answered: weights are {weights.mean():.3f} on average, not 1",
            where="propensity",
            fix="find out why the split is not as planned: meguri ab status",
        )


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _float(value: Any) -> float:
    found = None if isinstance(value, str) else _number(value)
    return math.nan if found is None else found
