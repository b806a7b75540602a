"""Does a rerun give the same, and does it name what was changed? A LightGBM run on the flights, then runs changed on purpose.

Prints one JSON line a case: {"contender", "verdict", "first", "detail", "metrics_off", "answers_off", "wall", "cpu"}; the ``off`` are
the largest differences. ``cpu`` and ``wall`` of the rerun are beside those of the turn. Ends with 1 when a case is not told as it should be.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from meguri.base.files import read_json
from meguri.loop.compare import apart
from meguri.loop.project import Project
from meguri.loop.rerun import rerun
from meguri.record.evaluation import Evaluation

FLIGHTS = Path(__file__).parent.parent / "examples" / "flights"
LIGHTGBM = "4.6.0"  # another version than the one installed
MODEL = "src/models/lightgbm_classifier.py"


def git(root: Path, *words: str) -> None:
    who = ["-c", "user.name=bench", "-c", "user.email=bench@example.com"]
    subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} has no {old}"
    path.write_text(text.replace(old, new))


@contextmanager
def timed(line: dict[str, Any]) -> Iterator[None]:
    """Put the seconds, wall and CPU of the processes started within, into the line."""
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    yield
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    line.update(wall=round(time.perf_counter() - wall, 1), cpu=round(cpu, 1))


def turn(root: Path, name: str, now: str, **variables: str) -> str:
    """Turn once; the run's id."""
    line: dict[str, Any] = {"contender": name}
    with timed(line):
        command = [sys.executable, "-m", "meguri", "turn", "--now", now, "--json"]
        done = subprocess.run(command, cwd=root, env={**os.environ, **variables}, capture_output=True, check=False)
        if done.returncode:
            sys.exit(done.stderr.decode())
    found = json.loads(done.stdout)
    print(json.dumps(line | {"verdict": found["verdict"], "metrics": found["detail"]["metrics"]}), flush=True)
    return str(found["id"])


def off(root: Path, run: str, kept: Path) -> dict[str, float | None]:
    """How far metrics, scores of test rows and predictions are from those of then, at most."""
    sides = root / "outputs/runs" / run, kept / "outputs/runs" / run
    then, now = (Evaluation.load(side / "evaluation") for side in sides)
    served = [pl.read_parquet(side / "predictions.parquet") for side in sides]
    pairs = [(then.rows, now.rows), (served[0], served[1])]
    both = [
        a.join(b, on="key", suffix=" now").select((pl.col("score") - pl.col("score now")).abs().max()) for a, b in pairs
    ]
    answers = [frame.item() for frame in both]
    return {
        "metrics_off": max(
            apart(then.metrics.get(name), now.metrics.get(name)) for name in {*then.metrics, *now.metrics}
        ),
        "answers_off": max(answers) if None not in answers else None,
    }


def again(root: Path, run: str, name: str, wanted: tuple[str | None, str | None], *present: str) -> bool:
    line: dict[str, Any] = {"contender": name}
    with timed(line):
        found = rerun(Project.open(root), run, present=present, keep=True)
    first = found.first
    line |= {"verdict": found.verdict, "first": first and first.name, "detail": first and first.detail}
    line |= off(root, run, found.folder) if found.folder and not found.failed else {"failed": found.failed}
    told = wanted[0] in (None, found.verdict) and wanted[1] == (
        first and first.name
    )  # None: whether it matters, nobody knows
    print(json.dumps(line | {"as_it_should_be": told}, ensure_ascii=False), flush=True)
    return told


def change_data(root: Path) -> None:
    """One flight's temperature, in what the source gives."""
    path = next((root / "data/cache").glob("*.parquet"))
    rows = pl.read_parquet(path)
    rows.with_columns(temp=pl.when(pl.int_range(pl.len()) == 1234).then(99.0).otherwise("temp")).write_parquet(path)


CASES: list[tuple[str, str, Callable[[Path], None]]] = [
    ("one value of the source changed", "data", change_data),
    (
        "a setting changed",
        "settings",
        lambda root: edit(root / "hydra/default.yaml", "n_estimators: 120", "n_estimators: 100"),
    ),
    ("a line of code changed", "code", lambda root: edit(root / MODEL, "**self.params,", "max_bin=63, **self.params,")),
]


def main() -> None:
    right = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "flights"
        left = shutil.ignore_patterns("outputs", "cache", "rows.parquet*", "__pycache__", ".dvc", ".venv")
        shutil.copytree(FLIGHTS, root, ignore=left)
        (root / ".gitignore").write_text("/outputs/*\n/data/*\n!/data/*.dvc\n!/data/.gitignore\n__pycache__/\n")
        git(root, "init", "-q")
        git(root, "add", ".")
        git(root, "commit", "-qm", "the flights")
        run = turn(root, "the turn", "2013-04-01")
        right.append(again(root, run, "rerun", ("same", None)))
        for name, part, change in CASES:
            change(root)
            right.append(again(root, run, name, ("differs", part), part))
            git(root, "checkout", "-q", "--", ".")
        other = Path(folder) / "packages"
        uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
        subprocess.run(
            [uv, "pip", "install", "-q", "--no-deps", "--target", str(other), f"lightgbm=={LIGHTGBM}"], check=True
        )
        run = turn(root, f"the turn with lightgbm {LIGHTGBM}", "2013-05-01", PYTHONPATH=str(other))
        kept = read_json(root / "outputs/runs" / run / "made_with.json")["packages"]["lightgbm"]
        right.append(kept == LIGHTGBM)
        right.append(again(root, run, "another lightgbm", (None, "packages")))
    sys.exit(0 if all(right) else 1)


if __name__ == "__main__":
    main()
