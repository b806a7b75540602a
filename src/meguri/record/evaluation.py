"""An evaluation: the metrics of a model, and its score and label for each row, so that a gate can pair two of them."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from meguri.base.errors import DataError
from meguri.base.files import new_folder, read_json, sha256, write_json
from meguri.data.value import NO, YES, Value
from meguri.record.metrics import METRICS, VALUE, Metric, metrics_of
from meguri.record.stats import Floats

if TYPE_CHECKING:
    from meguri.data.dataset import Part
    from meguri.record.release import Release

__all__ = ["METRICS", "Evaluation", "Metric", "bins", "inputs", "truth"]

BINS = 4
FEW = 8  # a numeric column with no more values than this is sliced by value
OWN = ("key", "time", "group", "label", "score", "answer", "chance")


@dataclass(frozen=True)
class Evaluation:
    """How a model did on rows whose label is known.

    ``rows``: key (text), time, group (text or null), the slice columns (text), label, score, and for multiclass the
    answer and chance, the probability given to the class that came true (null when only the answer's was given). With
    a ``value`` binary rows have the answer, too, and those of a ledger whether it was left to a person (abstained).
    The label, and a binary answer, is a Boolean (binary: was it the positive class), a float (regression) or text
    (multiclass).
    ``metrics`` leaves out what the rows cannot tell, such as the AUC of a single class.
    """

    metrics: dict[str, float]
    rows: pl.DataFrame
    task: str
    slices: tuple[str, ...] = ()
    release: str | None = None
    value: Value | None = None

    @classmethod
    def of(cls, model: Release, part: Part, *, slices: Sequence[str] = ()) -> Evaluation:
        """Predict the rows of ``part`` with ``model`` and score the answers; ``slices`` are columns of its rows.

        Raises DataError when a slice is no column, when a row has no label or gets no answer, or a key comes twice.
        """
        contract, rows = part.contract, part.table
        for name in slices:
            if name not in rows.columns:
                near = difflib.get_close_matches(name, rows.columns, n=1, cutoff=0.5)
                fix = f"did you mean '{near[0]}'?" if near else f"columns: {', '.join(rows.columns)}"
                raise DataError(f"the slice '{name}' is no column of the rows", where="slices", fix=fix)
        if contract.label is None:
            raise DataError("the contract names no label, so nothing can be evaluated", fix="give Contract(label=...)")
        predictions = model.predict(rows, ids=False)
        group = (
            rows[contract.group].cast(pl.String)
            if contract.group
            else pl.repeat(None, len(rows), dtype=pl.String, eager=True)
        )
        known = {
            "key": contract.key_of(rows),
            "time": rows[contract.time],
            "group": group,
            "label": rows[contract.label],
            **{f"slice {name}": bins(rows[name]) for name in slices},
        }
        table = pl.DataFrame([series.alias(name) for name, series in known.items()])
        classes = model.manifest.get("classes")
        return cls.scored(
            table, predictions.table, task=contract.task, classes=classes, release=model.id, value=contract.value
        )

    @classmethod
    def scored(
        cls,
        known: pl.DataFrame,
        answers: pl.DataFrame,
        *,
        task: str,
        classes: Sequence[object] | None = None,
        release: str | None = None,
        value: Value | None = None,
    ) -> Evaluation:
        """Join ``known`` (key, time, label, optionally group and "slice <name>" columns) to ``answers`` (key, score, …)."""
        _once(known, "the rows")
        _once(answers, "the predictions")
        extra = [name for name in ("answer", "probabilities") if name in answers.columns]
        table = known.join(answers.select("key", "score", *extra), on="key", how="left", maintain_order="left")
        lost = table.filter(pl.col("score").is_null() | pl.col("score").is_nan())
        if len(lost):
            raise DataError(
                f"{len(lost)} of {len(table)} rows got no answer, the first is '{lost['key'][0]}'",
                fix="look at the quarantined rows of model.predict(part.rows) for the reason",
            )
        if table["label"].null_count():
            first = table.filter(pl.col("label").is_null())["key"][0]
            raise DataError(
                f"{table['label'].null_count()} rows have no label, the first is '{first}'", fix="drop them first"
            )
        columns: list[pl.Expr | pl.Series] = [
            pl.col("key").cast(pl.String),
            pl.col("time"),
            (pl.col("group") if "group" in table.columns else pl.lit(None)).cast(pl.String).alias("group"),
            truth(table["label"], task, classes).alias("label"),
            pl.col("score").cast(pl.Float64),
        ]
        if value is not None and task == "binary" and "answer" in table.columns:
            value.codes(
                pl.Series([str(c) for c in classes or () if str(c).lower() not in (*YES, *NO)], dtype=pl.String)
            )
            columns.append(truth(table["answer"], task, classes).alias("answer"))
        if value is not None and "abstained" in table.columns:
            columns.append(pl.col("abstained").fill_null(value=False))
        if task == "multiclass":
            if "answer" not in table.columns:
                raise DataError("multiclass predictions need the column 'answer'", fix="give the class as text")
            columns += [pl.col("answer").cast(pl.String), _chance(table).alias("chance")]
        cut = [name for name in table.columns if name.startswith("slice ")]
        rows = table.select(*columns, *[pl.col(name).cast(pl.String) for name in cut])
        named = tuple(name.removeprefix("slice ") for name in cut)
        return cls(figures(rows, task, value), rows, task, named, release, value)

    @classmethod
    def live(
        cls, joined: pl.DataFrame, *, task: str, classes: Sequence[object] | None = None, value: Value | None = None
    ) -> Evaluation:
        """From a ledger's ``joined`` table: the predictions whose label came; the prediction id is the key."""
        came = joined.filter(pl.col("label").is_not_null() & pl.col("score").is_not_null())
        asked = ["abstained"] if "abstained" in came.columns else []
        known = came.select(pl.col("prediction_id").alias("key"), "time", "label", *asked)
        answers = came.select(pl.col("prediction_id").alias("key"), "score", "answer")
        return cls.scored(known, answers, task=task, classes=classes, value=value)

    @property
    def version(self) -> str:
        """A name for the test rows, the same for the same keys: 16 hexadecimal digits."""
        digest = hashlib.sha256("\n".join(self.rows["key"].sort()).encode())
        return digest.hexdigest()[:16]

    def later_than(self, moment: datetime) -> Evaluation:
        """The same evaluation on the rows whose time is after ``moment``."""
        rows = self.rows.filter(pl.col("time") > moment)
        return replace(self, rows=rows, metrics=figures(rows, self.task, self.value))

    def save(self, folder: Path) -> None:
        """Write the rows (Parquet) and the metrics (JSON) as a new folder, whole or not at all."""
        with new_folder(folder) as draft:
            self.rows.write_parquet(draft / "rows.parquet")
            about = {"task": self.task, "slices": self.slices, "release": self.release, "metrics": self.metrics}
            about |= {} if self.value is None else {"value": self.value.to_spec()}
            write_json(draft / "evaluation.json", {**about, "rows_sha256": sha256(draft / "rows.parquet")})

    @classmethod
    def load(cls, folder: Path) -> Evaluation:
        """Read what ``save`` wrote; DataError when a file is missing, changed or broken."""
        fix = "run the evaluate job again"
        try:
            about = read_json(folder / "evaluation.json")
            if sha256(folder / "rows.parquet") != about["rows_sha256"]:
                raise DataError("the rows of the evaluation are not those that were saved", where=folder, fix=fix)
            rows = pl.read_parquet(folder / "rows.parquet")
            value = Value(**about["value"]) if about.get("value") else None
            return cls(about["metrics"], rows, about["task"], tuple(about["slices"]), about["release"], value)
        except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"the evaluation cannot be read: {error}", where=folder, fix=fix) from error

    def by(self, name: str) -> pl.DataFrame:
        """The metrics within each value of a slice: columns ``name``, rows, and one for each metric."""
        column = f"slice {name}"
        if name not in self.slices:
            raise DataError(f"the evaluation has no slice '{name}'", fix=f"slices: {', '.join(self.slices) or 'none'}")
        parts = self.rows.sort(column).partition_by(column, maintain_order=True)
        return pl.DataFrame([{name: p[column][0], "rows": len(p), **figures(p, self.task, self.value)} for p in parts])


