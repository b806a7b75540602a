"""Time-ordered ids: UUIDv7 (RFC 9562, section 5.7) for predictions, readable ones for runs and releases."""

from __future__ import annotations

import os
import secrets
import time
from datetime import datetime

from meguri.base.clock import micros
from meguri.base.errors import SettingsError


def prediction_ids(count: int, at: datetime | None = None) -> list[str]:
    """``count`` distinct UUIDv7 as text, ascending within the call, stamped with the moment ``at`` (default: now).

    The 12 bits after the time and 14 more make a counter that starts at random, so that a batch is ordered and
    no two processes meet; the last 48 bits are random.
    """
    millis = (micros(at) // 1000) if at is not None else time.time_ns() // 1_000_000
    if millis < 0:
        raise SettingsError(f"no prediction id can be made for {at}: they begin in 1970", fix="see the clock handed in")
    noise = os.urandom(6 * count)
    start = secrets.randbits(25)
    ids = []
    for i in range(count):
        ticks = start + i
        high = (millis + (ticks >> 26)) << 16 | 0x7000 | (ticks >> 14) & 0xFFF
        low = 1 << 63 | (ticks & 0x3FFF) << 48 | int.from_bytes(noise[6 * i : 6 * i + 6], "big")
        text = f"{high:016x}{low:016x}"
        ids.append(f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}")
    return ids


def stamp_id(at: datetime) -> str:
    """A readable, sortable id for a run or a release: ``20130401-060000-3f9a``."""
    return f"{at:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
