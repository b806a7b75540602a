"""Boosted trees: quick to train, and at home with gaps and with columns of any scale."""

from __future__ import annotations

from lightgbm import LGBMClassifier

from src.models.base_model import BaseModel


class LightgbmClassifier(BaseModel):
    def __init__(
        self,
        *,
        n_estimators: int = 120,
        learning_rate: float = 0.07,
        num_leaves: int = 31,
        min_child_samples: int = 200,
        colsample_bytree: float = 0.6,
        reg_lambda: float = 5.0,
        n_jobs: int = 2,
        random_state: int = 0,
    ) -> None:
        self.params = {name: value for name, value in locals().items() if name != "self"}

    def estimator(self) -> LGBMClassifier:
        return LGBMClassifier(**self.params, deterministic=True, force_row_wise=True, verbose=-1)
