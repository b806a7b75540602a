"""The gate: is the challenger better than the champion? A paired test on the same later rows, and its verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from meguri.base.errors import GateError
from meguri.data.value import Value
from meguri.record.budget import Budget
from meguri.record.evaluation import Evaluation, inputs
from meguri.record.metrics import VALUE, metric_of, metrics_of
from meguri.record.stats import MIN_BLOCKS, Estimate, Floats, group_blocks, resamples_for, t_quantile, time_blocks
from meguri.record.verdict import Check, Verdict, finite, tell, words

__all__ = ["Budget", "Check", "Verdict", "judge", "rows_needed"]

POWER = 0.8
PAIRED = ("label", "score", "answer", "chance")


def judge(
    challenger: Evaluation,
    champion: Evaluation | None,
    *,
    metric: str,
    margin: float,
    alpha: float = 0.05,
    block: timedelta | None = None,
    guards: Mapping[str, float] | None = None,
    slices: Sequence[str] = (),
    uses: int = 0,
    planned: int | None = None,
    adaptive: bool = False,
    after: datetime | None = None,
    seed: int = 0,
) -> Verdict:
    """Judge the challenger against the champion on the rows that both have answered, later than ``after``.

    **What is promised.** When the challenger's true gain is -margin or less, the probability of ``pass`` is at most
    ``alpha``: together over all ``planned`` uses of a test set, of which ``uses`` were made before (Bonferroni; pass
    ``adaptive`` when challengers are made knowing earlier verdicts on the same rows). It holds for rows that depend on
    each other within ``block`` of time, within a group, or both, and not otherwise, up to what bench/gate.py measures.
    Guards and slices can only turn a pass into a fail, so they leave that promise whole and need no correction for it.

    **pass** when the lower limit of the gain is above -margin and no guard or slice is shown worse.
    **fail** when the upper limit is below -margin, or a guard or slice is shown worse: its upper limit is below its own
    -margin (a slice has the metric's) at a level corrected by Holm (1979) over all of them, so that the probability of
    failing a challenger for a guard that is not worse is at most ``alpha``. A guard that is not shown worse is not
    thereby shown safe. **unsure** otherwise, or below 10 effective blocks, with the rows that would settle it: enough
    to pass with probability 0.8 if the true gain is two margins.

    Without a champion the challenger must be shown better than the best constant answer to these very rows.

    Money is reckoned by the challenger's ``value`` for both.

    Raises GateError: no shared rows, labels that differ, an unknown metric or slice, a spent test set.
    """
    if not (margin >= 0 and 0 < alpha < 0.5):
        raise GateError(
            f"a margin of {margin} with an alpha of {alpha} is impossible",
            where="gate",
            fix="margin 0 or more, alpha 0.05",
        )
    level = Budget(margin or 1.0, alpha, planned, adaptive).spend(uses) if planned is not None else alpha
    for name in (metric, *(guards or {})):
        metric_of(name, challenger.task, challenger.value)
    for name in slices:
        if name not in challenger.slices:
            known = ", ".join(challenger.slices) or "none"
            raise GateError(f"the evaluation has no slice '{name}'", where="gate.slices", fix=f"it has: {known}")
    rows = _rows(challenger, champion, after)
    test = _Test(challenger.task, block, seed, alone=champion is None, value=challenger.value)
    try:
        main = test.estimate(rows, metric, level)
    except _CannotTell as error:
        raise GateError(str(error), where="gate.metric", fix="judge on more rows, or by another metric") from error
    if test.alone:
        margin, parts = 0.0, []
    else:
        parts = [_Part(name, name, bound, rows) for name, bound in (guards or {}).items()]
        for name in slices:
            column = f"slice {name}"
            for part in rows.sort(column, "time", "key").partition_by(column, maintain_order=True):
                parts.append(_Part(f"{name}={part[column][0]}", metric, margin, part))
    checks = _holm(parts, test, alpha)
    needed = rows_needed(main, margin, level)
    currency = None if challenger.value is None else challenger.value.currency
    return tell(
        main,
        metric=metric,
        margin=margin,
        level=level,
        checks=checks,
        needed=needed,
        alone=test.alone,
        currency=currency,
    )


class _CannotTell(Exception):
    pass


def _rows(challenger: Evaluation, champion: Evaluation | None, after: datetime | None) -> pl.DataFrame:
    """The shared rows in the order of time: the challenger's columns, the champion's with "old " before their names."""
    rows = challenger.rows
    if champion is not None:
        if champion.task != challenger.task:
            raise GateError(
                f"a {challenger.task} model cannot be compared with a {champion.task} model", fix="evaluate both alike"
            )
        kept = [name for name in PAIRED if name in champion.rows.columns]
        old = champion.rows.select("key", pl.col(kept).name.prefix("old "))
        try:
            rows = rows.join(old, on="key", how="inner", validate="1:1")
        except pl.exceptions.ComputeError as error:
            raise GateError("a key comes twice in an evaluation", fix="make the contract's key unique") from error
        differ = rows.filter(pl.col("label") != pl.col("old label"))
        if len(differ):
            raise GateError(
                f"{len(differ)} of {len(rows)} shared rows have another label in each evaluation, the first is '{differ['key'][0]}'",
                fix="evaluate both on the same version of the data",
            )
    if after is not None:
        rows = rows.filter(pl.col("time") > after)
    if rows.is_empty():
        later = f" later than {after:%Y-%m-%d %H:%M}" if after else ""
        raise GateError(f"the evaluations share no rows{later}", fix="evaluate both on the same, later test part")
    return rows.sort("time", "key")


@dataclass(frozen=True)
class _Part:
    """What one check is made of."""

    title: str
    metric: str
    margin: float
    rows: pl.DataFrame


@dataclass(frozen=True)
class _Test:
    """How any two answers to the same rows are compared; ``alone``: with the best constant answer."""

    task: str
    block: timedelta | None
    seed: int
    alone: bool
    value: Value | None

    def estimate(self, rows: pl.DataFrame, name: str, level: float) -> Estimate:
        """The gain on these rows, sorted by time, with resamples enough for limits at ``level``."""
        measure = metrics_of(self.value)[name]
        (y, s), (old_y, old_s) = self._sides(rows, name)
        value, against = measure.value(y, s), measure.value(old_y, old_s)
        if not (math.isfinite(value) and math.isfinite(against)):
            why = "all have the same label, or a score is not finite"
            raise _CannotTell(f"{words(name)} cannot be told from {len(rows)} rows: {why}")
        influence, unit = measure.compared(y, s, old_y, old_s)
        length = None if self.block is None else self.block // timedelta(microseconds=1)
        axes = [time_blocks(rows["time"].dt.timestamp("us").to_numpy(), length)]
        if rows["group"].null_count() < len(rows):
            axes.append(group_blocks(rows["group"].to_list()))
        return Estimate.of(
            measure.gain(value, against),
            influence,
            axes,
            seed=self.seed,
            unit=unit,
            resamples=resamples_for(level),
        )

    def _sides(self, rows: pl.DataFrame, name: str) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
        """Labels and scores of the challenger, then of the champion or of the best constant answer."""
        new = inputs(rows, self.task, name, self.value)
        if self.alone and self.task == "multiclass" and name != VALUE:
            shares = rows["label"].value_counts(normalize=True).sort("proportion", "label")
            chance = rows["label"].replace_strict(shares["label"], shares["proportion"], return_dtype=pl.Float64)
            top = shares.row(-1, named=True)
            plain = rows.with_columns(answer=pl.lit(top["label"]), chance=chance, score=pl.lit(top["proportion"]))
            old = inputs(plain, self.task, name)
        elif self.alone and new is not None:
            old = (new[0], np.full(len(rows), metrics_of(self.value)[name].best(new[0])))
        else:
            prior = [pl.col(f"old {n}").alias(n) for n in PAIRED if f"old {n}" in rows.columns]
            old = inputs(rows.select(prior), self.task, name, self.value)
        if new is None or old is None:
            raise _CannotTell(f"{words(name)} needs the probabilities of all classes, and the predictions have none")
        return new, old


def _holm(parts: Sequence[_Part], test: _Test, alpha: float) -> tuple[Check, ...]:
    """Judge guards and slices together: reject at alpha / (how many are left) until none more is shown worse (Holm 1979).

    Which of them have rows enough to be judged depends on their times, groups and labels, never on the losses.
    """
    found: dict[int, Estimate] = {}
    for i, part in enumerate(parts):
        try:
            estimate = test.estimate(part.rows, part.metric, alpha / len(parts))
        except _CannotTell:
            continue
        if estimate.blocks >= MIN_BLOCKS:
            found[i] = estimate
    left, worse, level = set(found), set[int](), alpha
    while left:
        level = alpha / len(left)
        now = {i for i in left if found[i].limits(level)[1] < -parts[i].margin}
        if not now:
            break
        left, worse = left - now, worse | now
    return tuple(_check(part, found.get(i), i in worse, level) for i, part in enumerate(parts))


def _check(part: _Part, estimate: Estimate | None, worse: bool, level: float) -> Check:
    if estimate is None:
        return Check(part.title, part.metric, part.margin, len(part.rows))
    low, high = estimate.limits(level)
    figures = (estimate.value, finite(low), finite(high))
    return Check(part.title, part.metric, part.margin, len(part.rows), *figures, worse=worse)


def rows_needed(main: Estimate, margin: float, level: float) -> int | None:
    """How many rows, of the same kind and in blocks like these, would settle it; None when no number can be told.

    Rows for POWER to pass if the true gain is two margins: n ((reach + t se) / (3 margin))^2 with Student's t at this
    pilot's own degrees of freedom, which pays for the pilot's error about the variance (Stein 1945). Where that many
    are there already the gain is nearer to -margin than hoped: then the same for the gain as observed, taken to be at
    least half a margin away from -margin.
    """
    blocks = max(main.blocks, 1.0)
    least = main.rows * MIN_BLOCKS / blocks if blocks < MIN_BLOCKS else main.rows + 1.0
    reach = main.reach(level, -1)
    if not math.isfinite(reach):
        return math.ceil(least)
    both = reach + t_quantile(POWER, max(main.blocks, 2.0) - 1) * main.error
    hoped = main.rows * (both / (3 * margin)) ** 2 if margin else 0.0
    if hoped <= main.rows:
        away = max(abs(main.value + margin), margin / 2)
        hoped = main.rows * (both / away) ** 2 if away > 1e-9 * both else math.inf
    return math.ceil(max(hoped, least)) if math.isfinite(hoped) else None
