"""Quarantine: the rows that broke a contract, each kept once with its reason, and what a person decided about it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl

from meguri.base.clock import moment
from meguri.base.errors import ContractError, DataError
from meguri.base.files import locked, write_atomic
from meguri.data.contract import Checked, Contract
from meguri.data.fit import RetypedError, fit
from meguri.data.plain import REPEAT
from meguri.data.spec_polars import filler

_AT = pl.Datetime("us", "UTC")
_COLUMNS = {"at": _AT, "door": pl.String(), "run": pl.String(), "reason": pl.String(), "row": pl.String()}
_DECISIONS = {
    "at": _AT,
    "id": pl.String(),
    "decision": pl.String(),  # "released" or "corrected"
    "by": pl.String(),
    "why": pl.String(),
    "reason": pl.String(),
    "row": pl.String(),
    "instead": pl.String(),  # the corrected row
}


class Quarantine:
    """The quarantined rows of a project, in one Parquet file of ``folder``; the decisions about them in another.

    A row is kept as JSON text, because rows of every contract and every door come here. Its ``id`` is a hash of the row
    and its reason. Several processes may write at once; a reader, or a crash, sees the rows of before or of after.
    Nothing is ever taken out: a decision is a line of its own, and the last one about a row counts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "quarantine.parquet"
        self.decided = folder / "decisions.parquet"

    def add(self, rows: pl.DataFrame, *, at: datetime, door: str, run: str | None = None) -> int:
        """Keep ``Checked.quarantined`` rows and return how many were new.

        The same row with the same reason counts once, at the first door that met it, however often it is read again.
        """
        if "reason" not in rows.columns:
            raise DataError("quarantined rows need their reason", fix="give the `quarantined` of a checked table")
        if not rows.height:
            return 0
        new = rows.select(
            pl.lit(moment(at), _AT).alias("at"),
            pl.lit(door, pl.String).alias("door"),
            pl.lit(run, pl.String).alias("run"),
            pl.col("reason"),
            _as_text(rows),
        ).unique(subset=["reason", "row"], keep="first", maintain_order=True)
        with locked(self.folder / ".lock"):
            kept = _read(self.file, _COLUMNS)
            new = new.join(kept, on=["reason", "row"], how="anti", maintain_order="left")
            if new.height:
                _write(self.file, pl.concat([kept, new]))
        return new.height

    def read(self) -> pl.DataFrame:
        """All rows, oldest first.

        ``id``; ``at`` (when first met), ``door``, ``run``; ``reason``; ``row`` as JSON text; ``decision`` (null, "released"
        or "corrected").
        """
        rows = _read(self.file, _COLUMNS)
        pairs = zip(rows["reason"], rows["row"], strict=True)
        ids = pl.Series("id", [_id(reason, row) for reason, row in pairs], dtype=pl.String)
        latest = self.decisions().unique("id", keep="last").select("id", "decision")
        return rows.select(ids, pl.all()).join(latest, on="id", how="left", maintain_order="left")

    def counts(self) -> dict[str, int]:
        """How many rows have each reason, most first; a row with two reasons counts under both."""
        each = _read(self.file, _COLUMNS).select(pl.col("reason").str.split("; "))
        counts = each.explode("reason").group_by("reason").len()
        return dict(counts.sort(["len", "reason"], descending=[True, False]).iter_rows())

    def decisions(self) -> pl.DataFrame:
        """Every decision, oldest first: ``at``, ``id``, ``decision``, ``by``, ``why``, the row, and the one ``instead``."""
        return _read(self.decided, _DECISIONS)

    def release(self, ids: Sequence[str], contract: Contract, *, by: str, why: str, at: datetime) -> int:
        """Let rows through as they are, now and whenever the same row comes again with this reason; returns how many.

        Raises DataError for an id that is not here, and for a row that cannot be let through: one that has no value of a
        column's type, or that is among the good rows already.
        """
        found = [self._find(part) for part in dict.fromkeys(ids)]
        for entry in found:
            if REPEAT in entry["reason"]:
                fix = "leave it: the row that it repeats went through"
                raise DataError("this row is among the good rows already", where=entry["id"], fix=fix)
            try:
                lacking = _typed(_table(json.loads(entry["row"]), contract, entry["id"]), contract)[1]
            except DataError as error:
                lacking = error.what
            if lacking is not None:
                fix = (
                    f"correct it: meguri data quarantine correct {entry['id']} --set column=value --by NAME --why TEXT"
                )
                what = f"this row cannot be let through as it is: {lacking}"
                raise DataError(what, where=entry["id"], fix=fix)
        self._decide([entry | {"decision": "released", "instead": None} for entry in found], by=by, why=why, at=at)
        return len(found)

    def correct(
        self, id: str, values: Mapping[str, str], contract: Contract, *, by: str, why: str, at: datetime
    ) -> dict[str, Any]:
        """Let a corrected row stand in for this one, now and whenever it comes again; returns it.

        ``values`` are texts, read as the columns' types; an empty one is null. Raises DataError when the id is not here,
        there is nothing to change, or the corrected row breaks the contract.
        """
        entry = self._find(id)
        unknown = [name for name in values if name not in contract.types]
        if unknown or not values:
            what = f"the contract {contract.name} has no column '{unknown[0]}'" if unknown else "nothing is corrected"
            raise DataError(what, where=entry["id"], fix=f"set one or more of {', '.join(contract.types)}")
        row: dict[str, Any] = json.loads(entry["row"]) | {name: text or None for name, text in values.items()}
        _whole(_table(row, contract, entry["id"]), contract, entry["id"])
        self._decide(
            [entry | {"decision": "corrected", "instead": json.dumps(row, ensure_ascii=False)}], by=by, why=why, at=at
        )
        return row

    def settle(self, checked: Checked, contract: Contract) -> Checked:
        """What the decisions make of a checked table: released and corrected rows join the good ones, and are no longer bad.

        A row is known again by its reason and all its values but the label's, which comes later than the rest; a corrected
        row takes the label that came, unless that was what was corrected. One that would repeat the key of a good row stays.
        """
        decided = self.decisions().unique("id", keep="last", maintain_order=True)
        bad = checked.quarantined
        suspects = bad["reason"].is_in(decided["reason"].implode())
        if not suspects.any():
            return checked
        known = {_same(d["reason"], d["row"], contract.label): d for d in decided.iter_rows(named=True)}
        places = suspects.arg_true()
        rows = bad[places]
        texts = rows.select(_as_text(rows)).to_series()
        keys = set(contract.key_of(checked.rows))
        settled, joined = [], []
        for place, reason, text in zip(places, rows["reason"], texts, strict=True):
            decision = known.get(_same(reason, text, contract.label))
            row = None if decision is None else _stand_in(decision, json.loads(text), bad[place], contract)
            if row is None:
                continue
            row = row.select(checked.rows.columns)
            key = contract.key_of(row).item()
            if key not in keys:
                keys.add(key)
                settled.append(row)
                joined.append(place)
        if not settled:
            return checked
        left = ~pl.int_range(bad.height, eager=True).is_in(pl.Series(joined).implode())
        return Checked(pl.concat([checked.rows, *settled]), bad.filter(left))

    def _find(self, part: str) -> dict[str, Any]:
        """The one row whose id begins so."""
        found = self.read().filter(pl.col("id").str.starts_with(part))
        if found.height != 1 or not part:
            what = (
                f"no quarantined row has the id '{part}'" if not found.height else f"'{part}' begins {found.height} ids"
            )
            raise DataError(what, where=self.file, fix="meguri data quarantine --rows 20 shows the latest")
        return found.row(0, named=True)

    def _decide(self, entries: list[dict[str, Any]], *, by: str, why: str, at: datetime) -> None:
        if not by.strip() or not why.strip():
            raise DataError("a decision needs who made it and why", fix="give --by NAME and --why TEXT")
        stamp = {"at": moment(at), "by": by, "why": why}
        new = pl.DataFrame([{name: (entry | stamp)[name] for name in _DECISIONS} for entry in entries], _DECISIONS)
        with locked(self.folder / ".lock"):
            _write(self.decided, pl.concat([self.decisions(), new]))


