"""Why a row is bad: masks over a table, each with a reason in words."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from meguri.data.plain import CONFLICT, REPEAT, not_unique
from meguri.data.spec import Field
from meguri.data.spec_polars import asks

Masks = dict[str, pl.Series]


def future(label: str) -> str:
    """The reason of a row whose label cannot be known yet."""
    return f"{label}: label from the future"


def plain(why: str) -> str:
    """A reason without the mark that stands between two of them."""
    return why.replace(";", ",")


def value_masks(table: pl.DataFrame, fields: Sequence[Field], *, may_be_null: str | None) -> Masks:
    """Rows with a null where none may be, an infinity, or a value that breaks a check of its column.

    All checks are asked in one pass. Nulls of the column ``may_be_null`` (the label, which is awaited) are no fault.
    """
    asked: dict[str, pl.Expr] = {}
    for field in fields:
        column = pl.col(field.name)
        if not field.nullable and field.name != may_be_null and table[field.name].null_count():
            asked[f"{field.name}: null"] = column.is_not_null()
        if field.is_float:
            asked[f"{field.name}: infinite"] = column.is_finite()
        for rule in field.checks:
            why, passes = f"{field.name}: {rule}", asks(rule, field)
            asked[why] = asked[why].fill_null(True) & passes.fill_null(True) if why in asked else passes
    if not asked:
        return {}
    good = table.select(good.alias(str(i)) for i, good in enumerate(asked.values()))
    return {why: ~good[i].fill_null(True) for why, i in zip(asked, good.columns, strict=True) if not good[i].all()}


def duplicated(rows: pl.DataFrame) -> pl.Series:
    """A mask of the rows that come more than once; hashes first, because nearly always nothing does."""
    hashes = rows.hash_rows()
    if hashes.n_unique() == rows.height:
        return pl.repeat(False, rows.height, dtype=pl.Boolean, eager=True)
    suspects = hashes.is_duplicated()
    mask = suspects.to_numpy(writable=True)
    mask[mask] = rows.filter(suspects).is_duplicated().to_numpy()
    return pl.Series(mask)


def key_masks(table: pl.DataFrame, key: Sequence[str]) -> Masks:
    """Rows whose key is another row's too.

    The first of rows that are the same in every column is good and its repeats are bad. Where rows of one key differ,
    nobody can say which is right, so all of them are bad. A null in a key is a fault of its own and not compared.
    """
    whole = pl.all_horizontal(pl.col(name).is_not_null() for name in key)
    twice = duplicated(table.select(key)) & table.select(whole).to_series()
    if not twice.any():
        return {}
    index = "row number"
    rows = table.with_row_index(index).filter(twice)
    firsts = rows.unique(subset=table.columns, keep="first", maintain_order=True)
    differing = firsts.filter(firsts.select(key).is_duplicated()).select(key)
    conflicts = rows.join(differing, on=list(key), how="semi")
    repeats = rows.join(differing, on=list(key), how="anti").join(firsts, on=index, how="anti")
    every = pl.int_range(table.height, dtype=pl.UInt32, eager=True).cast(rows.schema[index])
    masks = {
        CONFLICT: every.is_in(conflicts[index].implode()),
        REPEAT: every.is_in(repeats[index].implode()),
    }
    return {why: mask for why, mask in masks.items() if mask.any()}


def unique_masks(table: pl.DataFrame, groups: Sequence[Sequence[str]], repeats: pl.Series | None) -> Masks:
    """Rows whose values in a group of columns come again in another row; ``repeats`` are rows that do not count."""
    found: Masks = {}
    for names in groups:
        rows = table.select(names)
        mask = duplicated(rows if repeats is None else rows.with_columns(repeats.alias("is a repeat")))
        mask = mask if repeats is None else mask & ~repeats
        if mask.any():
            found[not_unique(names)] = mask
    return found


def words(masks: Masks) -> tuple[pl.Series, pl.Series]:
    """Which rows are bad, and for these all their reasons in one text, joined by "; "."""
    clean: Masks = {}
    for why, mask in masks.items():
        clean[plain(why)] = clean[plain(why)] | mask if plain(why) in clean else mask
    table = pl.DataFrame([mask.alias(str(i)) for i, mask in enumerate(clean.values())])
    bad = table.select(pl.any_horizontal(pl.all())).to_series()
    texts = [pl.when(pl.col(str(i))).then(pl.lit(why)) for i, why in enumerate(clean)]
    reason = table.filter(bad).select(pl.concat_str(texts, separator="; ", ignore_nulls=True).alias("reason"))
    return bad, reason.to_series()


def told(masks: Masks, height: int) -> pl.Series:
    """For each row all its reasons in one text, joined by "; ", and null for one that has none."""
    every = pl.repeat(None, height, dtype=pl.String, eager=True).alias("reason")
    if not masks:
        return every
    bad, why = words(masks)
    return every.scatter(bad.arg_true(), why)
