"""A tick: labels that have come are collected, the triggers are asked once, and the rows of the next step are predicted."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from meguri.base.clock import duration, moment
from meguri.base.errors import GateError, MeguriError, TurnBusy
from meguri.base.files import locked, read_json, write_json
from meguri.loop import intake
from meguri.loop.steps import Steps
from meguri.loop.trigger import View, parse
from meguri.loop.turn import Say, silent, turn
from meguri.record.ledger import TurnRecord
from meguri.record.run import Run

if TYPE_CHECKING:
    import polars as pl

    from meguri.loop.project import Project
    from meguri.record.ledger import Experiment, LabelCounts

FIRST = "no release is live yet"


@dataclass(frozen=True)
class Tick:
    """What one tick did: how many labels came, why the loop turned (if it did), how many rows were predicted, and which release
    an A/B test that was decided has put live."""

    at: datetime
    labels: int = 0
    reason: str | None = None
    turn: TurnRecord | None = None
    predictions: int = 0
    test: str | None = None


class TickUnread(GateError):
    """A/B tests that a tick could not read; ``done`` is all else that was due, which it did first."""

    def __init__(self, unread: list[tuple[Experiment, MeguriError]], done: Tick) -> None:
        names = [f"{test.id} in '{test.outlet}'" for test, _ in unread]
        first = unread[0][1]
        what = f"the A/B test {names[0]} cannot be read: {first.what}"
        if names[1:]:
            what += f"; nor can {', '.join(names[1:])}"
        super().__init__(what, where=first.where, fix=first.fix)
        self.done = done


def tick(project: Project, *, now: datetime, triggers: str | None = None, gate: bool = True, say: Say = silent) -> Tick:
    """Do what is due at ``now``; costs next to nothing when nothing is.

    Labels are collected and the next step's rows predicted once in each ``loop.step``; the triggers (those of the
    settings, or the expression handed in) are asked every time. Raises what a turn raises, and TickUnread at the end
    when an A/B test could not be read.
    """
    loop = project.plain_settings()["loop"]
    with locked(project.outputs / "tick.lock", wait=False) as held:
        if not held:
            raise TurnBusy(
                "another tick of this project is under way",
                where=project.root,
                fix="nothing to do: it does what is due",
            )
        step = duration(loop["step"])
        last = _last(project)
        due = last is None or now >= last + step
        labels = collect(project, now=now) if due and project.ledger.awaited(as_of=now).count else 0
        decided, unread = _decide(project, now)
        reason = why(project, now=now, triggers=triggers or loop["triggers"], step=step)
        record = turn(project, now=now, reason=reason, gate=gate, say=say) if reason else None
        predictions = record.detail["predictions"] if record else 0
        predictions += predict(project, now=now) if due or record else 0
        if due:
            write_json(project.outputs / "tick.json", {"at": now.isoformat()})
    done = Tick(now, labels, reason, record, predictions, decided)
    if unread:
        raise TickUnread(unread, done)
    return done


def _decide(project: Project, now: datetime) -> tuple[str | None, list[tuple[Experiment, MeguriError]]]:
    """Look at the A/B tests that run and do what is sure; the release that one of them has put live, and those not read."""
    done, unread = None, []
    for test in project.ledger.experiments():
        if test.status == "running":
            from meguri.loop import ab

            try:
                done = ab.look(project, test, now=now, act=True).done or done
            except MeguriError as error:  # of this test alone: the others, and the loop, go on
                unread.append((test, error))
    return done, unread


def why(project: Project, *, now: datetime, triggers: str, step: timedelta) -> str | None:
    """The reason why the loop should turn now, or None.

    Before the first release that is the reason. A turn that failed, or that brought no first release, is not tried again
    within a ``step``.
    """
    ask = parse(triggers)  # a mistyped expression is an error from the first tick on
    turns = project.ledger.turns()
    champion = project.champion()
    unsettled = champion is None or (bool(turns) and turns[-1].status == "failed")
    if unsettled and turns and now < turns[-1].at + step:
        return None
    if champion is None:
        return FIRST
    folder = project.outputs / "releases" / champion
    manifest = read_json(folder / "manifest.json")
    done = [t for t in turns if t.status == "done"]
    made = next((t for t in reversed(done) if t.release == champion), None)
    view = View(
        now=now,
        ledger=project.ledger,
        last_turn=done[-1].at if done else None,
        champion=manifest,
        metrics=made.detail["metrics"] if made else {},
        task=manifest["task"],
        value=read_json(folder / "contract.json").get("value"),
    )
    return ask.ask(view)


def collect(project: Project, *, now: datetime) -> int:
    """Look for the labels that are due or late, and write those that came; returns how many are new or corrected.

    Looks for a label until ``loop.give_up`` after it was due, and in any case once after that: a loop that stood still
    for a month loses none.
    """
    settings = project.settings()
    awaited = project.ledger.awaited(as_of=now)
    if awaited.oldest is None:
        return 0
    contract = project.contract
    if contract.label is None:
        return 0
    looked = _last(project) or awaited.oldest
    since = max(awaited.oldest, looked - contract.label_after - duration(settings.loop.give_up))
    if since >= now:  # all that is awaited lies ahead
        return 0
    steps = Steps(project, settings, scratch(project, now, "labels"))
    try:
        rows = intake.rows(steps, since=since, until=now, labelled=True, door="labels")
        if rows is None:
            return 0
        import polars as pl

        from meguri.record import ledger_columns

        came = rows.filter(pl.col(contract.label).is_not_null())
        table = pl.DataFrame({"key": contract.key_of(came), "value": came[contract.label]}).with_columns(
            known_at=pl.lit(now).cast(pl.Datetime("us", "UTC")), source=pl.lit("time")
        )
        counts: LabelCounts = project.ledger.write_labels(ledger_columns.labels(table))
        return counts.new + counts.corrected
    finally:
        shutil.rmtree(steps.run.folder)


def write_labels(project: Project, table: pl.DataFrame, *, by: str, now: datetime) -> tuple[LabelCounts, int]:
    """Write labels that a person brings (``value``, and ``prediction_id`` or ``key``); also returns how many were quarantined.

    Raises ContractError when more are bad than ``data.max_quarantined`` allows; then none is written.
    """
    import polars as pl

    from meguri.data import doors
    from meguri.record import ledger_columns

    checked = doors.labels(table, project.contract)
    bad = checked.quarantined
    project.quarantine.add(bad, at=now, door="labels")
    most = project.settings().data.max_quarantined
    intake.limit(most, bad["reason"].to_list(), checked.rows.height, where=f"labels by {by}")
    stamped = checked.rows.with_columns(known_at=pl.lit(now).cast(pl.Datetime("us", "UTC")), source=pl.lit(by))
    return project.ledger.write_labels(ledger_columns.labels(stamped)), bad.height


def predict(project: Project, *, now: datetime, overrides: tuple[str, ...] = ()) -> int:
    """Predict the rows of the next step that nobody has predicted, and register them; returns how many.

    A pass that was killed is finished first, with the answers it had already given.
    """
    if project.champion() is None:
        return 0
    settings = project.settings(overrides)
    folder = project.outputs / "pass"
    count = 0
    if (folder / "run.json").is_file():
        left = read_json(folder / "run.json")
        count += _predict_once(
            project, Steps(project, settings, scratch(project, moment(left["at"]), "pass", keep=True))
        )
    return count + _predict_once(project, Steps(project, settings, scratch(project, now, "pass")))


def _predict_once(project: Project, steps: Steps) -> int:
    answers = steps.predict()
    count = 0 if answers is None else answers.table.height
    if count and "register" in project.jobs:
        steps.do("register")
    shutil.rmtree(steps.run.folder)
    return count


def scratch(project: Project, at: datetime, name: str, *, keep: bool = False) -> Run:
    """A run's folder for what is no turn: it leaves nothing but what the ledger and the outlet have."""
    folder = project.outputs / name
    if not keep and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return Run(name, folder, at, name).save()


def _last(project: Project) -> datetime | None:
    """When labels were last collected and rows predicted; losing this costs one more look, and changes nothing."""
    try:
        return moment(read_json(project.outputs / "tick.json")["at"])
    except (OSError, ValueError, KeyError):
        return None
