"""A run once more, in a process of its own: restored jobs on restored rows, in a folder where nothing is live."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from meguri.base.clock import moment
from meguri.base.errors import MeguriError
from meguri.base.files import new_folder, read_json, write_json
from meguri.base.redact import MASK
from meguri.loop.job import before, import_from
from meguri.loop.project import Project
from meguri.loop.settings import Settings, judge
from meguri.loop.steps import Steps
from meguri.loop.turn import OUTLET, judge_challenger, plan
from meguri.record.ledger import GateUse, Rollout, open_ledger
from meguri.record.packages import installed, used
from meguri.record.run import MADE_WITH, Run, code_of

if TYPE_CHECKING:
    from meguri.data.contract import Contract

COMPARED = ("model", "evaluation", "predictions")
FAILED = 3  # the exit code when a job failed, told in failure.json


def main(arguments: Sequence[str]) -> int:
    """Do what the request file says; a failure is written beside it."""
    asked = read_json(Path(arguments[0]))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    outputs = Path(asked["outputs"])
    project = Project(Path(asked["root"]), outputs=outputs, data=outputs / "data")
    project.ledger = open_ledger(f"sqlite:///{outputs / 'ledger.db'}")  # whichever the settings name is live
    old = Run.load(Path(asked["past"]).parent.parent, asked["run"])
    step = "settings"
    try:
        steps = _begin(project, old, asked)
        for step in _steps(project, old, gate=asked["gate"]):
            print(step, flush=True)
            began = time.perf_counter()
            facts = _do(step, steps, old, asked)
            steps.run = steps.run.finish(step, time.perf_counter() - began, **facts)
    except Exception as error:
        known = error if isinstance(error, MeguriError) else None
        what = known.what if known else f"{type(error).__name__}: {error}"
        failure = {"step": step, "what": what, "where": known and known.where, "fix": known and known.fix}
        write_json(outputs / "failure.json", failure)
        return FAILED
    finally:
        project.ledger.close()
        made = {"packages": installed(), "code": code_of(project.root), "used": sorted(used())}
        write_json(outputs / "runs" / old.id / MADE_WITH, made)
    steps.run.with_(status="done")
    return 0


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: the next rerun has the same folder."""
    with contextlib.suppress(OSError):
        os.read(0, 1)  # nothing comes: the other end stays open for as long as the parent lives
    os._exit(1)


def _unmasked(kept: dict[str, Any], project: Project) -> dict[str, Any]:
    """The settings that a run kept, with the secrets of today in the place of those that it did not keep."""
    if MASK not in json.dumps(kept):
        return kept

    def whole(then: Any, now: Any) -> Any:
        if isinstance(then, dict) and isinstance(now, dict):
            return {name: whole(value, now.get(name)) for name, value in then.items()}
        return now if isinstance(then, str) and MASK in then and now is not None else then

    found: dict[str, Any] = whole(kept, project.settings().model_dump(mode="json"))
    return found


def _begin(project: Project, old: Run, asked: Mapping[str, Any]) -> Steps:
    """The run, with the same id, moment and settings, and the ledger as it was when the gate was asked."""
    if "settings" in asked["present"]:
        settings = project.settings(old.overrides_kept)
    else:
        kind = Settings
        if (project.root / "src" / "configurations.py").is_file():
            kind = import_from(project.root, "src.configurations", "Config")
        settings = judge(_unmasked(old.settings, project), kind, project.root / "hydra")
    folder = project.outputs / "runs" / old.id
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(
        old.id,
        folder,
        old.at,
        old.reason,
        old.overrides,
        settings=settings.model_dump(mode="json"),
        commit=old.commit,
        dirty=old.dirty,
        seed=settings.seed,
        data_version=None if "data" in asked["present"] else old.data_version,
        status="open",
    )
    if asked["champion"]:
        _roll_out(project, asked["champion"], run.at)
    for use in asked["gate_uses"]:
        times = {name: moment(use[name]) for name in ("at", "since", "until")}
        project.ledger.write_gate_use(GateUse(**{**use, **times}))
    return Steps(project, settings, run.save())


def _steps(project: Project, old: Run, *, gate: bool) -> list[str]:
    """The steps of the run that led to its model, evaluation and predictions; what only writes out is never done again."""
    makers = {job.gives: job.name for job in project.jobs.values()}
    wanted = {makers[noun] for noun in COMPARED if makers.get(noun) in old.done}
    wanted |= set() if wanted else {name for name in ("retrieve", "optimize") if name in old.done}
    left = list(wanted)
    while left:
        left += (more := before(project.jobs[left.pop()], makers) - wanted)
        wanted |= more
    wanted |= {name for name in ("gate", "release") if gate and name in old.done}
    return [name for name in plan(project) if name in wanted]


