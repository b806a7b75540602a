"""CPU seconds of what a person waits for most: --help, a tick with nothing to do, a turn of six jobs that do nothing.

Each contender is a whole process on a project that has turned before; the least of five, as CPU time only grows by noise.
Prints one JSON line each: {"contender", "cpu_seconds", "bar"}.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from meguri.data.versions import save

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from conftest import write_project

JOBS = {
    "retrieve": "def retrieve(): ...",
    "optimize": "def optimize(dataset): ...",
    "train": "def train(dataset, params): ...",
    "evaluate": "def evaluate(model, dataset): ...",
    "predict": "def predict(release, requests): ...",
    "register": "def register(predictions): ...",
}
SETTINGS = "model: {name: nothing}\ngate: {metric: log_loss, margin: 0.01}\n"
CLOCK = "2024-03-01T00:00"


def project(root: Path) -> Path:
    """A project whose six jobs do nothing, with a data file to version."""
    files = {f"src/jobs/{name}.py": text for name, text in JOBS.items()}
    files |= {
        "hydra/default.yaml": SETTINGS,
        "src/models/nothing.py": "class Nothing: ...\n",
        "data/rows.csv": "a,b\n1,2\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def cpu(*command: str, cwd: Path, times: int = 5) -> float:
    """The least CPU seconds, user and system, of the command and its children."""
    least = float("inf")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(times + 1):  # the first writes the bytecode
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return round(least, 3)


def main() -> None:
    meguri = [sys.executable, "-m", "meguri"]
    with tempfile.TemporaryDirectory() as folder:
        root, live = project(Path(folder) / "nothing"), write_project(Path(folder) / "alarm")
        save(root, [root / "data" / "rows.csv"])
        tick = [*meguri, "tick", "--now", CLOCK]
        for where, command in ((root, [*meguri, "turn", "--now", CLOCK]), (live, tick)):
            subprocess.run(command, cwd=where, check=True, capture_output=True)
        lines = [
            {"contender": "python", "cpu_seconds": cpu(sys.executable, "-c", "pass", cwd=root)},
            {"contender": "meguri --help", "cpu_seconds": cpu(*meguri, "--help", cwd=root), "bar": 0.15},
            {"contender": "meguri tick, nothing to do", "cpu_seconds": cpu(*tick, cwd=live), "bar": 0.5},
            {
                "contender": "meguri turn, six jobs that do nothing",
                "cpu_seconds": cpu(*meguri, "turn", cwd=root),
                "bar": 2.0,
            },
        ]
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
