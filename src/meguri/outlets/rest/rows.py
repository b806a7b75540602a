"""A request's rows: JSON to values that keep the contract, without a frame where that is possible.

Two ways read the same: a decoder made of the contract, which takes what is surely good in a few microseconds, and the
contract itself, which is asked whenever the decoder refuses, so that it alone says what is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from operator import attrgetter, itemgetter
from typing import Annotated, Any

import polars as pl

from meguri.base.clock import from_micros, micros
from meguri.base.errors import ContractError, SettingsError
from meguri.base.extras import need
from meguri.data.contract import Contract
from meguri.data.spec import Field, Rule
from meguri.data.spec_polars import asks

KNOWN = 10_000  # texts of a column whose check is remembered
_BOUNDS = {"ge": "min_value", "gt": "min_value", "le": "max_value", "lt": "max_value"}
_TEXT = ("isin", "notin", "eq", "ne", "str_matches", "str_contains", "str_startswith", "str_endswith", "str_length")


@dataclass(frozen=True)
class Fault:
    """What is wrong with a request: a sentence, and where it is as a JSON pointer (RFC 6901); "" is the whole body."""

    what: str
    pointer: str = ""


class BadRowsError(Exception):
    """Rows that break the contract (``status`` 422) or are no JSON rows at all (400)."""

    def __init__(self, status: int, faults: Sequence[Fault]) -> None:
        super().__init__(faults[0].what)
        self.status, self.faults = status, tuple(faults)


@dataclass(frozen=True)
class Rows:
    """Rows that keep the contract.

    ``values`` has a list for each feature; ``times`` are microseconds since 1970; ``units`` are ``keys`` themselves where
    a row is its own unit; ``one`` says that the body was a single row.
    """

    keys: list[str]
    units: list[str]
    times: list[int]
    values: dict[str, list[Any]]
    one: bool

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, places: Sequence[int]) -> Rows:
        """Some of the rows."""

        pick = itemgetter(*places, places[0])  # one more, as for a single place it gives no tuple

        def some(values: Sequence[Any]) -> list[Any]:
            return list(pick(values))[:-1]

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
        if self.unit is not None and self.unit not in contract.types:
            what = f"outlets.rest.unit names '{self.unit}', and {contract.name} has no such column"
            raise ContractError(what, where="hydra/default.yaml", fix=f"it has {', '.join(contract.types)}")
        fields = contract.asked(labelled=False)
        self._names = [field.name for field in fields]
        places = {name: f"f{place}" for place, name in enumerate(self._names)}
        self._time = attrgetter(places[contract.time])
        self._key: Callable[[Any], Any] = attrgetter(*(places[name] for name in contract.key))
        self._texts = [contract.types[name] for name in contract.key] == [pl.String()]  # a key is then its own text
        self._unit = None if self.unit is None else attrgetter(places[self.unit])
        self._features = list(contract.features)
        self._row = attrgetter(*(places[name] for name in self._features))
        self._checks: list[tuple[Callable[[Any], Any], Callable[[Any], bool]]] = []
        columns = []
        self.fast = not contract.strict
        for field in fields:
            kind = _kind(field, msgspec)
            if kind is None:
                self.fast = False
                break
            typed, remaining = kind
            if (field.nullable and field.default is None) or field.name == contract.time:
                typed = typed | None
            columns.append((places[field.name], typed, *_default(field, contract)))
            if remaining:
                self._checks.append((attrgetter(places[field.name]), _texts(field, remaining)))
        self.fast = self.fast and all(contract.types[name] in _KEYS for name in [*contract.key, *self._own_unit()])
        self._more_unique = bool(contract.groups(labelled=False))
        if self.fast:
            row: Any = msgspec.defstruct(
                "Row", columns, kw_only=True, rename={p: name for name, p in places.items()}, gc=False
            )
            self._one, self._many = msgspec.json.Decoder(row), msgspec.json.Decoder(list[row])

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
            if found and len(found) <= most and self._passes(found):
                with suppress(SettingsError):  # a time beyond what there is
                    return self._rows(found, now, one)
        return self._slow(body, now, most, one)

    def _passes(self, found: Sequence[Any]) -> bool:
        for value_of, passes in self._checks:
            for value in set(map(value_of, found)):
                if value is not None and not passes(value):
                    return False
        if len(found) == 1:
            return True
        return not self._more_unique and len(set(map(self._key, found))) == len(found)

    def _rows(self, found: Sequence[Any], now: int, one: bool) -> Rows:
        keys: list[str] = [*map(self._key, found)] if self._texts else [_key(self._key(row)) for row in found]
        units = keys if self._unit is None else _units(map(self._unit, found), keys)
        times = [now if time is None else _micros(time) for time in map(self._time, found)]
        values = [self._row(row) for row in found]
        if len(self._features) == 1:
            values = [(value,) for value in values]
        columns = dict(zip(self._features, map(list, zip(*values, strict=True)), strict=True))
        return Rows(keys, units, times, columns, one)

    def _slow(self, body: bytes, now: int, most: int, one: bool) -> Rows:
        """What the contract itself says of the rows."""
        rows = _objects(body, one)
        if len(rows) > most:
            raise BadRowsError(413, [Fault(f"{len(rows)} rows in one request, and {most} are allowed: send fewer")])
        contract = self.contract
        for row in rows:
            if row.get(contract.time) is None:
                row[contract.time] = from_micros(now).isoformat()
        asked = contract.asked(labelled=False)
        here = [Fault(f"'{f.name}' is missing", _pointer(one, place, f.name)) for place, row in enumerate(rows) for f in asked
                if f.required and f.default is None and not f.nullable and f.name not in row]  # fmt: skip
        if here:
            raise BadRowsError(422, here)
        columns = {}
        for field in asked:
            if any(field.name in row for row in rows):
                columns[field.name] = _column(field, [row.get(field.name) for row in rows], one)
            elif field.required:
                columns[field.name] = pl.repeat(None, len(rows), dtype=field.dtype, eager=True)
        if contract.strict:
            extra = [(place, name) for place, row in enumerate(rows) for name in row if name not in contract.types]
            if extra:
                what = "is not in the contract, which is strict"
                raise BadRowsError(
                    422, [Fault(f"'{name}' {what}", _pointer(one, place, name)) for place, name in extra]
                )
        table = pl.DataFrame([column.alias(name) for name, column in columns.items()])
        try:
            checked = contract.check(table, labelled=False)
        except ContractError as error:
            raise BadRowsError(422, [Fault(f"{error.what}: {error.where}")]) from error
        if checked.quarantined.height:
            raise BadRowsError(422, _faults(self.contract, table, one))
        good = checked.rows
        keys = contract.key_of(good).to_list()
        units = keys if self.unit is None else _units(good[self.unit].to_list(), keys)
        values = {name: good[name].to_list() for name in contract.features}
        return Rows(keys, units, good[contract.time].dt.epoch("us").to_list(), values, one)


_KEYS = {pl.String(), *(getattr(pl, f"{sign}Int{bits}")() for sign in ("", "U") for bits in (8, 16, 32, 64))}


def _kind(field: Field, msgspec: Any) -> tuple[Any, list[Rule]] | None:
    """The type by which the decoder takes a field's surely good values, and the rules left to ask of them; None: no such."""
    name, meta = field.type, {}
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
    elif name == "Float32" and field.checks:  # it is rounded before it is compared
        return None
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


