"""What a gain in money comes to: at the answers of the last days, beside the cost of training and of serving."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from meguri.base.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meguri.loop.project import Project
    from meguri.loop.settings import Settings
    from meguri.loop.words import Words
    from meguri.record.experiment import Report
    from meguri.record.ledger import Experiment

DAYS = 30


@dataclass(frozen=True)
class Worth:
    """Money, all in ``currency``, over the ``answers`` of the last ``days``; None where it cannot be told.

    ``gain``, from ``low`` to ``high``, is what the challenger would have brought more; ``training`` is the cost of the
    ``seconds`` of a turn, ``serving`` that of the answers.
    """

    currency: str
    answers: int
    days: int
    seconds: float
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    training: float | None = None
    serving: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them."""
        return asdict(self)


def check(project: Project, settings: Settings) -> None:
    """Refuse, before anything is trained, settings that speak of money where the contract names none."""
    costs = settings.costs
    named = ["gate.metric"] if settings.gate.metric == "value" else []
    named += ["gate.guards"] if "value" in settings.gate.guards else []
    named += ["costs"] if (costs.training, costs.serving) != (None, None) else []
    if named and project.contract.value is None:
        what = f"{named[0]} is about money, and the contract does not say what an answer is worth"
        fix = "give it one in src/repository/schema.py: Contract(…, value=Value(…))"
        raise SettingsError(what, where="hydra/default.yaml", fix=fix)


def worth(
    project: Project,
    *,
    now: datetime,
    costs: Mapping[str, Any],
    seconds: float,
    gain: tuple[float | None, float | None, float | None],
) -> Worth | None:
    """What ``gain``, its low and its high end, per answer, come to; None where the contract knows no money.

    ``costs`` are the settings', ``seconds`` those of the turn that is told of.
    """
    value = project.contract.value
    if value is None:
        return None
    answers = project.ledger.count_predictions(since=now - timedelta(days=DAYS), until=now)
    hour, thousand = costs.get("training"), costs.get("serving")
    most = value.most or math.inf  # a table bounds what one answer can change, a bootstrap knows nothing of that
    known = [None if part is None or not answers else min(max(part, -most), most) * answers for part in gain]
    return Worth(
        value.currency,
        answers,
        DAYS,
        seconds,
        gain=known[0],
        low=known[1],
        high=known[2],
        training=None if hour is None else hour * seconds / 3600,
        serving=None if thousand is None or not answers else thousand * answers / 1000,
    )


def told(found: Mapping[str, Any], words: Words) -> str:
    """``to_dict``'s figures in words, empty where there is nothing to tell."""

    def money(name: str) -> str:
        return words.money(found[name], found["currency"])

    about = {"n": found["answers"], "days": found["days"]}
    parts = []
    if found["gain"] is not None:
        total = words.money(abs(found["gain"]), found["currency"])
        parts.append(words("worth_more" if found["gain"] >= 0 else "worth_less", total=total, **about))
        if found["low"] is not None and found["high"] is not None:
            parts[0] += words("worth_range", low=money("low"), high=money("high"))
    if found["serving"] is not None:
        them = "worth_serving" if found["gain"] is None else "worth_serving_them"
        parts.append(words(them, cost=money("serving"), **about))
    if found["training"] is not None:
        parts.append(words("worth_training", cost=money("training"), time=words.seconds(found["seconds"])))
    return words("worth_join").join(parts)


def ab_worth(project: Project, test: Experiment, report: Report, *, now: datetime, words: Words) -> str:
    """What an A/B test's difference comes to, and what it costs; empty where its metric is not the value of an answer."""
    reading = report.primary
    if reading.metric.name != "value":
        return ""
    kept = [turn for turn in project.ledger.turns() if turn.release == test.detail["challenger"]]
    gain = reading.gain if reading.enough and not report.srm.found else (None, None, None)
    costs = project.plain_settings().get("costs") or {}
    seconds = (kept[-1].seconds if kept else None) or 0.0
    found = worth(project, now=now, costs=costs, seconds=seconds, gain=gain)
    return "" if found is None else told(found.to_dict(), words)
