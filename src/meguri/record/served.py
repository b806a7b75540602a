"""What a service writes down of its answers: a request's columns as they are, in one text that a ledger keeps at once."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
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
    return as_json(served)


def as_json(value: Any) -> bytes:
    """JSON of plain values, moments among them, without a space."""
    text: bytes = need("msgspec").json.encode(value)
    return text


@cache
def _codec() -> tuple[Callable[[bytes | str], Any], Callable[[Any], str]]:
    """To read and write JSON: by msgspec where services have it, which takes a third of the time of the standard library."""
    if importlib.util.find_spec("msgspec"):
        msgspec = need("msgspec").json
        encode = msgspec.Encoder().encode
        return msgspec.decode, lambda value: encode(value).decode()
    return json.loads, json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def unpack(packed: bytes | str) -> Iterator[tuple[Any, ...]]:
    """A row for each answer, in order: id, key, time, due, made_at, origin, score, answer, unit, abstained, features (JSON text).

    Raises ValueError for what ``pack`` has not made.
    """
    decode, encode = _codec()
    try:
        for origin, made_at, after, ids, keys, times, scores, answers, units, abstained, features in decode(packed):
            none, shared = [None] * len(ids), tuple(origin)
            kept: Sequence[str | None] = none
            if features:
                names = list(features)
                kept = [encode(dict(zip(names, row, strict=True))) for row in zip(*features.values(), strict=True)]
            yield from zip(
                ids,
                keys,
                times,
                [time + after for time in times],
                [made_at] * len(ids),
                [shared] * len(ids),
                scores,
                answers or none,
                units or keys,
                abstained or none,
                kept,
                strict=True,
            )
    except (TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no answers of a service: {error}") from error
