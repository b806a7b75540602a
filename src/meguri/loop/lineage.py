"""Lineage: from a prediction back to its release, run, code and data, and from those on to every prediction made of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from meguri.base.errors import JobError
from meguri.base.files import read_json
from meguri.base.redact import redact
from meguri.data import versions

if TYPE_CHECKING:
    from meguri.loop.project import Project
    from meguri.record.ledger import Prediction

EVER = datetime(9999, 12, 31, tzinfo=UTC)
_PREFIX = re.compile(r"[0-9a-f]{4,40}(\.dir)?")


@dataclass(frozen=True)
class Node:
    """One thing on the way: what kind it is, its name, what is known of it, and what it leads to."""

    kind: str
    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    leads: tuple[Node, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The node and all it leads to, as JSON can hold them."""
        leads = [node.to_dict() for node in self.leads]
        return {"kind": self.kind, "name": self.name, **self.facts, **({"leads": leads} if leads else {})}


def trace(project: Project, name: str, *, rows: int = 0) -> Node:
    """Where something came from, and what came of it.

    ``name`` is a prediction id, a key, the id of a run or release, or the beginning of a data version or commit (four
    letters or more). ``rows`` is how many prediction ids each release names, the latest; below 0 all of them.
    Raises JobError for a name that nothing has, or several things have.
    """
    past = _Past(project, rows)
    if name in past.runs:
        return past.run(name, onward=True)
    found = project.ledger.find(name)
    if len(found) == 1:
        return past.prediction(found[0])
    if found:
        each = tuple(map(past.prediction, found))
        return Node("key", name, {"predictions": len(found)}, each)
    data, commits = past.beginning("data_version", name), past.beginning("commit", name)
    if len(data) + len(commits) > 1:
        fix = "write more of it: " + ", ".join([*data, *commits])
        raise JobError(f"several things begin with '{name}'", where=project.root, fix=fix)
    if data:
        return past.data(data[0], onward=True)
    if commits:
        runs = past.of("commit", commits[0])
        each = tuple(past.run(run, onward=True, without="commit") for run in runs)
        return Node("commit", commits[0], {"runs": len(runs)}, each)
    what = f"nothing here is called '{name}': no prediction, key, run, release, data version or commit"
    raise JobError(what, where=project.root, fix="look at: meguri runs list, meguri data versions")


def data_versions(project: Project) -> list[dict[str, Any]]:
    """Each version of the data, oldest first: when and by which runs it was used, its rows if it is at hand, where it is kept.

    ``present`` marks the one that ``data/`` holds now.
    """
    past, root = _Past(project, 0), project.data.parent
    now = versions.version(root)
    named = [str(run["data_version"]) for run in past.runs.values() if run["data_version"]]
    each = list(dict.fromkeys([*named, *versions.past(root), *([now] if now else [])]))
    kept = versions.where(root, each) if each else {}
    found = []
    for name in each:
        runs = past.of("data_version", name)
        at = min((past.runs[run]["at"] for run in runs), default=None)
        where = kept[name]
        found.append(
            {
                "version": name,
                "at": at,
                "runs": runs,
                "rows": past.rows_of(name),
                "cache": where.cache,
                "remote": where.remote,
                "present": name == now,
            }
        )
    return found


