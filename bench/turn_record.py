"""What the record of one run costs: a fresh process that starts, logs and finishes it on an existing store.

python bench/turn_record.py [--json]

Measures CPU seconds (user and system, the interpreter's own included) of: the interpreter alone; the record written
straight; the record with a release registered; and the same record through MLflow's own client.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1] / "src"
RUN = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from meguri.record.tracking import Tracking
folder, name, registered = Path(sys.argv[1]), sys.argv[2], len(sys.argv) > 3
at = datetime(2013, 4, 1, tzinfo=UTC)
tracking = Tracking(f"sqlite:///{folder}/mlflow.db", "bench", folder / "runs")
run = tracking.start(name, params={f"p{i}": i for i in range(40)}, tags={"reason": "bench"}, at=at)
tracking.log(run, metrics={f"m{i}": i / 7 for i in range(20)}, at=at)
if registered:
    tracking.register(run, folder / "bundle", name, {})
    tracking.alias("champion", name)
tracking.finish(run, "FINISHED", at)
"""
REPEATS = 7


def cost(folder: Path, code: str, *arguments: str, **more: str) -> float:
    """CPU seconds of a fresh process."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    env |= {"PYTHONPATH": str(HERE), **more}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    before = os.times()
    subprocess.run([sys.executable, "-c", code, str(folder), *arguments], env=env, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bundle").mkdir()
        (folder / "bundle" / "model.onnx").write_bytes(bytes(1_000_000))
        figures = {"first run, store made by MLflow": cost(folder, RUN, "first")}
        client = {"MLFLOW_REGISTRY_URI": f"sqlite:///{folder}/mlflow.db"}  # makes Tracking go through the client
        kinds: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
            "python alone": ("pass", (), {}),
            "record written straight": (RUN, (), {}),
            "the same, release registered": (RUN, ("registered",), {}),
            "record through MLflow's client": (RUN, (), client),
        }
        for kind, (code, more, env) in kinds.items():
            times = [cost(folder, code, f"{kind} {n}".replace("'", ""), *more, **env) for n in range(REPEATS)]
            figures[kind] = statistics.median(times)
    if "--json" in sys.argv:
        print(json.dumps(figures, indent=2))
        return
    for kind, seconds in figures.items():
        print(f"{seconds:8.3f} CPU s  {kind}")


if __name__ == "__main__":
    main()
