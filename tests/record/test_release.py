"""Releases: built from real estimators, they answer as these do, the same bytes for the same rows."""

from __future__ import annotations

import json
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightgbm import LGBMRegressor
from record.releases import (
    INFO,
    START,
    TEXTS,
    boosted,
    build,
    chances,
    contract,
    fit,
    prepared,
    rows,
    scaled_trees,
)
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from meguri.base.errors import ContractError
from meguri.data.contract import Contract
from meguri.record.estimators import Answers
from meguri.record.onnx import MISSING
from meguri.record.release import Release

# ---- what a release answers


@pytest.mark.parametrize(
    "model",
    [
        boosted(),
        make_pipeline(prepared(), LogisticRegression()),
        make_pipeline(prepared(), DecisionTreeClassifier(max_depth=3)),
    ],
    ids=["lightgbm", "linear", "tree"],
)
def test_a_binary_release_answers_as_the_estimator(model: Any, tmp_path: Path) -> None:
    fit(model)
    release = build(model, tmp_path / "r")
    assert (release.format, release.notes) == ("onnx", ())
    table = release.predict(rows()).table
    np.testing.assert_allclose(table["score"], chances(model, rows())[:, 1], atol=1e-5)
    assert table["answer"].to_list() == ["true" if chance > 0.5 else "false" for chance in table["score"]]


def test_the_table_has_all_that_the_ledger_needs(either: Release) -> None:
    at = datetime(2024, 2, 1, tzinfo=UTC)
    table = either.predict(rows(), at=at).table
    assert table.columns == ["prediction_id", "key", "time", "due", "release", "run", "score", "answer", "features"]
    assert table["key"].to_list() == rows()["flight"].to_list()
    assert (table["due"] - table["time"]).unique().to_list() == [timedelta(hours=6)]
    assert table["release"].unique().to_list() == [either.id]
    assert table["run"].unique().to_list() == [INFO["run"]]
    assert table["prediction_id"].is_sorted()
    assert table["prediction_id"].n_unique() == table.height
    assert table["features"][0] == rows().select(contract().features).row(0, named=True)
    assert either.predict(rows(), ids=False).table["prediction_id"].null_count() == table.height


def test_a_release_without_a_run_says_so(tmp_path: Path) -> None:
    release = build(fit(boosted()), tmp_path / "r", info={})
    assert release.predict(rows()).table["run"].null_count() == rows().height


@pytest.mark.parametrize(
    "model", [boosted(), make_pipeline(prepared(), LogisticRegression())], ids=["lightgbm", "linear"]
)
def test_a_multiclass_release_gives_the_answer_its_probability_and_all_of_them(model: Any, tmp_path: Path) -> None:
    fit(model, "multiclass")
    release = build(model, tmp_path / "r", "multiclass")
    assert release.format == "onnx"
    assert release.manifest["classes"] == ["early", "late", "soon"]
    table, truth = release.predict(rows("multiclass")).table, chances(model, rows("multiclass"), "multiclass")
    np.testing.assert_allclose(table["score"], truth.max(axis=1), atol=1e-5)
    assert (table["answer"].to_numpy() == model.classes_[truth.argmax(axis=1)]).mean() > 0.999
    assert list(json.loads(table["probabilities"][0])) == ["early", "late", "soon"]


@pytest.mark.parametrize(
    "model", [boosted(LGBMRegressor), make_pipeline(prepared(), LinearRegression())], ids=["lightgbm", "linear"]
)
def test_a_regression_release_gives_the_value(model: Any, tmp_path: Path) -> None:
    fit(model, "regression")
    release = build(model, tmp_path / "r", "regression")
    assert release.format == "onnx"
    table = release.predict(rows("regression")).table
    truth = model.predict(rows("regression").to_pandas()[list(contract("regression").features)])
    np.testing.assert_allclose(table["score"], truth, rtol=1e-4, atol=1e-4)
    assert table["answer"].null_count() == table.height


@pytest.mark.parametrize("values", [[0, 1], [0.0, 1.0], [False, True]], ids=["int", "float", "bool"])
def test_classes_of_any_type_become_the_text_of_the_label(values: list[Any], tmp_path: Path) -> None:
    train = rows().to_pandas()
    model = make_pipeline(prepared(), LogisticRegression())
    model.fit(train[list(contract().features)], np.array(values)[train["delay"].astype(int)])
    release = build(model, tmp_path / "r")
    assert release.format == "onnx"
    assert release.manifest["classes"] == ["false", "true"]
    assert set(release.predict(rows()).table["answer"]) == {"false", "true"}


