"""A contract over rows that come in parts: the same result as over the whole table, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from meguri.base.errors import ContractError
from meguri.data import reasons
from meguri.data.contract import Contract
from meguri.data.plain import CONFLICT, REPEAT
from meguri.data.spool import Spool, drafts
from meguri.data.table import to_polars
from meguri.data.twice import Hashes

ROWS = 200_000  # that are judged at once
SOON = 1_000_000  # rows after which a share of bad ones is believed


@dataclass(frozen=True)
class Streamed:
    """How many rows are good and in the file, how many were quarantined, and how many for each reason, most first."""

    rows: int
    quarantined: int
    reasons: dict[str, int]


def is_stream(source: Any) -> bool:
    """Whether this is rows that come in parts: an Ibis expression, a RecordBatchReader, a LazyFrame, an iterator of tables."""
    parts = hasattr(source, "read_next_batch") or hasattr(source, "to_pyarrow_batches")
    return parts or isinstance(source, pl.LazyFrame | Iterator)


def batches_of(source: Any, warehouse: Any = None, *, rows: int = ROWS) -> Iterator[pl.DataFrame]:
    """The rows of a stream, a table or a list of tables, in order, in tables of at most ``rows``.

    ``warehouse`` is whose an Ibis expression is.

    Raises DataError for a part that is no table, and for a query that fails.
    """
    if isinstance(source, pl.LazyFrame):
        parts: Iterable[Any] = source.collect_batches(chunk_size=rows, maintain_order=True)
    elif hasattr(source, "to_pyarrow_batches"):
        parts = (
            source.to_pyarrow_batches(chunk_size=rows) if warehouse is None else warehouse.batches(source, rows=rows)
        )
    else:
        parts = source if is_stream(source) or isinstance(source, list | tuple) else [source]
    waiting: list[pl.DataFrame] = []
    for part in parts:
        table = to_polars(part)
        if waiting and (waiting[0].schema != table.schema or sum(map(len, waiting)) + table.height > rows):
            yield pl.concat(waiting)
            waiting = []
        if table.height > rows:
            yield from table.iter_slices(rows)
        else:
            waiting.append(table)
    if waiting:
        yield pl.concat(waiting)


def check(
    batches: Any,
    contract: Contract,
    *,
    path: Path,
    now: datetime | None = None,
    labelled: bool = True,
    limit: float | None = None,
    bad: Callable[[pl.DataFrame], object] | None = None,
) -> Streamed:
    """Hold a stream against the contract as if it were one table; the good rows become the Parquet file ``path``.

    The rows, their order and the reasons are those of ``Contract.check`` on all of them together: keys and unique columns are
    compared across the parts. ``bad`` is given the quarantined rows, as they came, with the column ``reason``, some at a
    time. Checks that are the user's functions are asked part by part: of a row they answer the same, but one that
    compares a row with others sees only those of its part.

    ``limit`` is how many bad rows are borne: a share, or from 1 on a number. A number stops it as soon as it is passed,
    a share when it is after a million rows, and both at the end. On disk it needs the room of the rows once
    or twice, beside ``path``; in memory 8 bytes a row for the key and for each group of unique columns.

    Raises ContractError when a table is broken as a whole, when there is no row, when more rows are bad than ``limit``
    (those that are known by then have been given to ``bad``), and for a function that answers for a whole table; then
    ``path`` is as it was.
    """
    known = Counter[str]()

    def hand_over(twice: dict[str, np.ndarray]) -> int:
        count = 0
        for rows in spool.quarantined(twice):
            known.update(rows["reason"].str.split("; ").explode().to_list())
            count += rows.height
            if bad is not None:
                bad(rows)
        return count

    with drafts(path) as folder:
        spool = Spool(folder)
        keys = Hashes(contract.key, nulls=False)
        groups = [Hashes(names) for names in contract.groups(labelled=labelled)]
        for found in batches_of(batches):
            if not found.height:
                continue
            rows, before, after = contract.faults(found, now=now, labelled=labelled, part=True)
            spool.add(contract.as_found(found, rows), rows, before, after)
            for hashes in (keys, *groups):
                hashes.add(rows)
            if _passed(limit, spool.bad, max(spool.rows, SOON)):
                spool.close()
                count = hand_over({})
                raise _too_many(contract, count, spool.rows, limit, known, so_far=True)
        if not spool.rows:
            raise contract.empty()
        spool.close()
        if limit is not None and _passed(limit, repeated := keys.repeated(), spool.rows):  # no need to look which
            hand_over({})
            known[CONFLICT] = repeated
            raise _too_many(contract, repeated, spool.rows, limit, known)
        twice = _twice(spool, contract, keys, groups)
        count = hand_over(twice)
        if _passed(limit, count, spool.rows):
            raise _too_many(contract, count, spool.rows, limit, known)
        spool.finish(path, twice)
    return Streamed(spool.rows - count, count, dict(sorted(known.items(), key=lambda item: (-item[1], item[0]))))


def _twice(spool: Spool, contract: Contract, keys: Hashes, groups: Sequence[Hashes]) -> dict[str, np.ndarray]:
    """Masks of the rows that are like another one, each with its reason; hashes only say where to look."""
    masks: dict[str, np.ndarray] = {}

    def mark(numbers: np.ndarray, found: reasons.Masks) -> None:
        for why, mask in found.items():
            masks.setdefault(why, np.zeros(spool.rows, dtype=bool))[numbers[mask.to_numpy()]] = True

    for numbers in keys.suspects():
        mark(numbers, reasons.key_masks(spool.fetch(numbers), contract.key))
    for hashes in groups:
        for numbers in hashes.suspects(but=masks.get(REPEAT)):
            mark(numbers, reasons.unique_masks(spool.fetch(numbers, hashes.names), [hashes.names], None))
    first = (CONFLICT, REPEAT)
    return {why: masks[why] for why in (*first, *(why for why in masks if why not in first)) if why in masks}


def _passed(limit: float | None, bad: int, rows: int) -> bool:
    """Whether more rows are bad than the limit bears."""
    return limit is not None and bad > (limit if limit >= 1 else limit * rows)


def _too_many(
    contract: Contract, bad: int, rows: int, limit: float | None, known: Counter[str], *, so_far: bool = False
) -> ContractError:
    read = "the first " if so_far else ""
    return ContractError(
        f"{bad} of {read}{rows} rows break the contract {contract.name}, more than the limit of {limit:g} allows",
        where=f"most often: {known.most_common(1)[0][0]}",
        fix="look at them: meguri data quarantine; mend the source or the contract",
    )
