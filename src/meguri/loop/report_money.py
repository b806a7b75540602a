"""The report's figures, in money where they are money, and what the loop cost beside what it brought."""

from __future__ import annotations

import math

from meguri.base.money import amount
from meguri.loop.page import e, table
from meguri.loop.story import METRICS, PolicyResult, Story
from meguri.loop.words import Words
from meguri.record.metrics import VALUE


def show(story: Story, words: Words, value: float | None, metric: str, sign: str = "") -> str:
    """A metric's figure; with ``sign`` + a gain is shown as one."""
    if value is None or not math.isfinite(value):
        return "–"
    if metric == VALUE and story.currency is not None:
        shown = ("+" if sign and value > 0 else "") + amount(value) + f" {words.unit(story.currency)}"
    elif metric in METRICS["regression"]:  # in the unit of the label: of any size
        shown = format(value, sign + (",.0f" if abs(value) >= 1000 else ".4g"))
    else:
        shown = format(value, f"{sign}.3f")
    return shown.replace("-", "\N{MINUS SIGN}")


def label(story: Story, words: Words, metric: str) -> str:
    """What stands at an axis of the metric."""
    name = words.name("metric", metric)
    if metric == VALUE and story.currency is not None:
        name = words("in_money", metric=name, unit=words.unit(story.currency))
    return words("y_metric", metric=name, better=words.better(metric))


def money_table(story: Story, words: Words) -> str:
    """What each way of running brought and what it cost; empty where the contract knows no money."""
    if story.currency is None:
        return ""
    costs = {"training": story.costs.get("training"), "serving": story.costs.get("serving")}
    set_ = [name for name, cost in costs.items() if cost is not None]
    columns = ["earned", *set_, *(["left"] if set_ else [])]
    rows = []
    for name, policy in story.policies.items():
        found = _money(policy, costs)
        cells = [show(story, words, found[column], VALUE) for column in columns]
        rows.append([e(words.name("policy", name)), *map(e, cells)])
    head = [(words("col_policy"), False), *((words(f"col_{column}"), True) for column in columns)]
    return f"<figure>{table(head, rows)}<figcaption>{e(words('c_money'))}</figcaption></figure>"


def _money(policy: PolicyResult, costs: dict[str, float | None]) -> dict[str, float | None]:
    """``earned`` by the answers whose label came; the cost of ``training`` and ``serving`` them; what is ``left``."""
    each, rows = policy.metrics.get(VALUE), policy.metrics.get("rows") or 0
    found: dict[str, float | None] = {
        "earned": None if each is None else each * rows,
        "training": (costs["training"] or 0.0) * policy.seconds / 3600,
        "serving": (costs["serving"] or 0.0) * rows / 1000,
    }
    earned, spent = found["earned"], (found["training"] or 0.0) + (found["serving"] or 0.0)
    return found | {"left": None if earned is None else earned - spent}
