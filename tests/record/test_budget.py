from __future__ import annotations

from typing import Any

import pytest

from meguri.base.errors import GateError
from meguri.record.budget import Budget


def test_the_figures_of_ease_ml_ci() -> None:
    once = Budget(0.01, 0.001)
    assert once.rows_for_one() == 34_539
    assert once.rows_for_two() == 152_019
    assert once.rows_for_pair(0.1)[1] == 1_427
    assert Budget(0.01, 0.001, uses=32).rows_for_one() == 51_868
    assert Budget(0.01, 0.001, uses=32, adaptive=True).rows_for_one() == 145_443


def test_the_budget_is_shared_and_then_spent() -> None:
    budget = Budget(0.05, 0.05, uses=5)
    assert [budget.spend(used) for used in range(5)] == pytest.approx([0.01] * 5)
    with pytest.raises(GateError, match="used 5 times and was planned for 5") as caught:
        budget.spend(5)
    assert "later rows" in str(caught.value.fix)
    assert Budget(0.05, 0.05, uses=5, adaptive=True).level == pytest.approx(0.05 / 32)


@pytest.mark.parametrize("wrong", [{"epsilon": 0.0}, {"epsilon": 0.1, "delta": 0.0}, {"epsilon": 0.1, "uses": 0}])
def test_an_impossible_budget(wrong: dict[str, Any]) -> None:
    with pytest.raises(GateError, match="impossible"):
        Budget(**wrong)