def _read(file: Path, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
    if not file.exists():
        return pl.DataFrame(schema=columns)
    try:
        whole = io.BytesIO(file.read_bytes())  # polars opens a path twice, and it may be another file by then
        return pl.read_parquet(whole).select(pl.col(name).cast(kind) for name, kind in columns.items())
    except (pl.exceptions.PolarsError, OSError) as error:
        fix = "move the file away: the rows come again when the data is read again"
        raise DataError("the quarantine cannot be read", where=file, fix=fix) from error


def _write(file: Path, rows: pl.DataFrame) -> None:
    rows.write_parquet(buffer := io.BytesIO())
    write_atomic(file, buffer.getvalue())


def _id(reason: str, row: str) -> str:
    return hashlib.sha256(f"{reason}\n{row}".encode()).hexdigest()[:12]


def _same(reason: str, row: str, label: str | None) -> tuple[str, str]:
    """What two readings of one row have in common: 5 and 5.0 are one number, and the label may have come since."""
    values = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in json.loads(row).items()
        if name != label
    }
    return reason, json.dumps(values, sort_keys=True)


def _table(row: Mapping[str, Any], contract: Contract, where: str) -> pl.DataFrame:
    """A row of JSON values (or texts for them) as a table of the contract's types, as far as they can be read."""
    columns = []
    for field in contract.fields:
        if field.name not in row:
            continue
        value = row[field.name]
        try:
            if isinstance(value, str) and field.type == "Datetime":
                value = moment(value)
            elif isinstance(value, str) and field.type == "Date":
                value = date.fromisoformat(value)
            elif isinstance(value, str) and field.type == "Boolean":
                value = {"true": True, "1": True, "false": False, "0": False}[value.lower()]
            elif isinstance(value, str) and field.is_float:
                value = float(value)
            elif isinstance(value, str) and field.dtype.is_integer():
                value = int(value)
            columns.append(pl.Series(field.name, [value], dtype=field.dtype, strict=True))
        except (ValueError, TypeError, KeyError, OverflowError, pl.exceptions.PolarsError) as error:
            what = f"{field.name}: {row[field.name]!r} cannot be read as {field.type}"
            raise DataError(what, where=where, fix="give a value of the column's type") from error
    return pl.DataFrame(columns)


