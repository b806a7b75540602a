"""The contract at the two doors where no whole row passes: an answer that goes out, and a label that a person brings."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from meguri.base.errors import ContractError
from meguri.data import reasons
from meguri.data.contract import Checked, Contract
from meguri.data.fit import RetypedError, fit

TOLD = (
    "key",
    "time",
    "release",
    "score",
    "answer",
    "features",
)  # of an answer that is quarantined: its id says nothing


def answers(table: pl.DataFrame, contract: Contract) -> Checked:
    """Hold predictions (columns ``score``, ``key`` …) against what the label may be.

    A probability lies between 0 and 1, an estimate within the bounds of the label's column, and each is a finite number.
    """
    masks = reasons.value_masks(table, [contract.score], may_be_null=None)
    return _split(table, masks, [name for name in TOLD if name in table.columns])


def labels(table: pl.DataFrame, contract: Contract) -> Checked:
    """Hold labels (column ``value``, and ``key`` or ``prediction_id``) against the label's column; a null is none and passes.

    The good ones have the label's type. Raises ContractError when the contract has no label, or these cannot be any.
    """
    field = contract.labels()
    try:
        value, unread = fit(table["value"], replace(field, name="value", coerce=True))
    except RetypedError as error:
        what, fix = f"these are no labels '{field.name}': {error}", "see what the column `value` holds"
        raise ContractError(what, where=f"contract {contract.name}", fix=fix) from error
    fitted = pl.DataFrame([value.alias(field.name)])
    masks = {} if unread is None else {f"{field.name}: cannot be read as {field.type}": unread}
    masks |= reasons.value_masks(fitted, [field], may_be_null=field.name)
    checked = _split(table, masks, [name for name in ("prediction_id", "key", "value") if name in table.columns])
    good = value.filter(~_any(masks)) if masks else value
    return Checked(checked.rows.with_columns(good.alias("value")), checked.quarantined)


def _any(masks: reasons.Masks) -> pl.Series:
    return pl.DataFrame(masks).select(pl.any_horizontal(pl.all())).to_series()


def _split(table: pl.DataFrame, masks: reasons.Masks, told: list[str]) -> Checked:
    if not masks:
        return Checked(table, table.clear().select(*told, pl.lit(None, pl.String).alias("reason")))
    bad, why = reasons.words(masks)
    return Checked(table.filter(~bad), table.filter(bad).select(told).with_columns(why))
