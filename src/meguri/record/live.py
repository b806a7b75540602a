"""The live metric: how the matured predictions of a release do, against what was expected of it."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from meguri.base.clock import moment
from meguri.base.errors import GateError, TriggerError
from meguri.base.money import money
from meguri.record.evaluation import Evaluation, inputs
from meguri.record.metrics import VALUE, metric_of, metrics_of
from meguri.record.stats import MIN_BLOCKS, Estimate, resamples_for, time_blocks
from meguri.record.verdict import words

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from meguri.data.value import Value
    from meguri.record.ledger import Ledger


def live_estimate(
    rows: pl.DataFrame, task: str, metric: str, *, block: timedelta, level: float, value: Value | None = None
) -> Estimate | None:
    """The metric on an evaluation's rows with limits by blocks of time; None when the rows cannot tell it."""
    rows = rows.sort("time", "key")
    measure = metrics_of(value)[metric]
    given = inputs(rows, task, metric, value) if len(rows) else None
    figure = measure.value(*given) if given is not None else math.nan
    if given is None or not math.isfinite(figure):
        return None
    blocks = time_blocks(rows["time"].dt.timestamp("us").to_numpy(), block // timedelta(microseconds=1))
    influence = measure.influence(*given)
    unit = max(measure.most(given[0]), math.sqrt(float(influence @ influence) / len(rows)))
    return Estimate.of(figure, influence, [blocks], seed=0, unit=unit, resamples=resamples_for(level))


def shown_worse(
    ledger: Ledger,
    *,
    now: datetime,
    champion: Mapping[str, Any],
    known: Mapping[str, float],
    task: str,
    metric: str,
    margin: float,
    window: timedelta,
    first: bool,
    block: timedelta,
    alpha: float,
    value: Value | None = None,
) -> str | None:
    """One sentence when the live release is shown to do worse than expected by more than ``margin``, else None.

    ``champion`` is its manifest, ``known`` the metrics of its evaluation, which count as exact; with ``first`` the first
    ``window`` that it was live is expected of it instead. The difference of two stretches that share no rows reaches as
    far as the root of the sum of their squared reaches (Zou and Donner 2008). Raises TriggerError for a metric that
    the task, the ledger or the evaluation has not.
    """
    try:
        measure = metric_of(metric, task, value, live=True)
    except GateError as error:
        raise TriggerError(error.what, where="Worse", fix=error.fix) from error
    release, since = champion.get("id"), now - window

    def stretch(begin: datetime, end: datetime) -> Estimate | None:
        joined = ledger.joined(since=begin, until=end, as_of=now, release=release)
        rows = Evaluation.live(joined, task=task, classes=champion.get("classes"), value=value).rows
        estimate = live_estimate(rows, task, metric, block=block, level=alpha, value=value)
        return estimate if estimate is not None and estimate.blocks >= MIN_BLOCKS else None

    live = stretch(since, now)
    if live is None:
        return None
    side = -1 if measure.better == "lower" else 1  # the side of the limit that is the better one
    reach = live.reach(alpha, side)
    if first:
        begin = next((moment(r.at) for r in ledger.rollouts() if r.champion == release), None)
        if begin is None or begin + window > since:
            return None
        then = stretch(begin, begin + window)
        if then is None:
            return None
        expected, reach = then.value, math.hypot(reach, then.reach(alpha, -side))
        what = f"in its first {window / timedelta(days=1):g} days"
    else:
        if metric not in known:
            has = ", ".join(sorted(known)) or "none"
            raise TriggerError(f"the live release's evaluation has no '{metric}'", where="Worse", fix=f"it has: {has}")
        expected, what = float(known[metric]), "in its evaluation"
    loss = -measure.gain(live.value, expected)
    if loss - reach <= margin:
        return None
    name, days = metric.replace("_", " "), window / timedelta(days=1)
    told = [f"{live.value:.4g}", f"{expected:.4g}", f"{loss - reach:.2g}", f"{margin:g}"]
    if value is not None and metric == VALUE:
        name, told = words(metric), [money(of, value.currency) for of in (live.value, expected, loss - reach, margin)]
    return (
        f"live {name} is {told[0]} over the last {days:g} days ({live.rows:,} predictions), and was {told[1]} {what}: "
        f"worse by at least {told[2]}, above {told[3]}"
    )