def _typed(rows: pl.DataFrame, contract: Contract) -> tuple[pl.DataFrame | None, str | None]:
    """One row as found in the contract's types, or what it has no value of the type for."""
    columns = []
    for field in contract.fields:
        found = rows[field.name] if field.name in rows.columns else pl.Series(field.name, [None], dtype=field.dtype)
        try:
            column, unread = fit(found, field)
        except RetypedError as error:
            return None, f"{field.name}: {error}"
        if unread is not None:
            return None, f"{field.name}: {found[0]!r} cannot be read as {field.type}"
        if field.default is not None:
            column = column.to_frame().select(pl.col(field.name).fill_null(filler(field))).to_series()
        if column[0] is None and not field.nullable and field.name != contract.label:
            return None, f"{field.name} has no value"
        columns.append(column)
    return pl.DataFrame(columns), None


def _whole(rows: pl.DataFrame, contract: Contract, where: str) -> pl.DataFrame:
    """One corrected row as the contract keeps it. Raises DataError when it breaks it."""
    try:
        checked = contract.check(rows, labelled=contract.label in rows.columns)
    except ContractError as error:
        raise DataError(f"the corrected row breaks the contract: {error.what}", where=where, fix=error.fix) from error
    if not checked.rows.height:
        reason = checked.quarantined["reason"][0]
        raise DataError(f"the corrected row breaks the contract: {reason}", where=where, fix="correct that, too")
    return checked.rows


def _stand_in(
    decision: Mapping[str, Any], row: Mapping[str, Any], found: pl.DataFrame, contract: Contract
) -> pl.DataFrame | None:
    """The row that goes on for ``found``, in the contract's types; None when that is no longer possible."""
    if decision["decision"] == "released":
        return _typed(found, contract)[0]
    before, instead, label = json.loads(decision["row"]), json.loads(decision["instead"]), contract.label
    if label is not None and instead.get(label) == before.get(label):
        instead.pop(label, None)
        instead |= {label: row[label]} if label in row else {}
    try:
        return _whole(_table(instead, contract, decision["id"]), contract, decision["id"])
    except DataError:  # the contract has changed since
        return None


def _as_text(rows: pl.DataFrame) -> pl.Expr:
    """Each row but for its reason as JSON text, NaN and infinity (which JSON cannot say) and other types as text."""
    shown = []
    for name, kind in rows.schema.items():
        column = pl.col(name)
        if name == "reason":
            continue
        if kind.is_float():
            odd = pl.when(column.is_finite()).then(None).otherwise(column.cast(pl.String))
            if not rows[name].is_finite().all():
                column = pl.coalesce(odd, column.cast(pl.String)).alias(name)
        elif isinstance(kind, pl.Categorical | pl.Enum | pl.Decimal):
            column = column.cast(pl.String)
        shown.append(column)
    return pl.struct(shown).struct.json_encode().alias("row")