class _Past:
    """What the ledger, the runs' folders and the releases know."""

    def __init__(self, project: Project, rows: int) -> None:
        self.project, self.rows = project, rows
        self.live = project.champion()
        self.made = project.ledger.made()
        self.runs: dict[str, dict[str, Any]] = {}
        for path in sorted((project.outputs / "runs").glob("*/run.json")):
            kept = read_json(path)
            names = ("reason", "status", "commit", "dirty", "seed", "data_version", "settings")
            verdict = kept["facts"].get("verdict") or {}
            self.runs[path.parent.name] = {
                "at": datetime.fromisoformat(kept["at"]),
                **redact({name: kept.get(name) for name in names}),
                "verdict": verdict.get("result"),
                "why": verdict.get("reason"),
                "release": kept["facts"].get("release"),
            }
        for turn in project.ledger.turns():  # what outlives the runs' folders
            verdict = turn.detail.get("verdict") or {}
            known = {"at": turn.at, "reason": turn.reason, "status": turn.status, "release": turn.release}
            known |= {name: turn.detail.get(name) for name in ("commit", "data_version")}
            known |= {"verdict": turn.verdict, "why": verdict.get("reason")}
            self.runs[turn.id] = {**self.runs.get(turn.id, {}), **known}
        self.runs = dict(sorted(self.runs.items(), key=lambda item: (item[1]["at"], item[0])))

    def of(self, fact: str, value: str) -> list[str]:
        """The runs of which that is true."""
        return [name for name, run in self.runs.items() if run.get(fact) == value]

    def beginning(self, fact: str, start: str) -> list[str]:
        """The data versions or commits that begin so."""
        if not _PREFIX.fullmatch(start):
            return []
        each = dict.fromkeys(str(run[fact]) for run in self.runs.values() if run.get(fact))
        return [value for value in each if value.startswith(start)]

    def rows_of(self, version: str) -> int | None:
        """How many rows a version has, when it is at hand and a table."""
        path = versions.at_hand(self.project.data.parent, version)
        try:
            return None if path is None else int(pl.scan_parquet(path).select(pl.len()).collect().item())
        except (pl.exceptions.PolarsError, OSError):
            return None

    def prediction(self, row: Prediction) -> Node:
        """A prediction, and back from it."""
        names = (
            "key",
            "time",
            "made_at",
            "outlet",
            "arm",
            "score",
            "answer",
            "label",
            "label_at",
            "source",
            "features",
        )
        return Node(
            "prediction",
            row.prediction_id,
            {name: getattr(row, name) for name in names},
            (self.release(row.release, row.run),),
        )

    def release(self, name: str, run: str | None) -> Node:
        """A release, and back from it."""
        return Node("release", name, self._about(name), (self.run(run),) if run is not None else ())

    def run(self, name: str, *, onward: bool = False, without: str = "") -> Node:
        """A run, what it was made of but for that kind, and, going onward, what came of it."""
        known = self.runs.get(name)
        if known is None:
            return Node("run", name, {"note": "nothing is known of it here any more"})
        facts = {key: value for key, value in known.items() if key not in ("commit", "dirty", "data_version")}
        leads = []
        if known["commit"]:
            leads.append(Node("commit", known["commit"], {"dirty": known.get("dirty")}))
        if known["data_version"]:
            leads.append(self.data(known["data_version"]))
        leads = [lead for lead in [*leads, self.quarantine(name)] if lead.kind != without]
        return Node("run", name, facts, (*leads, *(self.onward(name) if onward else ())))

    def onward(self, run: str) -> tuple[Node, ...]:
        """The releases of a run, each with how many predictions were made from it."""
        mine = [row["release"] for row in self.made.filter(pl.col("run") == run).iter_rows(named=True)]
        own = [self.runs[run]["release"]] if self.runs[run]["release"] else []
        return tuple(
            Node("release", name, self._about(name), (self.predictions(name),)) for name in dict.fromkeys([*own, *mine])
        )

    def data(self, version: str, *, onward: bool = False) -> Node:
        """A version of the data, and, going onward, the runs on it."""
        runs = self.of("data_version", version) if onward else []
        each = tuple(self.run(run, onward=True, without="data") for run in runs)
        return Node("data", version, {"rows": self.rows_of(version)}, each)

    def quarantine(self, run: str) -> Node:
        """The rows that a run was the first to refuse, counted by reason."""
        refused = self.project.quarantine.read().filter(pl.col("run") == run)
        reasons = refused.group_by("reason").len().sort(["len", "reason"], descending=[True, False])
        decided = dict(refused["decision"].drop_nulls().value_counts().rows())
        facts = {"rows": refused.height, "reasons": dict(reasons.rows()), "decisions": decided}
        return Node("quarantine", f"{refused.height:,} rows", facts)

    def predictions(self, release: str) -> Node:
        """How many predictions a release made, and the ids of the latest."""
        mine = self.made.filter(pl.col("release") == release)
        count = int(mine["count"].sum())
        facts: dict[str, Any] = {"count": count}
        if count:
            facts |= {"since": mine["since"].min(), "until": mine["until"].max()}
        if self.rows:
            ids = self.project.ledger.joined(release=release, as_of=EVER)["prediction_id"].to_list()
            facts["ids"] = ids if self.rows < 0 else ids[-self.rows :]
        return Node("predictions", f"{count:,}", facts)

    def _about(self, release: str) -> dict[str, Any]:
        path = self.project.outputs / "releases" / release / "manifest.json"
        manifest = read_json(path) if path.is_file() else {}
        facts = {name: manifest.get(name) for name in ("format", "trained_until")}
        return {"live": release == self.live, **facts, **({} if manifest else {"note": "its folder is gone"})}
