"""A/B tests: a challenger beside the champion in an outlet, read at any time from the ledger, ended by what is sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from meguri.base.clock import moment
from meguri.base.errors import GateError
from meguri.base.ids import stamp_id
from meguri.record import rollout
from meguri.record.evaluation import Evaluation, inputs
from meguri.record.experiment import Arm, Kind, Metric, Plan, Report, read_experiment
from meguri.record.ledger import Experiment
from meguri.record.metrics import VALUE, metrics_of

if TYPE_CHECKING:
    import polars as pl

    from meguri.data.value import Value
    from meguri.loop.project import Project

KINDS: dict[str, Kind] = {
    "": "rate",
    "count": "mean",
    "sum": "value",
}  # of event:KIND, event:KIND:count and event:KIND:sum
SPELLED = (
    "write event:KIND (the share of units that did it), event:KIND:count or event:KIND:sum (per unit), or of labels "
)


@dataclass(frozen=True)
class Look:
    """A test and what it says: the ``report``, when it was read, and what was done about it."""

    test: Experiment
    report: Report
    at: datetime
    done: str | None = None


def metric_of(text: str, task: str, value: Value | None = None, **more: Any) -> Metric:
    """The metric that a text names: one of events, or one of labels that is a mean over answers. Raises GateError.

    With a ``value``, what the contract says of money, it and ``event:KIND:sum`` are in its currency.
    """
    of_labels = {name: m for name, m in metrics_of(value).items() if task in m.tasks and m.curve is None}
    if value is not None and (text == VALUE or text.endswith(":sum")):
        more = {"unit": value.currency, **more}
    if text in of_labels:
        return Metric(text, "ratio", **{"higher_is_better": of_labels[text].better == "higher", **more})
    word, _, rest = text.partition(":")
    kind, _, how = rest.partition(":")
    if word != "event" or not kind or how not in KINDS:
        fix = f"{SPELLED}{', '.join(of_labels)}"
        if text == VALUE:
            fix = "say in the contract what an answer is worth: Contract(…, value=Value(…))"
        raise GateError(f"'{text}' is no metric of an A/B test", where="metric", fix=fix)
    return Metric(text, KINDS[how], **more)


def running(project: Project, outlet: str) -> Experiment | None:
    """The test that runs in the outlet."""
    found = [test for test in project.ledger.experiments() if test.outlet == outlet and test.status == "running"]
    return found[-1] if found else None


def start(
    project: Project,
    challenger: str,
    *,
    share: float,
    metric: Metric,
    guards: Sequence[Metric] = (),
    plan: Plan,
    promote: bool,
    outlet: str,
    at: datetime,
    why: str,
    by: str,
) -> Experiment:
    """Give the challenger its share of the units, and settle what is compared.

    Raises GateError when a test runs there already, and what ``rollout.promote`` raises.
    """
    other = running(project, outlet)
    if other is not None:
        raise GateError(f"the test {other.id} runs in '{outlet}'", where=outlet, fix="end it first: meguri ab stop")
    live = rollout.current(project.ledger, outlet)
    if live is None:
        raise GateError(f"nothing is live in '{outlet}' yet", where=outlet, fix="meguri rollout --champion RELEASE")
    for name in (live.champion, challenger):
        project.release(name)
    detail = {
        "champion": live.champion,
        "challenger": challenger,
        "began": at.isoformat(),
        "plan": asdict(replace(plan, share=share)),
        "metric": asdict(metric),
        "guards": [asdict(guard) for guard in guards],
        "promote": promote,
    }
    made = Experiment(stamp_id(at), at, outlet, "running", detail)
    rollout.promote(
        project.ledger, outlet, live.champion, at=at, why=f"A/B test: {why}", by=by, challengers={challenger: share}
    )
    project.ledger.write_experiment(made)
    return made


def look(project: Project, test: Experiment, *, now: datetime, act: bool = False) -> Look:
    """Read a test from the ledger.

    With ``act`` what is sure is done: a challenger that is worse, or breaks a guardrail, is rolled back; one that is better goes
    live, where the test was started so. Looking changes no chance: the intervals hold at all looks together.
    """
    kept = test.detail
    plan = Plan(**kept["plan"])
    metric, guards = Metric(**kept["metric"]), [Metric(**guard) for guard in kept["guards"]]
    began = moment(kept["began"])
    units = _units(project, test, began, now)
    sizes = units["arm"].eq("champion").sum(), units["arm"].eq("challenger").sum()
    values = {m.name: _arms(project, m, units, began, now) for m in (metric, *guards)}
    report = read_experiment(
        metric,
        *values[metric.name],
        [(guard, *values[guard.name]) for guard in guards],
        plan=plan,
        assigned=(int(sizes[0]), int(sizes[1])),
        srm_before=kept.get("srm", 1.0),
    )
    done = None
    if act and test.status == "running":
        detail = {**kept, "srm": report.srm.p, "decision": report.decision}
        worse = report.safe_to_stop and report.decision == "worse"
        better = report.safe_to_stop and report.decision == "better" and kept["promote"]
        if worse or better:
            done = kept["challenger"] if better else kept["champion"]
            why = f"A/B test {test.id}: the challenger is {report.decision}"
            rollout.promote(project.ledger, test.outlet, done, at=now, why=why, by="ab")
        test = Experiment(test.id, now, test.outlet, "stopped" if done else "running", detail)
        project.ledger.write_experiment(test)
    return Look(test, report, now, done)


def stop(project: Project, test: Experiment, *, keep: str, at: datetime, why: str, by: str) -> Experiment:
    """End a test by hand; ``keep`` says whether the champion or the challenger answers everyone from then on."""
    release = test.detail[keep]
    rollout.promote(project.ledger, test.outlet, release, at=at, why=f"A/B test {test.id} ended: {why}", by=by)
    ended = Experiment(test.id, at, test.outlet, "stopped", {**test.detail, "kept": keep, "why": why})
    project.ledger.write_experiment(ended)
    return ended


def _units(project: Project, test: Experiment, began: datetime, now: datetime) -> pl.DataFrame:
    """unit, arm and since, the first answer: a unit belongs to the arm that answered it first."""
    import polars as pl

    names = {test.detail["champion"]: "champion", test.detail["challenger"]: "challenger"}
    found = project.ledger.assigned(outlet=test.outlet, since=began, as_of=now)
    found = found.filter(pl.col("release").is_in(list(names))).sort("since", maintain_order=True)
    found = found.with_columns(pl.col("release").replace_strict(names, return_dtype=pl.String).alias("arm"))
    return found.unique("unit", keep="first", maintain_order=True).select("unit", "arm", "since")


def _arms(project: Project, metric: Metric, units: pl.DataFrame, began: datetime, now: datetime) -> tuple[Arm, Arm]:
    """The metric's values of the units of A, the champion's, and of B."""
    import polars as pl

    of_events = metric.name.startswith("event:")
    found = (_happened if of_events else _answered)(project, metric, units, began, now)
    parts = [found.filter(pl.col("arm") == arm) for arm in ("champion", "challenger")]
    a, b = (Arm(part["value"].to_numpy(), None if of_events else part["answers"].to_numpy()) for part in parts)
    return a, b


def _happened(project: Project, metric: Metric, units: pl.DataFrame, began: datetime, now: datetime) -> pl.DataFrame:
    """What each unit did after its first answer, 0 where it did nothing."""
    import polars as pl

    _, kind, *how = metric.name.split(":")
    events = project.ledger.events(since=began, until=now, kind=kind).select("unit", "at", "value")
    after = units.join(events, on="unit", how="inner").filter(pl.col("at") >= pl.col("since"))
    value = pl.col("value").sum() if how == ["sum"] else pl.len().cast(pl.Float64)
    did = after.group_by("unit").agg(value.alias("value"))
    found = units.join(did, on="unit", how="left", maintain_order="left").with_columns(pl.col("value").fill_null(0.0))
    return found if how else found.with_columns(pl.col("value").clip(0, 1))


def _answered(project: Project, metric: Metric, units: pl.DataFrame, began: datetime, now: datetime) -> pl.DataFrame:
    """Of each unit the sum of the metric over its answers whose label came, and how many those are.

    Raises GateError when the ledger does not hold what the metric needs.
    """
    import polars as pl

    contract, none = project.contract, units.head(0).with_columns(value=pl.lit(0.0), answers=pl.lit(0.0))
    joined = project.ledger.joined(as_of=now).filter(pl.col("made_at") >= began)
    joined = joined.join(units.select("unit", own="arm"), on="unit", how="inner", maintain_order="left")
    joined = joined.filter((pl.col("arm") == pl.col("own")) & pl.col("label").is_not_null())
    if joined.is_empty():
        return none
    classes = project.release(str(joined["release"][0])).manifest["classes"]
    rows = Evaluation.live(joined, task=contract.task, classes=classes, value=contract.value).rows
    given = inputs(rows, contract.task, metric.name, contract.value)
    each = None if given is None else metrics_of(contract.value)[metric.name].per_row(*given)
    if each is None:
        raise GateError(f"the ledger cannot tell '{metric.name}'", where="metric", fix=SPELLED)
    of = joined.select("unit", key="prediction_id")
    rows = rows.select("key").with_columns(pl.Series("each", each)).join(of, on="key", how="inner")
    each_unit = rows.group_by("unit").agg(value=pl.col("each").sum(), answers=pl.len().cast(pl.Float64))
    return units.join(each_unit, on="unit", how="inner", maintain_order="left")
