"""The service, and what goes with it, where no frames, no training libraries and no MLflow are installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from outlets.serving import ROW, Served, row

GONE = (
    "polars",
    "pandas",
    "pyarrow",
    "pandera",
    "sklearn",
    "skops",
    "scipy",
    "mlflow",
    "lightgbm",
    "onnx",
    "duckdb",
    "ibis",
)
FINDER = f"""
import sys
from importlib.machinery import PathFinder
class Some(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {GONE} else PathFinder.find_spec(name, path, target)
sys.meta_path = [Some if finder is PathFinder else finder for finder in sys.meta_path]
"""


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A project whose processes find none of these libraries."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FINDER)
    served = Served(tmp_path / "alarm", outlets="outlets: {rest: {abstain: {below: 1}}}")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    )
    yield served
    served.close()


def test_every_address_answers(bare: Served) -> None:
    bare.roll("r-1", challengers={"r-2": 0.5}, shadow=["r-2"])
    bare.start()
    status, first = bare.ask("POST", "/predict", row("one"))
    assert status == 200, first
    assert bare.ask("POST", "/predict", [row(f"many-{n}", hour=float(ROW["hour"])) for n in range(20)])[0] == 200
    status, problem = bare.ask("POST", "/predict", row("bad", hour=99, origin="nowhere"))
    assert (status, len(problem["errors"])) == (422, 2)
    assert len(bare.ask("GET", "/queue")[1]) >= 21
    assert bare.ask("GET", f"/decisions/{first['prediction_id']}")[1]["status"] == "waiting"
    assert bare.ask("POST", "/labels", {"key": "one", "value": True})[1]["new"] >= 1
    assert bare.ask("GET", f"/decisions/{first['prediction_id']}")[1]["value"] == 1.0
    assert bare.ask("POST", "/labels", {"key": "one", "value": "perhaps"})[0] == 422
    assert bare.ask("POST", "/events", {"id": "e", "unit": "one", "kind": "buy"}) == (200, {"new": 1})
    for path in ("/metrics", "/openapi.json", "/healthz", "/readyz"):
        assert bare.ask("GET", path)[0] == 200
    assert bare.process is not None
    above, worker = Path(f"/proc/{bare.process.pid}/maps"), bare.maps()
    if above.exists():
        assert "onnxruntime" in worker
        found = above.read_text()
        assert not [name for name in ("onnxruntime", "numpy", "polars", "pandas") if f"/{name}/" in found]
        assert not [name for name in GONE if f"/{name}/" in worker]


def meguri(bare: Served, *words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "meguri", *words]
    done = subprocess.run(command, cwd=bare.root, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_commands_of_a_service_work(bare: Served) -> None:
    assert meguri(bare, "--help")[0] == 0
    code, told = meguri(bare, "rollout", "--challenger", "r-2=0.1", "--json")
    assert (code, json.loads(told)["challengers"]) == (0, {"r-2": 0.1})
    assert meguri(bare, "promote", "r-2", "--outlet", "rest")[0] == 0
    assert meguri(bare, "rollback", "--outlet", "rest")[0] == 0
    assert [one.champion for one in bare.ledger.rollouts("rest")] == ["r-1", "r-1", "r-2", "r-1"]


def test_what_needs_more_says_what_to_install(bare: Served) -> None:
    for words, package, extra in (
        (("tick",), "mlflow", "track"),
        (("data", "suggest", "rows.parquet"), "polars", "data"),
    ):
        code, told = meguri(bare, *words)
        assert (code, told.splitlines()[0]) == (1, f"error: this needs the package '{package}', which is not installed")
        assert f"pip install 'meguri[{extra}]'" in told


def test_features_that_are_functions_need_frames(bare: Served) -> None:
    (bare.root / "src" / "features.py").write_text(
        'from meguri import Events\n\nseen = Events("seen", by="origin", at="at", known="0s")\n'
        'features = {"wind": seen.last("wind"), "score": lambda wind, hour: wind / (hour + 1)}\n'
    )
    code, told = meguri(bare, "serve", "--port", str(bare.port))
    assert code == 1
    assert "pip install 'meguri[data]'" in told
    (bare.root / "src" / "features.py").write_text(
        'from meguri import Events\n\nseen = Events("seen", by="origin", at="at", known="0s")\nfeatures = {"wind": seen.last("wind")}\n'
    )
    bare.start()
    short = {name: value for name, value in row("short").items() if name != "wind"}
    assert bare.ask("POST", "/predict", short)[0] == 200  # nothing was materialized, so there is none
    assert bare.ask("POST", "/predict", row("whole"))[0] == 200
