"""Releases: built from real estimators, broken in every way, loaded with nothing on the path."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from meguri.base.errors import ContractError, ReleaseError
from meguri.data.contract import Contract
from meguri.record import release as release_module
from meguri.record.onnx import MISSING
from meguri.record.release import Release

START = datetime(2024, 1, 1, tzinfo=UTC)
INFO = {
    "run": "20240101-000000-aaaa",
    "commit": "c0ffee",
    "data_version": "1f.dir",
    "trained_until": "2024-01-01T00:00:00+00:00",
    "metrics": {"log_loss": 0.5},
    "at": START,
}
COLUMNS = {
    "flight": pa.Column(str),
    "at": pa.Column(pl.Datetime("us", "UTC")),
    "carrier": pa.Column(str, nullable=True),
    "origin": pa.Column(str, pa.Check.isin(["JFK", "LGA", "EWR"])),
    "dist ance": pa.Column(float),
    "wind": pa.Column(float, nullable=True),
    "hour": pa.Column(int, pa.Check.in_range(0, 23)),
    "stops": pa.Column(pl.Int16, nullable=True),
    "holiday": pa.Column(bool),
    "score": pa.Column(float),  # a feature may be called so
}
LABELS = {"binary": pl.Boolean, "multiclass": pl.String, "regression": pl.Float64}
NUMBERS = ["dist ance", "wind", "hour", "stops", "score"]
TEXTS = ["carrier", "origin"]


@cache
def contract(task: str = "binary", **more: Any) -> Contract:
    columns = {**COLUMNS, "delay": pa.Column(LABELS[task], nullable=True)}
    return Contract(
        pa.DataFrameSchema(columns, name="Flights"),
        key="flight",
        time="at",
        label="delay",
        label_after="6h",
        task=task,
        **more,
    )


@cache
def rows(task: str = "binary", count: int = 3000) -> pl.DataFrame:
    noise = np.random.default_rng(7)
    table = pl.DataFrame(
        {
            "flight": [f"f{i}" for i in range(count)],
            "at": [START + timedelta(minutes=i) for i in range(count)],
            "carrier": noise.choice(["AA", "UA", "DL"], count),
            "origin": noise.choice(["JFK", "LGA", "EWR"], count),
            "dist ance": noise.gamma(2, 500, count),
            "wind": noise.normal(10, 5, count),
            "hour": noise.integers(0, 24, count),
            "stops": pl.Series(noise.integers(0, 4, count), dtype=pl.Int16),
            "holiday": noise.random(count) < 0.2,
            "score": noise.random(count),
        }
    )
    hole = pl.Series(noise.random(count))
    table = table.with_columns(
        pl.when(hole > 0.1).then("carrier").alias("carrier"),
        pl.when(hole < 0.9).then("wind").alias("wind"),
        pl.when(hole < 0.8).then("stops").alias("stops"),
    )
    late = (
        table["dist ance"].to_numpy() / 500
        - 3
        + 2 * (table["carrier"].fill_null("?") == "AA").to_numpy()
        + table["wind"].fill_null(0).to_numpy() / 10
        + noise.logistic(size=count)
    )
    labels = {
        "binary": pl.Series(late > 0),
        "multiclass": pl.Series(np.array(["early", "soon", "late"])[np.digitize(late, [-1, 1])]),
        "regression": pl.Series(late * 30),
    }
    return table.with_columns(labels[task].alias("delay"))


def prepared(scale: bool = True) -> ColumnTransformer:
    numbers = make_pipeline(SimpleImputer(), StandardScaler()) if scale else "passthrough"
    texts = (
        OneHotEncoder(handle_unknown="ignore")
        if scale
        else OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2)
    )
    return ColumnTransformer([("n", numbers, NUMBERS), ("c", texts, TEXTS), ("b", "passthrough", ["holiday"])])


def fit(estimator: Any, task: str = "binary", names: list[str] | None = None) -> Any:
    train = rows(task).to_pandas()
    with threadpool_limits(1):  # OpenMP's threads spin on a busy machine
        return estimator.fit(train[names or list(contract(task).features)], train["delay"])


def boosted(kind: Any = LGBMClassifier) -> Any:
    return make_pipeline(prepared(scale=False), kind(n_estimators=20, verbose=-1, n_jobs=1))


def build(estimator: Any, folder: Path, task: str = "binary", **more: Any) -> Release:
    given: dict[str, Any] = {"contract": contract(task), "sample": rows(task), "info": INFO, "id": folder.name, **more}
    return Release.build(estimator, folder=folder, **given)


def scaled_trees() -> Any:
    return make_pipeline(prepared(), HistGradientBoostingClassifier(max_iter=50, random_state=0))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return build(fit(boosted()), tmp_path_factory.mktemp("releases") / "r1")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return build(fit(scaled_trees()), tmp_path_factory.mktemp("releases") / "r2")


@pytest.fixture(params=["onnx", "skops"])
def either(request: pytest.FixtureRequest, made: Release, slow: Release) -> Release:
    return made if request.param == "onnx" else slow


def chances(model: Any, table: pl.DataFrame, task: str = "binary") -> Any:
    with threadpool_limits(1):
        return model.predict_proba(table.to_pandas()[list(contract(task).features)])


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
    first = json.loads(table["features"][0])
    assert first == rows().select(contract().features).row(0, named=True)
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
    """A value beyond float32 becomes infinite inside the graph."""
    release = build(fit(make_pipeline(prepared(), LinearRegression()), "regression"), tmp_path / "r", "regression")
    some = (
        rows("regression")
        .head(5)
        .with_columns(
            pl.when(pl.col("flight") == "f2").then(1e300).otherwise("dist ance").alias("dist ance"),
            hour=pl.when(pl.col("flight") == "f4").then(99).otherwise("hour"),
        )
    )
    got = release.predict(some)
    assert got.table["key"].to_list() == ["f0", "f1", "f3"]
    assert dict(got.quarantined.select("flight", "reason").iter_rows())["f2"] == "the model gave no finite number"


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


# ---- estimators that make no release


class Own(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A project's own transformer."""

    def fit(self, X: Any, y: Any = None) -> Own:
        self.fitted_ = True
        return self

    def transform(self, X: Any) -> Any:
        return X


