"""What is wrong with the rows of a request: all of it at once, each fault with its place in the body."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from meguri.base.errors import ContractError
from meguri.data import reasons
from meguri.data.contract import Contract
from meguri.data.spec import Field

_NO_TEXT = re.compile("[\ud800-\udfff]")  # JSON can spell a lone surrogate, and no text has one


@dataclass(frozen=True)
class Fault:
    """What is wrong with a request: a sentence, and where it is as a JSON pointer (RFC 6901); "" is the whole body.

    ``column`` names the contract's column that it is about, where there is one.
    """

    what: str
    pointer: str = ""
    column: str | None = None


class BadRowsError(Exception):
    """Rows that break the contract (``status`` 422) or are no JSON rows at all (400)."""

    def __init__(self, status: int, faults: Sequence[Fault]) -> None:
        super().__init__(faults[0].what)
        self.status, self.faults = status, tuple(faults)


def objects(body: bytes, one: bool) -> list[dict[str, Any]]:
    """The rows of a body as plain objects. Raises BadRowsError for what is no JSON, or no objects."""

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
    wrong = [place for place, row in enumerate(rows) if not isinstance(row, dict)]
    if wrong:
        raise BadRowsError(422, [Fault("a row is a JSON object", "" if one else f"/{place}") for place in wrong])
    return list(rows)


def judge(contract: Contract, rows: Sequence[dict[str, Any]], *, one: bool, now: datetime) -> pl.DataFrame:
    """The rows as a table in the contract's types, those without their time being of ``now``.

    Raises BadRowsError with every fault of every row, in the order of the rows.
    """
    found: list[list[Fault]] = [[] for _ in rows]
    columns, asked = {}, contract.asked(labelled=False)
    for field in asked:
        if not field.required and not any(field.name in row for row in rows):
            continue
        values: list[Any] = []
        for place, row in enumerate(rows):
            value, wrong = _read(field, row, now if field.name == contract.time else None)
            values.append(value)
            if wrong is not None:
                found[place].append(Fault(wrong, _pointer(one, place, field.name), field.name))
        columns[field.name] = _column(field, values)
    if contract.strict:
        for place, row in enumerate(rows):
            extra = [name for name in row if name not in contract.types]
            found[place] += [
                Fault(f"'{name}' is not in the contract, which is strict", _pointer(one, place, name)) for name in extra
            ]
    unread = {(place, fault.column) for place, some in enumerate(found) for fault in some}
    broken = {place for place, _ in unread}
    table = pl.DataFrame([column.alias(name) for name, column in columns.items()])
    try:
        fitted, masks, _ = contract.faults(table, now=None, labelled=False)
    except ContractError as error:
        if not broken:
            raise BadRowsError(422, [Fault(f"{error.what}: {error.where}")]) from error
        fitted, masks = table, {}  # a check of the user's own may have met what could not be read
    else:
        masks |= reasons.key_masks(fitted, contract.key)
        masks |= reasons.unique_masks(fitted, contract.groups(labelled=False), masks.get(reasons.REPEAT))
    for why, mask in masks.items():
        name = why.partition(":")[0]
        about = name if name in columns else None
        for place in mask.arg_true().to_list():
            # of a row that could not be read whole only single columns are judged, those that could be read
            if (place, about) not in unread and (about is not None or place not in broken):
                found[place].append(Fault(why, _pointer(one, place, about or contract.key[0]), about))
    faults = [fault for some in found for fault in some]
    if faults:
        raise BadRowsError(422, faults)
    return fitted


def _read(field: Field, row: dict[str, Any], time: datetime | None) -> tuple[Any, str | None]:
    """A row's value of a field, and what is wrong with it; ``time`` stands for a time that is not given."""
    value = row.get(field.name)
    if value is None:
        if time is not None:
            return time, None
        needed = field.required and field.default is None and not field.nullable
        return None, f"'{field.name}' is missing" if needed and field.name not in row else None
    if isinstance(value, dict | list):
        return None, f"'{field.name}' is no single value"
    try:
        return _value(field, value), None
    except (ValueError, OverflowError):
        what = "a text with a character that no text can hold:" if _no_text(value) else "found"
        return None, f"{field.name}: expected {field.type}, {what} {_spelled(value)}"


def _no_text(value: Any) -> bool:
    return isinstance(value, str) and _NO_TEXT.search(value) is not None


def _column(field: Field, found: list[Any]) -> pl.Series:
    """A column of values as ``_value`` gives them."""
    if field.type in ("Date", "Datetime"):
        return pl.Series(found, dtype=field.dtype)
    kinds = {type(value) for value in found if value is not None}
    if len(kinds) > 1:  # JSON says 1 for 1.0; text among numbers is there only where the contract reads text
        found = [None if value is None else str(value) if str in kinds else float(value) for value in found]
    return pl.Series(found)


def _value(field: Field, value: Any) -> Any:
    """A JSON value as a table would hold it; raises ValueError for one of another kind."""
    if isinstance(value, str):
        if _no_text(value):
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
    whole = "Int" in field.type
    if isinstance(value, bool) and (
        whole or field.is_float
    ):  # a table may hold them so, but who asks has mistaken himself
        raise ValueError
    if whole:
        bits = int(field.type.rpartition("Int")[2])
        low, high = (0, 2**bits) if field.type.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
        if not low <= value < high:
            raise ValueError
    if isinstance(value, float) and (whole or field.type == "Boolean") and not value.is_integer():
        raise ValueError
    if field.type == "Boolean" and value not in (0, 1):
        raise ValueError
    return float(value) if isinstance(value, int) and field.is_float else value


def _spelled(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _pointer(one: bool, place: int, name: str) -> str:
    escaped = name.replace("~", "~0").replace("/", "~1")
    return f"/{escaped}" if one else f"/{place}/{escaped}"
