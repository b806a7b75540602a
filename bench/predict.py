"""Batch scoring: a million rows of two texts and eight numbers, from Parquet to Parquet, each contender a fresh process.

    python bench/predict.py [rows]

``hand``: polars and ONNX Runtime on one thread, score and answer. ``meguri``: ``Release.load`` and ``release.predict`` with
contract, prediction ids, due times and the features as JSON. ``mlflow``: the same folder as an MLflow pyfunc model on pandas. With a logistic
regression behind one-hot and scaler, and with 100 trees of LightGBM. Prints one JSON line each: least wall seconds of
the work (read, score, write; what is loaded before does not count), CPU seconds of the whole process; then the ratios.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

NUMBERS = [f"x{i}" for i in range(8)]
TEXTS = ["carrier", "origin"]
START = datetime(2024, 1, 1, tzinfo=UTC)
TIMES = 3


def make_rows(count: int) -> Any:
    """Rows with eight numbers and two texts."""
    import numpy as np
    import polars as pl

    noise = np.random.default_rng(0)
    own = {
        "id": pl.int_range(count, eager=True).cast(pl.String),
        "at": pl.repeat(START, count, dtype=pl.Datetime("us", "UTC"), eager=True) + timedelta(hours=1),
        "carrier": noise.choice(["AA", "UA", "DL", "B6", "WN"], count),
        "origin": noise.choice(["JFK", "LGA", "EWR"], count),
    }
    return pl.DataFrame({**own, **{name: noise.normal(size=count) for name in NUMBERS}})


def build(folder: Path) -> None:
    """Two releases, one for each model."""
    import pandera.polars as pa
    import polars as pl
    from lightgbm import LGBMClassifier
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    from meguri.data.contract import Contract
    from meguri.record.release import Release

    schema = pa.DataFrameSchema(
        {"id": pa.Column(str), "at": pa.Column(pl.Datetime("us", "UTC"))}
        | {name: pa.Column(str) for name in TEXTS}
        | {name: pa.Column(float, pa.Check.in_range(-20, 20)) for name in NUMBERS}
    )
    contract = Contract(schema, key="id", time="at", label_after="6h")
    train = make_rows(20_000)
    coded = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    hot = OneHotEncoder(handle_unknown="ignore")
    models = {
        "logistic": make_pipeline(
            ColumnTransformer([("t", hot, TEXTS), ("n", StandardScaler(), NUMBERS)]), LogisticRegression()
        ),
        "lightgbm": make_pipeline(
            ColumnTransformer([("t", coded, TEXTS), ("n", "passthrough", NUMBERS)]),
            LGBMClassifier(n_estimators=100, verbose=-1, n_jobs=1),
        ),
    }
    frame = train.select(contract.features).to_pandas()
    for name, model in models.items():
        model.fit(frame, (train["x0"] + train["x1"] ** 2 > 1).to_numpy())
        info = {"run": "bench", "trained_until": START.isoformat()}
        made = Release.build(
            model, id=name, contract=contract, sample=train.head(4000), folder=folder / name, info=info
        )
        assert made.format == "onnx", made.manifest["notes"]


def hand(folder: Path, rows: Path, out: Path) -> Callable[[], Any]:
    import numpy as np
    import onnxruntime
    import polars as pl

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    columns = session.get_inputs()[0].shape[1] if len(session.get_inputs()) == 1 else None
    assert columns is None, "one input a column"

    def work() -> None:
        table = pl.read_parquet(rows)
        feeds = {name: table[name].cast(pl.Float32).to_numpy().reshape(-1, 1) for name in NUMBERS}
        feeds |= {name: table[name].to_numpy().astype(object).reshape(-1, 1) for name in TEXTS}
        wanted = {one.name: one.shape for one in session.get_inputs()}
        feeds = {name: value if len(wanted[name]) == 2 else value.ravel() for name, value in feeds.items()}
        found = dict(zip([one.name for one in session.get_outputs()], session.run(None, feeds), strict=True))
        columns = {name: np.asarray(value).ravel()[: table.height] for name, value in found.items()}
        pl.DataFrame({"id": table["id"], **columns}).write_parquet(out)

    return work


def meguri(folder: Path, rows: Path, out: Path) -> Callable[[], Any]:
    import polars as pl

    from meguri.record.release import Release

    release = Release.load(folder)
    return lambda: release.predict(pl.read_parquet(rows)).table.write_parquet(out)


def mlflow(folder: Path, rows: Path, out: Path) -> Callable[[], Any]:
    import pandas as pd
    from mlflow import pyfunc

    model = pyfunc.load_model(str(folder))

    def work() -> None:
        table = pd.read_parquet(rows)
        found = model.predict(table)
        made = pd.DataFrame(found if isinstance(found, dict) else {"score": found["score"]})
        made.assign(id=table["id"]).to_parquet(out)

    return work


CONTENDERS = {"hand": hand, "meguri": meguri, "mlflow": mlflow}


def one(contender: str, folder: Path, rows: Path) -> dict[str, float]:
    """What one process measures."""
    out = rows.with_name(f"{contender}.parquet")
    work = CONTENDERS[contender](folder, rows, out)
    begun = time.perf_counter()
    work()
    return {"wall": time.perf_counter() - begun, "cpu": time.process_time()}


def measure(contender: str, folder: Path, rows: Path) -> dict[str, Any]:
    """The best of a few fresh processes."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, __file__, contender, str(folder), str(rows)]
    tries = [
        json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
        for _ in range(TIMES)
    ]
    least = {name: round(min(found[name] for found in tries), 2) for name in ("wall", "cpu")}
    return {"contender": contender, "model": folder.name} | least


def main(count: int) -> None:
    """Make the rows and the releases, and measure each."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        build(home)
        make_rows(count).write_parquet(home / "rows.parquet")
        for model in ("logistic", "lightgbm"):
            found = {c: measure(c, home / model, home / "rows.parquet") for c in CONTENDERS}
            for line in found.values():
                print(json.dumps(line), flush=True)
            ratio = round(found["meguri"]["wall"] / found["hand"]["wall"], 2)
            print(
                json.dumps({"model": model, "rows": count, "ratio": ratio, "at_most": 2, "cpu_at_most": 2.5}),
                flush=True,
            )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if len(sys.argv) == 4:
        print(json.dumps(one(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
