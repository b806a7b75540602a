"""An embedded store for a test, and MLflow's own client on it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from meguri.record.tracking import Tracking


def embedded(mlflow_store: Path, folder: Path, experiment: str = "flights") -> Tracking:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "mlflow.db").exists():
        shutil.copy(mlflow_store, folder / "mlflow.db")
    return Tracking(f"sqlite:///{folder}/mlflow.db", experiment, folder / "my runs")


def client(folder: Path) -> Any:
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