class Unkeepable(LogisticRegression):  # type: ignore[misc]
    def __reduce__(self) -> Any:
        raise TypeError("no state")


def refused(tmp_path: Path, model: Any, match: str, **more: Any) -> ReleaseError:
    with pytest.raises(ReleaseError, match=match) as caught:
        build(model, tmp_path / "r", **more)
    assert list(tmp_path.iterdir()) == []
    assert caught.value.fix
    return caught.value


def test_a_class_of_the_project_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path, fit(make_pipeline(Own(), prepared(), LogisticRegression())), "Own")
    assert "no project on the path" in str(error)


def test_a_function_of_the_project_is_named(tmp_path: Path) -> None:
    model = make_pipeline(FunctionTransformer(_same), prepared(), LogisticRegression())
    refused(tmp_path, fit(model), "_same")


def _same(X: Any) -> Any:
    return X


def test_what_skops_cannot_keep_is_refused(tmp_path: Path) -> None:
    from sklearn.cluster import Birch

    model = make_pipeline(prepared(), Birch(n_clusters=None, threshold=2), DecisionTreeClassifier(max_depth=2))
    refused(tmp_path, fit(model), "skops cannot keep the model")


def test_a_classification_needs_probabilities(tmp_path: Path) -> None:
    error = refused(tmp_path, fit(make_pipeline(prepared(), LinearSVC())), "no predict_proba")
    assert "CalibratedClassifierCV" in str(error.fix)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (None, "no scikit-learn estimator"),
        ({"model": 1}, "no scikit-learn estimator"),
        (LogisticRegression(), "not fitted"),
        (boosted(), "not fitted"),
    ],
)
def test_what_is_no_fitted_estimator_is_refused(model: Any, match: str, tmp_path: Path) -> None:
    refused(tmp_path, model, match)


def test_a_classifier_is_no_regression(tmp_path: Path) -> None:
    refused(tmp_path, fit(boosted()), "is a classifier", contract=contract("regression"), sample=rows("regression"))


def test_a_binary_contract_wants_two_classes(tmp_path: Path) -> None:
    refused(tmp_path, fit(boosted(), "multiclass"), "knows 3 classes")


def test_columns_that_are_no_features_are_named(tmp_path: Path) -> None:
    train = rows().to_pandas()
    train["leak"] = train["score"]
    refused(tmp_path, LogisticRegression().fit(train[["score", "leak"]], train["delay"]), "leak")
    refused(tmp_path, LogisticRegression().fit(train[["score"]].to_numpy(), train["delay"]), "fitted on 1 columns")


def test_a_time_is_no_feature(tmp_path: Path) -> None:
    class Blind(LogisticRegression):  # type: ignore[misc]
        pass

    model = Blind().fit(rows().select("score").to_pandas().to_numpy(), rows()["delay"].to_numpy())
    refused(tmp_path, model, "'at' of type Datetime", contract=contract(features=("at",)))


