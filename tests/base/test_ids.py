"""Prediction ids are UUIDv7, ordered, distinct."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meguri.base.errors import SettingsError
from meguri.base.ids import Ids, prediction_ids, stamp_id

AT = datetime(2013, 4, 1, 6, 0, 0, 123_000, tzinfo=UTC)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC))


@given(count=st.integers(0, 50), at=MOMENTS)
def test_they_are_uuid7_of_the_moment(count: int, at: datetime) -> None:
    made = prediction_ids(count, at).to_list()
    assert made == sorted(set(made))
    assert len(made) == count
    for text in made:
        value = uuid.UUID(text)
        assert (str(value), value.version, value.variant) == (text, 7, uuid.RFC_4122)
        assert value.int >> 80 == (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


@given(first=MOMENTS, later=st.timedeltas(timedelta(milliseconds=1), timedelta(days=999)))
def test_a_later_moment_sorts_later(first: datetime, later: timedelta) -> None:
    assert prediction_ids(3, first)[-1] < prediction_ids(3, first + later)[0]


def test_the_counter_may_run_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.randbits", lambda bits: 2**26 - 2)
    made = prediction_ids(4, AT).to_list()
    assert made == sorted(set(made))
    assert {uuid.UUID(text).version for text in made} == {7}


def test_many_makers_never_meet() -> None:
    with ThreadPoolExecutor(4) as pool:
        made = [one for batch in pool.map(lambda _: prediction_ids(5000, AT), range(8)) for one in batch]
    assert len(set(made)) == 40_000


@given(st.lists(st.sampled_from([1, 2, 100, 4095, 5000]), min_size=1, max_size=12))
def test_a_service_makes_them_in_order(counts: list[int]) -> None:
    ids = Ids()
    before = time.time_ns() // 1_000_000
    found = [id for count in counts for id in ids.take(count)]
    assert len(found) == sum(counts)
    assert all(one < other for one, other in pairwise(found))
    for id in found[:: max(1, len(found) // 50)]:
        made = uuid.UUID(id)
        assert (made.version, made.variant, str(made)) == (7, uuid.RFC_4122, id)
        assert before <= made.int >> 80 <= time.time_ns() // 1_000_000 + sum(counts) // 4096 + len(counts)


def test_now_is_the_default() -> None:
    before = prediction_ids(1, datetime.now(UTC) - timedelta(seconds=1))[0]
    assert before < prediction_ids(1)[0] < prediction_ids(1, datetime.now(UTC) + timedelta(seconds=1))[0]


def test_a_moment_before_1970_has_no_id() -> None:
    with pytest.raises(SettingsError, match="1969"):
        prediction_ids(1, datetime(1969, 12, 31, tzinfo=UTC))


def test_stamp_id() -> None:
    assert stamp_id(AT)[:-4] == "20130401-060000-"
    assert len({stamp_id(AT) for _ in range(20)}) > 1
