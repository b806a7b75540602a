"""What comes back to a service: labels, which say what really happened, and events, which say what a unit did."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import polars as pl

from meguri.base.clock import moment
from meguri.base.errors import LedgerError, MeguriError, SettingsError
from meguri.data import doors
from meguri.outlets.rest.faults import Fault
from meguri.outlets.rest.problems import ProblemError
from meguri.record.ledger import Event

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
    if len(body) > LONGEST and any(len(key) > LONGEST for key in keys):
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
    faults: list[Fault] = []
    # by what names them, and by the kind of their value, as a table has one in each column
    found: dict[tuple[str, bool, bool], list[dict[str, Any]]] = {}
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
        if not (isinstance(value, bool | int | float) or _is_text(value)):
            faults.append(given.fault("'value' is a number, a text, true or false", place, "value"))
        elif isinstance(value, int | float) and not abs(value) <= sys.float_info.max:
            faults.append(given.fault("'value' is larger than a number can be", place, "value"))
        known = now
        try:
            known = _moment(one, "known_at", now)
        except MeguriError as error:
            faults.append(given.fault(error.what, place, "known_at"))
        source = one.get("source", by)
        label = {"place": place, name: one.get(name), "value": value, "known_at": known, "source": source}
        found.setdefault((name, isinstance(value, str), isinstance(value, bool)), []).append(label)
    if faults:
        raise ProblemError(422, "these are no labels", faults)
    good: dict[str, list[pl.DataFrame]] = {}
    for (name, *_), labels in found.items():
        table, bad = _checked(labels, contract, given)
        good.setdefault(name, []).append(table)
        faults += bad
    if faults:
        raise ProblemError(422, "the labels break the contract", faults)
    counts = {"new": 0, "same": 0, "corrected": 0, "unmatched": 0}
    for tables in good.values():
        try:
            done = ledger.write_labels(pl.concat(tables).sort("place").drop("place"))
        except LedgerError as error:
            raise away(error) from error
        counts = {what: count + getattr(done, what) for what, count in counts.items()}
    return counts


def is_id(text: str) -> bool:
    """Whether it is a prediction id."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def _checked(labels: list[dict[str, Any]], contract: Contract, given: Given) -> tuple[pl.DataFrame, list[Fault]]:
    """Those labels that keep the contract, and what is wrong with the others."""
    value = pl.Series([one.pop("value") for one in labels], strict=False)
    if value.null_count():
        places = [labels[n]["place"] for n in value.is_null().arg_true()]
        return pl.DataFrame(), [given.fault("'value' is larger than a number can be", n, "value") for n in places]
    table = pl.DataFrame(labels, schema_overrides={"known_at": pl.Datetime("us", "UTC")}).with_columns(value=value)
    try:
        checked = doors.labels(table, contract)
    except MeguriError as error:
        return pl.DataFrame(), [given.fault(error.what, one["place"], "value") for one in labels]
    bad = table.filter(~pl.col("place").is_in(checked.rows["place"].implode()))["place"]
    reasons = checked.quarantined["reason"]
    return checked.rows, [given.fault(why, n, "value") for n, why in zip(bad, reasons, strict=True)]


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