def _texts(field: Field, rules: Sequence[Rule]) -> Callable[[Any], bool]:
    """Whether a value passes: the contract's own check of it, remembered for as many values as a column of codes has."""
    known: dict[Any, bool] = {}

    def passes(value: Any) -> bool:
        found = known.get(value)
        if found is None:
            table = pl.DataFrame({field.name: pl.Series([value], dtype=field.dtype)})
            found = bool(table.select(pl.all_horizontal(asks(rule, field) for rule in rules)).item())
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
    if not isinstance(value, tuple):
        return str(value)
    parts = (part.replace("\\", "\\\\").replace("|", "\\|") if isinstance(part, str) else str(part) for part in value)
    return "|".join(parts)


def _units(values: Iterable[Any], keys: Sequence[str]) -> list[str]:
    """Who is answered, as text; a row that does not say is its own."""
    return [key if value is None else str(value) for value, key in zip(values, keys, strict=True)]


def _micros(time: datetime) -> int:
    zoned = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return micros(zoned)


def _objects(body: bytes, one: bool) -> list[dict[str, Any]]:
    """The rows of a body as plain objects. Raises BadRowsError for what is no JSON, or no object of values."""

    def refuse(name: str) -> Any:
        raise BadRowsError(400, [Fault(f"{name} is no JSON: leave the value out, or write null")])

    try:
        given = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        text = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise BadRowsError(400, [Fault(f"the body is no JSON: {text}")]) from error
    rows = [given] if one else given
    if not rows:
        raise BadRowsError(422, [Fault("there is no row in the body")])
    faults = [
        Fault("a row is a JSON object", "" if one else f"/{place}")
        for place, row in enumerate(rows)
        if not isinstance(row, dict)
    ]
    faults = faults or [
        Fault(f"'{name}' is no single value", _pointer(one, place, name))
        for place, row in enumerate(rows)
        for name, value in row.items()
        if isinstance(value, dict | list)
    ]
    if faults:
        raise BadRowsError(422, faults)
    return list(rows)


