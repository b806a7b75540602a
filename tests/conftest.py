"""A small project that really runs: hourly readings of a sensor, whose alarm is known six hours later."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent

import hypothesis
import pytest

# A busy machine is no bug: no test is judged by how long it took.
hypothesis.settings.register_profile(
    "meguri", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("meguri")

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DVC_NO_ANALYTICS"] = "1"

START = datetime(2024, 3, 1, tzinfo=UTC)

FILES = {
    "hydra/default.yaml": """
        seed: 7
        source: {path: data/readings.parquet}
        model:
          name: alarm_classifier
          params: {}
        optimize: {trials: 3}
        split: {by: time, valid: 5d, test: 5d}
        gate: {metric: log_loss, margin: 0.05, block: 6h}
        loop: {triggers: "Every('10d')", step: 1d}
        outlets: {table: {}}
    """,
    "src/__init__.py": "",
    "src/main.py": """
        from meguri import main
        if __name__ == "__main__":
            main(__file__)
    """,
    "src/configurations.py": """
        from meguri import Section, Settings

        class Source(Section):
            path: str

        class Config(Settings):
            source: Source
    """,
    "src/repository/__init__.py": "",
    "src/repository/data_manager.py": """
        from datetime import datetime, timedelta, UTC
        import numpy as np
        import polars as pl

        def read(since, until, now):
            hours = np.arange(24 * 120)
            noise = np.random.default_rng(1)
            level = noise.normal(size=hours.size)
            other = noise.normal(size=hours.size)
            alarm = noise.random(hours.size) < 1 / (1 + np.exp(-1.5 * level + 0.5))
            start = datetime(2024, 2, 1, tzinfo=UTC)
            at = [start + timedelta(hours=int(h)) for h in hours]
            rows = pl.DataFrame({"reading": [f"r{h}" for h in hours], "at": at, "level": level, "other": other, "alarm": alarm})
            rows = rows.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))
            known = pl.col("at") + timedelta(hours=6) <= now
            return rows.filter(pl.col("at").is_between(since, until, closed="left")).with_columns(
                alarm=pl.when(known).then("alarm"))
    """,
    "src/repository/schema.py": """
        from datetime import datetime
        from typing import Annotated
        import pandera.polars as pa
        import polars as pl
        from meguri import Contract

        class Reading(pa.DataFrameModel):
            reading: str
            at: Annotated[pl.Datetime, "us", "UTC"]
            level: float = pa.Field(ge=-9, le=9)
            other: float
            alarm: bool = pa.Field(nullable=True)

        contract = Contract(Reading, key="reading", time="at", label="alarm", label_after="6h")
    """,
    "src/models/__init__.py": "",
    "src/models/alarm_classifier.py": """
        from sklearn.linear_model import LogisticRegression

        class AlarmClassifier:
            def __init__(self, *, strength: float = 1.0, fit_intercept: bool = True) -> None:
                self.estimator = LogisticRegression(C=strength, fit_intercept=fit_intercept)
    """,
    "src/optimizer/__init__.py": "",
    "src/optimizer/schema.py": """
        from meguri import Float

        SPACE = {"strength": Float(0.01, 10.0, log=True)}
    """,
    "src/jobs/__init__.py": "",
    "src/jobs/retrieve.py": """
        from src.repository import data_manager

        def retrieve(since, until, now):
            return data_manager.read(since, until, now)
    """,
    "src/jobs/optimize.py": """
        from meguri import search
        from sklearn.metrics import log_loss
        from src.models.alarm_classifier import AlarmClassifier
        from src.optimizer.schema import SPACE

        def optimize(dataset, settings, study):
            def objective(params, report):
                model = AlarmClassifier(**params).estimator.fit(dataset.train.X, dataset.train.y)
                return log_loss(dataset.valid.y, model.predict_proba(dataset.valid.X)[:, 1])
            return search(SPACE, objective, trials=settings.optimize.trials, **study)
    """,
    "src/jobs/train.py": """
        from src.models.alarm_classifier import AlarmClassifier

        def train(dataset, params):
            return AlarmClassifier(**params).estimator.fit(dataset.train.X, dataset.train.y)
    """,
    "src/jobs/evaluate.py": """
        from meguri import Evaluation

        def evaluate(model, dataset):
            return Evaluation.of(model, dataset.test)
    """,
    "src/jobs/predict.py": """
        def predict(release, requests):
            return release.predict(requests)
    """,
    "src/jobs/register.py": """
        def register(predictions, outlet):
            return outlet.write(predictions)
    """,
}


def write_project(root: Path, files: dict[str, str] | None = None) -> Path:
    """Write the small project, with some files replaced, or left out where the text is empty and the file is a job."""
    for name, text in {**FILES, **(files or {})}.items():
        if not text and name.startswith("src/jobs/") and name in (files or {}):
            continue
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n"))
    return root


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store, made once: its migrations take seconds."""
    from meguri.record.tracking import Tracking

    folder = tmp_path_factory.mktemp("store")
    at = START
    Tracking(f"sqlite:///{folder / 'mlflow.db'}", "made once", folder).start("made once", params={}, tags={}, at=at)
    return folder / "mlflow.db"


@pytest.fixture
def project_root(tmp_path: Path, mlflow_store: Path) -> Iterator[Path]:
    """The small project in a folder of its own; its package ``src`` is forgotten afterwards."""
    root = write_project(tmp_path / "alarm")
    (root / "outputs").mkdir()
    shutil.copy(mlflow_store, root / "outputs" / "mlflow.db")
    yield root
    forget_project()


def forget_project() -> None:
    """Drop the project's modules and folder, so that the next test can load another ``src``."""
    for name in [name for name in sys.modules if name == "src" or name.startswith("src.")]:
        del sys.modules[name]
    sys.path[:] = [entry for entry in sys.path if not (Path(entry) / "src" / "jobs").is_dir()]


def stopped_after(ticks: int, now: datetime, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let ``meguri loop`` tick so often at the moment ``now``, then press Ctrl-C; the seconds that it paused are noted."""
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == ticks:
            raise KeyboardInterrupt

    monkeypatch.setattr("meguri.cli.turns.time.sleep", sleep)
    monkeypatch.setattr("meguri.cli.turns.clock.now", lambda: now)
    return pauses
