"""Score the model on the test part: a loss for each row, so that the gate can compare."""

from meguri import Evaluation


def evaluate(model, dataset, settings):
    return Evaluation.of(model, dataset.test, slices=settings.gate.slices)
