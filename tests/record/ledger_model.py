"""A plain Python model of a ledger, which a real one is compared with."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meguri.record.ledger import Awaited, Ledger
from meguri.testing.ledger_rows import hour, some_labels, some_predictions

MODEL_SETTINGS = settings(
    max_examples=30, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


class LedgerModel(RuleBasedStateMachine):
    """Predictions and labels in any order, read at any moment, against dictionaries and lists."""

    def open(self) -> Ledger:
        """The model's ledger, the first time an empty one."""
        raise NotImplementedError

    def let_go(self) -> None:
        """Remove what the ledger leaves."""

    @initialize()
    def begin(self) -> None:
        self.ledger = self.open()
        self.predictions: list[dict[str, Any]] = []
        self.labels: dict[str, list[tuple[datetime, object, str]]] = {}

    @rule(start=st.integers(0, 9), count=st.integers(0, 4), outlet=st.sampled_from(["table", "rest"]))
    def predict(self, start: int, count: int, outlet: str) -> None:
        table = some_predictions(count, start, outlet=outlet)
        assert self.ledger.write_predictions(table) == count
        self.predictions += table.to_dicts()

    @rule(
        rows=st.lists(
            st.tuples(st.integers(0, 14), st.integers(0, 2), st.integers(0, 20), st.sampled_from(["time", "ann"])),
            max_size=6,
        ),
        by_id=st.booleans(),
    )
    def label(self, rows: list[tuple[int, int, int, str]], by_id: bool) -> None:
        name = "prediction_id" if by_id else "key"
        ids = [str(p["prediction_id"]) for p in self.predictions]
        if by_id and not ids:
            return
        labels = [
            label
            for i, v, at, source in rows
            for label in some_labels([ids[i % len(ids)] if by_id else f"k{i}"], [float(v)], hour(at), source, by=name)
        ]
        counts = dict.fromkeys(("new", "same", "corrected", "unmatched"), 0)
        for row in (label._asdict() for label in labels):
            met = [str(p["prediction_id"]) for p in self.predictions if p[name] == row[name]]
            counts["unmatched"] += not met
            for one in met:
                history = self.labels.setdefault(one, [])
                entry = (row["known_at"], row["value"], row["source"])
                before = self.at(one, row["known_at"])
                own = [e for e in history if e[2] == "time" == row["source"] and e[0] <= row["known_at"]]
                again = bool(own) and max(enumerate(own), key=lambda e: (e[1][0], e[0]))[1][1] == row["value"]
                if entry in history or again or (before is not None and before[1] == row["value"]):
                    counts["same"] += 1
                else:
                    counts["corrected" if history else "new"] += 1
                    history.append(entry)
        assert vars(self.ledger.write_labels(labels)) == counts

    def at(self, one: str, as_of: datetime) -> tuple[datetime, object, str] | None:
        known = [entry for entry in self.labels.get(one, []) if entry[0] <= as_of]
        return max(enumerate(known), key=lambda pair: (pair[1][0], pair[0]))[1] if known else None

    @rule(at=st.integers(0, 20), since=st.none() | st.integers(0, 14), outlet=st.sampled_from([None, "table", "rest"]))
    def read(self, at: int, since: int | None, outlet: str | None) -> None:
        as_of, start = hour(at), None if since is None else hour(since)
        expected = [
            (p["prediction_id"], *(self.at(str(p["prediction_id"]), as_of) or (None, None, None)))
            for p in self.predictions
            if p["due"] <= as_of and (start is None or p["time"] >= start) and outlet in (None, p["outlet"])
        ]
        found = self.ledger.joined(as_of=as_of, since=start, outlet=outlet)
        assert found.select("prediction_id", "label_at", "label", "source").rows() == expected
        waiting = [
            p["time"] for p in self.predictions if p["made_at"] <= as_of and not self.at(str(p["prediction_id"]), as_of)
        ]
        assert self.ledger.awaited(as_of=as_of) == Awaited(len(waiting), min(waiting, default=None))
        labelled = [
            one
            for one, history in self.labels.items()
            if any((start is None or e[0] > start) and e[0] <= as_of for e in history)
        ]
        assert self.ledger.count_labels(since=start, as_of=as_of) == len(labelled)

    @rule()
    def open_again(self) -> None:
        self.ledger.close()
        self.ledger = self.open()

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "ledger"):
            assert self.ledger.joined(as_of=hour(100)).height == len(self.predictions)

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.let_go()
