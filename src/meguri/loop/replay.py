"""A replay: the loop over the past, the same code with the clock handed in, and what it would have brought."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from datetime import datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from meguri.base import clock
from meguri.base.errors import SettingsError
from meguri.base.files import write_json
from meguri.data.drift import psi
from meguri.loop import intake
from meguri.loop.lineage import trace
from meguri.loop.project import Project
from meguri.loop.report import write_report
from meguri.loop.steps import Steps
from meguri.loop.story import PolicyResult, Story, TurnLine
from meguri.loop.tick import collect, scratch, tick
from meguri.loop.words import Language
from meguri.record.evaluation import Evaluation
from meguri.record.metrics import metrics_of, told_live

if TYPE_CHECKING:
    from meguri.record.ledger import Ledger

# policy, the moment reached, how far (0 to 1), and what is being done
Progress = Callable[[str, datetime, float, str], None]


def replay(
    project: Project,
    *,
    since: datetime,
    until: datetime,
    step: timedelta | None = None,
    policies: Mapping[str, str] | None = None,
    always: timedelta | None = None,
    score_from: datetime | None = None,
    overrides: Sequence[str] = (),
    language: Language = "en",
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Run the loop from ``since`` to ``until`` under each policy; write the report and return the summary.

    The policies run beside each other, in processes of their own.

    ``policies`` are further trigger expressions by name; ``always`` is how often a baseline that releases without a gate
    retrains (none: no such baseline). Live metrics count predictions from ``score_from`` on. All state goes to
    ``outputs/replay/<policy>``; what is live is not touched.
    """
    if until <= since:
        raise SettingsError(
            f"the replay ends at {until:%Y-%m-%d} and begins at {since:%Y-%m-%d}", where="--to", fix="let it end later"
        )
    step = step or clock.duration(project.settings(overrides).loop.step)
    overrides = (*overrides, f"loop.step={clock.spell(step)}")
    settings = project.settings(overrides)
    folder = project.outputs / "replay"
    if folder.exists():
        shutil.rmtree(folder)
    score_from = score_from or since

    plans = {"loop": (settings.loop.triggers, True)} | {name: (text, True) for name, text in (policies or {}).items()}
    if always is not None:
        plans["always"] = (f"Every('{clock.spell(always)}')", False)
    states = {
        name: Project(project.root, outputs=folder / name, data=folder / name / "data", overrides=overrides)
        for name in plans
    }
    requests = _requests(states["loop"], score_from, until)  # first, as it also shows that the source can be read
    moments = list(_moments(since, until, step))
    _run_all(states, plans, [*moments, until], progress)

    results = {name: _lived(state, score_from, until) for name, state in states.items()}
    state = states["loop"]
    joined = state.ledger.joined(since=score_from, until=until, as_of=until)
    results["never"] = _trained_once(state, requests, results["loop"], joined)
    story = Story(
        title=project.root.name,
        task=state.contract.task,
        metric=settings.gate.metric,
        since=score_from,
        until=until,
        step=step,
        created=clock.now(),
        policies={name: results[name] for name in ("loop", "never", *results) if name in results},
        labels=_label_counts(joined, state.ledger, until),
        awaited=_awaited(joined, list(_moments(score_from, until, step))),
        quarantined=state.quarantine.counts(),
        drift=_drift(state, requests, results["loop"]),
        currency=None if state.contract.value is None else state.contract.value.currency,
        costs=settings.costs.model_dump(),
        lineage=None if (live := state.champion()) is None else trace(state, live),
    )
    summary = story.to_dict() | {
        "turns": [_turn_summary(turn) for turn in story.loop.turns],
        "predictions": story.labels["predictions"],
        "labels": story.labels["labelled"],
        "quarantined": dict(story.quarantined),
    }
    write_json(folder / "summary.json", summary)
    write_report(folder / "report.html", story, language=language)
    return summary


def _moments(since: datetime, until: datetime, step: timedelta) -> Iterator[datetime]:
    while since < until:
        yield since
        since += step


def _run_all(
    states: Mapping[str, Project], plans: Mapping[str, tuple[str, bool]], moments: list[datetime], progress: Progress
) -> None:
    """Let each policy live through the moments in a process of its own, as many at once as there are cores."""
    context = get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        told = manager.Queue()
        under_way = {
            pool.submit(
                _run, name, states[name].root, states[name].outputs, states[name].overrides, *plan, moments, told
            )
            for name, plan in plans.items()
        }
        while under_way or not told.empty():
            ended, under_way = wait(under_way, timeout=0.1)
            while not told.empty():
                progress(*told.get())
            for each in ended:
                if each.exception() is not None:
                    pool.shutdown(wait=False, cancel_futures=True)
                each.result()


def _run(
    name: str,
    root: Path,
    outputs: Path,
    overrides: Sequence[str],
    triggers: str,
    gate: bool,
    moments: list[datetime],
    told: Any,
) -> None:
    """Tick at every moment but the last, when only the labels that have come are collected."""
    state = Project(root, outputs=outputs, data=outputs / "data", overrides=overrides)
    *ticks, until = moments
    for place, now in enumerate(ticks):

        def tell(doing: str, now: datetime = now, share: float = place / len(ticks)) -> None:
            told.put((name, now, share, doing))

        tell("")
        tick(state, now=now, triggers=triggers, gate=gate, say=tell)
    collect(state, now=until)
    told.put((name, until, 1.0, ""))