def _once(table: pl.DataFrame, what: str) -> None:
    doubled = table["key"].is_duplicated()
    if doubled.any():
        raise DataError(f"a key comes twice in {what}: '{table['key'].filter(doubled)[0]}'", fix="make the key unique")


def inputs(rows: pl.DataFrame, task: str, metric: str, value: Value | None = None) -> tuple[Floats, Floats] | None:
    """Labels and scores in the form that the metric takes, float arrays of shape (n,); None when the rows lack them.

    Multiclass accuracy asks whether the answer came true, its Brier score is that of the answer alone (top label),
    and log loss needs the probability of the class that came true. Of ``value`` see ``Value.earned``.
    """
    if metric == VALUE and value is not None:
        return _worth(rows, task, value)
    if task != "multiclass":
        return rows["label"].cast(pl.Float64).to_numpy(), rows["score"].to_numpy()
    hit = (rows["label"] == rows["answer"]).cast(pl.Float64).to_numpy()
    if metric == "accuracy":
        return hit, np.ones(len(rows))
    if metric == "log_loss":
        return None if rows["chance"].null_count() else (np.ones(len(rows)), rows["chance"].to_numpy())
    return hit, rows["score"].to_numpy()


def _worth(rows: pl.DataFrame, task: str, value: Value) -> tuple[Floats, Floats]:
    """What came true and what was answered, by codes of classes or as numbers; not a number: left to a person."""
    if task == "multiclass":
        y, s = value.codes(rows["label"]), value.codes(rows["answer"])
    else:
        likely = pl.col("score") >= 0.5
        answered = pl.coalesce("answer", likely) if "answer" in rows.columns else likely
        y = rows["label"].cast(pl.Float64).to_numpy()
        s = rows.select(answered if task == "binary" else "score").to_series().cast(pl.Float64).to_numpy()
    if value.abstained is not None and "abstained" in rows.columns:
        s = np.where(rows["abstained"].to_numpy(), np.nan, s)
    return y, s


