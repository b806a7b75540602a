"""A release is an MLflow model folder: MLflow itself loads it, checks it and serves it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandera.polars as pa
import polars as pl
import pytest
from lightgbm import LGBMClassifier
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from meguri.data.contract import Contract
from meguri.record.release import Release

FEATURES = ["carrier", "wind", "hour", "holiday"]
ROWS = pl.DataFrame(
    {
        "id": [f"r{i}" for i in range(200)],
        "at": [datetime(2024, 1, 1, tzinfo=UTC)] * 200,
        "carrier": ["AA", "UA", None, "DL"] * 50,
        "wind": [None if i % 7 == 0 else i / 10 for i in range(200)],
        "hour": [i % 24 for i in range(200)],
        "holiday": [i % 5 == 0 for i in range(200)],
    }
)


def contract(task: str) -> Contract:
    columns = {
        "id": pa.Column(str),
        "at": pa.Column(pl.Datetime("us", "UTC")),
        "carrier": pa.Column(str, nullable=True),
        "wind": pa.Column(float, nullable=True),
        "hour": pa.Column(int),
        "holiday": pa.Column(bool),
    }
    return Contract(pa.DataFrameSchema(columns, name="Winds"), key="id", time="at", task=task)


def build(folder: Path, final: Any, task: str, *, graph: bool = True) -> Release:
    frame = ROWS.select(FEATURES).to_pandas()
    coded = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
    filled = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    texts = coded if graph else filled  # a text that SimpleImputer fills has no graph
    steps = [("t", texts, ["carrier"]), ("n", SimpleImputer(), ["wind", "hour"]), ("f", "passthrough", ["holiday"])]
    truth = {"binary": ROWS["hour"] > 12, "multiclass": ROWS["hour"] % 3, "regression": ROWS["hour"] * 2.5}[task]
    model = make_pipeline(ColumnTransformer(steps), final).fit(frame, truth.to_numpy())
    info = {"run": "run", "at": datetime(2024, 1, 2, tzinfo=UTC)}
    return Release.build(model, id=folder.name, contract=contract(task), sample=ROWS, folder=folder, info=info)


def boosted() -> Any:
    return LGBMClassifier(n_estimators=10, verbose=-1, n_jobs=1)


@pytest.fixture(scope="module")
def pyfunc() -> Any:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc

        return mlflow.pyfunc


@pytest.mark.parametrize("frame", ["as it is", "whole numbers as floats", "texts as objects", "other order"])
@pytest.mark.filterwarnings("ignore")
def test_mlflow_answers_as_the_release_does(frame: str, tmp_path: Path, pyfunc: Any) -> None:
    release = build(tmp_path / "r", boosted(), "binary")
    table = ROWS.select(FEATURES).to_pandas()
    if frame == "whole numbers as floats":
        table["hour"] = table["hour"].astype(float)
    elif frame == "texts as objects":
        table["carrier"] = table["carrier"].astype(object)
    elif frame == "other order":
        table = table[FEATURES[::-1]]
    got = pyfunc.load_model(str(release.folder)).predict(table)
    want = release.predict(ROWS).table
    np.testing.assert_array_equal(got["score"], want["score"].to_numpy().astype(np.float32))
    assert list(got["answer"]) == want["answer"].to_list()


@pytest.mark.filterwarnings("ignore")
def test_mlflow_answers_many_classes_and_values(tmp_path: Path, pyfunc: Any) -> None:
    frame = ROWS.select(FEATURES).to_pandas()
    many = build(tmp_path / "many", boosted(), "multiclass")
    got = pyfunc.load_model(str(many.folder)).predict(frame)
    assert list(got["answer"]) == many.predict(ROWS).table["answer"].to_list()
    assert got["probabilities"].shape == (200, 3)
    value = build(tmp_path / "value", LinearRegression(), "regression")
    got = pyfunc.load_model(str(value.folder)).predict(frame)
    np.testing.assert_allclose(got["score"], value.predict(ROWS).table["score"], rtol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_mlflow_loads_a_skops_release(tmp_path: Path, pyfunc: Any) -> None:
    frame = ROWS.select(FEATURES).to_pandas()
    release = build(tmp_path / "r", boosted(), "binary", graph=False)
    assert release.format == "skops"
    got = pyfunc.load_model(str(release.folder)).predict(frame)
    np.testing.assert_allclose(got[:, 1], release.predict(ROWS).table["score"])
    value = build(tmp_path / "value", LinearRegression(), "regression", graph=False)
    got = pyfunc.load_model(str(value.folder)).predict(frame)
    np.testing.assert_allclose(got, value.predict(ROWS).table["score"])


@pytest.mark.filterwarnings("ignore")
def test_mlflow_reads_what_it_would_have_written(tmp_path: Path, pyfunc: Any) -> None:
    import mlflow.models
    import yaml

    release = build(tmp_path / "r", LogisticRegression(max_iter=1000), "binary")
    info = mlflow.models.get_model_info(str(release.folder))
    assert set(info.flavors) == {"onnx", "python_function"}
    assert info.signature.inputs.input_names() == FEATURES
    assert info.signature.outputs.input_names() == ["score", "answer"]
    assert info.metadata == {"meguri_release": "r"}
    environment = yaml.safe_load((release.folder / "python_env.yaml").read_text())
    assert environment["dependencies"] == ["-r requirements.txt"]
    pinned = (release.folder / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in pinned] == ["mlflow-skinny", "numpy", "onnxruntime", "pandas"]
    assert Release.load(release.folder).predict(ROWS).table.height == 200


# ---- mlflow models serve


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Release, str]]:
    release = build(tmp_path_factory.mktemp("served") / "r", boosted(), "binary")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    scripts = str(Path(sys.executable).parent)  # MLflow calls uvicorn by its name
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [
        f"{scripts}/mlflow",
        "models",
        "serve",
        "-m",
        str(release.folder),
        "--env-manager",
        "local",
        "-p",
        str(port),
    ]
    log = release.folder.parent / "serve.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, cwd=release.folder.parent, start_new_session=True
        )
        url = f"http://127.0.0.1:{port}"
        try:
            while server.poll() is None:
                try:
                    urllib.request.urlopen(f"{url}/ping", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.2)  # a server says by nothing else that it is ready
            assert server.poll() is None, log.read_text()
            yield release, url
        finally:
            os.killpg(server.pid, 15)
            server.wait()


def ask(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{url}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["predictions"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dataframe_records", "dataframe_split", "one row"])
def test_mlflow_serves_a_release(served: tuple[Release, str], form: str) -> None:
    release, url = served
    rows = ROWS.head(1) if form == "one row" else ROWS
    features = rows.select(FEATURES)
    body: dict[str, Any] = {"dataframe_records": features.to_dicts()}
    if form == "dataframe_split":
        body = {"dataframe_split": {"columns": FEATURES, "data": [list(row) for row in features.iter_rows()]}}
    got, want = ask(url, body), release.predict(rows).table
    np.testing.assert_allclose(got["score"], want["score"], atol=1e-6)
    assert got["answer"] == want["answer"].to_list()


@pytest.mark.slow
def test_mlflow_refuses_a_row_without_a_feature(served: tuple[Release, str]) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(served[1], {"dataframe_records": [{"wind": 1.0}]})
    assert caught.value.code == 400
    caught.value.close()
