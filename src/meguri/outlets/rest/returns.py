"""What comes back to a service: labels, which say what really happened, and events, which say what a unit did."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from meguri.base.clock import moment
from meguri.base.errors import LedgerError, MeguriError
from meguri.data.plain import Column, spelled
from meguri.outlets.rest.faults import Fault
from meguri.outlets.rest.problems import ProblemError
from meguri.record.ledger import Event, Label

if TYPE_CHECKING:
    from meguri.data.contract import Contract
    from meguri.record.ledger import Ledger

log = logging.getLogger("meguri.rest")


LONGEST = 500  # characters of a key


def away(error: OSError) -> ProblemError:
    """What a client is told of a ledger that cannot be used; the reason, which may name servers, is for the log."""
    log.error("the ledger cannot be used: %s", error.what if isinstance(error, LedgerError) else "it does not answer")
    what = "the ledger cannot be used now: ask again, and what is sent again counts once"
    return ProblemError(503, what, headers={"retry-after": "1"})


def objects(body: bytes, *, most: int) -> list[dict[str, Any]]:
    """The JSON objects of a body, one or an array of at most ``most``. Raises ProblemError."""
    try:
        given = json.loads(body, parse_constant=_refuse)
        json.dumps(given, ensure_ascii=False).encode()  # JSON can spell a lone surrogate, and no text has one
    except (ValueError, RecursionError) as error:  # a UnicodeEncodeError is a ValueError
        raise ProblemError(400, f"the body is no JSON: {error}") from error
    found = given if isinstance(given, list) else [given]
    if not found or not all(isinstance(one, dict) for one in found):
        raise ProblemError(422, "the body is a JSON object, or an array of some")
    if len(found) > most:
        raise ProblemError(413, f"{len(found)} in one request, and {most} are allowed: send fewer")
    texts = [text for one in found for text in one.values() if isinstance(text, str)]
    keepable(body, [one["id"] for one in found if isinstance(one.get("id"), str)], texts)
    return found


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


def write_labels(
    ledger: Ledger, contract: Contract, given: Sequence[Mapping[str, Any]], *, by: str, now: datetime
) -> dict[str, int]:
    """Write labels by prediction id or else key, those that break the contract keep all out; how many were new, same …

    Raises ProblemError.
    """
    try:
        column = Column(replace(contract.labels(), coerce=True))
    except MeguriError as error:
        raise ProblemError(422, error.what) from error
    faults, labels, broken = [], [], []
    for place, one in enumerate(given):
        name = "prediction_id" if "prediction_id" in one else "key"
        if not isinstance(one.get(name), str):
            faults.append(Fault("a label names its prediction_id or key, a text", f"/{place}/{name}"))
        elif name == "prediction_id" and not is_id(one[name]):
            faults.append(Fault(f"'{one[name][:80]}' is no prediction id", f"/{place}/{name}"))
        value = one.get("value")
        if isinstance(value, bool | int | float | str):
            value, wrong = judged(column, value)
            broken += [Fault(why, f"/{place}/value") for why in wrong]
        else:
            faults.append(Fault("'value' is a number, a text, true or false", f"/{place}/value"))
        try:
            known = moment(str(one["known_at"])) if "known_at" in one else now
        except MeguriError as error:
            faults.append(Fault(error.what, f"/{place}/known_at"))
            continue
        labels.append(Label(value, known, str(one.get("source", by)), **{name: one.get(name)}))
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
    name, kind = column.field.name, column.field.type
    try:
        value = column.read(given, flags=True)
    except (ValueError, OverflowError):
        return None, [f"{name}: {json.dumps(given)[:60]} cannot be read as {kind}"]
    kept = value if isinstance(value, str) else spelled(value) if isinstance(value, date) else float(value)
    return kept, column.faults(value)


def write_events(ledger: Ledger, given: Sequence[Mapping[str, Any]], *, now: datetime) -> dict[str, int]:
    """Write what units did; how many were new. Raises ProblemError."""
    events, faults = [], []
    for place, one in enumerate(given):
        for name in ("id", "unit", "kind"):
            if not isinstance(one.get(name), str):
                faults.append(Fault(f"'{name}' is a text", f"/{place}/{name}"))
        value = one.get("value", 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            faults.append(Fault("'value' is a finite number", f"/{place}/value"))
        try:
            at = moment(str(one["at"])) if "at" in one else now
        except MeguriError as error:
            faults.append(Fault(error.what, f"/{place}/at"))
        if not faults:
            events.append(Event(one["id"], one["unit"], at, one["kind"], float(value)))
    if faults:
        raise ProblemError(422, "these are no events", faults)
    try:
        return {"new": ledger.write_events(events)}
    except LedgerError as error:
        raise away(error) from error
