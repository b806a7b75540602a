"""Fit the model; what is given back is a fitted scikit-learn estimator."""

from src.models.base_model import make_model


def train(dataset, params, settings):
    model = make_model(settings.model.name, {**settings.model.params, **params}, settings.seed)
    return model.fit(dataset.train.X, dataset.train.y)
