"""Moments and durations, read and spelled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meguri.base.clock import duration, from_micros, micros, moment, now, spell
from meguri.base.errors import SettingsError


@pytest.mark.parametrize("text", ["2013-04-01", "2013-04-01T00:00Z", "2013-04-01T09:00+09:00", "2013-04-01 00:00:00"])
def test_moment(text: str) -> None:
    found = moment(text)
    assert found == datetime(2013, 4, 1, tzinfo=UTC)
    assert found.tzinfo is UTC


def test_moment_of_a_datetime() -> None:
    tokyo = datetime(2013, 4, 1, 9, tzinfo=timezone(timedelta(hours=9)))
    assert (moment(tokyo), moment(tokyo).tzinfo) == (datetime(2013, 4, 1, tzinfo=UTC), UTC)
    assert moment(datetime(2013, 4, 1)) == datetime(2013, 4, 1, tzinfo=UTC)
    assert now().tzinfo is UTC


@pytest.mark.parametrize("text", ["", "yesterday", "2013-13-01", "01/04/2013"])
def test_no_moment(text: str) -> None:
    with pytest.raises(SettingsError, match="no date or time"):
        moment(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("30m", 1800),
        ("36h", 129_600),
        ("14d", 1_209_600),
        ("2w", 1_209_600),
        ("1d12h", 129_600),
        ("0.5h", 1800),
        ("0s", 0),
    ],
)
def test_duration(text: str, seconds: int) -> None:
    assert duration(text) == timedelta(seconds=seconds) == duration(timedelta(seconds=seconds))


@pytest.mark.parametrize("text", ["", "5", "d", "5 d", "-5d", "5x", "1.d", "5D", "99999999999d", "9" * 400 + "d"])
def test_no_duration(text: str) -> None:
    with pytest.raises(SettingsError, match="no duration"):
        duration(text)


@given(st.timedeltas(timedelta(0), timedelta.max))
def test_spelled_is_read_back(value: timedelta) -> None:
    assert duration(spell(value)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (timedelta(0), "0s"),
        (timedelta(days=14), "14d"),
        (timedelta(hours=36), "1d12h"),
        (timedelta(seconds=90), "1m30s"),
        (timedelta(seconds=1.5), "1.5s"),
        (timedelta(microseconds=1), "0.000001s"),
    ],
)
def test_spell(value: timedelta, text: str) -> None:
    assert spell(value) == text


@given(st.datetimes(datetime(1900, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC)))
def test_micros_and_back(value: datetime) -> None:
    assert from_micros(micros(value)) == value
