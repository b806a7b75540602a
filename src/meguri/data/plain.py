"""The contract asked of values one by one, without a frame: what a column would hold of them, and the same words of what is wrong."""

from __future__ import annotations

import math
import operator
import re
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from datetime import UTC, date, datetime
from typing import Any

from meguri.data.patterns import pattern
from meguri.data.spec import Field, Rule, typed

CONFLICT = "duplicated key"
REPEAT = "duplicated key (the same row again)"
_WHOLE = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(
    r"[+-]?((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|infinity|nan)", re.ASCII | re.IGNORECASE
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    name: getattr(operator, name) for name in ("ge", "gt", "le", "lt", "eq", "ne")
}


class UnreadError(ValueError):
    """A text that the column may hold as another type, and that is no value of it."""


def not_unique(names: Sequence[str]) -> str:
    """The reason of a row whose values in these columns come again."""
    return f"{', '.join(names)}: not unique"


def bounds(kind: str) -> tuple[int, int]:
    """The least and the largest number of a type of whole numbers."""
    bits = int(kind.rpartition("Int")[2])
    return (0, 2**bits - 1) if kind.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def spelled(value: Any) -> str:
    """A value as text, as polars casts it; times are ISO 8601 in UTC."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        digits = f"{value.microsecond:06d}"
        digits = "" if digits == "000000" else digits[:3] if digits.endswith("000") else digits
        return f"{value:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + (f".{digits}Z" if digits else "Z")
    if isinstance(value, date):
        return value.isoformat()
    text = str(value)
    if isinstance(value, float) and "e-" in text:
        digits, _, power = text.partition("e-")
        sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
        text = f"{sign}0.0000{digits.replace('.', '')}" if int(power) == 5 else f"{sign}{digits}e-{int(power)}"
    return text


class Column:
    """A column of a contract: reads its values, and says what is wrong with them. Raises ContractError for a pattern that it cannot ask."""

    def __init__(self, field: Field, *, may_be_null: bool = False) -> None:
        self.field, self._may_be_null = field, may_be_null or field.nullable
        self.checks: list[tuple[Rule, Callable[[Any], bool]]] = [(rule, _asks(rule, field)) for rule in field.checks]
        self._words = [(f"{field.name}: {rule}", passes) for rule, passes in self.checks]
        self._float = field.is_float
        self._ends = (0, 1) if field.type == "Boolean" else bounds(field.type) if "Int" in field.type else (0, 0)
        self.default = None if field.default is None else _cast(field.stand_in, field.type)

    def read(self, value: Any, *, flags: bool = False) -> Any:
        """A JSON value, not null, as the column holds it; with ``flags`` true and false may be numbers.

        Raises ValueError or OverflowError for one of another kind, UnreadError for a text that cannot be read as its type.
        """
        kind, coerce = self.field.type, self.field.coerce
        if isinstance(value, str):
            if kind == "Datetime":
                time = datetime.fromisoformat(value)
                return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
            if kind == "Date":
                return date.fromisoformat(value)
            if kind == "String":
                return value
            if not coerce or kind == "Boolean":
                raise ValueError
            return self._parsed(value)
        if kind == "String" and coerce:
            return spelled(value)
        if kind in ("String", "Date", "Datetime") or (isinstance(value, bool) and kind != "Boolean" and not flags):
            raise ValueError
        if self._float:
            return float(value) if kind == "Float64" else _cast(float(value), kind)
        if isinstance(value, float) and not value.is_integer():
            raise ValueError
        if not self._ends[0] <= value <= self._ends[1]:
            raise ValueError
        return _cast(value, kind)

    def _parsed(self, text: str) -> Any:
        kind = self.field.type
        if self._float:
            if _FLOAT.fullmatch(text):
                number = float(text)
                return math.nan if math.isnan(number) else _cast(number, kind)  # one object, which is like itself
        elif len(text) < 40 and _WHOLE.fullmatch(text) and not (kind[0] == "U" and text[0] == "-"):
            low, high = self._ends
            if low <= int(text) <= high:
                return int(text)
        raise UnreadError

    def filled(self, value: Any) -> Any:
        """The value, or the default in its place."""
        return self.default if value is None else value

    def faults(self, value: Any) -> list[str]:
        """What is wrong with a value as the column holds it, in the words of ``Contract.check``."""
        if value is None:
            return [] if self._may_be_null else [f"{self.field.name}: null"]
        found = []
        if self._float and not math.isfinite(value):
            found.append(f"{self.field.name}: infinite")
            value = math.inf if math.isnan(value) else value  # which polars orders so
        found += [why for why, passes in self._words if not passes(value)]
        return list(dict.fromkeys(found)) if found else found


def twice(rows: Sequence[Hashable], keys: Sequence[Hashable | None]) -> dict[int, str]:
    """The rows whose key comes before or again, by their places, with the reason.

    The first of rows that are the same is good; where rows of one key differ, none is. A key of None is not compared.
    """
    kinds: dict[Hashable, set[Hashable]] = {}
    for row, key in zip(rows, keys, strict=True):
        if key is not None:
            kinds.setdefault(key, set()).add(row)
    found, seen = {}, set()
    for place, key in enumerate(keys):
        if key is not None and len(kinds[key]) > 1:
            found[place] = CONFLICT
        elif key is not None and key in seen:
            found[place] = REPEAT
        seen.add(key)
    return found


def again(values: Sequence[Hashable], but: set[int]) -> list[int]:
    """The places of values that come more than once, without those that do not count."""
    counts = Counter(value for place, value in enumerate(values) if place not in but)
    return [place for place, value in enumerate(values) if place not in but and counts[value] > 1]


def _cast(value: Any, kind: str) -> Any:
    """A number, text or flag as the type ``kind`` has it."""
    if value is None or kind in ("Date", "Datetime"):
        return value
    if kind == "String":
        return value if isinstance(value, str) else spelled(value)
    if kind == "Float32":
        return array("f", [value])[0]
    return float(value) if kind == "Float64" else bool(value) if kind == "Boolean" else int(value)


def _asks(rule: Rule, field: Field) -> Callable[[Any], bool]:
    """Whether a value of the column passes; it is never null."""
    args, kind = rule.args, field.type
    if rule.name in ("isin", "notin"):
        (given,) = args.values()
        listed = frozenset(_cast(typed(one, kind), kind) for one in given)
        return listed.__contains__ if rule.name == "isin" else lambda value: value not in listed
    if rule.name in _COMPARE:
        (bound,) = args.values()
        return _compared(rule.name, bound, kind)
    if rule.name == "in_range":
        low = _compared("ge" if args.get("include_min", True) else "gt", args["min_value"], kind)
        high = _compared("le" if args.get("include_max", True) else "lt", args["max_value"], kind)
        return lambda value: low(value) and high(value)
    if rule.name == "str_length":
        exact = args.get("exact_value")
        least, most = (args.get("min_value"), args.get("max_value")) if exact is None else (exact, exact)
        return lambda value: (least is None or len(value) >= least) and (most is None or len(value) <= most)
    text: str = args["string"] if "string" in args else args["pattern"]
    if rule.name == "str_startswith":
        return lambda value: value.startswith(text)
    if rule.name == "str_endswith":
        return lambda value: value.endswith(text)
    return pattern(text if rule.name == "str_contains" or text[:1] == "^" else f"^{text}")


def _compared(name: str, bound: Any, kind: str) -> Callable[[Any], bool]:
    compare = _COMPARE[name]
    bound = _cast(bound, kind) if kind in ("Float32", "String") else typed(bound, kind)
    if "Int" in kind and isinstance(bound, float):
        return lambda value: compare(float(value), bound)
    return lambda value: compare(value, bound)
