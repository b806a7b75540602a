"""Values that come again, found across the parts of a table by their hashes: eight bytes a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

AT_ONCE = 500_000  # rows that are compared in memory
_ODD = np.uint64(0x9E3779B97F4A7C15)  # times an odd number, no two row numbers give the same


class Hashes:
    """The hashes of some columns, row by row. Without ``nulls`` a row with a null is like no other row."""

    def __init__(self, names: Sequence[str], *, nulls: bool = True) -> None:
        self.names = tuple(names)
        self._nulls = nulls
        self._parts: list[np.ndarray] = []
        self._rows = 0

    def add(self, rows: pl.DataFrame) -> None:
        """Take in the next rows."""
        own = rows.select(self.names)
        hashes = own.hash_rows().to_numpy(writable=True)
        if not self._nulls and sum(own.null_count().row(0)):
            lone = own.select(pl.any_horizontal(pl.all().is_null())).to_series().to_numpy()
            hashes[lone] = self._unlike(self._rows + np.flatnonzero(lone))
        self._parts.append(hashes)
        self._rows += rows.height

    @staticmethod
    def _unlike(numbers: np.ndarray) -> np.ndarray:
        return numbers.astype(np.uint64) * _ODD

    def suspects(self, *, but: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """The numbers of rows whose hash comes again, ascending, in lots that keep equal hashes together.

        ``but`` is a mask of rows that are not compared. A lot has about ``AT_ONCE`` rows, more only when so many are alike.
        """
        hashes = self._whole()
        if but is not None and but.any():
            hashes = hashes.copy()
            hashes[but] = self._unlike(np.flatnonzero(but))
        again = _repeated(hashes)
        if not len(again):
            return
        place = np.searchsorted(again, hashes)
        place[place == len(again)] = 0
        rows = np.flatnonzero(again[place] == hashes)
        order = np.argsort(hashes[rows], kind="stable")
        rows, kinds = rows[order], hashes[rows[order]]
        starts = np.flatnonzero(np.r_[True, kinds[1:] != kinds[:-1]])
        while len(starts):
            begin = starts[0]
            later = starts[starts >= begin + AT_ONCE]
            end = later[0] if len(later) else len(rows)
            yield np.sort(rows[begin:end])
            starts = later

    def repeated(self) -> int:
        """How many rows come after another with the same hash."""
        hashes = np.sort(self._whole())
        return int((hashes[1:] == hashes[:-1]).sum())

    def _whole(self) -> np.ndarray:
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0]


def _repeated(hashes: np.ndarray) -> np.ndarray:
    """The hashes that come more than once, sorted."""
    ordered = np.sort(hashes)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
