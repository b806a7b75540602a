"""What a service is told, and the way in which it comes to a worker: a module that imports nothing, for the process that only starts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ENVIRONMENT = (
    "MEGURI_REST"  # the options of a worker, as JSON; a ledger's URL may hold a password, so it is logged nowhere
)


@dataclass(frozen=True)
class Options:
    """What a service is told: where its ledger and releases are, and its limits.

    ``abstain`` has ``below`` and ``slices``: which answers are left to a person. ``project`` is the folder whose
    ``src/features.py`` says what the online table has; None: rows bring all their values. ``spool`` is the folder for answers
    that the ledger cannot take; None: they are refused. ``features`` says what of a row
    is kept with its answer: its values, their hash, or nothing. ``rows``, ``body`` (bytes) and ``seconds`` bound one
    request, ``waiting`` how many may wait for the ledger at once. Without ``written`` no answer is written down.
    """

    ledger: str
    releases: str
    tokens: str | None
    outlet: str = "rest"
    unit: str | None = None
    abstain: Mapping[str, Any] = field(default_factory=dict)
    project: str | None = None
    spool: str | None = None
    features: str = "values"
    rows: int = 1000
    body: int = 2**20
    seconds: float = 10.0
    waiting: int = 1000
    written: bool = True
