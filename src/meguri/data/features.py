"""Features: what is known of an entity at a moment, said once for training, batch and online."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, Literal

from meguri.base.clock import duration, spell
from meguri.base.errors import ContractError, SettingsError

if TYPE_CHECKING:
    from meguri.data.contract import Contract

Kind = Literal["last", "age", "count", "sum", "mean", "std"]
_COLUMN = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True)
class Feature:
    """One value of an entity at a moment: ``kind`` over the ``column`` of the events of the last ``length``.

    ``decimals`` are kept of each value that is added up, which is what makes sums exact; ``digits`` round the result.
    """

    events: Events
    kind: Kind
    column: str | None
    length: timedelta | None
    decimals: int = 6
    digits: int | None = None

    def round(self, digits: int) -> Feature:
        """The same, its value rounded to so many digits after the point."""
        return replace(self, digits=digits)

    def __str__(self) -> str:
        length = (
            ""
            if self.length is None
            else f" {'within' if self.kind in ('last', 'age') else 'over'} {spell(self.length)}"
        )
        return f"{self.kind}({self.column or ''}) of {self.events.name} by {', '.join(self.events.keys)}{length}"


Definition = Feature | Callable[..., Any]
Features = Mapping[str, Definition]


class Events:
    """Records of what happened, when it happened, and when that was known: features see no record before it was known.

    They are the ``table`` of the sources, or what ``sql`` gives of the tables in ``of``: other Events, or the names of
    tables that hold no history. ``by`` names the entity, ``at`` is when it happened, ``known`` how long after ``at`` a
    record is known, or the column with the moment at which it was. ``id`` tells one event of an entity from another: of
    records with the same id the one known last counts, from then on. Moments have a zone.

    Raises ContractError for a definition that has no meaning, or would see the future.
    """

    def __init__(
        self,
        table: str | None = None,
        *,
        sql: str | None = None,
        of: Sequence[Events | str] = (),
        by: str | Sequence[str],
        at: str,
        known: str | timedelta,
        id: str | Sequence[str] = (),
    ) -> None:
        self.table, self.sql, self.of = table, sql, tuple(of)
        self.name = table if table is not None else " ".join((sql or "").split())[:60]
        self.keys = self.scope = _names(by)
        self.at, self.id = at, _names(id)
        if (table is None) == (sql is None):
            raise self._wrong(
                "events are a table, or sql over tables", 'write Events("table", …) or Events(sql="…", …)'
            )
        if not self.keys:
            raise self._wrong("events need an entity", 'name its columns: by="origin"')
        if sql is not None and not self.of:
            what = "nobody says when the tables that this SQL reads were known, so it may see the future"
            raise self._wrong(what, "name them: of=[events, …], and those without history by their name")
        if sql is None and self.of:
            raise self._wrong("of=[…] names the tables that sql reads, and there is none", "leave it out")
        for other in self.of:
            if isinstance(other, Events) and other.sql is not None:
                raise self._wrong(
                    f"of=[…] names tables, and {other.name} is SQL itself", "name the tables that it reads"
                )
        self.known = self._known(known)

    def _known(self, known: str | timedelta) -> str | timedelta:
        if isinstance(known, str) and _COLUMN.fullmatch(known):
            return known
        try:
            negative = isinstance(known, str) and known.startswith("-")
            after = -duration(known[1:]) if isinstance(known, str) and negative else duration(known)
        except SettingsError as error:
            what = f"known={known!r} is neither a duration nor the name of a column"
            raise self._wrong(
                what, 'write known="1h", known="0s", or the column that says when it was known'
            ) from error
        if after < timedelta(0):
            raise self._wrong(
                f"known={known!r}: nothing is known before it happens",
                f'say how long after {self.at} it is known, such as known="1h"',
            )
        return after

    def by(self, *keys: str) -> Events:
        """The same events, of another entity."""
        other = Events.__new__(Events)
        vars(other).update(vars(self))
        other.keys = _names(keys)
        if not other.keys:
            raise self._wrong("events need an entity", 'name its columns: .by("origin", "carrier")')
        return other

    def last(self, column: str, *, within: str | timedelta | None = None) -> Feature:
        """The column of the latest event; null when that is older than ``within``."""
        return Feature(self, "last", column, None if within is None else self._length("within", within))

    def age(self, *, within: str | timedelta | None = None) -> Feature:
        """The seconds since the latest event; null when there was none."""
        return Feature(self, "age", None, None if within is None else self._length("within", within))

    def count(self, *, over: str | timedelta) -> Feature:
        """How many events there were; 0 when there was none."""
        return self._window("count", None, over, 0)

    def sum(self, column: str, *, over: str | timedelta, decimals: int = 6) -> Feature:
        """The sum of a column, each value kept to so many ``decimals``; 0 when there was no event."""
        return self._window("sum", column, over, decimals)

    def mean(self, column: str, *, over: str | timedelta, decimals: int = 6) -> Feature:
        """The mean of a column, of booleans the share that is true; null when there was no value."""
        return self._window("mean", column, over, decimals)

    def std(self, column: str, *, over: str | timedelta, decimals: int = 6) -> Feature:
        """The sample standard deviation of a column (n − 1); null for fewer than two values."""
        return self._window("std", column, over, decimals)

    def _window(self, kind: Kind, column: str | None, over: str | timedelta, decimals: int) -> Feature:
        if isinstance(self.known, str) and not self.id:
            what = f"{kind}(over={over!r}) cannot tell a corrected record of {self.name} from another event"
            raise self._wrong(what, "say what tells one event of an entity from another: id=…")
        if not 0 <= decimals <= 12:
            raise self._wrong(f"decimals={decimals}", "keep 0 to 12 digits after the point")
        return Feature(self, kind, column, self._length("over", over), decimals)

    def _length(self, word: str, value: str | timedelta) -> timedelta:
        try:
            length = duration(value)
        except SettingsError as error:
            raise self._wrong(f"{word}={value!r} is no length of time", f'write {word}="2h"') from error
        if length <= timedelta(0):
            what = f"{word}={value!r} does not lie before the moment of the prediction"
            raise self._wrong(what, f'a window ends at that moment, and begins earlier: {word}="2h"')
        if isinstance(self.known, timedelta) and length <= self.known:
            what = (
                f"{word}={value!r} never has an event in it: a record of {self.name} is known {spell(self.known)} later"
            )
            raise self._wrong(what, f"look back further than {spell(self.known)}")
        return length

    def _wrong(self, what: str, fix: str) -> ContractError:
        return ContractError(what, where=f"events {self.name or '?'}", fix=fix)

    def __repr__(self) -> str:
        known = self.known if isinstance(self.known, str) else f"{self.at} + {spell(self.known)}"
        return f"<Events {self.name}: by={'|'.join(self.keys)}, at={self.at}, known={known}>"


def _names(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def recorded(features: Features) -> dict[str, Feature]:
    """The features that are read from events."""
    return {name: found for name, found in features.items() if isinstance(found, Feature)}


def entities(features: Features) -> Iterator[tuple[tuple[str, ...], dict[str, Feature]]]:
    """The features that are read from events, one entity after the other."""
    found = recorded(features)
    for keys in dict.fromkeys(feature.events.keys for feature in found.values()):
        yield keys, {name: feature for name, feature in found.items() if feature.events.keys == keys}


def needs(function: Callable[..., Any]) -> tuple[str, ...]:
    """The columns that a function of a row asks for, by its parameters."""
    return tuple(inspect.signature(function).parameters)


def functions(features: Features) -> dict[str, Callable[..., Any]]:
    """The functions of a row, each after those that it needs. Raises ContractError for a circle."""
    found = {name: function for name, function in features.items() if not isinstance(function, Feature)}
    try:
        order = TopologicalSorter({name: needs(function) for name, function in found.items()}).static_order()
        return {name: found[name] for name in order if name in found}
    except CycleError as error:
        circle = " → ".join(error.args[1])
        raise ContractError(f"the features wait for each other: {circle}", where="features", fix="cut it") from error


def judge(features: Features, contract: Contract) -> None:
    """Refuse definitions that would see the future, or take the place of a column that is no feature.

    Raises ContractError.
    """
    parts = {contract.label: "label", contract.time: "time", contract.group: "group"} | dict.fromkeys(
        contract.key, "key"
    )
    for name, found in features.items():
        if name in parts:
            what = f"the feature '{name}' has the name of the contract's {parts[name]}"
            raise _wrong(name, what, "give it another name")
        if isinstance(found, Feature):
            known = found.events.known
            its_own = contract.label is not None and found.column == contract.label
            if its_own and isinstance(known, timedelta) and known < contract.label_after:
                late, at = spell(contract.label_after), found.events.at
                what = (
                    f"'{name}' reads the label '{found.column}' {spell(known)} after {at}, and it is known {late} later"
                )
                raise _wrong(
                    name, what, f'name the column with the moment at which it was known, or write known="{late}"'
                )
            continue
        if not callable(found):
            what = f"the feature '{name}' is a {type(found).__qualname__}"
            raise _wrong(
                name, what, 'define it by events.last("column"), .mean("column", over="2h") …, or by a function'
            )
        for parameter in inspect.signature(found).parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise _wrong(name, f"the function '{name}' takes {parameter}", "name each column that it needs")
            if parameter.name == contract.label:
                what = f"the feature '{name}' is made of the label '{contract.label}', which is not known at {contract.time}"
                raise _wrong(name, what, "make it of columns that are known when it is predicted")
    functions(features)


def _wrong(name: str, what: str, fix: str) -> ContractError:
    return ContractError(what, where=f"feature '{name}'", fix=fix)
