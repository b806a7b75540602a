"""Fit the model on train and valid: the search has chosen, and the latest rows teach the most."""

import pandas as pd

from src.models.lightgbm_classifier import LightgbmClassifier


def train(dataset, params):
    X, y = (pd.concat([getattr(dataset.train, part), getattr(dataset.valid, part)]) for part in ("X", "y"))
    return LightgbmClassifier(**params).fit(X, y)
