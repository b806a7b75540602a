"""Which parameters do best on the rows just after those they were fitted on; the test part is not here to be seen."""

from __future__ import annotations

from sklearn.metrics import log_loss

from meguri.loop.search import search

from src.models.lightgbm_classifier import LightgbmClassifier
from src.optimizer.schema import SPACE

ROWS = 40_000  # enough to rank parameters, and a quarter of the time


def tune(dataset, settings, study) -> dict:
    some = dataset.train.X.sample(min(ROWS, len(dataset.train.X)), random_state=settings.seed)
    labels = dataset.train.y.loc[some.index]

    def objective(params, _report) -> float:
        model = LightgbmClassifier(**{**settings.model.params, **params}).fit(some, labels)
        return log_loss(dataset.valid.y, model.predict_proba(dataset.valid.X)[:, 1])

    limits = {"trials": settings.optimize.trials, "timeout": settings.optimize.timeout}
    found = search(SPACE, objective, **limits, **study)
    return {**settings.model.params, **found}
