"""Fitted scikit-learn and LightGBM estimators: what they answer, and how skops keeps them without pickle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from meguri.base.errors import ReleaseError
from meguri.base.extras import need

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Texts = np.ndarray[Any, np.dtype[np.object_]]

# Types of the libraries, beyond those that skops trusts by itself, that hold a fitted model's numbers. Ours, never a
# model's: what is not named here is not loaded. No type that calls a function handed to it belongs here.
TRUSTED = frozenset(
    {
        "collections.OrderedDict",
        "lightgbm.basic.Booster",
        "lightgbm.sklearn.LGBMClassifier",
        "lightgbm.sklearn.LGBMRegressor",
        "numpy.dtype",
        "scipy.sparse._csr.csr_matrix",
        "sklearn._loss.loss.HalfTweedieLossIdentity",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.feature_selection._univariate_selection.f_regression",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        "sklearn.gaussian_process.kernels.ConstantKernel",
        "sklearn.gaussian_process.kernels.Product",
        "sklearn.gaussian_process.kernels.RBF",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.multiclass._ConstantPredictor",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
    }
)


@dataclass(frozen=True)
class Answers:
    """Scores (float64, shape [N]) and, for a classification, the answers as text and where known each class's probability."""

    score: Floats
    answer: Texts | None = None
    chances: Floats | None = None  # shape [N, classes]


class Plain(NamedTuple):
    """``Answers`` as lists: of scores, and where the task has them of answers and of each class's probability."""

    score: list[float]
    answer: list[str] | None = None
    chances: list[list[float]] | None = None


def judge(estimator: Any, task: str) -> list[Any] | None:
    """The classes of a fitted estimator that suits the task, None for a regression; raises ReleaseError otherwise."""
    kind = type(estimator).__name__
    if not (hasattr(estimator, "predict") and hasattr(estimator, "get_params")):
        raise ReleaseError(
            f"a {kind} is no scikit-learn estimator", fix="let train return the fitted estimator or Pipeline itself"
        )
    need("sklearn")
    try:
        need("sklearn.utils.validation").check_is_fitted(estimator)
    except need("sklearn.exceptions").NotFittedError as error:
        raise ReleaseError(f"the {kind} is not fitted", fix="call fit in train before it returns the model") from error
    classes = getattr(estimator, "classes_", None)
    if task == "regression":
        if classes is not None:
            raise ReleaseError(
                f"the contract's task is regression, and the {kind} is a classifier", fix="use a regressor"
            )
        return None
    if not hasattr(estimator, "predict_proba"):
        raise ReleaseError(
            f"the contract's task is {task}, and the {kind} has no predict_proba",
            fix="use a classifier that gives probabilities, or wrap this one in CalibratedClassifierCV",
        )
    found = np.asarray(classes).tolist()
    if len(found) < 2 or (task == "binary" and len(found) > 2):
        raise ReleaseError(
            f"the contract's task is {task}, and the {kind} knows {len(found)} classes: {found[:10]}",
            fix="look at the label of the training rows, or change the contract's task",
        )
    return list(found)


def columns(estimator: Any, offered: Sequence[str]) -> list[str]:
    """The features that the estimator was fitted on, in its order; raises ReleaseError when the contract has not all."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        count = getattr(estimator, "n_features_in_", len(offered))
        if count != len(offered):
            raise ReleaseError(
                f"the model was fitted on {count} columns, and the contract has {len(offered)} features",
                fix="fit it on dataset.train.X",
            )
        return list(offered)
    strange = [str(name) for name in names if name not in offered]
    if strange:
        raise ReleaseError(
            f"the model was fitted on columns that are no features of the contract: {', '.join(strange[:10])}",
            fix="fit it on dataset.train.X, and make new columns inside the Pipeline or in retrieve",
        )
    return [str(name) for name in names]


def by_column(estimator: Any) -> bool:
    """Whether a ColumnTransformer picks columns by name somewhere in the estimator."""
    chooser = need("sklearn.compose").ColumnTransformer
    return any(isinstance(part, chooser) for part in [estimator, *estimator.get_params(deep=True).values()])


def lightgbm_types() -> tuple[type, type]:
    """LightGBM's classifier and regressor."""
    module = need("lightgbm")
    return module.LGBMClassifier, module.LGBMRegressor


