"""A/B tests: a challenger beside the champion in an outlet, read at any time from the ledger, ended by what is sure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from meguri.base.clock import duration, moment, spell
from meguri.base.errors import GateError, LedgerError, MeguriError
from meguri.base.ids import stamp_id
from meguri.record import rollout
from meguri.record.evaluation import Evaluation, inputs
from meguri.record.experiment import Arm, Kind, Metric, Plan, Report, read_experiment
from meguri.record.ledger import Experiment
from meguri.record.metrics import VALUE, metrics_of, told_live

if TYPE_CHECKING:
    import polars as pl

    from meguri.data.contract import Contract
    from meguri.data.value import Value
    from meguri.loop.project import Project

KINDS: dict[str, Kind] = {
    "": "rate",
    "count": "mean",
    "sum": "value",
}  # of event:KIND, event:KIND:count and event:KIND:sum
REPLACED = "another rollout took its place"
EVER = datetime(9999, 1, 1, tzinfo=UTC)
SPELLED = (
    "write event:KIND (the share of units that did it), event:KIND:count or event:KIND:sum (per unit), or of labels "
)


@dataclass(frozen=True)
class Look:
    """A test and what it says: the ``report``, when it was read, what was done about it, and when it ended, if it has."""

    test: Experiment
    report: Report
    at: datetime
    done: str | None = None
    ended: datetime | None = None


def metric_of(text: str, task: str, value: Value | None = None, **more: Any) -> Metric:
    """The metric that a text names: one of events, or one of labels that is a mean over answers. Raises GateError.

    With a ``value``, what the contract says of money, it and ``event:KIND:sum`` are in its currency.
    """
    fit = {name: m for name, m in metrics_of(value).items() if task in m.tasks and told_live(name, task)}
    of_labels = {name: m for name, m in fit.items() if m.curve is None}
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
    return found[-1] if found and ended(project, found[-1]) is None else None


def ended(project: Project, test: Experiment) -> datetime | None:
    """When something else went live than the test's two releases with their shares: by its end, or by any other rollout."""
    kept = test.detail
    shares = {kept["challenger"]: kept["plan"]["share"]}
    since = moment(kept["began"])
    return rollout.stood_until(project.ledger, test.outlet, kept["champion"], shares, since=since)


def known_before(project: Project, test: Experiment) -> tuple[datetime, datetime] | None:
    """The time from which what units did may make the interval narrower; None where the test was started without.

    It ends before the challenger ever had a share of the units: it keeps its units when a share grows or a test
    is started again, and what they did with it then is no accident of the draw.
    """
    kept, length = test.detail, duration(test.detail.get("before", "0s"))
    shared = [r.at for r in project.ledger.rollouts(test.outlet) if kept["challenger"] in r.challengers]
    until = min([*shared, moment(kept["began"])])
    return (until - length, until) if length else None


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
    before: timedelta = timedelta(0),
    columns: Sequence[str] = (),
) -> Experiment:
    """Give the challenger its share of the units, and settle what is compared, and by what the interval is made narrower.

    That is what each unit did by the same metric in the time ``before``, and the numeric features ``columns`` of its first row.
    Raises GateError when a test runs there already or a column is none, and what ``rollout.promote`` raises.
    """
    other = running(project, outlet)
    if other is not None:
        raise GateError(f"the test {other.id} runs in '{outlet}'", where=outlet, fix="end it first: meguri ab stop")
    live = rollout.current(project.ledger, outlet)
    if live is None:
        raise GateError(f"nothing is live in '{outlet}' yet", where=outlet, fix="meguri rollout --champion RELEASE")
    for name in (live.champion, challenger):
        project.release(name)
    _numeric(project, live.champion, outlet, columns)
    detail = {
        "champion": live.champion,
        "challenger": challenger,
        "began": at.isoformat(),
        "plan": asdict(replace(plan, share=share)),
        "metric": asdict(metric),
        "guards": [asdict(guard) for guard in guards],
        "promote": promote,
        "before": spell(before),
        "columns": list(columns),
    }
    made = Experiment(stamp_id(at), at, outlet, "running", detail)
    rollout.promote(
        project.ledger, outlet, live.champion, at=at, why=f"A/B test: {why}", by=by, challengers={challenger: share}
    )
    project.ledger.write_experiment(made)
    return made


