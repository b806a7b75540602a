"""What an answer is worth in money: a table of answers and labels, or a price for each unit of error."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from meguri.base.errors import ContractError, DataError

if TYPE_CHECKING:
    import polars as pl

Floats = NDArray[np.float64]
Money = int | float
Label = str | bool | int

YES, NO = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no")
_CODE = re.compile(r"[A-Z]{3}")
_EXAMPLE = 'Value("JPY", {True: {True: 120, False: -5}, False: {True: -200, False: 0}})'
_WHERE = "Value"


@dataclass(frozen=True)
class Value:
    """What an answer earns, or costs where it is below 0, in ``currency``, a code such as JPY.

    Classes: ``table`` is {answer: {label: money}}, with each answer for each label. Regression: ``over`` and ``under``
    are for one unit of the label that an estimate is too high or too low, 0 or less; an exact one is worth 0.
    ``abstained`` is for an answer that was left to a person, whatever the label; None: as if it had been given.
    Raises ContractError for what is missing, no finite number, or of no use.
    """

    currency: str
    table: Mapping[Label, Mapping[Label, Money]] | None = None
    over: Money | None = None
    under: Money | None = None
    abstained: Money | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.currency, str) or not _CODE.fullmatch(self.currency):
            raise _wrong(f"the currency is {self.currency!r}", "name it first, by a code such as JPY or EUR")
        for name in ("over", "under", "abstained"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, _number(given, name))
        if self.table is not None and (self.over, self.under) != (None, None):
            raise _wrong("it has a table and prices of errors", "keep the table for classes, the prices for regression")
        if self.table is not None:
            object.__setattr__(self, "table", _table(self.table))
            return
        if self.over is None or self.under is None:
            lost = "over and under" if self.over is self.under else "over" if self.over is None else "under"
            fix = f'for regression Value("JPY", over=-2.5, under=-4); for classes {_EXAMPLE}'
            raise _wrong(f"it has no table and no {lost}", fix)
        if max(self.over, self.under) > 0 or self.over == self.under == 0:
            what = f"over={self.over:g} and under={self.under:g}, and an error costs money"
            raise _wrong(what, "write what it costs as a number below 0, such as over=-2.5")

    def fits(self, task: str, label: str, number: bool, allowed: Sequence[Any] | None) -> None:
        """Refuse what does not suit the contract's task and its label, a ``number`` (or flag) or not, whose values may be ``allowed`` ones only."""
        if (task == "regression") != (self.table is None):
            need = "over and under" if task == "regression" else "a table of answers and labels"
            raise _wrong(f"the contract's task is {task}", f"give {need}")
        if self.table is None:
            return
        flag = number and task == "binary"
        known = None if allowed is None else {_text(value) for value in allowed}
        if task == "binary" and len(self.names) != 2:
            raise _wrong(f"it has {len(self.names)} answers, and the task is binary", f"give two: {_EXAMPLE}")
        if flag:
            kinds = [name.lower() in YES for name in self.names if name.lower() in (*YES, *NO)]
            strange = next((name for name in self.names if name.lower() not in (*YES, *NO)), None)
            if strange is not None or len(set(kinds)) != 2:
                raise _wrong(f"'{strange or self.names[0]}' is no value of '{label}', which is true or false",
                             f"write True and False: {_EXAMPLE}")  # fmt: skip
        elif known is not None and set(self.names) != known:
            strange = next((name for name in self.names if name not in known), None)
            if strange is not None:
                near = difflib.get_close_matches(strange, sorted(known), n=1, cutoff=0.5)
                fix = f"did you mean '{near[0]}'?" if near else f"'{label}' is one of: {', '.join(sorted(known))}"
                raise _wrong(f"'{strange}' is no value of '{label}'", fix)
            lost = min(known - set(self.names))
            raise _wrong(f"it says nothing of '{lost}', a value of '{label}'", f"give '{lost}' as answer and as label")

    @property
    def names(self) -> tuple[str, ...]:
        """The classes in their order, of two the positive one last."""
        found = sorted(str(name) for name in self.table or {})
        return tuple(sorted(found, key=lambda name: name.lower() in YES)) if len(found) == 2 else tuple(found)

    @property
    def _grid(self) -> Floats:
        """The table as an array of shape (answers, labels)."""
        assert self.table is not None
        return np.array([[self.table[answer][label] for label in self.names] for answer in self.names], np.float64)

    @property
    def threshold(self) -> float:
        """The probability of the positive class from which on to answer it is worth more, for two classes.

        What a false alarm costs, by what it and a missed case cost together (Elkan, IJCAI 2001, equation 2).
        """
        if len(self.names) != 2:
            raise _wrong(
                "only two classes have a threshold between them", "answer the class with the most expected money"
            )
        grid = self._grid
        alarm, missed = grid[0, 0] - grid[1, 0], grid[1, 1] - grid[0, 1]
        return float(alarm / (alarm + missed)) if alarm + missed > 0 else 0.5

    def codes(self, classes: pl.Series) -> Floats:
        """The place of each class among ``names``, shape (n,); DataError for one that the table does not have."""
        import polars as pl

        places = {name: float(place) for place, name in enumerate(self.names)}
        strange = classes.filter(~classes.is_in(self.names))
        if len(strange):
            raise DataError(
                f"the contract says nothing of what '{strange[0]}' is worth, as an answer or a label",
                where="value",
                fix=f"add it to the Value of the contract, which has {', '.join(self.names)}",
            )
        found: Floats = classes.replace_strict(places, return_dtype=pl.Float64).to_numpy()
        return found

    def earned(self, y: Floats, s: Floats) -> Floats:
        """The money of each answer ``s`` where ``y`` came true, shape (n,): numbers, or codes of classes.

        An answer that is not a number was left to a person.
        """
        found: Floats
        if self.table is None:
            error = s - y
            found = np.where(error > 0, float(self.over or 0) * error, -float(self.under or 0) * error)
        else:
            found = self._grid[np.nan_to_num(s).astype(np.int64), y.astype(np.int64)]
        if self.abstained is not None:
            found = np.where(np.isnan(s), self.abstained, found)
        return found

    def best(self, y: Floats) -> float:
        """The constant answer that earns most on ``y``; of numbers the quantile under / (over + under)."""
        if self.table is None:
            over, under = -float(self.over or 0), -float(self.under or 0)
            return float(np.quantile(y, under / (over + under), method="inverted_cdf"))
        counts = np.bincount(y.astype(np.int64), minlength=len(self.names))
        return float(np.argmax(self._grid @ counts))

    @property
    def most(self) -> float:
        """The most that another answer can change of one row; 0 where there is no limit."""
        if self.table is None:
            return 0.0
        own = [] if self.abstained is None else [np.full((1, len(self.names)), self.abstained)]
        return float(np.ptp(np.concatenate([self._grid, *own]), axis=0).max())

    def to_spec(self) -> dict[str, Any]:
        """The value as JSON values, without what was not given."""
        parts = {name: getattr(self, name) for name in ("table", "over", "under", "abstained")}
        return {"currency": self.currency, **{name: part for name, part in parts.items() if part is not None}}


