"""What a client is told of its rows: an object for each, made of the columns of the answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import repeat
from typing import TYPE_CHECKING, Any

from meguri.base.extras import need

if TYPE_CHECKING:
    from meguri.record.served import Served


def replies(served: Served, chances: Iterable[Sequence[float]] | None, classes: Sequence[str] | None) -> list[Any]:
    """A reply for each of the answers, ready to be JSON; ``chances`` are the probabilities of ``classes``, where there are several."""
    made, unset = _reply()
    release, arm = repeat(served.origin[0]), repeat(served.origin[3])
    found = [*map(made, served.ids, served.keys, release, arm, served.scores, served.answers or repeat(unset))]
    for reply, each in zip(found, chances or (), strict=chances is not None):
        reply.probabilities = dict(zip(classes or (), each, strict=True))
    for reply, asked in zip(found, served.abstained or (), strict=served.abstained is not None):
        if asked:
            reply.abstained, reply.decision = True, f"/decisions/{reply.prediction_id}"
    return found


@cache
def _reply() -> tuple[Any, Any]:
    """The type of a reply, which is made and written in half the time of a dict, and what stands for nothing in it."""
    msgspec = need("msgspec")
    given = [("prediction_id", str), ("key", str), ("release", str), ("arm", str), ("score", float)]
    more = [(name, Any, msgspec.UNSET) for name in ("answer", "probabilities", "abstained", "decision")]
    return msgspec.defstruct("Reply", [*given, *more], omit_defaults=True, gc=False), msgspec.UNSET
