"""What every model of this project is: parameters in, a fitted scikit-learn pipeline out."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pandas as pd
from sklearn.pipeline import Pipeline, make_pipeline

from src.models.preprocess import preprocess


class BaseModel(ABC):
    @abstractmethod
    def estimator(self):
        """The scikit-learn classifier, not fitted."""

    def fit(self, X: pd.DataFrame, y: pd.Series) -> Pipeline:
        return make_pipeline(preprocess(X), self.estimator()).fit(X, y)
