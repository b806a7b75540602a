"""A suggested contract: what the columns of a table look like, and guesses at the part each plays, for a person to edit."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import polars as pl

from meguri.base.errors import DataError
from meguri.data.draft import Draft
from meguri.data.reasons import duplicated
from meguri.data.spec import Field, Rule
from meguri.data.spec_polars import TYPES
from meguri.data.statistics import Column, Profile, profile
from meguri.data.table import to_polars

CLOSED = 20  # values of a closed list at most, each seen EACH times on average
EACH = 10
MARGIN = 0.1  # of the range, on either side
MOST_KEYS = 4
_LABELS = (
    "label",
    "target",
    "y",
    "class",
    "outcome",
    "churn",
    "churned",
    "default",
    "fraud",
    "is_fraud",
    "converted",
    "late",
)
_TIMES = re.compile(r"(^|_)(at|time|timestamp|datetime|moment|date|ts|when)($|_)|_at$")
_KEYS = re.compile(r"(^|_)(id|key|uuid|guid|no|number)$", re.IGNORECASE)
_FORMS = {r"^[A-Z]{%d}$": "capitals", r"^[0-9]{%d}$": "digits", r"^[0-9A-Z]{%d}$": "capitals and digits"}


def suggest(
    table: Any,
    name: str = "row",
    *,
    key: Sequence[str] = (),
    time: str | None = None,
    label: str | None = None,
) -> Draft:
    """A draft contract of a table (any that ``to_polars`` takes), which accepts the table's rows as they are.

    Rows that no contract accepts are told of in a remark: infinite values, and rows whose key comes again. ``key``, ``time``
    and ``label`` are guessed where they are not given. Raises DataError when nothing can be the time or a feature.
    """
    rows = to_polars(table)
    if not rows.height:
        raise DataError("there are no rows to look at", where=name, fix="give a table with rows")
    for given in [*key, *([time] if time else []), *([label] if label else [])]:
        if given not in rows.columns:
            raise DataError(f"there is no column '{given}'", where=name, fix=f"it has {', '.join(rows.columns)}")
    found = profile(rows)
    fields, remarks, out = _fields(rows, found)
    top = [
        f"A draft from {rows.height:,} rows: what is written here is what was seen, with a margin of {MARGIN:.0%} on ranges."
    ]
    top += [f"Left out: {text}." for text in out]
    known = {one.name: one for one in fields}
    time = _time(found, known, remarks) if time is None else time
    label = _label(found, known, time, key, remarks) if label is None else label
    key = _key(rows, found, known, label, remarks) if not key else tuple(key)
    fields = [_ready(one, key, time, label) for one in fields]
    if not {*known} - {*key, time, label}:
        raise DataError(
            "no column is left to be a feature", where=name, fix="add columns, or name the key: --key COLUMN"
        )
    task = _task(found.columns[label]) if label is not None else "binary"
    return Draft(name, tuple(fields), tuple(key), time, label, "0s", None, task, None, remarks, tuple(top))


def _fields(rows: pl.DataFrame, found: Profile) -> tuple[list[Field], dict[str, str], list[str]]:
    fields, remarks, out = [], dict[str, str](), []
    for name, column in found.columns.items():
        kind = _type(rows.schema[name])
        if kind is None or name == "reason":
            why = "that is quarantine's own column" if name == "reason" else f"a contract has no {column.type}"
            out.append(f"{name}, as {why}")
            continue
        checks, said = _checks(rows[name], column, kind)
        said += [f"{column.infinite:,} infinite values will be quarantined"] if column.infinite else []
        if isinstance(rows.schema[name], pl.Datetime) and rows.schema[name].time_zone is None:  # type: ignore[attr-defined]
            said.append("without a zone: read as UTC")
        nullable = column.nulls + column.nan > 0
        if nullable:
            said.append(f"missing in {column.missing:.2%} of the rows" if column.missing < 1 else "never there so far")
        fields.append(Field(name, kind, nullable=nullable, checks=tuple(checks)))
        if said:
            remarks[name] = "; ".join(said)
    return fields, remarks, out


def _type(dtype: pl.DataType) -> str | None:
    if isinstance(dtype, pl.Datetime):
        return "Datetime"
    if isinstance(dtype, pl.Categorical | pl.Enum):
        return "String"
    if isinstance(dtype, pl.Decimal):
        return "Float64"
    return "String" if dtype == pl.Null else next((name for name, kind in TYPES.items() if kind == dtype), None)


def _checks(values: pl.Series, column: Column, kind: str) -> tuple[list[Rule], list[str]]:
    """What holds for all values that are there, and a remark where it is a guess."""
    distinct = column.distinct or 0
    if column.kind == "number" and column.min is not None:
        if kind != "Float64" and (column.min, column.max) == (0, 1):
            return [Rule("isin", {"allowed_values": [0, 1]})], []
        low, high = limits(column.min, column.max, whole="Int" in kind)
        if "Int" in kind:
            low, high = max(low, _end(kind, "lower_bound")), min(high, _end(kind, "upper_bound"))
        checks = [Rule("ge", {"min_value": low})] if math.isfinite(low) else []
        checks += [Rule("le", {"max_value": high})] if math.isfinite(high) else []
        return checks, [f"seen {_short(column.min)} to {_short(column.max)}"]
    if column.kind != "text" or not distinct:
        return [], []
    there = values.drop_nulls().cast(pl.String)
    if distinct <= CLOSED and column.rows - column.nulls >= EACH * distinct:
        return [Rule("isin", {"allowed_values": sorted(there.unique().to_list())})], [
            "a closed list? a new value will be quarantined"
        ]
    lengths = column.lengths or {"min": 0, "max": 0}
    if lengths["min"] == lengths["max"] <= 12 and there.len() >= EACH:
        for form, words in _FORMS.items():
            pattern = form % int(lengths["max"])
            if there.str.contains(pattern).all():
                return [Rule("str_matches", {"pattern": pattern})], [
                    f"{distinct:,} values, all of {int(lengths['max'])} {words}"
                ]
    args = {"min_value": 1} if lengths["min"] else {}
    most = max(2 * int(lengths["max"]), 1)
    return [Rule("str_length", {**args, "max_value": most})], [
        f"{distinct:,} values of {int(lengths['min'])} to {int(lengths['max'])} characters"
    ]


def limits(low: float, high: float, *, whole: bool) -> tuple[Any, Any]:
    """The range with a margin on either side, rounded outwards to a tenth of its size; what is never negative stays so."""
    if whole:
        span = max(high - low, abs(high) // 10, 1)
        step = 10 ** max(len(str(int(span))) - 2, 0)
        below, above = low - (span + 9) // 10, high + (span + 9) // 10
        return (max(below // step * step, 0) if low >= 0 else below // step * step), -(-above // step) * step
    span = max(high - low, abs(high), abs(low)) if high == low else high - low
    span = span if 0 < span < math.inf else 1.0 if not span else math.inf
    if not math.isfinite(span):
        return -math.inf, math.inf
    step = 10.0 ** math.floor(math.log10(span) - 1)
    below, above = _round(low - MARGIN * span, step, math.floor), _round(high + MARGIN * span, step, math.ceil)
    below = min(below, low) if low < 0 else max(min(below, low), 0.0)
    return below, max(above, high)


def _round(value: float, step: float, to: Any) -> float:
    try:
        return float(f"{to(value / step) * step:.12g}")
    except (OverflowError, ValueError, ZeroDivisionError):
        return value


def _short(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _time(found: Profile, known: dict[str, Field], remarks: dict[str, str]) -> str:
    times = [c for name, c in found.columns.items() if name in known and c.kind == "time" and not c.nulls and c.rows]
    if not times:
        fix = "name one without gaps (--time COLUMN), or write the times as dates or date-times"
        raise DataError("a contract needs a time, and no column without gaps holds one", fix=fix)
    likely = [column for column in times if _TIMES.search(column.name.lower())] or times
    chosen = max(likely, key=lambda column: (column.type != "Date", column.distinct or 0))
    others = [column.name for column in times if column.name != chosen.name]
    also = f"; or is it {' or '.join(others[:3])}?" if others else ""
    remarks["time="] = f"a guess: when a row is known{also}"
    return chosen.name


def _label(
    found: Profile, known: dict[str, Field], time: str, key: Sequence[str], remarks: dict[str, str]
) -> str | None:
    able = [name for name in known if name != time and name not in key and found.columns[name].kind != "time"]
    named = sorted((name for name in able if name.lower() in _LABELS), key=lambda name: _LABELS.index(name.lower()))
    if named and len(able) > 1:
        remarks["label="] = "a guess by its name: what is to be predicted"
        remarks["label_after="] = "how long after its time is the label known? (36h, 14d …)"
        return named[0]
    two = [name for name in able if found.columns[name].kind == "boolean" or found.columns[name].distinct == 2]
    like = f", such as {' or '.join(two[:3])}" if two else ""
    remarks["label="] = f"unsure: no column is called like one; name what is to be predicted{like}"
    return None


def _key(
    rows: pl.DataFrame, found: Profile, known: dict[str, Field], label: str | None, remarks: dict[str, str]
) -> tuple[str, ...]:
    """One column that tells rows apart, else the fewest that do together, sought greedily."""
    able = [
        n for n, one in known.items() if n != label and not one.is_float and one.type != "Boolean" and not one.nullable
    ]
    if not able:
        raise DataError("no column without gaps can be a key", fix="name the key: --key COLUMN")
    size = {name: found.columns[name].distinct or 0 for name in able}
    able.sort(key=lambda name: (_KEYS.search(name) is None, known[name].type in ("Datetime", "Date"), -size[name]))
    for name in able:
        if size[name] >= rows.height * 0.99 and not duplicated(rows.select(name)).any():
            remarks["key="] = "no two rows share it"
            return (name,)
    chosen = [max(able, key=lambda name: size[name])]
    while len(chosen) < MOST_KEYS and len(chosen) < len(able) and duplicated(rows.select(chosen)).any():
        left = [name for name in able if name not in chosen]
        chosen.append(max(left, key=lambda name: rows.select(*chosen, name).hash_rows().n_unique()))
    for name in [*chosen]:
        without = [other for other in chosen if other != name]
        if without and not duplicated(rows.select(without)).any():
            chosen = without
    twice = int(duplicated(rows.select(chosen)).sum())
    said = (
        f"unsure: {twice:,} rows share theirs with another and will be quarantined"
        if twice
        else "a guess: no two rows share it"
    )
    remarks["key="] = said
    return tuple(name for name in rows.columns if name in chosen)


def _ready(one: Field, key: Sequence[str], time: str, label: str | None) -> Field:
    """A label may be awaited; a key and the time never are."""
    if one.name == label:
        return Field(one.name, one.type, nullable=True, checks=one.checks)
    return Field(one.name, one.type, checks=one.checks) if one.name in (*key, time) else one


def _task(label: Column) -> str:
    if label.kind == "boolean" or (label.kind == "number" and (label.min, label.max) == (0, 1) and label.distinct == 2):
        return "binary"
    return "regression" if label.kind == "number" else "multiclass"


def _end(kind: str, which: str) -> int:
    return int(pl.select(getattr(pl.lit(0, TYPES[kind]), which)()).item())
