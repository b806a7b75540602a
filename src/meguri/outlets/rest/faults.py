"""What is wrong with the rows of a request: all of it at once, each fault with its place in the body."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from meguri.data.contract import Contract
from meguri.data.plain import CONFLICT, REPEAT, Column, UnreadError, again, not_unique, twice

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


class Judge:
    """Holds rows against a contract as ``Contract.check`` does a table, but for checks that are functions of the user's own."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self.columns = [Column(field) for field in contract.asked(labelled=False)]
        self._groups = contract.groups(labelled=False)

    def values(self, rows: Sequence[dict[str, Any]], *, one: bool, now: datetime) -> dict[str, list[Any]]:
        """The rows' values by column, in the contract's types, those without their time being of ``now``.

        Raises BadRowsError with every fault of every row, in the order of the rows.
        """
        found: list[list[Fault]] = [[] for _ in rows]
        unread: list[list[Fault]] = [[] for _ in rows]
        judged: list[list[Fault]] = [[] for _ in rows]
        values: dict[str, list[Any]] = {column.field.name: [] for column in self.columns}
        for place, row in enumerate(rows):
            for column in self.columns:
                name = column.field.name
                value, fault, text = self._read(column, row, now if name == self._contract.time else None)
                if fault is not None:
                    (unread if text else found)[place].append(Fault(fault, _pointer(one, place, name), name))
                if fault is None or text:
                    value = column.filled(value)
                    judged[place] += [Fault(why, _pointer(one, place, name), name) for why in column.faults(value)]
                values[name].append(value)
            if self._contract.strict:
                found[place] += [
                    Fault(f"'{name}' is not in the contract, which is strict", _pointer(one, place, name))
                    for name in row
                    if name not in self._contract.kinds
                ]
        broken = {place for place, some in enumerate(found) if some}
        for place, why, alone in self._together(values, len(rows)):
            # a row that could not be read whole is held against others only by single columns that could be read
            if place not in broken or (alone is not None and all(told.column != alone for told in found[place])):
                judged[place].append(Fault(why, _pointer(one, place, alone or self._contract.key[0]), alone))
        faults = [told for some in zip(found, unread, judged, strict=True) for each in some for told in each]
        if faults:
            raise BadRowsError(422, faults)
        return values

    def _read(self, column: Column, row: Mapping[str, Any], time: datetime | None) -> tuple[Any, str | None, bool]:
        """A row's value of a column, what is wrong with it, and whether it is a text that cannot be read as its type.

        ``time`` stands for a time that is not given.
        """
        field = column.field
        value = row.get(field.name)
        if value is None:
            if time is not None:
                return time, None, False
            needed = field.required and field.default is None and not field.nullable
            return None, f"'{field.name}' is missing" if needed and field.name not in row else None, False
        if isinstance(value, dict | list):
            return None, f"'{field.name}' is no single value", False
        if isinstance(value, str) and _NO_TEXT.search(value):
            what = "a text with a character that no text can hold:"
            return None, f"{field.name}: expected {field.type}, {what} {_spelled(value)}", False
        try:
            return column.read(value), None, False
        except UnreadError:
            return None, f"{field.name}: cannot be read as {field.type}", True
        except (ValueError, OverflowError):
            return None, f"{field.name}: expected {field.type}, found {_spelled(value)}", False

    def _together(self, values: Mapping[str, Sequence[Any]], count: int) -> Iterator[tuple[int, str, str | None]]:
        """What rows have in common that is one row's alone: a row's place, why, and the column where it is a single one."""
        if count == 1:
            return
        keys = [
            None if None in key else key for key in zip(*(values[name] for name in self._contract.key), strict=True)
        ]
        repeated = twice(list(zip(*values.values(), strict=True)), keys)
        for reason in (CONFLICT, REPEAT):
            yield from ((place, why, None) for place, why in repeated.items() if why == reason)
        but = {place for place, why in repeated.items() if why == REPEAT}
        for names in self._groups:
            about = names[0] if len(names) == 1 else None
            for place in again(list(zip(*(values[name] for name in names), strict=True)), but):
                yield place, not_unique(names), about


def _spelled(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _pointer(one: bool, place: int, name: str) -> str:
    escaped = name.replace("~", "~0").replace("/", "~1")
    return f"/{escaped}" if one else f"/{place}/{escaped}"
