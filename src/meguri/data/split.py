"""Which part a row belongs to, so that no part tells about a later one."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import cast

import numpy as np
import polars as pl

from meguri.data.contract import Contract

# A part is a number: 0 train, 1 valid, 2 test, -1 none.


def by_time(
    rows: pl.DataFrame, contract: Contract, valid: float | timedelta, test: float | timedelta
) -> tuple[pl.Series, dict[str, int]]:
    """The part of each row, rows ascending in time, and how many rows are in none, by reason."""
    if not rows.height:
        return pl.Series([], dtype=pl.Int8), {"purged": 0, "straddling": 0}
    times = rows[contract.time]
    test_from = _begin(times, test, rows.height)
    before = times.filter(times < test_from)
    valid_from = _begin(before, valid, rows.height) if len(before) else test_from
    due = times + contract.label_after
    place = (times >= valid_from).cast(pl.Int8) + (times >= test_from).cast(pl.Int8)
    late = ((place == 0) & (due > valid_from)) | ((place == 1) & (due > test_from))
    purged = pl.select(pl.when(~late).then(place).otherwise(pl.lit(-1, pl.Int8))).to_series()
    if contract.group is None:
        return purged, {"purged": int(late.sum()), "straddling": 0}
    last = rows.select(pl.col(contract.group), purged.alias("part")).select(pl.col("part").max().over(contract.group))
    astray = (purged >= 0) & (last.to_series() > purged) & rows[contract.group].is_not_null()
    kept = pl.select(pl.when(~astray).then(purged).otherwise(pl.lit(-1, pl.Int8))).to_series()
    return kept, {"purged": int(late.sum()), "straddling": int(astray.sum())}


def _begin(times: pl.Series, size: float | timedelta, total: int) -> datetime:
    """When the last part of these ascending times begins: a duration before the last, or a share of all rows."""
    if isinstance(size, timedelta):
        return cast(datetime, times[-1]) - size + timedelta(microseconds=1)
    return cast(datetime, times[max(len(times) - max(round(size * total), 1), 0)])


def by_group(rows: pl.DataFrame, contract: Contract, valid: float, test: float, seed: int) -> pl.Series:
    """The part of each row, drawn with the seed; the rows of a group, if the contract has one, are drawn as one."""
    number = pl.int_range(rows.height, eager=True)
    if contract.group is None:
        unit = number
    else:  # a row without a group is one of its own
        numbered = rows.select(pl.col(contract.group).alias("group"), number.alias("row"))
        first = numbered.select(pl.col("row").min().over("group")).to_series()
        unit = pl.select(pl.when(rows[contract.group].is_not_null()).then(first).otherwise(number)).to_series()
    sizes = unit.to_frame("unit").group_by("unit").len().sort("unit")
    drawn = sizes[np.random.default_rng(seed).permutation(sizes.height)]
    before = drawn["len"].cum_sum() - drawn["len"]
    share = before / max(rows.height, 1)
    part = pl.select(pl.when(share < test).then(2).when(share < test + valid).then(1).otherwise(0)).to_series()
    places = drawn.select("unit", part.alias("part"))
    return unit.to_frame("unit").join(places, on="unit", how="left", maintain_order="left")["part"]
