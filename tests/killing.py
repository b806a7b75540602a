"""Kill a turn of the small project at a moment, let the next one finish, and see that nothing is half-made, lost or doubled."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import duckdb
from conftest import START

from meguri.base.files import read_json
from meguri.loop.project import Project
from meguri.record.release import Release

LATER = START + timedelta(days=10)


def turn(root: Path, *, kill_after: float | None = None) -> float:
    """Run ``meguri tick`` at a moment when a turn is due; seconds until it ended, or was killed."""
    began = time.monotonic()
    command = [sys.executable, "-m", "meguri", "tick", "--now", LATER.isoformat()]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        process.wait(kill_after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    else:
        assert process.returncode == 0, process.stderr.read().decode() if process.stderr else ""
    finally:
        if process.stderr:
            process.stderr.close()
    return time.monotonic() - began


def prepare(root: Path) -> Path:
    """A project with a live release and a day of predictions that wait for their labels."""
    command = [sys.executable, "-m", "meguri", "tick", "--now", START.isoformat()]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    return root


def kill_once(prepared: Path, root: Path, after: float) -> list[str]:
    """Kill a turn of a copy of ``prepared``, let the next tick finish, and name everything that is wrong then."""
    shutil.copytree(prepared, root)
    turn(root, kill_after=after)
    wrong = []
    for folder in (root / "outputs/releases").glob("*-*"):
        try:
            Release.load(folder)
        except Exception as error:
            wrong.append(f"after the kill, the release {folder.name}: {error}")
    turn(root)
    project = Project(root)
    turns = project.ledger.turns()
    if [t.status for t in turns] != ["done", "done"]:
        wrong.append(f"turns: {[(t.id, t.status) for t in turns]}")
    releases = {folder.name for folder in (root / "outputs/releases").glob("*")}
    if releases != {t.release for t in turns if t.release}:
        wrong.append(f"releases {sorted(releases)}, and turns that made {[t.release for t in turns]}")
    for name in releases:
        Release.load(root / "outputs/releases" / name)
    joined = project.ledger.joined(as_of=LATER + timedelta(days=30))
    if (
        joined["key"].to_list() != sorted(joined["key"].to_list(), key=lambda k: int(k[1:]))
        or joined["key"].n_unique() != 48
    ):
        wrong.append(f"{joined.height} predictions of {joined['key'].n_unique()} rows, where 48 were due")
    if joined.height != joined["key"].n_unique():
        wrong.append("a row was predicted twice")
    labelled = joined.filter(joined["time"] < LATER - timedelta(days=1))["label"]
    if labelled.null_count():
        wrong.append(f"{labelled.null_count()} labels that had come are not in the ledger")
    with duckdb.connect(str(root / "outputs/predictions.duckdb")) as table:
        out = {str(row[0]) for row in table.execute("SELECT prediction_id FROM predictions").fetchall()}
    if out != set(joined["prediction_id"]):
        wrong.append(f"{len(out)} rows in the table, {joined.height} predictions in the ledger")
    running = [run["name"] for run in project.tracking.runs() if run["status"] == "RUNNING"]
    if running:
        wrong.append(f"runs still running in the tracking store: {running}")
    left = [
        str(p.relative_to(root))
        for p in (root / "outputs").rglob(".*")
        if p.name not in (".dvc.lock", ".ledger.db.lock") and "/dvc/" not in str(p)
    ]
    if [p for p in left if not p.endswith(".lock")]:
        wrong.append(f"left behind: {left}")
    states = {read_json(path)["status"] for path in (root / "outputs/runs").glob("*/run.json")}
    if states != {"done"}:
        wrong.append(f"runs on disk: {states}")
    project.ledger.close()
    shutil.rmtree(root)
    return wrong
