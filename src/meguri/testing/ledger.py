"""The conformance kit of ledgers: subclass ``LedgerCase``, give it a ``ledger`` fixture, and pytest does the rest."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from meguri.base.errors import LedgerError
from meguri.record import ledger_columns
from meguri.record.ledger import Awaited, Event, Experiment, GateUse, LabelCounts, Ledger, Old, Rollout, TurnRecord
from meguri.testing.ledger_answers import AnswersCase
from meguri.testing.ledger_rows import hour, some_labels, some_predictions


class LedgerCase(AnswersCase):
    """What every ledger must do. ``ledger`` is an empty one, closed by its fixture."""

    @pytest.fixture
    def ledger(self) -> Any:
        """An empty ledger; each subclass gives its own."""
        raise NotImplementedError

    def test_predictions_come_back_as_they_were_written(self, ledger: Ledger) -> None:
        """Every column, its type and the order survive."""
        table = some_predictions(5)
        assert ledger.write_predictions(table) == 5
        found = ledger.joined(as_of=hour(100), features=True)
        assert found.select(table.columns).equals(table)
        assert found.columns == [*table.columns, "label", "label_at", "source"]
        assert found["label"].null_count() == 5

    def test_written_twice_counts_once(self, ledger: Ledger) -> None:
        """A caller that never heard the answer may repeat."""
        table = some_predictions(5)
        assert ledger.write_predictions(table.head(3)) == 3
        assert ledger.write_predictions(table) == 2
        assert ledger.write_predictions(table) == 0
        assert ledger.joined(as_of=hour(100))["key"].to_list() == table["key"].to_list()

    def test_a_known_id_with_another_content_is_refused(self, ledger: Ledger) -> None:
        """All or nothing: the good rows beside it are not written."""
        table = some_predictions(2)
        ledger.write_predictions(table.head(1))
        with pytest.raises(LedgerError, match="says something else"):
            ledger.write_predictions(table.reverse().with_columns(score=0.99))
        assert ledger.joined(as_of=hour(100)).height == 1
        assert ledger.awaited(as_of=hour(100)).count == 1

    def test_empty_tables_change_nothing(self, ledger: Ledger) -> None:
        """No rows, no error."""
        assert ledger.write_predictions(some_predictions(1).head(0)) == 0
        assert ledger.write_labels([]) == LabelCounts()
        found = ledger.joined(as_of=hour(100))
        assert found.height == 0
        assert found.schema["label"] == pl.Float64
        assert ledger.awaited(as_of=hour(100)) == Awaited(0)
        assert ledger.count_labels(since=None, as_of=hour(100)) == 0

    def test_what_is_absent_is_null(self, ledger: Ledger) -> None:
        """Columns that may be left out come back empty."""
        table = some_predictions(2).drop("run", "arm", "propensity", "score", "answer", "unit", "abstained", "features")
        ledger.write_predictions(table)
        found = ledger.joined(as_of=hour(100), features=True)
        assert found.select(set(some_predictions(1).columns) - set(table.columns)).null_count().row(0) == (2,) * 8

    def test_only_what_is_due_and_made_is_joined(self, ledger: Ledger) -> None:
        """Number i is made at i - 1 and due at i + 2."""
        ledger.write_predictions(some_predictions(5))
        assert ledger.joined(as_of=hour(3.9))["key"].to_list() == ["k0", "k1"]
        assert ledger.joined(as_of=hour(4))["key"].to_list() == ["k0", "k1", "k2"]
        late = some_predictions(1, start=9).with_columns(made_at=pl.lit(hour(50)).cast(pl.Datetime("us", "UTC")))
        ledger.write_predictions(late)
        assert ledger.joined(as_of=hour(49)).height == 5
        assert ledger.joined(as_of=hour(50)).height == 6

    def test_window_outlet_and_release(self, ledger: Ledger) -> None:
        """The window is half open; the filters combine."""
        ledger.write_predictions(some_predictions(4))
        ledger.write_predictions(some_predictions(4, start=4, release="r2", outlet="rest"))
        ledger.write_predictions(some_predictions(4, start=8, release="r2", run=None))

        def keys(**which: Any) -> list[str]:
            return ledger.joined(as_of=hour(100), **which)["key"].to_list()

        assert keys(since=hour(2), until=hour(5)) == ["k2", "k3", "k4"]
        assert keys(outlet="rest") == ["k4", "k5", "k6", "k7"]
        assert keys(release="r2", outlet="table") == ["k8", "k9", "k10", "k11"]
        assert keys(release="r2", since=hour(6), until=hour(9)) == ["k6", "k7", "k8"]
        assert keys(outlet="nowhere") == []

    def test_keys(self, ledger: Ledger) -> None:
        """The keys in a half-open window, of all outlets or one."""
        ledger.write_predictions(some_predictions(3))
        ledger.write_predictions(some_predictions(3, start=3, outlet="rest"))
        assert sorted(ledger.keys(since=hour(1), until=hour(5))) == ["k1", "k2", "k3", "k4"]
        assert sorted(ledger.keys(since=hour(1), until=hour(5), outlet="rest")) == ["k3", "k4"]
        assert ledger.keys(since=hour(6), until=hour(9)) == []

    def test_find(self, ledger: Ledger) -> None:
        """By id, in any spelling of it, or by key; what is not due yet is found too, with its latest label."""
        table = some_predictions(3)
        ledger.write_predictions(table)
        again = some_predictions(1, start=1, release="r2")
        ledger.write_predictions(again)
        ledger.write_labels(some_labels(["k1"], [0.0], hour(4)))
        ledger.write_labels(some_labels([again["prediction_id"][0]], [1.0], hour(5), by="prediction_id"))
        both = ledger_columns.table(ledger.find("k1"))
        assert both.select(table.columns).equals(pl.concat([table[1:2], again]))
        assert both["label"].to_list() == [0.0, 1.0]
        assert [found.key for found in ledger.find(table["prediction_id"][2].upper())] == ["k2"]
        assert ledger.find("nobody") == []
        assert both.schema == ledger.joined(as_of=hour(100), features=True).schema

    def test_made(self, ledger: Ledger) -> None:
        """Counted by release, run, outlet and arm, with the ends of their times."""
        assert ledger.made().height == 0
        ledger.write_predictions(some_predictions(3))
        ledger.write_predictions(some_predictions(2, start=3, release="r2", run=None))
        found = ledger.made()
        assert found.columns == ["release", "run", "outlet", "arm", "count", "since", "until"]
        assert found.sort("release").rows() == [
            ("r1", "run1", "table", "champion", 3, hour(0), hour(2)),
            ("r2", None, "table", "champion", 2, hour(3), hour(4)),
        ]

    def test_labels_new_same_corrected_unmatched(self, ledger: Ledger) -> None:
        """Each written label is counted for what it says."""
        ledger.write_predictions(some_predictions(3))
        first = some_labels(["k0", "k1", "nobody"], [1.0, 0.0, 1.0], hour(4))
        assert ledger.write_labels(first) == LabelCounts(new=2, unmatched=1)
        assert ledger.write_labels(first) == LabelCounts(same=2, unmatched=1)
        assert ledger.write_labels(some_labels(["k0", "k1"], [1.0, 1.0], hour(6), "ann")) == LabelCounts(
            same=1, corrected=1
        )
        assert ledger.write_labels(first) == LabelCounts(same=2, unmatched=1)
        found = ledger.joined(as_of=hour(100))
        assert found["label"].to_list() == [1.0, 1.0, None]
        assert found["label_at"].to_list() == [hour(4), hour(6), None]
        assert found["source"].to_list() == ["time", "ann", None]

    def test_as_of_shows_what_was_known_then(self, ledger: Ledger) -> None:
        """A label corrected later shows its older value; a late one comes in at its own moment."""
        ledger.write_predictions(some_predictions(1))
        ledger.write_labels(some_labels(["k0"], [0.0], hour(10)))
        ledger.write_labels(some_labels(["k0"], [1.0], hour(20)))
        ledger.write_labels(some_labels(["k0"], [7.0], hour(5)))
        assert [ledger.joined(as_of=hour(at))["label"][0] for at in (4, 5, 10, 19, 20)] == [None, 7.0, 0.0, 0.0, 1.0]

    def test_labels_of_one_prediction_in_one_table(self, ledger: Ledger) -> None:
        """Rows count in their order; of two at one moment the later row wins."""
        ledger.write_predictions(some_predictions(1))
        both = [
            *some_labels(["k0"], [0.0], hour(4)),
            *some_labels(["k0"], [1.0], hour(4)),
            *some_labels(["k0"], [1.0], hour(5)),
        ]
        assert ledger.write_labels(both) == LabelCounts(new=1, corrected=1, same=1)
        assert ledger.write_labels(both) == LabelCounts(same=3)
        assert ledger.joined(as_of=hour(100))["label"].to_list() == [1.0]

    def test_a_key_labels_all_its_predictions_and_an_id_one(self, ledger: Ledger) -> None:
        """Two releases may have predicted the same thing."""
        one, two = some_predictions(1), some_predictions(1, release="r2")
        ledger.write_predictions(one)
        ledger.write_predictions(two)
        assert ledger.write_labels(some_labels(["k0"], [1.0], hour(4))) == LabelCounts(new=2)
        by_id = some_labels([two["prediction_id"][0].upper()], [0.0], hour(5), by="prediction_id")
        assert ledger.write_labels(by_id) == LabelCounts(corrected=1)
        assert ledger.joined(as_of=hour(100))["label"].to_list() == [1.0, 0.0]
        both = [
            *some_labels(["k0"], [0.5], hour(6)),
            *some_labels([one["prediction_id"][0]], [0.5], hour(5), by="prediction_id"),
        ]
        assert ledger.write_labels(both) == LabelCounts(corrected=2, same=1)
        assert ledger.joined(as_of=hour(100))["label_at"].to_list() == [hour(5), hour(6)]

    def test_labels_may_be_text(self, ledger: Ledger) -> None:
        """One text among numbers makes all of them text; an empty value is no label."""
        ledger.write_predictions(some_predictions(4))
        ledger.write_labels(some_labels(["k0", "k1"], [True, False], hour(4)))
        assert ledger.write_labels(some_labels(["k2"], [None], hour(4))) == LabelCounts()
        assert ledger.write_labels(some_labels(["k2"], [float("nan")], hour(4))) == LabelCounts()
        assert ledger.joined(as_of=hour(100))["label"].to_list() == [1.0, 0.0, None, None]
        ledger.write_labels(some_labels(["k1", "k3"], ["spam", "ham"], hour(5), "ann"))
        ledger.write_labels(some_labels(["k2"], [2.5], hour(5)))
        assert ledger.joined(as_of=hour(100))["label"].to_list() == ["1", "spam", "2.5", "ham"]

    def test_awaited(self, ledger: Ledger) -> None:
        """Made by then, and no label known by then."""
        assert ledger.awaited(as_of=hour(0)) == Awaited(0)
        ledger.write_predictions(some_predictions(5))
        assert ledger.awaited(as_of=hour(100)) == Awaited(5, hour(0))
        assert ledger.awaited(as_of=hour(2)) == Awaited(4, hour(0))
        assert ledger.awaited(as_of=hour(100), due_by=hour(3)) == Awaited(2, hour(0))
        ledger.write_labels(some_labels(["k0", "k2"], [1.0, 1.0], hour(10)))
        assert ledger.awaited(as_of=hour(10)) == Awaited(3, hour(1))
        assert ledger.awaited(as_of=hour(9)) == Awaited(5, hour(0))
        assert ledger.awaited(as_of=hour(9), due_by=hour(2)) == Awaited(1, hour(0))

    def test_count_labels(self, ledger: Ledger) -> None:
        """A prediction counts once, however often its label was corrected; the start is open, the end closed."""
        ledger.write_predictions(some_predictions(3))
        ledger.write_labels(some_labels(["k0", "k1"], [1.0, 1.0], hour(4)))
        ledger.write_labels(some_labels(["k1", "k2"], [0.0, 0.0], hour(6)))
        assert ledger.count_labels(since=None, as_of=hour(100)) == 3
        assert ledger.count_labels(since=hour(4), as_of=hour(6)) == 2
        assert ledger.count_labels(since=hour(3), as_of=hour(5)) == 2
        assert ledger.count_labels(since=hour(6), as_of=hour(100)) == 0

    def test_count_predictions(self, ledger: Ledger) -> None:
        """In a half-open window, labelled or not; shadows do not count."""
        ledger.write_predictions(some_predictions(4))
        ledger.write_predictions(some_predictions(2, start=4).with_columns(arm=pl.lit("shadow")))
        assert ledger.count_predictions(since=hour(1), until=hour(9)) == 3

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"drop": "due"}, "no column 'due'"),
            ({"key": None}, "'key' is empty in row 0"),
            ({"outlet": None}, "'outlet' is empty"),
            ({"prediction_id": "17"}, "'17' is no prediction id"),
            ({"time": 5}, "'time' holds Int32, no moments"),
            ({"score": "high"}, "'score' holds String"),
        ],
    )
    def test_a_wrong_table_is_told_and_not_written(self, ledger: Ledger, change: dict[str, Any], told: str) -> None:
        """The error names the column."""
        table = some_predictions(2)
        change = dict(change)  # pytest hands the same one to every subclass
        gone = change.pop("drop", None)
        table = (
            table.drop(gone) if gone else table.with_columns(**{name: pl.lit(value) for name, value in change.items()})
        )
        with pytest.raises(LedgerError, match=told):
            ledger.write_predictions(table)
        assert ledger.awaited(as_of=hour(100)).count == 0

    def test_the_queue_has_what_waits_for_a_person(self, ledger: Ledger) -> None:
        """The abstained ones without a label, oldest first; a label takes one out."""
        table = some_predictions(6)
        ledger.write_predictions(table)
        assert [found.key for found in ledger.queue(limit=9)] == ["k0", "k2", "k4"]
        assert [found.key for found in ledger.queue(limit=2)] == ["k0", "k2"]
        ledger.write_labels(some_labels(["k0"], [1.0], hour(1), "ann"))
        found = ledger.queue(limit=9)
        assert [one.key for one in found] == ["k2", "k4"]
        assert found[:1] == ledger.find("k2")
        assert ledger.queue(limit=0) == []

    def test_who_was_answered_by_which_release(self, ledger: Ledger) -> None:
        """Number i is of unit i % 3, made at i - 1; a unit that two releases answered has two rows."""
        ledger.write_predictions(some_predictions(6, outlet="rest"))
        ledger.write_predictions(some_predictions(1, start=6, outlet="rest", release="r2", arm="challenger"))
        ledger.write_predictions(some_predictions(1, start=7, outlet="rest", arm="shadow"))
        ledger.write_predictions(some_predictions(1, start=8))
        found = ledger.assigned(outlet="rest", since=hour(0), as_of=hour(99))
        assert found.rows() == [
            ("u1", "r1", "champion", hour(0), 2),
            ("u2", "r1", "champion", hour(1), 2),
            ("u0", "r1", "champion", hour(2), 1),
            ("u0", "r2", "challenger", hour(5), 1),
        ]
        assert ledger.assigned(outlet="rest", since=hour(0), as_of=hour(0)).height == 1

    def test_experiments(self, ledger: Ledger) -> None:
        """Their latest states, in the order in which they began."""
        one = Experiment("a", hour(1), "rest", "running", {"metric": "event:buy", "名": 1})
        two = Experiment("b", hour(2), "rest", "running")
        done = Experiment("a", hour(3), "rest", "stopped", {"decision": "better"})
        for state in (one, two, done):
            ledger.write_experiment(state)
        assert ledger.experiments() == [done, two]

    def test_events_count_once(self, ledger: Ledger) -> None:
        """By their own id; they are read in order of time."""
        events = [Event(f"e{i}", f"u{i % 2}", hour(5 - i), "buy" if i else "click", 1.5 * i) for i in range(4)]
        assert ledger.write_events(events[:2]) == 2
        assert ledger.write_events(events) == 2
        assert ledger.write_events([]) == 0
        found = ledger.events(since=hour(2), until=hour(5))
        assert found.rows() == [(e.id, e.unit, e.at, e.kind, e.value) for e in (events[3], events[2], events[1])]
        assert ledger.events(since=hour(0), until=hour(9), kind="click")["id"].to_list() == ["e0"]

    def test_rollouts_gate_uses_turns(self, ledger: Ledger) -> None:
        """What was written is read, oldest first; a turn shows its latest state."""
        rollouts = [
            Rollout("table", "r1", at=hour(1), why="first", by="ann"),
            Rollout("rest", "r1", {"r2": 0.1}, ("r3",), at=hour(2), why="try", by="loop"),
            Rollout("table", "r2", at=hour(3), why="better", by="loop", back=True),
        ]
        for rollout in rollouts:
            ledger.write_rollout(rollout)
        assert ledger.rollouts() == rollouts
        assert ledger.rollouts("table") == [rollouts[0], rollouts[2]]
        use = GateUse(hour(1), "run1", "abc", hour(0), hour(9), 100, "log_loss", "pass")
        ledger.write_gate_use(use)
        assert ledger.gate_uses() == [use]
        begun = TurnRecord("run1", hour(1), "30 days", "running")
        done = TurnRecord("run1", hour(1), "30 days", "done", "pass", "r1", 1.5, {"jobs": ["train"], "名": 1})
        other = TurnRecord("run2", hour(2), "drift", "failed")
        for turn in (begun, other, done):
            ledger.write_turn(turn)
        assert ledger.turns() == [done, other]

    def test_what_is_pruned_is_gone_with_its_labels(self, ledger: Ledger) -> None:
        """Due before the moment; all else stays as it was, and what is written next counts on."""
        ledger.write_predictions(some_predictions(6))
        ledger.write_labels(some_labels(["k0", "k2", "k4"], [1.0, 0.0, 1.0], hour(9)))
        ledger.write_events([Event(f"e{i}", "u0", hour(i), "buy") for i in range(8)])
        ledger.write_turn(TurnRecord("run1", hour(1), "30 days", "done"))
        assert ledger.prune(hour(0)) == 0
        assert ledger.old(hour(5)) == Old(predictions=3, awaited=1, labels=2, events=5)
        assert ledger.prune(hour(5), awaited=False) == 2
        assert ledger.joined(as_of=hour(100))["key"].to_list() == ["k1", "k3", "k4", "k5"]
        assert ledger.old(hour(5)) == Old(predictions=1, awaited=1, labels=0, events=0)
        assert ledger.prune(hour(5)) == 1
        assert ledger.prune(hour(5)) == 0
        found = ledger.joined(as_of=hour(100))
        assert found["key"].to_list() == ["k3", "k4", "k5"]
        assert found["label"].to_list() == [None, 1.0, None]
        assert ledger.awaited(as_of=hour(100)) == Awaited(2, hour(3))
        assert ledger.count_labels(since=None, as_of=hour(100)) == 1
        assert ledger.events(since=hour(0), until=hour(9))["id"].to_list() == ["e5", "e6", "e7"]
        assert ledger.turns() == [TurnRecord("run1", hour(1), "30 days", "done")]
        ledger.write_predictions(some_predictions(2, start=6))
        assert ledger.joined(as_of=hour(100))["key"].to_list() == ["k3", "k4", "k5", "k6", "k7"]
        assert ledger.write_labels(some_labels(["k0", "k6"], [1.0, 1.0], hour(9))) == LabelCounts(new=1, unmatched=1)

    def test_a_closed_ledger_says_so(self, ledger: Ledger) -> None:
        """Closing twice is no error; using it is one."""
        ledger.close()
        ledger.close()
        with pytest.raises(LedgerError, match="closed"):
            ledger.turns()