def look(project: Project, test: Experiment, *, now: datetime, act: bool = False) -> Look:
    """Read a test from the ledger.

    With ``act`` what is sure is done: a challenger that is worse, or breaks a guardrail, is rolled back; one that is better, and
    holds every guardrail, goes live, where the test was started so. Looking changes no chance: the intervals hold at all looks together.
    Raises GateError when it cannot be read; with ``act`` one that is over is closed all the same, or every look to come would raise.
    """
    kept, over = test.detail, ended(project, test)
    if over is not None and over > now:
        over = None
    act = act and test.status == "running"
    try:
        report = _report(project, test, over or now)
    except MeguriError as error:
        if act and over is not None and not isinstance(error, LedgerError):  # a ledger may come back
            closed = Experiment(test.id, now, test.outlet, "stopped", {**kept, "why": REPLACED})
            project.ledger.write_experiment(closed)
        raise
    done = None
    if act:
        detail = {**kept, "srm": report.srm.p, "decision": report.decision}
        worse = report.safe_to_stop and report.decision == "worse"
        held = all(guard.state == "held" for guard in report.guards)
        better = report.safe_to_stop and report.decision == "better" and held and kept["promote"]
        if over is not None:
            detail["why"] = REPLACED
        elif worse or better:
            done = kept["challenger"] if better else kept["champion"]
            why = f"A/B test {test.id}: the challenger is {report.decision}"
            rollout.promote(project.ledger, test.outlet, done, at=now, why=why, by="ab")
        test = Experiment(test.id, now, test.outlet, "stopped" if done or over else "running", detail)
        project.ledger.write_experiment(test)
    return Look(test, report, now, done, over)


def _report(project: Project, test: Experiment, until: datetime) -> Report:
    """What the ledger says of the test up to then."""
    kept, began = test.detail, moment(test.detail["began"])
    metric, guards = Metric(**kept["metric"]), [Metric(**guard) for guard in kept["guards"]]
    units = units_of(project, test, began, until)
    sizes = units["arm"].eq("champion").sum(), units["arm"].eq("challenger").sum()
    given = features(project, test.outlet, units, kept.get("columns", ()), since=began, until=until)
    values = {m.name: _arms(project, test, m, units, given, began, until) for m in (metric, *guards)}
    return read_experiment(
        metric,
        *values[metric.name],
        [(guard, *values[guard.name]) for guard in guards],
        plan=Plan(**kept["plan"]),
        assigned=(int(sizes[0]), int(sizes[1])),
        srm_before=kept.get("srm", 1.0),
    )


def stop(project: Project, test: Experiment, *, keep: str, at: datetime, why: str, by: str) -> Experiment:
    """End a test by hand; ``keep`` says whether the champion or the challenger answers everyone from then on."""
    release = test.detail[keep]
    rollout.promote(project.ledger, test.outlet, release, at=at, why=f"A/B test {test.id} ended: {why}", by=by)
    ended = Experiment(test.id, at, test.outlet, "stopped", {**test.detail, "kept": keep, "why": why})
    project.ledger.write_experiment(ended)
    return ended


def units_of(project: Project, test: Experiment, began: datetime, until: datetime) -> pl.DataFrame:
    """unit, release, arm and since, the first answer: a unit belongs to the arm that answered it first."""
    import polars as pl

    names = {test.detail["champion"]: "champion", test.detail["challenger"]: "challenger"}
    found = project.ledger.assigned(outlet=test.outlet, since=began, as_of=until)
    found = found.filter(pl.col("release").is_in(list(names))).sort("since", maintain_order=True)
    found = found.with_columns(pl.col("release").replace_strict(names, return_dtype=pl.String).alias("arm"))
    return found.unique("unit", keep="first", maintain_order=True).select("unit", "release", "arm", "since")


def _arms(
    project: Project,
    test: Experiment,
    metric: Metric,
    units: pl.DataFrame,
    given: pl.DataFrame,
    began: datetime,
    until: datetime,
) -> tuple[Arm, Arm]:
    """The metric's values of the units of A, the champion's, and of B, with what was known of each before."""
    import polars as pl

    found = what_followed(project, metric, test.outlet, units, began, until)
    window = known_before(project, test)
    known = given if window is None else given.join(_history(project, test, metric, units, *window), on="unit")
    names = [name for name in known.columns if name != "unit"]
    found = found.join(known, on="unit", how="left", maintain_order="left")
    parts = [found.filter(pl.col("arm") == arm) for arm in ("champion", "challenger")]
    a, b = (
        Arm(
            part["value"].to_numpy(),
            part["answers"].to_numpy() if metric.kind == "ratio" else None,
            part.select(pl.col(names).cast(pl.Float64).fill_null(float("nan"))).to_numpy() if names else None,
        )
        for part in parts
    )
    return a, b


def _history(
    project: Project, test: Experiment, metric: Metric, units: pl.DataFrame, since: datetime, until: datetime
) -> pl.DataFrame:
    """unit and what it did by the metric from ``since`` to ``until``, all before the test; null where it was not there."""
    import polars as pl

    then = units.with_columns(since=pl.lit(since))
    if not metric.name.startswith("event:"):
        found = answered(project, metric, test.outlet, then, since, until, any_arm=True)
        found = found.select("unit", before="value", before_answers="answers")
        return units.select("unit").join(found, on="unit", how="left", maintain_order="left")
    there = project.ledger.assigned(outlet=test.outlet, since=since, as_of=until)["unit"].to_list()
    found = happened(project, metric, then, since, until)
    was = pl.col("unit").is_in(there) | (pl.col("value") != 0)
    return found.select("unit", before=pl.when(was).then("value"))