def _lived(state: Project, since: datetime, until: datetime) -> PolicyResult:
    """What a policy led to, read from its ledger."""
    joined = state.ledger.joined(since=since, until=until, as_of=until)
    turns = _turn_lines(state)
    return _scored(state, joined, turns, sum(turn.seconds for turn in turns))


def _turn_lines(state: Project) -> list[TurnLine]:
    lines = []
    for turn in state.ledger.turns():
        verdict = turn.detail.get("verdict") or {}
        kept = {k: verdict.get(k) for k in ("gain", "low", "high", "rows")}
        lines.append(
            TurnLine(
                turn.at,
                turn.reason,
                turn.verdict,
                verdict.get("reason", ""),
                release=turn.release,
                seconds=turn.seconds or 0.0,
                **kept,
            )
        )
    return lines


def _scored(state: Project, joined: pl.DataFrame, turns: list[TurnLine], seconds: float) -> PolicyResult:
    """The live metrics of matured predictions, in all and by month; None where the labelled ones cannot tell one."""
    task, value = state.contract.task, state.contract.value
    names = [name for name, metric in metrics_of(value).items() if task in metric.tasks and told_live(name, task)]
    classes = state.release(str(joined["release"][0])).manifest["classes"] if len(joined) else None

    def judged(part: pl.DataFrame) -> Evaluation:
        return Evaluation.live(part, task=task, classes=classes, value=value)

    def metrics(of: Evaluation) -> dict[str, float | None]:
        return {name: of.metrics.get(name) for name in names} | {"rows": of.rows.height}

    whole = judged(joined)
    came = pl.col("label") == pl.col("answer") if task == "multiclass" else pl.col("label")
    labels = whole.rows.select(prediction_id="key", label=came.cast(pl.Float64))
    predictions = joined.select("prediction_id", "time", "score", "release").join(
        labels, on="prediction_id", how="left"
    )
    months = {
        str(month): metrics(judged(part))
        for (month,), part in joined.sort("time").group_by(pl.col("time").dt.strftime("%Y-%m"), maintain_order=True)
    }
    return PolicyResult(predictions.drop("prediction_id").sort("time"), turns, seconds, metrics(whole), months)


def _requests(state: Project, since: datetime, until: datetime) -> pl.DataFrame:
    """Every row that was predicted, read at once: each has the features of its own moment, whenever it is read."""
    steps = Steps(state, state.settings(), scratch(state, until, "requests"))
    try:
        rows = intake.rows(steps, since=since, until=until, labelled=False, door="requests")
        return pl.DataFrame() if rows is None else rows
    finally:
        shutil.rmtree(steps.run.folder)


def _trained_once(state: Project, requests: pl.DataFrame, loop: PolicyResult, joined: pl.DataFrame) -> PolicyResult:
    """What the first release would have answered to every row, had it never been replaced."""
    first = next((turn for turn in loop.turns if turn.release), None)
    if first is None or first.release is None or requests.is_empty():
        return PolicyResult(loop.predictions.clear())
    answers = state.release(first.release).predict(requests).table.select("key", "score", "answer")
    same = (
        joined.drop("score", "answer").join(answers, on="key", how="inner").with_columns(release=pl.lit(first.release))
    )
    return _scored(state, same, [first], first.seconds)


def _label_counts(joined: pl.DataFrame, ledger: Ledger, until: datetime) -> dict[str, int]:
    """How many predictions were made, have their label, wait for it, and wait beyond the day it was due."""
    awaited = ledger.awaited(as_of=until).count
    overdue = int(joined["label"].null_count())
    labelled = joined.height - overdue
    return {"predictions": labelled + awaited, "labelled": labelled, "awaited": awaited, "overdue": overdue}


def _awaited(joined: pl.DataFrame, moments: list[datetime]) -> list[tuple[datetime, int, int]]:
    """At each moment: how many predictions waited for their label, and how many of them beyond the day it was due."""
    made = np.sort(joined["made_at"].dt.epoch("us").to_numpy())
    came = np.sort(joined["label_at"].drop_nulls().dt.epoch("us").to_numpy())
    late = joined.select(
        due=pl.col("due").dt.epoch("us"), came=pl.col("label_at").dt.epoch("us").fill_null(np.iinfo(np.int64).max)
    ).filter(pl.col("came") > pl.col("due"))
    due, late_came = np.sort(late["due"].to_numpy()), np.sort(late["came"].to_numpy())
    points = []
    for at in moments:
        t = clock.micros(at)
        waiting = int(np.searchsorted(made, t, "right") - np.searchsorted(came, t, "right"))
        points.append((at, waiting, int(np.searchsorted(due, t, "right") - np.searchsorted(late_came, t, "right"))))
    return points


def _drift(state: Project, requests: pl.DataFrame, loop: PolicyResult) -> dict[str, dict[str, float]]:
    """Population stability of each feature by month, against what the first release was trained on."""
    first = next((turn.release for turn in loop.turns if turn.release), None)
    if first is None or requests.is_empty():
        return {}
    reference = state.release(first).manifest["reference"]
    found: dict[str, dict[str, float]] = {}
    months = requests.group_by(pl.col(state.contract.time).dt.strftime("%Y-%m"), maintain_order=True)
    for (month,), part in months:
        for feature, value in psi(reference, part).items():
            found.setdefault(feature, {})[str(month)] = float(value)
    return found


def _turn_summary(turn: TurnLine) -> dict[str, Any]:
    return {
        "time": turn.time.isoformat(),
        "reason": turn.reason,
        "verdict": turn.verdict,
        "verdict_reason": turn.verdict_reason,
        "release": turn.release,
        "seconds": turn.seconds,
    }