class Fitted:
    """A fitted estimator that answers rows as a release does.

    ``names`` are its features in its order; ``classes`` the texts of its classes in their order, None for a regression.
    It is asked as it was fitted, on the pandas frame that ``dataset.train.X`` is: NaN for null, also in text.
    """

    def __init__(self, estimator: Any, names: Sequence[str], classes: Sequence[str] | None) -> None:
        self.estimator, self.names, self.classes = estimator, list(names), classes
        need("polars")  # the frame that it is asked with
        self._threads = need("threadpoolctl").ThreadpoolController()

    def answer(self, rows: pl.DataFrame) -> Answers:
        """The answers for rows that hold the features, in their order; they do not depend on how many come at once."""
        with self._threads.limit(limits=1):  # the threads of OpenMP and BLAS spin, and sum in another order
            return self._answer(rows)

    def answer_values(self, values: Mapping[str, Sequence[Any]], types: Mapping[str, Any]) -> Plain:
        """What ``answer`` gives for columns of plain values, of these polars types."""
        pl = need("polars")
        found = self.answer(pl.DataFrame({n: pl.Series(values[n], dtype=types[n]) for n in self.names}))
        answer, chances = found.answer, found.chances
        return Plain(
            found.score.tolist(),
            None if answer is None else answer.tolist(),
            None if chances is None else chances.tolist(),
        )

    def _answer(self, rows: pl.DataFrame) -> Answers:
        import polars as pl

        from meguri.data.table import from_polars

        count = rows.height
        if count == 1:
            rows = pl.concat([rows, rows])  # BLAS sums a single row in another order
        table = from_polars(rows.select(self.names), "pandas")
        if hasattr(self.estimator, "n_features_in_") and not hasattr(self.estimator, "feature_names_in_"):
            table = table.to_numpy()  # so it was fitted, and it warns of names
        if self.classes is None:
            return Answers(np.asarray(self.estimator.predict(table), np.float64).reshape(-1)[:count])
        chances = np.asarray(self.estimator.predict_proba(table), np.float64)[:count]
        order = {value: place for place, value in enumerate(np.asarray(self.estimator.classes_).tolist())}
        places = np.array([order[value] for value in np.asarray(self.estimator.predict(table)).tolist()])[:count]
        score = chances[:, 1] if len(self.classes) == 2 else chances[np.arange(count), places]
        return Answers(score, np.array(self.classes, dtype=np.object_)[places], chances)


def to_skops(estimator: Any, path: Path) -> None:
    """Write the estimator without pickle; raises ReleaseError that names the types which we do not trust."""
    skops = need("skops.io")
    try:
        skops.dump(estimator, path)
    except Exception as error:  # skops' own refusal, or a user's class that cannot give its state
        raise ReleaseError(
            f"skops cannot keep the model: {error}", fix="build it from scikit-learn's and LightGBM's own classes"
        ) from error
    _judge_types(skops, path)


def from_skops(path: Path) -> Any:
    """The estimator of a skops file, made of trusted types only; raises ReleaseError when the file needs others."""
    skops = need("skops.io")
    try:
        return skops.load(path, trusted=_judge_types(skops, path))
    except ReleaseError:
        raise
    except Exception as error:  # a file that is none, or one of another version of the libraries
        what = f"skops cannot read the model ({type(error).__name__}: {error})"
        raise ReleaseError(what, where=path, fix="compare the versions in manifest.json with those here") from error


def _judge_types(skops: Any, path: Path) -> list[str]:
    asked = list(skops.get_untrusted_types(file=path))
    strange = sorted(set(asked) - TRUSTED)
    if strange:
        raise ReleaseError(
            f"a release must load with no project on the path, and the model holds types that are not trusted: "
            f"{', '.join(strange)}",
            fix="build it from scikit-learn's and LightGBM's own classes; do the project's own steps in retrieve",
        )
    return asked
