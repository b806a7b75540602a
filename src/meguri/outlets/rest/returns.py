"""What comes back to a service: labels, which say what really happened, and events, which say what a unit did."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from meguri.base.clock import moment
from meguri.base.errors import LedgerError, MeguriError, SettingsError
from meguri.data.plain import Column, spelled
from meguri.outlets.rest.faults import Fault
from meguri.outlets.rest.problems import ProblemError
from meguri.record.ledger import Event, Label

if TYPE_CHECKING:
    from meguri.data.contract import Contract
    from meguri.record.ledger import Ledger

_A_TEXT = "a text without U+0000, which no ledger keeps"
LONGEST = 500  # characters of a key


def away(error: OSError) -> ProblemError:
    """What a client is told of a ledger that cannot be used; the reason, which may name servers, is for the log."""
    what = "the ledger cannot be used now: ask again, and what is sent again counts once"
    problem = ProblemError(503, what, headers={"retry-after": "1"})
    problem.__cause__ = error
    return problem


class Given(list[dict[str, Any]]):
    """The JSON objects of a body; ``one`` says that it was a single one, whose places are named without a number."""

    def __init__(self, found: Sequence[dict[str, Any]], *, one: bool) -> None:
        super().__init__(found)
        self.one = one

    def fault(self, what: str, place: int, name: str) -> Fault:
        """A fault of an object's value."""
        return Fault(what, f"/{name}" if self.one else f"/{place}/{name}")


def objects(body: bytes, *, most: int) -> Given:
    """The JSON objects of a body, one or an array of at most ``most``. Raises ProblemError."""
    try:
        given = json.loads(body, parse_constant=_refuse)
        json.dumps(given, ensure_ascii=False).encode()  # JSON can spell a lone surrogate, and no text has one
    except (ValueError, RecursionError) as error:  # a UnicodeEncodeError is a ValueError
        why = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ProblemError(400, f"the body is no JSON: {why}") from error
    found = given if isinstance(given, list) else [given]
    if not found or not all(isinstance(one, dict) for one in found):
        raise ProblemError(422, "the body is a JSON object, or an array of some")
    if len(found) > most:
        raise ProblemError(413, f"{len(found)} in one request, and {most} are allowed: send fewer")
    keepable(body, [one["id"] for one in found if isinstance(one.get("id"), str)])
    return Given(found, one=found is not given)


def keepable(body: bytes, keys: Sequence[str], texts: Iterable[str] = ()) -> None:
    """Raise ProblemError for a text that PostgreSQL cannot keep, or for a key that it cannot keep an index of.

    On any ledger: what came at the same time is kept together with it, or not at all.
    """
    if len(body) > LONGEST and max(map(len, keys), default=0) > LONGEST:
        raise ProblemError(422, f"a key is longer than the {LONGEST} characters that are allowed")
    if b"\\u0000" in body and any("\0" in text for text in (*keys, *texts)):
        raise ProblemError(422, "a text has the character NUL (\\u0000), which a ledger cannot keep: leave it out")


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is none: write null, or leave it out")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _moment(one: Mapping[str, Any], name: str, now: datetime) -> datetime:
    """A moment that an object names, or else now. Raises SettingsError."""
    if name not in one:
        return now
    if not isinstance(one[name], str):
        raise SettingsError(f"'{name}' is a date and time, as text")
    return moment(one[name])


def write_labels(ledger: Ledger, contract: Contract, given: Given, *, by: str, now: datetime) -> dict[str, int]:
    """Write labels by prediction id or else key, those that break the contract keep all out; how many were new, same …

    Raises ProblemError.
    """
    try:
        column = Column(replace(contract.labels(), coerce=True))
    except MeguriError as error:
        raise ProblemError(422, error.what) from error
    faults, broken, labels = list[Fault](), list[Fault](), list[Label]()
    for place, one in enumerate(given):
        for text in ("prediction_id", "key", "source"):
            if text in one and not _is_text(one[text]):
                faults.append(given.fault(f"'{text}' is {_A_TEXT}", place, text))
        name = "prediction_id" if "prediction_id" in one else "key"
        if name not in one:
            faults.append(given.fault("a label names its prediction_id or key", place, name))
        elif name == "prediction_id" and isinstance(one[name], str) and not is_id(one[name]):
            faults.append(given.fault("'prediction_id' is a UUID", place, name))
        value = one.get("value")
        if isinstance(value, bool | int | float) or _is_text(value):
            value, wrong = judged(column, value)
            broken += [given.fault(why, place, "value") for why in wrong]
        else:
            faults.append(given.fault("'value' is a number, a text, true or false", place, "value"))
        known = now
        try:
            known = _moment(one, "known_at", now)
        except MeguriError as error:
            faults.append(given.fault(error.what, place, "known_at"))
        labels.append(Label(value, known, one.get("source", by), one.get("key"), one.get("prediction_id")))
    if faults:
        raise ProblemError(422, "these are no labels", faults)
    if broken:
        raise ProblemError(422, "the labels break the contract", broken)
    try:
        return asdict(ledger.write_labels(labels))
    except LedgerError as error:
        raise away(error) from error


def is_id(text: str) -> bool:
    """Whether it is a prediction id."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def judged(column: Column, given: Any) -> tuple[float | str | None, list[str]]:
    """A label's value as the ledger keeps it, and what is wrong with it."""
    try:
        value = column.read(given, flags=True)
    except (ValueError, OverflowError):
        return None, [f"{column.field.name}: cannot be read as {column.field.type}"]
    kept = value if isinstance(value, str) else spelled(value) if isinstance(value, date) else float(value)
    return kept, column.faults(value)


def write_events(ledger: Ledger, given: Given, *, now: datetime) -> dict[str, int]:
    """Write what units did; how many were new. Raises ProblemError."""
    events, faults = [], []
    for place, one in enumerate(given):
        for name in ("id", "unit", "kind"):
            if not _is_text(one.get(name)):
                faults.append(given.fault(f"'{name}' is {_A_TEXT}", place, name))
        value = one.get("value", 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            faults.append(given.fault("'value' is a finite number", place, "value"))
        try:
            at = _moment(one, "at", now)
        except MeguriError as error:
            faults.append(given.fault(error.what, place, "at"))
        if not faults:
            events.append(Event(one["id"], one["unit"], at, one["kind"], float(value)))
    if faults:
        raise ProblemError(422, "these are no events", faults)
    try:
        return {"new": ledger.write_events(events)}
    except LedgerError as error:
        raise away(error) from error
