"""Release.predict on a million rows of ten features, against bare polars and ONNX Runtime with the same graph."""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandera.polars as pa
import polars as pl
from lightgbm import LGBMClassifier
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from meguri.data.contract import Contract
from meguri.record.release import Release

NUMBERS = [f"x{i}" for i in range(8)]
TEXTS = ["carrier", "origin"]
START = datetime(2024, 1, 1, tzinfo=UTC)


def make_rows(count: int) -> pl.DataFrame:
    """Rows with eight numbers and two texts."""
    noise = np.random.default_rng(0)
    own = {
        "id": pl.int_range(count, eager=True).cast(pl.String),
        "at": pl.repeat(START, count, dtype=pl.Datetime("us", "UTC"), eager=True) + timedelta(hours=1),
        "carrier": noise.choice(["AA", "UA", "DL", "B6", "WN"], count),
        "origin": noise.choice(["JFK", "LGA", "EWR"], count),
    }
    return pl.DataFrame({**own, **{name: noise.normal(size=count) for name in NUMBERS}})


def measure(name: str, work: Callable[[], Any], base: float | None = None, times: int = 3) -> float:
    """Print and return the least CPU seconds of a few tries, and the wall seconds of that try."""
    found = []
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        found.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = min(found)
    print(f"{name:52} {cpu:6.2f} CPU s {wall:6.2f} s" + (f"  x{cpu / base:.2f}" if base else ""))
    return cpu


def main(count: int) -> None:
    """Build a LightGBM release and measure it."""
    schema = pa.DataFrameSchema(
        {"id": pa.Column(str), "at": pa.Column(pl.Datetime("us", "UTC"))}
        | {name: pa.Column(str) for name in TEXTS}
        | {name: pa.Column(float, pa.Check.in_range(-20, 20)) for name in NUMBERS}
    )
    contract = Contract(schema, key="id", time="at", label_after="6h")
    train = make_rows(20_000)
    coded = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    chosen = ColumnTransformer([("t", coded, TEXTS), ("n", "passthrough", NUMBERS)])
    model = make_pipeline(chosen, LGBMClassifier(n_estimators=100, verbose=-1, n_jobs=1))
    frame = train.select(contract.features).to_pandas()
    model.fit(frame, (train["x0"] + train["x1"] ** 2 > 1).to_numpy())
    with tempfile.TemporaryDirectory() as folder:
        release = Release.build(
            model, id="bench", contract=contract, sample=train.head(4000), folder=Path(folder) / "r", info={}
        )
        rows = make_rows(count)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(release.folder / "model.onnx"), options)

        def feeds() -> dict[str, Any]:
            numbers = {name: rows[name].cast(pl.Float32).to_numpy() for name in NUMBERS}
            return numbers | {name: rows[name].to_numpy() for name in TEXTS}

        print(f"{count:,} rows, {release.format}, 100 trees")
        base = measure("bare: polars -> ONNX Runtime, score only", lambda: session.run(["score"], feeds()))
        measure("bare: polars -> ONNX Runtime, score and answer", lambda: session.run(None, feeds()), base)
        measure("release: predict", lambda: release.predict(rows), base)
        measure("release: predict(ids=False)", lambda: release.predict(rows, ids=False), base)
        measure("  of it: the contract", lambda: release.contract.check(rows, labelled=False), base)
        measure("  of it: the model", lambda: release._model.answer(rows), base)
        measure("  of it: features as JSON", rows.select(contract.features).to_struct().struct.json_encode, base)
        one = rows.head(1)
        many = range(200)
        measure("one row, 200 times: predict", lambda: [release.predict(one) for _ in many])
        measure("  of it: the contract", lambda: [release.contract.check(one, labelled=False) for _ in many])
        measure("  of it: the model", lambda: [release._model.answer(one) for _ in many])
        measure("load", lambda: Release.load(release.folder), None)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
