"""The checks of a column as SQL, where SQL answers as polars does."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any

import polars as pl

from meguri.base.extras import need
from meguri.data.spec import Field, Rule
from meguri.data.spec_polars import arguments

_ORDER = {"ge", "gt", "le", "lt", "in_range"}
_MOST = 255  # repeats that every engine's patterns allow

# What patterns may be made of, so that all engines read them alike: outside of a class, and in one.
_TOKEN = re.compile(
    r"""(?x) (?P<class>\[\^?(?:\\[\[\]\\^.\-/$*+?(){}|]|\\d|[^\[\]\\&~|#])+\]) | (?P<group>\((?:\?:)?) | (?P<digit>\\d)
    | \\[.\-/\\$^*+?(){}|\[\]] | (?P<any>\.) | (?P<times>\{\d+(?:,\d*)?\}(?![*+?{])) | [*+?](?![*+?{]) | [|)^$]
    | [^\\\[\](){}|*+?.^$]"""
)


def asks(rule: Rule, field: Field, column: Any, engine: str) -> Any | None:
    """An Ibis expression that is true where a value of ``column`` passes; None when the engine may answer otherwise."""
    text = field.type == "String"
    if column.type().is_unsigned_integer():  # which Ibis compares with no negative number
        column = column.cast("int64" if column.type().nbytes < 8 else "decimal(38, 0)")
    if rule.name in _ORDER and text and engine == "postgres":
        return None  # its locale has an order of its own
    if field.type == "Float32" and engine == "bigquery":
        return None  # it has no such type, so nothing is rounded to it
    args = arguments(rule, field.type)
    if "pattern" in args:
        begin = "^" if rule.name == "str_matches" and args["pattern"][:1] != "^" else ""
        pattern = portable(begin + args["pattern"])
        if pattern is None:
            return None
        return column.re_search(pattern.replace("$", r"\z") if engine == "pyspark" else pattern)
    if any(name.endswith("_values") for name in args):
        (values,) = (value for name, value in args.items() if name.endswith("_values"))
        found = [literal(value, field.type) for value in values.item().drop_nulls()]
        if rule.name == "notin":
            return column.notin(found) if found else need("ibis").literal(True)
        return column.isin(found) if found else column.isnull()
    if rule.name not in ("str_startswith", "str_endswith", "str_length"):
        args = {
            name: literal(value, field.type) if not name.startswith("include_") else value
            for name, value in args.items()
        }
    return _CHECKS[rule.name](column, **args)


def literal(value: Any, kind: str | None = None) -> Any:
    """A value as SQL has it, to be compared with a column of the type ``kind``."""
    ibis = need("ibis")
    if isinstance(value, datetime):
        return ibis.literal(value, type="timestamp('UTC')")
    if kind == "Float32":  # as exact a number as the column's, for SQL compares them as Float64
        return ibis.literal(pl.Series([float(value)]).cast(pl.Float32).item())
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return ibis.literal(Decimal(value), type="decimal(38, 0)")
    return ibis.literal(value)


def _in_range(column: Any, min_value: Any, max_value: Any, include_min: bool = True, include_max: bool = True) -> Any:
    low = column >= min_value if include_min else column > min_value
    return low & (column <= max_value if include_max else column < max_value)


def _str_length(
    column: Any, min_value: int | None = None, max_value: int | None = None, exact_value: int | None = None
) -> Any:
    low, high = (min_value, max_value) if exact_value is None else (exact_value, exact_value)
    length = column.length()
    if low is not None and high is not None:
        return (length >= low) & (length <= high)
    return length >= low if low is not None else length <= high


_CHECKS: dict[str, Callable[..., Any]] = {
    "ge": lambda column, min_value: column >= min_value,
    "gt": lambda column, min_value: column > min_value,
    "le": lambda column, max_value: column <= max_value,
    "lt": lambda column, max_value: column < max_value,
    "eq": lambda column, value: column == value,
    "ne": lambda column, value: column != value,
    "in_range": _in_range,
    "str_startswith": lambda column, string: column.startswith(string),
    "str_endswith": lambda column, string: column.endswith(string),
    "str_length": _str_length,
}


def portable(pattern: str) -> str | None:
    """A regular expression that Rust, RE2, PostgreSQL and Java read alike, of the same meaning; None if there is none.

    ``.`` and ``\\d`` are written out, for engines differ in line ends and in digits of other scripts. What is left out:
    flags, lazy and possessive repeats, anchors and words other than ``^`` and ``$``, classes by name.
    """
    place, made = 0, ""
    while place < len(pattern):
        token = _TOKEN.match(pattern, place)
        if token is None:
            return None
        piece = token[0]
        after = pattern[token.end() : token.end() + 1]
        if token["times"] and max(int(number) for number in re.findall(r"[0-9]+", piece)) > _MOST:
            return None
        if token["group"]:
            if after == "?":
                return None
            piece = "(?:"
        elif token["any"]:
            piece = "[^\n]"
        elif token["digit"]:
            piece = f"[{_digits()}]"
        elif token["class"]:
            if "--" in piece:
                return None
            piece = re.sub(r"\\d", lambda _: _digits(), piece)
        made += piece
        place = token.end()
    return made


@cache
def _digits() -> str:
    """All decimal digits of Unicode, as ranges: those of one script stand together, from 0 to 9."""
    zeros = [chr(code) for code in range(0x110000) if unicodedata.decimal(chr(code), None) == 0]
    return "".join(f"{zero}-{chr(ord(zero) + 9)}" for zero in zeros)
