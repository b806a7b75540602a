"""Answers that are left to a person: those that are not sure enough, and those of rows that people must always see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from meguri.base.errors import SettingsError

if TYPE_CHECKING:
    from meguri.data.contract import Contract
    from meguri.outlets.rest.rows import Rows


class Abstain:
    """The rule: sure is the probability of the likeliest answer; an estimate of a number says nothing of how sure it is."""

    def __init__(self, below: float = 0.0, slices: Mapping[str, Sequence[Any]] | None = None) -> None:
        self._below = below
        self._slices = {name: frozenset(values) for name, values in (slices or {}).items()}

    def check(self, contract: Contract) -> None:
        """Raise SettingsError for a slice of a column that is no feature."""
        for name in self._slices:
            if name not in contract.features:
                what = f"outlets.rest.abstain.slices names '{name}', which is no feature of {contract.name}"
                raise SettingsError(what, where="hydra/default.yaml", fix=f"it has {', '.join(contract.features)}")

    def of(self, contract: Contract, rows: Rows, scores: Sequence[float]) -> list[bool] | None:
        """For each row whether it is left to a person; None where nobody asked for that."""
        if not self._below and not self._slices:
            return None
        sure = [1.0] * len(scores)
        if contract.task == "binary":
            sure = [max(score, 1 - score) for score in scores]
        elif contract.task == "multiclass":
            sure = list(scores)
        found = [value < self._below for value in sure]
        for name, values in self._slices.items():
            found = [before or value in values for before, value in zip(found, rows.values[name], strict=True)]
        return found
