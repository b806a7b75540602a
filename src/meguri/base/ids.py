"""Time-ordered ids: UUIDv7 (RFC 9562, section 5.7) for predictions, readable ones for runs and releases."""

from __future__ import annotations

import os
import secrets
import time
from datetime import datetime
from typing import TYPE_CHECKING

from meguri.base.clock import micros
from meguri.base.errors import SettingsError

if TYPE_CHECKING:
    import polars as pl

_GROUPS = ((0, 8, 0), (8, 12, 9), (12, 16, 14), (16, 20, 19), (20, 32, 24))  # digits from and to, and where they stand


def prediction_ids(count: int, at: datetime | None = None) -> pl.Series:
    """``count`` distinct UUIDv7 as text, ascending within the call, stamped with the moment ``at`` (default: now).

    The 12 bits after the time and 14 more make a counter that starts at random, so that a batch is ordered and
    no two processes meet; the last 48 bits are random.
    """
    millis = (micros(at) // 1000) if at is not None else time.time_ns() // 1_000_000
    if millis < 0:
        raise SettingsError(f"no prediction id can be made for {at}: they begin in 1970", fix="see the clock handed in")
    import numpy as np
    import polars as pl

    ticks = secrets.randbits(25) + np.arange(count, dtype=np.uint64)
    high = (np.uint64(millis) + (ticks >> np.uint64(26))) << np.uint64(16)
    high |= np.uint64(0x7000) | ((ticks >> np.uint64(14)) & np.uint64(0xFFF))
    noise = np.frombuffer(os.urandom(8 * count), dtype=np.uint64) >> np.uint64(16)
    low = np.uint64(1 << 63) | (ticks & np.uint64(0x3FFF)) << np.uint64(48) | noise
    digits = np.frombuffer(np.stack([high, low], axis=1).astype(">u8").tobytes().hex().encode(), dtype=np.uint8)
    letters = np.full((count, 36), ord("-"), dtype=np.uint8)
    for begin, end, place in _GROUPS:
        letters[:, place : place + end - begin] = digits.reshape(count, 32)[:, begin:end]
    texts = pl.Series("prediction_id", letters.view("S36").ravel().tolist(), dtype=pl.Binary)
    return texts.cast(pl.String)


def stamp_id(at: datetime) -> str:
    """A readable, sortable id for a run or a release: ``20130401-060000-3f9a``."""
    return f"{at:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


_VARIANT = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}  # RFC 9562, section 4.1


class Ids:
    """UUIDv7 one by one for a process that answers requests; ascending, and used from one thread."""

    def __init__(self) -> None:
        self._millis = self._tick = self._used = 0
        self._noise = ""

    def take(self, count: int) -> list[str]:
        """``count`` ids as text, stamped with now.

        The 12 bits after the time count within a millisecond, from a random start; 62 bits are random.
        """
        millis = time.time_ns() // 1_000_000
        digits = 16 * count
        if len(self._noise) - self._used < digits:  # asked for in advance: each call costs as much as an answer's JSON
            self._noise, self._used = os.urandom(max(8192, 8 * count)).hex(), 0
        begin, self._used = self._used, self._used + digits
        if millis > self._millis:
            self._millis, self._tick = millis, int(self._noise[begin + 14 : begin + 16], 16) - 1
        noise, found, tick = self._noise, [], self._tick  # else the same millisecond, or a clock that was set back
        head = self._head()
        for place in range(begin, begin + digits, 16):
            tick += 1
            if tick > 0xFFF:
                self._millis, tick = self._millis + 1, 0
                head = self._head()
            one = noise[place : place + 16]
            found.append(f"{head}-7{tick:03x}-{_VARIANT[one[0]]}{one[1:4]}-{one[4:]}")
        self._tick = tick
        return found

    def _head(self) -> str:
        digits = f"{self._millis:012x}"
        return f"{digits[:8]}-{digits[8:]}"
