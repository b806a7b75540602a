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


_VARIANT = bytes(0x80 | byte & 0x3F for byte in range(256))  # RFC 9562, section 4.1
_TICKS = [f"{tick:03x}" for tick in range(4096)]


class Ids:
    """UUIDv7 for a process that answers requests; ascending, and used from one thread."""

    def __init__(self) -> None:
        self._millis = self._tick = 0
        self._noise: list[str] = []  # last two groups of digits, in advance: each draw costs as much as an answer

    def take(self, count: int) -> list[str]:
        """``count`` ids as text, stamped with now.

        The 12 bits after the time count within a millisecond, from a random start; 62 bits are random.
        """
        if len(self._noise) < count:
            self._noise += _noise(max(1024, count))
        millis = time.time_ns() // 1_000_000
        if millis > self._millis:
            self._millis, self._tick = millis, int(self._noise[-1][-2:], 16)
        found: list[str] = []  # else the same millisecond, or a clock that was set back
        while len(found) < count:
            if self._tick == len(_TICKS):
                self._millis, self._tick = self._millis + 1, 0
            ticks = _TICKS[self._tick : self._tick + count - len(found)]
            digits = f"{self._millis:012x}"
            head = f"{digits[:8]}-{digits[8:]}-7"
            noise, self._noise[-len(ticks) :] = self._noise[-len(ticks) :], []
            found += [f"{head}{tick}-{rest}" for tick, rest in zip(ticks, noise, strict=True)]
            self._tick += len(ticks)
        return found


def _noise(count: int) -> list[str]:
    firsts = bytearray(os.urandom(2 * count))
    firsts[::2] = firsts[::2].translate(_VARIANT)
    lasts = os.urandom(6 * count)
    return [*map("-".join, zip(firsts.hex(" ", 2).split(), lasts.hex(" ", 6).split(), strict=True))]
