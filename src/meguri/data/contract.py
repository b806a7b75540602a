"""The contract: what a row must be, at every door; a row that breaks it is quarantined with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any, Literal

import polars as pl

from meguri.base.clock import duration, moment, spell
from meguri.base.errors import ContractError
from meguri.data import reasons
from meguri.data.fit import RetypedError, fit
from meguri.data.schema import Custom, Schema, read
from meguri.data.spec import Field, Rule
from meguri.data.table import to_polars

Task = Literal["binary", "multiclass", "regression"]


@dataclass(frozen=True)
class Checked:
    """A checked table: the good ``rows``, and the ``quarantined`` ones as they came, with the column ``reason``."""

    rows: pl.DataFrame
    quarantined: pl.DataFrame


class Contract:
    """What a row must be: a pandera model, and the part that each column plays.

    ``key`` names a row, ``time`` is when it is known, ``label`` is what is predicted and may be expected
    ``label_after`` its time, ``group`` holds rows that belong together. ``features`` are by default all other columns.

    Columns keep the model's types, with times in UTC (microseconds) and categories as text. NaN is read as null.
    Raises ContractError when a name is wrong or a part of the model has no meaning here.
    """

    def __init__(
        self,
        model: Any,
        *,
        key: str | Sequence[str],
        time: str,
        label: str | None = None,
        label_after: str | timedelta = timedelta(0),
        group: str | None = None,
        features: Sequence[str] | None = None,
        task: Task = "binary",
    ) -> None:
        self._take(
            read(model),
            key=(key,) if isinstance(key, str) else tuple(key),
            time=time,
            label=label,
            label_after=duration(label_after),
            group=group,
            features=None if features is None else tuple(features),
            task=task,
        )

    def _take(
        self,
        schema: Schema,
        *,
        key: tuple[str, ...],
        time: str,
        label: str | None,
        label_after: timedelta,
        group: str | None,
        features: tuple[str, ...] | None,
        task: Task,
    ) -> None:
        self.name = schema.name
        self.key, self.time, self.label, self.label_after, self.group = key, time, label, label_after, group
        self.task: Task = task
        fields = {field.name: field for field in schema.fields}
        roles = {*key, time, label, group}
        self.features = tuple(name for name in fields if name not in roles) if features is None else features
        self._judge(fields)
        fields[time] = replace(fields[time], type="Datetime")
        if label is not None and task == "binary" and fields[label].dtype.is_numeric():
            zero_one = Rule("isin", {"allowed_values": [0, 1]})
            if not any(rule.name == "isin" for rule in fields[label].checks):
                fields[label] = replace(fields[label], checks=(*fields[label].checks, zero_one))
        for name in (*key, time):
            fields[name] = replace(fields[name], nullable=False)
        self.fields = tuple(fields.values())
        self._strict, self._unique, self._custom = schema.strict, schema.unique, schema.custom

    def _judge(self, fields: dict[str, Field]) -> None:
        """Refuse names and types that cannot play their part."""
        parts = [("time", self.time), ("label", self.label), ("group", self.group)]
        lists = [("key", name) for name in self.key] + [("features", name) for name in self.features]
        for part, name in [*parts, *lists]:
            if name is not None and name not in fields:
                what = f"{part}='{name}', and {self.name} has no column of that name"
                close = _nearest(name, fields)
                raise self._wrong(what, f"did you mean '{close}'?" if close else f"it has {', '.join(fields)}")
        if not self.key:
            raise self._wrong("a contract needs a key", "name the columns that tell one row from another")
        for part, names in (("key", self.key), ("features", self.features)):
            if len(set(names)) < len(names):
                raise self._wrong(f"{part} names a column twice: {', '.join(names)}", "name each once")
        if not self.features:
            raise self._wrong("there is no feature left", "name some in features=[…], or add columns to the model")
        if "reason" in fields:
            raise self._wrong("'reason' is the name that quarantine writes its reasons in", "rename that column")
        if fields[self.time].type not in ("Datetime", "Date"):
            raise self._wrong(f"time='{self.time}' is {fields[self.time].type}", "use a Datetime or a Date")
        floats = [name for name in self.key if fields[name].is_float]
        if floats:
            raise self._wrong(f"key='{floats[0]}' is a float, and floats do not compare well", "use integers or text")
        if self.label is None:
            return
        label = fields[self.label]
        if self.label in (*self.key, self.time, self.group):
            raise self._wrong(f"label='{self.label}' has another part already", "a label is a column of its own")
        if self.label in self.features:
            raise self._wrong(f"the label '{self.label}' is among the features", "take it out of features=[…]")
        if label.default is not None:
            raise self._wrong(f"the label '{self.label}' has a default", "take it away: an unknown label is awaited")
        if self.task == "regression" and not label.dtype.is_numeric():
            raise self._wrong(f"the label '{self.label}' is {label.type}, and the task is regression", "use a number")

    def _wrong(self, what: str, fix: str) -> ContractError:
        return ContractError(what, where=f"contract {self.name}", fix=fix)

    @property
    def types(self) -> dict[str, pl.DataType]:
        """The polars type of each column, in order."""
        return {field.name: field.dtype for field in self.fields}

    def check(self, table: Any, *, now: datetime | None = None, labelled: bool = True) -> Checked:
        """Hold a table (pandas, polars, Arrow) against the contract.

        Columns that the contract does not name are dropped. Rows with a null, infinite or wrong value, with another
        row's key, or with a label from after ``now`` are quarantined; a row whose label is null is kept, for its
        label is awaited. With ``labelled=False`` the label is neither needed nor kept.

        Raises ContractError when the table as a whole is wrong: a column is gone or retyped, or there is no row.
        """
        found = to_polars(table)
        fields = [field for field in self.fields if labelled or field.name != self.label]
        rows, masks = self._fitted(found, fields)
        label = self.label if labelled else None
        masks |= reasons.value_masks(rows, fields, may_be_null=label)
        for custom in self._custom:
            if custom.column is None or custom.column in rows.columns:
                mask = custom.bad(self._whole(rows))
                masks |= {} if mask is None else {str(custom): mask}
        twice = reasons.key_masks(rows, self.key)
        groups = [(field.name,) for field in fields if field.unique] + [
            names for names in self._unique if set(names) <= set(rows.columns)
        ]
        groups = [names for names in groups if set(names) != set(self.key)]
        masks |= twice | reasons.unique_masks(rows, groups, twice.get("duplicated key (the same row again)"))
        if now is not None and label is not None:
            early = rows[label].is_not_null() & (rows[self.time] > moment(now)).fill_null(False)
            masks |= {f"{label}: label from the future": early} if early.any() else {}
        as_found = found.select(name for name in rows.columns if name in found.columns)
        if not masks:
            return Checked(rows, as_found.clear().with_columns(pl.lit(None, pl.String).alias("reason")))
        bad, why = reasons.words(masks)
        return Checked(rows.filter(~bad), as_found.filter(bad).with_columns(why))

    def _fitted(self, found: pl.DataFrame, fields: list[Field]) -> tuple[pl.DataFrame, reasons.Masks]:
        """The contract's columns in their types, and masks of the values that could not be read."""
        if not found.height:
            raise self._wrong("the table has no rows", "look at the source, and at the time that was asked for")
        wrong, columns, masks = [], [], {}
        extra = [name for name in found.columns if name not in self.types]
        for field in fields:
            if field.name not in found.columns:
                if field.required:
                    close = _nearest(field.name, extra)
                    wrong.append(f"'{field.name}' is gone" + (f"; was it renamed to '{close}'?" if close else ""))
                column = pl.repeat(None, found.height, dtype=field.dtype, eager=True).alias(field.name)
            else:
                try:
                    column, unread = fit(found[field.name], field)
                except RetypedError as error:
                    wrong.append(f"'{field.name}': {error}")
                    continue
                if unread is not None:
                    masks[f"{field.name}: cannot be read as {field.type}"] = unread
            if field.default is not None and column.null_count():
                column = column.to_frame().select(pl.col(field.name).fill_null(field.filler())).to_series()
            columns.append(column)
        if self._strict and extra:
            wrong.append(f"{', '.join(map(repr, extra))}: not in the contract, which is strict")
        if wrong:
            count = f"{len(wrong)} columns are" if len(wrong) > 1 else "a column is"
            what = f"the table breaks the contract {self.name}: {count} wrong"
            fix = "correct the source (repository/data_manager.py), or change the contract (repository/schema.py)"
            raise ContractError(what, where="\n         ".join(wrong), fix=fix)
        return pl.DataFrame(columns), masks

    def _whole(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows, with nulls for a label that was left out: checks of the whole table may name it."""
        gone = [pl.lit(None, kind).alias(name) for name, kind in self.types.items() if name not in rows.columns]
        return rows.with_columns(gone)

    def key_of(self, table: pl.DataFrame) -> pl.Series:
        """The key of each row as text: several columns joined by "|", times as ISO 8601 in UTC."""
        parts = []
        for name in self.key:
            column = pl.col(name)
            if isinstance(table.schema[name], pl.Datetime):
                text = column.dt.to_string("%Y-%m-%dT%H:%M:%S%.fZ")
            else:
                text = column.cast(pl.String)
            if len(self.key) > 1 and table.schema[name] == pl.String:  # no two keys may give one text
                text = text.str.replace_all("\\", "\\\\", literal=True).str.replace_all("|", "\\|", literal=True)
            parts.append(text)
        return table.select(pl.concat_str(parts, separator="|").alias("key")).to_series()

    def to_spec(self) -> dict[str, Any]:
        """The contract as JSON values; of checks that are the user's own functions only the names, under ``custom``."""
        return {
            "format": 1,
            "name": self.name,
            "key": list(self.key),
            "time": self.time,
            "label": self.label,
            "label_after": spell(self.label_after),
            "group": self.group,
            "features": list(self.features),
            "task": self.task,
            "strict": self._strict,
            "unique": [list(names) for names in self._unique],
            "fields": [field.to_dict() for field in self.fields],
            "custom": [str(custom) for custom in self._custom],
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> Contract:
        """The contract that ``to_spec`` gave; it checks without pandera. Raises ContractError for anything else."""
        contract = cls.__new__(cls)
        try:
            if spec["format"] != 1:
                raise ValueError(f"format {spec['format']}")
            fields = tuple(Field.from_dict(field) for field in spec["fields"])
            unique = tuple(tuple(names) for names in spec["unique"])
            none: tuple[Custom, ...] = ()
            contract._take(
                Schema(spec["name"], fields, unique, spec["strict"], none),
                key=tuple(spec["key"]),
                time=spec["time"],
                label=spec["label"],
                label_after=duration(spec["label_after"]),
                group=spec["group"],
                features=tuple(spec["features"]),
                task=spec["task"],
            )
            for field in fields:
                field.prove()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"this is no contract that this version of Meguri can read: {error}"
            raise ContractError(what, fix="make the release again, or install the version that made it") from error
        return contract

    def __repr__(self) -> str:
        parts = [f"key={'|'.join(self.key)}", f"time={self.time}"]
        parts += [f"label={self.label} after {spell(self.label_after)}"] if self.label else []
        return f"<Contract {self.name}: {', '.join(parts)}, {len(self.features)} features>"


def _nearest(name: str, names: Iterable[str]) -> str | None:
    return next(iter(get_close_matches(name, list(names), n=1)), None)