def test_numbers_alone_need_no_column_transformer(tmp_path: Path) -> None:
    names = ["dist ance", "score", "hour"]
    train = rows().to_pandas()
    for number, model in enumerate(
        [LogisticRegression(max_iter=2000), make_pipeline(StandardScaler(), LogisticRegression())]
    ):
        named = model.fit(train[names], train["delay"])
        release = build(named, tmp_path / f"r{number}")
        assert release.format == "onnx"
        assert release.manifest["features"] == names  # the model's own order, and no more than it was fitted on
    bare = LogisticRegression(max_iter=2000).fit(train[names].to_numpy(), train["delay"])
    same = build(bare, tmp_path / "bare", contract=contract(features=tuple(names)))
    table = same.predict(rows()).table
    np.testing.assert_allclose(table["score"], bare.predict_proba(train[names].to_numpy())[:, 1], atol=1e-5)


def test_one_feature_is_enough(tmp_path: Path) -> None:
    model = fit(LogisticRegression(), names=["dist ance"])
    assert build(model, tmp_path / "r").format == "onnx"


def test_large_whole_numbers_are_kept_whole(tmp_path: Path) -> None:
    """2**24 + 1 has no float32: a graph that takes int64 tells such categories apart."""
    schema = pa.DataFrameSchema(
        {"id": pa.Column(str), "at": pa.Column(pl.Datetime("us", "UTC")), "shop": pa.Column(int)}
    )
    large = Contract(schema, key="id", time="at")
    shops = np.tile([2**24, 2**24 + 1], 50)
    table = pl.DataFrame({"id": [str(i) for i in range(100)], "at": [START] * 100, "shop": shops})
    one_hot = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["shop"]))
    model = make_pipeline(one_hot, LogisticRegression()).fit(table.select("shop").to_pandas(), shops % 2)
    release = build(model, tmp_path / "r", contract=large, sample=table)
    assert release.format == "onnx"
    assert release.predict(table).table["answer"].to_list() == ["0", "1"] * 50


# ---- the same rows, the same bytes


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_an_answer_does_not_depend_on_the_rows_around_it(data: st.DataObject) -> None:
    release, all_rows, whole = deterministic()
    start = data.draw(st.integers(0, rows().height - 1))
    count = data.draw(st.integers(1, rows().height - start))
    part = release.predict(all_rows.slice(start, count), ids=False).table
    assert part.equals(whole.slice(start, count))


@cache
def deterministic() -> tuple[Release, pl.DataFrame, pl.DataFrame]:
    folder = Path(tempfile.mkdtemp()) / "r"
    model = make_pipeline(prepared(), LogisticRegression())
    release = build(fit(model), folder)
    shutil.rmtree(folder.parent)
    return release, rows(), release.predict(rows(), ids=False).table


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_batches_of_any_size_give_the_same_bytes(either: Release, size: int) -> None:
    some = rows().head(min(3000, size * 50))
    whole = either.predict(some, ids=False).table
    parts = [either.predict(some.slice(i, size), ids=False).table for i in range(0, some.height, size)]
    assert pl.concat(parts).equals(whole)


def test_a_single_row_left_over_by_the_chunks_is_answered_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meguri.record.onnx._CHUNK", 100)
    release, _, whole = deterministic()
    assert release.predict(rows().head(201), ids=False).table.equals(whole.head(201))


# ---- rows that break the contract, rows with nulls


def test_rows_that_break_the_contract_are_quarantined_and_the_others_answered(either: Release) -> None:
    bad = rows().head(10).with_columns(hour=pl.when(pl.col("flight") == "f3").then(99).otherwise("hour"))
    got = either.predict(bad)
    assert got.table["key"].to_list() == [f"f{i}" for i in range(10) if i != 3]
    assert got.quarantined["flight"].to_list() == ["f3"]
    assert "in_range" in got.quarantined["reason"][0]
    assert got.release == either.id


def test_rows_that_are_all_bad_leave_an_empty_table_of_the_same_columns(either: Release) -> None:
    got = either.predict(rows().head(2).with_columns(hour=99))
    assert got.table.schema == either.predict(rows().head(2)).table.schema
    assert (got.table.height, got.quarantined.height) == (0, 2)


def test_no_rows_at_all_is_the_contracts_error(made: Release) -> None:
    with pytest.raises(ContractError, match="no rows"):
        made.predict(rows().clear())


def test_no_label_is_needed_and_pandas_and_arrow_come_in(either: Release) -> None:
    bare = rows().drop("delay")
    want = either.predict(rows(), ids=False).table
    for table in (bare, bare.to_pandas(), bare.to_arrow()):
        assert either.predict(table, ids=False).table.equals(want)


