"""One turn of the loop: the jobs in order, the gate, the release and its rollout; a killed turn goes on where it stopped."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meguri.base.clock import duration, moment
from meguri.base.errors import JobError, MeguriError, TurnBusy
from meguri.base.files import forget_drafts, locked, new_folder, read_json, write_json
from meguri.base.redact import redact
from meguri.loop import worth
from meguri.loop.steps import Steps
from meguri.record import rollout
from meguri.record.ledger import GateUse, Rollout, TurnRecord
from meguri.record.run import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meguri.loop.project import Project
    from meguri.record.gate import Verdict

OUTLET = "table"
ATTEMPTS = 3  # a turn that was killed so often is given up, as it may be what kills its process
Say = Callable[[str], None]


def silent(step: str) -> None:
    """Say nothing."""


def turn(
    project: Project,
    *,
    now: datetime,
    reason: str,
    overrides: Sequence[str] = (),
    gate: bool = True,
    say: Say = silent,
) -> TurnRecord:
    """Run the jobs once, judge the challenger, and put it live when it passes.

    A turn that was killed is taken up first, with its own moment, reason and overrides. ``gate=False`` puts the challenger
    live whatever the verdict (to compare policies in a replay). Raises TurnBusy when another turn is under way, SettingsError
    when one to be taken up had overrides with secrets, which are not kept, and ``overrides`` does not have them, and what
    a job raises; the run then counts as failed and nothing of it is live.
    """
    with _alone(project):
        run = _unfinished(project)
        if run is not None:
            overrides = run.overrides_with(overrides)
            run = run.with_(attempts=run.attempts + 1)
        settings = project.settings(overrides)
        project.check_space(settings)
        worth.check(project, settings)
        if run is None:
            run = Run.create(
                project.outputs,
                project.root,
                at=now,
                reason=reason,
                overrides=tuple(overrides),
                settings=settings.model_dump(mode="json"),
                seed=settings.seed,
            )
        steps = Steps(project, settings, run)
        try:
            go(steps, plan(project), gate=gate, say=say)
        except BaseException as error:
            if isinstance(error, Exception):  # an interrupt leaves the run as a kill does: to be taken up
                close(steps, "failed", error)
            raise
        return close(steps, "done", None)


def plan(project: Project) -> list[str]:
    """The steps of a turn: the jobs in order, with the gate and the release after the evaluation."""
    order = list(project.jobs)
    if "train" in order and "evaluate" in order:
        place = order.index("evaluate") + 1
        order[place:place] = ["gate", "release"]
    return order


def go(steps: Steps, names: Iterable[str], *, gate: bool = True, say: Say = silent) -> None:
    """Do the steps that the run has not done yet, each written down as done when what it left is safe."""
    project = steps.project
    if steps.run.tracking_id is None:
        tags = _tags(steps.run)
        tracking_id = project.tracking.start(
            steps.run.id, params=flat(redact(steps.run.settings)), tags=tags, at=steps.run.at
        )
        steps.run = steps.run.with_(tracking_id=tracking_id)
    for name in names:
        if name in steps.run.done:
            continue
        say(name)
        began = time.perf_counter()
        facts: dict[str, Any] = {}
        if name == "gate":
            facts = judge_challenger(steps, gate=gate)
        elif name == "release":
            facts = put_live(steps)
        else:
            steps.do(name)
            if name == "predict" and (answers := steps.value("predictions")) is not None:
                facts = {"predictions": answers.table.height}
        steps.run = steps.run.finish(name, time.perf_counter() - began, **facts)


def judge_challenger(steps: Steps, *, gate: bool = True) -> dict[str, Any]:
    """The verdict on the run's model against the live release, on the same test rows; the use of them is counted."""
    from meguri.record.gate import judge

    challenger = steps.value("evaluation")
    if challenger is None or steps.value("model") is None:
        return {"verdict": None}
    project, run, rules = steps.project, steps.run, steps.settings.gate
    live = project.champion()
    champion = None
    if live is not None and live != run.id:
        release = project.release(live)
        after = moment(release.manifest["trained_until"])
        champion = steps.call("evaluate", model=release).later_than(after)
        challenger = challenger.later_than(after)
    rows = challenger.rows
    since, until = (rows["time"].min(), rows["time"].max()) if rows.height else (run.at, run.at)
    uses = project.ledger.gate_uses()
    earlier = {u.run for u in uses if u.run != run.id and u.since <= until and since <= u.until}
    verdict: Verdict = judge(
        challenger,
        champion,
        metric=rules.metric,
        margin=rules.margin,
        alpha=rules.alpha,
        block=duration(rules.block) if rules.block else None,
        guards=rules.guards,
        slices=rules.slices,
        uses=len(earlier),
        planned=rules.uses,
        seed=steps.settings.seed,
    )
    used = GateUse(
        at=run.at,
        run=run.id,
        test_version=challenger.version,
        since=since,
        until=until,
        rows=rows.height,
        metric=rules.metric,
        result=verdict.result,
    )
    project.ledger.write_gate_use(used)
    result = verdict.to_dict()
    write_json(run.folder / "verdict.json", result)
    return {"verdict": result, "live": verdict.result == "pass" or not gate, "gated": gate}