def test_nulls_that_the_contract_allows_must_be_answered(tmp_path: Path) -> None:
    full = rows().drop_nulls()
    model = LogisticRegression(max_iter=2000).fit(full.select("wind", "score").to_pandas(), full["delay"].to_numpy())
    error = refused(tmp_path, model, "null in 'wind'", sample=full)
    assert "SimpleImputer" in str(error.fix)


def test_texts_that_the_contract_allows_must_be_answered(tmp_path: Path) -> None:
    some = make_pipeline(make_column_transformer((OneHotEncoder(), ["carrier"])), LogisticRegression())
    refused(tmp_path, fit(some), "an unseen text in 'carrier'")
    known = rows().filter(pl.col("origin") != "EWR")
    closed = make_pipeline(make_column_transformer((OneHotEncoder(), ["origin"])), LogisticRegression())
    closed.fit(known.select("origin").to_pandas(), known["delay"].to_numpy())
    refused(tmp_path, closed, "a value of its list in 'origin'", sample=known)


def test_a_sample_of_bad_rows_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, fit(boosted()), "no row of the sample", sample=rows().with_columns(hour=99))


def test_a_release_is_never_written_over(made: Release) -> None:
    before = sorted(made.folder.iterdir())
    with pytest.raises(ReleaseError, match="never written over"):
        build(fit(boosted()), made.folder)
    assert sorted(made.folder.iterdir()) == before


