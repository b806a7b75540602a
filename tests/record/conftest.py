"""MLflow's own parts for the tests of the record (a store that it made, and its server), and two releases."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from meguri.base.errors import TrackingError
from meguri.record.release import Release
from meguri.record.tracking import Tracking


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that MLflow has just made: its migrations take seconds, so once is enough."""
    folder = tmp_path_factory.mktemp("fresh")
    address = os.environ.pop("MLFLOW_TRACKING_URI", None)
    tracking = Tracking(f"sqlite:///{folder}/mlflow.db", "flights", folder)
    with pytest.raises(TrackingError, match="no run"):
        tracking.finish("0" * 32, "FAILED", datetime(2013, 4, 1, tzinfo=UTC))
    assert [path.name for path in folder.iterdir() if path.suffix != ".lock"] == ["mlflow.db"]
    if address:
        os.environ["MLFLOW_TRACKING_URI"] = address
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server, whose command MEGURI_MLFLOW names: it needs an environment of its own."""
    folder = tmp_path_factory.mktemp("server")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [os.environ["MEGURI_MLFLOW"], "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "kept")]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "startup complete" in line:
                break
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release as an ONNX graph, made once."""
    from record.releases import boosted, build, fit

    return build(fit(boosted()), tmp_path_factory.mktemp("releases") / "r1")


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release kept as skops, made once."""
    from record.releases import build, fit, scaled_trees

    return build(fit(scaled_trees()), tmp_path_factory.mktemp("releases") / "r2")


@pytest.fixture(params=["onnx", "skops"])
def either(request: pytest.FixtureRequest, made: Release, slow: Release) -> Release:
    """Each of the two."""
    return made if request.param == "onnx" else slow
