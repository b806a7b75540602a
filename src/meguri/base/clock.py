"""Time: moments are timezone-aware UTC datetimes, in tables microseconds; the clock is handed in."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from meguri.base.errors import SettingsError

_EPOCH, _MICRO = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+")


def now() -> datetime:
    """The present moment in UTC."""
    return datetime.now(UTC)


def moment(value: str | datetime) -> datetime:
    """A UTC datetime from ISO 8601 text or a datetime; one without a zone is read as UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise SettingsError(f"'{value}' is no date or time", fix="write 2013-04-01 or 2013-04-01T06:00Z") from error
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError as error:  # the first and the last day there are, elsewhere
        raise SettingsError(f"'{value}' is beyond what a moment can be in UTC", fix="write a nearer one") from error


def duration(value: str | timedelta) -> timedelta:
    """A timedelta from text such as ``30m``, ``36h``, ``14d``, ``2w`` or ``1d12h``."""
    if isinstance(value, timedelta):
        return value
    if not _DURATION.fullmatch(value):
        raise SettingsError(
            f"'{value}' is no duration", fix="write a number and one of s, m, h, d, w, such as 36h or 14d"
        )
    parts = re.findall(r"([\d.]+)([smhdw])", value)
    try:
        return sum((float(number) * timedelta(seconds=_UNITS[unit]) for number, unit in parts), timedelta())
    except OverflowError as error:
        raise SettingsError(
            f"'{value}' is no duration: it is too long", fix="write a shorter one, such as 36h"
        ) from error


def spell(value: timedelta) -> str:
    """A short text, such as ``1d12h``, that ``duration`` reads back as the same timedelta."""
    left, text = value // timedelta(microseconds=1), ""
    for unit in ("d", "h", "m"):
        whole, left = divmod(left, _UNITS[unit] * 1_000_000)
        text += f"{whole}{unit}" if whole else ""
    return text + (f"{left / 1e6:.6f}".rstrip("0").rstrip(".") + "s" if left or not text else "")


def micros(value: datetime) -> int:
    """Microseconds since 1970-01-01 UTC, the form in which the ledger keeps a moment."""
    return (moment(value) - _EPOCH) // _MICRO


def from_micros(value: int) -> datetime:
    """The moment that ``micros`` gave this number for."""
    return _EPOCH + timedelta(microseconds=value)
