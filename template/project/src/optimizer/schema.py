"""The search space, as data: parameters of the model and where to look for them."""

from meguri.loop.search import Float, Int

SPACE = {
    "max_depth": Int(2, 12),
    "min_samples_leaf": Int(1, 10),
    "max_features": Float(0.2, 1.0),
}
