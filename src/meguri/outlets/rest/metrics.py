"""What a service counts, in Prometheus' text form."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from meguri.base.extras import need
from meguri.outlets.rest.faults import Fault

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0)


class Metrics:
    """The counters and histograms of one worker; of several, those of all are told together."""

    def __init__(self) -> None:
        prom = need("prometheus_client")
        self._client, self._registry = prom, prom.CollectorRegistry()

        def made(kind: Any, name: str, told: str, labels: Sequence[str] = (), **more: Any) -> Any:
            return kind(f"meguri_{name}", told, labels, registry=self._registry, **more)

        self._requests = made(
            prom.Histogram, "request_seconds", "Seconds of a request.", ["path", "status"], buckets=SECONDS
        )
        self._rows = made(prom.Counter, "answers", "Rows answered.", ["arm", "release"])
        self._model = made(prom.Histogram, "model_seconds", "Seconds in the model.", ["arm"], buckets=SECONDS)
        self._faults = made(prom.Counter, "faults", "Rows' values that broke the contract.", ["column"])
        self._limited = made(prom.Counter, "limited", "Requests of a token that asked too often.", ["token"])
        self._committed = made(prom.Counter, "ledger_answers", "Answers made durable.")
        self._commits = made(prom.Counter, "ledger_commits", "Commits of answers.")
        self._refused = made(prom.Counter, "ledger_refused", "Answers not given, as the ledger could not be written.")
        self._spooled = made(
            prom.Counter, "ledger_spooled", "Answers given though the ledger could not be written: they are spooled."
        )
        self._shadow = made(
            prom.Counter, "shadow_lost", "Requests that a shadow did not answer, or whose answer was not written."
        )
        self._rollouts = made(prom.Counter, "rollouts", "Rollouts seen: taken, refused, or unread.", ["what"])
        self._children: dict[tuple[str, ...], Any] = {}

    def request(self, path: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._child("request", self._requests, path, str(status)).observe(seconds)

    def answered(self, arm: str, release: str, rows: int, seconds: float) -> None:
        """A model answered rows."""
        self._child("rows", self._rows, arm, release).inc(rows)
        self._child("model", self._model, arm).observe(seconds)

    def faults(self, faults: Sequence[Fault]) -> None:
        """Values broke the contract; only its own columns are named, as a client may invent any number of others."""
        for column, count in Counter(fault.column or "other" for fault in faults).items():
            self._faults.labels(column).inc(count)

    def limited(self, token: str) -> None:
        """A token asked too often."""
        self._limited.labels(token).inc()

    def committed(self, count: int) -> None:
        """Answers are durable."""
        self._committed.inc(count)
        self._commits.inc()

    def refused(self, count: int) -> None:
        """Answers were not given."""
        self._refused.inc(count)

    def spooled(self, count: int) -> None:
        """Answers were given and spooled."""
        self._spooled.inc(count)

    def shadow_lost(self) -> None:
        """A shadow's answer came to nothing."""
        self._shadow.inc()

    def rollout(self, what: str) -> None:
        """A rollout was taken, refused or could not be read."""
        self._rollouts.labels(what).inc()

    def text(self) -> bytes:
        """All of it."""
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = self._client.CollectorRegistry()
            need("prometheus_client.multiprocess").MultiProcessCollector(registry)
        text: bytes = self._client.generate_latest(registry)
        return text

    def _child(self, what: str, metric: Any, *labels: str) -> Any:
        found = self._children.get((what, *labels))
        if found is None:
            found = self._children[(what, *labels)] = metric.labels(*labels)
        return found