def test_a_null_text_is_answered_as_pandas_nan_was_trained(either: Release) -> None:
    table = rows().head(50).with_columns(carrier=pl.lit(None, pl.String))
    named = table.with_columns(carrier=pl.lit(MISSING))
    score = either.predict(table).table["score"]
    model = boosted() if either.format == "onnx" else scaled_trees()
    np.testing.assert_allclose(score, chances(fit(model), table)[:, 1], atol=1e-5)
    if either.format == "onnx":
        assert score.equals(either.predict(named).table["score"])


def test_a_score_that_is_no_number_is_quarantined(tmp_path: Path) -> None:
    """Two values that float32 holds become infinite inside the graph; one that it does not is refused before."""
    release = build(fit(make_pipeline(prepared(), LinearRegression()), "regression"), tmp_path / "r", "regression")
    some = (
        rows("regression")
        .head(5)
        .with_columns(
            pl.when(pl.col("flight") == "f2").then(3.4e38).otherwise("dist ance").alias("dist ance"),
            pl.when(pl.col("flight") == "f1").then(-1e300).otherwise("wind").alias("wind"),
            score=pl.when(pl.col("flight") == "f2").then(3.4e38).otherwise("score"),
            hour=pl.when(pl.col("flight") == "f4").then(99).otherwise("hour"),
        )
    )
    got = release.predict(some)
    assert got.table["key"].to_list() == ["f0", "f3"]
    why = dict(got.quarantined.select("flight", "reason").iter_rows())
    assert why["f1"] == "wind: in_range(-3.4028235e+38, 3.4028235e+38)"
    assert why["f2"] == "the model gave no finite number"


def test_a_chance_that_float32_carried_beyond_its_ends_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forest's share of 100 trees may come out as 1.0000001; what is further off stays, for the contract to refuse."""
    release = build(fit(make_pipeline(prepared(), LogisticRegression())), tmp_path / "r")
    given = np.array([1.0000001192, -5e-8, 0.25, 1.1])
    monkeypatch.setattr(release._model, "answer", lambda found: Answers(given))
    assert release.predict(rows().head(4)).table["score"].to_list() == [1.0, 0.0, 0.25, 1.1]


# ---- parity


def test_parity_finds_the_graph_that_answers_otherwise(slow: Release) -> None:
    """Behind a scaler, float32 moves values over the thresholds of HistGradientBoosting."""
    assert slow.format == "skops"
    assert "differs by up to" in slow.notes[0]
    assert "of 3," in slow.notes[0]
    assert not (slow.folder / "model.onnx").exists()


def test_a_wide_tolerance_lets_the_graph_pass(tmp_path: Path) -> None:
    assert build(fit(scaled_trees()), tmp_path / "r", tolerance=0.9).format == "onnx"


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(
            ColumnTransformer([("c", SimpleImputer(strategy="most_frequent"), TEXTS)]),
            OneHotEncoder(handle_unknown="ignore"),
            LogisticRegression(),
        ),
        CalibratedClassifierCV(make_pipeline(prepared(), LogisticRegression()), cv=3),
        make_pipeline(OneHotEncoder(handle_unknown="ignore"), RandomForestClassifier(5, random_state=0)),
    ],
    ids=["imputed text", "calibrated", "mixed types without a ColumnTransformer"],
)
def test_what_has_no_graph_is_kept_as_skops_and_says_why(model: Any, tmp_path: Path) -> None:
    fit(model)
    release = build(model, tmp_path / "r")
    assert release.format == "skops"
    assert "no ONNX form" in release.notes[0]
    np.testing.assert_allclose(release.predict(rows()).table["score"], chances(model, rows())[:, 1], atol=1e-12)


def test_lightgbm_that_has_no_graph_is_kept_as_skops(tmp_path: Path) -> None:
    model = CalibratedClassifierCV(boosted(), cv=2)
    release = build(fit(model), tmp_path / "r")
    assert release.format == "skops"
    assert "lightgbm==" in (release.folder / "requirements.txt").read_text()
    assert Release.load(release.folder).predict(rows()).table.height == rows().height


def test_a_skops_regression_and_multiclass(tmp_path: Path) -> None:
    text = ColumnTransformer(
        [("c", make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")), TEXTS)]
    )
    value = build(fit(make_pipeline(text, LinearRegression()), "regression"), tmp_path / "value", "regression")
    many = build(fit(make_pipeline(text, LogisticRegression()), "multiclass"), tmp_path / "many", "multiclass")
    assert (value.format, many.format) == ("skops", "skops")
    assert value.predict(rows("regression")).table["answer"].null_count() == rows().height
    assert json.loads(many.predict(rows("multiclass")).table["probabilities"][0]).keys() == {"early", "late", "soon"}