def _column(field: Field, values: list[Any], one: bool) -> pl.Series:
    """A column of JSON values; raises BadRowsError where a value is of another kind than the field."""
    faults, found = [], []
    for place, value in enumerate(values):
        try:
            found.append(None if value is None else _value(field, value))
        except (ValueError, OverflowError):
            what = f"{field.name}: expected {field.type}, found {_spelled(value)}"
            faults.append(Fault(what, _pointer(one, place, field.name)))
    if faults:
        raise BadRowsError(422, faults)
    if field.type in ("Date", "Datetime"):
        return pl.Series(found, dtype=field.dtype)
    kinds = {type(value) for value in found if value is not None}
    if len(kinds) > 1:  # JSON says 1 for 1.0; text among numbers is there only where the contract reads text
        found = [None if value is None else str(value) if str in kinds else float(value) for value in found]
    return pl.Series(found)


def _value(field: Field, value: Any) -> Any:
    """A JSON value as a table would hold it; raises ValueError for one of another kind."""
    if isinstance(value, str):
        if re.search("[\ud800-\udfff]", value):  # JSON can spell a lone surrogate, and no text has one
            raise ValueError
        if field.type == "Datetime":
            time = datetime.fromisoformat(value)
            return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        if field.type == "Date":
            return date.fromisoformat(value)
        if field.type == "String" or field.coerce:
            return value
        raise ValueError
    if field.type in ("Date", "Datetime") or (field.type == "String" and not field.coerce):
        raise ValueError
    if "Int" in field.type and not -(2**63) <= value < (2**64 if field.type == "UInt64" else 2**63):
        raise ValueError
    if isinstance(value, float) and ("Int" in field.type or field.type == "Boolean") and not value.is_integer():
        raise ValueError
    return float(value) if isinstance(value, int) and field.is_float and not isinstance(value, bool) else value


def _spelled(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _pointer(one: bool, place: int, name: str) -> str:
    escaped = name.replace("~", "~0").replace("/", "~1")
    return f"/{escaped}" if one else f"/{place}/{escaped}"


def _faults(contract: Contract, table: pl.DataFrame, one: bool) -> list[Fault]:
    """The reasons of each bad row, one fault each."""
    from meguri.data import reasons

    rows, masks, _ = contract.faults(table, now=None, labelled=False)
    masks |= reasons.key_masks(rows, contract.key)
    masks |= reasons.unique_masks(rows, contract.groups(labelled=False), masks.get(reasons.REPEAT))
    found = []
    for why, mask in masks.items():
        name = why.partition(":")[0]
        named = name if name in contract.types else contract.key[0]
        found += [Fault(why, _pointer(one, place, named)) for place in mask.arg_true().to_list()]
    return found
