"""Columns to numbers: text is numbered, and what was never seen is -1; numbers pass, and gaps stay gaps."""

from __future__ import annotations

import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import OrdinalEncoder

TEXT = ["origin", "carrier", "dest"]


def preprocess(X: pd.DataFrame) -> ColumnTransformer:
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    return ColumnTransformer(
        [("text", encoder, TEXT), ("numbers", "passthrough", [c for c in X.columns if c not in TEXT])]
    )
