"""The contract: what a row must be, at every door; a row that breaks it is quarantined with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

from meguri.base.clock import duration, moment, spell
from meguri.base.errors import ContractError
from meguri.data.plain import REPEAT
from meguri.data.spec import Field, Rule, Schema
from meguri.data.value import Value

if TYPE_CHECKING:
    import polars as pl

    from meguri.data import reasons

BOUNDS = ("ge", "gt", "le", "lt", "in_range")  # of a label, which an estimate of it must keep as well
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
    ``value`` says what a right and a wrong answer is worth in money.

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
        value: Value | None = None,
    ) -> None:
        from meguri.data.schema import read

        self._take(
            read(model),
            key=(key,) if isinstance(key, str) else tuple(key),
            time=time,
            label=label,
            label_after=duration(label_after),
            group=group,
            features=None if features is None else tuple(features),
            task=task,
            value=value,
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
        value: Value | None,
    ) -> None:
        self.name = schema.name
        self.key, self.time, self.label, self.label_after, self.group = key, time, label, label_after, group
        self.task: Task = task
        self.value = value
        fields = {field.name: field for field in schema.fields}
        roles = {*key, time, label, group}
        self.features = tuple(name for name in fields if name not in roles) if features is None else features
        self._judge(fields)
        fields[time] = replace(fields[time], type="Datetime")
        if label is not None and task == "binary" and fields[label].is_number:
            zero_one = Rule("isin", {"allowed_values": [0, 1]})
            if not any(rule.name == "isin" for rule in fields[label].checks):
                fields[label] = replace(fields[label], checks=(*fields[label].checks, zero_one))
        for name in (*key, time):
            fields[name] = replace(fields[name], nullable=False)
        self.fields = tuple(fields.values())
        self.strict, self.unique, self.custom = schema.strict, schema.unique, schema.custom

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
        if self.value is not None and not isinstance(self.value, Value):
            raise self._wrong(f"value is {self.value!r}", 'write value=Value("JPY", …), from meguri')
        if self.label is None:
            if self.value is not None:
                raise self._wrong("value says what answers are worth, and there is no label", "name the label, too")
            return
        label = fields[self.label]
        if self.label in (*self.key, self.time, self.group):
            raise self._wrong(f"label='{self.label}' has another part already", "a label is a column of its own")
        if self.label in self.features:
            raise self._wrong(f"the label '{self.label}' is among the features", "take it out of features=[…]")
        if label.default is not None:
            raise self._wrong(f"the label '{self.label}' has a default", "take it away: an unknown label is awaited")
        if self.task == "regression" and not label.is_number:
            raise self._wrong(f"the label '{self.label}' is {label.type}, and the task is regression", "use a number")
        if self.value is not None:
            allowed = next((rule.args["allowed_values"] for rule in label.checks if rule.name == "isin"), None)
            self.value.fits(self.task, self.label, label.is_number or label.type == "Boolean", allowed)

    def _wrong(self, what: str, fix: str) -> ContractError:
        return ContractError(what, where=f"contract {self.name}", fix=fix)

    @property
    def score(self) -> Field:
        """What a prediction's score must be: a probability, or an estimate within the bounds of the label's column."""
        rules: tuple[Rule, ...] = (Rule("in_range", {"min_value": 0, "max_value": 1}),)
        if self.task != "regression":
            return Field("score", "Float64", checks=rules)
        label = None if self.label is None else self.labels()
        rules = tuple(rule for rule in label.checks if rule.name in BOUNDS) if label is not None else ()
        return Field("score", "Float64", checks=rules, description=None if label is None else label.description)

    def labels(self) -> Field:
        """The label's column. Raises ContractError when there is none."""
        found = next((field for field in self.fields if field.name == self.label), None)
        if found is None:
            raise self._wrong(f"{self.name} names no label", "give label=…")
        return found

    @property
    def kinds(self) -> dict[str, str]:
        """The type of each column by its name (``spec.KINDS``), in order."""
        return {field.name: field.type for field in self.fields}

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
        import polars as pl

        from meguri.data import reasons
        from meguri.data.table import to_polars

        found = to_polars(table)
        if not found.height:
            raise self.empty()
        rows, masks, late = self.faults(found, now=now, labelled=labelled)
        twice = reasons.key_masks(rows, self.key)
        repeats = twice.get(REPEAT)
        masks |= twice | reasons.unique_masks(rows, self.groups(labelled=labelled), repeats) | late
        as_found = self.as_found(found, rows)
        if not masks:
            return Checked(rows, as_found.clear().with_columns(pl.lit(None, pl.String).alias("reason")))
        bad, why = reasons.words(masks)
        return Checked(rows.filter(~bad), as_found.filter(bad).with_columns(why))

    def faults(
        self, found: pl.DataFrame, *, now: datetime | None, labelled: bool, part: bool = False
    ) -> tuple[pl.DataFrame, reasons.Masks, reasons.Masks]:
        """What is wrong with each row by itself: the rows in the contract's types, and masks of those that are bad.

        The last masks, of labels from the future, are apart, because what a row has in common with others is told before
        them. With ``part=True`` the rows are a part of the table, and a check of all its rows cannot be asked.
        """
        from meguri.data import reasons

        fields = self.asked(labelled=labelled)
        rows, masks = self._fitted(found, fields)
        label = self.label if labelled else None
        masks |= reasons.value_masks(rows, fields, may_be_null=label)
        for custom in self.custom:
            if custom.column is None or custom.column in rows.columns:
                mask = custom.bad(self._whole(rows), part=part)
                masks |= {} if mask is None else {str(custom): mask}
        if now is None or label is None:
            return rows, masks, {}
        early = rows[label].is_not_null() & (rows[self.time] > moment(now)).fill_null(False)
        return rows, masks, {reasons.future(label): early} if early.any() else {}

    def asked(self, *, labelled: bool) -> list[Field]:
        """The fields that a table must have: all, or for a model's answer all but the label.

        Then no feature may be beyond what a model can hold: it would be asked of something infinite, and answer.
        """
        if labelled:
            return list(self.fields)
        seen = set(self.features)
        return [field.held() if field.name in seen else field for field in self.fields if field.name != self.label]

    def groups(self, *, labelled: bool) -> list[tuple[str, ...]]:
        """The groups of columns whose values may come once only; the key is a matter of its own."""
        names = {field.name for field in self.asked(labelled=labelled)}
        single = [(field.name,) for field in self.fields if field.unique]
        return [group for group in [*single, *self.unique] if set(group) <= names and set(group) != set(self.key)]

    @staticmethod
    def as_found(found: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
        """Those columns of the table that are the contract's, as they came."""
        return found.select(name for name in rows.columns if name in found.columns)

    def _fitted(self, found: pl.DataFrame, fields: list[Field]) -> tuple[pl.DataFrame, reasons.Masks]:
        """The contract's columns in their types, and masks of the values that could not be read."""
        import polars as pl

        from meguri.data.fit import RetypedError, fit
        from meguri.data.spec_polars import filler

        wrong, columns, masks = [], [], {}
        extra = [name for name in found.columns if name not in self.types]
        for field in fields:
            if field.name not in found.columns:
                if field.required:
                    wrong.append(self.gone(field.name, extra))
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
                column = column.to_frame().select(pl.col(field.name).fill_null(filler(field))).to_series()
            columns.append(column)
        if self.strict and extra:
            wrong.append(f"{', '.join(map(repr, extra))}: not in the contract, which is strict")
        if wrong:
            raise self.broken(wrong)
        return pl.DataFrame(columns), masks

    @staticmethod
    def gone(name: str, extra: Iterable[str]) -> str:
        """That a column is not there, in words; ``extra`` are those that nobody asked for."""
        close = _nearest(name, extra)
        return f"'{name}' is gone" + (f"; was it renamed to '{close}'?" if close else "")

    def broken(self, wrong: Sequence[str]) -> ContractError:
        """The error of a table whose columns are wrong, with all that is wrong with them."""
        count = f"{len(wrong)} columns are" if len(wrong) > 1 else "a column is"
        what = f"the table breaks the contract {self.name}: {count} wrong"
        fix = "correct the source (repository/data_manager.py), or change the contract (repository/schema.py)"
        return ContractError(what, where="\n         ".join(wrong), fix=fix)

    def empty(self) -> ContractError:
        """The error of a table without rows."""
        return self._wrong("the table has no rows", "look at the source, and at the time that was asked for")

    def _whole(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows, with nulls for a label that was left out: checks of the whole table may name it."""
        import polars as pl

        gone = [pl.lit(None, kind).alias(name) for name, kind in self.types.items() if name not in rows.columns]
        return rows.with_columns(gone)

    def key_of(self, table: pl.DataFrame) -> pl.Series:
        """The key of each row as text: several columns joined by "|", times as ISO 8601 in UTC."""
        import polars as pl

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
            "strict": self.strict,
            "unique": [list(names) for names in self.unique],
            "fields": [field.to_dict() for field in self.fields],
            "custom": [str(custom) for custom in self.custom],
            **({} if self.value is None else {"value": self.value.to_spec()}),
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
            contract._take(
                Schema(spec["name"], fields, unique, spec["strict"]),
                key=tuple(spec["key"]),
                time=spec["time"],
                label=spec["label"],
                label_after=duration(spec["label_after"]),
                group=spec["group"],
                features=tuple(spec["features"]),
                task=spec["task"],
                value=Value(**spec["value"]) if spec.get("value") else None,
            )
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
