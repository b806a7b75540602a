"""The figures that a model is judged by, each with every row's influence on it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from meguri.base.errors import GateError
from meguri.data.value import Value
from meguri.record.stats import Floats

CLIP = 1e-7  # a certain and wrong answer costs 16.1 in log loss: ONNX answers are 32-bit and reach 0 and 1 exactly


def _auc_raw(y: Floats, s: Floats) -> Floats:
    """The share of the other class that each row is ranked on the right side of, ties half (DeLong et al. 1988)."""
    up = y > 0.5
    share = np.zeros(len(y))
    for own, other, sign in ((up, ~up, 1.0), (~up, up, -1.0)):
        ranked, asked = np.sort(sign * s[other]), sign * s[own]
        places = np.searchsorted(ranked, asked, "left") + np.searchsorted(ranked, asked, "right")
        share[own] = places / (2 * max(len(ranked), 1))
    return share


def _auc(y: Floats, s: Floats) -> float:
    up = y > 0.5
    return float(_auc_raw(y, s)[up].mean()) if 0 < up.sum() < len(y) else math.nan


def _auc_influence(y: Floats, s: Floats) -> Floats:
    pull = _auc_raw(y, s)
    for own in (y > 0.5, y <= 0.5):
        pull[own] = (pull[own] - pull[own].mean()) * (len(y) / own.sum())
    return pull


def _auc_most(y: Floats) -> float:
    up = float((y > 0.5).sum())
    return len(y) / max(min(up, len(y) - up), 1.0)


def _rmse(y: Floats, s: Floats) -> float:
    return math.sqrt(_square(y, s).mean())


def _rmse_influence(y: Floats, s: Floats) -> Floats:
    squares = _square(y, s)
    mean = float(squares.mean())
    pull: Floats = (squares - mean) / (2 * math.sqrt(mean)) if mean > 0 else np.zeros(len(y))
    return pull


def _log_loss(y: Floats, s: Floats) -> Floats:
    given: Floats = np.where(y > 0.5, s, 1 - s)
    loss: Floats = -np.log(np.clip(given, CLIP, 1.0))
    return loss


@dataclass(frozen=True)
class Metric:
    """A figure of merit of labels ``y`` and scores ``s``, float arrays of shape (n,).

    ``raw`` is what each row is given by itself: its share when the value is their mean (``mean``), else what ``curve``
    makes an influence of. ``most`` is n times what one row can change, where that is known; ``best`` is the constant
    score that does best on ``y``. ``unlike``: rows on which scores differ are few and of very different weight.
    """

    better: Literal["lower", "higher", "neither"]
    tasks: tuple[str, ...]
    raw: Callable[[Floats, Floats], Floats]
    best: Callable[[Floats], float]
    total: Callable[[Floats, Floats], float] | None = None
    curve: Callable[[Floats, Floats], Floats] | None = None
    most: Callable[[Floats], float] = lambda _: 0.0
    unlike: bool = False

    def per_row(self, y: Floats, s: Floats) -> Floats | None:
        """Each row's share, shape (n,), when the value is a mean over rows, else None."""
        return self.raw(y, s) if self.curve is None else None

    def value(self, y: Floats, s: Floats) -> float:
        """The figure; not a number where the rows cannot tell it."""
        return self.total(y, s) if self.total is not None else float(self.raw(y, s).mean())

    def influence(self, y: Floats, s: Floats) -> Floats:
        """How far each row pulls the value away from where it is; mean 0, shape (n,)."""
        if self.curve is not None:
            return self.curve(y, s)
        rows = self.raw(y, s)
        pull: Floats = rows - rows.mean()
        return pull

    def compared(self, y: Floats, s: Floats, old_y: Floats, old_s: Floats) -> tuple[Floats, float]:
        """The influence on the gain of scores ``s`` over ``old_s``, and its size in a row on which they differ.

        Where no row differs the size is the most that one could change; and where rows are ``unlike``, as the dearest may
        be just those that these rows do not show (bench/gate.py, case "value").
        """
        pull = self.influence(y, s) - self.influence(old_y, old_s)
        differ = pull[self.raw(y, s) != self.raw(old_y, old_s)]
        size = math.sqrt(float(differ @ differ) / len(differ)) if len(differ) else self.most(y)
        size = max(size, self.most(y)) if self.unlike else size
        return (pull if self.better == "higher" else -pull), size

    def gain(self, value: float, against: float) -> float:
        """How much better ``value`` is than ``against``, in the metric's unit."""
        return value - against if self.better == "higher" else against - value


def _hits(y: Floats, s: Floats) -> Floats:
    hit: Floats = ((s >= 0.5) == (y > 0.5)).astype(np.float64)
    return hit


def _square(y: Floats, s: Floats) -> Floats:
    square: Floats = (s - y) ** 2
    return square


def _absolute(y: Floats, s: Floats) -> Floats:
    size: Floats = np.abs(s - y)
    return size


def _over(y: Floats, s: Floats) -> Floats:
    over: Floats = s - y
    return over


def _average(y: Floats) -> float:
    return float(y.mean())


def _one(_: Floats) -> float:
    return 1.0


CLASSES = ("binary", "multiclass")
VALUES = ("regression",)

METRICS: dict[str, Metric] = {
    "log_loss": Metric("lower", CLASSES, _log_loss, _average),
    "brier": Metric("lower", CLASSES, _square, _average, most=_one),
    "auc": Metric("higher", ("binary",), _auc_raw, _average, _auc, _auc_influence, _auc_most),
    "accuracy": Metric("higher", CLASSES, _hits, _average, most=_one),
    "mae": Metric("lower", VALUES, _absolute, lambda y: float(np.median(y))),
    "rmse": Metric("lower", VALUES, _square, _average, _rmse, _rmse_influence),
    "bias": Metric("neither", VALUES, _over, _average),
}


VALUE = "value"  # the metric's name where the contract says what an answer is worth


def metrics_of(value: Value | None) -> dict[str, Metric]:
    """The metrics by name, with ``value``, the mean money of an answer, where the contract has one.

    Its labels and scores are codes of classes, or numbers, as ``evaluation.inputs`` gives them.
    """
    if value is None:
        return METRICS
    tasks = VALUES if value.table is None else CLASSES
    return {**METRICS, VALUE: Metric("higher", tasks, value.earned, value.best, most=lambda _: value.most, unlike=True)}


def told_live(name: str, task: str) -> bool:
    """Whether the ledger can tell the metric: it keeps the probability of the answer alone, and log loss needs the true class's."""
    return (name, task) != ("log_loss", "multiclass")


def metric_of(name: str, task: str, value: Value | None = None, *, judged: bool = True, live: bool = False) -> Metric:
    """The metric called ``name``; GateError when there is none for the task, or none that can be better or worse.

    With ``live`` it is also one that the ledger can tell.
    """
    known = metrics_of(value)
    fit = [n for n, m in known.items() if task in m.tasks and not (judged and m.better == "neither")]
    fit = [n for n in fit if told_live(n, task) or not live]
    if name not in fit:
        near = difflib.get_close_matches(name, fit, n=1, cutoff=0.5)
        why = "is not known" if name not in known else f"is none to judge a {task} model by"
        if live and not told_live(name, task):
            near, why = [], "cannot be told from the ledger, which keeps the probability of the answer alone"
        fix = (f"did you mean '{near[0]}'? " if near else "") + f"metrics for {task}: {', '.join(fit)}"
        if name == VALUE and value is None:
            fix = "say in the contract what an answer is worth: Contract(…, value=Value(…))"
        raise GateError(f"the metric '{name}' {why}", where="gate.metric", fix=fix)
    return known[name]
