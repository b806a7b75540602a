"""What a service writes down of its answers: a request's columns as they are, in one text that a ledger keeps at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from meguri.base.extras import need

Origin = tuple[str, str | None, str, str, float]  # release, run, outlet, arm, propensity


class Served(NamedTuple):
    """The answers of one arm to one request, a value for each row in each column; moments are microseconds since 1970 UTC.

    ``ids`` are UUIDs as text; a label is due ``after`` microseconds from a row's time. ``units`` None: each row is its
    own; ``abstained`` None: nobody asked. ``features`` has a list for each; None: nothing of the row is kept.
    """

    origin: Origin
    made_at: int
    after: int
    ids: Sequence[str]
    keys: Sequence[str]
    times: Sequence[int]
    scores: Sequence[float | None]
    answers: Sequence[str | None] | None = None
    units: Sequence[str | None] | None = None
    abstained: Sequence[bool | None] | None = None
    features: Mapping[str, Sequence[Any]] | None = None


def pack(served: Sequence[Served]) -> bytes:
    """The text of one commit: JSON, in one line."""
    packed: bytes = need("msgspec").json.encode(served)
    return packed


def unpack(packed: bytes | str) -> Iterator[tuple[Any, ...]]:
    """A row for each answer, in order: id, key, time, due, made_at, origin, score, answer, unit, abstained, features (JSON text).

    Raises ValueError for what ``pack`` has not made.
    """
    for one in json.loads(packed):
        served = Served(*one)
        none = [None] * len(served.ids)
        kept: Sequence[str | None] = none
        if served.features:
            names, values = list(served.features), zip(*served.features.values(), strict=True)
            kept = [
                json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, separators=(",", ":"))
                for row in values
            ]
        yield from zip(
            served.ids,
            served.keys,
            served.times,
            [time + served.after for time in served.times],
            [served.made_at] * len(none),
            [tuple(served.origin)] * len(none),
            served.scores,
            none if served.answers is None else served.answers,
            served.keys if served.units is None else served.units,
            none if served.abstained is None else served.abstained,
            kept,
            strict=True,
        )