def test_a_draft_that_does_not_load_never_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path, manifest: dict[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(release_module, "seal", broken)
    with pytest.raises(OSError, match="No space"):
        build(fit(boosted()), tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


# ---- the folder


def test_the_manifest_tells_where_it_comes_from(made: Release) -> None:
    manifest = Release.load(made.folder).manifest
    for name in ("run", "commit", "data_version", "trained_until", "metrics"):
        assert manifest[name] == INFO[name]
    assert manifest["id"] == made.id
    assert manifest["versions"]["onnxruntime"]
    names = {path.name for path in made.folder.iterdir()}
    assert set(manifest["files"]) | {"manifest.json"} == names
    assert not [name for name in names if name.endswith((".pkl", ".py", ".pickle"))]


@pytest.fixture
def copy(either: Release, tmp_path: Path) -> Path:
    return Path(shutil.copytree(either.folder, tmp_path / "copy"))


FILES = ["MLmodel", "contract.json", "parity.json", "requirements.txt", "python_env.yaml", "model"]


def named(folder: Path, name: str) -> Path:
    return next(path for path in folder.iterdir() if path.name == name or path.stem == name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_a_file_that_is_not_as_it_was_is_named(copy: Path, name: str, harm: str) -> None:
    path = named(copy, name)
    raw = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(raw[: len(raw) // 2] if harm == "cut" else bytes([raw[0] ^ 1]) + raw[1:])
    with pytest.raises(ReleaseError, match=path.name.replace(".", r"\.")) as caught:
        Release.load(copy)
    assert caught.value.where == str(path)


def test_a_file_that_is_not_its_own_is_named(copy: Path) -> None:
    (copy / "code").mkdir()
    (copy / "code" / "loader.py").write_text("raise SystemExit")
    with pytest.raises(ReleaseError, match=r"code/loader\.py"):
        Release.load(copy)


def test_what_mlflow_notes_beside_a_registered_model_is_no_harm(copy: Path) -> None:
    (copy / "registered_model_meta").write_text("model_name: flights\nmodel_version: '3'\n")
    assert Release.load(copy).predict(rows()).table.height == rows().height


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"digest": 1, "files": {}}', "not json"])
def test_a_manifest_that_cannot_be_read_is_named(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(ReleaseError, match="manifest"):
        Release.load(copy)


def test_a_manifest_that_was_changed_is_named(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "trained_until": "2020-01-01"}))
    with pytest.raises(ReleaseError, match="changed after"):
        Release.load(copy)


def test_a_folder_that_is_no_release_says_so(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="no release"):
        Release.load(tmp_path)
    with pytest.raises(ReleaseError, match="no release"):
        Release.load(tmp_path / "nowhere")


def resealed(folder: Path) -> None:
    """Seal a folder that was tampered with, as one who knows the format would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    release_module.seal(folder, {k: v for k, v in manifest.items() if k not in ("files", "digest")})


def test_a_model_that_answers_otherwise_is_found_by_its_vectors(copy: Path) -> None:
    kept = json.loads((copy / "parity.json").read_text())
    kept["score"][5] += 0.01
    (copy / "parity.json").write_text(json.dumps(kept))
    resealed(copy)
    with pytest.raises(ReleaseError, match=r"differs by up to 0\.01 on 1 of 64 rows") as caught:
        Release.load(copy)
    assert caught.value.where is not None
    assert caught.value.where.endswith("parity.json")


def test_a_contract_of_another_format_is_named(copy: Path) -> None:
    (copy / "contract.json").write_text("{}")
    resealed(copy)
    with pytest.raises(ReleaseError, match="no contract"):
        Release.load(copy)


def test_a_graph_that_the_runtime_cannot_read_is_named(made: Release, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made.folder, tmp_path / "copy"))
    (folder / "model.onnx").write_bytes(b"no graph")
    resealed(folder)
    with pytest.raises(ReleaseError, match=r"model\.onnx"):
        Release.load(folder)


def test_a_skops_file_with_types_of_its_own_is_refused(slow: Release, tmp_path: Path) -> None:
    """The list of what may be loaded is ours: the file, MLmodel and manifest of a release cannot widen it."""
    import skops.io

    folder = Path(shutil.copytree(slow.folder, tmp_path / "copy"))
    skops.io.dump(fit(make_pipeline(Own(), LogisticRegression()), names=["score"]), folder / "model.skops")
    text = (folder / "MLmodel").read_text()
    (folder / "MLmodel").write_text(text.replace('"collections.OrderedDict"', f'"{Own.__module__}.Own"'))
    resealed(folder)
    with pytest.raises(ReleaseError, match="not trusted"):
        Release.load(folder)


def test_a_skops_file_that_cannot_be_read_is_named(slow: Release, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(slow.folder, tmp_path / "copy"))
    (folder / "model.skops").write_bytes(b"no zip")
    resealed(folder)
    with pytest.raises(ReleaseError, match=r"model\.skops"):
        Release.load(folder)


# ---- with no project on the path


def alone(script: str, *arguments: object, folder: Path) -> str:
    code = dedent(script)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_loading_and_predicting_imports_no_training_library(made: Release, tmp_path: Path) -> None:
    rows().write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "empty").mkdir()
    heavy = alone(
        """
        import sys
        from pathlib import Path
        import polars as pl
        from meguri.record.release import Release
        release = Release.load(Path(sys.argv[1]))
        got = release.predict(pl.read_parquet(sys.argv[2]))
        assert got.table.height == 3000, got.quarantined
        names = "sklearn pandas mlflow pandera pyarrow onnx skl2onnx onnxmltools skops lightgbm scipy yaml src".split()
        print([name for name in names if name in sys.modules])
        """,
        made.folder,
        tmp_path / "rows.parquet",
        folder=tmp_path / "empty",
    )
    assert heavy.strip() == "[]"


def test_releases_of_two_projects_that_call_their_package_src_load_side_by_side(tmp_path: Path) -> None:
    for name, sign in (("one", 1), ("two", -1)):
        package = tmp_path / name / "src"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "model.py").write_text(
            dedent(f"""
            import numpy as np, pandas as pd
            from sklearn.linear_model import LogisticRegression
            def make():
                x = np.linspace(-1, 1, 100)
                return LogisticRegression().fit(pd.DataFrame({{"x": x}}), {sign} * x > 0)
        """)
        )
        alone(
            """
            import sys
            from datetime import datetime, UTC
            from pathlib import Path
            import pandera.polars as pa, polars as pl
            from meguri.data.contract import Contract
            from meguri.record.release import Release
            from src.model import make
            schema = pa.DataFrameSchema({"id": pa.Column(str), "at": pa.Column(pl.Datetime("us", "UTC")), "x": pa.Column(float)})
            rows = pl.DataFrame({"id": ["a", "b"], "at": [datetime(2024, 1, 1, tzinfo=UTC)] * 2, "x": [-0.9, 0.9]})
            rows.write_parquet("../rows.parquet")
            Release.build(make(), id=sys.argv[1], contract=Contract(schema, key="id", time="at"), sample=rows,
                          folder=Path("release"), info={"run": sys.argv[1]})
            """,
            name,
            folder=tmp_path / name,
        )
    one, two = (Release.load(tmp_path / name / "release") for name in ("one", "two"))
    table = pl.read_parquet(tmp_path / "rows.parquet")
    assert one.predict(table).table["answer"].to_list() == ["false", "true"]
    assert two.predict(table).table["answer"].to_list() == ["true", "false"]
    assert repr(one) == "<Release one: binary, onnx, 1 features>"
