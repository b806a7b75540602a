"""Search for hyper-parameters, on train and valid only."""

from src.optimizer import optimizer


def optimize(dataset, settings, study):
    return optimizer.tune(dataset, settings, study)