def features(
    project: Project, outlet: str, units: pl.DataFrame, names: Sequence[str], *, since: datetime, until: datetime
) -> pl.DataFrame:
    """unit and the values of these features in its first row, as the ledger keeps them: what was known before any answer."""
    import polars as pl

    if not names:
        return units.select("unit")
    rows = first_answers(project, outlet, since=since, until=until)
    values = [json.loads(text) if text else {} for text in rows["features"]]
    table = {name: pl.Series([row.get(name) for row in values], strict=False) for name in names}
    return units.select("unit").join(
        rows.select("unit").with_columns(**table), on="unit", how="left", maintain_order="left"
    )


def first_answers(project: Project, outlet: str, *, since: datetime, until: datetime) -> pl.DataFrame:
    """The first answer of each unit from ``since`` to ``until``, with the columns of ``joined`` (its label is none of this)."""
    import polars as pl

    rows = project.ledger.joined(as_of=EVER, outlet=outlet, features=True)  # also those that are not due yet
    rows = rows.filter(pl.col("made_at").is_between(since, until) & pl.col("unit").is_not_null())
    rows = rows.filter(pl.col("arm").is_in(["champion", "challenger"])).sort("made_at", maintain_order=True)
    return rows.unique("unit", keep="first", maintain_order=True)


def _numeric(project: Project, champion: str, outlet: str, columns: Sequence[str]) -> None:
    """Raise GateError unless the ledger will have these columns, as numbers, with each answer."""
    able = numeric(project.release(champion).contract) if columns else []
    for name in columns:
        if name not in able:
            fix = f"numeric features: {', '.join(able) or 'none'}"
            raise GateError(f"'{name}' is no numeric feature", where="--column", fix=fix)
    kept = (project.plain_settings()["outlets"].get(outlet) or {}).get("features", "values")
    if columns and kept != "values":
        raise GateError(
            f"of a row the ledger keeps its {kept}", where=outlet, fix="set outlets.rest.features to values"
        )


def numeric(contract: Contract) -> list[str]:
    """The features of the contract that are numbers, or true and false."""
    fields = [field for field in contract.fields if field.name in contract.features]
    return [f.name for f in fields if f.dtype.is_numeric() or f.dtype.to_python() is bool]


def what_followed(
    project: Project, metric: Metric, outlet: str, units: pl.DataFrame, since: datetime, until: datetime
) -> pl.DataFrame:
    """The units with the metric's ``value`` since each one's first answer and, where the metric is of labels, its ``answers``."""
    if metric.name.startswith("event:"):
        return happened(project, metric, units, since, until)
    return answered(project, metric, outlet, units, since, until)


def happened(project: Project, metric: Metric, units: pl.DataFrame, began: datetime, now: datetime) -> pl.DataFrame:
    """What each unit did after its first answer, 0 where it did nothing."""
    import polars as pl

    _, kind, *how = metric.name.split(":")
    events = project.ledger.events(since=began, until=now, kind=kind).select("unit", "at", "value")
    after = units.join(events, on="unit", how="inner").filter(pl.col("at") >= pl.col("since"))
    value = pl.col("value").sum() if how == ["sum"] else pl.len().cast(pl.Float64)
    did = after.group_by("unit").agg(value.alias("value"))
    found = units.join(did, on="unit", how="left", maintain_order="left").with_columns(pl.col("value").fill_null(0.0))
    return found if how else found.with_columns(pl.col("value").clip(0, 1))


def answered(
    project: Project,
    metric: Metric,
    outlet: str,
    units: pl.DataFrame,
    began: datetime,
    now: datetime,
    *,
    any_arm: bool = False,
) -> pl.DataFrame:
    """Of each unit the sum of the metric over its answers whose label came, and how many those are.

    Answers are those of the unit's own release, or with ``any_arm`` of any that answered it. Raises GateError when the ledger does not hold what the metric needs.
    """
    import polars as pl

    contract, none = project.contract, units.head(0).with_columns(value=pl.lit(0.0), answers=pl.lit(0.0))
    joined = project.ledger.joined(as_of=now, outlet=outlet).filter(pl.col("made_at") >= began)
    joined = joined.join(units.select("unit", own="release"), on="unit", how="inner", maintain_order="left")
    mine = pl.col("made_at") < now if any_arm else pl.col("release") == pl.col("own")
    joined = joined.filter(mine & (pl.col("arm") != "shadow") & pl.col("label").is_not_null())
    if joined.is_empty():
        return none
    classes = project.release(str(units["release"][0])).manifest["classes"]
    rows = Evaluation.live(joined, task=contract.task, classes=classes, value=contract.value).rows
    given = inputs(rows, contract.task, metric.name, contract.value)
    known = metrics_of(contract.value).get(metric.name)  # the contract may have changed while the test runs
    each = None if given is None or known is None else known.per_row(*given)
    if each is None:
        raise GateError(f"the ledger cannot tell '{metric.name}'", where="metric", fix="end the test: meguri ab stop")
    of = joined.select("unit", key="prediction_id")
    rows = rows.select("key").with_columns(pl.Series("each", each)).join(of, on="key", how="inner")
    each_unit = rows.group_by("unit").agg(value=pl.col("each").sum(), answers=pl.len().cast(pl.Float64))
    return units.join(each_unit, on="unit", how="inner", maintain_order="left")
