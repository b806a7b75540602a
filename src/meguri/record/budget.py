"""The budget of a test set: how often it may be used, and how many rows that takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from meguri.base.errors import GateError


@dataclass(frozen=True)
class Budget:
    """How often one test set may be used: a difference of ``epsilon`` judged wrongly with probability ``delta`` at most.

    ``delta`` is shared by all the planned ``uses`` (Bonferroni). ``adaptive``: a challenger may have been made
    knowing whether earlier ones passed on these rows, so every history of passes is paid for: 2 ** uses of them.
    The row counts are ease.ml/ci's (Renggli et al. 2019, arXiv 1903.00278), for losses between 0 and 1.
    """

    epsilon: float
    delta: float = 0.05
    uses: int = 1
    adaptive: bool = False

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and 0 < self.delta < 0.5 and self.uses >= 1):
            raise GateError(
                f"a budget of epsilon {self.epsilon}, delta {self.delta} and {self.uses} uses is impossible",
                fix="epsilon above 0, delta between 0 and 0.5, at least 1 use",
            )

    @property
    def level(self) -> float:
        """The error probability of one use."""
        return math.exp(self._log_level)

    @property
    def _log_level(self) -> float:
        return math.log(self.delta) - (self.uses * math.log(2) if self.adaptive else math.log(self.uses))

    def spend(self, used: int) -> float:
        """The level for the next use after ``used`` earlier ones; GateError when the planned uses are spent."""
        if used >= self.uses:
            raise GateError(
                f"this test set has been used {used} times and was planned for {self.uses}",
                where="gate.uses",
                fix="judge on later rows, which no gate has seen; or plan more uses before the first one",
            )
        return self.level

    def rows_for_one(self) -> int:
        """Labelled rows for one model's accuracy within epsilon, one-sided (Hoeffding 1963)."""
        return math.ceil(-self._log_level / (2 * self.epsilon**2))

    def rows_for_two(self) -> int:
        """Rows for the difference of two accuracies when each is estimated within epsilon / 2 with delta / 2."""
        return math.ceil((math.log(2) - self._log_level) / (2 * (self.epsilon / 2) ** 2))

    def rows_for_pair(self, disagreement: float) -> tuple[int, int]:
        """Rows, and labels among them, for the paired difference when at most this share of answers differs.

        Only the rows on which the two answer differently need a label (Bennett 1962).
        """
        ratio = self.epsilon / disagreement
        rows = -self._log_level / (disagreement * ((1 + ratio) * math.log1p(ratio) - ratio))
        return math.ceil(rows), math.ceil(rows * disagreement)