def put_live(steps: Steps) -> dict[str, Any]:
    """Make the run's model a release and roll it out, when the verdict says so; doing it again changes nothing."""
    project, run = steps.project, steps.run
    if not run.facts.get("live"):
        return {"release": None}
    home = project.outputs / "releases" / run.id
    forget_drafts(home)
    if not home.is_dir():
        with new_folder(home) as draft:
            shutil.copytree(run.folder / "model", draft, dirs_exist_ok=True)
    release = project.release(run.id)  # verified once more from where it will be served
    project.tracking.register(
        str(run.tracking_id), home, run.id, {"verdict": run.facts["verdict"]["result"], "format": release.format}
    )
    before = project.champion()
    why = run.facts["verdict"]["reason"] if run.facts["gated"] else "released without a gate"
    for outlet in project.outlets:
        live = rollout.current(project.ledger, outlet)
        if live is None or (live.champion != run.id and not live.challengers):  # no A/B test is disturbed
            project.ledger.write_rollout(
                Rollout(outlet=outlet, champion=run.id, at=run.at, why=f"{run.reason}; {why}", by="gate")
            )
    project.tracking.alias("champion", run.id)
    steps.forget("release")
    return {"release": run.id, "replaced": before if before != run.id else None}


def close(steps: Steps, status: str, error: Exception | None) -> TurnRecord:
    """End the run in its folder, in the tracking store and in the ledger; ``status`` is done or failed."""
    run, project = steps.run, steps.project
    verdict = run.facts.get("verdict") or {}
    metrics = _metrics(run.folder)
    seconds = round(sum(run.done.values()), 3)
    detail = {
        "metrics": metrics,
        "verdict": verdict or None,
        "data_version": run.data_version,
        "findings": run.facts.get("findings", []),
        "predictions": run.facts.get("predictions", 0),
        "commit": run.commit,
        "steps": run.done,
        "error": _one_line(error) if error else None,
    }
    if status == "done":
        detail["worth"] = _worth(steps, verdict, seconds)
    record = TurnRecord(
        id=run.id,
        at=run.at,
        reason=run.reason,
        status=status,
        verdict=verdict.get("result"),
        release=run.facts.get("release"),
        seconds=seconds,
        detail=detail,
    )
    if run.tracking_id is not None:
        numbers = {
            **metrics,
            "seconds": seconds,
            **{f"gate_{k}": verdict[k] for k in ("gain", "low", "high") if verdict.get(k) is not None},
        }
        end = run.at + timedelta(seconds=seconds)
        project.tracking.log(
            run.tracking_id,
            metrics=numbers,
            params=_searched(run.folder),
            tags=_outcome(run, verdict, error),
            at=end,
        )
        if run.data_version:
            project.tracking.data(run.tracking_id, run.data_version, "data")
        kept = [
            p
            for p in (run.folder / n for n in ("run.json", "verdict.json", "diff.patch", "params.json"))
            if p.is_file()
        ]
        project.tracking.artifacts(run.tracking_id, kept)
        project.tracking.finish(run.tracking_id, "FINISHED" if status == "done" else "FAILED", end)
    project.ledger.write_turn(record)
    steps.run = run.with_(status=status)
    return record


