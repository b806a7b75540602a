"""A request's rows: JSON to values that keep the contract.

A decoder made of the contract takes what is surely good in a few microseconds. What it refuses is read value by value
(``faults``), which takes it (3.0 for 3) or says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import Annotated, Any

from meguri.base.clock import from_micros, micros
from meguri.base.errors import ContractError, SettingsError
from meguri.base.extras import need
from meguri.data.contract import Contract
from meguri.data.plain import Column, spelled
from meguri.data.spec import FLOAT32, Field, Rule
from meguri.outlets.rest import faults
from meguri.outlets.rest.faults import BadRowsError, Fault

KNOWN = 10_000  # texts of a column whose check is remembered
_BOUNDS = {"ge": "min_value", "gt": "min_value", "le": "max_value", "lt": "max_value"}
_TEXT = ("isin", "notin", "eq", "ne", "str_matches", "str_contains", "str_startswith", "str_endswith", "str_length")


@dataclass(frozen=True)
class Rows:
    """Rows that keep the contract.

    ``values`` has a tuple for each feature; ``times`` are microseconds since 1970; ``units`` are ``keys`` themselves where
    a row is its own unit; ``one`` says that the body was a single row.
    """

    keys: tuple[str, ...]
    units: tuple[str, ...]
    times: tuple[int, ...]
    values: dict[str, tuple[Any, ...]]
    one: bool

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, places: Sequence[int]) -> Rows:
        """Some of the rows."""

        pick = itemgetter(*places, places[0])  # one more, as for a single place it gives no tuple

        def some(values: tuple[Any, ...]) -> tuple[Any, ...]:
            picked: tuple[Any, ...] = pick(values)
            return picked[:-1]

        values = {name: some(column) for name, column in self.values.items()}
        keys = some(self.keys)
        units = keys if self.units is self.keys else some(self.units)
        return Rows(keys, units, some(self.times), values, self.one)


class Reader:
    """Reads the rows of requests for one contract; ``unit`` names the column of who is answered (default: the key)."""

    def __init__(self, contract: Contract, *, unit: str | None = None) -> None:
        msgspec = need("msgspec")
        self.contract, self._errors = contract, (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
        self.unit = unit or contract.group
        if self.unit is not None and self.unit not in contract.kinds:
            what = f"outlets.rest.unit names '{self.unit}', and {contract.name} has no such column"
            raise ContractError(what, where="hydra/default.yaml", fix=f"it has {', '.join(contract.kinds)}")
        self._judge = faults.Judge(contract)
        self._names = [column.field.name for column in self._judge.columns]
        places = {name: f"f{place}" for place, name in enumerate(self._names)}
        self._texts = [contract.kinds[name] for name in contract.key] == ["String"]  # a key is then its own text
        self._checks: list[tuple[str, Callable[[Any], bool]]] = []
        columns = []
        self.fast = not contract.strict
        for column in self._judge.columns:
            field = column.field
            kind = _kind(field, msgspec)
            if kind is None:
                self.fast = False
                break
            typed, remaining = kind
            if (field.nullable and field.default is None) or field.name == contract.time:
                typed = typed | None
            columns.append((places[field.name], typed, *_default(field, contract)))
            if remaining:
                self._checks.append((field.name, _texts(column, remaining)))
        self.fast = self.fast and all(contract.kinds[name] in _KEYS for name in [*contract.key, *self._own_unit()])
        self._more_unique = bool(contract.groups(labelled=False))
        if self.fast:
            row: Any = msgspec.defstruct(
                "Row", columns, kw_only=True, rename={p: name for name, p in places.items()}, gc=False
            )
            self._one, self._many = msgspec.json.Decoder(row), msgspec.json.Decoder(list[row])
            self._values = msgspec.structs.astuple

    def _own_unit(self) -> list[str]:
        return [] if self.unit is None else [self.unit]

    def read(self, body: bytes, *, now: int, most: int) -> Rows:
        """The rows of a body: a JSON object is one row, an array of objects as many, at most ``most``.

        A row without its time is of ``now`` (microseconds since 1970). Raises BadRowsError.
        """
        one = body.lstrip()[:1] != b"["
        if self.fast:
            try:
                found = [self._one.decode(body)] if one else self._many.decode(body)
            except self._errors:
                found = None
            if found and len(found) <= most:
                columns = dict(zip(self._names, zip(*map(self._values, found), strict=True), strict=True))
                with suppress(SettingsError):  # a time beyond what there is
                    if (rows := self._rows(columns, now, one)) is not None:
                        return rows
        return self._slow(body, now, most, one)

    def _rows(self, columns: Mapping[str, tuple[Any, ...]], now: int, one: bool) -> Rows | None:
        """None: the contract has something against them."""
        for name, passes in self._checks:
            for value in set(columns[name]):
                if value is not None and not passes(value):
                    return None
        given = columns[self.contract.key[0]]
        if len(self.contract.key) > 1:
            given = tuple(zip(*(columns[name] for name in self.contract.key), strict=True))
        if len(given) > 1 and (self._more_unique or len(set(given)) < len(given)):
            return None
        keys = given if self._texts else tuple(map(_key, given))
        units = keys if self.unit is None else _units(columns[self.unit], keys)
        times = tuple(now if time is None else _micros(time) for time in columns[self.contract.time])
        return Rows(keys, units, times, {name: columns[name] for name in self.contract.features}, one)

    def _slow(self, body: bytes, now: int, most: int, one: bool) -> Rows:
        """What the contract itself says of the rows."""
        rows = faults.objects(body, one)
        if len(rows) > most:
            raise BadRowsError(413, [Fault(f"{len(rows)} rows in one request, and {most} are allowed: send fewer")])
        good = self._judge.values(rows, one=one, now=from_micros(now))
        given = zip(*(good[name] for name in self.contract.key), strict=True)
        keys = tuple(_key(key[0] if len(key) == 1 else key) for key in given)
        units = keys if self.unit is None else _units(good[self.unit], keys)
        values = {name: tuple(good[name]) for name in self.contract.features}
        return Rows(keys, units, tuple(map(_micros, good[self.contract.time])), values, one)


_KEYS = {"String", *(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))}


def _kind(field: Field, msgspec: Any) -> tuple[Any, list[Rule]] | None:
    """The type by which the decoder takes a field's surely good values, and the rules left to ask of them; None: no such."""
    name, meta = field.type, dict[str, Any]()
    if field.coerce or name == "Date":
        return None
    if name in ("Boolean", "Datetime"):
        return None if field.checks else (bool if name == "Boolean" else datetime, [])
    if name == "String":
        return (str, list(field.checks)) if all(rule.name in _TEXT for rule in field.checks) else None
    whole = "Int" in name
    if whole:
        bits = int(name.rpartition("Int")[2])
        low, high = (0, 2**bits - 1) if name.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        meta = {"ge": max(low, -(2**63)), "le": min(high, 2**63 - 1)}
    elif name == "Float32":
        if field.checks:  # it is rounded before it is compared
            return None
        meta = {"ge": -FLOAT32, "le": FLOAT32}
    rest: list[Rule] = []
    for rule in field.checks:
        args = rule.args
        if rule.name in _BOUNDS:
            asked = {rule.name: args[_BOUNDS[rule.name]]}
        elif rule.name == "in_range":
            asked = {
                "ge" if args.get("include_min", True) else "gt": args["min_value"],
                "le" if args.get("include_max", True) else "lt": args["max_value"],
            }
        elif rule.name in ("isin", "notin"):
            rest.append(rule)
            continue
        else:
            return None
        for word, bound in asked.items():
            if whole and not isinstance(bound, int):
                return None
            tighter = max if word[0] == "g" else min
            meta[word] = tighter(meta[word], bound) if word in meta else bound
    for strict, loose in (("gt", "ge"), ("lt", "le")):
        if strict in meta and loose in meta:
            if not whole:
                return None
            step = 1 if strict == "gt" else -1
            bound = meta.pop(strict) + step
            meta[loose] = max(meta[loose], bound) if strict == "gt" else min(meta[loose], bound)
    base = int if whole else float
    return (Annotated[base, msgspec.Meta(**meta)] if meta else base), rest