def _wrong(what: str, fix: str) -> ContractError:
    return ContractError(what, where=_WHERE, fix=fix)


def _text(value: Any) -> str:
    """A class as the text of a release's answer: true and false for a flag, 3 for 3.0."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(f"{what} is {value!r}, which is no amount of money", "give a finite number")
    return float(value)


def _table(given: Any) -> dict[str, dict[str, float]]:
    """The table with texts for names, square: each answer for each label."""
    if not isinstance(given, Mapping) or not all(isinstance(row, Mapping) for row in given.values()):
        raise _wrong(f"the table is {given!r}", f"write {{answer: {{label: money}}}}, such as {_EXAMPLE}")
    found = {
        _text(answer): {
            _text(label): _number(of, f"'{_text(answer)}' for '{_text(label)}'") for label, of in row.items()
        }
        for answer, row in given.items()
    }
    names = sorted({*found, *(label for row in found.values() for label in row)})
    if len(names) < 2:
        raise _wrong("the table has fewer than two answers", f"give each answer for each label: {_EXAMPLE}")
    for answer in names:
        for label in names:
            if label not in found.get(answer, {}):
                what = f"the table does not say what the answer '{answer}' is worth where '{label}' came true"
                raise _wrong(what, f"give {{'{answer}': {{'{label}': …}}}}, 0 where it is worth nothing")
            if found[answer][label] > found.get(label, {}).get(label, math.inf):
                what = f"where '{label}' came true the answer '{answer}' is worth more than the right one"
                raise _wrong(what, "write what an answer costs as a number below 0")
    return found
