"""Between polars frames and the columns of a ledger's database: ids as 16 bytes, moments as microseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import polars as pl

from meguri.base.errors import LedgerError
from meguri.record.ledger import Label, Prediction
from meguri.record.ledger_sql import PIECE

ORIGIN = ("release", "run", "outlet", "arm", "propensity")  # what thousands of predictions share
UTC = pl.Datetime("us", "UTC")
_TEXT, _NUMBER, _MOMENT, _FLAG = pl.String(), pl.Float64(), pl.Int64(), pl.Boolean()
_OPTIONAL = {"run": _TEXT, "arm": _TEXT, "propensity": _NUMBER, "score": _NUMBER, "answer": _TEXT, "features": _TEXT}
_OPTIONAL |= {"unit": _TEXT, "abstained": _FLAG}
_FOUND = {"id": pl.Binary(), "key": _TEXT, "time": _MOMENT, "due": _MOMENT, "made_at": _MOMENT, "origin": pl.Int64()}
_FOUND |= {"score": _NUMBER, "answer": _TEXT, "unit": _TEXT, "abstained": _MOMENT, "features": _TEXT}
_FOUND |= {"label": _NUMBER, "label_at": _MOMENT, "source": _TEXT}


def predictions(table: pl.DataFrame) -> pl.DataFrame:
    """Columns id (16 bytes), key, time, due, made_at (microseconds), release, outlet, and those that may be left out."""
    _need(table, "prediction_id", "key", "time", "due", "made_at", "release", "outlet")
    return pl.DataFrame(
        [
            _blobs(table["prediction_id"]),
            _cast(_filled(table["key"]), _TEXT),
            *(_micros(table[name]) for name in ("time", "due", "made_at")),
            *(_cast(_filled(table[name]), _TEXT) for name in ("release", "outlet")),
            *(
                _cast(table[name], kind) if name in table.columns else pl.repeat(None, table.height, dtype=kind, eager=True).alias(name)
                for name, kind in _OPTIONAL.items()
            ),
        ]
    )  # fmt: skip


def numbered(table: pl.DataFrame, number: Callable[[tuple[Any, ...]], int]) -> pl.DataFrame:
    """The table with the column origin: what ``number`` gives for each combination of ``ORIGIN`` in it."""
    shared = table.select(ORIGIN).unique(maintain_order=True)
    origin = pl.Series("origin", [number(row) for row in shared.iter_rows()], dtype=pl.Int64)
    return table.join(shared.with_columns(origin), on=ORIGIN, how="left", nulls_equal=True, maintain_order="left")


def labels(table: pl.DataFrame) -> list[Label]:
    """The labels of a frame with the columns prediction_id or else key, value, known_at (moments) and source."""
    by = "prediction_id" if "prediction_id" in table.columns else "key"
    _need(table, by, "value", "known_at", "source")
    value = table["value"]
    number = value.dtype.is_numeric() or value.dtype == pl.Boolean
    known_at = _micros(table["known_at"]).cast(UTC)
    names, sources = (_cast(_filled(table[name]), _TEXT) for name in (by, "source"))
    given = rows([_cast(value, _NUMBER if number else _TEXT), known_at, sources, names])
    if by == "key":
        return [Label(value, at, source, name) for value, at, source, name in given]
    return [Label(value, at, source, None, name) for value, at, source, name in given]


def table(found: Sequence[Prediction]) -> pl.DataFrame:
    """The frame of what ``find`` and ``queue`` gave; columns as ``joined`` has them."""
    kinds: dict[str, pl.DataType] = dict.fromkeys(("time", "due", "made_at", "label_at"), UTC)
    kinds |= {"propensity": _NUMBER, "score": _NUMBER, "abstained": _FLAG}
    columns = {name: [getattr(row, name) for row in found] for name in Prediction._fields}
    text = any(isinstance(label, str) for label in columns["label"])
    label = _spelled(columns["label"]) if text else pl.Series(values=columns["label"], dtype=_NUMBER)
    return pl.DataFrame(
        [
            label.alias(name) if name == "label" else pl.Series(name, values, dtype=kinds.get(name, _TEXT))
            for name, values in columns.items()
        ]
    )


def rows(columns: Iterable[pl.Series]) -> Iterator[tuple[Any, ...]]:
    """The rows of columns, as a database takes them."""
    return zip(*(column.to_list() for column in columns), strict=True)


def joined(cursor: Iterator[Any], origins: Sequence[tuple[Any, ...]], *, features: bool) -> pl.DataFrame:
    """The frame that ``Ledger.joined`` gives.

    The cursor yields id, key, time, due, made_at, origin, score, answer, unit, abstained, features (if wanted), label,
    label_at, source: a row for each label, the latest last. ``origins`` are n, counting from 1, and ``ORIGIN``.
    """
    schema = {name: kind for name, kind in _FOUND.items() if features or name != "features"}
    found = _frame(cursor, schema)
    repeated = (found["id"] == found["id"].shift(-1)).fill_null(False)
    if repeated.any():
        found = found.filter(~repeated)
    digits = pl.col("id").bin.encode("hex").str
    parts = (digits.slice(start, length) for start, length in ((0, 8), (8, 4), (12, 4), (16, 4), (20, 12)))
    kinds = {"n": _MOMENT, **dict.fromkeys(ORIGIN, _TEXT), "propensity": _NUMBER}
    shared = pl.DataFrame(origins, schema=kinds, orient="row")
    return found.select(
        pl.format("{}-{}-{}-{}-{}", *parts).alias("prediction_id"),
        "key",
        pl.col("time", "due", "made_at").cast(UTC),
        *(shared[name].gather(found["origin"] - 1) for name in ORIGIN),
        "score",
        "answer",
        "unit",
        pl.col("abstained").cast(_FLAG),
        *(["features"] if features else []),
        "label",
        pl.col("label_at").cast(UTC),
        "source",
    )


def _frame(cursor: Iterator[Any], schema: dict[str, Any]) -> pl.DataFrame:
    pieces: dict[str, list[pl.Series]] = {name: [pl.Series(dtype=kind)] for name, kind in schema.items()}
    # One flat list for each piece: the tuple of a row dies at once, which costs half of what keeping it does.
    while cells := list(chain.from_iterable(islice(cursor, PIECE))):
        for place, (name, kind) in enumerate(schema.items()):
            values = cells[place :: len(schema)]
            try:
                pieces[name].append(pl.Series(values=values, dtype=kind))
            except TypeError:  # only a label may be a number here and a text there
                pieces[name].append(_spelled(values))
    if any(piece.dtype == _TEXT for piece in pieces["label"]):
        pieces["label"] = [piece if piece.dtype == _TEXT else _spelled(piece) for piece in pieces["label"]]
    return pl.DataFrame([pl.concat(series).alias(name) for name, series in pieces.items()])


def _spelled(values: Iterable[Any]) -> pl.Series:
    """Labels as text; 3.0 is spelled 3, as a person writes it."""
    whole = (int(value) if isinstance(value, float) and value.is_integer() else value for value in values)
    return pl.Series(values=[None if value is None else str(value) for value in whole], dtype=_TEXT)


def _need(table: pl.DataFrame, *names: str) -> None:
    for name in names:
        if name not in table.columns:
            raise LedgerError(f"the table has no column '{name}'", where=f"columns {table.columns}", fix="add it")


def _filled(column: pl.Series) -> pl.Series:
    if column.null_count():
        row = column.is_null().arg_max()
        raise LedgerError(f"the column '{column.name}' is empty in row {row}", fix="fill it in every row")
    return column


def _cast(column: pl.Series, kind: pl.DataType) -> pl.Series:
    try:
        if not column.dtype.is_nested():
            return column.cast(kind)
        reason = None
    except pl.exceptions.PolarsError as error:
        reason = error
    what = f"the column '{column.name}' holds {column.dtype}, which is no {kind}"
    raise LedgerError(what, where=reason, fix="convert it before it is written") from reason


def _blobs(ids: pl.Series) -> pl.Series:
    raw = _cast(_filled(ids), _TEXT).str.replace_all("-", "", literal=True).str.decode("hex", strict=False)
    bad = (raw.bin.size() != 16).fill_null(True)
    if bad.any():
        raise LedgerError(f"'{ids.filter(bad)[0]}' is no prediction id", fix="take the ids that release.predict gives")
    return raw.alias("id")


def _micros(column: pl.Series) -> pl.Series:
    if not isinstance(column.dtype, (pl.Datetime, pl.Date)):
        what = f"the column '{column.name}' holds {column.dtype}, no moments"
        raise LedgerError(what, fix="make it a Datetime in UTC")
    return _filled(column).dt.epoch("us")