def _texts(column: Column, rules: Sequence[Rule]) -> Callable[[Any], bool]:
    """Whether a value passes, remembered for as many values as a column of codes has."""
    known: dict[Any, bool] = {}
    checks = [passes for rule, passes in column.checks if rule in rules]

    def passes(value: Any) -> bool:
        found = known.get(value)
        if found is None:
            found = all(check(value) for check in checks)
            if len(known) < KNOWN:
                known[value] = found
        return found

    return passes


def _default(field: Field, contract: Contract) -> tuple[Any, ...]:
    """What stands for a field that a row leaves out; nothing where it must be there."""
    if field.default is not None:
        return ()  # the contract fills it
    return (None,) if field.nullable or not field.required or field.name == contract.time else ()


def _key(value: Any) -> str:
    """The text of a key, several parts joined by "|", as ``Contract.key_of`` gives it."""
    if not isinstance(value, tuple):
        return spelled(value)
    parts = (
        part.replace("\\", "\\\\").replace("|", "\\|") if isinstance(part, str) else spelled(part) for part in value
    )
    return "|".join(parts)


def _units(values: Iterable[Any], keys: Sequence[str]) -> tuple[str, ...]:
    """Who is answered, as text; a row that does not say is its own."""
    return tuple(key if value is None else str(value) for value, key in zip(values, keys, strict=True))


def _micros(time: datetime) -> int:
    zoned = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return micros(zoned)
