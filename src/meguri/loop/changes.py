"""What changed between two runs, code, data, settings, packages, and what that did to the metrics, slice by slice."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from meguri.base.clock import duration
from meguri.base.errors import MeguriError
from meguri.base.files import read_json
from meguri.data import versions
from meguri.loop.compare import of_numbers, of_tables, rows_changed
from meguri.loop.turn import flat
from meguri.record.evaluation import Evaluation, figures
from meguri.record.gate import judge
from meguri.record.packages import differences
from meguri.record.run import NO_SOURCE, Run, git

if TYPE_CHECKING:
    from meguri.loop.project import Project


def changes(project: Project, old: str, new: str) -> dict[str, Any]:
    """What differs between two runs, as JSON can hold it; a part that did not change is None.

    ``code``: commits and ``git diff --stat``, files that changed. ``data``: versions, rows and the ends of their times,
    what happened to the rows. ``settings``, ``packages``, ``params``: name -> [then, now]. ``metrics``: each on its own
    test rows. ``shared``: on the rows that both tested, the metrics, those of each slice, and the gate's paired reading.
    Raises JobError when there is no such run.
    """
    runs = Run.load(project.outputs, old), Run.load(project.outputs, new)
    before, after = (_evaluation(run) for run in runs)
    own = of_numbers("metrics", before.metrics if before else None, after.metrics if after else None, 0.0)
    return {
        "runs": [{"run": run.id, "at": run.at.isoformat(), "reason": run.reason} for run in runs],
        "code": _code(project.root, *runs),
        "data": _data(project, *runs),
        "settings": _pairs(flat(runs[0].settings), flat(runs[1].settings)),
        "packages": _packages(*runs),
        "params": _pairs(*(_params(run) for run in runs)),
        "metrics": None if own is None else {"then": own.then, "now": own.now},
        "shared": _shared(runs[1], before, after),
    }


def _pairs(then: dict[str, Any] | None, now: dict[str, Any] | None) -> dict[str, list[Any]] | None:
    stage = of_tables("", then or {}, now or {})
    if stage is None or stage.state == "same":
        return None
    return {name: [stage.then[name], stage.now[name]] for name in stage.then}


def _code(root: Path, old: Run, new: Run) -> dict[str, Any] | None:
    known = old.code is not None and new.code is not None
    files = sorted({name for name, _ in {*(old.code or {}).items()} ^ {*(new.code or {}).items()}}) if known else []
    if old.commit == new.commit and not (old.dirty or new.dirty) and not files:
        return None
    stat = None
    if old.commit and new.commit and old.commit != new.commit:
        stat = git(root, "diff", "--stat=100", old.commit, new.commit, "--", ".", *NO_SOURCE)
    return {
        "commits": [old.commit, new.commit],
        "uncommitted": [old.dirty, new.dirty],
        "files": files if known else None,
        "stat": None if stat is None else stat.rstrip("\n"),
    }


def _data(project: Project, old: Run, new: Run) -> dict[str, Any] | None:
    if old.data_version == new.data_version:
        return None
    then, now = _rows(project, old), _rows(project, new)
    contract = next((c for run in (new, old) if (c := _contract(run))), {})
    told = None if then is None or now is None else rows_changed(then, now, contract.get("key", []))
    time = contract.get("time")
    return {
        "versions": [old.data_version, new.data_version],
        "rows": [None if table is None else table.height for table in (then, now)],
        "times": [_ends(table, time) for table in (then, now)],
        "changed": told,
    }


def _ends(table: pl.DataFrame | None, time: str | None) -> list[str] | None:
    if table is None or time not in table.columns:
        return None
    return [str(end) for end in (table[time].min(), table[time].max())]


def _rows(project: Project, run: Run) -> pl.DataFrame | None:
    path = run.data_version and versions.at_hand(project.data.parent, run.data_version)
    try:
        return pl.read_parquet(path) if path else None
    except pl.exceptions.PolarsError:
        return None


def _contract(run: Run) -> dict[str, Any]:
    path = run.folder / "model" / "contract.json"
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    return found


def _packages(old: Run, new: Run) -> dict[str, list[Any]] | None:
    if old.packages is None or new.packages is None:
        return None
    return {name: list(pair) for name, pair in differences(old.packages, new.packages).items()} or None


def _params(run: Run) -> dict[str, Any] | None:
    path = run.folder / "params.json"
    found = read_json(path) if path.is_file() else None
    return found if isinstance(found, dict) else None


def _evaluation(run: Run) -> Evaluation | None:
    folder = run.folder / "evaluation"
    return Evaluation.load(folder) if folder.is_dir() else None


def _shared(run: Run, old: Evaluation | None, new: Evaluation | None) -> dict[str, Any] | None:
    """Both on the rows that both tested; None when there are none."""
    if old is None or new is None or old.task != new.task:
        return None
    both = old.rows.select("key").join(new.rows.select("key"), on="key", how="inner")
    if both.is_empty():
        return None
    cut = [name for name in new.slices if name in old.slices]
    columns = [f"slice {name}" for name in cut]
    rows = [side.rows.join(both, on="key", how="semi").sort("key") for side in (old, new)]
    own = rows[1].select("key", *columns)  # a slice by quarters is cut at each one's own rows: take one cut for both
    rows[0] = rows[0].drop([name for name in rows[0].columns if name.startswith("slice ")]).join(own, on="key")
    sides = [replace(side, rows=part, slices=tuple(cut)) for side, part in zip((old, new), rows, strict=True)]
    slices: dict[str, Any] = {}
    for name in cut:
        before, after = (side.by(name).to_dicts() for side in sides)
        values = {str(line.pop(name)): [line] for line in before}
        for line in after:
            values[str(line.pop(name))].append(line)
        slices[name] = values
    metrics = [figures(side.rows, side.task, side.value) for side in sides]
    rules = run.settings.get("gate", {})
    try:
        verdict = judge(
            sides[1],
            sides[0],
            metric=rules["metric"],
            margin=rules["margin"],
            alpha=rules["alpha"],
            block=duration(rules["block"]) if rules.get("block") else None,
            seed=run.seed,
        )
        reading: dict[str, Any] = {n: v for n, v in asdict(verdict).items() if n in ("metric", "gain", "low", "high")}
        reading["reason"] = verdict.reason.replace("the champion", "the other run")
    except (KeyError, MeguriError) as error:
        reading = {
            "metric": rules.get("metric"),
            "reason": error.what if isinstance(error, MeguriError) else str(error),
        }
    return {"rows": both.height, "metrics": {"then": metrics[0], "now": metrics[1]}, "slices": slices, "gate": reading}
