"""The search space, as data: parameter of the model -> where to look."""

from __future__ import annotations

from meguri.loop.search import Float, Int

SPACE = {
    "num_leaves": Int(15, 63),
    "learning_rate": Float(0.04, 0.12, log=True),
    "min_child_samples": Int(100, 800),
    "colsample_bytree": Float(0.4, 0.9),
}
