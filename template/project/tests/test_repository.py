"""The source gives rows that keep the contract, and no label before its time."""

from datetime import timedelta

from src.jobs.retrieve import retrieve
from src.repository.schema import contract


def test_rows_keep_the_contract(settings, now):
    rows = retrieve(settings, now - timedelta(days=300), now, now)
    checked = contract.check(rows, now=now)
    assert checked.rows.height == len(rows) == 300
    assert checked.quarantined.is_empty()


def test_a_label_is_awaited_until_it_can_be_known(settings, now):
    rows = retrieve(settings, now - timedelta(days=10), now + timedelta(days=5), now)
    known = rows["time"] + contract.label_after <= now
    assert rows[contract.label].notna().tolist() == known.tolist()
    assert not known.all()


def test_until_is_left_out(settings, now):
    rows = retrieve(settings, now - timedelta(days=1), now, now)
    assert rows["time"].tolist() == [now - timedelta(days=1)]