def _do(step: str, steps: Steps, old: Run, asked: Mapping[str, Any]) -> dict[str, Any]:
    """One step, as a turn does it; rows that are not asked for anew are those of then."""
    anew = "data" in asked["present"]
    if step == "gate":
        return judge_challenger(steps, gate=bool(old.facts.get("gated", True)))
    if step == "release":
        return _release(steps)
    if step == "retrieve" and not anew:
        _restore(steps, old, asked["rows"])
    elif step == "predict" and not anew and not _ask(steps, old):
        return {"left_out": "the rows that were predicted cannot be told from what was kept of them"}
    else:
        steps.do(step)
    return {}


def _restore(steps: Steps, old: Run, kept: str | None) -> None:
    """Give the jobs the rows of then in the place of what ``retrieve`` would read.

    The contract has passed them, or a person has; one that has changed since sees them once more.
    """
    if kept is None:  # the project keeps its data itself: its files lie where the jobs look for them
        write_json(steps.run.folder / "data.json", None)
        return
    rows, contract = pl.read_parquet(kept), steps.project.contract
    if dict(rows.schema) != contract.types:
        rows = contract.check(rows, now=old.at, labelled=True).rows
    rows.write_parquet(steps.run.folder / "data.parquet")


def _release(steps: Steps) -> dict[str, Any]:
    """Make the model the live release, when the verdict says so, in the ledger of this folder alone."""
    run, project = steps.run, steps.project
    if not run.facts.get("live"):
        return {"release": None}
    with new_folder(project.outputs / "releases" / run.id) as draft:
        shutil.copytree(run.folder / "model", draft, dirs_exist_ok=True)
    _roll_out(project, run.id, run.at)
    steps.forget("release")
    return {"release": run.id}


def _roll_out(project: Project, release: str, at: datetime) -> None:
    project.ledger.write_rollout(Rollout(outlet=OUTLET, champion=release, at=at, why="a rerun", by="rerun"))


def _ask(steps: Steps, old: Run) -> bool:
    """Put the rows that were predicted then where ``predict`` looks for them; False when they cannot be told."""
    kept = old.folder / "requests.parquet"
    if kept.is_file():
        asked: pl.DataFrame | None = pl.read_parquet(kept)
    else:
        path = old.folder / "predictions.parquet"
        asked = requests_of(pl.read_parquet(path), steps.project.contract) if path.is_file() else None
    if asked is None or asked.is_empty():
        return False
    asked.write_parquet(steps.run.folder / "requests.parquet")
    return True


def requests_of(predictions: pl.DataFrame, contract: Contract) -> pl.DataFrame | None:
    """The rows that predictions answered, from their keys, times and features; None when the contract needs more of a row.

    Columns: those of the contract but the label. A part of the key that is no text, number or date cannot be told.
    """
    kinds = {name: kind for name, kind in contract.types.items() if name != contract.label}
    needed = {field.name for field in contract.fields if field.required and field.name != contract.label}
    if predictions.is_empty() or not needed <= {*contract.key, contract.time, *contract.features}:
        return None
    if not isinstance(predictions.schema["features"], pl.Struct):  # an older Meguri kept them as text
        return None
    columns = predictions["features"].struct.unnest()
    if not {name for name in contract.features if name in needed} <= set(columns.columns):
        return None
    columns = columns.select(pl.col(name).cast(kinds[name]) for name in contract.features if name in columns.columns)
    keys = [_parts(text) if len(contract.key) > 1 else [text] for text in predictions["key"]]
    try:
        parts = [
            pl.Series(name, [row[place] for row in keys], pl.String).cast(kinds[name])
            for place, name in enumerate(contract.key)
            if name not in columns.columns
        ]
    except (pl.exceptions.PolarsError, IndexError):
        return None
    time_ = predictions["time"].cast(kinds[contract.time]).alias(contract.time)
    own = [column for column in (*parts, time_) if column.name not in columns.columns]
    return pl.DataFrame([*own, *columns.iter_columns()])


def _parts(text: str) -> list[str]:
    """The columns of a key, as ``Contract.key_of`` joined them: "|" between, a backslash before one that is meant."""
    parts, marked = [""], False
    for letter in text:
        if letter == "|" and not marked:
            parts.append("")
        elif letter == "\\" and not marked:
            marked = True
            continue
        else:
            parts[-1] += letter
        marked = False
    return parts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