def figures(rows: pl.DataFrame, task: str, value: Value | None = None) -> dict[str, float]:
    """Every metric of the task that the rows can tell."""
    found = {}
    for name, metric in metrics_of(value).items():
        given = inputs(rows, task, name, value) if task in metric.tasks and len(rows) else None
        figure = metric.value(*given) if given is not None else math.nan
        if math.isfinite(figure):
            found[name] = figure
    return found


def truth(label: pl.Series, task: str, classes: Sequence[object] | None = None) -> pl.Series:
    """Labels as a Boolean (binary), a float (regression) or text (multiclass), from any form they are kept in.

    ``classes`` are the two classes of a binary model, the positive one last; needed for labels such as "spam".
    """
    try:
        if task == "regression":
            return label.cast(pl.Float64)
        if task == "multiclass":
            whole = label.dtype.is_float() and (label == label.round()).all()
            return label.cast(pl.Int64).cast(pl.String) if whole else label.cast(pl.String)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"a label is no number: {error}", fix="a regression label is a number") from error
    if label.dtype == pl.Boolean:
        return label
    text = label.cast(pl.String)
    if classes is not None and len(classes) == 2 and text.is_in([str(c) for c in classes]).all():
        return text == str(classes[1])
    small = text.str.to_lowercase()
    if small.is_in([*YES, *NO]).all():
        return small.is_in(YES)
    seen = ", ".join(sorted(text.unique().to_list())[:5])
    raise DataError(f"which of these labels is the positive one: {seen}?", fix="keep a binary label as true and false")


def bins(column: pl.Series) -> pl.Series:
    """A column as text to slice by: numbers with many values in quarters, cut at the quantiles of these very rows."""
    if not column.dtype.is_numeric() or column.n_unique() <= FEW:
        return column.cast(pl.String).fill_null("none")
    values = column.cast(pl.Float64).to_numpy()
    here = values[np.isfinite(values)]
    edges = np.unique(np.quantile(here, np.arange(1, BINS) / BINS)) if len(here) else np.zeros(0)
    shown = [f"{edge:.6g}" for edge in edges]
    ends = zip(["", *shown], [*shown, ""], strict=True)
    names = [
        f"from {low} to {high}" if low and high else f"below {high}" if high else f"from {low}" for low, high in ends
    ]
    place = np.searchsorted(edges, values, "right")
    return pl.Series(
        column.name,
        [names[i] if ok else "none" for i, ok in zip(place, np.isfinite(values), strict=True)],
        dtype=pl.String,
    )


def _chance(table: pl.DataFrame) -> pl.Series:
    """The probability of the class that came true, from the optional JSON column ``probabilities`` (class -> share)."""
    if "probabilities" not in table.columns:
        return pl.repeat(None, len(table), dtype=pl.Float64, eager=True)
    pairs = zip(table["label"].cast(pl.String), table["probabilities"], strict=True)
    return pl.Series(
        [None if text is None else float(json.loads(text).get(label, 0.0)) for label, text in pairs], dtype=pl.Float64
    )
