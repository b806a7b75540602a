"""How often one token may ask: a bucket that fills at its rate, and from which each request takes one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Bucket:
    """Lets ``rate`` requests a second pass; what was not asked is saved for one second, and for one request at least.

    One for each worker: several workers together let as many times more pass.
    """

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self._clock = rate, clock
        self._most = max(rate, 1.0)
        self._left, self._at = self._most, clock()

    def take(self) -> int:
        """0 when the request may pass, else in how many seconds one may, rounded up."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left < 1:
            return math.ceil((1 - self._left) / self.rate)
        self._left -= 1
        return 0