def _worth(steps: Steps, verdict: dict[str, Any], seconds: float) -> dict[str, Any] | None:
    """What the turn was worth in money, where the contract speaks of it; the gain where money is what was judged."""
    judged = verdict if verdict.get("currency") else {}
    gain = judged.get("gain"), judged.get("low"), judged.get("high")
    costs = steps.settings.costs.model_dump()
    found = worth.worth(steps.project, now=steps.run.at, costs=costs, seconds=seconds, gain=gain)
    return None if found is None else found.to_dict()


@contextmanager
def _alone(project: Project) -> Iterator[None]:
    """Hold the project's turn; raises TurnBusy, naming who holds it, when another process does."""
    holder = project.outputs / "turn.json"
    with locked(project.outputs / "turn.lock", wait=False) as held:
        if not held:
            try:
                who = f"process {read_json(holder)['pid']}"
            except (OSError, ValueError, KeyError):
                who = "another process"
            raise TurnBusy(
                f"a turn of this project is under way, in {who}",
                where=project.root,
                fix="wait for it to end, then try again",
            )
        write_json(holder, {"pid": os.getpid()})
        yield


def _unfinished(project: Project) -> Run | None:
    """The turn that a killed process left, to be taken up; what was left before it had a record is removed."""
    found = None
    for folder in sorted((project.outputs / "runs").glob("*-*")):
        if not (folder / "run.json").is_file():
            shutil.rmtree(folder)
        elif read_json(folder / "run.json")["status"] == "running":
            found = Run.load(project.outputs, folder.name)
    if found is None:
        return None
    if found.attempts >= ATTEMPTS:
        steps = Steps(project, project.settings(found.overrides_kept), found)
        close(steps, "failed", JobError(f"the turn was killed {ATTEMPTS} times"))
        return None
    for left in found.folder.glob(".*"):  # drafts of files and folders that were never finished
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return found


def _metrics(folder: Path) -> dict[str, float]:
    path = folder / "evaluation" / "evaluation.json"
    return {str(k): float(v) for k, v in read_json(path)["metrics"].items()} if path.is_file() else {}


def _searched(folder: Path) -> dict[str, Any]:
    path = folder / "params.json"
    found = read_json(path) if path.is_file() else None
    return {f"params.{k}": v for k, v in found.items()} if isinstance(found, dict) else {}


def _tags(run: Run) -> dict[str, str]:
    tags = {
        "meguri.reason": run.reason,
        "meguri.run": run.id,
        "meguri.seed": str(run.seed),
        "meguri.lock": f"{run.lock} {run.lock_hash}" if run.lock else "none",
        "meguri.dirty": str(run.dirty).lower(),
    }
    return tags | ({"mlflow.source.git.commit": run.commit} if run.commit else {})


def _outcome(run: Run, verdict: dict[str, Any], error: Exception | None) -> dict[str, str]:
    tags = {"meguri.data_version": run.data_version or "none"}
    if verdict:
        tags |= {"meguri.verdict": verdict["result"], "meguri.verdict_reason": verdict["reason"]}
    if run.facts.get("release"):
        tags["meguri.release"] = run.facts["release"]
    if error:
        tags["meguri.error"] = _one_line(error)
    said = tags.get("meguri.error") or verdict.get("reason")
    return tags | {"mlflow.note.content": f"{run.reason}: {said}" if said else run.reason}  # the text of its page


def _one_line(error: Exception) -> str:
    return str(redact(f"{type(error).__name__}: {error.what if isinstance(error, MeguriError) else error}"))


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings as the flat parameters of an MLflow run: ``gate.margin``."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = json.dumps(value) if isinstance(value, list) else value
    return found
