"""Estimators that make no release: each is refused with its reason, and nothing stays behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from record.releases import (
    Own,
    boosted,
    build,
    contract,
    fit,
    prepared,
    rows,
)
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from meguri.base.errors import ReleaseError
from meguri.record import release as release_module
from meguri.record.release import Release


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
